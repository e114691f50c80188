//! Shows providers: whether their watches answer, and what of theirs can't be used.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

use serde::Serialize;

use super::{List, time_text};
use crate::discovery::status::{ProviderStatus, WatchState, WatchStatus};
use crate::snapshot::report::{Rejected, Shadowed};
use crate::snapshot::{Diagnostic, Report};
use crate::spec::name::ProviderId;
use crate::spec::problem::Problem;

/// A provider.
#[derive(Debug, Serialize)]
pub struct ProviderView {
    /// Its name.
    pub name: ProviderId,
    /// The worst of its watches.
    pub state: State,
    /// When the least recently confirmed watch was confirmed; `null` when one never was, or there is none.
    pub verified_at: Option<String>,
    /// What came of its reads.
    pub updates: Updates,
    /// What it asked of its registry since the start.
    pub cost: Cost,
    /// When the token in use ends.
    pub token_expires_at: Option<String>,
    /// How the gateway's own registration stands; `null` where none is wanted.
    pub registration: Option<Registration>,
    /// By name.
    pub watches: Vec<WatchView>,
    /// Documents and registrations that can't be used as they are; an item's last good form is still served.
    pub rejected: Vec<Rejected>,
    /// What is served though the registry does not list it, and why.
    pub held: Vec<Problem>,
    /// Items of its that another provider's item of the same name hides.
    pub shadowed: Vec<Shadowed>,
    /// Well-formed items of its that are not in use as written: kept in an earlier form, unresolved or shadowed.
    pub diagnostics: Vec<Diagnostic>,
}

/// Reads since the start, by what came of them.
#[derive(Debug, Serialize)]
pub struct Updates {
    /// Changed what is known.
    pub applied: u64,
    /// Changed nothing.
    pub unchanged: u64,
    /// Failed.
    pub failed: u64,
    /// Removals that were held back.
    pub held: u64,
}

/// What a provider asks of its registry.
#[derive(Debug, Serialize)]
pub struct Cost {
    /// Answers read.
    pub answers: u64,
    /// Those that the registry sent because something had changed or a wait was over.
    pub wakeups: u64,
    /// Their bytes, decompressed.
    pub bytes: u64,
    /// Connections opened.
    pub connections_opened: u64,
    /// Connections open now; `null` where that is not known.
    pub connections: Option<u64>,
}

/// The gateway's own registration.
#[derive(Debug, Serialize)]
pub struct Registration {
    /// What it is called there: a service's id, a key.
    pub place: String,
    /// Whether it is in the registry, as of the last time it was asserted.
    pub registered: bool,
    /// Why it can't be asserted.
    pub error: Option<String>,
}

/// One watch of a provider.
#[derive(Debug, Serialize)]
pub struct WatchView {
    /// What it watches: `consul:users`, `kv:fleetgate/`, ...
    pub name: String,
    /// Where it stands.
    pub state: State,
    /// Tries in a row that failed.
    pub failures: u32,
    /// What went wrong last.
    pub error: Option<String>,
    /// When what it knows was last confirmed.
    pub verified_at: Option<String>,
    /// The registry's counter that goes with it.
    pub index: u64,
    /// Sessions begun; more than one: it reconnected.
    pub sessions: u64,
    /// It asks every few seconds instead of being told of changes, because too many are.
    pub polled: bool,
}

/// Where a provider or watch stands; the greatest is the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// There is nothing to watch.
    Idle,
    /// Answers come.
    Live,
    /// No answer yet.
    Starting,
    /// The last try failed; what was known is kept.
    Failing,
}

/// All providers, by name.
pub fn list(generation: u64, providers: &[Arc<ProviderStatus>], report: &Report) -> List<ProviderView> {
    let mut items: Vec<_> = providers.iter().map(|provider| view(provider, report)).collect();
    items.sort_by_key(|item| item.name.as_str());
    List { generation, items }
}

/// When the least recently confirmed of all watches was confirmed: `None` without a watch, `Some(None)` when
/// one never was.
pub fn least_recent(provider: &ProviderStatus) -> Option<Option<SystemTime>> {
    provider.watches().values().map(|watch| watch.verified_at()).min()
}

