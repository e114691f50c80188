//! Defines how endpoints stood at a time: what is known now, read backwards. Pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;

use super::event::{Event, Facts, Shape, time_text};
use super::{Kept, What};

/// Endpoints that an answer shows.
const MOST: usize = 1_000;

/// How endpoints stood.
#[derive(Debug, Serialize)]
pub struct Past {
    /// Of the snapshot told last.
    pub generation: u64,
    /// When.
    pub at: String,
    /// When the gateway started that ran then; `None` where none is known to have run.
    pub started_at: Option<String>,
    /// The oldest event that is still there; causes before it are not known any more.
    pub oldest: Option<String>,
    /// By upstream and address.
    pub items: Vec<Stood>,
    /// Endpoints beyond those shown.
    pub more: usize,
}

/// How an endpoint stood.
#[derive(Debug, PartialEq, Serialize)]
pub struct Stood {
    /// The upstream.
    pub upstream: Arc<str>,
    /// The endpoint.
    pub address: SocketAddr,
    /// How; `None`: it was not there.
    pub facts: Option<Facts>,
    /// Since when; `None`: since before the history begins.
    pub since: Option<String>,
    /// Why.
    pub cause: Option<String>,
    /// The id of the event that made it so.
    pub event: Option<u64>,
    /// Until when; `None`: to this day.
    pub until: Option<String>,
    /// What ended it.
    pub then: Option<String>,
}

#[derive(Default)]
struct Around<'e> {
    /// The last change up to then.
    last: Option<&'e Event>,
    /// The first change after.
    next: Option<&'e Event>,
}

pub(super) fn past(kept: &Kept, time: SystemTime, upstream: Option<&str>, started_at: SystemTime) -> Past {
    let mut around: BTreeMap<(Arc<str>, SocketAddr), Around<'_>> = BTreeMap::new();
    for (label, known) in &kept.picture.upstreams {
        if upstream.is_none_or(|upstream| **label == *upstream) {
            for address in known.facts.keys() {
                around.insert((Arc::clone(label), *address), Around::default());
            }
        }
    }
    let mut runs_since = (time >= started_at).then_some(started_at);
    // What ended the process that ran then: what a later one says is not its word.
    let mut ended: Option<&Event> = None;
    for event in &kept.events {
        let begins = match event.change.event {
            What::GatewayStarted => Some(event.time),
            _ => None,
        };
        if begins.is_some() || event.change.event == What::GatewayStopped {
            if event.time <= time {
                runs_since = begins;
                around.values_mut().for_each(|around| around.last = None);
            } else if ended.is_none() {
                ended = Some(event);
            }
            continue;
        }
        let (Some(label), Some(address)) = (&event.change.upstream, event.change.endpoint) else { continue };
        let of_endpoint =
            matches!(event.change.event, What::EndpointAdded | What::EndpointChanged | What::EndpointRemoved);
        if !of_endpoint || upstream.is_some_and(|upstream| **label != *upstream) {
            continue;
        }
        let around = around.entry((Arc::clone(label), address)).or_default();
        if event.time <= time {
            around.last = Some(event);
        } else if around.next.is_none() && ended.is_none() {
            around.next = Some(event);
        }
    }
    let facts = |shape: &Option<Shape>| match shape {
        Some(Shape::Endpoint(facts)) => Some(facts.clone()),
        Some(Shape::Document(_)) | None => None,
    };
    let mut items = Vec::new();
    let mut more = 0;
    for ((label, address), Around { last, next }) in around {
        let now = || kept.picture.upstreams.get(&label).and_then(|known| known.facts.get(&address)).cloned();
        let stood = match (last, next) {
            (Some(last), _) => facts(&last.change.after),
            (None, Some(next)) => facts(&next.change.before),
            (None, None) if ended.is_none() => now(),
            (None, None) => None,
        };
        // One that came only later, and nothing is known of before.
        if stood.is_none() && last.is_none() {
            continue;
        }
        if items.len() == MOST {
            more += 1;
            continue;
        }
        let next = next.or(ended);
        items.push(Stood {
            upstream: label,
            address,
            facts: stood,
            since: last.map(|last| time_text(last.time)),
            cause: last.map(|last| last.change.cause.clone()),
            event: last.map(|last| last.id),
            until: next.map(|next| time_text(next.time)),
            then: next.map(|next| next.change.cause.clone()),
        });
    }
    Past {
        generation: kept.picture.generation,
        at: time_text(time),
        started_at: runs_since.map(time_text),
        oldest: kept.events.front().map(|oldest| time_text(oldest.time)),
        items,
        more,
    }
}
