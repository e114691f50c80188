//! Shows upstreams and their endpoints.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{Freshness, List, time_text};
pub use crate::snapshot::StateName as State;
use crate::snapshot::{BreakerView, Endpoint, LevelView, Snapshot, Upstream, level};
use crate::spec::encode;
use crate::spec::endpoint::Labels;
use crate::spec::name::ProviderId;

/// An upstream.
#[derive(Debug, Serialize)]
pub struct UpstreamView {
    /// Its name; `NAME@PROVIDER` for one that another provider's hides.
    pub name: Arc<str>,
    /// Who defined it.
    pub provider: ProviderId,
    /// Where its endpoints come from: `consul:users`, `static`, ...
    pub source: String,
    /// Whether the source was read at least once.
    pub known: bool,
    /// When the source last confirmed them.
    pub verified_at: Option<String>,
    /// Whether all its endpoints are ejected, and therefore used.
    pub panic: bool,
    /// What its breaker lets through, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker: Option<BreakerView>,
    /// Its levels, where its endpoints do not all go together.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub levels: Vec<LevelView>,
    /// Requests that wait for an endpoint with room, where they may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<u32>,
    /// Its settings, as in a document.
    pub settings: Map<String, Value>,
    /// Sorted by address.
    pub endpoints: Vec<EndpointView>,
}

/// An endpoint.
#[derive(Debug, Serialize)]
pub struct EndpointView {
    /// Where it listens.
    pub address: SocketAddr,
    /// 0 drains.
    pub weight: u16,
    /// What subsets select by.
    pub labels: Arc<Labels>,
    /// Where it stands.
    pub state: State,
    /// Why, or what else is to know.
    pub reasons: Vec<String>,
    /// Exchanges that are there now.
    pub in_flight: u32,
    /// 0 goes first.
    pub priority: u16,
    /// What part of its weight it has, while it starts slowly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<f64>,
}

/// All upstreams, by name.
pub fn list(snapshot: &Snapshot, freshness: &Freshness) -> List<UpstreamView> {
    let mut items: Vec<_> = snapshot.upstreams().map(|upstream| view(upstream, freshness)).collect();
    items.sort_by(|a, b| a.name.cmp(&b.name));
    List { generation: snapshot.generation, items }
}

/// The upstream of a name.
pub fn one(snapshot: &Snapshot, name: &str, freshness: &Freshness) -> Option<UpstreamView> {
    snapshot.upstreams().find(|upstream| *upstream.label == *name).map(|upstream| view(upstream, freshness))
}

/// Endpoints of an upstream by state, with a count for every state.
pub fn states(upstream: &Upstream) -> BTreeMap<State, usize> {
    let mut counts: BTreeMap<State, usize> = State::ALL.map(|state| (state, 0)).into();
    for endpoint in upstream.endpoints.iter() {
        *counts.entry(endpoint.state_name(&upstream.settings)).or_default() += 1;
    }
    counts
}

