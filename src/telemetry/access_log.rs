//! The access log: one JSON line an exchange, formatted by the worker, written as [`lines`](super::lines) are.

use std::io::Write;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use super::lines::{Clock, three_digits};
use crate::exchange::ClientAddress;

/// An exchange that ended. Absent texts are empty. Keys of the line are the fields' names, in this order.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// When the request's head was read.
    pub time: SystemTime,
    /// The listener it came to.
    pub listener: &'a str,
    /// The client's address: the first one that is no trusted proxy's. Where it is unknown, the line ends with the proxy's,
    /// as `peer`.
    pub client: ClientAddress,
    /// The method; empty when no request was read.
    pub method: &'a str,
    /// As the client sent it; any bytes.
    pub host: &'a [u8],
    /// Without the query, which may hold secrets.
    pub path: &'a str,
    /// `HTTP/1.1`
    pub protocol: &'a str,
    /// The status the client got; 499 when it went away.
    pub status: u16,
    /// Why the gateway answered itself or gave up; empty when it did neither.
    pub flag: &'a str,
    /// The route's name.
    pub route: &'a str,
    /// `UPSTREAM` or `UPSTREAM/SUBSET`.
    pub target: &'a str,
    /// The upstream's name.
    pub upstream: &'a str,
    /// The address of the last endpoint tried.
    pub endpoint: &'a str,
    /// Tries at endpoints.
    pub attempts: u32,
    /// Of the request's body.
    pub bytes_in: u64,
    /// Of the response's body.
    pub bytes_out: u64,
    /// From the request's head to the response's end; in the line in milliseconds, `duration_ms`.
    pub duration: Duration,
    /// Of the last attempt, `upstream_duration_ms`; `null` when there was none.
    pub upstream_duration: Option<Duration>,
    /// The request id.
    pub request_id: &'a str,
    /// The trace id of `traceparent`.
    pub trace_id: &'a str,
    /// As the client sent it; any bytes.
    pub user_agent: &'a [u8],
    /// Who the client is found to be; empty, and left out, where nobody asked.
    pub consumer: &'a str,
}

impl Record<'_> {
    /// Appends the line.
    pub fn write(&self, clock: &mut Clock, line: &mut Vec<u8>) {
        line.extend_from_slice(b"{\"time\":\"");
        clock.write(self.time, line);
        plain(line, b"\",\"listener\":\"", self.listener);
        line.extend_from_slice(b"\",\"client\":\"");
        match self.client {
            ClientAddress::Known(address) => ip(line, address),
            ClientAddress::Unknown { .. } => line.extend_from_slice(ClientAddress::UNKNOWN.as_bytes()),
        }
        text(line, b"\",\"method\":\"", self.method.as_bytes());
        text(line, b"\",\"host\":\"", self.host);
        text(line, b"\",\"path\":\"", self.path.as_bytes());
        plain(line, b"\",\"protocol\":\"", self.protocol);
        number(line, b"\",\"status\":", self.status.into());
        plain(line, b",\"flag\":\"", self.flag);
        plain(line, b"\",\"route\":\"", self.route);
        plain(line, b"\",\"target\":\"", self.target);
        plain(line, b"\",\"upstream\":\"", self.upstream);
        plain(line, b"\",\"endpoint\":\"", self.endpoint);
        number(line, b"\",\"attempts\":", self.attempts.into());
        number(line, b",\"bytes_in\":", self.bytes_in);
        number(line, b",\"bytes_out\":", self.bytes_out);
        line.extend_from_slice(b",\"duration_ms\":");
        milliseconds(line, self.duration);
        line.extend_from_slice(b",\"upstream_duration_ms\":");
        match self.upstream_duration {
            Some(duration) => milliseconds(line, duration),
            None => line.extend_from_slice(b"null"),
        }
        text(line, b",\"request_id\":\"", self.request_id.as_bytes());
        text(line, b"\",\"trace_id\":\"", self.trace_id.as_bytes());
        text(line, b"\",\"user_agent\":\"", self.user_agent);
        if !self.consumer.is_empty() {
            text(line, b"\",\"consumer\":\"", self.consumer.as_bytes());
        }
        if let Some(peer) = self.client.unknown_behind() {
            line.extend_from_slice(b"\",\"peer\":\"");
            ip(line, peer);
        }
        line.extend_from_slice(b"\"}\n");
    }
}

/// A text of ours, with nothing in it to escape.
fn plain(line: &mut Vec<u8>, key: &[u8], value: &str) {
    line.extend_from_slice(key);
    line.extend_from_slice(value.as_bytes());
}

fn text(line: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    line.extend_from_slice(key);
    let strange = |byte: &u8| !matches!(byte, b' '..=b'~') | matches!(byte, b'"' | b'\\');
    // Without an early end, so that many bytes are looked at at once.
    if value.iter().fold(false, |found, byte| found | strange(byte)) {
        escape(line, value);
    } else {
        line.extend_from_slice(value);
    }
}

