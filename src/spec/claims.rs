//! Which services claim which places by their tags, and since when: what gateways remember, and what they agree on. Pure.
//!
//! A place is a host and a path. Each has a list of claims, the first one first; that order is all that gateways have to
//! agree on. A gateway [observes](ClaimBook::observe) who asks, [merges](ClaimBook::merge) what it remembers with what the
//! registry holds, and writes where these differ. A claim is released when its service has not been registered for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Most places that are remembered and shared.
pub const MAX_PLACES: usize = 10_000;
/// Most claims of one place.
pub const MAX_CLAIMS: usize = 20;
/// Longest value of a shared place, in bytes.
pub const MAX_VALUE: usize = 16 << 10;

/// A service's claim of a place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The service.
    pub service: Arc<str>,
    /// When it was first claimed, in milliseconds of Unix time, by the clock of the gateway that saw it; later than that of
    /// the claim before it in any case.
    pub since: u64,
    /// Since when the service is not registered, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone: Option<u64>,
}

/// The claims of a place as they are shared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedPlace {
    /// The place, as people read it.
    pub place: Arc<str>,
    /// The first claim first.
    pub claims: Vec<Claim>,
}

impl SharedPlace {
    /// Reads a shared value.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(key: &str, text: &str) -> Result<Self, String> {
        if text.len() > MAX_VALUE {
            return Err(format!("{} bytes, and {MAX_VALUE} are the most", text.len()));
        }
        let mut shared: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if place_key(&shared.place) != key {
            return Err(format!("it tells of `{}`, which has another key", shared.place));
        }
        let mut seen = BTreeSet::new();
        shared.claims.retain(|claim| seen.insert(Arc::clone(&claim.service)));
        shared.claims.sort_by(order);
        shared.claims.truncate(MAX_CLAIMS);
        Ok(shared)
    }
}

/// Who asks for a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asking {
    /// The service.
    pub service: Arc<str>,
    /// When the first of its instances that ask was registered, by Consul's index.
    pub created: u64,
    /// Whether it has an instance that asks. One without may be remembered for a while.
    pub is_registered: bool,
    /// It asks for something wrong, and may or may not have had a claim before.
    pub is_blocked: bool,
}

/// What a gateway remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimBook {
    places: BTreeMap<Arc<str>, Entry>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    claims: Vec<Claim>,
    /// Claims that the registry was seen to hold.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    agreed: BTreeSet<Arc<str>>,
}

/// The name of a place's key: whatever is in its host and path, it is short and has no slash.
pub fn place_key(place: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, place.as_bytes());
    digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn order(a: &Claim, b: &Claim) -> std::cmp::Ordering {
    (a.since, &a.service).cmp(&(b.since, &b.service))
}

impl ClaimBook {
    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Since when a service claims a place.
    pub fn since(&self, place: &str, service: &str) -> Option<u64> {
        let claims = &self.places.get(place)?.claims;
        claims.iter().find(|claim| &*claim.service == service).map(|claim| claim.since)
    }

    /// Forgets what an earlier process remembered of claims whose time is over by now.
    pub fn forget_released(&mut self, now: u64, ttl: u64) {
        for entry in self.places.values_mut() {
            entry.claims.retain(|claim| !claim.is_released(now, ttl));
        }
        self.places.retain(|_, entry| !entry.claims.is_empty());
    }

    /// Notes who asks for which places now. New claims go behind those known, by the age of their instances, then by name.
    /// What is blocked keeps a claim and makes none; as it may have had one all the same, nobody younger makes one either.
    pub fn observe(&mut self, asking: &BTreeMap<Arc<str>, Vec<Asking>>, now: u64) {
        for (place, services) in asking {
            if !self.places.contains_key(place) && self.places.len() >= MAX_PLACES {
                continue;
            }
            let entry = self.places.entry(Arc::clone(place)).or_default();
            let mut new: Vec<&Asking> = services
                .iter()
                .filter(|asking| {
                    asking.is_registered && entry.claims.iter().all(|claim| claim.service != asking.service)
                })
                .collect();
            new.sort_by(|a, b| (a.created, &a.service).cmp(&(b.created, &b.service)));
            for asking in new.into_iter().take_while(|asking| !asking.is_blocked) {
                entry.add(Claim { service: Arc::clone(&asking.service), since: now, gone: None });
            }
        }
        for (place, entry) in &mut self.places {
            let services = asking.get(place).map_or(&[][..], Vec::as_slice);
            let registered =
                |service: &str| services.iter().any(|asking| asking.is_registered && &*asking.service == service);
            for claim in &mut entry.claims {
                claim.gone = (!registered(&claim.service)).then(|| claim.gone.unwrap_or(now));
            }
        }
        self.places.retain(|_, entry| !entry.claims.is_empty());
    }

