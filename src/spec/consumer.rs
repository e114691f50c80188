//! Defines who may call: consumers, with what proves who they are.

use std::fmt;

/// Someone who calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumerSpec {
    /// The hashes of the keys it has; several while they are changed.
    pub keys: Vec<KeyHash>,
    /// The hash of its password.
    pub password: Option<PasswordHash>,
    /// The certificates that are its own.
    pub certificates: Vec<CertificateName>,
    /// What it belongs to, for rules.
    pub groups: Vec<String>,
}

/// What certificates are known by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CertificateName {
    /// This one, by its SHA-256.
    Hash(KeyHash),
    /// All with this URI among their names.
    Uri(String),
    /// All with this host name among them, in lower case.
    Dns(String),
    /// All of this subject, as RFC 4514 writes it.
    Subject(String),
}

impl CertificateName {
    /// Reads `sha256:HASH`, `uri:URI`, `dns:NAME` or `subject:CN=NAME`.
    ///
    /// # Errors
    /// What it is not.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            "names no certificate: write `uri:spiffe://example.com/billing`, `dns:billing.example.com`, \
             `subject:CN=billing`, or `sha256:` and its fingerprint in 64 hexadecimal digits"
                .to_owned()
        };
        match text.split_once(':') {
            Some(("sha256", digits)) => {
                let digits: String = digits.chars().filter(|digit| *digit != ':').collect();
                KeyHash::parse(&format!("sha256:{digits}")).map(Self::Hash).map_err(|_| wrong())
            }
            Some(("uri", uri)) if uri.contains(':') => Ok(Self::Uri(uri.to_owned())),
            Some(("dns", name)) if !name.is_empty() => Ok(Self::Dns(name.to_ascii_lowercase())),
            Some(("subject", subject)) if subject.contains('=') => Ok(Self::Subject(subject.to_owned())),
            Some(_) | None => Err(wrong()),
        }
    }
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hash(hash) => f.write_str(&hash.text()),
            Self::Uri(uri) => write!(f, "uri:{uri}"),
            Self::Dns(name) => write!(f, "dns:{name}"),
            Self::Subject(subject) => write!(f, "subject:{subject}"),
        }
    }
}

/// The SHA-256 of a key. A key is random and long enough that a plain hash tells nothing of it (NIST SP 800-63B, 3.1.2.2,
/// on look-up secrets of at least 112 bits).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyHash(pub [u8; 32]);

impl KeyHash {
    const PREFIX: &str = "sha256:";

    /// Reads `sha256:` and 64 hexadecimal digits.
    ///
    /// # Errors
    /// What it is not; the text is not repeated, for it may be a key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            "is not the hash of a key, `sha256:` and 64 hexadecimal digits: `fleetgate hash-key` makes it of the key, \
             which stands in no document"
                .to_owned()
        };
        let digits = text.strip_prefix(Self::PREFIX).ok_or_else(wrong)?.as_bytes();
        let mut hash = [0; 32];
        if digits.len() != 64 {
            return Err(wrong());
        }
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            *byte = digit(pair[0]).ok_or_else(wrong)? << 4 | digit(pair[1]).ok_or_else(wrong)?;
        }
        Ok(Self(hash))
    }

    /// As it is written.
    pub fn text(&self) -> String {
        let digits: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{}{digits}", Self::PREFIX)
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash")
    }
}

/// A password's hash by bcrypt, as `htpasswd -B` makes it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// The most work that a login may make: 2 to this power, a second or so.
    const MAX_COST: u32 = 14;

    /// Reads a hash.
    ///
    /// # Errors
    /// What it is not; the text is not repeated, for it may be a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let makes = "`htpasswd -nB NAME` makes one";
        let kind = match text.get(..4) {
            Some("$2a$" | "$2b$" | "$2y$") => "",
            _ if text.starts_with("$apr1$") || text.starts_with("$1$") => "is a hash by MD5",
            _ if text.starts_with("{SHA}") => "is a hash by SHA-1",
            _ if text.starts_with("$5$") || text.starts_with("$6$") => "is a hash by SHA-2 crypt",
            _ => "is no hash of a password",
        };
        if !kind.is_empty() {
            return Err(format!("{kind}; only bcrypt is taken, `$2y$...`: {makes}"));
        }
        let parts: Vec<&str> = text.split('$').collect();
        let [_, _, cost, rest] = parts[..] else {
            return Err(format!("is a broken hash by bcrypt: {makes}"));
        };
        let alphabet = |byte: u8| byte.is_ascii_alphanumeric() || b"./".contains(&byte);
        match cost.parse::<u32>() {
            Ok(4..=Self::MAX_COST) if rest.len() == 53 && rest.bytes().all(alphabet) => Ok(Self(text.to_owned())),
            Ok(cost) if cost > Self::MAX_COST => Err(format!(
                "asks for a cost of {cost}; more than {} would be a second of work or longer",
                Self::MAX_COST
            )),
            _ => Err(format!("is a broken hash by bcrypt: {makes}")),
        }
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What a check of it costs: 2 to this power rounds.
    pub fn cost(&self) -> u8 {
        // It was read as a number of at most two digits.
        self.0.split('$').nth(2).and_then(|cost| cost.parse().ok()).unwrap_or_default()
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_have_names_of_four_kinds() {
        let hash = "AB:".repeat(31) + "AB";
        for (text, shown) in [
            ("uri:spiffe://example/billing", "uri:spiffe://example/billing"),
            ("dns:Billing.Example", "dns:billing.example"),
            ("subject:CN=billing,O=Example", "subject:CN=billing,O=Example"),
            (&format!("sha256:{hash}"), &format!("sha256:{}", "ab".repeat(32))),
        ] {
            assert_eq!(CertificateName::parse(text).map(|name| name.to_string()).as_deref(), Ok(shown));
        }
        for bad in ["", "billing.example", "dns:", "uri:billing", "subject:billing", "sha256:ab", "email:a@b"] {
            assert!(CertificateName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hashes_are_read_and_nothing_else_is_repeated() {
        let hash = format!("sha256:{}", "0aF9".repeat(16));
        assert_eq!(KeyHash::parse(&hash).map(|hash| hash.text()), Ok(hash.to_lowercase()));
        let bcrypt = format!("$2y$05${}", "a".repeat(53));
        assert!(PasswordHash::parse(&bcrypt).is_ok());
        for secret in ["hunter2", "sha256:hunter2", &format!("sha256:{}", "g".repeat(64)), ""] {
            let told = KeyHash::parse(secret).expect_err("no hash");
            assert!(!told.contains("hunter2") && told.contains("hash-key"), "{told}");
        }
        for (secret, part) in [
            ("hunter2", "no hash"),
            ("$apr1$hunter2$", "MD5"),
            ("{SHA}hunter2", "SHA-1"),
            ("$6$hunter2", "SHA-2"),
            ("$2y$hunter2", "broken"),
            ("$2y$05$hunter2", "broken"),
            (&bcrypt.replace("$05$", "$03$"), "broken"),
            (&bcrypt.replace("$05$", "$31$"), "a cost of 31"),
        ] {
            let told = PasswordHash::parse(secret).expect_err(secret);
            assert!(!told.contains("hunter2") && told.contains(part), "{told}");
        }
        assert_eq!(format!("{:?}", KeyHash::parse(&hash)), "Ok(KeyHash)");
    }
}
