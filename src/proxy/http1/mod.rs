//! Defines HTTP/1.1 as the gateway speaks it to endpoints (RFC 9112), polled by the exchange that has the connection.
//!
//! hyper's client runs each connection as a task of its own and passes head, body and wake-ups to it by channels,
//! which costs a kept connection's exchange more than the protocol does. hyper speaks to the clients.

mod decoder;
mod encoder;
#[cfg(fuzzing)]
pub mod fuzzing;
mod head;
mod link;
mod sending;

pub(super) use head::Head;
pub(super) use link::{Broken, Link};
