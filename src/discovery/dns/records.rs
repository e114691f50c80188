//! The watch of a name's records: asked for again when they are too old, and kept when nothing better comes. What an
//! answer lacks goes once a second one lacks it, too.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use tokio::time::sleep;

use super::super::Publisher;
use super::super::state::SourceState;
use super::super::status::WatchStatus;
use super::super::supervise::{Watch, WatchError, around};
use super::ask::{Answer, Asker};
use super::endpoint::{Target, of_addresses, of_targets};
use crate::spec::endpoint::{Address, EndpointSpec};
use crate::spec::problem::Problem;
use crate::spec::source::{DnsRecords, RecordKind, Source};

/// Bounds of a time to live: servers that say 0 (Consul's, by default) are not to be asked for every request, and a zone
/// of days must not keep a machine that is gone.
const YOUNGEST: Duration = Duration::from_secs(2);
const OLDEST: Duration = Duration::from_secs(300);
/// After so many answers without it an endpoint is gone; and where each answer may be a part of the whole: what is in
/// half of them is missed by so many with a probability of 1 in 1,000.
const MISSES: u32 = 2;
const DOUBTFUL_MISSES: u32 = 10;

pub(super) struct RecordsWatch {
    source: Source,
    records: DnsRecords,
    publisher: Publisher,
    /// Whether something is published that is not empty.
    known: bool,
    doubt: Doubt,
    asker: Asker,
    recent: Recent,
}

/// What a name's records say.
struct Read {
    endpoints: Vec<EndpointSpec>,
    /// What is wrong with records that make no endpoint.
    problems: Vec<String>,
    ttl: Duration,
    doubtful: bool,
}

impl RecordsWatch {
    pub(super) fn new(records: DnsRecords, publisher: Publisher) -> Self {
        Self {
            source: Source::Records(records.clone()),
            asker: Asker::new(records.server),
            records,
            publisher,
            known: false,
            doubt: Doubt::default(),
            recent: Recent::default(),
        }
    }

    async fn read(&mut self) -> Result<Read, NetError> {
        let mut asking = self.asker.begin(Instant::now())?;
        let name = &*self.records.name;
        let mut read = Read { endpoints: Vec::new(), problems: Vec::new(), ttl: OLDEST, doubtful: false };
        let mut note = |answer: &Answer| {
            read.ttl = answer.ttl.map_or(read.ttl, |ttl| ttl.min(read.ttl));
            read.doubtful |= answer.doubtful;
        };
        match self.records.kind {
            RecordKind::A | RecordKind::Aaaa => {
                let kind = if self.records.kind == RecordKind::A { RecordType::A } else { RecordType::AAAA };
                let answer = asking.ask(name, kind).await?;
                note(&answer);
                read.endpoints = of_addresses(addresses(&answer.records, None), self.records.port);
            }
            RecordKind::Srv => {
                let answer = asking.ask(name, RecordType::SRV).await?;
                note(&answer);
                let mut targets = Vec::new();
                for record in &answer.records {
                    let RData::SRV(srv) = &record.data else { continue };
                    // RFC 2782: a target of "." says that there is no such service.
                    if srv.target.is_root() {
                        continue;
                    }
                    let host = srv.target.to_ascii();
                    if srv.port == 0 {
                        read.problems.push(format!("its SRV record for `{host}` has port 0: give it the port"));
                        continue;
                    }
                    let mut known = addresses(&answer.further, Some(&host));
                    for kind in [RecordType::A, RecordType::AAAA] {
                        if known.is_empty() {
                            let answer = asking.ask(&host, kind).await?;
                            note(&answer);
                            known = addresses(&answer.records, None);
                        }
                    }
                    if known.is_empty() {
                        read.problems.push(format!("`{host}`, which an SRV record of it names, has no address"));
                    }
                    let (priority, weight, port) = (srv.priority, srv.weight, srv.port);
                    targets.push(Target { host, priority, weight, port, addresses: known });
                }
                read.endpoints = of_targets(targets);
            }
        }
        self.asker.end(&asking, Instant::now());
        read.ttl = read.ttl.clamp(YOUNGEST, OLDEST);
        Ok(read)
    }

    /// Why there is no endpoint.
    fn nothing(&self, problems: &[String]) -> String {
        match problems.first() {
            Some(problem) => problem.clone(),
            None => format!("{} know no {} record of it", self.asker.who(), self.records.kind.as_str()),
        }
    }

    fn publish(&mut self, endpoints: Vec<EndpointSpec>, problems: &[String]) {
        self.known = !endpoints.is_empty();
        let problem =
            |text: &String| Problem::new(self.source.to_string(), "", format!("`{}`: {text}", self.records.name));
        let problems: Vec<Problem> = problems.iter().map(problem).collect();
        self.publisher.source(&self.source, SourceState::live(endpoints, problems));
    }

    /// What was known stays. A name that never had records is published as empty, with the reason: a name with a typo
    /// must not keep the gateway from getting ready.
    fn failed(&mut self, reason: &str) -> WatchError {
        let text = format!("cannot resolve `{}`: {reason}", self.records.name);
        if !self.known {
            let problem = Problem::new(self.source.to_string(), "", text.clone());
            self.publisher.source(&self.source, SourceState::live([], [problem]));
        }
        WatchError::failed(text)
    }
}

