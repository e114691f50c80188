//! Defines how routes are made of registrations: the catalog says which services ask for some, those are watched as
//! any other, and what their instances say becomes documents.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::catalog::Names;
use super::claims::{Agreed, now};
use crate::discovery::Publisher;
use crate::discovery::state::Origin;
use crate::spec::claims::ClaimBook;
use crate::spec::decode::SavedForms;
use crate::spec::decode::tag::{Rules, TagSet};
use crate::spec::endpoint::EndpointSpec;
use crate::spec::problem::Problem;
use crate::spec::source::{ConsulService, Source};

/// How long the first documents wait for services that ask and have not been read: one that cannot be read must not
/// keep the others from being served.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long Consul has to answer before what an earlier process knew is served.
const SILENCE: Duration = Duration::from_secs(2);
/// Between two readings: what changes in a burst is read as one change.
const PAUSE: Duration = Duration::from_millis(20);

/// Where the parts meet.
pub(super) struct Tags {
    pub(super) rules: Rules,
    /// Instances that an earlier process knew, by their service.
    pub(super) remembered: BTreeMap<Arc<str>, Arc<[EndpointSpec]>>,
    /// What the catalog says.
    pub(super) asking: watch::Receiver<Names>,
    /// What upstreams name.
    pub(super) wanted: watch::Receiver<Arc<BTreeSet<Source>>>,
    /// What is to be watched: that, and the services that ask.
    pub(super) watched: watch::Sender<Arc<BTreeSet<Source>>>,
    /// Whose instances are read.
    pub(super) sources: Publisher,
    /// Where the documents go.
    pub(super) documents: Publisher,
    /// Who claimed what first.
    pub(super) claims: Claims,
}

/// Who claimed what first.
pub(super) struct Claims {
    /// What this gateway knows of it.
    pub(super) book: ClaimBook,
    /// Where it is shared.
    pub(super) proposed: watch::Sender<Arc<ClaimBook>>,
    /// What came of that.
    pub(super) agreed: watch::Receiver<Option<Arc<Agreed>>>,
    /// Where it is saved.
    pub(super) saved: Option<watch::Sender<Arc<ClaimBook>>>,
}

impl Claims {
    /// Takes over what gateways agreed on, notes who asks, and orders by that.
    fn settle(&mut self, set: &mut TagSet) -> Vec<Problem> {
        let agreed =
            self.agreed.has_changed().unwrap_or(false).then(|| self.agreed.borrow_and_update().clone()).flatten();
        if let Some(agreed) = agreed {
            self.book = agreed.book.clone().with_news(&self.book);
        }
        self.book.observe(&set.asking(), now());
        let book = Arc::new(self.book.clone());
        let tell = |to: &watch::Sender<Arc<ClaimBook>>| {
            to.send_if_modified(|known| {
                let changed = **known != *book;
                known.clone_from(&book);
                changed
            })
        };
        tell(&self.proposed);
        if let Some(saved) = &self.saved {
            tell(saved);
        }
        let known = self.agreed.borrow().clone();
        let mut remarks = known.as_ref().map(|known| known.problems.clone()).unwrap_or_default();
        match known.as_deref() {
            Some(Agreed { unshared: Some(why), registry, .. }) => {
                set.order_by(Arc::new(registry.clone()));
                let text = format!(
                    "claims are not shared: of equal routes that of the service with the oldest instance goes first, and a \
                     redeploy may change that; allow the token to write below `discovery.consul.fleet_prefix` ({why})"
                );
                remarks.push(Problem::new("consul-tags", "", text));
            }
            _ => set.order_by(book),
        }
        remarks
    }
}

