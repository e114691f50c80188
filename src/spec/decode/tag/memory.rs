//! What is remembered of the tags of services from one process to the next: for each instance, the tags that its routes'
//! last good forms were decoded from, and the routes that may have had one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fabio::{self, Tag};
use super::native::{self, Native, matching_tags, tags_of};
use super::order::Ages;
use super::service::{Claim, Claims, LastForm, Look, TargetForm, UNKNOWN, newest_usable_first, target};
use super::set::{Known, TagSet};
use super::{is_usable, tags};
use crate::spec::decode::saved::{SavedInstance, SavedService, SavedTags};
use crate::spec::endpoint::{Address, EndpointSpec, RegistryStatus};
use crate::spec::matching::MatchSpec;

impl TagSet {
    /// As an earlier process left it. The first [`TagSet::read`] says which services are still there.
    #[must_use]
    pub fn remembering(mut self, saved: &SavedTags) -> Self {
        self.knows_services = saved.is_complete;
        self.unread.clone_from(&saved.unread);
        for (service, SavedService { instances, gone_ms, asked }) in &saved.services {
            let endpoints: Arc<[EndpointSpec]> = instances.iter().map(|(id, saved)| endpoint(id, saved)).collect();
            let missed = BTreeSet::new();
            let look = Look { service, endpoints: &endpoints, rules: &self.rules, knows_past: true, missed: &missed };
            let claims = Claims { ages: Ages(asked.clone()), ..recalled(look, instances) };
            let empty_since = gone_ms.and_then(|gone| self.instant(gone));
            self.services.insert(Arc::clone(service), Known { claims, endpoints, empty_since, is_recalled: true });
        }
        self
    }

    /// With the time of its clock, in milliseconds of Unix time: by that, services without instances are remembered.
    #[must_use]
    pub fn dated(mut self, now: Instant, unix_millis: u64) -> Self {
        self.clock = Some((now, unix_millis));
        self
    }

    fn unix_millis(&self, at: Instant) -> Option<u64> {
        let (now, millis) = self.clock?;
        let elapsed = |from: Instant, to: Instant| u64::try_from(to.saturating_duration_since(from).as_millis()).ok();
        Some(millis.saturating_add(elapsed(now, at)?).saturating_sub(elapsed(at, now)?))
    }

    /// The same backwards; what was before this machine started is as late as the clock.
    fn instant(&self, unix_millis: u64) -> Option<Instant> {
        let (now, millis) = self.clock?;
        Some(now.checked_sub(Duration::from_millis(millis.saturating_sub(unix_millis))).unwrap_or(now))
    }

    /// What is to be remembered.
    pub fn forms(&self) -> SavedTags {
        let services = self.services.iter().map(|(service, known)| {
            let instances = known.endpoints.iter();
            let instances =
                instances.map(|endpoint| (Arc::clone(&endpoint.id), saved(&known.claims, endpoint))).collect();
            let gone_ms = known.empty_since.and_then(|since| self.unix_millis(since));
            (Arc::clone(service), SavedService { instances, gone_ms, asked: known.claims.ages.0.clone() })
        });
        SavedTags { is_complete: self.knows_services, unread: self.unread.clone(), services: services.collect() }
    }
}

fn saved(claims: &Claims, endpoint: &EndpointSpec) -> SavedInstance {
    let id = &endpoint.id;
    let mut saved = SavedInstance {
        is_unknown: claims.unknown.contains(id),
        is_usable: is_usable(endpoint),
        modified: endpoint.modified,
        created: endpoint.created,
        ..SavedInstance::default()
    };
    for (route, claim) in &claims.native {
        match claim.by_instance.get(id) {
            Some(LastForm::Good(native)) => saved.tags.extend(tags_of(route, native)),
            Some(LastForm::Unknown(matchings)) => {
                let tags: BTreeSet<_> = matchings.iter().flat_map(|matching| matching_tags("", matching)).collect();
                let tags = tags.into_iter().collect();
                saved.blocked.insert(route.clone(), tags);
            }
            None => {}
        }
    }
    for target in claims.fabio.iter().filter(|target| target.ids.contains(id)) {
        match target.form.as_ref().map(|form| &form.tag) {
            Some(Some(tag)) => saved.tags.push(tag.to_string()),
            Some(None) => saved.blocked_prefixes.push(fabio::tag_of(&target.prefix)),
            None => {}
        }
    }
    // One that keeps a target stays new to the next process, which keeps it, too.
    let keeps = |tag: &Arc<str>| claims.fabio.iter().any(|target| target.tag == *tag && target.ids.contains(id));
    let unplaced = claims.unplaced.iter().filter(|(instance, tag)| instance == id && !keeps(tag));
    saved.tags.extend(unplaced.map(|(_, tag)| tag.to_string()));
    saved
}

