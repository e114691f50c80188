//! What travels with a request: its body, how its two bodies fare, the flags and errors of an answer, the
//! header names a gateway cares about, what belongs to one hop, who its client is, what it knows of gRPC, and what middlewares may ask of it.

mod accept;
pub mod body;
mod client;
mod context;
pub mod error;
pub mod flag;
pub mod flow;
pub mod forwarded;
pub mod grpc;
pub mod header;
pub mod hop;
mod payload;
pub mod preflight;
pub mod protected;
mod replay;
pub mod target;

pub use accept::prefers_json;
pub use body::Body;
pub use client::ClientAddress;
pub use context::{ClientCertificate, Consumer, Credential, Exchange, Identity, MAX_AUTH_BODY_BYTES, Own, Verdict};
pub use error::ProxyError;
pub use flag::Flag;
pub use flow::{BodyFailure, Flow};
pub use payload::Payload;
