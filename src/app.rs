//! The only wiring: what exists, who gives what to whom, and the order of start and stop.
//!
//! Start: bind everything (a failed bind leaves nothing behind), then discovery, control, health, workers, admin.
//! Stop: out of the registries, not ready, serve on for `shutdown_delay`, drain within `shutdown_grace`, then everything else.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::discovering::{Discovering, claims_identity, identities, note_registration, standing};
pub use self::signals::{Signals, Wish};
use crate::admin::{self, Readiness};
use crate::config::{Running, Start};
use crate::control::command::Commands;
use crate::control::history::{Former, History, IndexOf};
use crate::control::saved::claims::SavedClaims;
use crate::control::saved::{Store, Verified};
use crate::control::{Control, Prohibitions, Rules, uses};
use crate::discovery::Context;
use crate::discovery::register::{self, Event};
use crate::discovery::status::ProviderStatus;
use crate::health::Prober;
use crate::middleware::fleet::Fleet;
use crate::proxy::{self, DataPlane, Front, TlsFront};
use crate::snapshot::Snapshot;
use crate::spec::name::{Name, ProviderId};
use crate::spec::problem::Problem;
use crate::spec::settings::{Redis as RedisSettings, Settings};
use crate::telemetry::outputs::Outputs;
use crate::telemetry::prometheus::Metrics;
use crate::telemetry::stats::WorkersStats;
use crate::telemetry::{self, Logs};

mod descriptors;
mod discovering;
mod signals;

/// Threads of the control plane: discovery, control, health checks, admin.
const CONTROL_THREADS: usize = 2;

/// How long the control plane may take to end once the workers have.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How long leaving the registries may take before a stop goes on.
const LEAVE: Duration = Duration::from_secs(4);

/// How long a start that a signal interrupts may take to come to an end.
const START_GRACE: Duration = Duration::from_secs(2);

/// Why the gateway did not start.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {cause}")]
pub struct StartError {
    what: String,
    cause: String,
}

impl StartError {
    fn new(what: impl Into<String>, cause: impl ToString) -> Self {
        Self { what: what.into(), cause: cause.to_string() }
    }
}

/// Why a run failed.
#[derive(Debug)]
pub enum RunError {
    /// The configuration has these problems.
    Configuration(Vec<Problem>),
    /// Nothing was served.
    Start(String),
}

impl From<StartError> for RunError {
    fn from(error: StartError) -> Self {
        Self::Start(error.to_string())
    }
}

/// Runs the gateway with the settings that `load` gives until a signal ends it. Signals are obeyed from the first instant
/// on. Listeners' lines and `ready` go to standard output.
///
/// # Errors
/// What kept it from starting.
pub fn run(
    load: impl FnOnce() -> Result<Start, Vec<Problem>> + Send + 'static,
    outputs: &Arc<Outputs>,
) -> Result<(), RunError> {
    let runtime = runtime()?;
    let ended = runtime.block_on(until_stopped(load, outputs));
    // A second signal leaves workers behind; nobody waits for them.
    runtime.shutdown_background();
    ended
}

async fn until_stopped(
    load: impl FnOnce() -> Result<Start, Vec<Problem>> + Send + 'static,
    outputs: &Arc<Outputs>,
) -> Result<(), RunError> {
    let listening = Signals::listen().map_err(|error| StartError::new("cannot listen for signals", error));
    let mut signals = listening?;
    // In a task of its own: a disk that hangs must not keep a signal from being obeyed.
    let mut starting = tokio::spawn(start(load, Arc::clone(outputs)));
    let mut wished = Vec::new();
    let mut stops = false;
    let started = tokio::select! {
        started = &mut starting => Some(started),
        () = signals.stop(|wish| wished.push(wish)) => {
            stops = true;
            tokio::time::timeout(START_GRACE, &mut starting).await.ok()
        }
    };
    let Some(started) = started else {
        tracing::warn!("stopped while it was starting");
        return Ok(());
    };
    let app = started.map_err(|error| RunError::Start(format!("cannot start: {error}")))??;
    let obeying = app.obeying();
    wished.into_iter().for_each(|wish| obeying.obey(wish));
    app.announce(&mut outputs.stdout());
    if !stops {
        let readiness = app.readiness();
        stops = tokio::select! {
            () = signals.stop(|wish| obeying.obey(wish)) => true,
            () = readiness.settled() => false,
        };
    }
    if !stops {
        say(&mut outputs.stdout(), "ready\n");
        signals.stop(|wish| obeying.obey(wish)).await;
    }
    tokio::select! {
        () = app.stop() => {}
        () = signals.stop_again(|wish| obeying.obey(wish)) => tracing::warn!("ended at once by a second signal"),
    }
    Ok(())
}