fn view(upstream: &Upstream, freshness: &Freshness) -> UpstreamView {
    let starting = upstream.starting();
    let endpoint = |(index, endpoint): (u32, &Endpoint)| {
        let slow_start = starting.get(&index).copied();
        let mut reasons = endpoint.reasons(&upstream.settings);
        reasons.extend(slow_start.map(|share| format!("starts slowly: has {:.0} % of its weight", share * 100.0)));
        EndpointView {
            address: endpoint.address,
            weight: endpoint.weight,
            labels: Arc::clone(&endpoint.labels),
            state: endpoint.state_name(&upstream.settings),
            reasons,
            in_flight: endpoint.state.in_flight(),
            priority: endpoint.priority,
            slow_start,
        }
    };
    UpstreamView {
        name: Arc::clone(&upstream.label),
        provider: upstream.provider,
        known: upstream.known,
        verified_at: freshness.all_verified_at(&upstream.sources).map(time_text),
        panic: upstream.choose(None).panic,
        breaker: upstream.breaker(Instant::now()),
        levels: level::view(upstream, None),
        waiting: upstream.settings.queue.map(|_| upstream.state.line.len()),
        settings: encode::settings(&upstream.settings),
        endpoints: (0u32..).zip(upstream.endpoints.iter()).map(endpoint).collect(),
        source: upstream.source_text(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::time::Instant;

    use super::super::sample::Picture;
    use super::*;
    use crate::discovery::status::ProviderStatus;
    use crate::snapshot::Health;
    use crate::spec::endpoint::RegistryStatus;
    use crate::spec::upstream::UpstreamSettings;

    #[test]
    fn an_upstream_is_shown_with_its_endpoints() {
        let snapshot = Picture { checked: true, ..Picture::default() }.snapshot();
        let upstream = snapshot.upstreams().next().expect("an upstream");
        upstream.endpoints[0].state.set_health(Health::Unhealthy);
        upstream.endpoints[0].state.set_last_failure(Some("status 500".to_owned()));
        upstream.endpoints[1].state.enter();
        let consul = ProviderStatus::new(ProviderId::Consul);
        consul.watch("consul:users").confirmed(Instant::now());
        let freshness = Freshness::of(&[consul]);
        let mut shown = serde_json::to_value(one(&snapshot, "users", &freshness)).expect("JSON");
        let at = shown["verified_at"].take();
        assert!(at.as_str().is_some_and(|at| at.ends_with('Z')), "{at}");
        assert_eq!(
            shown,
            json!({
                "name": "users", "provider": "file", "source": "consul:users", "known": true,
                "verified_at": null, "panic": false,
                "settings": {
                    "balance": "least_requests",
                    "subsets": { "canary": { "version": "v2" } },
                    "connect_timeout": "2s", "response_timeout": "30s", "idle_timeout": "1m",
                    "max_idle_per_endpoint": 32, "keep_alive": "4s", "drain_timeout": "30s",
                    "health_check": {
                        "path": "/healthz", "interval": "5s", "timeout": "2s",
                        "healthy_threshold": 2, "unhealthy_threshold": 3
                    },
                    "passive_health": {
                        "consecutive_failures": 5, "consecutive_5xx": 0,
                        "base_ejection": "10s", "max_ejection": "5m", "max_ejected": "50%"
                    },
                    "retry_budget": { "percent": 20, "min": 3 }
                },
                "endpoints": [
                    {
                        "address": "10.0.0.1:8080", "weight": 1, "labels": { "version": "v1" },
                        "state": "unhealthy", "reasons": ["active checks fail: status 500"], "in_flight": 0,
                        "priority": 0
                    },
                    {
                        "address": "10.0.0.2:8080", "weight": 1, "labels": { "version": "v2" },
                        "state": "unhealthy", "reasons": ["no active check has answered yet"], "in_flight": 1,
                        "priority": 0
                    }
                ]
            })
        );
        assert!(one(&snapshot, "nobody", &freshness).is_none());
        assert_eq!(list(&snapshot, &freshness).items.len(), 1);
    }

    #[test]
    fn every_word_of_the_registry_has_its_state() {
        let snapshot = Picture::default().snapshot();
        let plain = snapshot.upstreams().next().expect("an upstream").endpoints[0].clone();
        let state = |change: fn(&mut Endpoint)| {
            let mut endpoint = plain.clone();
            change(&mut endpoint);
            endpoint.state_name(&UpstreamSettings::default()).as_str()
        };
        assert_eq!(state(|_| {}), "healthy");
        assert_eq!(state(|endpoint| endpoint.held = true), "held");
        assert_eq!(state(|endpoint| endpoint.weight = 0), "draining");
        assert_eq!(
            state(|endpoint| (endpoint.drained, endpoint.status) = (true, RegistryStatus::Critical)),
            "draining"
        );
        assert_eq!(state(|endpoint| endpoint.status = RegistryStatus::Warning), "healthy");
        assert_eq!(state(|endpoint| endpoint.status = RegistryStatus::Critical), "unhealthy");
        assert_eq!(state(|endpoint| endpoint.status = RegistryStatus::Maintenance), "maintenance");
    }
}
