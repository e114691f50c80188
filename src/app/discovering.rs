//! Makes the providers and registrations that the settings ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{broadcast, watch};

use super::StartError;
use crate::admin::Readiness;
use crate::config::{Changes, Running};
use crate::control::saved::{Identity, Loaded, SavedState, Verified};
use crate::discovery::consul::ConsulProvider;
use crate::discovery::dns::DnsProvider;
use crate::discovery::file::{FileProvider, StaticChanges, StaticCheck};
use crate::discovery::register::{Event, Gateway, Registration, Standing};
use crate::discovery::state::{ProviderState, Uses};
use crate::discovery::status::{ProviderStatus, Registered};
use crate::discovery::{Provider, Publisher};
use crate::spec::claims::ClaimBook;
use crate::spec::decode::SavedForms;
use crate::spec::endpoint::EndpointSpec;
use crate::spec::hold::HeldPart;
use crate::spec::name::{Name, ProviderId};
use crate::spec::settings::{Discovery, EtcdProvider as EtcdSettings};
use crate::spec::source::{ConsulService, Source};

/// The providers that are on.
#[derive(Default)]
pub(super) struct Discovering {
    /// When an earlier process confirmed what.
    verified: BTreeMap<ProviderId, Verified>,
    /// What it made documents of.
    remembered: BTreeMap<ProviderId, Arc<SavedForms>>,
    pub(super) providers: Vec<Box<dyn Provider>>,
    pub(super) states: BTreeMap<ProviderId, watch::Receiver<Arc<ProviderState>>>,
    pub(super) statuses: Vec<Arc<ProviderStatus>>,
    pub(super) accepts: BTreeMap<ProviderId, broadcast::Sender<HeldPart>>,
    /// Where it is told which sources are used, if anybody wants to know.
    pub(super) uses: Option<watch::Sender<Arc<Uses>>>,
    /// Each with the status of its provider.
    pub(super) registrations: Vec<(Arc<ProviderStatus>, Box<dyn Registration>)>,
    /// Where they and other gateways are found.
    pub(super) gateways: BTreeSet<Source>,
}

impl Discovering {
    /// Those of the settings.
    ///
    /// # Errors
    /// What in them cannot be used.
    pub(super) fn of(
        settings: &Discovery,
        listeners: &[(Name, SocketAddr)],
        loaded: &Loaded,
        claims: (ClaimBook, watch::Sender<Arc<ClaimBook>>),
        running: Option<Running>,
    ) -> Result<Self, StartError> {
        let remembered = loaded.states.iter().filter_map(|(id, saved)| Some((*id, Arc::clone(saved.forms()?))));
        let (mut verified, remembered) = (loaded.verified.clone(), remembered.collect());
        // The watch of the catalog starts without its saved index: what it reads is checked against the saved instances.
        verified.remove(&ProviderId::ConsulTags);
        let mut all = Self { verified, remembered, ..Self::default() };
        let publisher = all.publisher(ProviderId::File);
        let files = FileProvider::new(&settings.file, publisher).comparing(running.map(static_check));
        all.providers.push(Box::new(files));
        if let Some(consul) = &settings.consul {
            let (sources, documents) = (all.publisher(ProviderId::Consul), all.publisher(ProviderId::ConsulKv));
            let tags = consul.tags.as_ref().map(|_| all.publisher(ProviderId::ConsulTags));
            let (uses, used) = watch::channel(Arc::default());
            all.uses = Some(uses);
            let provider = ConsulProvider::new(consul, sources, documents, tags)
                .map_err(|error| StartError::new("discovery.consul", error))?
                .remembering(services(loaded))
                .remembering_claims(claims.0, claims.1)
                .told_of(used);
            if let Some(register) = &consul.register {
                let gateway = Gateway::new(&register.place, listeners)
                    .map_err(|error| StartError::new("discovery.consul.register", error))?;
                let registration = provider.registration(register, gateway);
                all.gateways.insert(Source::Consul(ConsulService::named(register.service.as_str())));
                all.register(ProviderId::Consul, registration);
            }
            all.providers.push(Box::new(provider));
        }
        if let Some(etcd) = &settings.etcd {
            all.add_etcd(etcd, listeners)?;
        }
        let publisher = all.publisher(ProviderId::Dns);
        all.providers.push(Box::new(DnsProvider::new(publisher)));
        Ok(all)
    }

    #[cfg(feature = "etcd")]
    fn add_etcd(&mut self, settings: &EtcdSettings, listeners: &[(Name, SocketAddr)]) -> Result<(), StartError> {
        let publisher = self.publisher(ProviderId::Etcd);
        let provider = crate::discovery::etcd::EtcdProvider::new(settings, publisher);
        if let Some(register) = &settings.register {
            let registration = Gateway::new(&register.place, listeners)
                .and_then(|gateway| provider.registration(register, gateway))
                .map_err(|error| StartError::new("discovery.etcd.register", error))?;
            self.register(ProviderId::Etcd, registration);
            let prefix = format!("{}gateways/", settings.prefix).into();
            self.gateways.insert(Source::Etcd { prefix, format: crate::spec::source::EtcdFormat::Gateway });
        }
        self.providers.push(Box::new(provider));
        Ok(())
    }

