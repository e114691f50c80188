//! Defines the watch of a name's records: asked for again when they are too old, and kept when nothing better comes.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use hickory_resolver::{Resolver, TokioResolver};
use tokio::time::sleep;

use super::super::Publisher;
use super::super::state::{Origin, SourceState};
use super::super::status::WatchStatus;
use super::super::supervise::{Watch, WatchError, around};
use super::endpoint::{Target, of_addresses, of_targets};
use crate::spec::endpoint::EndpointSpec;
use crate::spec::problem::Problem;
use crate::spec::source::{DnsRecords, RecordKind, Source};

/// Bounds of a time to live: servers that say 0 (Consul's, by default) are not to be asked for every request, and a zone
/// of days must not keep a machine that is gone.
const YOUNGEST: Duration = Duration::from_secs(2);
const OLDEST: Duration = Duration::from_secs(300);

/// For one question to one server, and how often.
const TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;

pub(super) struct RecordsWatch {
    source: Source,
    records: DnsRecords,
    publisher: Publisher,
    /// Whether something is published that is not empty.
    known: bool,
    doubt: Doubt,
}

/// What a server said of a name.
struct Answer {
    records: Vec<Record>,
    /// What else it knew.
    further: Vec<Record>,
}

impl RecordsWatch {
    pub(super) fn new(records: DnsRecords, publisher: Publisher) -> Self {
        Self { source: Source::Records(records.clone()), records, publisher, known: false, doubt: Doubt::default() }
    }

    /// The endpoints, and how long they may be believed.
    async fn read(&self, resolver: &TokioResolver) -> Result<(Vec<EndpointSpec>, Duration), NetError> {
        let (name, mut ttl) = (&*self.records.name, OLDEST);
        let endpoints = match self.records.kind {
            RecordKind::A | RecordKind::Aaaa => {
                let kind = if self.records.kind == RecordKind::A { RecordType::A } else { RecordType::AAAA };
                let answer = ask(resolver, name, kind, &mut ttl).await?;
                of_addresses(addresses(&answer.records, None), self.records.port)
            }
            RecordKind::Srv => {
                let answer = ask(resolver, name, RecordType::SRV, &mut ttl).await?;
                let mut targets = Vec::new();
                for record in &answer.records {
                    let RData::SRV(srv) = &record.data else { continue };
                    // RFC 2782: a target of "." says that there is no such service.
                    if srv.target.is_root() {
                        continue;
                    }
                    let host = srv.target.to_ascii();
                    let mut known = addresses(&answer.further, Some(&host));
                    for kind in [RecordType::A, RecordType::AAAA] {
                        if known.is_empty() {
                            known = addresses(&ask(resolver, &host, kind, &mut ttl).await?.records, None);
                        }
                    }
                    let (priority, weight, port) = (srv.priority, srv.weight, srv.port);
                    targets.push(Target { host, priority, weight, port, addresses: known });
                }
                of_targets(targets)
            }
        };
        Ok((endpoints, ttl.clamp(YOUNGEST, OLDEST)))
    }

    fn publish(&mut self, endpoints: Vec<EndpointSpec>, problems: Arc<[Problem]>) {
        self.known = !endpoints.is_empty();
        self.publisher
            .source(&self.source, SourceState { endpoints: endpoints.into(), problems, origin: Origin::Live });
    }

    /// What was known stays. A name that never had records is published as empty, with the reason: a name with a typo
    /// must not keep the gateway from getting ready.
    fn failed(&mut self, reason: &str) -> WatchError {
        let text = format!("cannot resolve `{}`: {reason}", self.records.name);
        if !self.known {
            let problem = Problem::new(self.source.to_string(), "", text.clone());
            self.publish(Vec::new(), [problem].into());
        }
        WatchError::failed(text)
    }
}

#[async_trait]
impl Watch for RecordsWatch {
    async fn session(&mut self, status: &WatchStatus) -> WatchError {
        let resolver = match resolver(&self.records) {
            Ok(resolver) => resolver,
            Err(error) => return self.failed(&error.to_string()),
        };
        loop {
            let asked_at = tokio::time::Instant::now();
            let ttl = match self.read(&resolver).await {
                Err(error) => return self.failed(&error.to_string()),
                Ok((endpoints, ttl)) if !endpoints.is_empty() => {
                    self.doubt = Doubt::default();
                    self.publish(endpoints, [].into());
                    ttl
                }
                // Servers say so for passing troubles, too.
                Ok(_) if !self.doubt.is_confirmed(Instant::now()) => return self.failed("it has no such records"),
                Ok((_, ttl)) => {
                    let text = format!("`{}` has no such records", self.records.name);
                    self.publish(Vec::new(), [Problem::new(self.source.to_string(), "", text)].into());
                    ttl
                }
            };
            status.confirmed(asked_at);
            sleep(around(ttl, 0.1)).await;
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

fn resolver(records: &DnsRecords) -> Result<TokioResolver, NetError> {
    let provider = TokioRuntimeProvider::default();
    let mut builder = match records.server {
        None => Resolver::builder(provider)?,
        Some(server) => {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = server.port();
                connection
            });
            let server = NameServerConfig::new(server.ip(), true, connections.into());
            Resolver::builder_with_config(ResolverConfig::from_parts(None, Vec::new(), vec![server]), provider)
        }
    };
    let options = builder.options_mut();
    // What is asked here is asked because the last answer is too old.
    (options.cache_size, options.use_hosts_file) = (0, ResolveHosts::Never);
    (options.timeout, options.attempts) = (TIMEOUT, ATTEMPTS);
    builder.build()
}

/// Asks for records; none are an answer, too. Lowers `ttl` to that of the shortest-lived one.
async fn ask(resolver: &TokioResolver, name: &str, kind: RecordType, ttl: &mut Duration) -> Result<Answer, NetError> {
    match resolver.lookup(name, kind).await {
        Ok(lookup) => {
            let shortest = lookup.answers().iter().map(|record| Duration::from_secs(record.ttl.into())).min();
            *ttl = shortest.map_or(*ttl, |shortest| shortest.min(*ttl));
            Ok(Answer { records: lookup.answers().to_vec(), further: lookup.additionals().to_vec() })
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(none)))
            if matches!(none.response_code, ResponseCode::NoError | ResponseCode::NXDomain) =>
        {
            let negative = Duration::from_secs(none.negative_ttl.unwrap_or(0).into());
            *ttl = negative.min(*ttl);
            Ok(Answer { records: Vec::new(), further: Vec::new() })
        }
        Err(error) => Err(error),
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
}
