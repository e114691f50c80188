//! Defines the question of gRPC's health checking protocol (`grpc.health.v1.Health/Check`), written by hand: a message of
//! one field each way.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{Request, StatusCode, header};
use tokio::io::{AsyncRead, AsyncWrite};

use super::http2::{Answer, ask};

/// Most bytes of an answer; one has seven.
const MOST_READ: usize = 1024;

/// Asks how a service is; empty: the server as a whole.
///
/// # Errors
/// Why it does not pass, for people.
pub(super) async fn check(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    service: &str,
    host: &str,
    scheme: &str,
) -> Result<(), String> {
    let request = Request::post(format!("{scheme}://{host}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, "fleetgate-health")
        .body(question(service));
    let request = request.map_err(|error| format!("the check's host can't be sent: {error}"))?;
    judge(&ask(stream, request, MOST_READ).await?)
}

/// `HealthCheckRequest { string service = 1 }`, uncompressed behind its length.
fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        put_varint(&mut message, service.len());
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(&message);
    framed.freeze()
}

fn put_varint(message: &mut BytesMut, mut number: usize) {
    while number > 0x7f {
        message.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    message.put_u8(number as u8);
}

fn judge(answer: &Answer) -> Result<(), String> {
    if answer.head.status != StatusCode::OK {
        return Err(format!("status {}", answer.head.status.as_u16()));
    }
    let trailers = answer.trailers.as_ref().unwrap_or(&answer.head.headers);
    let status = trailers.get("grpc-status").and_then(|status| status.to_str().ok());
    match status {
        Some("0") => {}
        Some("5") => return Err("the server does not know the service (grpc-status 5)".to_owned()),
        Some("12") => return Err("the server has no health service (grpc-status 12)".to_owned()),
        Some(status) => {
            let digits: String = status.chars().take_while(char::is_ascii_digit).take(3).collect();
            return Err(format!("grpc-status {digits}"));
        }
        None => return Err("no grpc-status: that is no answer of gRPC".to_owned()),
    }
    match serving_status(&answer.body) {
        Some(1) => Ok(()),
        Some(0) => Err("the service says UNKNOWN".to_owned()),
        Some(2) => Err("the service says NOT_SERVING".to_owned()),
        Some(3) => Err("the service says SERVICE_UNKNOWN".to_owned()),
        Some(_) | None => Err("an answer that is none of gRPC's health service".to_owned()),
    }
}

/// Of `HealthCheckResponse { ServingStatus status = 1 }`; what is not said is 0.
fn serving_status(body: &[u8]) -> Option<u8> {
    let (head, message) = body.split_first_chunk::<5>()?;
    let [0, length @ ..] = head else { return None };
    if u32::from_be_bytes(*length) as usize != message.len() {
        return None;
    }
    match message {
        [] => Some(0),
        [0x08, status @ 0..=0x7f] => Some(*status),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Response};

    use super::*;

    #[test]
    fn questions_are_as_protobuf_writes_them() {
        assert_eq!(&question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&question("a.B")[..], [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'B']);
        let long = question(&"x".repeat(300));
        assert_eq!(&long[..8], [0, 0, 0, 1, 47, 0x0a, 0xac, 0x02]);
    }

    #[test]
    fn only_serving_passes() {
        let answer = |status: u16, body: &[u8], grpc: Option<&str>| {
            let (head, ()) = Response::builder().status(status).body(()).expect("a response").into_parts();
            let trailers: HeaderMap = grpc
                .into_iter()
                .map(|status| ("grpc-status".parse().expect("a name"), status.parse().expect("a value")))
                .collect();
            Answer { head, body: Bytes::copy_from_slice(body), trailers: Some(trailers) }
        };
        assert_eq!(judge(&answer(200, &[0, 0, 0, 0, 2, 8, 1], Some("0"))), Ok(()));
        for (status, body, grpc, told) in [
            (200, &[0, 0, 0, 0, 2, 8, 2][..], Some("0"), "NOT_SERVING"),
            (200, &[0, 0, 0, 0, 2, 8, 3], Some("0"), "SERVICE_UNKNOWN"),
            (200, &[0, 0, 0, 0, 0], Some("0"), "UNKNOWN"),
            (200, &[], Some("0"), "none of gRPC's"),
            (200, &[1, 0, 0, 0, 2, 8, 1], Some("0"), "none of gRPC's"),
            (200, &[0, 0, 0, 0, 9, 8, 1], Some("0"), "none of gRPC's"),
            (200, &[0, 0, 0, 0, 3, 8, 0x81, 0], Some("0"), "none of gRPC's"),
            (200, &[], Some("5"), "does not know the service"),
            (200, &[], Some("12"), "no health service"),
            (200, &[], Some("14; x"), "grpc-status 14"),
            (200, &[0, 0, 0, 0, 2, 8, 1], None, "no grpc-status"),
            (503, &[0, 0, 0, 0, 2, 8, 1], Some("0"), "status 503"),
        ] {
            let found = judge(&answer(status, body, grpc));
            let text = found.expect_err(told);
            assert!(text.contains(told), "{told}: {text}");
        }
    }
}