fn view(provider: &ProviderStatus, report: &Report) -> ProviderView {
    let watches: Vec<_> = provider.watches().into_iter().map(|(name, watch)| watch_view(name, &watch)).collect();
    let id = provider.id();
    ProviderView {
        name: id,
        state: watches.iter().map(|watch| watch.state).max().unwrap_or(State::Idle),
        verified_at: least_recent(provider).flatten().map(time_text),
        updates: Updates {
            applied: provider.updates.applied.load(Relaxed),
            unchanged: provider.updates.unchanged.load(Relaxed),
            failed: provider.updates.failed.load(Relaxed),
            held: provider.updates.held.load(Relaxed),
        },
        cost: Cost {
            answers: provider.cost.answers.load(Relaxed),
            wakeups: provider.cost.wakeups.load(Relaxed),
            bytes: provider.cost.bytes.load(Relaxed),
            connections_opened: provider.cost.connections.opened(),
            connections: provider.cost.connections.now(),
        },
        token_expires_at: provider.token_expires_at().map(time_text),
        registration: provider.registered().map(|it| Registration {
            place: it.place,
            registered: it.stands,
            error: it.error,
        }),
        watches,
        rejected: report.rejected.iter().filter(|one| one.provider == id).cloned().collect(),
        held: report.held.iter().filter(|(by, _)| *by == id).map(|(_, problem)| problem.clone()).collect(),
        shadowed: report.shadowed.iter().filter(|item| item.provider == id).cloned().collect(),
        diagnostics: report.diagnostics.iter().filter(|one| one.provider == id).cloned().collect(),
    }
}

fn watch_view(name: String, watch: &WatchStatus) -> WatchView {
    let (state, failures, error) = match watch.state() {
        WatchState::Starting => (State::Starting, 0, None),
        WatchState::Live => (State::Live, 0, None),
        WatchState::Failing { failures, error } => (State::Failing, failures, Some(error)),
    };
    WatchView {
        name,
        state,
        failures,
        error,
        verified_at: watch.verified_at().map(time_text),
        index: watch.index(),
        sessions: watch.sessions(),
        polled: watch.is_polled(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use serde_json::json;
    use tokio::time::Instant;

    use super::*;
    use crate::discovery::status::Registered;

    #[test]
    fn a_provider_is_as_fresh_and_as_well_as_its_worst_watch() {
        let consul = ProviderStatus::new(ProviderId::Consul);
        let file = ProviderStatus::new(ProviderId::File);
        consul.watch("consul:users").confirmed(Instant::now());
        consul.watch("consul:users").set_index(42);
        consul.updates.applied.fetch_add(3, Relaxed);
        for (counter, count) in [(&consul.cost.answers, 2), (&consul.cost.wakeups, 1), (&consul.cost.bytes, 300)] {
            counter.fetch_add(count, Relaxed);
        }
        consul.set_registered(Registered { place: "fleetgate-gw-1".to_owned(), stands: true, error: None });
        consul.set_token_expires_at(Some(UNIX_EPOCH + Duration::from_secs(100)));
        let rejected = |provider, place: &str, text: &str| Rejected {
            provider,
            problem: Problem::new(place, "", text),
            effect: "it is not used",
        };
        let report = Report {
            rejected: vec![
                rejected(ProviderId::Consul, "consul:users", "port 0"),
                rejected(ProviderId::Etcd, "etcd:/x", "bad JSON"),
            ],
            ..Report::default()
        };
        let providers = [file, Arc::clone(&consul)];
        let shown = |providers: &[_]| serde_json::to_value(list(7, providers, &report)).expect("JSON");
        let mut value = shown(&providers);
        assert_eq!(value["generation"], 7);
        let at = value["items"][0]["verified_at"].take();
        assert!(at.as_str().is_some_and(|at| at.ends_with('Z')), "{at}");
        let at = value["items"][0]["watches"][0]["verified_at"].take();
        assert!(at.as_str().is_some_and(|at| at.ends_with('Z')), "{at}");
        assert_eq!(
            value["items"][0],
            json!({
                "name": "consul", "state": "live", "verified_at": null,
                "updates": { "applied": 3, "unchanged": 0, "failed": 0, "held": 0 },
                "cost": {
                    "answers": 2, "wakeups": 1, "bytes": 300, "connections_opened": 0, "connections": null
                },
                "token_expires_at": "1970-01-01T00:01:40.000Z",
                "registration": { "place": "fleetgate-gw-1", "registered": true, "error": null },
                "watches": [{
                    "name": "consul:users", "state": "live", "failures": 0, "error": null,
                    "verified_at": null, "index": 42, "sessions": 0, "polled": false
                }],
                "rejected": [{ "place": "consul:users", "key": "", "text": "port 0", "effect": "it is not used" }],
                "held": [],
                "shadowed": [],
                "diagnostics": []
            })
        );
        assert_eq!(value["items"][1]["state"], "idle");
        consul.watch("consul:orders");
        let value = shown(&providers);
        assert_eq!(
            (&value["items"][0]["state"], &value["items"][0]["verified_at"]),
            (&json!("starting"), &json!(null))
        );
    }
}