    #[cfg(not(feature = "etcd"))]
    fn add_etcd(&mut self, _: &EtcdSettings, _: &[(Name, SocketAddr)]) -> Result<(), StartError> {
        Err(StartError::new("discovery.etcd", "this binary was built without the feature `etcd`"))
    }

    fn register(&mut self, id: ProviderId, registration: impl Registration + 'static) {
        let Some(status) = self.statuses.iter().find(|status| status.id() == id) else { return };
        status.set_registered(Registered { place: registration.place().to_owned(), ..Registered::default() });
        self.registrations.push((Arc::clone(status), Box::new(registration)));
    }

    fn publisher(&mut self, id: ProviderId) -> Publisher {
        let verified = self.verified.remove(&id).unwrap_or_default();
        let (publisher, states) = Publisher::with(ProviderStatus::remembering(id, verified));
        let publisher = publisher.remembering(self.remembered.remove(&id));
        self.statuses.push(Arc::clone(publisher.status()));
        self.accepts.insert(id, publisher.accepts());
        self.states.insert(id, states);
        publisher
    }
}

/// Compares the static sections of the main file with those of the start.
fn static_check(running: Running) -> StaticCheck {
    Arc::new(move |bytes| {
        let Changes { pending, invalid } = running.compare(bytes);
        StaticChanges { pending, invalid }
    })
}

/// Whether this gateway should get traffic, for the registries it is in.
pub(super) fn standing(readiness: &Arc<Readiness>) -> Standing {
    let readiness = Arc::clone(readiness);
    Arc::new(move || {
        let progress = readiness.progress();
        if progress.ready { Ok(()) } else { Err(progress.reasons.join("; ")) }
    })
}

/// Notes what became of a registration in the status of its provider.
pub(super) fn note_registration(status: &ProviderStatus, place: &str, event: &Event) {
    let (stands, error) = match event {
        // An assertion is told after it.
        Event::Changed(_) => return,
        Event::Asserted(stands) => (*stands, None),
        Event::Left => (false, None),
        Event::Failed(error) | Event::LeftBehind(error) => (false, Some(error.clone())),
    };
    status.set_registered(Registered { place: place.to_owned(), stands, error });
}

/// What tells whether a saved file is of the registry that is configured.
pub(super) fn identities(settings: &Discovery) -> Vec<Identity> {
    let mut identities = vec![Identity { id: ProviderId::Dns, registry: "dns".to_owned(), documents: None }];
    let patterns = settings.file.main.iter().chain(&settings.file.patterns).map(|path| path.display().to_string());
    let registry = patterns.collect::<Vec<_>>().join("\n");
    identities.push(Identity { id: ProviderId::File, registry, documents: None });
    if let Some(consul) = &settings.consul {
        let place = [&consul.datacenter, &consul.namespace, &consul.partition];
        let place = place.map(|part| part.as_deref().unwrap_or_default()).join(" ");
        let registry = format!("{} {place}", consul.address);
        let (prefix, of_keys) = (consul.kv_prefix.clone(), format!("{registry} {}", consul.kv_prefix));
        if consul.tags.is_some() {
            identities.push(Identity { id: ProviderId::ConsulTags, registry: registry.clone(), documents: None });
        }
        identities.push(Identity { id: ProviderId::Consul, registry, documents: None });
        let documents = Some((format!("kv:{prefix}"), prefix));
        identities.push(Identity { id: ProviderId::ConsulKv, registry: of_keys, documents });
    }
    if let Some(etcd) = &settings.etcd {
        let mut endpoints = etcd.endpoints.clone();
        endpoints.sort_unstable();
        let registry = format!("{} {}", endpoints.join(" "), etcd.prefix);
        let documents = Some((format!("documents:{}", etcd.prefix), etcd.prefix.clone()));
        identities.push(Identity { id: ProviderId::Etcd, registry, documents });
    }
    identities
}

/// What tells whether saved claims are of the registry that is configured.
pub(super) fn claims_identity(settings: &Discovery) -> Option<String> {
    let consul = settings.consul.as_ref().filter(|consul| consul.tags.is_some())?;
    let place = [&consul.datacenter, &consul.namespace, &consul.partition];
    let place = place.map(|part| part.as_deref().unwrap_or_default()).join(" ");
    Some(format!("{} {place} {}", consul.address, consul.fleet_prefix))
}

/// The instances of Consul's services that an earlier process knew.
fn services(loaded: &Loaded) -> BTreeMap<Arc<str>, Arc<[EndpointSpec]>> {
    let known = loaded.states.get(&ProviderId::Consul).into_iter().flat_map(SavedState::sources);
    let named = known.filter_map(|(source, endpoints)| Some((source.strip_prefix("consul:")?, endpoints)));
    named.map(|(name, endpoints)| (name.into(), Arc::clone(endpoints))).collect()
}
