//! Defines how something keeps itself registered: asserted again and again, whatever becomes of the registry,
//! and taken away at the end. A failure to register never hinders anything else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::supervise::{WatchError, around};
use crate::spec::endpoint::Address;
use crate::spec::name::Name;
use crate::spec::settings::{OwnAddress, OwnPlace};

/// How often it is looked at whether what is registered should get traffic.
const LOOK: Duration = Duration::from_millis(250);
/// The first wait after a failure, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// How long leaving may take.
const LEAVE: Duration = Duration::from_secs(3);

/// An entry in a registry.
#[async_trait]
pub trait Registration: Send {
    /// What it is called in messages.
    fn place(&self) -> &str;

    /// How often it must be asserted to stay.
    fn every(&self) -> Duration;

    /// Makes the registry say what is so: `Ok`, or why it should get no traffic. Tells what changed by that.
    async fn assert(&mut self, standing: &Result<(), String>) -> Result<Option<Change>, WatchError>;

    /// Whether it is in the registry, as of the last assertion.
    fn stands(&self) -> bool;

    /// Takes it away.
    async fn leave(&mut self) -> Result<(), WatchError>;
}

/// What an assertion changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is in the registry, and was not.
    Registered,
    /// It is not any more.
    Removed,
}

/// What there is to tell of a registration. A failure that repeats itself is told once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It changed in the registry.
    Changed(Change),
    /// It was asserted: whether it is in the registry. Told first, and when that changes or was in doubt.
    Asserted(bool),
    /// It can't be asserted; it is tried again.
    Failed(String),
    /// It was taken away for good.
    Left,
    /// It could not be taken away, and ends with its time to live.
    LeftBehind(String),
}

/// Whether what is registered should get traffic, or why not.
pub type Standing = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Keeps a registration until `stop`, then takes it away.
pub async fn keep(
    mut registration: Box<dyn Registration>,
    standing: Standing,
    stop: CancellationToken,
    mut tell: impl FnMut(&str, Event) + Send,
) {
    let mut failures = 0u32;
    let (mut said, mut stood) = (None, None);
    while !stop.is_cancelled() {
        let now = standing();
        // Not cut short by the stop: a request under way could arrive after the one that takes it away.
        let wait = match registration.assert(&now).await {
            Ok(change) => {
                (failures, said) = (0, None);
                if let Some(change) = change {
                    tell(registration.place(), Event::Changed(change));
                }
                let stands = registration.stands();
                if stood.replace(stands) != Some(stands) {
                    tell(registration.place(), Event::Asserted(stands));
                }
                registration.every()
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                stood = None;
                if said.as_ref() != Some(&error.text) {
                    tell(registration.place(), Event::Failed(error.text.clone()));
                    said = Some(error.text);
                }
                around(RETRY.0.saturating_mul(1 << failures.min(5)).min(RETRY.1) / 2, 0.5)
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = due(wait, &standing, now.is_ok()) => {}
        }
    }
    let event = match timeout(LEAVE, registration.leave()).await {
        Ok(Ok(())) => Event::Left,
        Ok(Err(error)) => Event::LeftBehind(error.text),
        Err(_) => Event::LeftBehind(format!("no answer within {LEAVE:?}")),
    };
    tell(registration.place(), event);
}

/// Writes events to our own log.
pub fn log(place: &str, event: Event) {
    match event {
        Event::Asserted(_) => {}
        Event::Changed(Change::Registered) => tracing::info!(place, "registered"),
        Event::Changed(Change::Removed) => tracing::info!(place, "registered no more"),
        Event::Left => tracing::info!(place, "left the registry"),
        Event::Failed(error) => tracing::warn!(place, "cannot register; trying again: {error}"),
        Event::LeftBehind(error) => tracing::warn!(place, "cannot leave the registry: {error}"),
    }
}

async fn due(wait: Duration, standing: &Standing, stands: bool) {
    let began = Instant::now();
    while began.elapsed() < wait && standing().is_ok() == stands {
        sleep(LOOK.min(wait)).await;
    }
}

/// How a registry is told of this gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Unique among gateways.
    pub id: String,
    /// Where others reach it; `None`: at this machine, whatever its address.
    pub host: Option<String>,
    /// The port there.
    pub port: u16,
}

impl Gateway {
    /// What the settings say, with the listeners as they are bound.
    ///
    /// # Errors
    /// There is no such listener.
    pub fn new(place: &OwnPlace, listeners: &[(Name, SocketAddr)]) -> Result<Self, String> {
        let (host, port) = match &place.address {
            OwnAddress::Given(Address::Ip(address)) => (Some(address.ip().to_string()), address.port()),
            OwnAddress::Given(Address::Name { host, port }) => (Some(host.to_string()), *port),
            OwnAddress::Listener(name) => {
                let bound = listeners.iter().find(|(listener, _)| listener == name);
                let (_, address) = bound.ok_or_else(|| format!("there is no listener `{name}`"))?;
                let host = (!address.ip().is_unspecified()).then(|| address.ip().to_string());
                (host, address.port())
            }
        };
        let id = place.id.clone().unwrap_or_else(|| format!("{}-{port}", host_name()));
        Ok(Self { id, host, port })
    }
}

/// This machine's name, in characters that fit everywhere.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let fits = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { '-' };
    let name: String = name.trim().chars().take(100).map(fits).collect();
    if name.is_empty() { "gateway".to_owned() } else { name }
}
