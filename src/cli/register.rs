//! Defines `fleetgate register`: keeps an endpoint in etcd for a service that can't do it itself, under a lease and
//! while its check passes.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{FAILED, FINE, say};
use crate::app::Signals;
use crate::discovery::etcd::LeasedKey;
use crate::discovery::register::{Change, Event, Standing, keep};
use crate::health::{Threshold, probe};
use crate::snapshot::Health;
use crate::spec::decode::scalar::RawDuration;
use crate::spec::endpoint::Address;
use crate::spec::name::Name;
use crate::spec::settings::{EtcdProvider, LogDestination, LogFormat, Telemetry};
use crate::spec::upstream::{HealthCheck, Probe, Protocol};
use crate::telemetry::outputs::Outputs;
use crate::{config, telemetry};

/// What `fleetgate register` is told.
///
/// Where etcd is, and how it is spoken to, comes from the flags, else from the file's [discovery.etcd], else from the
/// usual ETCDCTL_ variables.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Arguments {
    /// The upstream that the endpoint belongs to
    #[arg(long, value_name = "NAME")]
    upstream: Name,
    /// Where gateways reach it
    #[arg(long, value_name = "HOST:PORT")]
    address: Address,
    /// What must pass for it to be registered: http://HOST:PORT/PATH (200 to 399 pass) or tcp://HOST:PORT
    #[arg(long, value_name = "URL")]
    check: Target,
    /// The last part of its key [default: its address]
    #[arg(long, value_parser = plain)]
    id: Option<String>,
    /// Its weight, 0 to 65535; 0 drains
    #[arg(long, default_value_t = 1)]
    weight: u16,
    /// A label, for subsets; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    labels: Vec<(String, String)>,
    /// How long etcd remembers it when nobody keeps it, 10s to 1h
    #[arg(long, default_value = "15s", value_parser = lease)]
    ttl: Duration,
    /// Between the starts of two checks
    #[arg(long, default_value = "5s", value_parser = pause)]
    interval: Duration,
    /// For one check
    #[arg(long, default_value = "2s", value_parser = duration)]
    timeout: Duration,
    /// Passes in a row that bring it back
    #[arg(long, value_name = "COUNT", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    healthy_threshold: u32,
    /// Failures in a row that take it away
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    unhealthy_threshold: u32,
    /// A gateway's configuration, for its [discovery.etcd]
    #[arg(long, short, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Members of etcd, such as http://10.0.0.1:2379
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    endpoints: Vec<String>,
    /// The prefix of the gateways' keys [default: /fleetgate/]
    #[arg(long)]
    prefix: Option<String>,
    /// A user of etcd
    #[arg(long, requires = "password_file")]
    user: Option<String>,
    /// A file that holds the user's password, read again when it changes
    #[arg(long, value_name = "PATH", requires = "user")]
    password_file: Option<String>,
    /// PEM file of the authorities that etcd's certificate must be of
    #[arg(long, value_name = "PATH")]
    cacert: Option<String>,
    /// PEM file of a client certificate
    #[arg(long, value_name = "PATH", requires = "key")]
    cert: Option<String>,
    /// PEM file of its key
    #[arg(long, value_name = "PATH", requires = "cert")]
    key: Option<String>,
}

