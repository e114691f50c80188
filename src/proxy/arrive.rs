//! Defines how a request comes in: the gate, its route, and where it goes from there.

use std::rc::Rc;

use http::{HeaderValue, Request, Response, header};
use hyper::body::Incoming;

use super::carrier::Carrier;
use super::forward::{Aim, Destination, Fallback};
use super::frame::Frame;
use super::headers::{self, Noted};
use super::local::{Chain, LocalRoute, LocalSnapshot};
use super::outbound::Added;
use super::steps;
use crate::exchange::forwarded::Sender;
use crate::exchange::header::X_FORWARDED_FOR;
use crate::exchange::{Body, ProxyError, preflight, target};
use crate::snapshot::RequestView;
use crate::snapshot::gate::{self, Passed};
use crate::snapshot::target::{draw, sticky_key};
use crate::spec::route::{HostPolicy, Sticky};

/// What becomes of a request that passed the gate.
pub(super) enum Arrival {
    /// It needs no endpoint.
    Answered(Response<Body<Carrier>>),
    /// It goes to an endpoint.
    Aimed(Aimed, Line),
    /// It passes middlewares first.
    Stepped(Rc<Chain>, Arrived),
}

/// What endpoints get of a request's first line and its Host.
pub(super) struct Line {
    /// The `Host` to forward, where it is not the one that came.
    pub(super) host: Option<HeaderValue>,
    /// The path, where it did not come in normal form.
    pub(super) path: Option<String>,
    pub(super) added: Added,
}

/// A request whose middlewares are still to come.
pub(super) struct Arrived {
    /// Its host, as matching sees it.
    pub(super) host: Rc<str>,
    pub(super) added: Added,
    pub(super) onward: Onward,
    /// It is a preflight for a route that need not take OPTIONS: middlewares answer it, and no endpoint gets it.
    pub(super) is_preflight: bool,
}

/// Where a request goes behind its middlewares.
pub(super) enum Onward {
    /// To one of the route's targets; else what the client gets of the gateway.
    Unaimed(Result<Rc<LocalRoute>, ProxyError>),
    /// To a target that is drawn.
    Aimed(Aimed),
}

/// A request whose target is drawn.
pub(super) struct Aimed {
    pub(super) route: Rc<LocalRoute>,
    pub(super) target: usize,
    pub(super) destination: Destination,
    /// For a client that has no side of the split yet.
    pub(super) set_cookie: Option<HeaderValue>,
}

/// Lets a request in: gate, route, and the target where no middleware has a say in that. `noted` has less, where the client
/// said what it may not say.
pub(super) fn arrive(
    frame: &mut Frame,
    request: &mut Request<Incoming>,
    noted: &mut Noted,
) -> Result<Arrival, ProxyError> {
    let (worker, connection) = (Rc::clone(&frame.worker), Rc::clone(&frame.connection));
    let listener = &connection.listener.settings;
    let Sender { client, is_secure } = connection.peer.sender(request.headers(), *noted, &listener.trusted_proxies);
    (frame.client, frame.is_secure) = (client, is_secure);
    if let Some(peer) = client.unknown_behind() {
        let line = request.headers().get_all(X_FORWARDED_FOR).iter().next_back();
        let line = line.map_or(&[][..], HeaderValue::as_bytes);
        worker.stats.unreadable.note(peer, &connection.listener.name, line);
    }
    *noted = connection.peer.settle_claims(request.headers_mut(), *noted);
    let noted = *noted;
    let mut added = Added::default();
    frame.request_id = Some(headers::request_id(request.headers_mut(), noted, &mut added, || worker.random()));
    let passed = gate::check(request, noted.has(Noted::FRAMING), listener).map_err(|(error, reason)| {
        tracing::debug!(listener = %connection.listener.name, client = %frame.client, "refused a request: {reason}");
        error
    })?;
    if let Some(redirect) = &listener.redirect_to_https
        && !frame.is_secure
    {
        let location = passed.https_location(request, redirect)?;
        return steps::to_https(frame, redirect, location).map(Arrival::Answered);
    }

    let local = worker.local();
    if local.is_closed {
        return Err(ProxyError::NotReady);
    }
    let view = passed.view(request, &connection.listener.name);
    let taken = match preflight::asked_method(request.method(), request.headers()) {
        None => local.table().take(&view).map(|position| (position, false)),
        Some(asked) => local.take_preflight(&view, &asked),
    };
    let is_preflight = taken.is_ok_and(|(_, is_preflight)| is_preflight);
    let route = taken.map(|(position, _)| local.route(position, &worker.stats));
    let chain = local.chain(route.as_ref().ok(), &connection.listener.name)?;
    if let Ok(route) = &route {
        frame.route = Some(Rc::clone(route));
        route.route.open()?;
    }
    if headers::goes_in_circles(request.headers(), noted) {
        let route = route.as_ref().map_or("", |route| &*route.route.label);
        tracing::debug!(route, "a request goes in a circle: a route leads back to the gateway");
        return Err(ProxyError::Loop);
    }
    let (chain, onward) = match (chain, route) {
        (Some(chain), route) => (chain, Onward::Unaimed(route)),
        (None, route) => {
            let route = route?;
            let aimed = aim(frame, &local, route, &view)?;
            match aimed.route.chain_of(aimed.target) {
                Some(chain) => (Rc::clone(chain), Onward::Aimed(aimed)),
                None => {
                    let Passed { host_header: host, path, .. } = passed;
                    return Ok(Arrival::Aimed(aimed, Line { host, path, added }));
                }
            }
        }
    };
    let host = Rc::from(&*passed.host);
    let Passed { host_header, path, .. } = passed;
    if let Some(header) = host_header {
        frame.host = Some(header.clone());
        request.headers_mut().insert(header::HOST, header);
    }
    headers::settle_nominated(request.headers_mut(), noted);
    if path.is_some() || request.uri().authority().is_some() {
        *request.uri_mut() = target::origin_form(request.uri(), path.as_deref())?;
    }
    Ok(Arrival::Stepped(chain, Arrived { host, added, onward, is_preflight }))
}

