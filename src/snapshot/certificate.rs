//! Defines which certificate a client is shown: by the name it asks for, exact before wildcard before default.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::sign::CertifiedKey;

use crate::spec::certificate::CertificateSpec;
use crate::spec::document::Kind;
use crate::spec::matching::HostMatch;
use crate::spec::name::{Name, ProviderId};
use crate::spec::problem::Problem;

/// A certificate that won its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Certificate {
    /// Its name.
    pub name: Name,
    /// Who defines it.
    pub provider: ProviderId,
    /// What it is.
    pub spec: Arc<CertificateSpec>,
}

/// All certificates, found by host.
#[derive(Debug, Default)]
pub struct Certificates {
    /// By name.
    all: Vec<Certificate>,
    exact: HashMap<Box<str>, Arc<CertifiedKey>>,
    /// By what follows the first label.
    wildcard: HashMap<Box<str>, Arc<CertifiedKey>>,
    default: Option<Arc<CertifiedKey>>,
    /// Hosts that several claim.
    remarks: Vec<Problem>,
}

impl Certificates {
    /// Those of `all`, in the order of their names: of two for one host the first one is shown, which is remarked.
    pub fn new(all: Vec<Certificate>) -> Self {
        let mut certificates = Self::default();
        let mut claims: HashMap<Option<&HostMatch>, &Name> = HashMap::new();
        for Certificate { name, spec, .. } in &all {
            let hosts = spec.hosts.iter().map(Some);
            for host in hosts.chain(spec.default.then_some(None)) {
                if let Some(other) = claims.get(&host) {
                    let what = host.map_or_else(|| "the default".to_owned(), |host| format!("shown for `{host}`"));
                    let text = format!("`{other}` is {what}, too, and goes first: `{name}` is not shown there");
                    let key = format!("{}.{name}", Kind::Certificate.as_str());
                    certificates.remarks.push(Problem::new("configuration", key, text));
                    continue;
                }
                claims.insert(host, name);
                let certified = Arc::clone(spec.pair.certified());
                match host {
                    Some(HostMatch::Exact(host)) => {
                        certificates.exact.insert(host.as_str().into(), certified);
                    }
                    Some(HostMatch::Wildcard(suffix)) => {
                        certificates.wildcard.insert(suffix.as_str().into(), certified);
                    }
                    None => certificates.default = Some(certified),
                }
            }
        }
        certificates.all = all;
        certificates
    }

    /// Those of `all`; the former object where nothing differs.
    pub fn next(all: &[Certificate], before: &Arc<Self>) -> Arc<Self> {
        let same = |(one, other): (&Certificate, &Certificate)| {
            one.name == other.name
                && one.provider == other.provider
                && (Arc::ptr_eq(&one.spec, &other.spec) || one.spec == other.spec)
        };
        if all.len() == before.all.len() && all.iter().zip(&before.all).all(same) {
            return Arc::clone(before);
        }
        Arc::new(Self::new(all.to_vec()))
    }

    /// What a client is shown that asks for this host (in lower case) or for none.
    pub fn choose(&self, host: Option<&str>) -> Option<&Arc<CertifiedKey>> {
        let by_host = host.and_then(|host| {
            let wildcard = || self.wildcard.get(host.split_once('.')?.1);
            self.exact.get(host).or_else(wildcard)
        });
        by_host.or(self.default.as_ref())
    }

    /// All, by name.
    pub fn all(&self) -> &[Certificate] {
        &self.all
    }

    /// The one of this name.
    pub fn by_name(&self, name: &Name) -> Option<&Certificate> {
        self.all.iter().find(|certificate| certificate.name == *name)
    }

    /// What people have to know: hosts that several claim, and those that are not valid at this time.
    pub fn remarks(&self, now: SystemTime) -> Vec<Problem> {
        let untimely = self.all.iter().filter_map(|Certificate { name, provider, spec }| {
            let key = format!("{}.{name}", Kind::Certificate.as_str());
            Some(Problem::new(provider.as_str(), key, spec.pair.untimely(now)?))
        });
        self.remarks.iter().cloned().chain(untimely).collect()
    }
}

#[cfg(test)]
mod tests;
