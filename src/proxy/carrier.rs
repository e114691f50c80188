//! Defines what carries an exchange to an endpoint and back: a connection of its own, or a strand of one that carries
//! many.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::kept::Connection;
use super::multiplexed::Strand;
use crate::exchange::body::Source;
use crate::exchange::{Body, BodyFailure};

/// What carries an exchange.
#[derive(Debug)]
pub(super) enum Carrier {
    /// Of HTTP/1.1.
    Connection(Connection),
    /// Of HTTP/2.
    Strand(Box<Strand>),
}

impl Carrier {
    /// Sends the rest of a request whose response has begun, beside it. On a connection of its own it ends when the
    /// endpoint takes nothing of it for `longest`; on a strand with the response.
    pub(super) fn upload(&mut self, body: Body, longest: Duration) {
        match self {
            Self::Connection(connection) => {
                if let Some(rest) = connection.link.upload(body, longest) {
                    tokio::task::spawn_local(rest);
                }
            }
            Self::Strand(strand) => {
                if let Some(rest) = strand.upload(body) {
                    tokio::task::spawn_local(rest);
                }
            }
        }
    }

    /// Whether nothing more of the response is to come.
    pub(super) fn has_ended(&self) -> bool {
        match self {
            Self::Connection(connection) => connection.link.has_ended(),
            Self::Strand(strand) => strand.has_ended(),
        }
    }
}

/// The endpoint's response body.
impl Source for Carrier {
    const TOO_SLOW: BodyFailure = BodyFailure::EndpointSlow;

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        match self {
            Self::Connection(connection) => connection.link.poll_body(cx).map_err(|error| {
                tracing::debug!("a response's body was cut off: {error}");
                BodyFailure::EndpointGone
            }),
            Self::Strand(strand) => strand.poll_body(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended()
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Connection(connection) => connection.link.size_hint(),
            Self::Strand(strand) => strand.size_hint(),
        }
    }
}