/// Keeps the endpoint registered until a signal ends it.
pub(super) fn run(arguments: Arguments, variables: impl Iterator<Item = (String, String)>, outputs: &Outputs) -> u8 {
    let (out, remarks) = (&mut outputs.stdout(), &mut outputs.stderr());
    let settings = match arguments.etcd(variables) {
        Ok(settings) => settings,
        Err(problems) => {
            say(remarks, &problems.join("\n"));
            return FAILED;
        }
    };
    let log = Telemetry {
        access_log: LogDestination::Off,
        audit: LogDestination::Off,
        audit_accepted: false,
        log: "warn".to_owned(),
        log_format: LogFormat::Text,
        events: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = telemetry::log::init(&log, outputs)
        .map_err(|error| error.to_string())
        .and_then(|()| runtime.map_err(|error| error.to_string()))
        .map(|runtime| runtime.block_on(arguments.keep(&settings, out, remarks)));
    outcome.unwrap_or_else(|error| {
        say(remarks, &format!("fleetgate: cannot start: {error}"));
        FAILED
    })
}

impl Arguments {
    /// How etcd is reached. A flag is what a variable of the gateway would be, and is checked as that.
    fn etcd(&self, variables: impl Iterator<Item = (String, String)>) -> Result<EtcdProvider, Vec<String>> {
        let secure = self.cacert.is_some() || self.cert.is_some();
        let with_scheme = |url: &String| match (url.contains("://"), secure) {
            (true, _) => url.clone(),
            (false, true) => format!("https://{url}"),
            (false, false) => format!("http://{url}"),
        };
        let endpoints: Vec<_> = self.endpoints.iter().map(with_scheme).collect();
        let endpoints = (!endpoints.is_empty()).then(|| json!(endpoints).to_string());
        let flags = [
            ("endpoints", "ENDPOINTS", endpoints),
            ("prefix", "PREFIX", self.prefix.clone()),
            ("user", "USER", self.user.clone()),
            ("password-file", "PASSWORD_FILE", self.password_file.clone()),
            ("cacert", "TLS__CA", self.cacert.clone()),
            ("cert", "TLS__CERTIFICATE", self.cert.clone()),
            ("key", "TLS__KEY", self.key.clone()),
        ];
        let name = |key: &str| format!("FLEETGATE_DISCOVERY__ETCD__{key}");
        let given: BTreeMap<_, _> =
            flags.into_iter().filter_map(|(flag, key, value)| Some((name(key), (flag, value?)))).collect();
        let others = variables.filter(|(variable, _)| !given.contains_key(variable));
        let flags = given.iter().map(|(variable, (_, value))| (variable.clone(), value.clone()));
        config::load_etcd(self.config.as_deref(), others.chain(flags.collect::<Vec<_>>())).map_err(|problems| {
            let shown = |problem: &crate::spec::problem::Problem| {
                let text = problem.to_string();
                let flag = given.iter().find_map(|(variable, (flag, _))| {
                    text.strip_prefix(&format!("env:{variable}: ")).map(|rest| format!("--{flag}: {rest}"))
                });
                flag.unwrap_or(text)
            };
            problems.iter().map(shown).collect()
        })
    }

    async fn keep(self, settings: &EtcdProvider, out: &mut (dyn Write + Send), remarks: &mut (dyn Write + Send)) -> u8 {
        let id = self.id.clone().unwrap_or_else(|| self.address.to_string());
        let key = format!("{}endpoints/{}/{id}", settings.prefix, self.upstream);
        let labels: BTreeMap<_, _> = self.labels.iter().cloned().collect();
        let value = json!({ "address": self.address.to_string(), "weight": self.weight, "labels": labels });
        let (leased, follow) = LeasedKey::alone(settings, key, value.to_string(), self.ttl);

        let health = Arc::new(Mutex::new(Err("not checked yet".to_owned())));
        let (read, out) = (Arc::clone(&health), Mutex::new(out));
        let standing: Standing = Arc::new(move || read.lock().unwrap_or_else(PoisonError::into_inner).clone());
        let tell = |line: &str| {
            say(&mut **out.lock().unwrap_or_else(PoisonError::into_inner), line);
        };
        let waits = |reason: &str| tell(&format!("waiting, not registered yet: {}: {reason}", self.check.url));
        let checking = self.watch(waits, |healthy| {
            match &healthy {
                Ok(()) => tell(&format!("healthy {}", self.check.url)),
                Err(reason) => tell(&format!("unhealthy {}: {reason}", self.check.url)),
            }
            *health.lock().unwrap_or_else(PoisonError::into_inner) = healthy;
        });
        let mut code = FINE;
        let mut is_registered = false;
        let stop = CancellationToken::new();
        let kept = keep(Box::new(leased), standing, stop.clone(), |key, event| match event {
            Event::Changed(Change::Registered) => tell(&format!("registered {key}")),
            Event::Changed(Change::Removed) => tell(&format!("removed {key}")),
            Event::Asserted(stands) => is_registered = stands,
            Event::Left if is_registered => tell(&format!("left {key}")),
            Event::Left => tell(&format!("ended; {key} was not registered")),
            Event::Failed(error) => {
                say(remarks, &format!("fleetgate: cannot register, trying again: {error}"));
            }
            Event::LeftBehind(error) => {
                say(remarks, &format!("fleetgate: cannot leave, {key} ends with its lease: {error}"));
                code = FAILED;
            }
        });
        let stopped = async {
            let Ok(mut signals) = Signals::listen() else { return std::future::pending().await };
            signals.stop_or_hang_up().await;
            stop.cancel();
            // A second one ends at once.
            signals.stop_again(|_| {}).await;
        };
        tokio::select! {
            () = kept => {}
            () = stopped => code = FAILED,
            () = checking => {}
            () = follow => {}
        }
        code
    }

    /// Checks for ever; tells each flip, and the first failure before any.
    async fn watch(&self, waits: impl Fn(&str), mut flips: impl FnMut(Result<(), String>)) {
        let check = HealthCheck {
            probe: self.check.probe.clone(),
            interval: self.interval,
            timeout: self.timeout,
            healthy_threshold: self.healthy_threshold,
            unhealthy_threshold: self.unhealthy_threshold,
        };
        let mut threshold = Threshold::new(self.healthy_threshold, self.unhealthy_threshold);
        let mut health = Health::Unknown;
        let mut is_told = false;
        let mut ticks = interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let result = match tokio::time::timeout(self.timeout, resolve(&self.check.address)).await {
                Ok(Ok(address)) => {
                    probe::run(&check, address, None, Protocol::Http1).await.map_err(|error| error.to_string())
                }
                Ok(Err(error)) => Err(error),
                Err(_) => Err(format!("its name was not resolved within {:?}", self.timeout)),
            };
            // Nothing is registered before the first change: the reason is printed for those who wait.
            if let (Health::Unknown, Err(reason), false) = (health, &result, is_told) {
                waits(reason);
                is_told = true;
            }
            if let Some(flipped) = threshold.answer(health, result.is_ok()) {
                health = flipped;
                flips(result);
            }
        }
    }
}

