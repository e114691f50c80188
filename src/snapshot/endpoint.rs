//! Defines an endpoint as it is served: settings from its source, and the state that outlives them.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::abandonment::Abandonment;
use super::outlier::Outlier;
use super::prohibition::Prohibition;
use crate::spec::endpoint::{Labels, Penalty, RegistryStatus};
use crate::spec::upstream::UpstreamSettings;

/// One address of an upstream.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// The host name it is registered by, where that is no address.
    pub host: Option<Arc<str>>,
    /// 0 drains.
    pub weight: u16,
    /// What subsets select by.
    pub labels: Arc<Labels>,
    /// The registry's word.
    pub status: RegistryStatus,
    /// Lost by its registry in a suspicious way, and kept until that is confirmed.
    pub held: bool,
    /// Taken out of use by an operator.
    pub drained: bool,
    /// Why it is never used.
    pub prohibited: Option<Prohibition>,
    /// What it has against it that its registry took it out again and again.
    pub penalty: Option<Penalty>,
    /// 0 goes first; the next ones get what it cannot take.
    pub priority: u16,
    /// What survives every change of the above.
    pub state: Arc<EndpointState>,
}

/// Equal settings of the same identity; the state itself is not compared.
impl PartialEq for Endpoint {
    fn eq(&self, other: &Self) -> bool {
        self.address == other.address
            && self.host == other.host
            && self.weight == other.weight
            && self.labels == other.labels
            && self.status == other.status
            && self.held == other.held
            && self.drained == other.drained
            && self.prohibited == other.prohibited
            && self.penalty == other.penalty
            && self.priority == other.priority
            && Arc::ptr_eq(&self.state, &other.state)
    }
}

/// Where an endpoint stands, all words taken together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Takes traffic.
    Healthy,
    /// Its first active check has not answered yet and no registry vouches for it: the second choice.
    Untested,
    /// Active checks or the registry call it bad.
    Unhealthy,
    /// It must not be used.
    Prohibited,
    /// Weight 0, or drained by an operator.
    Draining,
    /// In maintenance.
    Maintenance,
    /// Flapped too often: used where no other is, until its penalty has decayed.
    Damped,
    /// Requests to it failed: out of use, as far as enough others are left.
    Ejected,
}

impl Endpoint {
    /// Where it stands, by the settings of its upstream.
    pub fn standing(&self, settings: &UpstreamSettings) -> Standing {
        match self.reported(settings.health_check.is_some()) {
            Standing::Healthy if settings.passive_health.is_on() && self.state.outlier.is_ejected() => {
                Standing::Ejected
            }
            standing => standing,
        }
    }

    /// Where it stands by all words but that of requests. `checked`: its upstream has an active health check.
    fn reported(&self, checked: bool) -> Standing {
        if self.prohibited.is_some() {
            return Standing::Prohibited;
        }
        if self.drained {
            return Standing::Draining;
        }
        match self.status {
            RegistryStatus::Maintenance => return Standing::Maintenance,
            RegistryStatus::Critical => return Standing::Unhealthy,
            RegistryStatus::Unchecked | RegistryStatus::Passing | RegistryStatus::Warning => {}
        }
        if self.weight == 0 {
            return Standing::Draining;
        }
        if self.penalty.as_ref().is_some_and(|penalty| penalty.damped)
            && !(checked && self.state.health() == Health::Unhealthy)
        {
            return Standing::Damped;
        }
        // Who is held is probed whether the upstream has a check or not.
        if !checked && !self.held {
            return Standing::Healthy;
        }
        match self.state.health() {
            Health::Healthy => Standing::Healthy,
            Health::Unhealthy => Standing::Unhealthy,
            Health::Unknown if self.status == RegistryStatus::Unchecked && !self.held => Standing::Untested,
            Health::Unknown => Standing::Healthy,
        }
    }

    /// Whether source and operators let it take traffic, whatever checks say.
    pub fn is_admitted(&self) -> bool {
        let admitted = match self.status {
            RegistryStatus::Unchecked | RegistryStatus::Passing | RegistryStatus::Warning => true,
            RegistryStatus::Critical | RegistryStatus::Maintenance => false,
        };
        admitted && !self.drained && self.weight > 0 && self.prohibited.is_none()
    }

