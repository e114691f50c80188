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
    /// Document providers in use whose first complete read is still out. The gateway stays closed until then.
    pub unread: Vec<ProviderId>,
    /// Items that may protect a route and cannot be read, found at a start: they keep the gateway closed until they are
    /// mended, deleted or accepted. Empty from the moment the gateway opened.
    pub closing: Vec<(ProviderId, Problem)>,
}

impl Report {
    /// Whether something that may protect a route is still unknown: a gateway that served now could serve it openly.
    pub fn closes(&self) -> bool {
        !self.unread.is_empty() || !self.closing.is_empty()
    }

    /// What keeps the gateway closed, a line each.
    pub fn closed_by(&self) -> impl Iterator<Item = String> {
        let unread = self.unread.iter().map(|provider| format!("{provider} has not been read yet"));
        unread.chain(self.closing.iter().map(|(provider, problem)| format!("{provider}: {problem}")))
    }
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
