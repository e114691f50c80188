//! Defines the endpoints of an etcd prefix: one key an endpoint, decoded again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::format::{Written, decode};
use super::layout::endpoint_id;
use crate::spec::endpoint::{Address, EndpointSpec, RegistryStatus};
use crate::spec::name::ProviderId;
use crate::spec::problem::Problem;
use crate::spec::source::EtcdFormat;

/// Turns the complete present set of keys and values below a prefix into endpoints, again and again.
/// Between two sets it keeps each key's last good form, and decodes only what changed.
#[derive(Debug)]
pub struct EndpointSet {
    prefix: Arc<str>,
    format: EtcdFormat,
    known: BTreeMap<Vec<u8>, Known>,
}

#[derive(Debug)]
struct Known {
    value: Vec<u8>,
    /// The last form that could be used.
    good: Option<EndpointSpec>,
    /// Why the present value can't.
    problem: Option<String>,
}

impl EndpointSet {
    /// No endpoints yet.
    pub fn new(prefix: Arc<str>, format: EtcdFormat) -> Self {
        Self { prefix, format, known: BTreeMap::new() }
    }

    /// The endpoints of the complete present set of keys, values and mod revisions, by address, then id; and
    /// what can't be used. A key that is not in it is gone, with its last good form.
    pub fn update<'a>(
        &mut self,
        entries: impl IntoIterator<Item = (&'a [u8], &'a [u8], i64)>,
    ) -> (Vec<EndpointSpec>, Vec<Problem>) {
        let mut before = std::mem::take(&mut self.known);
        let (mut endpoints, mut problems) = (Vec::new(), Vec::new());
        for (key, value, modified) in entries {
            let (key, known) = match before.remove_entry(key) {
                // A heartbeat that writes the same again is no news: the revision of the change stays.
                Some((key, known)) if known.value == value => (key, known),
                former => {
                    let good = former.and_then(|(_, former)| former.good);
                    (key.to_vec(), self.decode(key, value, modified, good))
                }
            };
            endpoints.extend(known.good.clone());
            if let Some(text) = &known.problem {
                let place = format!("{}:{}", ProviderId::Etcd, String::from_utf8_lossy(&key));
                let kept = if known.good.is_some() { "; its former value is used" } else { "" };
                problems.push(Problem::new(place, "", format!("{text}{kept}")));
            }
            self.known.insert(key, known);
        }
        endpoints.sort_unstable_by(|a, b| (&a.address, &a.id).cmp(&(&b.address, &b.id)));
        (endpoints, problems)
    }

    /// Those of the addresses shown last that the registry does not list: of `held` keys, and of keys whose former value
    /// is used.
    pub fn unlisted(&self, held: &BTreeSet<&[u8]>) -> BTreeSet<Address> {
        let is_listed = |(key, known): &(&Vec<u8>, &Known)| known.problem.is_none() && !held.contains(key.as_slice());
        let address = |(_, known): (&Vec<u8>, &Known)| known.good.as_ref().map(|good| good.address.clone());
        if self.known.iter().all(|entry| is_listed(&entry)) {
            return BTreeSet::new();
        }
        let listed: BTreeSet<Address> = self.known.iter().filter(is_listed).filter_map(address).collect();
        let kept = self.known.iter().filter(|entry| !is_listed(entry)).filter_map(address);
        kept.filter(|address| !listed.contains(address)).collect()
    }

    fn decode(&self, key: &[u8], value: &[u8], modified: i64, former: Option<EndpointSpec>) -> Known {
        let value = value.to_vec();
        let id = match endpoint_id(&self.prefix, key) {
            Ok(Some(id)) => id,
            Ok(None) => return Known { value, good: None, problem: None },
            Err(error) => return Known { value, good: None, problem: Some(error.to_owned()) },
        };
        match decode(self.format, &self.prefix, id, &value) {
            Ok(None) => Known { value, good: None, problem: None },
            Ok(Some(Written { address, weight, labels })) => {
                let endpoint = EndpointSpec {
                    address,
                    weight,
                    labels: Arc::new(labels),
                    status: RegistryStatus::Unchecked,
                    id: id.into(),
                    modified: u64::try_from(modified).unwrap_or(0),
                    created: 0,
                };
                Known { value, good: Some(endpoint), problem: None }
            }
            Err(problem) => Known { value, good: former, problem: Some(problem) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown((endpoints, problems): (Vec<EndpointSpec>, Vec<Problem>)) -> (Vec<String>, Vec<String>) {
        let endpoint = |e: &EndpointSpec| format!("{} {} @{}", e.id, e.address, e.modified);
        (endpoints.iter().map(endpoint).collect(), problems.iter().map(ToString::to_string).collect())
    }

    /// One set of keys after another, and what comes of it.
    #[test]
    fn a_bad_value_keeps_the_old_one_and_a_deleted_key_goes() {
        let mut set = EndpointSet::new("/e/u/".into(), EtcdFormat::Fleetgate);
        let (a, b) = (&b"/e/u/a"[..], &b"/e/u/b"[..]);
        let (good, bad) = (&b"10.0.0.2:80"[..], &b"{"[..]);
        let first = shown(set.update([(a, good, 5), (b, &b"10.0.0.1:80"[..], 6), (&b"/e/u/"[..], &b"x"[..], 1)]));
        assert_eq!(first, (vec!["b 10.0.0.1:80 @6".to_owned(), "a 10.0.0.2:80 @5".to_owned()], vec![]));
        let (endpoints, problems) = shown(set.update([(a, bad, 7), (b, bad, 8)]));
        assert_eq!(endpoints, ["b 10.0.0.1:80 @6", "a 10.0.0.2:80 @5"]);
        assert!(problems[0].starts_with("etcd:/e/u/a: ") && problems[0].ends_with("former value is used"));
        assert_eq!(shown(set.update([(a, good, 9)])), (vec!["a 10.0.0.2:80 @9".to_owned()], vec![]));
        // The same again is no change; what was deleted has no last good form any more.
        assert_eq!(shown(set.update([(a, good, 10)])).0, ["a 10.0.0.2:80 @9"]);
        assert_eq!(shown(set.update([(a, good, 10), (b, bad, 11)])).0, ["a 10.0.0.2:80 @9"]);
        assert_eq!(shown(set.update([])), (vec![], vec![]));
    }
}
