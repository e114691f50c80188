//! Defines how a consumer is written.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::spec::consumer::{CertificateName, ConsumerSpec, KeyHash, PasswordHash};

use super::condition::resolve_each;
use super::scope::Scope;

/// Someone who calls, under the name that services, rules and logs know. Only hashes of secrets are written.
#[derive(Clone, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Consumer", deny_unknown_fields)]
pub struct RawConsumer {
    /// Hashes of the keys it has, `sha256:...`, as `fleetgate hash-key` makes them.
    keys: Option<Vec<String>>,
    /// The hash of its password by bcrypt, `$2y$...`, as `htpasswd -nB NAME` makes it; its name is the user.
    password: Option<String>,
    /// The certificates that are its own: `uri:spiffe://example.com/billing`, `dns:billing.example.com`,
    /// `subject:CN=billing`, or `sha256:` and the fingerprint of one.
    certificates: Option<Vec<String>>,
    /// What it belongs to, for rules.
    groups: Option<Vec<String>>,
}

impl RawConsumer {
    pub(super) fn resolve(self, scope: &Scope<'_>) -> Option<ConsumerSpec> {
        let keys_scope = scope.key("keys");
        let keys = self.keys.unwrap_or_default().into_iter().enumerate();
        let password = self.password.and_then(|text| scope.key("password").check(PasswordHash::parse(&text)));
        Some(ConsumerSpec {
            keys: keys.filter_map(|(index, text)| keys_scope.index(index).check(KeyHash::parse(&text))).collect(),
            password,
            certificates: resolve_each(self.certificates, &scope.key("certificates"), |text, scope| {
                scope.check(CertificateName::parse(&text))
            }),
            groups: self.groups.unwrap_or_default(),
        })
    }
}
