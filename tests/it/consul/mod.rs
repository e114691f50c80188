//! The Consul provider as control sees it: what it publishes while a real Consul changes, fails and comes
//! back, and while a scripted one answers what a real one answers rarely.

mod acl;
mod documents;
mod faults;
mod fleet;
mod instances;
mod scripted;
pub(crate) mod tls;
mod ways;

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fleetgate::discovery::consul::ConsulProvider;
use fleetgate::discovery::state::{Origin, ProviderState, SourceState};
use fleetgate::discovery::status::{ProviderStatus, WatchState, WatchStatus};
use fleetgate::discovery::{Context, Provider, Publisher};
use fleetgate::spec::document::Documents;
use fleetgate::spec::endpoint::RegistryStatus;
use fleetgate::spec::name::ProviderId;
use fleetgate::spec::settings::{ConsulProvider as Settings, Secret};
use fleetgate::spec::source::{ConsulService, Source};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(20);

/// Settings for an agent, with the defaults of the configuration.
pub(super) fn settings(address: &str) -> Settings {
    Settings::new(address)
}

pub(super) fn with_token(address: &str, token: &str) -> Settings {
    Settings { token: Some(Secret::new(token)), ..settings(address) }
}

pub(super) fn with_token_file(address: &str, file: PathBuf) -> Settings {
    Settings { token_file: Some(file), ..settings(address) }
}

pub(super) fn consul(service: &str) -> Source {
    Source::Consul(ConsulService::named(service))
}

/// A running provider, and what it publishes.
pub(super) struct Running {
    sources: watch::Receiver<Arc<ProviderState>>,
    documents: watch::Receiver<Arc<ProviderState>>,
    wanted: watch::Sender<Arc<BTreeSet<Source>>>,
    pub(super) status: Arc<ProviderStatus>,
    pub(super) kv_status: Arc<ProviderStatus>,
    prefix: String,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
    _reread: watch::Sender<u64>,
}

impl Running {
    /// A provider with these settings that watches these services.
    pub(super) fn start(settings: &Settings, services: &[&str]) -> Self {
        drop(crate::support::http());
        let (sources, sources_reader) = Publisher::new(ProviderId::Consul);
        let (documents, documents_reader) = Publisher::new(ProviderId::ConsulKv);
        let (status, kv_status) = (Arc::clone(sources.status()), Arc::clone(documents.status()));
        let provider = ConsulProvider::new(settings, sources, documents, None).unwrap();
        let (wanted, wanted_reader) = watch::channel(Arc::default());
        let (reread, reread_reader) = watch::channel(0);
        let shutdown = CancellationToken::new();
        let (_diagnostics, diagnostics) = watch::channel(Some(Arc::default()));
        let context = Context { wanted: wanted_reader, shutdown: shutdown.clone(), reread: reread_reader, diagnostics };
        let running = Self {
            sources: sources_reader,
            documents: documents_reader,
            wanted,
            status,
            kv_status,
            prefix: settings.kv_prefix.clone(),
            shutdown,
            task: tokio::spawn(Box::new(provider).run(context)),
            _reread: reread,
        };
        running.want(services);
        running
    }

    pub(super) fn want(&self, services: &[&str]) {
        self.wanted.send_replace(Arc::new(services.iter().map(|service| consul(service)).collect()));
    }

    pub(super) fn want_one(&self, service: ConsulService) {
        self.wanted.send_replace(Arc::new(BTreeSet::from([Source::Consul(service)])));
    }

    /// Waits until a source's endpoints are at these addresses.
    pub(super) async fn is_at(&self, service: &ConsulService, addresses: &[&str]) {
        let (mut reader, source) = (self.sources.clone(), Source::Consul(service.clone()));
        let at = |state: &ProviderState| -> Option<Vec<String>> {
            Some(state.sources.get(&source)?.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect())
        };
        let there = |state: &Arc<ProviderState>| at(state).is_some_and(|found| found == addresses);
        let waited = tokio::time::timeout(SOON, reader.wait_for(there)).await.is_ok();
        assert!(waited, "waited for {addresses:?}; last: {:?}", at(&reader.borrow()));
    }

    /// What is published of a service; `None` before anything was.
    pub(super) fn source(&self, service: &str) -> Option<SourceState> {
        self.sources.borrow().sources.get(&consul(service)).cloned()
    }

    /// The instances of a service, one a word; `-` before anything was published.
    pub(super) fn shown(&self, service: &str) -> String {
        self.source(service).map_or_else(|| "-".to_owned(), |state| Shown(&state).to_string())
    }

    pub(super) fn watch(&self, service: &str) -> Arc<WatchStatus> {
        self.status.watch(&consul(service).to_string())
    }

    pub(super) fn kv_watch(&self) -> Arc<WatchStatus> {
        self.kv_status.watch(&format!("kv:{}", self.prefix))
    }

    /// Waits until the published instances read like this.
    #[track_caller]
    pub(super) fn shows(&self, service: &str, wanted: &str) -> impl Future<Output = ()> + '_ {
        let caller = std::panic::Location::caller();
        let (mut reader, service, wanted) = (self.sources.clone(), service.to_owned(), wanted.to_owned());
        async move {
            let as_wanted = |state: &Arc<ProviderState>| {
                state.sources.get(&consul(&service)).is_some_and(|state| Shown(state).to_string() == wanted)
            };
            let waited = tokio::time::timeout(SOON, reader.wait_for(as_wanted)).await;
            let (shown, watch) = (self.shown(&service), self.watch(&service).state());
            assert!(waited.is_ok(), "{caller}: waited {SOON:?} for `{wanted}`; last: `{shown}` ({watch:?})");
        }
    }

    /// Waits until the published documents pass.
    #[track_caller]
    pub(super) fn documents(&self, what: &str, passes: impl Fn(&Documents) -> bool) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        let (mut reader, what) = (self.documents.clone(), what.to_owned());
        async move {
            let passes = |state: &Arc<ProviderState>| state.documents.as_deref().is_some_and(&passes);
            let waited = tokio::time::timeout(SOON, reader.wait_for(passes)).await.map(|_| ());
            assert!(waited.is_ok(), "{caller}: waited {SOON:?} for {what}; last: {:?}", *reader.borrow());
        }
    }

    /// The documents published now.
    pub(super) fn documents_now(&self) -> Option<Documents> {
        self.documents.borrow().documents.as_deref().cloned()
    }

    /// How often something was published of services so far.
    pub(super) fn publications(&self) -> u64 {
        self.status.updates.applied.load(std::sync::atomic::Ordering::Relaxed)
    }

    pub(super) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

/// The text of what a failing watch says; `None` when it does not fail.
pub(super) fn failure(watch: &WatchStatus) -> Option<String> {
    match watch.state() {
        WatchState::Failing { error, .. } => Some(error),
        WatchState::Starting | WatchState::Live => None,
    }
}

/// `node/id=weight` for each instance, with a mark for its status; `held` in front when it is.
struct Shown<'a>(&'a SourceState);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        if self.0.origin == Origin::Held {
            words.push("held".to_owned());
        }
        let mut instances: Vec<_> = self.0.endpoints.iter().collect();
        instances.sort_by(|a, b| a.id.cmp(&b.id));
        for instance in instances {
            let id = instance.id.rsplit('/').next().unwrap();
            let status = match instance.status {
                RegistryStatus::Unchecked => "?",
                RegistryStatus::Passing => "",
                RegistryStatus::Warning => "!",
                RegistryStatus::Critical => "x",
                RegistryStatus::Maintenance => "m",
            };
            words.push(format!("{id}{status}"));
        }
        f.write_str(&words.join(" "))
    }
}
