//! Defines which tokens (JWT, RFC 7519) prove who a client is, as someone asked for it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use http::HeaderName;

use super::access::KeyPlace;

/// Which tokens prove who a client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwt {
    /// `iss` must be one of these.
    pub issuers: Vec<String>,
    /// `aud` must have one of these; empty: it is not looked at.
    pub audience: Vec<String>,
    /// What tokens are signed with.
    pub keys: JwtKeys,
    /// By one of these algorithms, whatever a token says.
    pub algorithms: Vec<Algorithm>,
    /// How far clocks may differ.
    pub leeway: Duration,
    /// Where a token is; in `Authorization` behind `Bearer`.
    pub from: KeyPlace,
    /// Claims that services get in headers; dots lead into a claim.
    pub claims: Vec<(String, HeaderName)>,
    /// The claim that is the consumer's name.
    pub consumer: String,
    /// Whether services get the token, too.
    pub forward: bool,
    /// Whether a client without one may go on, as nobody.
    pub optional: bool,
    /// Only consumers of one of these groups; all where there is none.
    pub groups: Vec<String>,
}

/// What tokens are signed with.
#[derive(Clone, PartialEq, Eq)]
pub enum JwtKeys {
    /// What the issuer publishes at a URL (RFC 7517, 5), read anew every so often.
    Url {
        /// `https`, or `http` on this machine.
        url: String,
        /// How often it is read.
        refresh: Duration,
    },
    /// Public keys in PEM.
    Pem(Vec<String>),
    /// A set of keys, as JSON.
    Set(String),
    /// A secret that the issuer has, too; at least 32 bytes.
    Secret(String),
}

impl fmt::Debug for JwtKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url { url, refresh } => write!(f, "Url({url}, {refresh:?})"),
            Self::Pem(keys) => write!(f, "Pem({})", keys.len()),
            Self::Set(_) => f.write_str("Set"),
            Self::Secret(_) => f.write_str("Secret"),
        }
    }
}

/// How a token is signed (RFC 7518, 3.1; RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "named as in the RFC")]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
    Hs256,
    Hs384,
    Hs512,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::EdDsa,
        Self::Hs256,
        Self::Hs384,
        Self::Hs512,
    ];

    /// As tokens and users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
            Self::Hs256 => "HS256",
            Self::Hs384 => "HS384",
            Self::Hs512 => "HS512",
        }
    }

    /// Whether both sides have the same secret.
    pub fn is_symmetric(self) -> bool {
        matches!(self, Self::Hs256 | Self::Hs384 | Self::Hs512)
    }
}

impl FromStr for Algorithm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::as_str).join("`, `");
        let found = Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == text);
        found.ok_or_else(|| format!("`{text}` is none of `{}`", known()))
    }
}
