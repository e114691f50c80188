//! The requests that `http_desync_guardian`'s own tests judge (Amazon, Apache-2.0; its package holds them), sent through
//! the gateway: what its tier Severe has reaches no service, what is Compliant arrives as it was sent, and of the rest
//! whatever arrives can be read in one way only.

mod case;
mod http2;
mod strict;

use std::fmt::Write as _;

use case::{Case, HostAt, Tier};
use strict::{Message, Strict};

use crate::support::client::raw;
use crate::support::gateway::Gateway;

/// Stands in every body: whoever takes its length for another than the gateway does will read a request here.
const SMUGGLED: &[u8] = b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";

/// Sent behind every case on the same connection.
const NEXT: &[u8] = b"GET /next HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn nothing_severe_arrives() {
    let (strict, gateway) = start().await;
    let mut sent = 0;
    for case in case::all().iter().filter(|case| case.tier == Tier::Severe) {
        for attack in attacks(case) {
            let answers = send(&gateway, &attack).await;
            assert!(refuses(&answers), "{attack}: {answers:?}");
            assert_eq!(strict.bytes(), 0, "{attack}: {:?}", strict.take());
            sent += 1;
        }
    }
    assert!(sent > 100, "only {sent}: where are the cases?");
    assert_eq!(gateway.get("/fine").await.status, 200);
}

#[tokio::test]
async fn what_is_compliant_arrives_as_it_was_sent() {
    let (strict, gateway) = start().await;
    let (mut arrived, mut refused) = (0, 0);
    for case in case::all().iter().filter(|case| case.tier == Tier::Compliant) {
        for attack in attacks(case) {
            let answers = send(&gateway, &attack).await;
            let messages = strict.take();
            if let Some(reason) = no_longer_compliant(case) {
                assert!(refuses(&answers) && messages.is_empty(), "{attack}: {reason}, but {answers:?}, {messages:?}");
                refused += 1;
                continue;
            }
            let [Ok(message), Ok(next)] = &messages[..] else { panic!("{attack}: {answers:?}: {messages:?}") };
            assert_eq!(next.target, "/next", "{attack}");
            assert_eq!(statuses(&answers), ["200", "200"], "{attack}: {answers:?}");
            assert_eq!((&message.method, &message.target), (&case.text(&case.method), &target(case)), "{attack}");
            assert_eq!(end_to_end(message), expected_headers(case), "{attack}");
            assert_eq!(message.body, attack.body.content, "{attack}");
            arrived += 1;
        }
    }
    assert!(arrived > 20 && refused > 10, "{arrived} arrived, {refused} were refused: where are the cases?");
}

/// The tiers between: they may be refused. What is not stands below: bodies of GET and HEAD, which HTTP allows and
/// Elasticsearch asks for; one length told twice, which is told once to services; and a length beside chunks, which is
/// left out, with the end of the connection after it (RFC 9112, 6.3).
#[tokio::test]
async fn what_arrives_of_the_rest_can_be_read_in_one_way() {
    let (strict, gateway) = start().await;
    let mut told = String::new();
    for case in case::all().iter().filter(|case| matches!(case.tier, Tier::Acceptable | Tier::Ambiguous)) {
        let mut outcomes: Vec<&str> = Vec::new();
        for attack in attacks(case) {
            let answers = send(&gateway, &attack).await;
            let messages = strict.take();
            let mut arrived = Vec::new();
            for message in &messages {
                arrived.push(message.as_ref().unwrap_or_else(|problem| panic!("{attack}: {problem}: {messages:?}")));
            }
            let targets: Vec<&str> = arrived.iter().map(|message| message.target.as_str()).collect();
            let own = target(case);
            outcomes.push(match targets[..] {
                [] if refuses(&answers) => "refused",
                [one] if one == own => "arrives, then the connection ends",
                [one, "/next"] if one == own => "arrives",
                _ => panic!("{attack}: {targets:?} arrived, {answers:?} came back"),
            });
            if let Some(message) = arrived.first() {
                assert_eq!(message.method, case.text(&case.method), "{attack}");
                assert_eq!(message.body, attack.body.content, "{attack}");
            }
        }
        outcomes.sort_unstable();
        outcomes.dedup();
        if outcomes != ["refused"] {
            writeln!(told, "{:?}, {}: {}", case.tier, case.name, outcomes.join(" or ")).unwrap();
        }
    }
    insta::assert_snapshot!(told, @"
    Acceptable, acceptable: Get with a body and Content-Length:0 (GET): arrives
    Acceptable, acceptable: Get with a body and Content-Length:0 (HEAD): arrives
    Ambiguous, ambiguous: Duplicate Content-Length (PUT): arrives
    Ambiguous, ambiguous: Both Transfer-Encoding:chunked and Content-Length (POST): arrives, then the connection ends
    Ambiguous, ambiguous: Get with a body and Content-Length (GET): arrives
    Ambiguous, ambiguous: Get with a body and Transfer-Encoding (GET): arrives
    Ambiguous, ambiguous: Head with a body and Content-Length (HEAD): arrives
    Ambiguous, ambiguous: Head with a body and Transfer-Encoding (HEAD): arrives
    Ambiguous, real-life-test-cases: Has a CL in GET (GET): arrives
    Ambiguous, real-life-test-cases: Has a TE in GET (GET): arrives
    Ambiguous, real-life-test-cases: Two Identical Fields - CL (POST): arrives
    Ambiguous, real-life-test-cases: Chunks Priority on Content-Length (POST): arrives, then the connection ends
    Ambiguous, real-life-test-cases: Chunks Priority on Content-Length.1 (POST): arrives, then the connection ends
    Ambiguous, real-life-test-cases: Send small (1614 bytes) request, transfer encoded request (POST): arrives, then the connection ends
    Ambiguous, single-case: Both Transfer-Encoding:chunked and Content-Length (POST): arrives, then the connection ends
    ");
}

async fn start() -> (Strict, Gateway) {
    let strict = Strict::start().await;
    let config = format!(
        r#"
        listeners.web.address = "127.0.0.1:0"
        admin.address = "127.0.0.1:0"
        runtime.workers = 1
        upstreams.app.endpoints = ["{}"]
        routes.all = {{ match = {{ path = "/" }}, upstream = "app" }}
        "#,
        strict.address()
    );
    (strict, Gateway::start(&config).await)
}

/// A case as it is sent.
struct Attack<'c> {
    case: &'c Case,
    host: HostAt,
    body: case::Body,
}

