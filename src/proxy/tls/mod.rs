//! TLS towards clients: the settings of a listener, a handshake, what endpoints learn of a client's certificate.

mod front;
mod handshake;
mod identity;

pub use front::TlsFront;
pub(super) use handshake::{Handshakes, Shaken, shake};
pub(super) use identity::Presented;
