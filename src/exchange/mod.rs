//! What travels with a request: its body, how its two bodies fare, the flags and errors of an answer, the
//! header names a gateway cares about, and what it knows of gRPC.

pub mod body;
pub mod error;
pub mod flag;
pub mod flow;
pub mod grpc;
pub mod header;
mod replay;

pub use body::Body;
pub use error::ProxyError;
pub use flag::Flag;
pub use flow::{BodyFailure, Flow};
