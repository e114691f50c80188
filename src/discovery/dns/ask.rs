//! Who is asked for records: name servers over TCP, and over UDP where that cannot be had; and the hosts file of the
//! system where no server is named.
//!
//! Over UDP a server may leave out what has no room and not say so, which Consul does by default: each answer tells
//! another part of a large service.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ProtocolConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, Record, RecordType};
use hickory_resolver::proto::serialize::binary::BinEncodable as _;
use hickory_resolver::{Hosts, Resolver, TokioResolver, system_conf};

/// For one question to one server, and how often over UDP, where packets get lost.
const TIMEOUT: Duration = Duration::from_secs(2);
const UDP_ATTEMPTS: usize = 2;
/// How long TCP is not tried again after it failed and UDP did not.
const UDP_ONLY: Duration = Duration::from_secs(300);
/// The largest answer over UDP that is asked for (RFC 6891, 6.2.5).
const UDP_BYTES: u16 = 4096;
/// Answers over UDP with at least so many bytes of records may have been cut: a server need not respect what is asked
/// for, and the least that all of them send is 512 (RFC 1035, 4.2.1).
const DOUBTFUL_BYTES: usize = 400;
/// How long an entry of the hosts file is believed.
const HOSTS_TTL: u32 = 30;

/// Asks the servers of one upstream.
pub(super) struct Asker {
    /// Who is asked; `None`: whom the system asks.
    server: Option<SocketAddr>,
    udp_until: Option<Instant>,
}

/// What a server said of a name.
#[derive(Default)]
pub(super) struct Answer {
    pub(super) records: Vec<Record>,
    /// What else it knew.
    pub(super) further: Vec<Record>,
    /// How long it may be believed; `None` where that was not said.
    pub(super) ttl: Option<Duration>,
    /// It may be only a part.
    pub(super) doubtful: bool,
}

/// The servers for a few questions that belong together.
pub(super) struct Asking {
    hosts: Option<Hosts>,
    tcp: Option<TokioResolver>,
    udp: TokioResolver,
    /// An answer came over UDP that TCP did not bring.
    fell_back: bool,
}

impl Asker {
    pub(super) fn new(server: Option<SocketAddr>) -> Self {
        Self { server, udp_until: None }
    }

    /// Who is asked, for people.
    pub(super) fn who(&self) -> String {
        match self.server {
            Some(server) => server.to_string(),
            None => "the system's servers, and the hosts file,".to_owned(),
        }
    }

    /// Begins a few questions: with the servers and hosts that the system has now.
    pub(super) fn begin(&self, now: Instant) -> Result<Asking, NetError> {
        let config = match self.server {
            None => system_conf::read_system_conf()?.0,
            Some(server) => {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                    connection.port = server.port();
                    connection
                });
                let server = NameServerConfig::new(server.ip(), true, connections.into());
                ResolverConfig::from_parts(None, Vec::new(), vec![server])
            }
        };
        let uses_tcp = self.udp_until.is_none_or(|until| until <= now);
        Ok(Asking {
            // One that cannot be read has no hosts.
            hosts: self.server.is_none().then(|| Hosts::from_system().unwrap_or_default()),
            tcp: uses_tcp.then(|| resolver(only_tcp(&config), 1)).transpose()?,
            udp: resolver(config, UDP_ATTEMPTS)?,
            fell_back: false,
        })
    }

    /// Ends a few questions.
    pub(super) fn end(&mut self, asking: &Asking, now: Instant) {
        if asking.fell_back {
            self.udp_until = Some(now + UDP_ONLY);
        }
    }
}

impl Asking {
    /// Asks for records; none are an answer, too.
    pub(super) async fn ask(&mut self, name: &str, kind: RecordType) -> Result<Answer, NetError> {
        if let Some(answer) = self.host(name, kind) {
            return Ok(answer);
        }
        if let Some(tcp) = &self.tcp {
            match told(tcp.lookup(name, kind).await) {
                // A word of the server itself.
                answer @ (Ok(_) | Err(NetError::Dns(_))) => return answer,
                Err(error) => tracing::debug!("{name}: no answer over TCP: {error}"),
            }
        }
        let mut answer = told(self.udp.lookup(name, kind).await)?;
        if self.tcp.take().is_some() {
            self.fell_back = true;
        }
        let bytes = |record: &Record| record.to_bytes().map_or(0, |bytes| bytes.len());
        answer.doubtful = answer.records.iter().chain(&answer.further).map(bytes).sum::<usize>() >= DOUBTFUL_BYTES;
        Ok(answer)
    }

    /// What the hosts file says of a name.
    fn host(&self, name: &str, kind: RecordType) -> Option<Answer> {
        let lookup = self.hosts.as_ref()?.lookup_static_host(&Query::query(Name::from_ascii(name).ok()?, kind))?;
        let records = lookup.answers().to_vec();
        let ttl = Some(Duration::from_secs(HOSTS_TTL.into()));
        (!records.is_empty()).then_some(Answer { records, ttl, ..Answer::default() })
    }
}

fn only_tcp(config: &ResolverConfig) -> ResolverConfig {
    let (domain, search, mut servers) = config.clone().into_parts();
    for server in &mut servers {
        server.connections.retain(|connection| matches!(connection.protocol, ProtocolConfig::Tcp));
    }
    ResolverConfig::from_parts(domain, search, servers)
}

fn resolver(config: ResolverConfig, attempts: usize) -> Result<TokioResolver, NetError> {
    let mut builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    // What is asked here is asked because the last answer is too old.
    (options.cache_size, options.use_hosts_file) = (0, ResolveHosts::Never);
    (options.timeout, options.attempts) = (TIMEOUT, attempts);
    (options.edns0, options.edns_payload_len) = (true, UDP_BYTES);
    builder.build()
}

fn told(lookup: Result<hickory_resolver::lookup::Lookup, NetError>) -> Result<Answer, NetError> {
    match lookup {
        Ok(lookup) => {
            let ttl = lookup.answers().iter().map(|record| Duration::from_secs(record.ttl.into())).min();
            let (records, further) = (lookup.answers().to_vec(), lookup.additionals().to_vec());
            Ok(Answer { records, further, ttl, doubtful: false })
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(none)))
            if matches!(none.response_code, ResponseCode::NoError | ResponseCode::NXDomain) =>
        {
            let ttl = Some(Duration::from_secs(none.negative_ttl.unwrap_or(0).into()));
            Ok(Answer { ttl, ..Answer::default() })
        }
        Err(error) => Err(error),
    }
}
