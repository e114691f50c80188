//! The audit log: who was refused and, if wanted, who was let in; what operators told the gateway to do; and which
//! documents it applied. JSON lines, told apart by their key `audit`, written as [`lines`](super::lines) are: nobody waits
//! for them, and what is lost is counted.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde::{Serialize, Serializer};

use super::lines::Lines;
use crate::exchange::ClientAddress;

/// What an exchange was judged by.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Authentication<'a> {
    /// `refused` or `accepted`.
    pub outcome: &'static str,
    /// Who judged: the type of a middleware, `tls` or `admin`.
    pub by: &'static str,
    /// Why it was refused.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub why: &'a str,
    /// The listener it came to.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub listener: &'a str,
    /// The client's address: the first one that is no trusted proxy's.
    #[serde(serialize_with = "as_text")]
    pub client: ClientAddress,
    /// The trusted proxy that leaves the client unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<IpAddr>,
    /// Who the client was found to be.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub consumer: &'a str,
    /// What was asked for; empty before a request was read.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub method: &'a str,
    /// The host, as the client sent it.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub host: &'a str,
    /// Without the query, which may hold secrets.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub path: &'a str,
    /// The route's name.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub route: &'a str,
    /// The status the client got.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The request's id.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub request_id: &'a str,
}

impl<'a> Authentication<'a> {
    /// A client that was refused before anything else is known of it.
    pub fn refused(by: &'static str, why: &'a str, client: IpAddr) -> Self {
        let [listener, consumer, method, host, path, route, request_id] = [""; 7];
        let (outcome, status, client, peer) = ("refused", None, ClientAddress::Known(client), None);
        Self { outcome, by, why, listener, client, peer, consumer, method, host, path, route, status, request_id }
    }
}

fn as_text<S: Serializer>(client: &ClientAddress, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(client)
}

/// A worker's end of the audit log.
#[derive(Debug)]
pub struct Auditor {
    lines: Lines,
    accepted: bool,
}

impl Auditor {
    pub(super) fn new(lines: Lines, accepted: bool) -> Self {
        Self { lines, accepted }
    }

    /// Whether anybody wants to know of one that was refused, or accepted.
    pub fn wants(&self, refused: bool) -> bool {
        self.lines.is_on() && (refused || self.accepted)
    }

    /// Adds a line.
    pub fn authentication(&self, time: SystemTime, authentication: &Authentication<'_>) {
        add(&self.lines, time, "authentication", authentication);
    }

    /// Hands over what was collected; to be called every 100 ms or so.
    pub fn flush(&self) {
        self.lines.flush();
    }
}

/// The control plane's end of the audit log, which anybody may write to.
#[derive(Debug)]
pub struct AuditLog(Mutex<Lines>);

impl AuditLog {
    pub(super) fn new(lines: Lines) -> Self {
        Self(Mutex::new(lines))
    }

    /// One that goes nowhere.
    pub fn off() -> Self {
        Self::new(Lines::off())
    }

    /// Adds a line of this kind, if anybody reads it; what it says is an object.
    pub fn add(&self, kind: &str, says: &impl Serialize) {
        add(&self.0.lock().unwrap_or_else(PoisonError::into_inner), SystemTime::now(), kind, says);
    }

    /// Hands over what was collected; to be called every 100 ms or so.
    pub fn flush(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).flush();
    }
}

/// The end of the file of events, which the history writes to.
#[derive(Debug)]
pub struct EventLog(Mutex<Lines>);

impl EventLog {
    pub(super) fn new(lines: Lines) -> Self {
        Self(Mutex::new(lines))
    }

    /// Adds an event as a line of JSON.
    pub fn add(&self, event: &impl Serialize) {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !lines.is_on() {
            return;
        }
        // What can't be written as JSON is not worth a half line.
        let Ok(object) = serde_json::to_vec(event) else { return };
        lines.add(|_, line| {
            line.extend_from_slice(&object);
            line.push(b'\n');
        });
    }

    /// Hands over what was collected; to be called every 100 ms or so.
    pub fn flush(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).flush();
    }
}

fn add(lines: &Lines, time: SystemTime, kind: &str, says: &impl Serialize) {
    if !lines.is_on() {
        return;
    }
    // What can't be written as JSON is not worth a half line.
    let Ok(object) = serde_json::to_vec(says) else { return };
    lines.add(|clock, line| {
        line.extend_from_slice(b"{\"time\":\"");
        clock.write(time, line);
        line.extend_from_slice(b"\",\"audit\":\"");
        line.extend_from_slice(kind.as_bytes());
        line.extend_from_slice(b"\",");
        line.extend_from_slice(object.get(1..).unwrap_or(b"}"));
        line.push(b'\n');
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    use crate::spec::settings::LogDestination;
    use crate::telemetry::lines::{Destinations, LogName, Writer};

    #[test]
    fn a_line_says_when_and_what() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.jsonl");
        let destination = (&LogDestination::File(path.clone())).into();
        let writer = Writer::start(LogName::Audit, &destination, &Destinations::default()).expect("to open");
        let book = AuditLog::new(writer.handle());
        book.add("command", &serde_json::json!({ "command": "drain", "by": "\"\n" }));
        drop(book);
        writer.finish(Instant::now() + Duration::from_secs(20));
        let text = std::fs::read_to_string(path).expect("a file");
        let value: serde_json::Value = serde_json::from_str(text.trim_end()).expect("a line of JSON");
        assert_eq!((&value["audit"], &value["by"]), (&"command".into(), &"\"\n".into()));
        assert!(value["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{text}");
    }
}
