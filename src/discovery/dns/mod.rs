//! Defines the dns provider: the records of names, as long as their time to live; and the addresses of the host names of
//! endpoints, looked up by the system again every 30 s.
//!
//! An endpoint it publishes of a host name has **port 0**: a [`Source::Dns`] names a host, and whoever wrote the host down
//! wrote a port, a weight and labels next to it. Control puts those in.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep, timeout};

use super::state::SourceState;
use super::status::WatchStatus;
use super::supervise::{Backoff, Watch, WatchError, around, supervise};
use super::wanted::keep_wanted;
use super::{Context, Provider, Publisher};
use crate::spec::endpoint::{Address, EndpointSpec, Labels, RegistryStatus};
use crate::spec::name::ProviderId;
use crate::spec::problem::Problem;
use crate::spec::source::Source;

mod ask;
mod endpoint;
mod records;

use records::RecordsWatch;

/// Between two lookups of a name, give or take 10 %.
const AGAIN: Duration = Duration::from_secs(30);
/// For one lookup: the system's resolver may take much longer when its servers are silent.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait after failures.
const CAP: Duration = Duration::from_secs(30);

/// The dns provider.
pub struct DnsProvider {
    publisher: Publisher,
}

impl DnsProvider {
    /// A provider that publishes there.
    pub fn new(publisher: Publisher) -> Self {
        Self { publisher }
    }
}

#[async_trait]
impl Provider for DnsProvider {
    async fn run(self: Box<Self>, context: Context) {
        let backoff = Backoff::new(CAP);
        let publisher = self.publisher;
        keep_wanted(ProviderId::Dns, &publisher, context, |source, stop| {
            let (name, status, backoff) = (source.to_string(), Arc::clone(publisher.status()), backoff.clone());
            let publisher = publisher.clone();
            async move {
                match source {
                    Source::Records(records) => {
                        supervise(RecordsWatch::new(records, publisher), name, status, backoff, stop).await;
                    }
                    source => {
                        let watch = HostWatch { source, publisher, lookup: system, known: false };
                        supervise(watch, name, status, backoff, stop).await;
                    }
                }
            }
        })
        .await;
    }
}

/// Asks the system's resolver. It blocks a thread of the runtime's pool, never a worker.
async fn system(host: Arc<str>) -> io::Result<Vec<IpAddr>> {
    Ok(tokio::net::lookup_host((&*host, 0)).await?.map(|address| address.ip()).collect())
}

struct HostWatch<Lookup> {
    source: Source,
    publisher: Publisher,
    lookup: Lookup,
    /// Whether something is published.
    known: bool,
}

#[async_trait]
impl<Lookup, Answer> Watch for HostWatch<Lookup>
where
    Lookup: Fn(Arc<str>) -> Answer + Send + Sync,
    Answer: Future<Output = io::Result<Vec<IpAddr>>> + Send,
{
    async fn session(&mut self, status: &WatchStatus) -> WatchError {
        let Source::Dns { host } = self.source.clone() else {
            return WatchError::failed(format!("{} is no host name", self.source));
        };
        loop {
            let asked_at = Instant::now();
            let answer = timeout(TIMEOUT, (self.lookup)(Arc::clone(&host))).await;
            let answer = answer.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in 10 s")));
            match answer.map(one_family) {
                Ok(addresses) if !addresses.is_empty() => {
                    self.publish(&addresses, [].into());
                    status.confirmed(asked_at);
                }
                // An empty answer is treated as a failure: resolvers give it for passing troubles, too.
                Ok(_) => return self.failed(&host, "it has no address"),
                Err(error) => return self.failed(&host, &error.to_string()),
            }
            sleep(around(AGAIN, 0.1)).await;
        }
    }
}

impl<Lookup> HostWatch<Lookup> {
    fn publish(&mut self, addresses: &BTreeSet<IpAddr>, problems: Arc<[Problem]>) {
        let labels = Arc::new(Labels::new());
        let endpoint = |ip: &IpAddr| EndpointSpec {
            address: Address::Ip(SocketAddr::new(*ip, 0)),
            weight: 1,
            labels: Arc::clone(&labels),
            status: RegistryStatus::Unchecked,
            id: ip.to_string().into(),
            modified: 0,
            created: 0,
        };
        let endpoints: Vec<EndpointSpec> = addresses.iter().map(endpoint).collect();
        self.publisher.source(&self.source, SourceState::live(endpoints, problems));
        self.known = true;
    }

