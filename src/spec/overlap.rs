//! How far the requests that one condition matches are matched by another, as far as that can be told without a request.

use super::matching::{HostMatch, MatchSpec, PathMatch};

/// How much of what one condition matches another matches, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Overlap {
    /// Nothing.
    None,
    /// Some of it, or perhaps some: of expressions and values nothing is known before a request.
    Some,
    /// All of it.
    All,
}

impl MatchSpec {
    /// How much of what `self` matches `other` matches, too.
    pub fn overlap(&self, other: &Self) -> Overlap {
        let hosts = match (self.hosts.as_slice(), other.hosts.as_slice()) {
            (_, []) => Overlap::All,
            ([], _) => Overlap::Some,
            (own, others) => {
                let best = |own: &HostMatch| others.iter().map(|other| own.overlap(other)).max();
                let each: Vec<Overlap> = own.iter().filter_map(best).collect();
                match each.iter().min() {
                    Some(Overlap::All) => Overlap::All,
                    _ if each.iter().any(|overlap| *overlap > Overlap::None) => Overlap::Some,
                    _ => Overlap::None,
                }
            }
        };
        let methods = match (self.methods.as_slice(), other.methods.as_slice()) {
            (_, []) => Overlap::All,
            ([], _) => Overlap::Some,
            (own, others) if own.iter().all(|method| others.contains(method)) => Overlap::All,
            (own, others) if own.iter().any(|method| others.contains(method)) => Overlap::Some,
            _ => Overlap::None,
        };
        let conditions = if other.conditions.is_empty() || self.conditions == other.conditions {
            Overlap::All
        } else {
            Overlap::Some
        };
        hosts.min(self.path.overlap(&other.path)).min(methods).min(conditions)
    }
}

impl HostMatch {
    /// How many of the hosts that `self` means `other` means, too.
    pub fn overlap(&self, other: &Self) -> Overlap {
        match (self, other) {
            (Self::Exact(host), other) if other.fits(host) => Overlap::All,
            (Self::Wildcard(suffix), Self::Wildcard(others)) if suffix == others || other.fits(suffix) => Overlap::All,
            (Self::Wildcard(_), Self::Exact(host) | Self::Wildcard(host)) if self.fits(host) => Overlap::Some,
            _ => Overlap::None,
        }
    }
}

impl PathMatch {
    /// How many of the paths that `self` matches `other` matches, too.
    pub fn overlap(&self, other: &Self) -> Overlap {
        // `/a/b` and `/a` are below the prefix `/a`, `/ab` is not.
        let below = |prefix: &str, path: &str| {
            path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let one_of = |all: bool, some: bool| match (all, some) {
            (true, _) => Overlap::All,
            (false, true) => Overlap::Some,
            (false, false) => Overlap::None,
        };
        match (self, other) {
            (_, Self::Prefix(prefix)) if prefix.is_empty() => Overlap::All,
            (own, other) if own == other => Overlap::All,
            (Self::Exact(path), Self::Regex(pattern)) => one_of(pattern.is_match(path.as_bytes()), false),
            (Self::Exact(path), Self::Prefix(prefix)) => one_of(below(prefix, path), false),
            (Self::Exact(path), Self::Start(text)) => one_of(path.starts_with(text.as_str()), false),
            (Self::Prefix(own), Self::Prefix(prefix)) => one_of(below(prefix, own), below(own, prefix)),
            // `/ab` begins with `/a`, and is not below it.
            (Self::Start(own), Self::Prefix(prefix)) => {
                let all = own.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.starts_with('/'));
                one_of(all, all || prefix.starts_with(own.as_str()))
            }
            (Self::Prefix(own), Self::Start(text)) => one_of(own.starts_with(text.as_str()), below(own, text)),
            (Self::Start(own), Self::Start(text)) => {
                one_of(own.starts_with(text.as_str()), text.starts_with(own.as_str()))
            }
            (Self::Prefix(own), Self::Exact(path)) => one_of(false, below(own, path)),
            (Self::Start(own), Self::Exact(path)) => one_of(false, path.starts_with(own.as_str())),
            (Self::Exact(_), Self::Exact(_)) => Overlap::None,
            (Self::Regex(_), _) | (_, Self::Regex(_)) => Overlap::Some,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::matching::Pattern;

    fn path(text: &str) -> PathMatch {
        match (text.split_at(1), text) {
            (("=", exact), _) => PathMatch::Exact(exact.to_owned()),
            (("^", start), _) => PathMatch::Start(start.to_owned()),
            (("~", regex), _) => PathMatch::Regex(Pattern::whole(regex, Default::default()).expect("a pattern")),
            (_, prefix) => PathMatch::Prefix(prefix.trim_end_matches('/').to_owned()),
        }
    }

    #[test]
    fn hosts_overlap_as_they_are_matched() {
        for (own, other, wanted) in [
            ("a.com", "a.com", Overlap::All),
            ("x.a.com", "*.a.com", Overlap::All),
            ("y.x.a.com", "*.a.com", Overlap::All),
            ("a.com", "*.a.com", Overlap::None),
            ("*.x.a.com", "*.a.com", Overlap::All),
            ("*.a.com", "*.a.com", Overlap::All),
            ("*.a.com", "*.x.a.com", Overlap::Some),
            ("*.a.com", "x.a.com", Overlap::Some),
            ("*.a.com", "b.com", Overlap::None),
            ("a.com", "b.com", Overlap::None),
        ] {
            let host = |text: &str| match text.strip_prefix("*.") {
                Some(suffix) => HostMatch::Wildcard(suffix.to_owned()),
                None => HostMatch::Exact(text.to_owned()),
            };
            assert_eq!(host(own).overlap(&host(other)), wanted, "{own} {other}");
        }
    }

    #[test]
    fn paths_overlap_as_they_are_matched() {
        for (own, other, wanted) in [
            ("/nh", "/nh", Overlap::All),
            ("/nh/x", "/nh", Overlap::All),
            ("/nhx", "/nh", Overlap::None),
            ("/", "/nh", Overlap::Some),
            ("/nh", "/", Overlap::All),
            ("^/nh", "/nh", Overlap::Some),
            ("^/nh/", "/nh", Overlap::All),
            ("^/n", "/nh", Overlap::Some),
            ("^/nhx", "/nh", Overlap::None),
            ("/nh/x", "^/nh", Overlap::All),
            ("/nh", "^/nh/x", Overlap::Some),
            ("/nh", "=/nh/x", Overlap::Some),
            ("/nh", "=/x", Overlap::None),
            ("^/nh", "=/nhx", Overlap::Some),
            ("=/nh/x", "/nh", Overlap::All),
            ("=/nh", "~/[a-z]+", Overlap::All),
            ("/nh", "~/[a-z]+", Overlap::Some),
            ("~/[a-z]+", "/nh", Overlap::Some),
        ] {
            assert_eq!(path(own).overlap(&path(other)), wanted, "{own} {other}");
        }
    }
}
