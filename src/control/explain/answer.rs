//! Defines the answer of explain, as the admin API writes it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::{Request, StatusCode};
use serde::Serialize;
use serde_json::Value;

use super::arrival::Arrival;
use super::question::Question;
use crate::exchange::{ClientAddress, ProxyError, grpc};
use crate::snapshot::middleware::Origin;
use crate::snapshot::{BreakerView, LevelView, Route, RouteHealth, StateName};
use crate::spec::encode;
use crate::spec::endpoint::Labels;
use crate::spec::name::{Name, ProviderId};

/// What a request would meet.
#[derive(Debug, Serialize)]
pub struct Explanation {
    /// Of the snapshot that was asked.
    pub generation: u64,
    /// The request, as matching sees it.
    pub request: Seen,
    /// What the client gets, where the gateway answers itself; `None`: what an endpoint answers.
    pub answer: Option<Answer>,
    /// What may answer before that.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unless: Vec<Unless>,
    /// Routes whose host and literal path fit, in the order they are considered.
    pub routes: Vec<Candidate>,
    /// Such routes beyond those shown.
    pub more_routes: usize,
    /// Routes for other hosts and paths, which were not looked at.
    pub other_routes: usize,
    /// The middlewares of listener and route, in the order in which a request passes them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub middlewares: Vec<ExplainedMiddleware>,
    /// The route taken.
    pub route: Option<ExplainedRoute>,
    /// The upstreams of its targets.
    pub upstreams: Vec<ExplainedUpstream>,
    /// Upstreams beyond those shown.
    pub more_upstreams: usize,
}

/// A request after the gate.
#[derive(Debug, Serialize)]
pub struct Seen {
    /// The listener it comes in by.
    pub listener: Name,
    /// The client's address, or `unknown` where a trusted proxy does not tell it; `None`: the question does not give one.
    pub client: Option<String>,
    /// The trusted proxy that sends the request on for the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<IpAddr>,
    /// Headers of the question that the gateway removes, since whoever sends them is not believed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<String>,
    /// The method.
    pub method: String,
    /// The host that routes are matched by; `None` when the gate refused it.
    pub host: Option<String>,
    /// The path in normal form; `None` when the gate refused it.
    pub path: Option<String>,
    /// The query.
    pub query: Option<String>,
}

/// Something that may answer the request earlier than explained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unless {
    /// `middleware `fair``, `target `users/canary``, `a trusted proxy`.
    pub who: String,
    /// Why it is open, or what it answers.
    pub reason: String,
}

/// What a client gets of the gateway itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// The status of the HTTP response; 200 for a gRPC call that is refused.
    pub status: u16,
    /// What a gRPC call gets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u8>,
    /// The flag, as in the access log; empty for a redirect.
    pub flag: &'static str,
    /// The word in the answer's body; empty for a redirect.
    pub error: &'static str,
    /// Why, for people.
    pub reason: String,
}

/// A route that was considered.
#[derive(Debug, Serialize)]
pub struct Candidate {
    /// Its name.
    pub name: Name,
    /// Who defined it.
    pub provider: ProviderId,
    /// Its conditions, as in a document.
    pub r#match: Value,
    /// What became of it.
    pub fate: Fate,
    /// Why.
    pub reason: String,
}

/// What becomes of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// It gets the request.
    Taken,
    /// A condition does not hold.
    Unmet,
    /// The route taken goes before it.
    After,
}

/// A middleware of the listener or of the route taken.
#[derive(Debug, Serialize)]
pub struct ExplainedMiddleware {
    /// Its name, with its provider where another one's won that.
    pub name: Arc<str>,
    /// Who defined it.
    pub provider: ProviderId,
    /// Its type.
    pub r#type: &'static str,
    /// Who names it.
    pub of: Origin,
    /// Whether it takes part.
    pub runs: bool,
    /// What it does with the request.
    pub effect: Effect,
    /// Why.
    pub reason: String,
}

/// What a middleware does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// The request goes on.
    Passes,
    /// It answers instead of a service.
    Answers,
    /// It may answer: that depends on what a question can't say.
    Open,
    /// The request does not come to it.
    Unreached,
}

/// The route taken.
#[derive(Debug, Serialize)]
pub struct ExplainedRoute {
    /// Its name.
    pub name: Name,
    /// Who defined it.
    pub provider: ProviderId,
    /// Whether it can be served.
    pub state: RouteHealth,
    /// Why it is not `ok`.
    pub reasons: Vec<String>,
    /// What decides between its targets; `None` when it has no say.
    pub decided_by: Option<String>,
    /// In the order written.
    pub targets: Vec<ExplainedTarget>,
    /// Targets beyond those shown; none of them gets the request.
    pub more_targets: usize,
}

