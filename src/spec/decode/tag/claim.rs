//! Defines what a registration may claim, and the bounds that an operator sets to that.

use std::collections::BTreeSet;

use crate::spec::decode::condition::{parse_host, parse_prefix};
use crate::spec::matching::{HostMatch, MatchSpec, PathMatch};

/// What registrations may claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Hosts; `None`: any, but then they yield to documents of the same host.
    hosts: Option<Vec<HostMatch>>,
    /// Any host, and none: `*` is among the hosts.
    any_host: bool,
    /// Paths, each with all below it, without a slash at the end; `None`: any.
    paths: Option<Vec<String>>,
}

impl Bounds {
    /// Adds a host that may be claimed: `api.example.com`, `*.example.com`, or `*` for every host and for none.
    ///
    /// # Errors
    /// What is not a host.
    pub fn add_host(&mut self, text: &str) -> Result<(), String> {
        let hosts = self.hosts.get_or_insert_default();
        if text == "*" {
            self.any_host = true;
        } else {
            hosts.push(parse_host(text)?);
        }
        Ok(())
    }

    /// Adds a path that may be claimed, with all below it.
    ///
    /// # Errors
    /// What is not a path.
    pub fn add_path(&mut self, text: &str) -> Result<(), String> {
        self.paths.get_or_insert_default().push(parse_prefix(text)?);
        Ok(())
    }

    /// Whether routes of registrations go behind those of documents of the same host.
    pub(super) fn yields(&self) -> bool {
        self.hosts.is_none()
    }

    /// Whether a route may ask for this host.
    pub(super) fn allows(&self, host: &HostMatch) -> bool {
        let hosts = self.hosts.as_ref().filter(|_| !self.any_host);
        hosts.is_none_or(|allowed| allowed.iter().any(|allowed| covers(allowed, host)))
    }

    /// The paths below which all are that a route may ask for.
    pub(super) fn widest_paths(&self) -> BTreeSet<String> {
        self.paths.iter().flatten().cloned().chain(self.paths.is_none().then(String::new)).collect()
    }

    /// Whether a route may ask for this; the reason otherwise.
    pub(super) fn check(&self, matching: &MatchSpec) -> Result<(), String> {
        if self.hosts.is_some() && !self.any_host && matching.hosts.is_empty() {
            return Err("claims every host, and `discovery.consul.tag_hosts` does not allow that: name a host".into());
        }
        if let Some(host) = matching.hosts.iter().find(|host| !self.allows(host)) {
            return Err(format!("claims the host `{host}`, which `discovery.consul.tag_hosts` does not allow"));
        }
        let Some(allowed) = &self.paths else { return Ok(()) };
        let below = |bound: &str, text: &str, whole: bool| {
            text.strip_prefix(bound).is_some_and(|rest| rest.starts_with('/') || rest.is_empty() && whole)
        };
        let (claimed, fits) = match &matching.path {
            PathMatch::Prefix(path) => (path.as_str(), allowed.iter().any(|bound| below(bound, path, true))),
            // `/a` as text takes `/ab`, too, which is not below `/a`.
            PathMatch::Start(path) => {
                (path.as_str(), allowed.iter().any(|bound| bound.is_empty() || below(bound, path, false)))
            }
            PathMatch::Exact(path) => (path.as_str(), allowed.iter().any(|bound| below(bound, path, true))),
            PathMatch::Regex(pattern) => (pattern.source(), false),
        };
        if fits {
            return Ok(());
        }
        let hint = if matches!(matching.path, PathMatch::Start(_)) && !claimed.ends_with('/') {
            format!(" (`{claimed}/` may be: `{claimed}` takes every path that begins so)")
        } else {
            String::new()
        };
        let claimed = if claimed.is_empty() { "/" } else { claimed };
        Err(format!("claims the path `{claimed}`, which `discovery.consul.tag_paths` does not allow{hint}"))
    }
}

fn covers(allowed: &HostMatch, claimed: &HostMatch) -> bool {
    match (allowed, claimed) {
        (_, HostMatch::Exact(host)) => allowed.fits(host),
        (HostMatch::Wildcard(suffix), HostMatch::Wildcard(other)) => suffix == other || allowed.fits(other),
        (HostMatch::Exact(_), HostMatch::Wildcard(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::matching::Conditions;

    fn claim(host: &str, path: PathMatch) -> MatchSpec {
        let hosts = if host.is_empty() { Vec::new() } else { vec![parse_host(host).expect("a host")] };
        MatchSpec { hosts, path, methods: Vec::new(), conditions: Conditions::default() }
    }

    #[test]
    fn hosts_and_paths_beyond_the_bounds_are_refused() {
        let mut bounds = Bounds::default();
        for host in ["*.example.com", "one.org"] {
            bounds.add_host(host).expect("a host");
        }
        bounds.add_path("/api/").expect("a path");
        let prefix = |path: &str| PathMatch::Prefix(path.to_owned());
        let start = |path: &str| PathMatch::Start(path.to_owned());
        for (host, path, fits) in [
            ("a.example.com", prefix("/api"), true),
            ("*.b.example.com", prefix("/api/x"), true),
            ("*.example.com", prefix("/api"), true),
            ("one.org", start("/api/"), true),
            ("one.org", start("/api"), false),
            ("one.org", start("/apix"), false),
            ("one.org", prefix("/apix"), false),
            ("one.org", prefix(""), false),
            ("example.com", prefix("/api"), false),
            ("two.org", prefix("/api"), false),
            ("*.org", prefix("/api"), false),
            ("*.one.org", prefix("/api"), false),
            ("", prefix("/api"), false),
        ] {
            let told = bounds.check(&claim(host, path.clone()));
            assert_eq!(told.is_ok(), fits, "{host} {path:?}: {told:?}");
        }
        bounds.add_host("*").expect("every host");
        assert_eq!(bounds.check(&claim("", prefix("/api"))), Ok(()));
        assert_eq!(Bounds::default().check(&claim("", prefix(""))), Ok(()));
        assert!(Bounds::default().yields() && !bounds.yields());
    }
}