impl Tags {
    /// Follows all of it for ever.
    pub(super) async fn follow(mut self) {
        let mut set = TagSet::new(self.rules.clone()).dated(Instant::now().into_std(), now());
        if let Some(forms) = self.documents.remembered().and_then(|forms| forms.tags.as_ref()) {
            set = set.remembering(forms);
        }
        let mut states = self.sources.states();
        let mut agreed = self.claims.agreed.clone();
        let remembered = std::mem::take(&mut self.remembered).into_iter();
        let remembered = remembered.map(|(name, known)| (name, Some(ordinary(&known).0)));
        // Read in any case: a catalog that was wiped meanwhile is answered by routes that outlive their instances.
        set.recall(&remembered.collect(), Instant::now().into_std());
        let remembered_until = Instant::now() + SILENCE;
        let mut patience: Option<Instant> = None;
        loop {
            let began = Instant::now();
            let asking = self.asking.borrow_and_update().clone();
            let listed = asking.iter().flat_map(|names| names.iter());
            let services: BTreeSet<Arc<str>> = listed.chain(set.services()).cloned().collect();
            self.watch(&services);
            let mut again = None;
            if asking.is_some() {
                let known = states.borrow_and_update().clone();
                let mut remarks = Vec::new();
                let mut instances = |service: &Arc<str>| {
                    let (ordinary, of_mesh) = ordinary(&known.sources.get(&named(service))?.endpoints);
                    remarks.extend(of_mesh.map(|kind| ignored(service, &kind)));
                    Some(ordinary)
                };
                let read: BTreeMap<_, _> = services.iter().map(|name| (Arc::clone(name), instances(name))).collect();
                let now = Instant::now();
                let until = *patience.get_or_insert(now + PATIENCE);
                let is_shared = self.claims.agreed.borrow().is_some();
                if now >= until || is_shared && read.values().all(Option::is_some) {
                    patience = Some(now);
                    set.read(&read, now.into_std());
                    self.publish(&mut set, remarks);
                    again = set.ends_at().map(Instant::from_std);
                } else {
                    again = Some(until);
                }
            } else if set.services().next().is_some() {
                let now = Instant::now();
                if now >= remembered_until {
                    let unread = services.iter().map(|name| (Arc::clone(name), None)).collect();
                    set.recall(&unread, now.into_std());
                    self.publish(&mut set, Vec::new());
                } else {
                    again = Some(remembered_until);
                }
            }
            tokio::select! {
                Ok(()) = self.asking.changed() => {}
                Ok(()) = self.wanted.changed() => {}
                Ok(()) = agreed.changed() => {}
                Ok(()) = states.changed() => {}
                () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {}
                // Control is gone, which happens at shutdown only.
                else => return std::future::pending().await,
            }
            sleep_until(began + PAUSE).await;
        }
    }

    fn publish(&mut self, set: &mut TagSet, mut remarks: Vec<Problem>) {
        remarks.extend(self.claims.settle(set));
        let mut documents = set.documents();
        documents.remarks = remarks;
        let forms = SavedForms { tags: Some(set.forms()), ..SavedForms::default() };
        self.documents.documents_of(documents, forms, Origin::Live);
    }

    fn watch(&mut self, services: &BTreeSet<Arc<str>>) {
        let mut watched = BTreeSet::clone(&self.wanted.borrow_and_update());
        watched.extend(services.iter().map(named));
        self.watched.send_if_modified(|known| {
            let changed = **known != watched;
            if changed {
                *known = Arc::new(watched);
            }
            changed
        });
    }
}

/// The instances that may ask for routes, and the kind of one of the others: what belongs to Consul's mesh does not, though
/// Consul gives a sidecar the tags of its service.
fn ordinary(instances: &Arc<[EndpointSpec]>) -> (Arc<[EndpointSpec]>, Option<String>) {
    let kind = instances.iter().find_map(|instance| instance.labels.get(Source::KIND));
    match kind {
        None => (Arc::clone(instances), None),
        Some(kind) => {
            let ordinary = instances.iter().filter(|instance| !instance.labels.contains_key(Source::KIND));
            (ordinary.cloned().collect(), Some(kind.clone()))
        }
    }
}

fn ignored(service: &Arc<str>, kind: &str) -> Problem {
    let text = format!(
        "instances of kind `{kind}` belong to Consul's mesh, so their tags make no routes; an upstream that names the \
         service may use them"
    );
    Problem::new(named(service).to_string(), "", text)
}

fn named(service: &Arc<str>) -> Source {
    Source::Consul(ConsulService::named(Arc::clone(service)))
}
