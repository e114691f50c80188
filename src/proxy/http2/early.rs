//! Answers that end before their requests do. Their streams stay open for a while: a client that is still sending learns
//! of the answer first, and what is in flight is read and dropped. Then h2 resets the stream with NO_ERROR (RFC 9113, 8.1).

use std::cell::{OnceCell, RefCell};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::task::AbortHandle;

use super::super::frame::Outgoing;
use crate::exchange::body::BodyError;

/// How long a stream stays open behind its answer. A client that has stopped, or ended its request, ends it before. curl
/// takes a reset that comes together with the answer for an error.
const LINGER: Duration = Duration::from_secs(2);

tokio::task_local! {
    /// The exchange that runs.
    static EXCHANGE: Rc<Exchange>;
}

/// What is known of an exchange outside of it.
#[derive(Debug, Default)]
struct Exchange {
    /// To end it by.
    task: OnceCell<AbortHandle>,
    /// Its answer, where that began before the request was over.
    early: RefCell<Option<Shared>>,
}

type Shared = Rc<RefCell<Option<Outgoing>>>;

/// The task of the exchange that runs.
pub(super) fn task() -> Option<AbortHandle> {
    EXCHANGE.try_with(|exchange| exchange.task.get().cloned()).ok().flatten()
}

/// Runs an exchange on the worker's own thread.
pub(super) fn run(exchange: impl Future<Output = ()> + 'static) {
    let known = Rc::<Exchange>::default();
    let running = tokio::task::spawn_local(EXCHANGE.scope(Rc::clone(&known), async {
        let mut exchange = pin!(exchange);
        exchange.as_mut().await;
        // The exchange has the stream: as long as it is there, h2 does not reset that.
        linger().await;
    }));
    // It does not run before this thread comes to it.
    let _ = known.task.set(running.abort_handle());
}

async fn linger() {
    let early = EXCHANGE.try_with(|exchange| exchange.early.take()).ok().flatten();
    // For the log and the endpoint it is over.
    if let Some(answer) = early.and_then(|early| early.take())
        && answer.is_early()
    {
        drop(answer);
        tokio::time::sleep(LINGER).await;
    }
}

/// A response's body on its way to a client of HTTP/2.
#[derive(Debug)]
pub(super) enum Answer {
    Own(Outgoing),
    /// It goes before the exchange does.
    Early(Shared),
}

impl Answer {
    /// `has_body`: the request has one.
    pub(super) fn new(body: Outgoing, has_body: bool) -> Self {
        if !has_body || !body.is_early() {
            return Self::Own(body);
        }
        let shared = Rc::new(RefCell::new(Some(body)));
        let _ = EXCHANGE.try_with(|exchange| exchange.early.replace(Some(Rc::clone(&shared))));
        Self::Early(shared)
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Own(body) => Pin::new(body).poll_frame(cx),
            Self::Early(shared) => match &mut *shared.borrow_mut() {
                Some(body) => Pin::new(body).poll_frame(cx),
                None => Poll::Ready(None),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_end_stream(),
            Self::Early(shared) => shared.borrow().as_ref().is_none_or(Body::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => body.size_hint(),
            Self::Early(shared) => shared.borrow().as_ref().map_or(SizeHint::with_exact(0), Body::size_hint),
        }
    }
}
