//! Defines a check's question in HTTP/2 (RFC 9113), over a connection of its own.

use std::pin::pin;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, header, response};
use tokio::io::{AsyncRead, AsyncWrite};

use super::probe::judge;

/// Most of an answer's head that is read, in bytes.
const MAX_HEAD: u32 = 64 * 1024;

/// What is there of an answer.
pub(super) struct Answer {
    pub(super) head: response::Parts,
    pub(super) body: Bytes,
    pub(super) trailers: Option<HeaderMap>,
}

/// GET of a path.
///
/// # Errors
/// Why it did not pass, for people.
pub(super) async fn get(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    path: &str,
    host: &str,
    scheme: &str,
) -> Result<(), String> {
    let request = Request::get(format!("{scheme}://{host}{path}"))
        .header(header::USER_AGENT, "fleetgate-health")
        .header(header::ACCEPT, "*/*")
        .body(Bytes::new());
    let request = request.map_err(|error| format!("the check's path or host can't be sent: {error}"))?;
    judge(ask(stream, request, 0).await?.head.status)
}

/// Asks once; of the answer's body no more than `most` bytes are read, 0 for none.
///
/// # Errors
/// Why there is no answer, for people.
pub(super) async fn ask(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Bytes>,
    most: usize,
) -> Result<Answer, String> {
    let mut builder = h2::client::Builder::new();
    builder.enable_push(false).max_header_list_size(MAX_HEAD);
    let (mut requests, connection) = builder.handshake::<_, Bytes>(stream).await.map_err(|error| describe(&error))?;
    let mut exchange = pin!(async move {
        let (head, body) = request.into_parts();
        let (response, mut sending) = requests.send_request(Request::from_parts(head, ()), body.is_empty())?;
        if !body.is_empty() {
            sending.send_data(body, true)?;
        }
        read(response.await?, most).await
    });
    let mut connection = pin!(connection);
    let answer = tokio::select! {
        biased;
        answer = &mut exchange => answer,
        // It drives the exchange; when it ends first, the exchange knows why.
        _ = &mut connection => exchange.await,
    };
    answer.map_err(|error| describe(&error))
}

async fn read(response: Response<h2::RecvStream>, most: usize) -> Result<Answer, h2::Error> {
    let (head, mut stream) = response.into_parts();
    let (mut body, mut trailers) = (BytesMut::new(), None);
    if most > 0 {
        while let Some(data) = stream.data().await {
            let data = data?;
            body.extend_from_slice(&data[..data.len().min(most - body.len())]);
            stream.flow_control().release_capacity(data.len())?;
            if body.len() == most {
                break;
            }
        }
        if body.len() < most {
            trailers = stream.trailers().await?;
        }
    }
    Ok(Answer { head, body: body.freeze(), trailers })
}

/// What an endpoint sends that is not HTTP/2 reads as a frame of a wrong size, which would tell nobody anything.
fn describe(error: &h2::Error) -> String {
    if error.is_library() { format!("the endpoint does not speak HTTP/2: {error}") } else { error.to_string() }
}