    /// Whether it may take traffic where too few others are well: nobody wants it out of use, whatever checks say.
    pub(super) fn may_serve(&self) -> bool {
        self.status != RegistryStatus::Maintenance && !self.drained && self.weight > 0 && self.prohibited.is_none()
    }

    /// Where it stands, in the word that users see.
    pub fn state_name(&self, settings: &UpstreamSettings) -> StateName {
        match self.standing(settings) {
            Standing::Healthy if self.held => StateName::Held,
            Standing::Healthy => StateName::Healthy,
            Standing::Untested | Standing::Unhealthy | Standing::Prohibited => StateName::Unhealthy,
            Standing::Draining => StateName::Draining,
            Standing::Maintenance => StateName::Maintenance,
            Standing::Damped | Standing::Ejected => StateName::Ejected,
        }
    }

    /// Why it stands so, for people.
    pub fn reasons(&self, settings: &UpstreamSettings) -> Vec<String> {
        let checked = settings.health_check.is_some();
        let mut reasons: Vec<String> = self.prohibited.iter().map(|why| why.as_str().to_owned()).collect();
        if self.drained {
            reasons.push("drained by an operator".to_owned());
        }
        match self.status {
            RegistryStatus::Critical => reasons.push("a registry check is critical".to_owned()),
            RegistryStatus::Maintenance => reasons.push("in maintenance in the registry".to_owned()),
            RegistryStatus::Warning => reasons.push("a registry check warns".to_owned()),
            RegistryStatus::Unchecked | RegistryStatus::Passing => {}
        }
        if self.weight == 0 {
            reasons.push("weight 0".to_owned());
        }
        if self.held {
            reasons.push("lost by its registry, not confirmed: used while it answers".to_owned());
        }
        if let Some(penalty) = &self.penalty {
            let now = Instant::now();
            let (points, above) = (penalty.now(now), Penalty::SUPPRESS);
            reasons.push(if penalty.damped {
                let wait = penalty.reused_in(now).as_secs() + 1;
                format!("flaps: its registry took it out again and again, penalty {points:.0}; used again in {wait} s")
            } else {
                format!("flapped of late, penalty {points:.0}; not used above {above:.0}")
            });
        }
        if (checked || self.held) && self.prohibited.is_none() {
            match self.state.health() {
                Health::Healthy => {}
                Health::Unknown if !checked => {}
                Health::Unknown => reasons.push("no active check has answered yet".to_owned()),
                Health::Unhealthy => reasons.push(match self.state.last_failure() {
                    Some(failure) => format!("active checks fail: {failure}"),
                    None => "active checks fail".to_owned(),
                }),
            }
        }
        if let Some(why) = self.state.unmade_check() {
            reasons.push(format!("the last active check could not be made, and says nothing: {why}"));
        }
        if settings.tls.is_some() {
            reasons.extend(self.state.tls_failure().map(|failure| format!("TLS fails: {failure}")));
        }
        if settings.passive_health.is_on() {
            reasons.extend(self.state.outlier.reason(&settings.passive_health, Instant::now()));
        }
        reasons
    }
}

/// Where an endpoint stands, in the word that users see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StateName {
    /// Takes traffic.
    Healthy,
    /// Checks fail, or none has passed yet and no registry vouches for it; or it must not be used.
    Unhealthy,
    /// Weight 0, or drained by an operator.
    Draining,
    /// In maintenance.
    Maintenance,
    /// Takes traffic, though its registry lost it.
    Held,
    /// Taken out of use by us: it flaps, or requests to it failed.
    Ejected,
}

impl StateName {
    /// Every state, in the order lists show them.
    pub const ALL: [Self; 6] =
        [Self::Healthy, Self::Unhealthy, Self::Draining, Self::Maintenance, Self::Held, Self::Ejected];

    /// The name users see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Draining => "draining",
            Self::Maintenance => "maintenance",
            Self::Held => "held",
            Self::Ejected => "ejected",
        }
    }
}

/// What active checks found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// No check has answered.
    Unknown,
    /// Passing.
    Healthy,
    /// Failing.
    Unhealthy,
}

/// What belongs to an endpoint's identity (upstream, address) and survives every reload.
#[derive(Debug)]
pub struct EndpointState {
    address: SocketAddr,
    label: Arc<str>,
    health: AtomicU8,
    in_flight: AtomicU32,
    idle: AtomicU32,
    last_failure: Mutex<Option<String>>,
    unmade_check: Mutex<Option<String>>,
    tls_failure: Mutex<Option<String>>,
    abandonment: Abandonment,
    pub(super) outlier: Outlier,
    made: Instant,
    /// Milliseconds from when it was made, and 1 more; 0: never.
    fresh_since: AtomicU64,
}