    /// When a claim is released next.
    pub fn releases_at(&self, ttl: u64) -> Option<u64> {
        let gone = self.places.values().flat_map(|entry| &entry.claims).filter_map(|claim| claim.gone);
        gone.min().map(|since| since.saturating_add(ttl))
    }

    /// What holds once what the registry holds is added. A claim that the registry has as well is as old as the older of
    /// the two; one that it lacks though it had it was lost with the registry, and is there again; one of a service that has
    /// not been registered for `ttl` is released.
    #[must_use]
    pub fn merge(&self, registry: &BTreeMap<Arc<str>, SharedPlace>, now: u64, ttl: u64) -> Self {
        let mut places = BTreeMap::new();
        let others = registry.keys().filter(|place| !self.places.contains_key(*place));
        for place in self.places.keys().chain(others).take(MAX_PLACES) {
            let mut entry = self.places.get(place).cloned().unwrap_or_default();
            let shared = registry.get(place).map_or(&[][..], |shared| shared.claims.as_slice());
            entry.adopt(shared, now, ttl);
            if !entry.claims.is_empty() {
                places.insert(Arc::clone(place), entry);
            }
        }
        Self { places }
    }

    /// What the registry should hold, by place.
    pub fn shared(&self) -> impl Iterator<Item = SharedPlace> {
        self.places.iter().map(|(place, entry)| SharedPlace { place: Arc::clone(place), claims: entry.claims.clone() })
    }

    /// Notes that the registry holds this of a place.
    pub fn agree(&mut self, place: &str) {
        if let Some(entry) = self.places.get_mut(place) {
            entry.agreed = entry.claims.iter().map(|claim| Arc::clone(&claim.service)).collect();
        }
    }

    /// These claims with what was observed since `before`, of which they were made.
    #[must_use]
    pub fn with_news(mut self, now: &Self) -> Self {
        for (place, entry) in &now.places {
            let own = self.places.entry(Arc::clone(place)).or_default();
            for claim in &entry.claims {
                let is_known = own.claims.iter().any(|known| known.service == claim.service);
                // One that was released meanwhile is not news.
                if !is_known && claim.gone.is_none() && !entry.agreed.contains(&claim.service) {
                    own.add(claim.clone());
                }
            }
        }
        self.places.retain(|_, entry| !entry.claims.is_empty());
        self
    }
}

impl Entry {
    /// Puts a claim behind all others.
    fn add(&mut self, claim: Claim) {
        if self.claims.len() < MAX_CLAIMS {
            let last = self.claims.last().map_or(0, |claim| claim.since);
            let since = claim.since.max(last.saturating_add(1));
            self.claims.push(Claim { since, ..claim });
        }
    }

    fn adopt(&mut self, shared: &[Claim], now: u64, ttl: u64) {
        let mut merged: Vec<Claim> = shared.to_vec();
        let mut new = Vec::new();
        for claim in &self.claims {
            let is_agreed = self.agreed.contains(&claim.service);
            match merged.iter_mut().find(|known| known.service == claim.service) {
                Some(known) => {
                    if is_agreed {
                        known.since = known.since.min(claim.since);
                    }
                    known.gone = claim.gone.map(|gone| gone.min(known.gone.unwrap_or(gone)));
                }
                None if is_agreed => merged.push(claim.clone()),
                None => new.push(claim.clone()),
            }
        }
        merged.retain(|claim| !claim.is_released(now, ttl));
        merged.sort_by(order);
        merged.truncate(MAX_CLAIMS);
        self.claims = merged;
        for claim in new.into_iter().filter(|claim| !claim.is_released(now, ttl)) {
            self.add(claim);
        }
        let claims = &self.claims;
        self.agreed.retain(|service| claims.iter().any(|claim| claim.service == *service));
    }
}

impl Claim {
    /// Whether its service has not been registered for so long that it is over.
    fn is_released(&self, now: u64, ttl: u64) -> bool {
        self.gone.is_some_and(|gone| now.saturating_sub(gone) >= ttl)
    }
}

#[cfg(test)]
mod tests;
