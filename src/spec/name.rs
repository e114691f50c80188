//! Defines the names users give to things, and the identity of providers.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A name of a route, upstream, subset, target or listener: `[a-z0-9][a-z0-9._-]{0,62}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// Why a text is not a [`Name`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a name: 1 to 63 of a-z, 0-9, `.`, `_` and `-`, beginning with a letter or digit")]
pub struct InvalidName(String);

impl Name {
    /// Longest name, in bytes.
    pub const MAX_LENGTH: usize = 63;

    /// A name made of any text, the same for the same text: what no name has becomes `-`, and a hash of the text
    /// keeps it from being another's.
    pub fn derived(text: &str) -> Self {
        let fit = |c: char| match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9' | '.' | '_' | '-') => c,
            _ => '-',
        };
        let readable: String = text.chars().map(fit).take(Self::MAX_LENGTH - 9).collect();
        let readable = readable.trim_matches(['.', '_', '-']);
        let readable = if readable.is_empty() { "unnamed" } else { readable };
        // FNV-1a: equal on every gateway and in every version.
        let hash = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        Self(format!("{readable}-{hash:08x}").into())
    }

    /// What tells a [derived](Self::derived) name from others: the hash at its end.
    pub fn digest(&self) -> &str {
        self.0.rsplit_once('-').map_or(&*self.0, |(_, hash)| hash)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let bytes = text.as_bytes();
        let letter_or_digit = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let fits = bytes.len() <= Self::MAX_LENGTH
            && bytes.first().is_some_and(letter_or_digit)
            && bytes.iter().all(|byte| letter_or_digit(byte) || matches!(byte, b'.' | b'_' | b'-'));
        if fits { Ok(Self(text.into())) } else { Err(InvalidName(text.to_owned())) }
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Name {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// A source of documents or endpoints, by the name users see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProviderId {
    /// Documents in files, and the dynamic sections of the main configuration file.
    File,
    /// Documents and endpoints in etcd.
    Etcd,
    /// Documents in Consul's KV store.
    ConsulKv,
    /// Routes that services ask for in their Consul registrations.
    ConsulTags,
    /// Endpoints from Consul's health API.
    Consul,
    /// Addresses of host names.
    Dns,
}

impl ProviderId {
    /// Every provider, in the order lists show them.
    pub const ALL: [Self; 6] = [Self::File, Self::Etcd, Self::ConsulKv, Self::ConsulTags, Self::Consul, Self::Dns];

    /// The name users see and write.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Etcd => "etcd",
            Self::ConsulKv => "consul-kv",
            Self::ConsulTags => "consul-tags",
            Self::Consul => "consul",
            Self::Dns => "dns",
        }
    }
}

impl FromStr for ProviderId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|id| id.as_str() == text)
            .ok_or_else(|| format!("`{text}` is not a provider; one of {}", Self::ALL.map(Self::as_str).join(", ")))
    }
}

impl fmt::Display for ProviderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A reference to a named item: `NAME`, or `NAME@PROVIDER` for the one that provider defines.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemRef {
    /// The item's name.
    pub name: Name,
    /// The provider that must define it; without one `discovery.precedence` decides.
    pub provider: Option<ProviderId>,
}

impl FromStr for ItemRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, provider) = match text.split_once('@') {
            Some((name, provider)) => (name, Some(provider.parse()?)),
            None => (text, None),
        };
        Ok(Self { name: name.parse().map_err(|error: InvalidName| error.to_string())?, provider })
    }
}

impl fmt::Display for ItemRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.provider {
            Some(provider) => write!(f, "{}@{provider}", self.name),
            None => self.name.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "0", "users", "users.v2", "a-b_c", &"x".repeat(63)] {
            assert_eq!(good.parse::<Name>().map(|name| name.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "-a", ".a", "A", "a b", "a/b", "ä", &"x".repeat(64)] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn references_name_a_provider_or_none() {
        let plain: ItemRef = "users".parse().expect("a name");
        assert_eq!((plain.name.as_str(), plain.provider), ("users", None));
        let qualified: ItemRef = "users@consul-kv".parse().expect("a qualified name");
        assert_eq!(qualified.provider, Some(ProviderId::ConsulKv));
        assert_eq!(qualified.to_string(), "users@consul-kv");
        assert!("users@nowhere".parse::<ItemRef>().is_err());
        assert!("Users".parse::<ItemRef>().is_err());
    }
}
