//! Defines what a document provider holds: items by name, each with its last good form and its problem.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::certificate::CertificateSpec;
use super::name::Name;
use super::problem::Problem;
use super::route::RouteSpec;
use super::upstream::UpstreamSpec;

/// The kinds of documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `routes`
    Route,
    /// `upstreams`
    Upstream,
    /// `certificates`
    Certificate,
}

impl Kind {
    /// Every kind, in the order lists show them.
    pub const ALL: [Self; 3] = [Self::Route, Self::Upstream, Self::Certificate];

    /// The section's and the folder's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Route => "routes",
            Self::Upstream => "upstreams",
            Self::Certificate => "certificates",
        }
    }
}

/// One named item of a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item<T> {
    /// Its newest valid form; `None` when there never was one.
    pub good: Option<Arc<T>>,
    /// What is wrong with its present text; `None` when `good` is its present form.
    pub problems: Vec<Problem>,
    /// Where it lies: `file.toml:12:1`, `consul-kv:fleetgate/routes/users`, `etcd:/fleetgate/routes/users`.
    pub place: Arc<str>,
}

/// All documents of a provider.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Documents {
    /// Routes by name.
    pub routes: BTreeMap<Name, Item<RouteSpec>>,
    /// Upstreams by name.
    pub upstreams: BTreeMap<Name, Item<UpstreamSpec>>,
    /// Certificates by name.
    pub certificates: BTreeMap<Name, Item<CertificateSpec>>,
    /// Problems that belong to no item: an unknown kind, a bad name, a second key for one name.
    pub rejected: Vec<Problem>,
}
