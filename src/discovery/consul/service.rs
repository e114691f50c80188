//! Defines the watch of one service: its instances become the endpoints of a source.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::Instant;

use super::client::Client;
use super::follow::{After, Doubted, Question, Shown};
use super::health::{Instance, instances, keep_distances, weigh_by_tags};
use super::known::{Contents, Entries};
use super::permission::{Doubt, Verdicts, of_instances};
use super::query::{Place, Query};
use super::rights::Right;
use super::unreported::{LONGEST, ends_at, keep_as_reported};
use crate::discovery::Publisher;
use crate::discovery::state::SourceState;
use crate::discovery::supervise::WatchError;
use crate::spec::endpoint::EndpointSpec;
use crate::spec::hold::{Held, HeldPart, Scope};
use crate::spec::source::{ConsulService, Source};

/// The instances of a service.
pub(super) struct Instances {
    pub(super) service: ConsulService,
    pub(super) publisher: Publisher,
    /// Whether tags may say how much an instance weighs.
    pub(super) weighed_by_tags: bool,
}

#[async_trait]
impl Question for Instances {
    type Entry = Instance;
    const ABSENCE_IS_EMPTY: bool = false;
    const PROVE_ALL: bool = false;

    fn query(&self) -> Query {
        Query::health(&self.service)
    }

    fn source(&self) -> Option<Source> {
        Some(Source::Consul(self.service.clone()))
    }

    fn read(&self, body: &[u8]) -> Result<Contents<Instance>, String> {
        let mut contents = instances(&self.service, body)?;
        if self.weighed_by_tags {
            weigh_by_tags(&self.service, &mut contents);
        }
        Ok(contents)
    }

    fn amend(&self, known: &Entries<Instance>, fresh: &mut Entries<Instance>, after: After) {
        if self.service.near.is_some() && !after.wipe {
            keep_distances(known, fresh);
        }
        let kept = keep_as_reported(known, fresh, Instant::now(), after);
        if kept > 0 {
            tracing::info!(
                service = %self.service,
                instances = kept,
                "checks have not run since their agent started: they count as before, for at most {LONGEST:?}"
            );
        }
    }

    fn look_again_at(&self, known: &Entries<Instance>) -> Option<Instant> {
        ends_at(known)
    }

    async fn permission(
        &self,
        client: &Client,
        lost: &[(&Arc<str>, &Instance)],
        doubted: &Doubted<'_>,
    ) -> Result<Verdicts, WatchError> {
        let nodes = lost.iter().map(|(_, instance)| &*instance.node).collect();
        Ok(of_instances(client, &self.service, nodes, doubted).await?.into())
    }

    fn held(&self, entries: &Entries<Instance>, missing: &BTreeMap<Arc<str>, Doubt>) -> BTreeMap<HeldPart, Held> {
        let Some(doubt) = missing.values().next() else { return BTreeMap::new() };
        let lost = missing.keys().filter_map(|id| Some(entries.get(id)?.endpoint.address.to_string()));
        let missing_right = doubt.missing_right.then(|| doubt.why.as_str().into());
        let held = Held { lost: lost.collect(), why: doubt.why.as_str().into(), missing_right };
        BTreeMap::from([(HeldPart::Endpoints(Source::Consul(self.service.clone())), held)])
    }

    fn accepts(&self, part: &HeldPart, missing: &BTreeSet<Arc<str>>) -> BTreeSet<Arc<str>> {
        match part {
            HeldPart::Endpoints(Source::Consul(service)) if *service == self.service => missing.clone(),
            HeldPart::Endpoints(_) | HeldPart::Document(_) | HeldPart::File(_) => BTreeSet::new(),
        }
    }

    fn rights(&self, _: &Entries<Instance>) -> Vec<Right> {
        let (place, segment) = (Place::of(&self.service), Arc::clone(&self.service.name));
        vec![Right { place, resource: "service", segment }]
    }

    fn scope(&self) -> Scope {
        Scope::Source(Source::Consul(self.service.clone()))
    }

    fn publish(&self, Shown { entries, unlisted, problems, origin }: Shown<'_, Instance>) {
        let addresses = |listed: bool| {
            let entries = entries.iter().filter(move |(id, _)| unlisted.contains(*id) != listed);
            entries.map(|(_, instance)| &instance.endpoint.address).collect::<BTreeSet<_>>()
        };
        let unlisted = match unlisted.is_empty() {
            true => BTreeSet::new(),
            false => addresses(false).difference(&addresses(true)).copied().cloned().collect(),
        };
        let mut endpoints: Vec<EndpointSpec> = entries.values().map(|instance| instance.endpoint.clone()).collect();
        endpoints.sort_unstable_by(|a, b| (&a.address, &a.id).cmp(&(&b.address, &b.id)));
        let source = Source::Consul(self.service.clone());
        let (endpoints, unlisted, problems) = (endpoints.into(), Arc::new(unlisted), problems.into());
        self.publisher.source(&source, SourceState { endpoints, unlisted, problems, origin });
    }

    fn publisher(&self) -> &Publisher {
        &self.publisher
    }
}
