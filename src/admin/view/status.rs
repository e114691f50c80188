//! Shows the gateway as a whole.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::{provider, time_text, upstream};
use crate::admin::State;
use crate::control::command::Saving;
use crate::middleware::fleet::Standing;
use crate::snapshot::report::Rejected;
use crate::snapshot::{Diagnostic, DiagnosticKind, NamedMiddleware, RouteHealth, RouteJudge};
use crate::spec::document::Kind;
use crate::spec::name::{Name, ProviderId};
use crate::spec::problem::Problem;
use crate::telemetry::descriptors::Descriptors;
use crate::telemetry::lines::LogState;

/// The gateway.
#[derive(Debug, Serialize)]
pub struct StatusView {
    /// Of the program.
    pub version: &'static str,
    /// When the process started.
    pub started_at: String,
    /// Since then.
    pub uptime_seconds: u64,
    /// Of the snapshot.
    pub generation: u64,
    /// When the snapshot was published.
    pub published_at: String,
    /// Whether the gateway should get traffic.
    pub ready: bool,
    /// Whether it is stopping.
    pub draining: bool,
    /// Why it is not ready.
    pub reasons: Vec<String>,
    /// Data-plane threads.
    pub workers: usize,
    /// By name.
    pub listeners: Vec<ListenerView>,
    /// Routes by state.
    pub routes: BTreeMap<RouteHealth, usize>,
    /// How many there are.
    pub upstreams: usize,
    /// Endpoints of all upstreams by state.
    pub endpoints: BTreeMap<upstream::State, usize>,
    /// Of the fleet, as far as this gateway knows.
    pub gateways: u32,
    /// Where gateways count together, where that is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<RedisView>,
    /// By name.
    pub providers: Vec<ProviderSummary>,
    /// What is written, and how that goes.
    pub logs: Vec<LogView>,
    /// How file descriptors are divided, and who holds them.
    pub descriptors: DescriptorsView,
    /// What outlives the gateway, unless that is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saved_state: Option<SavedStateView>,
    /// What is wrong with the gateway as a whole or with what surrounds it, and what to do.
    pub problems: Vec<Problem>,
    /// Worth a remark, though everything works.
    pub remarks: Vec<Problem>,
}

/// A log.
#[derive(Debug, Serialize)]
pub struct LogView {
    /// `own`, `access`, `audit` or `events`.
    pub name: &'static str,
    /// `stdout`, `stderr`, `off`, or a path.
    pub destination: String,
    /// `ok`, or `failing` while its destination takes no lines.
    pub state: &'static str,
    /// Why it takes none.
    pub error: Option<String>,
    /// Since when.
    pub since: Option<String>,
    /// Lines lost since the start.
    pub dropped: u64,
}

/// What registries showed and operators drained, on disk.
#[derive(Debug, Serialize)]
pub struct SavedStateView {
    /// Where it is.
    pub folder: String,
    /// `ok`, or `failing` while it is not written.
    pub state: &'static str,
    /// Why it is not.
    pub error: Option<String>,
    /// Since when.
    pub since: Option<String>,
}

/// How file descriptors are divided, and who holds them.
#[derive(Debug, Serialize)]
pub struct DescriptorsView {
    /// What the process may have open.
    pub limit: u64,
    /// For the admin API, registries, health checks and files.
    pub reserve: u32,
    /// Connections of clients.
    pub downstream: SideView,
    /// Connections to endpoints.
    pub upstream: SideView,
    /// Most connections to endpoints that one client address may hold.
    pub upstream_per_client: u32,
    /// What the settings want and the limit does not allow, with what to do.
    pub advice: Option<String>,
}

/// The connections of one side.
#[derive(Debug, Serialize)]
pub struct SideView {
    /// How many there are.
    pub open: u32,
    /// How many there may be.
    pub max: u32,
}

/// A listener.
#[derive(Debug, Serialize)]
pub struct ListenerView {
    /// Its name.
    pub name: Name,
    /// Where it is bound.
    pub address: SocketAddr,
}

/// Where gateways count together.
#[derive(Debug, Serialize)]
pub struct RedisView {
    /// Where it is.
    pub address: String,
    /// `connected` or `lost`.
    pub state: &'static str,
    /// Why there is no connection.
    pub error: Option<String>,
}

/// A provider in short.
#[derive(Debug, Serialize)]
pub struct ProviderSummary {
    /// Its name.
    pub name: ProviderId,
    /// The worst of its watches.
    pub state: provider::State,
    /// When the least recently confirmed watch was confirmed.
    pub verified_at: Option<String>,
    /// Items that can't be used as they are.
    pub rejected: usize,
    /// Items that refer to something that does not exist, and are served in their last form that resolved.
    pub kept: usize,
    /// Items that refer to something that does not exist, and can't be served.
    pub unresolved: usize,
    /// Items that another one's place keeps from use.
    pub shadowed: usize,
    /// What of its is held, and what is wrong with its watches and items, twenty at most; `/api/v1/providers` has all.
    pub problems: Vec<Problem>,
    /// Problems beyond those.
    pub more_problems: usize,
}

/// Most problems told of one provider.
const MOST_PROBLEMS: usize = 20;

