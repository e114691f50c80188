//! Defines what people have to know about what they wrote: bad, shadowed and dangling items.

use serde::Serialize;

use crate::spec::name::{Name, ProviderId};
use crate::spec::problem::Problem;

/// Everything worth telling about the documents and registrations behind a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Bad documents and entries, by provider. An item with a last good form is still served in it.
    pub rejected: Vec<(ProviderId, Problem)>,
    /// What is served though its registry does not list it, and why, by provider.
    pub held: Vec<(ProviderId, Problem)>,
    /// Items that another provider's item of the same name hides.
    pub shadowed: Vec<Shadowed>,
    /// Two registrations of one address, and whatever else is only worth a remark.
    pub remarks: Vec<Problem>,
    /// Document providers in use whose first complete read is still out; readiness waits for them.
    pub unread: Vec<ProviderId>,
}

/// An item hidden by a provider of higher precedence; `NAME@PROVIDER` still reaches it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shadowed {
    /// `routes` or `upstreams`.
    pub kind: &'static str,
    /// Its name.
    pub name: Name,
    /// Who defines the hidden one.
    pub provider: ProviderId,
    /// Who wins.
    pub by: ProviderId,
}
