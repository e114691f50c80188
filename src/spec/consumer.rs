//! Defines who may call: consumers, with what proves who they are.

use std::fmt;

/// Someone who calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsumerSpec {
    /// The hashes of the keys it has; several while they are changed.
    pub keys: Vec<KeyHash>,
    /// The hash of its password.
    pub password: Option<PasswordHash>,
    /// What it belongs to, for rules.
    pub groups: Vec<String>,
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
