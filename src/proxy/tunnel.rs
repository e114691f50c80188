//! Defines an upgraded connection: bytes both ways until both sides have closed.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::frame::Frame;

/// Buffer of each direction, in bytes.
const BUFFER: usize = 16 * 1024;

/// Carries bytes both ways. A side that ends its half is told so to the other, whose half goes on.
/// The exchange ends when both have ended, or either breaks.
pub(super) fn spawn(mut frame: Box<Frame>, client: OnUpgrade, endpoint: OnUpgrade) {
    tokio::task::spawn_local(async move {
        frame.tunnelled = Some((0, 0));
        let upgraded = futures_util::future::try_join(client, endpoint).await;
        let (client, endpoint) = match upgraded {
            Ok(sides) => sides,
            Err(error) => {
                tracing::debug!("an upgrade came to nothing: {error}");
                return;
            }
        };
        let (mut client, mut endpoint) = (TokioIo::new(client), TokioIo::new(endpoint));
        let copied = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut endpoint, BUFFER, BUFFER).await;
        match copied {
            Ok(bytes) => frame.tunnelled = Some(bytes),
            Err(error) => tracing::debug!("an upgraded connection broke: {error}"),
        }
    });
}