#[async_trait]
impl Watch for RecordsWatch {
    async fn session(&mut self, status: &WatchStatus) -> WatchError {
        loop {
            let asked_at = tokio::time::Instant::now();
            let wait = match self.read().await {
                Err(error) => return self.failed(&error.to_string()),
                Ok(read) if !read.endpoints.is_empty() => {
                    self.doubt = Doubt::default();
                    let misses = if read.doubtful { DOUBTFUL_MISSES } else { MISSES };
                    let (endpoints, waits) = self.recent.with(read.endpoints, misses);
                    self.publish(endpoints, &read.problems);
                    if waits { YOUNGEST } else { read.ttl }
                }
                // Servers say so for passing troubles, too.
                Ok(read) if !self.doubt.is_confirmed(Instant::now()) => {
                    return self.failed(&self.nothing(&read.problems));
                }
                Ok(read) => {
                    self.recent = Recent::default();
                    let why = match read.problems.is_empty() {
                        true => vec![self.nothing(&[])],
                        false => read.problems,
                    };
                    self.publish(Vec::new(), &why);
                    read.ttl
                }
            };
            status.confirmed(asked_at);
            sleep(around(wait, 0.1)).await;
        }
    }
}

/// Whether it is believed that a name has no records: when it was said three times, and for 10 s at least.
#[derive(Debug, Default)]
struct Doubt(Option<(Instant, u32)>);

impl Doubt {
    /// Said once more.
    fn is_confirmed(&mut self, now: Instant) -> bool {
        let (since, said) = self.0.unwrap_or((now, 0));
        self.0 = Some((since, said.saturating_add(1)));
        said + 1 >= 3 && now.saturating_duration_since(since) >= Duration::from_secs(10)
    }
}

/// The endpoints that answers listed of late, each with the number of answers since that did not.
#[derive(Debug, Default)]
struct Recent(BTreeMap<Address, (EndpointSpec, u32)>);

impl Recent {
    /// What an answer lists, and what it lacks that fewer than `misses` answers in a row lacked; and whether there is any.
    fn with(&mut self, listed: Vec<EndpointSpec>, misses: u32) -> (Vec<EndpointSpec>, bool) {
        self.0.retain(|_, (_, missed)| {
            *missed += 1;
            *missed < misses
        });
        for endpoint in listed {
            self.0.insert(endpoint.address.clone(), (endpoint, 0));
        }
        let waits = self.0.values().any(|(_, missed)| *missed > 0);
        (self.0.values().map(|(endpoint, _)| endpoint.clone()).collect(), waits)
    }
}

/// The addresses among records, of a host where one is named.
fn addresses(records: &[Record], host: Option<&str>) -> Vec<IpAddr> {
    let of_host = |record: &&Record| host.is_none_or(|host| record.name.to_ascii().eq_ignore_ascii_case(host));
    let address = |record: &Record| match &record.data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    };
    records.iter().filter(of_host).filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_answer_is_believed_when_it_stays() {
        let (mut doubt, now) = (Doubt::default(), Instant::now());
        let at = |seconds| now + Duration::from_secs(seconds);
        assert!(!doubt.is_confirmed(now) && !doubt.is_confirmed(at(1)) && !doubt.is_confirmed(at(2)), "too soon");
        assert!(doubt.is_confirmed(at(10)));
        let mut rare = Doubt::default();
        assert!(!rare.is_confirmed(now) && !rare.is_confirmed(at(60)), "only twice");
        assert!(rare.is_confirmed(at(61)));
    }

    #[test]
    fn what_answers_lack_goes_after_a_second_one_and_later_where_they_may_be_parts() {
        let mut recent = Recent::default();
        let mut shown = |hosts: &[u8], misses| -> (Vec<String>, bool) {
            let ips = hosts.iter().map(|host| IpAddr::from([10, 0, 0, *host])).collect();
            let (endpoints, waits) = recent.with(of_addresses(ips, 80), misses);
            let host = |endpoint: &EndpointSpec| endpoint.address.to_string().replace("10.0.0.", "").replace(":80", "");
            (endpoints.iter().map(host).collect(), waits)
        };
        let all = |text: &str| text.split(' ').map(ToOwned::to_owned).collect::<Vec<_>>();
        assert_eq!(shown(&[1, 2, 3], MISSES), (all("1 2 3"), false));
        assert_eq!(shown(&[1, 2], MISSES), (all("1 2 3"), true));
        assert_eq!(shown(&[1, 3], MISSES), (all("1 2 3"), true));
        assert_eq!(shown(&[1, 3], MISSES), (all("1 3"), false));
        for _ in 0..DOUBTFUL_MISSES - 1 {
            assert_eq!(shown(&[1, 4], DOUBTFUL_MISSES), (all("1 3 4"), true));
        }
        assert_eq!(shown(&[1, 4], DOUBTFUL_MISSES), (all("1 4"), false));
    }
}
