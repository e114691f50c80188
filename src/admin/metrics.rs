//! Reads the snapshot and the status of providers for `/metrics`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::Instant;

use super::view::{provider, upstream};
use crate::discovery::status::{ProviderStatus, WatchState, WatchStatus};
use crate::middleware::Counted;
use crate::middleware::fleet::Fleet;
use crate::snapshot::{CircuitState, DiagnosticKind, Snapshot, level};
use crate::spec::name::{Name, ProviderId};
use crate::telemetry::prometheus::{Definition, Samples, Source, definitions};

/// The families that tell of the snapshot and of discovery.
#[derive(Clone, Debug)]
pub struct Picture {
    /// What is served.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// All providers that are on.
    pub providers: Vec<Arc<ProviderStatus>>,
    /// The other gateways.
    pub fleet: Arc<Fleet>,
    /// When the process started: a source that never answered is as old.
    pub started: Instant,
}

impl Source for Picture {
    fn definitions(&self) -> &'static [&'static Definition] {
        &[
            definitions::UPSTREAM_ENDPOINTS,
            definitions::UPSTREAM_BREAKER,
            definitions::UPSTREAM_LEVEL_SHARE,
            definitions::UPSTREAM_QUEUED,
            definitions::UPSTREAM_STARTING,
            definitions::UPSTREAM_CERTIFICATE_EXPIRES,
            definitions::DISCOVERY_UPDATES,
            definitions::DISCOVERY_LAST_SUCCESS,
            definitions::DISCOVERY_REJECTED,
            definitions::ROUTES_SHADOWED,
            definitions::DISCOVERY_KEPT,
            definitions::DISCOVERY_UNRESOLVED,
            definitions::DISCOVERY_SHADOWED,
            definitions::DISCOVERY_WATCHES,
            definitions::DISCOVERY_ANSWERS,
            definitions::DISCOVERY_WAKEUPS,
            definitions::DISCOVERY_BYTES,
            definitions::DISCOVERY_CONNECTIONS_OPENED,
            definitions::DISCOVERY_CONNECTIONS,
            definitions::DISCOVERY_TOKEN_EXPIRES,
            definitions::DISCOVERY_HELD,
            definitions::DISCOVERY_FAILING,
            definitions::DISCOVERY_REGISTERED,
            definitions::CERTIFICATE_EXPIRES,
            definitions::RATE_LIMIT_REQUESTS,
            definitions::FLEET_GATEWAYS,
            definitions::REDIS_CONNECTED,
            definitions::REDIS_EXCHANGES,
            definitions::SNAPSHOT_GENERATION,
            definitions::SNAPSHOT_AGE,
        ]
    }

    fn collect(&self, samples: &mut Samples) {
        let snapshot = self.snapshot.borrow().clone();
        for upstream in snapshot.upstreams() {
            for (state, count) in upstream::states(upstream) {
                samples.value(definitions::UPSTREAM_ENDPOINTS, &[&upstream.label, state.as_str()], count as f64);
            }
            for level in level::view(upstream, None) {
                let priority = level.priority.to_string();
                samples.value(definitions::UPSTREAM_LEVEL_SHARE, &[&upstream.label, &priority], level.share);
            }
            if upstream.settings.queue.is_some() {
                let waiting = upstream.state.line.len();
                samples.value(definitions::UPSTREAM_QUEUED, &[&upstream.label], waiting.into());
            }
            if upstream.settings.slow_start.is_some() {
                let starting = upstream.starting().len();
                samples.value(definitions::UPSTREAM_STARTING, &[&upstream.label], starting as f64);
            }
            if let Some(pair) = upstream.settings.tls.as_ref().and_then(|tls| tls.identity.as_ref()) {
                let expires = unix(pair.facts().not_after);
                samples.value(definitions::UPSTREAM_CERTIFICATE_EXPIRES, &[&upstream.label], expires);
            }
            if let Some(now) = upstream.circuit() {
                for state in CircuitState::ALL {
                    let value = if state == now { 1.0 } else { 0.0 };
                    samples.value(definitions::UPSTREAM_BREAKER, &[&upstream.label, state.as_str()], value);
                }
            }
        }
        for certificate in snapshot.certificates.all() {
            let expires = unix(certificate.spec.pair.facts().not_after);
            samples.value(definitions::CERTIFICATE_EXPIRES, &[certificate.name.as_str()], expires);
        }
        for named in snapshot.middlewares.all.values() {
            for Counted { by, passed, refused } in named.middleware.counted() {
                for (result, count) in [("passed", passed), ("refused", refused)] {
                    samples.value(definitions::RATE_LIMIT_REQUESTS, &[&named.label, by, result], count as f64);
                }
            }
        }
        samples.value(definitions::FLEET_GATEWAYS, &[], self.fleet.gateways().into());
        if let Some(ledger) = self.fleet.ledger() {
            let standing = ledger.standing();
            samples.value(definitions::REDIS_CONNECTED, &[], f64::from(u8::from(standing.connected)));
            for (result, count) in ["answered", "failed"].into_iter().zip(standing.exchanges) {
                samples.value(definitions::REDIS_EXCHANGES, &[result], count as f64);
            }
        }
        for provider in &self.providers {
            let name = provider.id().as_str();
            let updates = &provider.updates;
            for (result, count) in [
                ("applied", &updates.applied),
                ("unchanged", &updates.unchanged),
                ("failed", &updates.failed),
                ("held", &updates.held),
            ] {
                samples.value(definitions::DISCOVERY_UPDATES, &[name, result], count.load(Relaxed) as f64);
            }
            if let Some(at) = provider::least_recent(provider) {
                samples.value(definitions::DISCOVERY_LAST_SUCCESS, &[name], unix(at.unwrap_or(UNIX_EPOCH)));
            }
            let rejected = snapshot.report.rejected.iter().filter(|one| one.provider == provider.id()).count();
            samples.value(definitions::DISCOVERY_REJECTED, &[name], rejected as f64);
            let contests = snapshot.report.contests.iter();
            let shadowed = contests.filter(|contest| contest.provider == provider.id() && contest.is_shadowed());
            let shadowed: BTreeSet<&Name> = shadowed.map(|contest| &contest.route).collect();
            samples.value(definitions::ROUTES_SHADOWED, &[name], shadowed.len() as f64);
            for (definition, kind) in [
                (definitions::DISCOVERY_KEPT, DiagnosticKind::Kept),
                (definitions::DISCOVERY_UNRESOLVED, DiagnosticKind::Unresolved),
                (definitions::DISCOVERY_SHADOWED, DiagnosticKind::Shadowed),
            ] {
                let all = snapshot.report.diagnostics.iter();
                let count = all.filter(|one| one.provider == provider.id() && one.kind == kind).count();
                samples.value(definition, &[name], count as f64);
            }
            let watches = provider.distinct();
            let polled = watches.iter().filter(|watch| watch.is_polled()).count();
            samples.value(definitions::DISCOVERY_WATCHES, &[name, "told"], (watches.len() - polled) as f64);
            samples.value(definitions::DISCOVERY_WATCHES, &[name, "polled"], polled as f64);
            let failing = watches.iter().filter(|watch| matches!(watch.state(), WatchState::Failing { .. })).count();
            samples.value(definitions::DISCOVERY_FAILING, &[name], failing as f64);
            for (definition, count) in [
                (definitions::DISCOVERY_ANSWERS, &provider.cost.answers),
                (definitions::DISCOVERY_WAKEUPS, &provider.cost.wakeups),
                (definitions::DISCOVERY_BYTES, &provider.cost.bytes),
            ] {
                samples.value(definition, &[name], count.load(Relaxed) as f64);
            }
            let connections = &provider.cost.connections;
            samples.value(definitions::DISCOVERY_CONNECTIONS_OPENED, &[name], connections.opened() as f64);
            if let Some(open) = connections.now() {
                samples.value(definitions::DISCOVERY_CONNECTIONS, &[name], open as f64);
            }
            if let Some(at) = provider.token_expires_at() {
                samples.value(definitions::DISCOVERY_TOKEN_EXPIRES, &[name], unix(at));
            }
            if let Some(registered) = provider.registered() {
                samples.value(definitions::DISCOVERY_REGISTERED, &[name], f64::from(u8::from(registered.stands)));
            }
            let held = snapshot.report.held.iter().filter(|(by, _)| *by == provider.id()).count();
            samples.value(definitions::DISCOVERY_HELD, &[name], held as f64);
        }
        samples.value(definitions::SNAPSHOT_GENERATION, &[], snapshot.generation as f64);
        samples.value(definitions::SNAPSHOT_AGE, &[], self.age());
    }
}

