//! The data plane: workers that share nothing they need not, each a thread with its own runtime.
//!
//! A request's life in here: `accept` takes its connection, `connection` serves it (over `tls` perhaps, by `http2`
//! perhaps), `serve` is the exchange in reading order: it has `arrive`d (gate, route, target), perhaps goes `through`
//! middlewares, `breaker` lets it pass, `forward` tries endpoints as often as `retry` allows, each that `room` and `pick`
//! find by an `attempt` over a connection that `kept` keeps (over TLS by `secure`), or over one that carries many
//! (`multiplexed`); `carrier` is either, `tunnel` carries upgrades (`websocket` knows its frames), `own` answers are the
//! gateway's, and `frame` tells log and metrics when it is over. `local` is a worker's view of a snapshot, `drain` ends
//! what is at endpoints that leave it.

mod accept;
mod alarm;
mod arrears;
mod arrive;
mod ask;
mod attempt;
mod balance;
mod breaker;
mod carried;
mod carrier;
mod connection;
mod crowd;
mod drain;
mod field_filter;
mod forward;
mod frame;
mod headers;
mod http1;
mod http2;
mod kept;
mod listener;
mod local;
mod multiplexed;
mod outbound;
mod own;
mod pick;
mod plane;
mod retry;
mod room;
mod secure;
mod serve;
mod steps;
mod stream;
mod through;
mod tls;
mod tunnel;
mod upload;
#[cfg(test)]
mod wakes;
mod websocket;
mod wire;
mod worker;

#[cfg(fuzzing)]
pub use http1::fuzzing;
pub use listener::{Bound, bind};
pub use plane::{DataPlane, Front};
pub use tls::TlsFront;
