//! Defines how a provider keeps one task for each wanted source.

use std::collections::BTreeMap;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Context, Publisher};
use crate::spec::name::ProviderId;
use crate::spec::source::Source;

struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Keeps a task of `start` for each wanted source of `provider` until shutdown; a task ends when its token is
/// cancelled. What a source published is dropped only after its task ended, so that it cannot come back.
pub async fn keep_wanted<Task>(
    provider: ProviderId,
    publisher: &Publisher,
    mut context: Context,
    mut start: impl FnMut(Source, CancellationToken) -> Task,
) where
    Task: Future<Output = ()> + Send + 'static,
{
    let mut running: BTreeMap<Source, Running> = BTreeMap::new();
    loop {
        let wanted = context.wanted.borrow_and_update().clone();
        let gone: Vec<Source> = running.keys().filter(|source| !wanted.contains(source)).cloned().collect();
        for source in gone {
            if let Some(entry) = running.remove(&source) {
                end(entry).await;
                publisher.forget(&source);
                publisher.status().forget(&source.to_string());
            }
        }
        for source in wanted.iter().filter(|source| source.provider() == provider) {
            if !running.contains_key(source) {
                let stop = context.shutdown.child_token();
                let task = tokio::spawn(start(source.clone(), stop.clone()));
                running.insert(source.clone(), Running { stop, task });
            }
        }
        tokio::select! {
            () = context.shutdown.cancelled() => break,
            changed = context.wanted.changed() => if changed.is_err() {
                // Control is gone, which happens at shutdown only: what runs goes on until it is told to end.
                context.shutdown.cancelled().await;
                break;
            },
        }
    }
    for entry in running.into_values() {
        end(entry).await;
    }
}

async fn end(entry: Running) {
    entry.stop.cancel();
    if let Err(error) = entry.task.await {
        tracing::error!("a watch ended badly: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use tokio::sync::watch;

    use super::*;
    use crate::discovery::state::SourceState;
    use crate::spec::source::ConsulService;

    fn dns(host: &str) -> Source {
        Source::Dns { host: host.into() }
    }

    #[tokio::test]
    async fn tasks_follow_the_wanted_sources() {
        let (publisher, mut reader) = Publisher::new(ProviderId::Dns);
        let consul = Source::Consul(ConsulService::named("a"));
        let (wanted, wanted_reader) = watch::channel(Arc::new(BTreeSet::from([dns("a"), consul.clone()])));
        let (_reread, reread) = watch::channel(0);
        let (_diagnostics, diagnostics) = watch::channel(Some(Arc::default()));
        let context = Context { wanted: wanted_reader, shutdown: CancellationToken::new(), reread, diagnostics };
        let shutdown = context.shutdown.clone();
        let of_tasks = publisher.clone();
        let keeper = tokio::spawn(async move {
            let publisher = of_tasks.clone();
            keep_wanted(ProviderId::Dns, &publisher, context, |source, stop| {
                let publisher = of_tasks.clone();
                async move {
                    let known = SourceState::live([], []);
                    publisher.source(&source, known);
                    stop.cancelled().await;
                }
            })
            .await;
        });
        let has = |hosts: &'static [&'static str]| {
            move |state: &Arc<crate::discovery::state::ProviderState>| {
                state.sources.keys().cloned().collect::<Vec<_>>()
                    == hosts.iter().map(|host| dns(host)).collect::<Vec<_>>()
            }
        };
        reader.wait_for(has(&["a"])).await.expect("publisher lives");
        wanted.send_replace(Arc::new(BTreeSet::from([dns("b"), consul])));
        reader.wait_for(has(&["b"])).await.expect("publisher lives");
        shutdown.cancel();
        keeper.await.expect("ends at shutdown");
    }
}
