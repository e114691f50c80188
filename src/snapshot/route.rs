//! Defines a route as it is served: its conditions, and its targets resolved to upstreams.

use std::sync::Arc;
use std::time::Duration;

use super::middleware::NamedMiddleware;
use crate::exchange::ProxyError;
use crate::spec::matching::MatchSpec;
use crate::spec::name::{Name, ProviderId};
use crate::spec::route::{Choice, RouteSpec, Sticky, TargetSpec};

/// A route with its references resolved.
#[derive(Debug)]
pub struct Route {
    /// Its name.
    pub name: Name,
    /// The name as metrics and logs hold it.
    pub label: Arc<str>,
    /// Who defined it.
    pub provider: ProviderId,
    /// What was asked for.
    pub spec: Arc<RouteSpec>,
    /// In the order written.
    pub targets: Vec<Target>,
    /// The steps around its exchanges, in the order written.
    pub middlewares: Vec<Arc<NamedMiddleware>>,
    /// Whether everything it names exists.
    pub state: RouteState,
}

impl Route {
    /// Its conditions.
    pub fn matching(&self) -> &MatchSpec {
        &self.spec.matching
    }

    /// Lets requests pass to the targets.
    ///
    /// # Errors
    /// What a client gets of a route that refers to something absent or broken.
    #[inline]
    pub fn open(&self) -> Result<(), ProxyError> {
        match &self.state {
            RouteState::Resolved | RouteState::Kept(_) => Ok(()),
            RouteState::Unresolved(_) => Err(ProxyError::Unresolved),
        }
    }

    /// How a client keeps its side of a split.
    pub fn sticky(&self) -> Option<&Sticky> {
        self.spec.sticky.as_ref()
    }

    /// For the whole exchange.
    pub fn timeout(&self) -> Option<Duration> {
        self.spec.timeout
    }
}

/// Whether a route can be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteState {
    /// All it names exists.
    Resolved,
    /// Something that its present document names does not exist; this is the last form that resolved. Says what, for people.
    Kept(Vec<String>),
    /// Something it names does not: every request gets 503 `NC`. Says what, for people.
    Unresolved(Vec<String>),
}

impl RouteState {
    /// Whether requests pass to the targets.
    pub fn is_served(&self) -> bool {
        match self {
            Self::Resolved | Self::Kept(_) => true,
            Self::Unresolved(_) => false,
        }
    }

    /// What does not exist, for people.
    pub fn reasons(&self) -> &[String] {
        match self {
            Self::Resolved => &[],
            Self::Kept(reasons) | Self::Unresolved(reasons) => reasons,
        }
    }
}

/// A possible destination, resolved.
#[derive(Debug)]
pub struct Target {
    /// What was asked for.
    pub spec: TargetSpec,
    /// As metrics and logs show it.
    pub label: Arc<str>,
    /// The upstream's slot; meaningless in a route that is not resolved.
    pub slot: usize,
    /// The subset's position among its upstream's subsets by name, plus one; 0 is the whole upstream.
    pub subset: usize,
    /// Fixed hash of route and target, for sticky draws.
    pub seed: u64,
    /// The steps around its exchanges, inside those of the route.
    pub middlewares: Vec<Arc<NamedMiddleware>>,
}

impl Target {
    /// Its share; 0 for one taken by a condition.
    pub fn weight(&self) -> u32 {
        match &self.spec.choice {
            Choice::When(_) => 0,
            Choice::Weight(weight) => *weight,
        }
    }

    /// Whether there are requests that it gets.
    pub fn may_get_traffic(&self) -> bool {
        match &self.spec.choice {
            Choice::When(_) => true,
            Choice::Weight(weight) => *weight > 0,
        }
    }
}
