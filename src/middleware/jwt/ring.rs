//! Defines the keys that tokens are checked with.

use jsonwebtoken::jwk::{AlgorithmParameters, JwkSet, PublicKeyUse};
use jsonwebtoken::{AlgorithmFamily, DecodingKey};
use serde_json::Value;

/// A set of keys has no more than this: each that has no name may be tried.
const MOST: usize = 64;

/// Keys of one issuer.
#[derive(Debug, Default)]
pub(super) struct Ring(Vec<Key>);

#[derive(Debug)]
struct Key {
    name: Option<String>,
    /// The one algorithm that it is for, where it says so.
    algorithm: Option<String>,
    key: DecodingKey,
}

impl Ring {
    /// A secret.
    pub(super) fn of_secret(secret: &str) -> Self {
        Self(vec![Key { name: None, algorithm: None, key: DecodingKey::from_secret(secret.as_bytes()) }])
    }

    /// Public keys in PEM.
    ///
    /// # Errors
    /// Text that holds none.
    pub(super) fn of_pem(texts: &[String]) -> Result<Self, String> {
        let key = |text: &String| {
            let bytes = text.as_bytes();
            let key = DecodingKey::from_rsa_pem(bytes)
                .or_else(|_| DecodingKey::from_ec_pem(bytes))
                .or_else(|_| DecodingKey::from_ed_pem(bytes));
            let key = key.map_err(|_| "a key is no public key of RSA, ECDSA or EdDSA in PEM".to_owned())?;
            Ok(Key { name: None, algorithm: None, key })
        };
        texts.iter().map(key).collect::<Result<_, _>>().map(Self)
    }

    /// A set as issuers publish it (RFC 7517, 5). Keys of kinds that are not known are passed over, and secrets: what
    /// is published is none.
    ///
    /// # Errors
    /// What is no set, or has no key that could be used.
    pub(super) fn of_set(json: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(json).map_err(|error| format!("no JSON: {error}"))?;
        let listed = value.get("keys").and_then(Value::as_array).ok_or("no set of keys: it has no list `keys`")?;
        if listed.len() > MOST {
            return Err(format!("{} keys; more than {MOST} are not read", listed.len()));
        }
        let mut keys = Vec::new();
        for one in listed {
            // One by one: a kind that is not known spoils no other.
            let Ok(set) = serde_json::from_value::<JwkSet>(serde_json::json!({ "keys": [one] })) else { continue };
            for jwk in &set.keys {
                let signs = !matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption));
                let public = !matches!(jwk.algorithm, AlgorithmParameters::OctetKey(_));
                let Some(key) = DecodingKey::from_jwk(jwk).ok().filter(|_| signs && public) else { continue };
                let algorithm = one.get("alg").and_then(Value::as_str).map(str::to_owned);
                keys.push(Key { name: jwk.common.key_id.clone(), algorithm, key });
            }
        }
        if keys.is_empty() { Err("no key that signatures could be checked with".to_owned()) } else { Ok(Self(keys)) }
    }

    /// Whether a key has this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|key| key.name.as_deref() == Some(name))
    }

    /// The keys that a token may be signed with. `None`: it names one that nobody knows.
    pub(super) fn fitting<'r>(
        &'r self,
        name: Option<&'r str>,
        algorithm: &'r str,
        family: AlgorithmFamily,
    ) -> Option<impl Iterator<Item = &'r DecodingKey>> {
        let is_named = move |key: &Key| name.is_none() || key.name.is_none() || key.name.as_deref() == name;
        if !self.0.iter().any(is_named) {
            return None;
        }
        let fits = move |key: &&Key| {
            is_named(key)
                && key.key.family() == family
                && key.algorithm.as_deref().is_none_or(|for_one| for_one == algorithm)
        };
        Some(self.0.iter().filter(fits).map(|key| &key.key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_read_as_far_as_they_can_be_used() {
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        let set = |keys: &str| Ring::of_set(format!("{{\"keys\":[{keys}]}}").as_bytes());
        let ed = |more: &str| format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}"{more}}}"#);
        let known = |keys: &str| set(keys).map(|ring| ring.0.len());
        assert_eq!(known(&ed("")), Ok(1));
        assert_eq!(known(&format!("{},{}", ed(r#","kid":"a""#), r#"{"kty":"NEW","x":1}"#)), Ok(1), "kinds to come");
        for none in ["", r#"{"kty":"oct","k":"c2VjcmV0"}"#, &ed(r#","use":"enc""#), "7"] {
            assert!(set(none).is_err(), "{none}");
        }
        for broken in ["", "[]", r#"{"keys":{}}"#] {
            assert!(Ring::of_set(broken.as_bytes()).is_err(), "{broken}");
        }
        assert!(set(&vec![ed(""); MOST + 1].join(",")).is_err());

        let ring = set(&format!("{},{}", ed(r#","kid":"a","alg":"EdDSA""#), ed(r#","kid":"b""#))).expect("a set");
        let fitting = |name, algorithm, family| ring.fitting(name, algorithm, family).map(Iterator::count);
        assert_eq!(fitting(Some("a"), "EdDSA", AlgorithmFamily::Ed), Some(1));
        assert_eq!(fitting(None, "EdDSA", AlgorithmFamily::Ed), Some(2));
        assert_eq!(fitting(Some("a"), "RS256", AlgorithmFamily::Rsa), Some(0));
        assert_eq!(fitting(Some("c"), "EdDSA", AlgorithmFamily::Ed), None);
    }
}
