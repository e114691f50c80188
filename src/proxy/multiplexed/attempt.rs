//! Defines one try at an endpoint that may be spoken to in HTTP/2: on a trunk with room, on a new one, or, where the
//! endpoint chooses HTTP/1.1, on a connection of its own.

use std::rc::Rc;
use std::task::Context;
use std::time::Instant;

use http::header;

use super::super::attempt::{Failure, RESTED, Tried, hold, over_connection, over_kept, response};
use super::super::carrier::Carrier;
use super::super::forward::Destination;
use super::super::frame::Frame;
use super::super::kept::{Connection, NoConnection, connect};
use super::super::local::LocalEndpoint;
use super::super::outbound::Outbound;
use super::super::retry::Outcome;
use super::request;
use super::strand::{Cut, Strand};
use super::trunk::{NoTrunk, Trunk};
use super::trunks::Trunks;
use crate::exchange::{Body, ProxyError};
use crate::snapshot::Limited;
use crate::spec::retry::Condition;
use crate::spec::upstream::Protocol;
use crate::telemetry::descriptors::Exhausted;

/// One try. `fresh`: no kept connection of HTTP/1.1 is used.
pub(in super::super) async fn attempt(
    frame: &Frame,
    destination: &Destination,
    endpoint: &LocalEndpoint,
    trunks: &Trunks,
    fresh: bool,
    outbound: &mut Outbound,
) -> Tried {
    let upstream = &destination.upstream;
    let settings = &upstream.upstream.settings;
    let began = frame.attempt_started.unwrap_or(frame.started);
    let upgrades = outbound.request.headers().contains_key(header::UPGRADE);
    if upgrades && settings.protocol == Protocol::Http2 {
        return Err(Failure::unfit(ProxyError::NoUpgrade, "HTTP/2 knows no upgrade"));
    }
    let until = tokio::time::Instant::now() + destination.connect_timeout();
    let refused = |refusal| Failure::refused(frame, upstream, refusal);
    let (turn, pending) = loop {
        if !upgrades && let Some(tried) = over_trunks(frame, destination, endpoint, trunks, outbound, began).await {
            return tried;
        }
        if settings.protocol == Protocol::Auto
            && !fresh
            && let Some(tried) = over_kept(frame, destination, endpoint, outbound, began).await
        {
            return tried;
        }
        let pending = upstream.upstream.place(Limited::Pending).map_err(refused)?;
        if upgrades {
            break (None, pending);
        }
        let turn = tokio::time::timeout_at(until, trunks.turn()).await;
        let turn = turn.map_err(|_| Failure::unconnected("no connection was made in time".to_owned()))?;
        // Whoever had the turn before may have got one.
        if turn.is_none() || !trunks.have_room(settings.keep_alive, began) {
            break (turn, pending);
        }
    };
    let place = upstream.upstream.place(Limited::Connections).map_err(refused)?;
    let hold = hold(frame, upstream)?;
    // An upgrade needs a connection of its own.
    let offered = if upgrades { Protocol::Http1 } else { settings.protocol };
    let opening = async {
        let stream = connect(endpoint, offered, until).await?;
        let http2 = settings.protocol == Protocol::Http2 || stream.chose_http2();
        if !upgrades {
            trunks.chose(http2);
        }
        if !http2 {
            return Ok(Err(Connection::new(stream, upstream, place, hold)));
        }
        let opened = tokio::time::timeout_at(until, Trunk::open(stream, upstream, endpoint, place, hold)).await;
        Ok(Ok(opened.unwrap_or(Err(NoTrunk::Late))?))
    };
    let opened: Result<_, NoConnection> = opening.await;
    let opened = opened.map_err(|error| Failure::of_opening(frame, destination, endpoint, &error))?;
    let trunk = match opened {
        Ok(trunk) => trunk,
        Err(connection) => {
            drop((turn, pending));
            return over_connection(frame, destination, endpoint, connection, outbound).await;
        }
    };
    upstream.note_tls(endpoint, None);
    trunks.add(&trunk);
    // It has a strand before those who wait look for room.
    let strand = begin(&trunk, outbound);
    drop((turn, pending));
    over_strand(frame, destination, endpoint, strand, &trunk, outbound, Instant::now()).await
}

/// A try on one of the trunks there are; `None` when none has room. One that turns out to be closed before anything is
/// sent costs nothing.
async fn over_trunks(
    frame: &Frame,
    destination: &Destination,
    endpoint: &LocalEndpoint,
    trunks: &Trunks,
    outbound: &mut Outbound,
    now: Instant,
) -> Option<Tried> {
    let keep_alive = destination.upstream.upstream.settings.keep_alive;
    while let Some(trunk) = trunks.take(keep_alive, now) {
        if !trunk.is_counted_for(frame.connection.share()) {
            return Some(Err(Failure::exhausted(frame, &destination.upstream, Exhausted::Client)));
        }
        let was_used = trunk.was_used();
        let strand = begin(&trunk, outbound);
        match over_strand(frame, destination, endpoint, strand, &trunk, outbound, now).await {
            Err(Failure { outcome: Some(Outcome { unsent: true, .. }), .. }) => {}
            // The endpoint left as the request came, and has not begun with it.
            Err(Failure { outcome: Some(Outcome { condition: Condition::RefusedStream, .. }), .. })
                if !trunk.is_open() && outbound.request.body_mut().rewind() => {}
            Err(failure) if was_used => return Some(Err(failure.on_kept(RESTED))),
            tried => return Some(tried),
        }
    }
    None
}

fn begin(trunk: &Rc<Trunk>, outbound: &Outbound) -> Option<Result<Strand, Cut>> {
    let head = request::head(outbound, trunk.is_secure())?;
    Some(Strand::begin(trunk, head, matches!(outbound.request.body(), Body::Empty)))
}

/// `strand`: `None` when the request cannot be put into HTTP/2.
async fn over_strand(
    frame: &Frame,
    destination: &Destination,
    endpoint: &LocalEndpoint,
    strand: Option<Result<Strand, Cut>>,
    trunk: &Trunk,
    outbound: &mut Outbound,
    sent: Instant,
) -> Tried {
    let failed = |cut: Cut| Failure::of_cut(&cut, frame.request_flow.as_deref());
    let Some(strand) = strand else {
        return Err(Failure::unfit(ProxyError::BadRequest, "it names no host that HTTP/2 can carry"));
    };
    let mut strand = Box::new(strand.map_err(failed)?);
    let poll = |cx: &mut Context<'_>| {
        let polled = strand.poll_response(outbound.request.body_mut(), cx);
        (polled, strand.upload_state())
    };
    match response(frame, destination, endpoint, sent, poll).await {
        Ok(head) => Ok((head.map_err(failed)?, Carrier::Strand(strand))),
        Err(failure) => {
            if failure.is_of_endpoint {
                trunk.doubt();
            }
            Err(failure)
        }
    }
}