/// The gateway now.
pub fn view(state: &State) -> StatusView {
    let snapshot = state.snapshot.borrow().clone();
    let progress = state.readiness.progress();
    let mut routes = BTreeMap::from(RouteHealth::ALL.map(|it| (it, 0)));
    let mut judge = RouteJudge::new(&snapshot);
    for route in snapshot.routes.routes() {
        *routes.entry(judge.judge(route).0).or_default() += 1;
    }
    let mut endpoints = BTreeMap::from(upstream::State::ALL.map(|it| (it, 0)));
    for (state, count) in snapshot.upstreams().flat_map(|it| upstream::states(it)) {
        *endpoints.entry(state).or_default() += count;
    }
    let providers = provider::list(snapshot.generation, &state.providers, &snapshot.report).items;
    let summary = |provider: provider::ProviderView| {
        let failing = provider.watches.into_iter().filter_map(|it| Some(Problem::new(it.name, "", it.error?)));
        let rejected = provider.rejected.len();
        let count = |kind| provider.diagnostics.iter().filter(|one| one.kind == kind).count();
        let [kept, unresolved, shadowed] =
            [DiagnosticKind::Kept, DiagnosticKind::Unresolved, DiagnosticKind::Shadowed].map(count);
        let diagnosed = provider.diagnostics.iter().map(Diagnostic::line);
        // What is blocked is told once, with its key and with the command that accepts it.
        let is_told = |held: &Problem, one: &Rejected| {
            held.place == one.problem.place && held.text.contains(one.problem.text.as_str())
        };
        let mut held = provider.held;
        for held in &mut held {
            if let Some(one) = provider.rejected.iter().find(|one| is_told(held, one)) {
                held.key.clone_from(&one.problem.key);
            }
        }
        let unusable = provider.rejected.iter().filter(|one| !held.iter().any(|held| is_told(held, one)));
        let unusable: Vec<Problem> = unusable.map(Rejected::line).collect();
        let mut problems: Vec<Problem> = held.into_iter().chain(failing).chain(unusable).chain(diagnosed).collect();
        let more_problems = problems.len().saturating_sub(MOST_PROBLEMS);
        problems.truncate(MOST_PROBLEMS);
        ProviderSummary {
            name: provider.name,
            state: provider.state,
            verified_at: provider.verified_at,
            rejected,
            kept,
            unresolved,
            shadowed,
            problems,
            more_problems,
        }
    };
    let is_diagnosed = |named: &NamedMiddleware| {
        let is_of = |(kind, name): &(Kind, Name)| *kind == Kind::Middleware && *name.as_str() == *named.label;
        snapshot.report.diagnostics.iter().any(|one| one.item.as_ref().is_some_and(is_of))
    };
    let troubles = snapshot.middlewares.all.values().filter(|named| !is_diagnosed(named)).filter_map(|named| {
        let key = format!("middlewares.{}", named.label);
        Some(Problem::new(named.provider.to_string(), key, named.trouble(&snapshot)?.text))
    });
    let up = state.started.elapsed();
    StatusView {
        version: env!("CARGO_PKG_VERSION"),
        started_at: time_text(SystemTime::now().checked_sub(up).unwrap_or(UNIX_EPOCH)),
        uptime_seconds: up.as_secs(),
        generation: snapshot.generation,
        published_at: time_text(snapshot.published_at),
        ready: progress.ready,
        draining: progress.draining,
        reasons: progress.reasons,
        workers: state.settings.runtime.workers,
        listeners: state
            .listeners
            .iter()
            .map(|(name, address)| ListenerView { name: name.clone(), address: *address })
            .collect(),
        routes,
        upstreams: snapshot.upstreams().count(),
        endpoints,
        gateways: state.fleet.gateways(),
        redis: state.fleet.ledger().map(|ledger| redis(ledger.standing())),
        providers: providers.into_iter().map(summary).collect(),
        logs: state.logs.0.iter().map(|log| log_view(log)).collect(),
        descriptors: descriptors(&state.descriptors),
        saved_state: state.commands.saving().map(saved_state),
        problems: state.unreadable.problems(),
        remarks: snapshot.report.pending.iter().chain(&snapshot.report.remarks).cloned().chain(troubles).collect(),
    }
}

fn descriptors(descriptors: &Descriptors) -> DescriptorsView {
    let (division, [downstream, upstream]) = (descriptors.division(), descriptors.held());
    DescriptorsView {
        limit: division.limit,
        reserve: division.reserve,
        downstream: SideView { open: downstream, max: division.downstream },
        upstream: SideView { open: upstream, max: division.upstream },
        upstream_per_client: division.per_client,
        advice: descriptors.advice().map(str::to_owned),
    }
}

fn log_view(log: &LogState) -> LogView {
    let (error, since) = log.trouble().map(|trouble| (trouble.text, time_text(trouble.since))).unzip();
    LogView {
        name: log.name().as_str(),
        destination: log.destination().to_owned(),
        state: if error.is_some() { "failing" } else { "ok" },
        error,
        since,
        dropped: log.dropped(),
    }
}

fn saved_state(saving: Saving) -> SavedStateView {
    let (error, since) = saving.trouble.map(|(text, since)| (text, time_text(since))).unzip();
    let state = if error.is_some() { "failing" } else { "ok" };
    SavedStateView { folder: saving.folder.display().to_string(), state, error, since }
}

fn redis(standing: Standing) -> RedisView {
    let Standing { place, error, connected, .. } = standing;
    let (state, error) = if connected { ("connected", None) } else { ("lost", error) };
    RedisView { address: place, state, error }
}