async fn start(
    load: impl FnOnce() -> Result<Start, Vec<Problem>> + Send + 'static,
    outputs: Arc<Outputs>,
) -> Result<App, RunError> {
    let loaded = tokio::task::spawn_blocking(load).await;
    let loaded = loaded.map_err(|error| RunError::Start(format!("cannot read the configuration: {error}")))?;
    let Start { settings, warnings, running } = loaded.map_err(RunError::Configuration)?;
    telemetry::log::init(&settings.telemetry, &outputs).map_err(|error| RunError::Start(error.to_string()))?;
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    Ok(App::start(settings, running, &outputs).await?)
}

/// The control plane's runtime.
///
/// # Errors
/// When the system gives no threads.
pub fn runtime() -> Result<tokio::runtime::Runtime, StartError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .map_err(|error| StartError::new("cannot start the control plane", error))
}

/// A running gateway.
pub struct App {
    listeners: Vec<(Name, SocketAddr)>,
    admin: SocketAddr,
    readiness: Arc<Readiness>,
    plane: DataPlane,
    logs: Logs,
    history: Arc<History>,
    reread: watch::Sender<u64>,
    tasks: JoinSet<()>,
    registered: JoinSet<()>,
    leave: CancellationToken,
    shutdown: CancellationToken,
    delay: Duration,
    grace: Duration,
}

