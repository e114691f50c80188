//! Defines a small picture that the tests of the admin API look at.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderName, Method};

use crate::snapshot::{Endpoint, EndpointState, Report, Route, RouteState, RouteTable, Snapshot, Target, Upstream};
use crate::spec::endpoint::{Labels, RegistryStatus};
use crate::spec::matching::{Conditions, HostMatch, MatchSpec, PathMatch, Pattern, ValueMatch};
use crate::spec::name::{Name, ProviderId};
use crate::spec::route::{Choice, RouteSpec, Sticky, TargetSpec};
use crate::spec::settings::{
    Admin, Discovery, FileProvider, Listener, LogDestination, LogFormat, Runtime, Settings, StateDir, Telemetry,
};
use crate::spec::source::{ConsulService, Source};
use crate::spec::upstream::{HealthCheck, Probe, UpstreamSettings};

/// One upstream of two endpoints, a route to it, and a route that leads nowhere.
pub(in crate::admin) struct Picture {
    /// Whether the upstream's source was read.
    pub(in crate::admin) known: bool,
    /// Whether the upstream is checked.
    pub(in crate::admin) checked: bool,
    /// Providers whose documents were not read.
    pub(in crate::admin) unread: Vec<ProviderId>,
}

impl Default for Picture {
    fn default() -> Self {
        Self { known: true, checked: false, unread: Vec::new() }
    }
}

impl Picture {
    pub(in crate::admin) fn snapshot(&self) -> Snapshot {
        let routes = vec![Arc::new(users_route()), Arc::new(broken_route())];
        Snapshot {
            generation: 7,
            published_at: UNIX_EPOCH,
            routes: Arc::new(RouteTable::new(routes)),
            upstreams: Arc::from([Some(Arc::new(self.upstream()))]),
            middlewares: Arc::default(),
            certificates: Arc::default(),
            consumers: Arc::default(),
            report: Arc::new(Report { unread: self.unread.clone(), ..Report::default() }),
        }
    }

    fn upstream(&self) -> Upstream {
        let health_check = HealthCheck {
            probe: Probe::Http { path: "/healthz".to_owned(), host: None },
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            healthy_threshold: 2,
            unhealthy_threshold: 3,
        };
        Upstream {
            name: name("users"),
            label: "users".into(),
            provider: ProviderId::File,
            sources: [Source::Consul(ConsulService::named("users"))].into(),
            settings: Arc::new(UpstreamSettings {
                subsets: [(name("canary"), labels("v2"))].into(),
                health_check: self.checked.then_some(health_check),
                ..UpstreamSettings::default()
            }),
            endpoints: [endpoint(1, "v1"), endpoint(2, "v2")].into(),
            fallback: None,
            affinity: Arc::default(),
            known: self.known,
            state: Arc::default(),
        }
    }
}

/// One listener, everything else at its default.
pub(in crate::admin) fn settings() -> Settings {
    Settings {
        runtime: Runtime {
            workers: 2,
            shutdown_grace: Duration::from_secs(30),
            shutdown_delay: Duration::ZERO,
            ready_timeout: None,
            labels: Labels::new(),
        },
        listeners: [(name("web"), Listener::new(([127, 0, 0, 1], 8080).into()))].into(),
        admin: Admin { address: ([127, 0, 0, 1], 9901).into(), token: None, metrics_public: false },
        discovery: Discovery {
            state_dir: StateDir::Off,
            wipe_hold: Some(Duration::from_secs(600)),
            damping: true,
            precedence: vec![ProviderId::File],
            optional: [].into(),
            file: FileProvider::default(),
            consul: None,
            etcd: None,
        },
        redis: None,
        telemetry: Telemetry {
            access_log: LogDestination::Off,
            audit: LogDestination::Off,
            audit_accepted: false,
            log: "info".to_owned(),
            log_format: LogFormat::Text,
            events: None,
        },
    }
}

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn labels(version: &str) -> Labels {
    [("version".to_owned(), version.to_owned())].into()
}

fn endpoint(last: u8, version: &str) -> Endpoint {
    let address = ([10, 0, 0, last], 8080).into();
    Endpoint {
        address,
        host: None,
        weight: 1,
        labels: Arc::new(labels(version)),
        status: RegistryStatus::Unchecked,
        held: false,
        drained: false,
        prohibited: None,
        penalty: None,
        priority: 0,
        state: Arc::new(EndpointState::new(address)),
    }
}

pub(in crate::admin) fn users_route() -> Route {
    let canary = Conditions {
        headers: vec![(HeaderName::from_static("x-canary"), ValueMatch::Exact("always".to_owned()))],
        ..Conditions::default()
    };
    let matching = MatchSpec {
        hosts: vec![HostMatch::Exact("api.example.com".to_owned()), HostMatch::Wildcard("example.org".to_owned())],
        path: PathMatch::Prefix("/users".to_owned()),
        methods: vec![Method::GET, Method::POST],
        conditions: Conditions {
            headers: vec![(
                HeaderName::from_static("x-tenant"),
                ValueMatch::Regex(Pattern::unanchored("^a", Default::default()).expect("a pattern")),
            )],
            query: vec![("debug".to_owned(), ValueMatch::Present(true))],
            cookies: Vec::new(),
        },
    };
    let targets =
        vec![target("users", Some("canary"), Choice::When(canary)), target("users", None, Choice::Weight(95))];
    let mut route = route("users", ProviderId::File, matching, targets, RouteState::Resolved);
    if let Some(spec) = Arc::get_mut(&mut route.spec) {
        spec.sticky = Some(Sticky::Header(HeaderName::from_static("x-user-id")));
        spec.timeout = Some(Duration::from_secs(60));
    }
    route
}

fn broken_route() -> Route {
    let matching = MatchSpec {
        hosts: Vec::new(),
        path: PathMatch::Prefix(String::new()),
        methods: Vec::new(),
        conditions: Conditions::default(),
    };
    let state = RouteState::Unresolved(vec!["there is no upstream `absent`".to_owned()]);
    route("broken", ProviderId::Etcd, matching, vec![target("absent", None, Choice::Weight(1))], state)
}

fn target(upstream: &str, subset: Option<&str>, choice: Choice) -> TargetSpec {
    TargetSpec {
        upstream: upstream.parse().expect("a reference"),
        subset: subset.map(name),
        choice,
        steps: None,
        middlewares: Vec::new(),
    }
}

fn route(text: &str, provider: ProviderId, matching: MatchSpec, targets: Vec<TargetSpec>, state: RouteState) -> Route {
    let resolved = |spec: &TargetSpec| Target {
        spec: spec.clone(),
        label: spec.label(),
        slot: 0,
        subset: usize::from(spec.subset.is_some()),
        seed: 0,
        middlewares: Vec::new(),
    };
    Route {
        name: name(text),
        label: text.into(),
        provider,
        targets: targets.iter().map(resolved).collect(),
        spec: Arc::new(RouteSpec {
            matching,
            priority: 0,
            listeners: Vec::new(),
            targets,
            sticky: None,
            timeout: None,
            retry: Default::default(),
            middlewares: Vec::new(),
            registered: Default::default(),
        }),
        middlewares: Vec::new(),
        state,
    }
}
