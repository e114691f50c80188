//! Defines the sentences of explain: which condition is not met, and what decides between targets.

use std::fmt::{Display, Write as _};

use crate::exchange::ClientAddress;
use crate::snapshot::contest::ContestReason;
use crate::snapshot::target::{DecidedBy, Odds};
use crate::snapshot::{Report, RequestView, Route};
use crate::spec::condition::{Searched, Unmet, cookie_values, query_values};
use crate::spec::matching::{MAX_SUBJECT_BYTES, PathMatch, ValueMatch};
use crate::spec::name::Name;
use crate::spec::route::{Access, HostPolicy, Redirect, Steps, Sticky};
use crate::spec::secret::{is_credential, is_credential_name};

/// How much of a request a regular expression searches.
pub(super) const SEARCHED: &str = "8 KiB";
const _: () = assert!(MAX_SUBJECT_BYTES == 8 << 10);

/// Texts of a list that a sentence shows.
const MOST: usize = 5;

/// The condition that a request does not meet. Values of the request are not repeated: they may be secrets.
pub(super) fn unmet(unmet: Unmet<'_>, request: &RequestView<'_>) -> String {
    match unmet {
        Unmet::Host(hosts) if request.host.is_empty() => format!("there is no host, and it wants {}", list(hosts)),
        Unmet::Host(hosts) => format!("host `{}` is not {}", request.host, list(hosts)),
        Unmet::Path(PathMatch::Prefix(prefix)) => format!("path `{}` is not under `{prefix}`", request.path),
        Unmet::Path(PathMatch::Start(text)) => format!("path `{}` does not begin with `{text}`", request.path),
        Unmet::Path(PathMatch::Exact(path)) => format!("path `{}` is not exactly `{path}`", request.path),
        Unmet::Path(PathMatch::Regex(pattern)) => {
            format!("path `{}` does not match the whole of `{}`", request.path, pattern.source())
        }
        Unmet::Method(methods) => format!("method `{}` is not {}", request.method, list(methods)),
        Unmet::Listener(listeners) => format!("listener `{}` is not {}", request.listener, list(listeners)),
        Unmet::Header(name, wanted) => {
            value(&format!("header `{name}`"), wanted, is_credential(name), request.headers.contains_key(name))
        }
        Unmet::Query(name, wanted) => value(
            &format!("query `{name}`"),
            wanted,
            is_credential_name(name),
            query_values(request.query, name).next().is_some(),
        ),
        Unmet::Cookie(name, wanted) => {
            value(&format!("cookie `{name}`"), wanted, true, cookie_values(request.headers, name).next().is_some())
        }
        Unmet::Unknown(what) => {
            let what = match what {
                Searched::Path => "the path".to_owned(),
                Searched::Header(name) => format!("header `{name}`"),
                Searched::Query(name) => format!("query `{name}`"),
                Searched::Cookie(name) => format!("cookie `{name}`"),
            };
            format!("nobody knows whether it matches: {what} is longer than the {SEARCHED} that an expression searches")
        }
    }
}

/// What a target does with a request beyond forwarding it, in this order.
pub(super) fn steps(steps: &Steps) -> Vec<String> {
    let access = match &steps.access {
        Access::Anybody => None,
        Access::Only(networks) => Some(format!("takes clients from {} alone", list(networks))),
        Access::Except(networks) => Some(format!("takes no clients from {}", list(networks))),
    };
    let host = match &steps.host {
        HostPolicy::Kept => None,
        HostPolicy::Endpoint => Some("sends the endpoint's address as Host".to_owned()),
        HostPolicy::Fixed(host) => Some(format!("sends Host `{}`", String::from_utf8_lossy(host.as_bytes()))),
    };
    let strip = steps.strip_prefix.as_ref().map(|prefix| format!("strips `{}`", prefix.as_str()));
    let prepend = steps.prepend.as_ref().map(|prefix| format!("prepends `{prefix}`"));
    [access, steps.redirect.as_ref().map(redirect), strip, prepend, host].into_iter().flatten().collect()
}

