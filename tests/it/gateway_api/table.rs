//! The table: what a request is, and what is expected of it.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A test of the suite: a configuration, and requests through it. The configuration stands before listeners `web` and
/// `secure` (TLS), and upstreams `v1`, `v2` and `v3` of a service each, at `$v1` and so on, and `h2` of one that speaks
/// HTTP/2 alone.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Test {
    /// Its name in the suite, without `httproute-`.
    pub(super) test: String,
    /// It is about what no gateway outside of Kubernetes has; there are no cases.
    pub(super) foreign: Option<String>,
    /// What is missing: not all of its cases pass, and none counts. Once all do, this line has to go.
    pub(super) later: Option<String>,
    #[serde(default)]
    pub(super) config: String,
    #[serde(default)]
    pub(super) cases: Vec<Case>,
}

/// A request, and what is expected of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    #[serde(default = "get")]
    pub(super) method: String,
    pub(super) path: String,
    pub(super) host: Option<String>,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    /// The listener; `web` by default.
    #[serde(default = "web")]
    pub(super) at: String,
    /// The name asked for in the handshake with `secure`.
    pub(super) tls: Option<String>,

    /// What services do with the next requests, one after the other; they echo afterwards.
    #[serde(default)]
    pub(super) service: BTreeMap<String, Vec<Does>>,
    /// Headers of their answers.
    #[serde(default)]
    pub(super) service_sets: BTreeMap<String, String>,

    /// Why another answer is right here than the suite's: the case must not pass.
    pub(super) differs: Option<String>,
    /// One of these; 200 by default.
    #[serde(default)]
    pub(super) status: Statuses,
    /// The service that answers.
    pub(super) from: Option<String>,
    /// How often services were asked.
    pub(super) tries: Option<usize>,
    /// The share in percent that each service gets of many such requests.
    #[serde(default)]
    pub(super) shares: BTreeMap<String, f64>,
    /// The connection becomes a WebSocket's.
    #[serde(default)]
    pub(super) websocket: bool,
    /// The request as the service gets it; by default as it was sent.
    #[serde(default)]
    pub(super) arrives: Arrives,
    /// The answer's headers.
    #[serde(default)]
    pub(super) comes: Comes,
    /// Where a redirect leads: what is not said is as in the request.
    pub(super) location: Option<Location>,
    /// Services that get the request, too.
    #[serde(default)]
    pub(super) mirrored: Vec<String>,
}

/// What a service does with a request.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Does {
    Status(u16),
    Other(Other),
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Other {
    /// Resets the connection.
    Reset,
    /// Never answers.
    Silent,
    /// Answers after a second and a half.
    Slow,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Statuses {
    One(u16),
    Any(Vec<u16>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Arrives {
    pub(super) path: Option<String>,
    pub(super) host: Option<String>,
    pub(super) headers: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub(super) without: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Comes {
    /// Each with one of these values, white space aside.
    #[serde(default)]
    pub(super) headers: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    pub(super) without: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Location {
    pub(super) scheme: Option<String>,
    pub(super) host: Option<String>,
    pub(super) port: Option<String>,
    pub(super) path: Option<String>,
}

/// All tests.
pub(super) fn all() -> Vec<Test> {
    let files = [
        include_str!("matching.yaml"),
        include_str!("listeners.yaml"),
        include_str!("services.yaml"),
        include_str!("middlewares.yaml"),
        include_str!("kubernetes.yaml"),
    ];
    files.iter().flat_map(|text| serde_saphyr::from_str::<Vec<Test>>(text).unwrap()).collect()
}

impl Statuses {
    pub(super) fn have(&self, status: u16) -> bool {
        match self {
            Self::One(one) => *one == status,
            Self::Any(any) => any.contains(&status),
        }
    }
}

impl Default for Statuses {
    fn default() -> Self {
        Self::One(200)
    }
}

fn get() -> String {
    "GET".to_owned()
}

fn web() -> String {
    "web".to_owned()
}
