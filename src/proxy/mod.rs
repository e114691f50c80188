//! The data plane: workers that share nothing they need not, each a thread with its own runtime.
//!
//! A request's life in here: `accept` takes its connection, `connection` serves it
//! (over `tls` perhaps, by `http2` perhaps), `serve` is the exchange in
//! reading order (`gate`, route, target), `forward` tries endpoints over connections that `kept` keeps, `tunnel`
//! carries upgrades, and `frame` tells log and metrics when it is over. `local` is a worker's view of a snapshot.

mod accept;
mod alarm;
mod balance;
mod connection;
mod crowd;
mod forward;
mod frame;
mod headers;
mod http1;
mod http2;
mod kept;
mod listener;
mod local;
mod outbound;
mod plane;
mod serve;
mod steps;
mod tls;
mod tunnel;
mod wire;
mod worker;

pub use listener::{Bound, bind};
pub use plane::{DataPlane, Front};
pub use tls::TlsFront;