impl std::fmt::Display for Attack<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (host {:?}, body {})", self.case.name, self.host, self.body.name)
    }
}

/// A case in all ways to send it: the `Host` that it lacks before or behind its headers, and a body for each way to read
/// its length.
fn attacks(case: &Case) -> impl Iterator<Item = Attack<'_>> {
    let hosts = if case.has_host() { &[HostAt::Own][..] } else { &[HostAt::First, HostAt::Last] };
    hosts.iter().flat_map(move |&host| case.bodies(SMUGGLED).into_iter().map(move |body| Attack { case, host, body }))
}

async fn send(gateway: &Gateway, attack: &Attack<'_>) -> String {
    let bytes = [attack.case.head(attack.host), attack.body.bytes.clone(), NEXT.to_vec()].concat();
    String::from_utf8_lossy(&raw(gateway.address(), &bytes).await).into_owned()
}

/// The statuses of all answers, whose bodies hold none.
fn statuses(answers: &str) -> Vec<&str> {
    answers.split("HTTP/1.1 ").skip(1).map(|answer| answer.get(..3).unwrap_or_default()).collect()
}

/// One refusal, and the end of the connection.
fn refuses(answers: &str) -> bool {
    matches!(statuses(answers)[..], ["400" | "501" | "505"])
}

/// Why the gateway refuses what was called compliant before RFC 9112.
fn no_longer_compliant(case: &Case) -> Option<&'static str> {
    let codings: Vec<String> = case.values("transfer-encoding").map(|value| value.to_ascii_lowercase()).collect();
    match &codings[..] {
        [] if case.uri.is_empty() => Some("no target is no request line (RFC 9112, 3)"),
        [] => None,
        [one] if one == "chunked" => None,
        codings if codings.iter().any(|coding| coding.contains(';')) => {
            Some("parameters of `chunked` are errors (RFC 9112, 7.1)")
        }
        _ => Some("it knows no coding but `chunked`, and passes none on undecoded (RFC 9112, 6.1)"),
    }
}

/// The target in the one form in which it is forwarded: without the fragment that no request has (RFC 9112, 3.2), and
/// encoded where it is beyond ASCII.
fn target(case: &Case) -> String {
    let end = case.uri.iter().position(|byte| *byte == b'#').unwrap_or(case.uri.len());
    let mut target = String::new();
    for &byte in &case.uri[..end] {
        if byte.is_ascii() { target.push(char::from(byte)) } else { write!(target, "%{byte:02X}").unwrap() }
    }
    target
}

/// What a gateway adds or answers for itself, or that belongs to the connection.
const OF_THE_GATEWAY: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "transfer-encoding",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-request-id",
];

fn end_to_end(message: &Message) -> Vec<(String, Vec<u8>)> {
    sorted(message.headers.iter().map(|(name, value)| (name.as_bytes(), value.as_slice())))
}

fn expected_headers(case: &Case) -> Vec<(String, Vec<u8>)> {
    sorted(case.headers.iter().map(|(name, value)| (name.as_slice(), value.as_slice())))
}

fn sorted<'h>(headers: impl Iterator<Item = (&'h [u8], &'h [u8])>) -> Vec<(String, Vec<u8>)> {
    let trimmed = |value: &[u8]| value.trim_ascii().to_vec();
    let mut all: Vec<_> = headers
        .map(|(name, value)| (String::from_utf8_lossy(name).to_ascii_lowercase(), trimmed(value)))
        .filter(|(name, _)| !OF_THE_GATEWAY.contains(&name.as_str()))
        .collect();
    all.sort();
    all
}
