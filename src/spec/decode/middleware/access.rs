//! Defines how those middlewares are written that find out who a client is, and whether it may.

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::spec::consumer::PasswordHash;
use crate::spec::decode::condition::{RawWhen, parse_method, parse_prefix, resolve_each};
use crate::spec::decode::route::parse_cookie_name;
use crate::spec::decode::scope::Scope;
use crate::spec::middleware::access::{ApiKey, Basic, CertificatePart, ClientCertificate, Ip, KeyPlace, Rule};

use super::header_name::{HeaderUse, header_for};
use super::networks;

/// Whose requests are taken, by the client's address (the first one that no trusted proxy has).
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Ip", deny_unknown_fields)]
pub(super) struct RawIp {
    /// Only from these CIDRs or addresses; default from all.
    allow: Option<Vec<String>>,
    /// Not from these, whatever `allow` says.
    deny: Option<Vec<String>>,
}

/// A key that says which consumer a client is. Services get the consumer's name in `X-Consumer`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "ApiKey", deny_unknown_fields)]
pub(super) struct RawApiKey {
    /// The header it is in; default `x-api-key`, where neither `query` nor `cookie` is given.
    header: Option<String>,
    /// The parameter of the query it is in. Queries stand in logs of others: prefer a header.
    query: Option<String>,
    /// The cookie it is in.
    cookie: Option<String>,
    /// Whether services get it, too; default false.
    forward: Option<bool>,
    /// Whether a client without one may go on, as nobody; a wrong one is refused all the same. Default false.
    optional: Option<bool>,
    /// Only consumers of one of these groups; default all.
    groups: Option<Vec<String>>,
}

/// A name and a password (RFC 7617). Services get the name in `X-Consumer`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Basic", deny_unknown_fields)]
pub(super) struct RawBasic {
    /// What browsers show people; default `fleetgate`.
    realm: Option<String>,
    /// Lines as `htpasswd -nB NAME` makes them, `NAME:$2y$...`; without them consumers and their passwords.
    users: Option<Vec<String>>,
    /// Whether services get name and password, too; default false.
    forward: Option<bool>,
    /// Whether a client without them may go on, as nobody; wrong ones are refused all the same. Default false.
    optional: Option<bool>,
    /// Only consumers of one of these groups; default all.
    groups: Option<Vec<String>>,
}

/// A certificate that says which consumer a client is: one that the client proved to have in its handshake with this
/// gateway, on a listener with `tls.client_ca`. Services get the consumer's name in `X-Consumer`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "ClientCertificateMiddleware", deny_unknown_fields)]
pub(super) struct RawClientCertificate {
    /// Which of its names is that of the consumer where no consumer lists the certificate: its first `uri`, its first
    /// `dns` name, or its `subject`. Default: such certificates are refused.
    consumer: Option<RawCertificatePart>,
    /// Whether a client without a certificate may go on, as nobody. Default false.
    optional: Option<bool>,
    /// Only consumers of one of these groups; default all.
    groups: Option<Vec<String>>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "CertificatePart")]
enum RawCertificatePart {
    Uri,
    Dns,
    Subject,
}

/// What a request must be like. What is not given asks nothing; of a list one holds, of `scopes` and `claims` all.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Rule", deny_unknown_fields)]
pub(super) struct RawRule {
    /// The client is one of these consumers; `*` is any.
    consumers: Option<Vec<String>>,
    /// It belongs to one of these groups.
    groups: Option<Vec<String>>,
    /// Its token has all of these scopes.
    scopes: Option<Vec<String>>,
    /// Its token says all of this: a text that is, or is among, the claim of this name.
    claims: Option<BTreeMap<String, String>>,
    /// By one of these methods.
    methods: Option<Vec<String>>,
    /// Below one of these paths, by whole segments.
    paths: Option<Vec<String>>,
    /// From one of these CIDRs or addresses.
    ips: Option<Vec<String>>,
    /// With such headers, query and cookies.
    when: Option<RawWhen>,
}

impl RawIp {
    pub(super) fn resolve(self, scope: &Scope<'_>) -> Ip {
        if self.allow.is_none() && self.deny.as_ref().is_none_or(Vec::is_empty) {
            scope.missing("changes nothing: give `allow` or `deny`");
        }
        // An empty list allows nobody.
        let allow_scope = scope.key("allow");
        let allow =
            self.allow.map(|list| if list.is_empty() { Vec::new() } else { networks(Some(list), &allow_scope) });
        Ip { allow, deny: networks(self.deny.filter(|list| !list.is_empty()), &scope.key("deny")) }
    }
}

