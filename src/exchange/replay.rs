//! Defines what of a body is given once more: a copy of what passed, or what was taken and never sent.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;

/// Bodies up to so many bytes can be sent again.
pub(super) const MOST_REPLAYED: u64 = 64 * 1024;

/// What goes before the rest of a body, and what is kept to put there.
#[derive(Debug, Default)]
pub(super) struct Replay {
    copy: Option<Copy>,
    data: Bytes,
    trailers: Option<HeaderMap>,
}

/// Everything that passed.
#[derive(Debug, Default)]
struct Copy {
    data: BytesMut,
    trailers: Option<HeaderMap>,
}

impl Replay {
    /// Keeps a copy from now on, when nothing has passed yet.
    pub(super) fn copying() -> Self {
        Self { copy: Some(Copy::default()), ..Self::default() }
    }

    /// Whether everything that passed can be given once more.
    pub(super) fn is_whole(&self) -> bool {
        self.copy.is_some()
    }

    /// A part passes. A body that grows too large is copied no further.
    pub(super) fn passes(&mut self, frame: &Frame<Bytes>) {
        let Some(copy) = &mut self.copy else { return };
        if let Some(trailers) = frame.trailers_ref() {
            copy.trailers = Some(trailers.clone());
        }
        let Some(data) = frame.data_ref() else { return };
        if (copy.data.len() + data.len()) as u64 > MOST_REPLAYED {
            self.copy = None;
        } else {
            copy.data.extend_from_slice(data);
        }
    }

    /// Puts the copy before the rest; whether there is one.
    pub(super) fn rewind(&mut self) -> bool {
        let Some(copy) = &self.copy else { return false };
        self.data = Bytes::copy_from_slice(&copy.data);
        self.trailers.clone_from(&copy.trailers);
        true
    }

    /// Puts back what was taken last and not used.
    pub(super) fn put_back(&mut self, data: Bytes, trailers: Option<HeaderMap>) {
        self.data = if self.data.is_empty() { data } else { [data, std::mem::take(&mut self.data)].concat().into() };
        self.trailers = trailers.or(self.trailers.take());
    }

    /// The next part that goes before the rest.
    pub(super) fn next(&mut self) -> Option<Frame<Bytes>> {
        if !self.data.is_empty() {
            return Some(Frame::data(std::mem::take(&mut self.data)));
        }
        self.trailers.take().map(Frame::trailers)
    }

    /// Whether nothing goes before the rest.
    pub(super) fn is_over(&self) -> bool {
        self.data.is_empty() && self.trailers.is_none()
    }

    /// Bytes that go before the rest.
    pub(super) fn len(&self) -> u64 {
        self.data.len() as u64
    }
}