/// Draws the target.
pub(super) fn aim(
    frame: &mut Frame,
    local: &LocalSnapshot,
    route: Rc<LocalRoute>,
    view: &RequestView<'_>,
) -> Result<Aimed, ProxyError> {
    let (target, set_cookie) = choose(frame, local, &route, view)?;
    let resolved = &route.route.targets[target];
    let upstream = local.upstream(resolved.slot).ok_or(ProxyError::Unresolved)?;
    frame.towards(resolved.slot, upstream);
    let destination = Destination {
        route: Rc::clone(&route),
        upstream: Rc::clone(upstream),
        subset: resolved.subset,
        fallback: upstream.upstream.fallback.and_then(|slot| {
            let upstream = Rc::clone(local.upstream(slot)?);
            let aim = Aim::new(&upstream.upstream, view, frame.client);
            Some(Box::new(Fallback { slot, upstream, aim }))
        }),
        aim: Aim::new(&upstream.upstream, view, frame.client),
        deadline: route.route.timeout().map(|timeout| frame.started + timeout),
        is_clients: false,
        head_suffices: false,
        host: HostPolicy::Kept,
    };
    Ok(Aimed { route, target, destination, set_cookie })
}

/// Draws the target, and makes the cookie that a sticky route's new client gets.
fn choose(
    frame: &mut Frame,
    local: &LocalSnapshot,
    route: &Rc<LocalRoute>,
    view: &RequestView<'_>,
) -> Result<(usize, Option<HeaderValue>), ProxyError> {
    let worker = &frame.worker;
    let mut buffer = [0; 16];
    let mut fresh = None;
    let key = match route.route.sticky() {
        None => None,
        Some(sticky) => match (sticky_key(sticky, view, frame.client.known(), &mut buffer), sticky) {
            (None, Sticky::Cookie(name)) => {
                let key = format!("{:016x}{:016x}", worker.random(), worker.random());
                let secure = if frame.is_secure { "; Secure" } else { "" };
                let cookie = format!("{name}={key}; Path=/; HttpOnly; SameSite=Lax{secure}");
                fresh = Some((key, HeaderValue::try_from(cookie).ok()));
                None
            }
            (key, Sticky::Header(_) | Sticky::Cookie(_) | Sticky::ClientIp) => key,
        },
    };
    let key = fresh.as_ref().map(|(key, _)| key.as_bytes()).or(key);
    let drawn = draw(
        &route.route,
        view,
        key,
        |target| {
            let pool = local.upstream(target.slot).and_then(|up| up.pool(target.subset, || worker.random()));
            pool.is_some_and(|pool| !pool.is_empty())
        },
        || worker.random(),
    )?;
    if let Some(passed_over) = drawn.passed_over {
        route.passed_over(passed_over, &worker.stats);
    }
    frame.target = drawn.target.or(drawn.passed_over);
    let target = drawn.taken()?;
    route.target(target, &worker.stats).add(1);
    Ok((target, fresh.and_then(|(_, cookie)| cookie)))
}
