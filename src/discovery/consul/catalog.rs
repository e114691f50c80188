//! Defines the watch of the catalog: which services there are that ask for routes in their tags.
//!
//! It only ever adds: a name that is gone from the catalog is believed to be gone when the watch of that service
//! itself finds no instance, so that nothing the catalog lacks costs a route.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use super::client::Client;
use super::follow::{Doubted, Question, Shown};
use super::known::{Contents, Entries};
use super::permission::{Doubt, Permission, Verdicts, of_catalog};
use super::query::Query;
use super::rights::Right;
use crate::discovery::Publisher;
use crate::discovery::supervise::WatchError;
use crate::spec::decode::tag::Rules;
use crate::spec::hold::{Held, HeldPart, Scope};

/// Names of services; `None` before the first answer.
pub(super) type Names = Option<Arc<BTreeSet<Arc<str>>>>;

/// All services of the catalog.
pub(super) struct Catalog {
    pub(super) rules: Rules,
    /// Those that ask for something.
    pub(super) asking: watch::Sender<Names>,
    pub(super) publisher: Publisher,
}

#[async_trait]
impl Question for Catalog {
    /// Whether a tag of the service asks for something.
    type Entry = bool;
    const ABSENCE_IS_EMPTY: bool = false;
    const PROVE_ALL: bool = false;
    /// A token that sees some services alone may be meant to: nothing goes because the catalog lacks it.
    const FILTERING_MATTERS: bool = false;

    fn query(&self) -> Query {
        Query::services()
    }

    fn read(&self, body: &[u8]) -> Result<Contents<bool>, String> {
        names(&self.rules, body)
    }

    async fn permission(
        &self,
        client: &Client,
        _: &[(&Arc<str>, &bool)],
        doubted: &Doubted<'_>,
    ) -> Result<Verdicts, WatchError> {
        if !doubted.nothing {
            return Ok(Permission::Beyond.into());
        }
        Ok(of_catalog(client, doubted).await?.into())
    }

    /// The catalog only ever adds: what it lacks is held by the watch of the service itself.
    fn held(&self, _: &Entries<bool>, _: &BTreeMap<Arc<str>, Doubt>) -> BTreeMap<HeldPart, Held> {
        BTreeMap::new()
    }

    fn accepts(&self, _: &HeldPart, _: &BTreeSet<Arc<str>>) -> BTreeSet<Arc<str>> {
        BTreeSet::new()
    }

    fn rights(&self, _: &Entries<bool>) -> Vec<Right> {
        Vec::new()
    }

    fn scope(&self) -> Scope {
        Scope::Documents("catalog".into())
    }

    fn publish(&self, shown: Shown<'_, bool>) {
        let entries = shown.entries.iter();
        let asking: BTreeSet<_> = entries.filter(|(_, asks)| **asks).map(|(name, _)| Arc::clone(name)).collect();
        self.asking.send_if_modified(|known| {
            let changed = known.as_deref() != Some(&asking);
            if changed {
                *known = Some(Arc::new(asking));
            }
            changed
        });
    }

    fn publisher(&self) -> &Publisher {
        &self.publisher
    }
}

/// Reads the body: names with the tags of all their instances.
fn names(rules: &Rules, body: &[u8]) -> Result<Contents<bool>, String> {
    let names: BTreeMap<Arc<str>, Option<Vec<String>>> =
        serde_json::from_slice(body).map_err(|error| format!("not a list of services: {error}"))?;
    let asks = |tags: Option<Vec<String>>| tags.unwrap_or_default().iter().any(|tag| rules.asks(tag));
    let entries = names.into_iter().map(|(name, tags)| (name, asks(tags))).collect();
    Ok(Contents { entries, ..Contents::default() })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::spec::decode::tag::Bounds;

    #[test]
    fn services_that_ask_are_told_from_others() {
        let rules = |native, fabio| Rules { native, fabio, bounds: Bounds::default(), ttl: Duration::ZERO };
        let body = br#"{"consul":[],"none":null,"bare":["x","fleetgate"],"ours":["fleetgate.path=/a"],"fabio":["urlprefix-/b"]}"#;
        let asking = |rules: &Rules| {
            let entries = names(rules, body).expect("a list").entries;
            entries.into_iter().filter(|(_, asks)| *asks).map(|(name, _)| name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(asking(&rules(true, true)), ["bare", "fabio", "ours"]);
        assert_eq!(asking(&rules(true, false)), ["bare", "ours"]);
        assert_eq!(asking(&rules(false, true)), ["fabio"]);
        for body in ["", "null", "[]", r#"{"a":"b"}"#, "<html>"] {
            assert!(names(&rules(true, true), body.as_bytes()).is_err(), "{body}");
        }
    }
}
