//! Defines how secrets are remembered: by a keyed hash, whose key is of this process.

use std::fmt;

use aws_lc_rs::hmac;

/// Makes tags of secrets.
pub(super) struct Tags(Option<hmac::Key>);

/// The keyed hash of some parts.
pub(super) type Tag = [u8; 32];

impl Default for Tags {
    fn default() -> Self {
        // Without a random key nothing is remembered.
        Self(hmac::Key::generate(hmac::HMAC_SHA256, &aws_lc_rs::rand::SystemRandom::new()).ok())
    }
}

impl fmt::Debug for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tags")
    }
}

impl Tags {
    /// The tag of these parts, in this order.
    pub(super) fn of<'p>(&self, parts: impl IntoIterator<Item = &'p [u8]>) -> Option<Tag> {
        let mut context = hmac::Context::with_key(self.0.as_ref()?);
        for part in parts {
            // Lengths keep parts apart.
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        context.sign().as_ref().try_into().ok()
    }
}