impl Picture {
    /// Since the least recently confirmed watch was confirmed. Files don't count: nobody confirms a file that
    /// does not change, and it can't go stale unnoticed.
    fn age(&self) -> f64 {
        let remote = self.providers.iter().filter(|provider| provider.id() != ProviderId::File);
        let age = |watch: &Arc<WatchStatus>| watch.age().unwrap_or_else(|| self.started.elapsed());
        let ages = remote.flat_map(|provider| provider.watches().values().map(age).collect::<Vec<_>>());
        ages.max().unwrap_or_default().as_secs_f64()
    }
}

fn unix(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::admin::view::sample;
    use crate::snapshot::Health;
    use crate::telemetry::prometheus::Metrics;

    #[test]
    fn the_picture_is_told() {
        let snapshot = sample::Picture { checked: true, ..sample::Picture::default() }.snapshot();
        snapshot.upstreams().next().expect("an upstream").endpoints[0].state.set_health(Health::Healthy);
        let (_publish, snapshot) = watch::channel(Arc::new(snapshot));
        let providers = [ProviderId::File, ProviderId::Consul, ProviderId::Etcd].map(ProviderStatus::new);
        providers[1].watch("consul:users");
        providers[1].updates.failed.fetch_add(3, Relaxed);
        let picture =
            Picture { snapshot, providers: providers.to_vec(), fleet: Arc::default(), started: Instant::now() };
        let metrics = Metrics::new().expect("a registry");
        metrics.register(picture).expect("families");
        let text = metrics.render().expect("text");
        for line in [
            r#"fleetgate_upstream_endpoints{upstream="users",state="healthy"} 1"#,
            r#"fleetgate_upstream_endpoints{upstream="users",state="unhealthy"} 1"#,
            r#"fleetgate_upstream_endpoints{upstream="users",state="held"} 0"#,
            r#"fleetgate_discovery_updates_total{provider="consul",result="failed"} 3"#,
            r#"fleetgate_discovery_last_success_timestamp_seconds{provider="consul"} 0"#,
            r#"fleetgate_discovery_rejected_items{provider="consul"} 0"#,
            "fleetgate_snapshot_generation 7",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} not in\n{text}");
        }
        assert!(!text.contains(r#"last_success_timestamp_seconds{provider="etcd"}"#), "nothing is watched: {text}");
    }

    #[test]
    fn the_age_is_that_of_the_least_recently_confirmed_watch() {
        let (_publish, snapshot) = watch::channel(Arc::new(Snapshot::empty()));
        let providers = [ProviderId::File, ProviderId::Consul].map(ProviderStatus::new);
        let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds)).expect("a time");
        let picture = Picture { snapshot, providers: providers.to_vec(), fleet: Arc::default(), started: ago(1_000) };
        providers[0].watch("files").confirmed(ago(5_000));
        assert!(picture.age() < 1.0, "files don't count");
        providers[1].watch("consul:a").confirmed(ago(10));
        providers[1].watch("consul:b").confirmed(ago(100));
        assert!((100.0..160.0).contains(&picture.age()));
        providers[1].watch("consul:c");
        assert!((1_000.0..1_060.0).contains(&picture.age()), "never confirmed: as old as the process");
    }
}
