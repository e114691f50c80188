//! Defines what the history holds: a change, when it was applied, and why.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::snapshot::{Endpoint, Health, Standing, StateName};
use crate::spec::endpoint::{Labels, RegistryStatus};
use crate::spec::name::ProviderId;
use crate::spec::upstream::UpstreamSettings;

/// A change that was applied.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Greater for later ones, over restarts, too.
    pub id: u64,
    /// When it was applied.
    #[serde(serialize_with = "written", deserialize_with = "read")]
    pub time: SystemTime,
    /// Of the snapshot that has it.
    pub generation: u64,
    /// What changed.
    #[serde(flatten)]
    pub change: Change,
}

/// What changed, of what, and why.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Change {
    /// The kind of change.
    pub event: What,
    /// Who brought it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<ProviderId>,
    /// The source, the watch or the document, as status shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Arc<str>>,
    /// Consul's index or etcd's revision that was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// The route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<Arc<str>>,
    /// The upstream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Arc<str>>,
    /// The middleware.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub middleware: Option<Arc<str>>,
    /// The certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Arc<str>>,
    /// The consumer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumer: Option<Arc<str>>,
    /// The endpoint of the upstream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SocketAddr>,
    /// As it was; of a route or upstream what differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Shape>,
    /// As it is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Shape>,
    /// Why, for people.
    pub cause: String,
}

/// Kinds of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The gateway started: what was before it is of an earlier process.
    GatewayStarted,
    /// It stops, as it was told to.
    GatewayStopped,
    /// A route is there.
    RouteAdded,
    /// A route is another.
    RouteChanged,
    /// A route is gone.
    RouteRemoved,
    /// Another route matches the same and goes first.
    RouteShadowed,
    /// No longer.
    RouteUnshadowed,
    /// An upstream is there.
    UpstreamAdded,
    /// An upstream's settings or source are others.
    UpstreamChanged,
    /// An upstream is gone.
    UpstreamRemoved,
    /// A middleware is there.
    MiddlewareAdded,
    /// A middleware is another.
    MiddlewareChanged,
    /// A middleware is gone.
    MiddlewareRemoved,
    /// A certificate is there.
    CertificateAdded,
    /// A certificate is another.
    CertificateChanged,
    /// A certificate is gone.
    CertificateRemoved,
    /// A consumer is there.
    ConsumerAdded,
    /// A consumer's groups or secrets are others.
    ConsumerChanged,
    /// A consumer is gone.
    ConsumerRemoved,
    /// An endpoint is there.
    EndpointAdded,
    /// An endpoint's state, weight or labels are others.
    EndpointChanged,
    /// An endpoint is gone.
    EndpointRemoved,
    /// Too many errors: an upstream's breaker refuses requests.
    BreakerOpened,
    /// It lets all requests through again.
    BreakerClosed,
    /// A registry lost endpoints in a suspicious way; they stay.
    HoldBegan,
    /// That was confirmed, or they are back.
    HoldEnded,
    /// A held endpoint went because another service lists its address.
    EndpointReleased,
    /// A document or registration can't be used as it is.
    ItemRejected,
    /// It can again.
    ItemAccepted,
    /// A static setting of the configuration file is another than at the start: it waits for a restart.
    RestartNeeded,
    /// It is that of the start again.
    RestartNotNeeded,
    /// An item refers to something that does not exist; its last form that resolved serves, where there is one.
    ItemUnresolved,
    /// Another item keeps one from use.
    ItemShadowed,
    /// A provider's watch fails; what it knew is kept.
    ProviderFailing,
    /// It answers again.
    ProviderLive,
    /// An operator said something.
    Command,
}