/// What RFC 8259 demands, and what is no UTF-8 as the replacement character.
#[cold]
fn escape(line: &mut Vec<u8>, value: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for byte in String::from_utf8_lossy(value).bytes() {
        match byte {
            b'"' | b'\\' => line.extend_from_slice(&[b'\\', byte]),
            b'\t' => line.extend_from_slice(b"\\t"),
            0..=0x1f | 0x7f => {
                line.extend_from_slice(b"\\u00");
                line.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
            _ => line.push(byte),
        }
    }
}

fn number(line: &mut Vec<u8>, key: &[u8], value: u64) {
    line.extend_from_slice(key);
    line.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn milliseconds(line: &mut Vec<u8>, duration: Duration) {
    let millis = duration.as_secs().saturating_mul(1_000).saturating_add(duration.subsec_millis().into());
    number(line, b"", millis);
    line.push(b'.');
    three_digits(line, duration.subsec_micros() % 1_000);
}

fn ip(line: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => {
            for (place, octet) in ip.octets().into_iter().enumerate() {
                if place > 0 {
                    line.push(b'.');
                }
                line.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
            }
        }
        // Writing to a vector can't fail.
        IpAddr::V6(ip) => drop(write!(line, "{ip}")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;

    fn record() -> Record<'static> {
        Record {
            time: UNIX_EPOCH + Duration::from_millis(1_795_437_296_007),
            listener: "web",
            client: ClientAddress::Known([10, 0, 200, 7].into()),
            method: "GET",
            host: b"api.example.com",
            path: "/users/7",
            protocol: "HTTP/1.1",
            status: 200,
            flag: "",
            route: "users",
            target: "users/v2",
            upstream: "users",
            endpoint: "10.0.0.7:8080",
            attempts: 1,
            bytes_in: 0,
            bytes_out: 1024,
            duration: Duration::from_micros(12_045),
            upstream_duration: Some(Duration::from_nanos(999)),
            request_id: "01890a5d",
            trace_id: "",
            user_agent: b"curl/8",
            consumer: "",
        }
    }

    fn line(record: &Record<'_>) -> String {
        let mut line = Vec::new();
        record.write(&mut Clock::default(), &mut line);
        String::from_utf8(line).expect("UTF-8")
    }

    #[test]
    fn who_the_client_is_stands_at_the_end_where_it_is_known() {
        let known = line(&Record { consumer: "acme \"x\"", ..record() });
        assert!(known.ends_with("\"user_agent\":\"curl/8\",\"consumer\":\"acme \\\"x\\\"\"}\n"), "{known}");
    }

    #[test]
    fn an_unknown_client_is_told_with_the_proxy_before_it() {
        let client = ClientAddress::Unknown { peer: [10, 0, 0, 1].into() };
        let text = line(&Record { client, consumer: "acme", ..record() });
        assert!(text.contains(r#""listener":"web","client":"unknown","method":"GET""#), "{text}");
        assert!(text.ends_with("\"consumer\":\"acme\",\"peer\":\"10.0.0.1\"}\n"), "{text}");
    }

    #[test]
    fn a_line_has_every_key_in_order() {
        assert_eq!(
            line(&record()),
            concat!(
                r#"{"time":"2026-11-23T12:34:56.007Z","listener":"web","client":"10.0.200.7","method":"GET","#,
                r#""host":"api.example.com","path":"/users/7","protocol":"HTTP/1.1","status":200,"flag":"","#,
                r#""route":"users","target":"users/v2","upstream":"users","endpoint":"10.0.0.7:8080","attempts":1,"#,
                r#""bytes_in":0,"bytes_out":1024,"duration_ms":12.045,"upstream_duration_ms":0.000,"#,
                r#""request_id":"01890a5d","trace_id":"","user_agent":"curl/8"}"#,
                "\n"
            )
        );
    }

    #[test]
    fn no_upstream_means_null() {
        let record = Record {
            upstream_duration: None,
            client: ClientAddress::Known("::1".parse().expect("an address")),
            ..record()
        };
        let value: serde_json::Value = serde_json::from_str(&line(&record)).expect("JSON");
        assert!(value["upstream_duration_ms"].is_null());
        assert_eq!(value["client"], "::1");
    }

    proptest! {
        /// Whatever a client sends, a line is one line of JSON and says the same.
        #[test]
        fn any_bytes_make_one_line(agent in prop::collection::vec(any::<u8>(), 0..64), path in "\\PC*") {
            let line = line(&Record { user_agent: &agent, path: &path, ..record() });
            prop_assert_eq!(line.bytes().filter(|byte| *byte < 0x20).count(), 1);
            let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            prop_assert_eq!(value["user_agent"].as_str(), Some(&*String::from_utf8_lossy(&agent)));
            prop_assert_eq!(value["path"].as_str(), Some(&*path));
        }
    }
}
