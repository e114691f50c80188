//! The Consul provider: instances of wanted services by blocking queries, documents from the KV store, and routes that
//! services ask for in their registrations.
//!
//! A read goes: [`client`] asks a [`query`] by its [`transport`], as many at once as its [`budget`] allows; [`answer`]
//! says what the answer is worth; [`health`], [`kv`] or [`catalog`] read its body; [`known`] decides what becomes of it,
//! and [`permission`] finds out whether what it lacks is gone or hidden; [`follow`] is the loop that does all that.
//! [`tags`] makes documents of what instances say, [`feedback`] is where it is written what is wrong, for teams to read. [`token`],
//! [`expiry`], [`rights`] and [`probe`] serve all watches; [`register`] registers the gateway itself. [`unreported`] keeps instances
//! whose checks an agent has forgotten as it started again. [`servers`] notices that another Consul stands at the address.
//!
//! What Consul really does, and what the rules here rest on (measured with 1.8.7, the newer headers from its
//! source): it answers `200 []` to a token without permission, error answers carry an index of 1, a blocked
//! query is not bounded by its `wait` when a server hangs, and agents that stream deny knowing a leader.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Instant;

use self::catalog::Catalog;
use self::claims::Sharing;
use self::client::Client;
use self::feedback::KvBoard;
use self::follow::{Bounds, Follow};
use self::kv::Keys;
use self::register::Registered;
use self::servers::Servers;
use self::service::Instances;
use self::tags::{Claims, Tags};
use self::token::Token;
use super::feedback::{Feedback, Registrations};
use super::register::{Gateway, Registration};
use super::state::Uses;
use super::supervise::{Backoff, supervise};
use super::wanted::keep_wanted;
use super::{Context, Provider, Publisher};
use crate::spec::claims::ClaimBook;
use crate::spec::decode::tag::Rules;
use crate::spec::endpoint::EndpointSpec;
use crate::spec::name::ProviderId;
use crate::spec::settings::{ConsulProvider as Settings, ConsulRegistration};
use crate::spec::source::Source;

mod answer;
mod budget;
mod catalog;
mod claims;
mod client;
mod expiry;
mod feedback;
mod follow;
mod health;
mod known;
mod kv;
mod pace;
mod permission;
mod probe;
mod query;
mod register;
mod rights;
mod servers;
mod service;
mod tags;
mod token;
mod transport;
mod unreported;

pub use client::ClientError;

/// Longest wait of a watch after failures.
const CAP: Duration = Duration::from_secs(30);

/// The Consul provider. It is three for its users: endpoints (`consul`), documents (`consul-kv`), and routes from
/// registrations (`consul-tags`) if they are wanted.
pub struct ConsulProvider {
    client: Arc<Client>,
    bounds: Bounds,
    prefix: String,
    fleet_prefix: String,
    sources: Publisher,
    documents: Publisher,
    tags: Option<(Rules, Publisher)>,
    remembered: BTreeMap<Arc<str>, Arc<[EndpointSpec]>>,
    claims: ClaimBook,
    saved_claims: Option<watch::Sender<Arc<ClaimBook>>>,
    uses: Option<watch::Receiver<Arc<Uses>>>,
    write_status: bool,
    backoff: Backoff,
}

impl ConsulProvider {
    /// A provider that publishes endpoints through `sources`, documents through `documents`, and where the settings
    /// want them routes from registrations through `tags`. It contacts nobody before it runs.
    ///
    /// # Errors
    /// An address that is none, and TLS files that cannot be read.
    pub fn new(
        settings: &Settings,
        sources: Publisher,
        documents: Publisher,
        tags: Option<Publisher>,
    ) -> Result<Self, ClientError> {
        let backoff = Backoff::new(CAP);
        let changed = Arc::clone(&backoff.credentials_changed);
        let token = Token::new(settings.token.as_ref(), settings.token_file.clone(), changed);
        let servers = Servers::new(vec![sources.clone(), documents.clone()]);
        Ok(Self {
            client: Arc::new(Client::new(settings, Arc::new(token), sources.status(), servers)?),
            bounds: Bounds { wait: settings.wait, max_stale: settings.max_stale },
            prefix: settings.kv_prefix.clone(),
            fleet_prefix: settings.fleet_prefix.clone(),
            sources,
            documents,
            tags: settings.tags.clone().zip(tags),
            remembered: BTreeMap::new(),
            claims: ClaimBook::default(),
            saved_claims: None,
            uses: None,
            write_status: settings.write_status,
            backoff,
        })
    }
}

impl ConsulProvider {
    /// With the instances of services that an earlier process knew: what they asked for holds until Consul answers.
    pub fn remembering(self, remembered: BTreeMap<Arc<str>, Arc<[EndpointSpec]>>) -> Self {
        Self { remembered, ..self }
    }

    /// With the claims that an earlier process knew, and where those known are saved.
    pub fn remembering_claims(self, claims: ClaimBook, saved: watch::Sender<Arc<ClaimBook>>) -> Self {
        Self { claims, saved_claims: Some(saved), ..self }
    }

    /// Told when its sources were last used: of more services than may be watched, those used last are.
    pub fn told_of(self, uses: watch::Receiver<Arc<Uses>>) -> Self {
        Self { uses: Some(uses), ..self }
    }