impl App {
    /// Starts a gateway on the present runtime. It serves when this returns; it is ready when its readiness says so.
    /// `running`: what the main file is compared with from then on.
    ///
    /// # Errors
    /// What could not be bound, opened or read, and why.
    pub async fn start(settings: Settings, running: Option<Running>, outputs: &Outputs) -> Result<Self, StartError> {
        let started = Instant::now();
        let limit = descriptors::raise();
        let workers = settings.runtime.workers;
        let (mut bound, mut followed_files) = (Vec::new(), Vec::new());
        for (name, listener) in &settings.listeners {
            let tls = listener.tls.as_ref().map(|tls| TlsFront::open(name.as_str(), tls, listener.http2));
            let tls = tls.transpose().map_err(|error| StartError::new(format!("listeners.{name}.tls"), error))?;
            let (tls, files) = tls.unzip();
            followed_files.extend(files);
            let sockets = proxy::bind(listener.address, workers, listener.idle_timeout).map_err(|error| {
                StartError::new(format!("listeners.{name}: cannot bind {}", listener.address), error)
            })?;
            bound.push(Front { name: name.clone(), settings: listener.clone(), bound: sockets, tls });
        }
        let listeners: Vec<_> = bound.iter().map(|front| (front.name.clone(), front.bound.address)).collect();
        let admin = tokio::net::TcpListener::bind(settings.admin.address)
            .await
            .map_err(|error| StartError::new(format!("admin: cannot bind {}", settings.admin.address), error))?;
        let admin_address =
            admin.local_addr().map_err(|error| StartError::new("admin: the socket has no address", error))?;
        // Before the file is opened, which ends a line that an earlier process wrote in part.
        let events = settings.telemetry.events.as_ref();
        let former = events.map_or_else(Former::default, |events| read_back(&events.path, SystemTime::now()));
        let logs = Logs::start(&settings.telemetry, outputs).map_err(|(place, error)| StartError::new(place, error))?;
        let audit = logs.audit();

        let shutdown = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for files in followed_files {
            let shutdown = shutdown.clone();
            tasks.spawn(async move { shutdown.run_until_cancelled(files).await.unwrap_or_default() });
        }
        let (reread, rereads) = watch::channel(0);
        let (wanted, wanteds) = watch::channel(Arc::new(BTreeSet::new()));
        let (diagnostics, diagnosed) = watch::channel(None);
        let (store, loaded) = Store::open(&settings.discovery.state_dir, identities(&settings.discovery));
        let saved_claims = claims_identity(&settings.discovery).and_then(|registry| store.claims(&registry));
        let claims = saved_claims.as_ref().map(SavedClaims::load).unwrap_or_default();
        let (keep_claims, kept_claims) = watch::channel(Arc::new(claims.clone()));
        let discovery = Discovering::of(&settings.discovery, &listeners, &loaded, (claims, keep_claims), running)?;
        if let Some(saved_claims) = saved_claims {
            tasks.spawn(saved_claims.keep(kept_claims, shutdown.clone()));
        }
        let statuses = discovery.statuses;
        for provider in discovery.providers {
            let (wanted, diagnostics, reread) = (wanteds.clone(), diagnosed.clone(), rereads.clone());
            let context = Context { wanted, shutdown: shutdown.clone(), reread, diagnostics };
            tasks.spawn(provider.run(context));
        }

        let (snapshot, snapshots) = watch::channel(Arc::new(Snapshot::empty()));
        let rules = Rules::of(&settings);
        let prohibitions = Prohibitions {
            admin: Some(admin_address),
            listeners: listeners.iter().map(|(_, address)| *address).collect(),
            tag_networks: settings
                .discovery
                .consul
                .as_ref()
                .map_or_else(Vec::new, |consul| consul.tag_networks.clone()),
        };
        let fleet = join_fleet(settings.redis.as_ref(), &mut tasks, &shutdown)?;
        let failing = watch::Sender::new(BTreeSet::new());
        let (commands, orders) = Commands::channel();
        let (commands, saver) = (commands.saved_by(store.saver()), store.saver());
        let (shown, showing) = watch::channel(None);
        let history = History::resuming(former, index_of(&statuses), shutdown.clone());
        history.audited(Arc::clone(&audit));
        history.written_to(logs.events());
        history.starts();
        let (keeping, ends) = (logs.clone().keep(), shutdown.clone());
        tasks.spawn(async move { ends.run_until_cancelled(keeping).await.unwrap_or_default() });
        let control = Control {
            providers: discovery.states,
            rules,
            labels: settings.runtime.labels.clone(),
            prohibitions,
            fleet: Arc::clone(&fleet),
            gateways: discovery.gateways,
            wanted,
            diagnostics,
            snapshot,
            orders,
            overlay: watch::channel(Arc::new(loaded.overlay)).0,
            accepts: discovery.accepts,
            history: Arc::clone(&history),
            wipe_hold: settings.discovery.wipe_hold,
            damping: settings.discovery.damping,
            optional: settings.discovery.optional.clone(),
            failing: failing.subscribe(),
            saved: loaded.states,
            shown,
        };
        tasks.spawn(control.run(shutdown.clone()));
        let saved_errors = store.errors();
        let of_watches = statuses.clone();
        tasks.spawn(store.keep(loaded.book, showing, move |id| verified(&of_watches, id), shutdown.clone()));
        let descriptors = descriptors::divide(limit, &settings);
        let prober = Prober::new(&descriptors);
        let (noted, flips, followed) = (Arc::clone(&history), prober.flips(), snapshots.clone());
        tasks.spawn(async move { noted.follow_health(flips, followed).await });
        for status in &statuses {
            let failing = failing.clone();
            tasks.spawn(note_failures(Arc::clone(status), Arc::clone(&history), failing, shutdown.clone()));
        }
        tasks.spawn(prober.run(snapshots.clone(), shutdown.clone()));

        let readiness = Readiness::new();
        let (following, limit) = (Arc::clone(&readiness), settings.runtime.ready_timeout);
        let followed = snapshots.clone();
        tasks.spawn(async move { following.follow(followed, limit).await });

        let (mut registered, leave) = (JoinSet::new(), CancellationToken::new());
        for (status, registration) in discovery.registrations {
            let standing = standing(&readiness);
            let tell = move |place: &str, event: Event| {
                note_registration(&status, place, &event);
                register::log(place, event);
            };
            registered.spawn(register::keep(registration, standing, leave.clone(), tell));
        }

        let stats = Arc::new(WorkersStats::default());
        let plane = DataPlane::start(workers, bound, &snapshots, &stats, &logs, &descriptors)
            .map_err(|error| StartError::new("cannot start the workers", error))?;
        if let Some(uses) = discovery.uses {
            let following = uses::follow(Arc::clone(&stats), snapshots.clone(), uses);
            let shutdown = shutdown.clone();
            tasks.spawn(async move { shutdown.run_until_cancelled(following).await.unwrap_or_default() });
        }

        let unreadable = stats.unreadable();
        let metrics = metrics(&snapshots, &statuses, &fleet, stats, &logs, started)
            .and_then(|metrics| metrics.register(saved_errors).map(|()| metrics))
            .and_then(|metrics| metrics.register(saver).map(|()| metrics))
            .and_then(|metrics| metrics.register(Arc::clone(&descriptors)).map(|()| metrics))
            .map_err(|error| StartError::new("metrics", error))?;
        let noted = Arc::clone(&history);
        let (delay, grace) = (settings.runtime.shutdown_delay, settings.runtime.shutdown_grace);
        let state = admin::State {
            settings: Arc::new(settings),
            listeners: listeners.clone(),
            snapshot: snapshots,
            providers: statuses,
            fleet,
            audit,
            commands,
            history,
            logs: logs.states(),
            unreadable,
            descriptors,
            metrics,
            readiness: Arc::clone(&readiness),
            started,
        };
        tasks.spawn(admin::serve(admin, state, shutdown.clone()));
        let admin = admin_address;
        Ok(Self {
            listeners,
            admin,
            readiness,
            plane,
            logs,
            history: noted,
            reread,
            tasks,
            registered,
            leave,
            shutdown,
            delay,
            grace,
        })
    }

