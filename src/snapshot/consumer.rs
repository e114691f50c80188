//! Defines who may call, found by name and by key.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use crate::exchange::{ClientCertificate, Consumer as Caller, Credential};
use crate::spec::consumer::{CertificateName, ConsumerSpec, KeyHash, PasswordHash};
use crate::spec::document::Kind;
use crate::spec::name::{Name, ProviderId};
use crate::spec::problem::Problem;

/// A consumer that won its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Consumer {
    /// Its name.
    pub name: Name,
    /// Who defines it.
    pub provider: ProviderId,
    /// What was asked for.
    pub spec: Arc<ConsumerSpec>,
}

/// All consumers.
#[derive(Debug, Default)]
pub struct Consumers {
    /// By name.
    all: Vec<Consumer>,
    by_name: HashMap<Arc<str>, Arc<Caller>>,
    /// `None`: several have it, so it proves nothing.
    by_key: HashMap<KeyHash, Option<Arc<Caller>>>,
    /// As with keys.
    by_certificate: HashMap<CertificateName, Option<Arc<Caller>>>,
    /// Of those that have a password.
    password_costs: Vec<u8>,
    remarks: Vec<Problem>,
}

impl Consumers {
    /// Those of `all`, in the order of their names.
    pub fn new(all: Vec<Consumer>) -> Self {
        let mut consumers = Self::default();
        for Consumer { name, spec, .. } in &all {
            consumers.password_costs.extend(spec.password.as_ref().map(PasswordHash::cost));
            let caller = Arc::new(Caller {
                groups: spec.groups.clone(),
                password: spec.password.as_ref().map(PasswordHash::as_str).map(Arc::from),
                ..Caller::named(name.as_str())
            });
            let place = || format!("{}.{name}", Kind::Consumer.as_str());
            for key in &spec.keys {
                if is_shared(&mut consumers.by_key, *key, &caller) {
                    let text = "another consumer has one of its keys, too: that key lets nobody in";
                    consumers.remarks.push(Problem::new("configuration", place(), text));
                }
            }
            for certificate in &spec.certificates {
                if is_shared(&mut consumers.by_certificate, certificate.clone(), &caller) {
                    let text = format!("another consumer has `{certificate}`, too: that lets nobody in");
                    consumers.remarks.push(Problem::new("configuration", place(), text));
                }
            }
            consumers.by_name.insert(Arc::clone(&caller.name), caller);
        }
        consumers.all = all;
        consumers
    }

    /// Those of a merge; the same object when nothing differs.
    pub fn next(all: &[Consumer], before: &Arc<Self>) -> Arc<Self> {
        if before.all == all { Arc::clone(before) } else { Arc::new(Self::new(all.to_vec())) }
    }

    /// All of them, by name.
    pub fn all(&self) -> &[Consumer] {
        &self.all
    }

    /// One of them.
    pub fn by_name(&self, name: &Name) -> Option<&Consumer> {
        let position = self.all.binary_search_by(|consumer| consumer.name.cmp(name)).ok()?;
        self.all.get(position)
    }

    /// Who has what a client shows.
    pub fn find(&self, by: Credential<'_>) -> Option<&Arc<Caller>> {
        match by {
            Credential::Key(hash) => self.by_key.get(&KeyHash(*hash))?.as_ref(),
            Credential::Name(name) => self.by_name.get(name),
            Credential::Certificate(certificate) => self.of_certificate(certificate),
        }
    }

    /// The most telling name counts: the certificate itself, then URIs, host names, and the subject.
    fn of_certificate(&self, certificate: &ClientCertificate) -> Option<&Arc<Caller>> {
        if self.by_certificate.is_empty() {
            return None;
        }
        let uris = certificate.uris.iter().cloned().map(CertificateName::Uri);
        let dns = certificate.dns.iter().cloned().map(CertificateName::Dns);
        let subject = CertificateName::Subject(certificate.subject.clone());
        let mut names = std::iter::once(CertificateName::Hash(KeyHash(certificate.hash))).chain(uris).chain(dns);
        let known = names.find_map(|name| self.by_certificate.get(&name));
        known.or_else(|| self.by_certificate.get(&subject))?.as_ref()
    }

    /// What checking the password of each one that has one costs (bcrypt's logarithm).
    pub fn password_costs(&self) -> &[u8] {
        &self.password_costs
    }

    /// What people should know of them.
    pub fn remarks(&self) -> impl Iterator<Item = Problem> {
        self.remarks.iter().cloned()
    }
}

/// Notes whose a proof is; whether it is somebody else's, too, so that it is nobody's.
fn is_shared<K: Eq + Hash + Clone>(proofs: &mut HashMap<K, Option<Arc<Caller>>>, proof: K, of: &Arc<Caller>) -> bool {
    let shared = proofs.contains_key(&proof);
    proofs.insert(proof, (!shared).then(|| Arc::clone(of)));
    shared
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_two_have_is_nobodys() {
        let consumer = |name: &str, keys: &[u8]| Consumer {
            name: name.parse().expect("a name"),
            provider: ProviderId::File,
            spec: Arc::new(ConsumerSpec {
                keys: keys.iter().map(|key| KeyHash([*key; 32])).collect(),
                ..Default::default()
            }),
        };
        let all = vec![consumer("a", &[1, 2]), consumer("b", &[2, 3]), consumer("c", &[2])];
        let consumers = Consumers::new(all.clone());
        let by_key = |key: u8| consumers.find(Credential::Key(&[key; 32])).map(|caller| &*caller.name);
        assert_eq!([1, 2, 3, 4].map(by_key), [Some("a"), None, Some("b"), None]);
        let told: Vec<String> = consumers.remarks().map(|problem| problem.to_string()).collect();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("consumers.b") && told[1].contains("consumers.c"), "{told:?}");
        let consumers = Arc::new(consumers);
        assert!(Arc::ptr_eq(&consumers, &Consumers::next(&all, &consumers)));
    }
}