async fn resolve(address: &Address) -> Result<SocketAddr, String> {
    match address {
        Address::Ip(address) => Ok(*address),
        Address::Name { host, port } => {
            let mut found = tokio::net::lookup_host((&**host, *port)).await.map_err(|error| error.to_string())?;
            found.next().ok_or_else(|| format!("`{host}` has no address"))
        }
    }
}

/// What is checked.
#[derive(Clone, Debug)]
struct Target {
    url: String,
    address: Address,
    probe: Probe,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "write http://HOST:PORT/PATH or tcp://HOST:PORT".to_owned();
        let uri: http::Uri = text.parse().map_err(|_| wrong())?;
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(wrong)?;
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let (probe, port) = match uri.scheme_str() {
            Some("http") => (
                Probe::Http { path: target.to_owned(), host: Some(authority.to_string()) },
                authority.port_u16().or(Some(80)),
            ),
            Some("tcp") if matches!(target, "" | "/") => (Probe::Tcp, authority.port_u16()),
            _ => return Err(wrong()),
        };
        let address = Address::new(authority.host(), port.ok_or_else(wrong)?)?;
        Ok(Self { url: text.to_owned(), address, probe })
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

fn plain(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_graphic() && c != '/';
    if text.is_empty() || text.len() > 256 || !text.chars().all(fits) {
        return Err("1 to 256 visible ASCII characters, without `/`".to_owned());
    }
    Ok(text.to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    RawDuration::parse(text, false).map(|parsed| parsed.0)
}

fn pause(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|parsed| at_least(parsed, Duration::from_millis(100), Duration::MAX, "at least 100ms"))
}

/// A change of etcd's leader takes several seconds, which a lease must outlast.
fn lease(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|parsed| at_least(parsed, Duration::from_secs(10), Duration::from_secs(3600), "10s to 1h"))
}

fn at_least(value: Duration, least: Duration, most: Duration, wanted: &str) -> Result<Duration, String> {
    if (least..=most).contains(&value) { Ok(value) } else { Err(format!("must be {wanted}")) }
}