/// Why a route goes before those that match the same.
pub(super) fn won(name: &Name, report: &Report) -> &'static str {
    let won = report.contests.iter().find(|contest| contest.by == *name && contest.is_of_equals());
    match won.map(|contest| contest.reason) {
        None | Some(ContestReason::Covered | ContestReason::Overlapped) => "",
        Some(ContestReason::FirstClaim) => ", and of equal routes it is the first claim",
        Some(ContestReason::OldestInstance) => {
            ", and of equal routes its service has the oldest instance, while claims are not shared"
        }
        Some(ContestReason::NoInstance) => ", and the one that would go first has no registered instance",
        Some(ContestReason::Critical) => ", and all instances of the one that would go first are critical",
    }
}

/// Why a route whose conditions hold goes behind the one that is taken.
pub(super) fn behind(name: &Name, by: Option<&Name>, report: &Report) -> String {
    let lost = report.contests.iter().find(|contest| contest.route == *name && by == Some(&contest.by));
    match lost {
        Some(contest) => format!("its conditions hold: {}", contest.of_route()),
        None => "its conditions hold, but the route taken goes before it".to_owned(),
    }
}

/// Where a redirect leads.
pub(super) fn redirect(redirect: &Redirect) -> String {
    format!("redirects to `{}{}`", redirect.origin, redirect.path)
}

/// What decides between a route's targets.
pub(super) fn decided(route: &Route, odds: &Odds, client: Option<ClientAddress>) -> String {
    match (odds.by, route.sticky()) {
        (DecidedBy::Condition(index), _) => format!("the condition of {}", route.targets[index].label),
        (DecidedBy::Nobody(index, _), _) => {
            format!("nobody: whether the condition of {} holds is not known", route.targets[index].label)
        }
        (DecidedBy::Key, Some(sticky)) => format!("the client's key, its {}", of(sticky)),
        (DecidedBy::Weight, Some(Sticky::ClientIp)) => match client {
            None => "weights, as long as the client's address is not given, which the route is sticky by",
            Some(_) => "weights: a trusted proxy does not tell the client's address, which the route is sticky by",
        }
        .to_owned(),
        (DecidedBy::Weight, Some(Sticky::Cookie(name))) => {
            format!("weights: without the cookie `{name}` a client gets a new one, and keeps its side from then on")
        }
        (DecidedBy::Weight, Some(sticky)) => format!("weights: the request has no {}", of(sticky)),
        (DecidedBy::Key | DecidedBy::Weight, None) => "weights".to_owned(),
    }
}

fn of(sticky: &Sticky) -> String {
    match sticky {
        Sticky::Header(name) => format!("header `{name}`"),
        Sticky::Cookie(name) => format!("cookie `{name}`"),
        Sticky::ClientIp => "address".to_owned(),
    }
}

fn value(what: &str, wanted: &ValueMatch, is_secret: bool, present: bool) -> String {
    match wanted {
        ValueMatch::Exact(_) | ValueMatch::Regex(_) if is_secret && present => {
            format!("{what} is another than the one wanted")
        }
        ValueMatch::Exact(_) | ValueMatch::Regex(_) if is_secret => format!("{what} is absent"),
        ValueMatch::Present(false) => format!("{what} is there, and must not be"),
        ValueMatch::Present(true) => format!("{what} is absent"),
        ValueMatch::Exact(text) if present => format!("{what} is not `{text}`"),
        ValueMatch::Regex(pattern) if present => format!("{what} does not match `{}`", pattern.source()),
        ValueMatch::Exact(text) => format!("{what} is absent, and must be `{text}`"),
        ValueMatch::Regex(pattern) => format!("{what} is absent, and must match `{}`", pattern.source()),
    }
}

/// `a`, `a or b`, `a, b, c, d, e or 7 others`.
fn list(items: &[impl Display]) -> String {
    let mut text = String::new();
    for (position, item) in items.iter().take(MOST).enumerate() {
        let last = position + 1 == items.len();
        let separator = match position {
            0 => "",
            _ if last => " or ",
            _ => ", ",
        };
        // Writing to a text does not fail.
        let _ = write!(text, "{separator}`{item}`");
    }
    if items.len() > MOST {
        let _ = write!(text, " or {} others", items.len() - MOST);
    }
    text
}