    /// Listeners with the addresses they are bound to.
    pub fn listeners(&self) -> &[(Name, SocketAddr)] {
        &self.listeners
    }

    /// The admin API's address.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Whether it should get traffic.
    pub fn readiness(&self) -> Arc<Readiness> {
        Arc::clone(&self.readiness)
    }

    /// What obeys signals for it, also while it stops.
    pub fn obeying(&self) -> Obeying {
        Obeying { reread: self.reread.clone(), logs: self.logs.clone() }
    }

    fn announce(&self, out: &mut dyn Write) {
        let lines = self.listeners.iter().map(|(name, address)| format!("listener {name} {address}\n"));
        say(out, &lines.chain([format!("admin {}\n", self.admin)]).collect::<String>());
    }

    /// Stops: registered no more, not ready, still serving, drained, ended.
    pub async fn stop(mut self) {
        tracing::info!("stopping");
        self.history.stops();
        self.leave.cancel();
        let left = async { while self.registered.join_next().await.is_some() {} };
        if tokio::time::timeout(LEAVE, left).await.is_err() {
            tracing::warn!("a registry does not answer: this gateway stays registered until its time to live is over");
        }
        self.readiness.drain();
        tokio::time::sleep(self.delay).await;
        self.plane.drain(self.grace).await;
        self.shutdown.cancel();
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_WORDS, ended).await.is_err() {
            tracing::warn!("a task of the control plane did not end in time");
        }
        drop(self.history);
        self.logs.finish();
    }
}

/// Does what signals ask of a gateway.
#[derive(Clone, Debug)]
pub struct Obeying {
    reread: watch::Sender<u64>,
    logs: Logs,
}