/// A target of the route taken.
#[derive(Debug, Serialize)]
pub struct ExplainedTarget {
    /// As metrics and the access log name it.
    pub target: Arc<str>,
    /// Its share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Its conditions, as in a document.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<Value>,
    /// How likely it is drawn first, whether it has a usable endpoint or not.
    pub drawn: f64,
    /// How likely it gets the request.
    pub probability: f64,
    /// Endpoints that take its traffic now.
    pub usable: usize,
    /// What each level takes of it, where its endpoints do not all go together.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub levels: Vec<LevelView>,
    /// Why.
    pub reason: String,
    /// What is done with a request beyond forwarding it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<String>,
}

/// An upstream that the route may lead to.
#[derive(Debug, Serialize)]
pub struct ExplainedUpstream {
    /// As metrics name it.
    pub name: Arc<str>,
    /// Who defined it.
    pub provider: ProviderId,
    /// Where its endpoints come from.
    pub source: String,
    /// Whether the source was read at least once.
    pub known: bool,
    /// What its breaker lets through, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker: Option<BreakerView>,
    /// The `Host` that its endpoints get, where a target does not say another: `preserve`, `endpoint` or a name.
    pub host: String,
    /// Sorted by address.
    pub endpoints: Vec<ExplainedEndpoint>,
    /// Endpoints beyond those shown.
    pub more_endpoints: usize,
}

/// An endpoint that a target may lead to.
#[derive(Debug, Serialize)]
pub struct ExplainedEndpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where it stands.
    pub state: StateName,
    /// Its weight.
    pub weight: u16,
    /// What subsets select by.
    pub labels: Arc<Labels>,
    /// Whether it takes traffic of any target of the route.
    pub usable: bool,
    /// The targets whose traffic it takes.
    pub targets: Vec<Arc<str>>,
    /// Why it can't be used, or what else is to know.
    pub reasons: Vec<String>,
}

impl Unless {
    /// What may send the request instead of the client.
    pub(super) const PROXY: &str = "a trusted proxy";

    /// Whether a target answers.
    pub(super) fn is_of_target(&self) -> bool {
        self.who.starts_with("target ")
    }
}

impl Explanation {
    pub(super) fn new(generation: u64, question: &Question, arrival: &Arrival, listener: &Name) -> Self {
        let told = |peer: &IpAddr| arrival.client.is_some_and(|client| client != ClientAddress::Known(*peer));
        let request = Seen {
            listener: listener.clone(),
            client: arrival.client.map(|client| client.to_string()),
            peer: question.peer.filter(told),
            removed: arrival.removed.clone(),
            method: question.request.method().to_string(),
            host: None,
            path: None,
            query: question.request.uri().query().map(str::to_owned),
        };
        let (routes, upstreams) = (Vec::new(), Vec::new());
        let (more_routes, other_routes, more_upstreams) = (0, 0, 0);
        let (answer, route) = (None, None);
        let (middlewares, unless) = (Vec::new(), arrival.unless.iter().cloned().collect());
        Self {
            generation,
            request,
            answer,
            unless,
            routes,
            more_routes,
            other_routes,
            middlewares,
            route,
            upstreams,
            more_upstreams,
        }
    }
}

impl Answer {
    /// What a request gets that is refused.
    pub(super) fn refusal<B>(error: ProxyError, request: &Request<B>, reason: String) -> Self {
        let is_call = grpc::is_call(request.headers());
        Self {
            status: if is_call { StatusCode::OK } else { error.status() }.as_u16(),
            grpc_status: is_call.then(|| grpc::status(error)),
            flag: error.flag().as_str(),
            error: error.code(),
            reason,
        }
    }

    /// An answer that is no refusal.
    pub(super) fn own(status: StatusCode, flag: &'static str, reason: String) -> Self {
        Self { status: status.as_u16(), grpc_status: None, flag, error: "", reason }
    }

    /// Whether a client can't tell the two apart.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        (self.status, self.grpc_status, self.flag) == (other.status, other.grpc_status, other.flag)
    }
}

impl Candidate {
    pub(super) fn new(route: &Route, fate: Fate, reason: String) -> Self {
        let (name, provider) = (route.name.clone(), route.provider);
        Self { name, provider, r#match: encode::matching(&route.spec.matching), fate, reason }
    }
}

impl ExplainedRoute {
    pub(super) fn new(route: &Route) -> Self {
        Self {
            name: route.name.clone(),
            provider: route.provider,
            state: RouteHealth::Ok,
            reasons: Vec::new(),
            decided_by: None,
            targets: Vec::new(),
            more_targets: 0,
        }
    }
}
