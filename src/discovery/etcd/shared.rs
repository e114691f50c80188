//! Defines the one watch of all keys below `PREFIX/endpoints/`, which feeds every source of our own layout.
//!
//! A registry pays for each watch, and each pays with counts and lists of its own; so a thousand upstreams share one.
//! Who may read only some of the keys is refused the range as a whole: each source has a watch of its own then, until
//! the credentials change or the range is allowed after all.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::known::Known;
use super::layout::{self, KeyRange};
use super::members::Members;
use super::mirror::Mirror;
use super::view::{Feed, View};
use super::watch::RangeWatch;
use crate::discovery::Publisher;
use crate::discovery::status::WatchStatus;
use crate::discovery::supervise::{Backoff, ErrorKind, Watch, WatchError, around, supervise};
use crate::spec::source::{EtcdFormat, Source};

/// How often it is tried whether the whole range may be read after all.
const AGAIN: Duration = Duration::from_secs(60);

/// Where sources of our own layout are fed from.
pub(super) struct Shared {
    members: Arc<Members>,
    publisher: Publisher,
    backoff: Backoff,
    /// Of all keys, with the slash at its end.
    prefix: String,
    /// The watch's name.
    name: String,
    status: Arc<WatchStatus>,
    known: Arc<Known>,
    /// The first source has joined.
    begins: Notify,
}

/// The watch, and what it does where it is refused.
struct SharedWatch {
    watch: RangeWatch,
    shared: Arc<Shared>,
}

#[async_trait]
impl Watch for SharedWatch {
    async fn session(&mut self, status: &WatchStatus) -> WatchError {
        let Self { watch, shared } = self;
        loop {
            let credentials_changed = shared.backoff.credentials_changed.notified();
            tokio::pin!(credentials_changed);
            credentials_changed.as_mut().enable();
            let error = watch.session(status).await;
            if error.kind != ErrorKind::Denied {
                return error;
            }
            if !shared.known.denied.send_replace(true) {
                tracing::warn!(
                    "{error}: not all keys below {} may be read, so each upstream has a watch of its own, which costs \
                     etcd more",
                    shared.prefix
                );
                shared.publisher.status().forget(&shared.name);
            }
            tokio::select! {
                () = credentials_changed => {}
                () = sleep(around(AGAIN, 0.2)) => {}
            }
        }
    }
}

impl Shared {
    /// Nothing is watched before a source is followed. `prefix` is the provider's.
    pub(super) fn new(prefix: &str, members: Arc<Members>, publisher: Publisher, backoff: Backoff) -> Arc<Self> {
        let name = format!("endpoints:{prefix}");
        let prefix = layout::endpoints(prefix);
        let status = publisher.status().unlisted(&name);
        let known = Arc::new(Known::new(Mirror::of_folders(&prefix), View::of_folders()));
        Arc::new(Self { members, publisher, backoff, prefix, name, status, known, begins: Notify::new() })
    }

    /// Whether the source is one of those that are fed from here.
    pub(super) fn feeds(&self, source: &Source) -> bool {
        let Source::Etcd { prefix, format: EtcdFormat::Fleetgate } = source else { return false };
        let name = prefix.strip_prefix(&self.prefix).and_then(|rest| rest.strip_suffix('/'));
        name.is_some_and(|name| !name.is_empty() && !name.contains('/'))
    }

    /// Watches until shutdown, once somebody is to be fed.
    pub(super) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = self.begins.notified() => {}
        }
        let range = KeyRange::of_prefix(&self.prefix);
        let watch = RangeWatch::new(Arc::clone(&self.members), self.publisher.clone(), range, Arc::clone(&self.known));
        let (name, backoff) = (self.name.clone(), self.backoff.clone());
        let status = Arc::clone(self.publisher.status());
        supervise(SharedWatch { watch, shared: self }, name, status, backoff, shutdown).await;
    }

    /// Feeds a source whose keys begin with `prefix` until it is stopped; afterwards nothing of it is published.
    pub(super) async fn follow(self: Arc<Self>, source: Source, prefix: Arc<str>, stop: CancellationToken) {
        let mut denied = self.known.denied.subscribe();
        let mut before: Option<Arc<Known>> = None;
        while !stop.is_cancelled() {
            let alone = *denied.borrow_and_update();
            if alone {
                let known = self.part(&source, &prefix);
                let range = KeyRange::of_prefix(&prefix);
                let (members, publisher) = (Arc::clone(&self.members), self.publisher.clone());
                let watch = RangeWatch::new(members, publisher, range, Arc::clone(&known));
                let status = Arc::clone(self.publisher.status());
                tokio::select! {
                    () = supervise(watch, source.to_string(), status, self.backoff.clone(), stop.clone()) => {}
                    _ = denied.wait_for(|denied| !denied) => {}
                }
                before = Some(known);
            } else {
                self.join(&source, &prefix, before.take());
                tokio::select! {
                    () = stop.cancelled() => {}
                    _ = denied.wait_for(|denied| *denied) => {}
                }
            }
        }
        self.leave(&prefix);
    }

    /// Shows the source at once what is known, and then what changes. `before` is what a watch of its own knew.
    fn join(&self, source: &Source, prefix: &Arc<str>, before: Option<Arc<Known>>) {
        let status = self.publisher.status();
        status.list(&self.name, &self.status);
        status.share(&source.to_string(), &self.status);
        let pool = prefix.as_bytes();
        {
            let mut inside = self.known.lock();
            let mut feed = None;
            if let Some(before) = before {
                let mut before = before.lock();
                inside.mirror.join(pool, &before.mirror);
                feed = before.view.take(&[]);
            }
            let feed = feed.unwrap_or_else(|| Feed::new(source.clone(), prefix, EtcdFormat::Fleetgate));
            inside.view.add(pool.to_vec(), feed);
            if inside.mirror.next() > 0 {
                inside.publish(Some(&[pool.to_vec()].into()), &self.publisher);
            }
        }
        self.known.joined.notify_one();
        self.begins.notify_one();
    }

    /// Takes the source away, with all that is known of it.
    fn part(&self, source: &Source, prefix: &Arc<str>) -> Arc<Known> {
        self.publisher.status().separate(&source.to_string());
        let pool = prefix.as_bytes();
        let mut inside = self.known.lock();
        let (mirror, feed) = match inside.view.take(pool) {
            Some(feed) => (inside.mirror.part(pool), feed),
            // It was never shown what may be old by now.
            None => (Mirror::default(), Feed::new(source.clone(), prefix, EtcdFormat::Fleetgate)),
        };
        inside.mirror.release_pool(pool);
        Arc::new(Known::new(mirror, View::alone(feed)))
    }

    fn leave(&self, prefix: &str) {
        let mut inside = self.known.lock();
        inside.view.take(prefix.as_bytes());
        inside.mirror.release_pool(prefix.as_bytes());
    }
}