impl RawApiKey {
    pub(super) fn resolve(self, scope: &Scope<'_>) -> Option<ApiKey> {
        let from = match (self.header, self.query, self.cookie) {
            (None, None, None) => Some(KeyPlace::Header(HeaderName::from_static("x-api-key"))),
            (Some(name), None, None) => {
                header_for(HeaderUse::Credential, &name, &scope.key("header")).map(KeyPlace::Header)
            }
            (None, Some(name), None) if name.is_empty() => {
                scope.key("query").problem("the parameter has no name");
                None
            }
            (None, Some(name), None) => Some(KeyPlace::Query(name)),
            (None, None, Some(name)) => scope.key("cookie").check(parse_cookie_name(name)).map(KeyPlace::Cookie),
            _ => {
                scope.problem("`header`, `query` and `cookie` exclude each other: make a middleware of each");
                None
            }
        };
        Some(ApiKey {
            from: from?,
            forward: self.forward.unwrap_or(false),
            optional: self.optional.unwrap_or(false),
            groups: groups(self.groups, scope),
        })
    }
}

impl RawClientCertificate {
    pub(super) fn resolve(self, scope: &Scope<'_>) -> ClientCertificate {
        ClientCertificate {
            consumer: self.consumer.map(|part| match part {
                RawCertificatePart::Uri => CertificatePart::Uri,
                RawCertificatePart::Dns => CertificatePart::Dns,
                RawCertificatePart::Subject => CertificatePart::Subject,
            }),
            optional: self.optional.unwrap_or(false),
            groups: groups(self.groups, scope),
        }
    }
}

pub(super) fn groups(raw: Option<Vec<String>>, scope: &Scope<'_>) -> Vec<String> {
    resolve_each(raw, &scope.key("groups"), |group, _| Some(group))
}

impl RawBasic {
    pub(super) fn resolve(self, scope: &Scope<'_>) -> Option<Basic> {
        let realm = self.realm.unwrap_or_else(|| "fleetgate".to_owned());
        let plain = realm.bytes().all(|byte| (0x20..0x7f).contains(&byte) && !b"\"\\".contains(&byte));
        let challenge = HeaderValue::try_from(format!("Basic realm=\"{realm}\", charset=\"UTF-8\""));
        let challenge = challenge.ok().filter(|_| plain);
        if challenge.is_none() {
            scope.key("realm").problem("is plain ASCII, without quotes and backslashes");
        }
        let users = self
            .users
            .map(|lines| resolve_each(Some(lines), &scope.key("users"), |line, scope| scope.check(parse_user(&line))));
        if let Some(users) = &users {
            let mut names: Vec<&str> = users.iter().map(|(name, _)| name.as_str()).collect();
            names.sort_unstable();
            if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
                scope.key("users").problem(format!("`{}` is there twice", pair[0]));
            }
        }
        Some(Basic {
            challenge: challenge?,
            realm,
            users,
            forward: self.forward.unwrap_or(false),
            optional: self.optional.unwrap_or(false),
            groups: groups(self.groups, scope),
        })
    }
}

/// A line of htpasswd. What is written may be a password in a wrong place: no message repeats it.
fn parse_user(line: &str) -> Result<(String, PasswordHash), String> {
    match line.trim().split_once(':') {
        Some((name, hash)) if !name.is_empty() => Ok((name.to_owned(), PasswordHash::parse(hash)?)),
        _ => Err("is no line of htpasswd, `NAME:$2y$...`: `htpasswd -nB NAME` makes one".to_owned()),
    }
}

/// The rules of a list, one of which must hold.
pub(super) fn resolve_rules(raw: Vec<RawRule>, scope: &Scope<'_>) -> Vec<Rule> {
    if raw.is_empty() {
        scope.missing("there is no rule: nobody would be let in; a middleware `respond` says that");
    }
    raw.into_iter().enumerate().map(|(index, rule)| rule.resolve(&scope.index(index))).collect()
}

impl RawRule {
    fn resolve(self, scope: &Scope<'_>) -> Rule {
        let rule = Rule {
            consumers: resolve_each(self.consumers, &scope.key("consumers"), |name, _| Some(name)),
            groups: groups(self.groups, scope),
            scopes: resolve_each(self.scopes, &scope.key("scopes"), |name, _| Some(name)),
            claims: self.claims.unwrap_or_default().into_iter().collect(),
            methods: resolve_each(self.methods, &scope.key("methods"), |text, scope| scope.check(parse_method(&text))),
            paths: resolve_each(self.paths, &scope.key("paths"), |text, scope| scope.check(parse_prefix(&text))),
            ips: networks(self.ips, &scope.key("ips")),
            when: self.when.map(|when| when.resolve(&scope.key("when"))).unwrap_or_default(),
        };
        if rule == Rule::default() {
            scope.missing("the rule asks nothing: everybody would be let in");
        }
        rule
    }
}
