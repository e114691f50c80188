//! Defines an endpoint as it is served: settings from its source, and the state that outlives them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::spec::endpoint::{Labels, Penalty, RegistryStatus};

/// One address of an upstream.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
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
    /// What it has against it that its registry took it out again and again.
    pub penalty: Option<Penalty>,
    /// What survives every change of the above.
    pub state: Arc<EndpointState>,
}

/// Equal settings of the same identity; the state itself is not compared.
impl PartialEq for Endpoint {
    fn eq(&self, other: &Self) -> bool {
        self.address == other.address
            && self.weight == other.weight
            && self.labels == other.labels
            && self.status == other.status
            && self.held == other.held
            && self.drained == other.drained
            && self.penalty == other.penalty
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
    /// Weight 0, or drained by an operator.
    Draining,
    /// In maintenance.
    Maintenance,
    /// Flapped too often: the last choice, until its penalty has decayed.
    Damped,
}

impl Endpoint {
    /// Where it stands. `checked`: the upstream has an active health check.
    pub fn standing(&self, checked: bool) -> Standing {
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

    /// Where it stands, in the word that users see.
    pub fn state_name(&self, checked: bool) -> StateName {
        match self.standing(checked) {
            Standing::Healthy if self.held => StateName::Held,
            Standing::Healthy => StateName::Healthy,
            Standing::Untested | Standing::Unhealthy => StateName::Unhealthy,
            Standing::Draining => StateName::Draining,
            Standing::Maintenance => StateName::Maintenance,
            Standing::Damped => StateName::Ejected,
        }
    }

    /// Why it stands so, for people.
    pub fn reasons(&self, checked: bool) -> Vec<String> {
        let mut reasons = Vec::new();
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
        if checked || self.held {
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
        reasons
    }
}

/// Where an endpoint stands, in the word that users see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StateName {
    /// Takes traffic.
    Healthy,
    /// Checks fail, or none has passed yet and no registry vouches for it.
    Unhealthy,
    /// Weight 0, or drained by an operator.
    Draining,
    /// In maintenance.
    Maintenance,
    /// Takes traffic, though its registry lost it.
    Held,
    /// Taken out of use by us: it flaps.
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
        self.health.store(word, Relaxed);
    }

    /// Why the last active check failed.
    pub fn last_failure(&self) -> Option<String> {
        self.last_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes why a check failed; `None` when it passed.
    pub fn set_last_failure(&self, failure: Option<String>) {
        *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    /// Exchanges that are at this endpoint now, of all workers.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// An exchange begins.
    pub fn enter(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    /// An exchange ends; once for each `enter`.
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
