//! A provider run inside the test, with everything it ever published at hand.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fleetgate::discovery::state::{Origin, ProviderState, SourceState};
use fleetgate::discovery::status::{WatchState, WatchStatus};
use fleetgate::discovery::{Context, Provider, Publisher};
use fleetgate::spec::document::Documents;
use fleetgate::spec::name::ProviderId;
use fleetgate::spec::source::Source;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::wait;

/// How long anything may take that takes milliseconds when all is well.
const SOON: Duration = Duration::from_secs(40);

/// A running provider; ends when dropped.
pub struct Running {
    pub publisher: Publisher,
    wanted: watch::Sender<Arc<BTreeSet<Source>>>,
    reread: watch::Sender<u64>,
    shutdown: CancellationToken,
    history: Arc<Mutex<Vec<Arc<ProviderState>>>>,
    task: Option<JoinHandle<()>>,
}

impl Running {
    /// Runs what `make` makes of a publisher.
    pub fn start<P: Provider + 'static>(
        id: ProviderId,
        wanted: impl IntoIterator<Item = Source>,
        make: impl FnOnce(Publisher) -> P,
    ) -> Self {
        let (publisher, mut reader) = Publisher::new(id);
        let (wanted, of_wanted) = watch::channel(Arc::new(wanted.into_iter().collect()));
        let (reread, of_reread) = watch::channel(0);
        let shutdown = CancellationToken::new();
        let history: Arc<Mutex<Vec<Arc<ProviderState>>>> = Arc::default();
        let record = Arc::clone(&history);
        tokio::spawn(async move {
            while reader.changed().await.is_ok() {
                let state = Arc::clone(&reader.borrow_and_update());
                record.lock().unwrap().push(state);
            }
        });
        let (_diagnostics, diagnostics) = watch::channel(Some(Arc::default()));
        let context = Context { wanted: of_wanted, shutdown: shutdown.clone(), reread: of_reread, diagnostics };
        let task = tokio::spawn(Box::new(make(publisher.clone())).run(context));
        Self { publisher, wanted, reread, shutdown, history, task: Some(task) }
    }

    /// Replaces the set of wanted sources.
    pub fn want(&self, wanted: impl IntoIterator<Item = Source>) {
        self.wanted.send_replace(Arc::new(wanted.into_iter().collect()));
    }

    /// What SIGHUP does.
    pub fn reread(&self) {
        self.reread.send_modify(|count| *count += 1);
    }

    /// What is published now.
    pub fn state(&self) -> Arc<ProviderState> {
        self.publisher.current()
    }

    /// Everything that was published, in order.
    pub fn history(&self) -> Vec<Arc<ProviderState>> {
        self.history.lock().unwrap().clone()
    }

    /// What is known of a source.
    pub fn source(&self, source: &Source) -> Option<SourceState> {
        self.state().sources.get(source).cloned()
    }

    /// A source's endpoints as `id address`, in order; `None` before the first answer.
    pub fn endpoints(&self, source: &Source) -> Option<Vec<String>> {
        self.source(source).map(|known| listed(&known))
    }

    /// Waits until a source is live and has exactly these endpoints, as `id address`.
    #[track_caller]
    pub fn shows(&self, source: &Source, endpoints: &[&str]) -> impl Future<Output = ()> {
        let wanted: Vec<String> = endpoints.iter().map(|endpoint| (*endpoint).to_owned()).collect();
        let publisher = self.publisher.clone();
        let source = source.clone();
        wait::until_ok(SOON, &format!("{source} to be {wanted:?}"), move || {
            let state = publisher.current();
            let known = state.sources.get(&source);
            let result = match known {
                Some(known) if known.origin == Origin::Live && listed(known) == wanted => Ok(()),
                other => Err(format!("{other:?}; {:?}", publisher.status().watches())),
            };
            async move { result }
        })
    }

    /// Waits until the documents are as wanted.
    #[track_caller]
    pub fn documents<What, Holds>(
        &self,
        what: What,
        holds: Holds,
    ) -> impl Future<Output = Arc<Documents>> + use<What, Holds>
    where
        What: AsRef<str>,
        Holds: Fn(&Documents) -> bool,
    {
        let publisher = self.publisher.clone();
        wait::until_ok(SOON, what.as_ref(), move || {
            let documents = publisher.current().documents.clone();
            let result = match documents {
                Some(documents) if holds(&documents) => Ok(documents),
                other => Err(format!("{other:?}; {:?}", publisher.status().watches())),
            };
            async move { result }
        })
    }

    /// The status of the watch with this name.
    pub fn watch(&self, name: &str) -> Arc<WatchStatus> {
        self.publisher.status().watch(name)
    }

    /// Waits until a watch fails; returns how.
    #[track_caller]
    pub fn failing(&self, name: &str) -> impl Future<Output = String> {
        let watch = self.watch(name);
        wait::until_ok(SOON, &format!("{name} to fail"), move || {
            let state = watch.state();
            async move {
                match state {
                    WatchState::Failing { error, .. } => Ok(error),
                    other => Err(other),
                }
            }
        })
    }

    /// Ends the provider and waits for its end: it must heed its shutdown.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        if let Some(task) = self.task.take() {
            tokio::time::timeout(SOON, task).await.expect("the provider ends").expect("and ends well");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn listed(known: &SourceState) -> Vec<String> {
    known.endpoints.iter().map(|endpoint| format!("{} {}", endpoint.id, endpoint.address)).collect()
}