impl EndpointState {
    /// The state of an endpoint never seen before.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            label: address.to_string().into(),
            health: AtomicU8::new(0),
            in_flight: AtomicU32::new(0),
            idle: AtomicU32::new(0),
            last_failure: Mutex::new(None),
            unmade_check: Mutex::new(None),
            tls_failure: Mutex::new(None),
            abandonment: Abandonment::default(),
            outlier: Outlier::default(),
            made: Instant::now(),
            fresh_since: AtomicU64::new(0),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address as text, for logs.
    pub fn label(&self) -> &Arc<str> {
        &self.label
    }

    /// What active checks found.
    pub fn health(&self) -> Health {
        match self.health.load(Relaxed) {
            1 => Health::Healthy,
            2 => Health::Unhealthy,
            _ => Health::Unknown,
        }
    }

    /// Sets what active checks found. Who calls it moves the upstream's epoch after it when it flipped.
    pub fn set_health(&self, health: Health) {
        let word = match health {
            Health::Unknown => 0,
            Health::Healthy => 1,
            Health::Unhealthy => 2,
        };
        if self.health.swap(word, Relaxed) != word && health == Health::Healthy {
            self.freshen();
        }
    }

    /// It is new, or well again: slow starts count from now.
    pub fn freshen(&self) {
        self.fresh_since.store(self.made.elapsed().as_millis() as u64 + 1, Relaxed);
    }

    /// Since when it is new or well again; `None` when it is what this process began with.
    pub fn fresh_since(&self) -> Option<Instant> {
        let after = self.fresh_since.load(Relaxed).checked_sub(1)?;
        self.made.checked_add(Duration::from_millis(after))
    }

    /// Why the last active check failed.
    pub fn last_failure(&self) -> Option<String> {
        self.last_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes why a check failed; `None` when it passed.
    pub fn set_last_failure(&self, failure: Option<String>) {
        *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    /// Why the last active check could not be made, which left everything as it was.
    pub fn unmade_check(&self) -> Option<String> {
        self.unmade_check.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes why a check could not be made, or that one was; true when that is new.
    pub fn set_unmade_check(&self, why: Option<String>) -> bool {
        let mut known = self.unmade_check.lock().unwrap_or_else(PoisonError::into_inner);
        let new = known.is_some() != why.is_some();
        *known = why;
        new
    }

    /// It began a response in this second of a worker's clock.
    pub fn answers(&self, second: u32) {
        self.abandonment.answers(second);
    }

    /// A client (`None`: of unknown address) gave up a request that it had in full since `second`; whether that speaks
    /// against it.
    pub fn is_given_up(&self, client: Option<IpAddr>, second: u32) -> bool {
        self.abandonment.is_given_up(client, second)
    }

    /// Why requests found no TLS with it last; `None` when they do.
    pub fn tls_failure(&self) -> Option<String> {
        self.tls_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes why there is no TLS with it, or that there is; true when that is new. For new connections only.
    pub fn set_tls_failure(&self, failure: Option<&str>) -> bool {
        let mut known = self.tls_failure.lock().unwrap_or_else(PoisonError::into_inner);
        let new = known.as_deref() != failure;
        if new {
            *known = failure.map(str::to_owned);
        }
        new
    }

    /// Exchanges that are at this endpoint now, of all workers.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// An exchange begins.
    pub fn enter(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    /// An exchange begins, if there are fewer than `most`.
    pub fn enter_below(&self, most: u32) -> bool {
        self.in_flight.fetch_update(Relaxed, Relaxed, |now| (now < most).then_some(now + 1)).is_ok()
    }

    /// An exchange ends; once for each that began.
    pub fn leave(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    /// Idle connections that are kept to it now, of all workers.
    pub fn idle(&self) -> u32 {
        self.idle.load(Relaxed)
    }

    /// A connection becomes idle and is kept.
    pub fn keep_idle(&self) {
        self.idle.fetch_add(1, Relaxed);
    }

    /// A kept connection is used or closed; once for each `keep_idle`.
    pub fn drop_idle(&self) {
        self.idle.fetch_sub(1, Relaxed);
    }
}
