//! Defines HTTP/2 as the gateway speaks it to endpoints (RFC 9113): few connections, each a trunk of many strands, of
//! which each is an exchange.
//!
//! An endpoint's trunks belong to its worker. One is made when none has room, by one request at a time; the others wait
//! for it. It takes no more strands once the endpoint says so (GOAWAY) or is in doubt, and ends with its last one.

mod attempt;
mod request;
mod sending;
mod strand;
mod trunk;
mod trunks;

pub(super) use attempt::attempt;
pub(super) use strand::{Cut, Strand};
pub(super) use trunk::NoTrunk;
pub(super) use trunks::Trunks;