impl Obeying {
    /// Does it, and waits for nothing.
    pub fn obey(&self, wish: Wish) {
        match wish {
            Wish::Stop => {}
            Wish::Reload => {
                self.reread.send_modify(|count| *count += 1);
                self.logs.reopen();
            }
            Wish::Reopen => self.logs.reopen(),
        }
    }
}

/// What this gateway knows of the others, and what keeps that up to date.
#[cfg(feature = "redis")]
fn join_fleet(
    settings: Option<&RedisSettings>,
    tasks: &mut JoinSet<()>,
    shutdown: &CancellationToken,
) -> Result<Arc<Fleet>, StartError> {
    let Some(settings) = settings else { return Ok(Arc::default()) };
    let redis = Arc::new(crate::middleware::fleet::Redis::new(settings));
    let (keeping, shutdown) = (Arc::clone(&redis).keep(), shutdown.clone());
    tasks.spawn(async move { shutdown.run_until_cancelled(keeping).await.unwrap_or_default() });
    Ok(Arc::new(Fleet::with(redis)))
}

#[cfg(not(feature = "redis"))]
fn join_fleet(
    settings: Option<&RedisSettings>,
    _: &mut JoinSet<()>,
    _: &CancellationToken,
) -> Result<Arc<Fleet>, StartError> {
    match settings {
        None => Ok(Arc::default()),
        Some(_) => Err(StartError::new("redis", "this binary was built without the feature `redis`")),
    }
}

/// When each watch of a provider was confirmed.
fn verified(statuses: &[Arc<ProviderStatus>], id: ProviderId) -> Verified {
    statuses.iter().find(|status| status.id() == id).map(|status| status.verified()).unwrap_or_default()
}

fn metrics(
    snapshots: &watch::Receiver<Arc<Snapshot>>,
    statuses: &[Arc<ProviderStatus>],
    fleet: &Arc<Fleet>,
    stats: Arc<WorkersStats>,
    logs: &Logs,
    started: Instant,
) -> prometheus::Result<Metrics> {
    let metrics = Metrics::new()?;
    metrics.register(stats)?;
    metrics.register(logs.states())?;
    let (snapshot, providers) = (snapshots.clone(), statuses.to_vec());
    metrics.register(admin::metrics::Picture { snapshot, providers, fleet: Arc::clone(fleet), started })?;
    Ok(metrics)
}

/// What earlier processes wrote of their history; what can't be read is not needed to serve.
fn read_back(path: &Path, now: SystemTime) -> Former {
    let former = Former::read(path, now).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "earlier events can't be read back");
        Former::default()
    });
    let (events, damaged) = former.counts();
    if damaged > 0 {
        tracing::warn!(path = %path.display(), events, damaged, "lines of earlier events are damaged, and skipped");
    }
    former
}

/// Tells the history indexes and revisions.
fn index_of(statuses: &[Arc<ProviderStatus>]) -> Box<IndexOf> {
    let statuses: BTreeMap<ProviderId, Arc<ProviderStatus>> =
        statuses.iter().map(|status| (status.id(), Arc::clone(status))).collect();
    Box::new(move |provider, source| {
        let watch = source.map(ToString::to_string);
        statuses.get(&provider)?.index(watch.as_deref())
    })
}

/// Tells the history which of a provider's watches fail, and control which providers failed, whenever that changes.
async fn note_failures(
    status: Arc<ProviderStatus>,
    history: Arc<History>,
    failing: watch::Sender<BTreeSet<ProviderId>>,
    shutdown: CancellationToken,
) {
    let mut turns = status.turns();
    loop {
        turns.borrow_and_update();
        let watches = status.failing();
        if !watches.is_empty() {
            failing.send_if_modified(|failing| failing.insert(status.id()));
        }
        history.watches(status.id(), watches);
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = turns.changed() => if changed.is_err() { return },
        }
    }
}

/// Hands a text over to whoever writes it. Nobody listens any more when that fails.
fn say(out: &mut dyn Write, text: &str) {
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
