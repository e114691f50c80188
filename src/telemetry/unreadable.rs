//! Trusted proxies whose `X-Forwarded-For` cannot be read, so that the gateway does not know their clients.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::spec::name::Name;
use crate::spec::problem::Problem;

/// Most proxies that are told of at once: those met last.
const MAX_PROXIES: usize = 20;

/// How long after the last such request a proxy is told of, and how often the log tells of it.
const REMEMBERED: Duration = Duration::from_secs(10 * 60);

/// Most bytes of a line that are shown.
const MAX_SHOWN: usize = 100;

/// The proxies by address, for all workers.
#[derive(Debug, Default)]
pub struct UnreadableProxies(Mutex<BTreeMap<IpAddr, Met>>);

#[derive(Debug)]
struct Met {
    listener: Name,
    /// What it sent last, for people.
    line: String,
    requests: u64,
    last: Instant,
    logged: Instant,
}

impl UnreadableProxies {
    /// Notes a request, and logs the first one of a proxy. A worker never waits for another one here: what is noted at the
    /// same time may be left out.
    #[cold]
    pub fn note(&self, peer: IpAddr, listener: &Name, line: &[u8]) {
        if let Ok(mut all) = self.0.try_lock() {
            note(&mut all, peer, listener, line, Instant::now());
        }
    }

    /// What people should know of them.
    pub fn problems(&self) -> Vec<Problem> {
        problems(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner), Instant::now())
    }
}

fn note(all: &mut BTreeMap<IpAddr, Met>, peer: IpAddr, listener: &Name, line: &[u8], now: Instant) {
    if let Some(met) = all.get_mut(&peer) {
        (met.requests, met.last) = (met.requests + 1, now);
        if now.saturating_duration_since(met.logged) < REMEMBERED {
            return;
        }
        (met.logged, met.line) = (now, shown(line));
        tell(peer, met);
        return;
    }
    if all.len() >= MAX_PROXIES
        && let Some(oldest) = all.iter().min_by_key(|(_, met)| met.last).map(|(peer, _)| *peer)
    {
        all.remove(&oldest);
    }
    let met = Met { listener: listener.clone(), line: shown(line), requests: 1, last: now, logged: now };
    tell(peer, &met);
    all.insert(peer, met);
}

fn problems(all: &mut BTreeMap<IpAddr, Met>, now: Instant) -> Vec<Problem> {
    all.retain(|_, met| now.saturating_duration_since(met.last) < REMEMBERED);
    let problem = |(peer, met): (&IpAddr, &Met)| {
        let (requests, since) = (met.requests, now.saturating_duration_since(met.last).as_secs());
        let text = format!("{}; {requests} requests, the last {since} s ago", described(*peer, &met.line));
        Problem::new("configuration", format!("listeners.{}.trusted_proxies", met.listener), text)
    };
    all.iter().map(problem).collect()
}

fn tell(peer: IpAddr, met: &Met) {
    tracing::warn!(listener = %met.listener, proxy = %peer, "{}", described(peer, &met.line));
}

fn described(peer: IpAddr, line: &str) -> String {
    format!(
        "the trusted proxy {peer} sent an X-Forwarded-For that names no client (`{line}`): its client is unknown, so no \
         `allow` admits it and every `deny` refuses it; have the proxy append its client's address, or take it out of \
         trusted_proxies"
    )
}

/// A line as text without anything that a terminal or a log would act on.
fn shown(line: &[u8]) -> String {
    line[..line.len().min(MAX_SHOWN)].escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_told_of_while_they_send_what_cannot_be_read() {
        let (mut all, start, listener) = (BTreeMap::new(), Instant::now(), "web".parse().expect("a name"));
        let peer = |last: u8| IpAddr::from([10, 0, 0, last]);
        for _ in 0..3 {
            note(&mut all, peer(1), &listener, b"unknown\xff\x1b[2J", start);
        }
        let told = problems(&mut all, start + Duration::from_secs(5));
        assert_eq!(told.len(), 1);
        let text = told[0].to_string();
        for part in
            ["listeners.web.trusted_proxies", "10.0.0.1", r"`unknown\xff\x1b[2J`", "3 requests, the last 5 s ago"]
        {
            assert!(text.contains(part), "{text}");
        }
        assert!(problems(&mut all, start + REMEMBERED).is_empty());
        // There are never more than people read.
        for last in 0..=255 {
            note(&mut all, peer(last), &listener, &[b'x'; 10_000], start + Duration::from_millis(last.into()));
        }
        let told = problems(&mut all, start + Duration::from_secs(1));
        assert_eq!(told.len(), MAX_PROXIES);
        assert!(told.iter().all(|one| one.to_string().len() < 1_000) && told[19].to_string().contains("10.0.0.255"));
    }
}
