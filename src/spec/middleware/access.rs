//! Defines who a client is found to be, and whether it may, as someone asked for it.

use http::{HeaderName, HeaderValue, Method};
use ipnet::IpNet;

use crate::spec::consumer::PasswordHash;
use crate::spec::matching::Conditions;

/// Whose requests are taken, by the client's address; a denied one is never allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Only these; `None`: all.
    pub allow: Option<Vec<IpNet>>,
    /// Not these.
    pub deny: Vec<IpNet>,
}

impl Ip {
    /// Whether a client may come. An unknown one (`None`) is in no list that allows, and may be in any that denies.
    pub fn admits(&self, client: Option<std::net::IpAddr>) -> bool {
        let lists = |list: &[IpNet], address| list.iter().any(|network| network.contains(address));
        match &client {
            Some(client) => self.allow.as_deref().is_none_or(|list| lists(list, client)) && !lists(&self.deny, client),
            None => self.allow.is_none() && self.deny.is_empty(),
        }
    }
}

/// A key that a client shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Where it is.
    pub from: KeyPlace,
    /// Whether services get it, too.
    pub forward: bool,
    /// Whether a client without one may go on, as nobody.
    pub optional: bool,
    /// Only consumers of one of these groups; all where there is none.
    pub groups: Vec<String>,
}

/// Where a key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyPlace {
    /// A header.
    Header(HeaderName),
    /// A parameter of the query.
    Query(String),
    /// A cookie.
    Cookie(String),
}

/// A certificate that a client shows in its handshake.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Which of its names is that of a consumer, for certificates that no consumer lists; `None`: such are refused.
    pub consumer: Option<CertificatePart>,
    /// Whether a client without one may go on, as nobody.
    pub optional: bool,
    /// Only consumers of one of these groups; all where there is none.
    pub groups: Vec<String>,
}

/// A name of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificatePart {
    /// Its first URI.
    Uri,
    /// Its first host name.
    Dns,
    /// Its subject.
    Subject,
}

impl CertificatePart {
    /// As users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Uri => "uri",
            Self::Dns => "dns",
            Self::Subject => "subject",
        }
    }
}

/// A name and a password (RFC 7617).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Basic {
    /// What browsers show people.
    pub challenge: HeaderValue,
    /// As it was written.
    pub realm: String,
    /// Users by name; consumers where there are none.
    pub users: Option<Vec<(String, PasswordHash)>>,
    /// Whether services get name and password, too.
    pub forward: bool,
    /// Whether a client without them may go on, as nobody.
    pub optional: bool,
    /// Only consumers of one of these groups; all where there is none.
    pub groups: Vec<String>,
}

/// One of these must hold.
pub type Require = Vec<Rule>;

/// What a request must be like; all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// The client is one of these consumers; `*` is any.
    pub consumers: Vec<String>,
    /// It belongs to one of these.
    pub groups: Vec<String>,
    /// Its token has all of these scopes (RFC 8693, 4.2).
    pub scopes: Vec<String>,
    /// Its token says this: a text that is, or is among, the claim of this name.
    pub claims: Vec<(String, String)>,
    /// By one of these methods.
    pub methods: Vec<Method>,
    /// Below one of these paths, by whole segments, without a trailing slash.
    pub paths: Vec<String>,
    /// From one of these networks.
    pub ips: Vec<IpNet>,
    /// With such headers, query and cookies.
    pub when: Conditions,
}

impl Rule {
    /// Whether it asks who the client is.
    pub fn asks_who(&self) -> bool {
        !(self.consumers.is_empty() && self.groups.is_empty() && self.scopes.is_empty() && self.claims.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_client_is_allowed_by_no_list_and_denied_by_every_one() {
        let networks = || vec!["10.0.0.0/8".parse::<IpNet>().expect("a network")];
        let everything = || vec!["0.0.0.0/0".parse::<IpNet>().expect("a network"), "::/0".parse().expect("a network")];
        for (allow, deny, known, unknown) in [
            (None, Vec::new(), true, true),
            (Some(networks()), Vec::new(), true, false),
            (Some(everything()), Vec::new(), true, false),
            (None, vec!["192.0.2.0/24".parse().expect("a network")], true, false),
            (Some(networks()), networks(), false, false),
        ] {
            let ip = Ip { allow, deny };
            assert_eq!(ip.admits(Some([10, 0, 0, 1].into())), known, "{ip:?}");
            assert_eq!(ip.admits(None), unknown, "{ip:?}");
        }
    }
}