impl What {
    /// Whether it tells of a document, or of the gateway that applies them.
    pub(super) fn is_of_document(self) -> bool {
        match self {
            Self::GatewayStarted
            | Self::GatewayStopped
            | Self::RouteAdded
            | Self::RouteChanged
            | Self::RouteRemoved
            | Self::UpstreamAdded
            | Self::UpstreamChanged
            | Self::UpstreamRemoved
            | Self::MiddlewareAdded
            | Self::MiddlewareChanged
            | Self::MiddlewareRemoved
            | Self::CertificateAdded
            | Self::CertificateChanged
            | Self::CertificateRemoved
            | Self::ConsumerAdded
            | Self::ConsumerChanged
            | Self::ConsumerRemoved => true,
            Self::EndpointAdded
            | Self::EndpointChanged
            | Self::EndpointRemoved
            | Self::RouteShadowed
            | Self::RouteUnshadowed
            | Self::BreakerOpened
            | Self::BreakerClosed
            | Self::HoldBegan
            | Self::HoldEnded
            | Self::EndpointReleased
            | Self::ItemRejected
            | Self::ItemAccepted
            | Self::RestartNeeded
            | Self::RestartNotNeeded
            | Self::ItemUnresolved
            | Self::ItemShadowed
            | Self::ProviderFailing
            | Self::ProviderLive
            | Self::Command => false,
        }
    }
}

/// How something was or is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Shape {
    /// An endpoint.
    Endpoint(Facts),
    /// A route or upstream, as in a document.
    Document(Map<String, Value>),
}

/// An endpoint, as far as it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Where it stands.
    pub state: StateName,
    /// Its weight.
    pub weight: u16,
    /// Its labels.
    pub labels: Arc<Labels>,
    /// Why it stands so, or what else is to know.
    pub reasons: Vec<String>,
    #[serde(skip, default = "unchecked")]
    pub(super) status: RegistryStatus,
    #[serde(skip)]
    pub(super) held: bool,
    #[serde(skip)]
    pub(super) drained: bool,
    /// Active checks call it bad.
    #[serde(skip)]
    pub(super) failing: bool,
    /// Requests to it failed.
    #[serde(skip)]
    pub(super) ejected: bool,
}

impl Facts {
    /// What is so now, by the settings of the upstream.
    pub(super) fn of(endpoint: &Endpoint, settings: &UpstreamSettings) -> Self {
        Self {
            state: endpoint.state_name(settings),
            weight: endpoint.weight,
            labels: Arc::clone(&endpoint.labels),
            reasons: endpoint.reasons(settings),
            status: endpoint.status,
            held: endpoint.held,
            drained: endpoint.drained,
            failing: settings.health_check.is_some() && endpoint.state.health() == Health::Unhealthy,
            ejected: endpoint.standing(settings) == Standing::Ejected,
        }
    }

    /// Whether nothing worth an event differs: another text of a failure is the same failure.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        let words = |facts: &Self| {
            let words = (facts.state, facts.weight, facts.status, facts.held, facts.drained);
            (words, facts.failing, facts.ejected)
        };
        words(self) == words(other) && (Arc::ptr_eq(&self.labels, &other.labels) || self.labels == other.labels)
    }
}

impl Change {
    /// A change that nothing is known of but its kind and cause.
    pub(super) fn new(event: What, cause: impl Into<String>) -> Self {
        Self {
            event,
            provider: None,
            source: None,
            index: None,
            route: None,
            upstream: None,
            middleware: None,
            certificate: None,
            consumer: None,
            endpoint: None,
            before: None,
            after: None,
            cause: cause.into(),
        }
    }

    /// Bytes it takes, roughly.
    pub(super) fn size(&self) -> usize {
        let shape = |shape: &Option<Shape>| match shape {
            None => 0,
            Some(Shape::Endpoint(facts)) => {
                let reasons = facts.reasons.iter().map(|reason| reason.len() + 24);
                // Shared with the snapshot at first; the history may be the last to hold them.
                let labels = facts.labels.iter().map(|(key, value)| key.len() + value.len() + 64);
                reasons.chain(labels).sum()
            }
            // A tree of values takes several times its text.
            Some(Shape::Document(map)) => 4 * serde_json::to_string(map).map_or(0, |text| text.len()),
        };
        size_of::<Event>() + 32 + self.cause.len() + shape(&self.before) + shape(&self.after)
    }
}

/// RFC 3339 in UTC with milliseconds.
pub(super) fn time_text(time: SystemTime) -> String {
    let timestamp = Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH);
    format!("{timestamp:.3}")
}

fn written<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time_text(*time))
}

fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SystemTime, D::Error> {
    Timestamp::deserialize(deserializer).map(SystemTime::from)
}

/// Of an earlier process it is not known, and nothing asks for it.
fn unchecked() -> RegistryStatus {
    RegistryStatus::Unchecked
}
