//! What travels with a request: its body, how its two bodies fare, the flags and errors of an answer, and the
//! header names a gateway cares about.

pub mod body;
pub mod error;
pub mod flag;
pub mod flow;
pub mod header;
mod replay;

pub use body::Body;
pub use error::ProxyError;
pub use flag::Flag;
pub use flow::{BodyFailure, Flow};
