//! Defines the middlewares as they are served, and which of them an exchange passes: those of its listener, then those
//! of its route.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::Snapshot;
use crate::exchange::ProxyError;
use crate::middleware::{Middleware, Trouble};
use crate::spec::middleware::MiddlewareSpec;
use crate::spec::name::{Name, ProviderId};

/// A middleware under its name.
#[derive(Debug)]
pub struct NamedMiddleware {
    /// `NAME`, or `NAME@PROVIDER` where another provider's won the name.
    pub label: Arc<str>,
    /// Who defines it.
    pub provider: ProviderId,
    /// What was asked for.
    pub spec: Arc<MiddlewareSpec>,
    /// What does it.
    pub middleware: Arc<dyn Middleware>,
}

impl NamedMiddleware {
    /// What is wrong with it now, in a snapshot.
    pub fn trouble(&self, snapshot: &Snapshot) -> Option<Trouble> {
        if let MiddlewareSpec::ForwardAuth(spec) = &*self.spec
            && !snapshot.upstreams().any(|upstream| *upstream.label == *spec.upstream.as_str())
        {
            return Some(Trouble { text: format!("there is no upstream `{}`", spec.upstream), refuses: true });
        }
        self.middleware.trouble()
    }
}

/// All middlewares, and who has which.
#[derive(Debug, Default)]
pub struct Middlewares {
    /// In the order of their labels.
    pub all: BTreeMap<Arc<str>, Arc<NamedMiddleware>>,
    /// Those of listeners that have some.
    pub listeners: BTreeMap<Name, Result<Vec<Arc<NamedMiddleware>>, Vec<String>>>,
}

impl Middlewares {
    /// Those of a listener.
    ///
    /// # Errors
    /// What every client of a listener gets that names what is not there, and why, for people.
    pub fn of_listener(&self, listener: &Name) -> Result<&[Arc<NamedMiddleware>], (ProxyError, &[String])> {
        match self.listeners.get(listener) {
            None => Ok(&[]),
            Some(Ok(list)) => Ok(list),
            Some(Err(reasons)) => Err((ProxyError::Unresolved, reasons)),
        }
    }
}

/// Where an exchange has a middleware from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Its listener.
    Listener,
    /// Its route.
    Route,
}

/// What becomes of a middleware that an exchange has.
#[derive(Clone, Copy, Debug)]
pub enum Fate<'m> {
    /// It takes part.
    Runs,
    /// It stands in the list of the listener already.
    IsThere,
    /// The route has another one of a type of which there is one at most.
    Replaced(&'m NamedMiddleware),
}

/// The middlewares of an exchange in the order in which a request passes them, and those that are left out.
pub fn chain<'m>(
    listener: &'m [Arc<NamedMiddleware>],
    route: &'m [Arc<NamedMiddleware>],
) -> impl Iterator<Item = (&'m Arc<NamedMiddleware>, Origin, Fate<'m>)> {
    let of_listener = listener.iter().map(|one| {
        let other = route.iter().find(|other| one.spec.is_single() && other.spec.kind() == one.spec.kind());
        let fate = match other {
            Some(other) if other.label != one.label => Fate::Replaced(other),
            Some(_) | None => Fate::Runs,
        };
        (one, Origin::Listener, fate)
    });
    let of_route = route.iter().map(|one| {
        let is_there = listener.iter().any(|other| other.label == one.label);
        (one, Origin::Route, if is_there { Fate::IsThere } else { Fate::Runs })
    });
    of_listener.chain(of_route)
}

/// A middleware of a list, before it is made.
#[derive(Clone, Debug)]
pub struct Step<'m> {
    /// Its name, as it is served.
    pub label: Arc<str>,
    /// What was asked for.
    pub spec: &'m MiddlewareSpec,
}

/// What is wrong with the list of a target: what its route has around it already.
pub fn unfit(of_target: &[Step<'_>], of_route: &[Step<'_>], target: &str) -> Vec<String> {
    let reason = |Step { label, spec }: &Step<'_>| {
        let kind = spec.kind();
        if of_route.iter().any(|other| other.label == *label) {
            Some(format!("target `{target}` names `{label}`, which the route has already"))
        } else if spec.is_single() {
            Some(format!("target `{target}` names `{label}`: a `{kind}` stands at a route or a listener"))
        } else {
            None
        }
    };
    of_target.iter().filter_map(reason).collect()
}

/// What is wrong with a list: two of a type of which there is one at most.
pub fn conflicts(list: &[Step<'_>]) -> Vec<String> {
    let mut found = Vec::new();
    for (position, one) in list.iter().enumerate().filter(|(_, one)| one.spec.is_single()) {
        if let Some(other) = list[..position].iter().find(|other| other.spec.kind() == one.spec.kind()) {
            let kind = one.spec.kind();
            found.push(format!(
                "`{}` and `{}` are both `{kind}`, of which there is one at most",
                other.label, one.label
            ));
        }
    }
    found
}
