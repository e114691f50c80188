//! Learns documents and endpoints from etcd: two watches for all documents, one for all endpoints of our own layout, and
//! one for each other wanted source.
//!
//! A watch is a [`watch::RangeWatch`] over a [`layout::KeyRange`]; it keeps a [`mirror::Mirror`], parted into
//! [`pool`]s, and shows it as a [`view::View`]; [`shared`] feeds many sources from one. [`feedback`] is where it is written what is wrong with documents. [`rights`] notices when our user may no longer read what a stream goes on to show. All watches share the [`members::Members`]: clients, tokens, and which member to use.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;

use self::feedback::KeyBoard;
use self::known::Known;
use self::layout::KeyRange;
use self::members::Members;
use self::mirror::Mirror;
use self::shared::Shared;
use self::view::{Feed, View};
use self::watch::RangeWatch;
use super::feedback::Feedback;
use super::register::{Gateway, Registration};
use super::supervise::{Backoff, supervise};
use super::wanted::keep_wanted;
use super::{Context, Provider, Publisher};
use crate::spec::endpoint::Address;
use crate::spec::name::ProviderId;
use crate::spec::settings::{EtcdProvider as Settings, EtcdRegistration};
use crate::spec::source::Source;

mod channel;
mod credential;
pub mod endpoint;
mod failure;
mod feedback;
mod format;
mod known;
pub mod layout;
mod lease;
mod list;
mod members;
pub mod mirror;
mod past;
mod pool;
mod rights;
mod shared;
mod view;
mod watch;

pub use lease::LeasedKey;

/// Longest wait after failures.
const CAP: Duration = Duration::from_secs(15);

/// The etcd provider.
pub struct EtcdProvider {
    prefix: String,
    fleet_prefix: String,
    members: Arc<Members>,
    publisher: Publisher,
    write_status: bool,
}

impl EtcdProvider {
    /// A provider for these settings, which publishes there. It connects when it runs.
    pub fn new(settings: &Settings, publisher: Publisher) -> Self {
        let members = Arc::new(Members::new(settings, Arc::clone(&publisher.status().cost.connections)));
        let (prefix, fleet_prefix) = (settings.prefix.clone(), settings.fleet_prefix.clone());
        Self { prefix, fleet_prefix, members, publisher, write_status: settings.write_status }
    }
}

impl EtcdProvider {
    /// The gateway as a key below `PREFIX/gateways/`, as the provider's user. Whoever counts keys there counts
    /// the gateways that serve.
    ///
    /// # Errors
    /// Its own address is not known.
    pub fn registration(
        &self,
        settings: &EtcdRegistration,
        gateway: Gateway,
    ) -> Result<impl Registration + use<>, String> {
        let Gateway { id, host, port } = gateway;
        let host = host.ok_or("the listener is bound to every address: give `address`")?;
        let address = Address::new(&host, port)?.to_string();
        let value = json!({ "name": id, "address": address, "version": env!("CARGO_PKG_VERSION") });
        let key = format!("{}gateways/{id}", self.prefix);
        Ok(LeasedKey::new(Arc::clone(&self.members), key, value.to_string(), settings.ttl))
    }
}

#[async_trait]
impl Provider for EtcdProvider {
    async fn run(self: Box<Self>, context: Context) {
        let Self { prefix, fleet_prefix, members, publisher, write_status } = *self;
        let status = Arc::clone(publisher.status());
        let backoff = Backoff::new(CAP);
        let [of_documents, of_certificates] = View::documents(&prefix, &publisher);
        let watched = |name: &str, range, view| {
            let known = Arc::new(Known::new(Mirror::default(), view));
            let watch = RangeWatch::new(Arc::clone(&members), publisher.clone(), range, known);
            supervise(watch, format!("{name}:{prefix}"), Arc::clone(&status), backoff.clone(), context.shutdown.clone())
        };
        let documents = watched("documents", KeyRange::of_documents(&prefix), of_documents);
        let certificates = watched("certificates", KeyRange::of_certificates(&prefix), of_certificates);
        let board = |prefix: &str| KeyBoard { members: Arc::clone(&members), prefix: layout::status(prefix) };
        let feedback = write_status.then(|| Feedback {
            board: board(&fleet_prefix),
            former: board(&prefix),
            documents: publisher.states(),
            provider: ProviderId::Etcd,
            registrations: None,
            diagnostics: context.diagnostics.clone(),
        });
        let feedback = async {
            match feedback {
                Some(feedback) => feedback.follow().await,
                None => std::future::pending().await,
            }
        };
        let shared = Shared::new(&prefix, Arc::clone(&members), publisher.clone(), backoff.clone());
        let endpoints = Arc::clone(&shared).run(context.shutdown.clone());
        let sources = keep_wanted(ProviderId::Etcd, &publisher, context, |source, stop| {
            let (shared, members, publisher) = (Arc::clone(&shared), Arc::clone(&members), publisher.clone());
            let (status, backoff) = (Arc::clone(&status), backoff.clone());
            async move {
                let Source::Etcd { prefix, format } = source.clone() else {
                    unreachable!("keep_wanted starts our own sources")
                };
                if shared.feeds(&source) {
                    return shared.follow(source, prefix, stop).await;
                }
                let (name, range) = (source.to_string(), KeyRange::of_prefix(&prefix));
                let view = View::alone(Feed::new(source, &prefix, format));
                let known = Arc::new(Known::new(Mirror::default(), view));
                supervise(RangeWatch::new(members, publisher, range, known), name, status, backoff, stop).await;
            }
        });
        tokio::select! {
            ((), (), (), ()) = futures_util::future::join4(documents, certificates, endpoints, sources) => {}
            () = members.follow(&backoff) => {}
            () = members.follow_rights(&backoff) => {}
            () = feedback => {}
        }
    }
}
