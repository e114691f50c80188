//! Defines what operators laid over what documents and registries say; merge applies it last.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::spec::document::{Kind, TextId};
use crate::spec::name::{Name, ProviderId};

/// Endpoints that operators took out of use. An entry belongs to an address: it survives that the address is
/// registered anew, and goes only when an operator says so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlay {
    /// By the label of the upstream.
    drained: BTreeMap<Arc<str>, Arc<BTreeSet<SocketAddr>>>,
    /// What is served without, by provider.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    accepted: BTreeMap<ProviderId, BTreeSet<Accepted>>,
}

/// What may have had a good form which is not known, and is accepted to be served without, as long as its text is this.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accepted {
    /// An item.
    Item(Kind, Name, TextId),
    /// A file or folder, by its path.
    File(String, TextId),
}

impl Overlay {
    /// Most entries: a script in a loop must not eat the gateway's memory.
    pub const MOST: usize = 10_000;

    /// Drains an address. False when it is drained already.
    pub fn drain(&mut self, upstream: &str, address: SocketAddr) -> bool {
        Arc::make_mut(self.drained.entry(upstream.into()).or_default()).insert(address)
    }

    /// Lets an address take traffic again. False when it was not drained.
    pub fn undrain(&mut self, upstream: &str, address: SocketAddr) -> bool {
        let Some(drained) = self.drained.get_mut(upstream) else { return false };
        let removed = Arc::make_mut(drained).remove(&address);
        if drained.is_empty() {
            self.drained.remove(upstream);
        }
        removed
    }

    /// Whether an address is drained.
    pub fn is_drained(&self, upstream: &str, address: SocketAddr) -> bool {
        self.drained.get(upstream).is_some_and(|drained| drained.contains(&address))
    }

    /// Whether nothing more can be drained.
    pub fn is_full(&self) -> bool {
        self.drained.values().map(|drained| drained.len()).sum::<usize>() >= Self::MOST
    }

    /// Accepts that a provider is served without something. False when that is accepted already.
    pub fn accept(&mut self, provider: ProviderId, what: Accepted) -> bool {
        self.accepted.entry(provider).or_default().insert(what)
    }

    /// Whether a provider is served without something.
    pub fn is_accepted(&self, provider: ProviderId, what: &Accepted) -> bool {
        self.accepted.get(&provider).is_some_and(|accepted| accepted.contains(what))
    }

    /// This one without what is accepted of a provider and no longer needed; `None`: it all is.
    pub(super) fn without_needless(&self, is_needed: impl Fn(ProviderId, &Accepted) -> bool) -> Option<Self> {
        if self.accepted.is_empty() {
            return None;
        }
        let mut next = self.clone();
        for (provider, accepted) in &mut next.accepted {
            accepted.retain(|what| is_needed(*provider, what));
        }
        next.accepted.retain(|_, accepted| !accepted.is_empty());
        (next != *self).then_some(next)
    }

    /// The drained addresses of an upstream.
    pub(super) fn of(&self, upstream: &str) -> Arc<BTreeSet<SocketAddr>> {
        self.drained.get(upstream).map(Arc::clone).unwrap_or_default()
    }

    /// Every upstream that has drained addresses.
    pub(super) fn upstreams(&self) -> impl Iterator<Item = (&Arc<str>, &BTreeSet<SocketAddr>)> {
        self.drained.iter().map(|(upstream, drained)| (upstream, &**drained))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_and_go_by_word_only_and_are_plain_data() {
        let address: SocketAddr = "[::1]:80".parse().expect("an address");
        let mut overlay = Overlay::default();
        assert!(!overlay.undrain("users", address));
        assert!(overlay.drain("users", address) && !overlay.drain("users", address));
        assert!(overlay.is_drained("users", address) && !overlay.is_drained("orders", address));
        let text = serde_json::to_string(&overlay).expect("JSON");
        assert_eq!(text, r#"{"drained":{"users":["[::1]:80"]}}"#);
        assert_eq!(serde_json::from_str::<Overlay>(&text).expect("an overlay"), overlay);
        assert!(overlay.undrain("users", address));
        assert_eq!(overlay, Overlay::default());
    }
}