    /// The gateway as a service of the agent, with the provider's token.
    pub fn registration(&self, settings: &ConsulRegistration, gateway: Gateway) -> impl Registration + use<> {
        Registered::new(Arc::clone(&self.client), settings, gateway)
    }
}

#[async_trait]
impl Provider for ConsulProvider {
    async fn run(self: Box<Self>, context: Context) {
        let Self {
            client,
            bounds,
            prefix,
            fleet_prefix,
            sources,
            documents,
            tags,
            remembered,
            claims,
            saved_claims,
            uses,
            write_status,
            backoff,
        } = *self;
        if let Err(error) = client.token.reread().await {
            tracing::warn!("the Consul token is not used yet: {error}");
        }
        let (kick, kicks) = watch::channel(0);
        let follows = |kicks: &watch::Receiver<u64>| (Arc::clone(&client), bounds, kicks.clone());

        let (of_keys, bounds_of_keys, kicks_of_keys) = follows(&kicks);
        let keys = Keys::new(&prefix, documents.clone());
        let keys = supervise(
            Follow::new(keys, of_keys, bounds_of_keys, kicks_of_keys),
            format!("kv:{prefix}"),
            Arc::clone(documents.status()),
            backoff.clone(),
            context.shutdown.clone(),
        );
        let board_at = |prefix: String| KvBoard { client: Arc::clone(&client), prefix };
        let board = |prefix: &str| board_at(format!("{prefix}status/"));
        let claims_board = board_at(format!("{fleet_prefix}claims/"));
        let feedback = write_status.then(|| Feedback {
            board: board(&fleet_prefix),
            former: board(&prefix),
            documents: documents.states(),
            provider: ProviderId::ConsulKv,
            diagnostics: context.diagnostics.clone(),
            registrations: tags
                .as_ref()
                .map(|(_, publisher)| Registrations { sources: sources.states(), tags: publisher.states() }),
        });
        let feedback = async {
            match feedback {
                Some(feedback) => feedback.follow().await,
                None => std::future::pending().await,
            }
        };
        let weighed_by_tags = tags.as_ref().is_some_and(|(rules, _)| rules.native);
        let (wanted, shutdown) = (context.wanted.clone(), context.shutdown.clone());
        let (watched, all_watched) = watch::channel(Arc::clone(&wanted.borrow()));
        let context = match &tags {
            Some(_) => Context { wanted: all_watched, ..context },
            None => context,
        };
        let tags = async {
            let Some((rules, publisher)) = tags else { return };
            let (asking, all_asking) = watch::channel(None);
            let catalog = Catalog { rules: rules.clone(), asking, publisher: publisher.clone() };
            let (client, bounds, kicks) = follows(&kicks);
            let catalog = supervise(
                Follow::new(catalog, client, bounds, kicks),
                "catalog".to_owned(),
                Arc::clone(publisher.status()),
                backoff.clone(),
                shutdown,
            );
            let sources = sources.clone();
            let mut book = claims;
            book.forget_released(claims::now(), claims::millis(rules.ttl));
            let (proposed, all_proposed) = watch::channel(Arc::new(book.clone()));
            let (agreed, all_agreed) = watch::channel(None);
            let sharing = Sharing { board: claims_board, ttl: rules.ttl, proposed: all_proposed, agreed };
            let claims = Claims { book, proposed, agreed: all_agreed, saved: saved_claims };
            let (asking, documents) = (all_asking, publisher);
            let tags = Tags { rules, remembered, asking, wanted, watched, sources, documents, claims };
            tokio::select! {
                () = catalog => {}
                () = sharing.follow() => {}
                () = tags.follow() => {}
            }
        };
        let instances = keep_wanted(ProviderId::Consul, &sources, context, |source, stop| {
            let Source::Consul(service) = source.clone() else { unreachable!("keep_wanted starts our own sources") };
            let (client, bounds, kicks) = follows(&kicks);
            let question = Instances { service, publisher: sources.clone(), weighed_by_tags };
            supervise(
                Follow::new(question, client, bounds, kicks),
                source.to_string(),
                Arc::clone(sources.status()),
                backoff.clone(),
                stop,
            )
        });
        tokio::select! {
            ((), (), ()) = futures_util::future::join3(keys, instances, tags) => {}
            () = client.token.follow(sources.status()) => {}
            () = follow_uses(&client, uses) => {}
            () = client.follow_servers() => {}
            () = feedback => {}
            () = expiry::follow(&client, sources.status(), &backoff.credentials_changed) => {}
            () = rights::follow(&client, &backoff.credentials_changed) => {}
            () = client.transport.follow(|| backoff.answers_again.notify_waiters()) => {}
            () = probe::probe(&client, &kick, &backoff.answers_again) => {}
        }
    }
}

/// Tells the budget of blocked queries which sources are used.
async fn follow_uses(client: &Client, uses: Option<watch::Receiver<Arc<Uses>>>) {
    if let Some(mut uses) = uses {
        while uses.changed().await.is_ok() {
            let now = Arc::clone(&uses.borrow_and_update());
            client.budget.used(&now, Instant::now());
        }
    }
    std::future::pending().await
}