/// An instance as it was, with what is remembered of its tags.
fn endpoint(id: &Arc<str>, saved: &SavedInstance) -> EndpointSpec {
    let labels = saved.tags.iter().map(|tag| (format!("tag.{tag}"), "true".to_owned())).collect();
    EndpointSpec {
        // Only its tags are read.
        address: Address::Ip(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 1)),
        weight: 1,
        labels: Arc::new(labels),
        status: if saved.is_usable { RegistryStatus::Passing } else { RegistryStatus::Critical },
        id: Arc::clone(id),
        modified: saved.modified,
        created: saved.created,
    }
}

/// What the instances asked for.
fn recalled(look: Look<'_>, instances: &BTreeMap<Arc<str>, SavedInstance>) -> Claims {
    let mut claims = Claims { seen: look.ids(), ..Claims::default() };
    if look.rules.native {
        let mut by_route: BTreeMap<String, Vec<(&EndpointSpec, LastForm)>> = BTreeMap::new();
        for endpoint in look.endpoints {
            // What may not be claimed any more is no good form.
            let good = native::read(endpoint, &look.rules.bounds).routes.into_iter();
            let good = good.filter_map(|(route, asked)| Some((route, LastForm::Good(asked.ok()?))));
            let blocked = instances.get(&endpoint.id).into_iter().flat_map(|saved| &saved.blocked);
            let blocked =
                blocked.map(|(route, tags)| (route.clone(), LastForm::Unknown(matchings(endpoint, tags, look))));
            for (route, form) in good.chain(blocked) {
                by_route.entry(route).or_default().push((endpoint, form));
            }
        }
        for (route, mut asking) in by_route {
            asking.sort_by_key(|(endpoint, _)| newest_usable_first(endpoint));
            claims.native.insert(route, Claim::of(asking, look.endpoints.len(), Vec::new()));
        }
    }
    if look.rules.fabio {
        let mut by_tag: BTreeMap<(&str, bool), Vec<&EndpointSpec>> = BTreeMap::new();
        for endpoint in look.endpoints {
            let good = tags(endpoint).filter(|tag| fabio::asks(tag)).map(|tag| (tag, true));
            let saved = instances.get(&endpoint.id);
            let blocked = saved.into_iter().flat_map(|saved| &saved.blocked_prefixes).map(|tag| (tag.as_str(), false));
            for key in good.chain(blocked) {
                by_tag.entry(key).or_default().push(endpoint);
            }
            if saved.is_some_and(|saved| saved.is_unknown) {
                claims.unknown.insert(Arc::clone(&endpoint.id));
            }
        }
        for ((tag, is_good), having) in by_tag {
            match fabio::read(tag, &look.rules.bounds) {
                None => {}
                Some(Err(_)) => {
                    claims.unplaced.extend(having.iter().map(|endpoint| (Arc::clone(&endpoint.id), tag.into())));
                }
                Some(Ok(Tag { prefix, asked, .. })) => {
                    let form = match asked {
                        Ok(asked) if is_good => TargetForm { asked, tag: Some(tag.into()) },
                        Ok(_) | Err(_) => TargetForm::closed(UNKNOWN.to_owned()),
                    };
                    let mut target = target(look, prefix, tag, &having);
                    target.form = Some(form);
                    claims.fabio.push(target);
                }
            }
        }
    }
    claims
}

/// What a route may match by these tags, as far as it may be claimed.
fn matchings(endpoint: &EndpointSpec, tags: &[String], look: Look<'_>) -> Vec<MatchSpec> {
    let labels = tags.iter().map(|tag| (format!("tag.{tag}"), "true".to_owned())).collect();
    let endpoint = EndpointSpec { labels: Arc::new(labels), ..endpoint.clone() };
    match native::read(&endpoint, &look.rules.bounds).routes.remove("") {
        Some(Ok(Native { matching, .. })) => vec![matching],
        // Several paths are a path that is said twice.
        Some(Err(wrong)) => wrong.matchings,
        None => Vec::new(),
    }
}