    /// What was known stays. A name that never resolved is published as empty, with the reason: a name with a
    /// typo must not keep the gateway from getting ready.
    fn failed(&mut self, host: &str, reason: &str) -> WatchError {
        let text = format!("cannot resolve `{host}`: {reason}");
        if !self.known {
            let problem = Problem::new(self.source.to_string(), "", text.clone());
            self.publish(&BTreeSet::new(), [problem].into());
            self.known = false;
        }
        WatchError::failed(text)
    }
}

/// The IPv4 addresses where there are any, else the IPv6 ones: both families of a name are one machine, and a
/// service behind `localhost` often listens on one of them only.
fn one_family(addresses: Vec<IpAddr>) -> BTreeSet<IpAddr> {
    let v4: BTreeSet<IpAddr> = addresses.iter().copied().filter(IpAddr::is_ipv4).collect();
    if v4.is_empty() { addresses.into_iter().collect() } else { v4 }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::discovery::status::WatchState;

    fn source() -> Source {
        Source::Dns { host: "localhost".into() }
    }

    fn ips(known: &SourceState) -> Vec<String> {
        known.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect()
    }

    #[test]
    fn ipv4_wins_over_ipv6_of_the_same_name() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let both = one_family(vec![ip("::1"), ip("127.0.0.1"), ip("127.0.0.1")]);
        assert_eq!(both, BTreeSet::from([ip("127.0.0.1")]));
        assert_eq!(one_family(vec![ip("::2"), ip("::1")]), BTreeSet::from([ip("::1"), ip("::2")]));
    }

    #[tokio::test]
    async fn a_name_of_the_machine_resolves() {
        let (publisher, mut reader) = Publisher::new(ProviderId::Dns);
        let (wanted, wanted_reader) = tokio::sync::watch::channel(Arc::new(BTreeSet::from([source()])));
        let (_reread, reread) = tokio::sync::watch::channel(0);
        let (_diagnostics, diagnostics) = tokio::sync::watch::channel(Some(Arc::default()));
        let context = Context { wanted: wanted_reader, shutdown: CancellationToken::new(), reread, diagnostics };
        let shutdown = context.shutdown.clone();
        let task = tokio::spawn(Box::new(DnsProvider::new(publisher.clone())).run(context));
        let state = reader.wait_for(|state| state.sources.contains_key(&source())).await.expect("lives").clone();
        assert_eq!(ips(&state.sources[&source()]), ["127.0.0.1:0"]);
        wanted.send_replace(Arc::default());
        reader.wait_for(|state| state.sources.is_empty()).await.expect("lives");
        assert!(publisher.status().watches().is_empty());
        shutdown.cancel();
        task.await.expect("ends at shutdown");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_keeps_the_last_answer_and_an_early_one_is_published_as_empty() {
        let answers = Mutex::new(vec![
            Err(io::Error::other("nobody answers")),
            Ok(vec!["10.0.0.2".parse().expect("an address"), "10.0.0.1".parse().expect("an address")]),
            Err(io::Error::other("nobody answers")),
            Ok(Vec::new()),
        ]);
        let lookup = move |_| {
            let mut answers = answers.lock().expect("not poisoned");
            let answer = if answers.is_empty() { Ok(Vec::new()) } else { answers.remove(0) };
            async { answer }
        };
        let (publisher, reader) = Publisher::new(ProviderId::Dns);
        let status = publisher.status().watch("dns:localhost");
        let mut watch = HostWatch { source: source(), publisher, lookup, known: false };

        let error = watch.session(&status).await;
        assert!(error.text.contains("localhost") && error.text.contains("nobody answers"), "{error}");
        let early = reader.borrow().sources[&source()].clone();
        assert!(early.endpoints.is_empty());
        assert_eq!(early.problems.len(), 1);
        assert_eq!(status.state(), WatchState::Starting);

        watch.session(&status).await;
        let known = reader.borrow().sources[&source()].clone();
        assert_eq!(ips(&known), ["10.0.0.1:0", "10.0.0.2:0"]);
        assert!(known.problems.is_empty());

        let empty = watch.session(&status).await;
        assert!(empty.text.contains("no address"), "{empty}");
        assert_eq!(reader.borrow().sources[&source()], known);
    }
}
