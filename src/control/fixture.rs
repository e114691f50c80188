//! Defines what the tests of this folder are told in: providers' states, written as text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use crate::discovery::state::{Origin, ProviderState, SourceState};
use crate::snapshot::{DiagnosticKind, RouteState, Snapshot};
use crate::spec::decode::{FileSet, FileText, Format};
use crate::spec::endpoint::{EndpointSpec, Labels, RegistryStatus};
use crate::spec::name::ProviderId;
use crate::spec::problem::Problem;
use crate::spec::settings::FileProvider;
use crate::spec::source::{ConsulService, Source};

use super::merge::{Merged, Rules, merge};
use super::overlay::Overlay;
use super::resolution::Forms;

/// All providers' states, and the rules.
pub(super) struct World {
    documents: BTreeMap<ProviderId, FileSet>,
    pub(super) states: BTreeMap<ProviderId, Arc<ProviderState>>,
    pub(super) rules: Rules,
    pub(super) overlay: Arc<Overlay>,
}

impl World {
    /// Consul (without tags) and etcd are on; nothing was read.
    pub(super) fn new() -> Self {
        let precedence = vec![ProviderId::File, ProviderId::Etcd, ProviderId::ConsulKv];
        let listener_names = ["web", "inside"].map(|name| name.parse().expect("a name")).into();
        let (etcd_prefix, listeners) = (Some("/fleetgate/".to_owned()), BTreeMap::new());
        let rules =
            Rules { precedence, etcd_prefix, consul: true, listeners, listener_names, files: FileProvider::default() };
        let on = ProviderId::ALL.into_iter().filter(|id| *id != ProviderId::ConsulTags);
        let states = on.map(|id| (id, Arc::default())).collect();
        Self { documents: BTreeMap::new(), states, rules, overlay: Arc::default() }
    }

    /// A provider's documents, in the form of one TOML file.
    pub(super) fn documents(&mut self, provider: ProviderId, text: &str) {
        let file = FileText {
            path: provider.to_string(),
            format: Format::Toml,
            main: false,
            bytes: Ok(text.into()),
            writing: None,
        };
        let set = self.documents.entry(provider).or_default();
        let (documents, forms) = (set.update(vec![file]), set.forms());
        let state = self.state(provider);
        (state.documents, state.forms) = (Some(Arc::new(documents)), Arc::new(forms));
    }

    /// Every provider of documents that has none yet is read, and empty.
    pub(super) fn read_the_rest(&mut self) {
        for provider in [ProviderId::File, ProviderId::Etcd, ProviderId::ConsulKv] {
            self.state(provider).documents.get_or_insert_default();
        }
    }

    /// What a source's registry says, an endpoint a line; see [`endpoint`].
    pub(super) fn source(&mut self, source: &Source, lines: &str) {
        self.source_of(source, lines, Origin::Live, &[]);
    }

    pub(super) fn source_of(&mut self, source: &Source, lines: &str, origin: Origin, problems: &[&str]) {
        self.source_keeping(source, lines, &[], origin, problems);
    }

    /// As [`Self::source_of`], with addresses that only its watch keeps.
    pub(super) fn source_keeping(
        &mut self,
        source: &Source,
        lines: &str,
        unlisted: &[&str],
        origin: Origin,
        problems: &[&str],
    ) {
        let lines = lines.lines().map(str::trim).filter(|line| !line.is_empty());
        let mut endpoints: Vec<EndpointSpec> = lines.map(endpoint).collect();
        endpoints.sort_by(|a, b| (&a.address, &a.id).cmp(&(&b.address, &b.id)));
        let unlisted = unlisted.iter().map(|address| address.parse().expect("an address")).collect();
        let (endpoints, unlisted) = (endpoints.into(), Arc::new(unlisted));
        let problems = problems.iter().map(|text| Problem::new(source.to_string(), "", *text)).collect();
        self.state(source.provider())
            .sources
            .insert(source.clone(), SourceState { endpoints, unlisted, problems, origin });
    }

    /// A source is not known any more.
    pub(super) fn forget(&mut self, source: &Source) {
        self.state(source.provider()).sources.remove(source);
    }

    fn state(&mut self, provider: ProviderId) -> &mut ProviderState {
        Arc::make_mut(self.states.entry(provider).or_default())
    }

    pub(super) fn merge(&self) -> Merged {
        self.merge_with(&mut Forms::default())
    }

    /// With what is remembered of items.
    pub(super) fn merge_with(&self, forms: &mut Forms) -> Merged {
        merge(&self.states, &self.rules, &self.overlay, forms)
    }
}

pub(super) fn consul(service: &str) -> Source {
    Source::Consul(ConsulService::named(service))
}

pub(super) fn dns(host: &str) -> Source {
    Source::Dns { host: host.into() }
}

/// Reads `10.0.0.1:80 id=web-1 weight=3 modified=7 critical version=v1`: an address, then words in any order;
/// what is not known is a label. Without `id=` the address is the id.
fn endpoint(line: &str) -> EndpointSpec {
    let mut words = line.split_whitespace();
    let address = words.next().expect("an address");
    let mut labels = Labels::new();
    let mut spec = EndpointSpec {
        address: address.parse().expect("an address"),
        weight: 1,
        labels: Arc::default(),
        status: RegistryStatus::Passing,
        id: address.into(),
        modified: 0,
        created: 0,
    };
    for word in words {
        match word.split_once('=') {
            Some(("id", id)) => spec.id = id.into(),
            Some(("weight", weight)) => spec.weight = weight.parse().expect("a weight"),
            Some(("modified", modified)) => spec.modified = modified.parse().expect("a number"),
            Some(("created", created)) => spec.created = created.parse().expect("a number"),
            Some((key, value)) => drop(labels.insert(key.to_owned(), value.to_owned())),
            None => {
                spec.status = match word {
                    "unchecked" => RegistryStatus::Unchecked,
                    "warning" => RegistryStatus::Warning,
                    "critical" => RegistryStatus::Critical,
                    "maintenance" => RegistryStatus::Maintenance,
                    _ => panic!("`{word}` is no status"),
                }
            }
        }
    }
    spec.labels = Arc::new(labels);
    spec
}

/// What a snapshot says, a line an item, without slots: two that serve alike read alike.
pub(super) fn told(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    let mut upstreams: Vec<_> = snapshot.upstreams().collect();
    upstreams.sort_by(|a, b| a.label.cmp(&b.label));
    for upstream in upstreams {
        let known = if upstream.known { "known" } else { "unknown" };
        let checked = if upstream.checked() { " checked" } else { "" };
        let timeout = upstream.settings.response_timeout;
        writeln!(text, "upstream {} of {} {known}{checked} {timeout:?}", upstream.label, upstream.provider)
            .expect("text");
        for endpoint in upstream.endpoints.iter() {
            let held = if endpoint.held { " held" } else { "" };
            let drained = if endpoint.drained { " drained" } else { "" };
            let (weight, labels) = (endpoint.weight, &endpoint.labels);
            writeln!(text, "  {} weight {weight} {labels:?} {:?}{held}{drained}", endpoint.address, endpoint.status)
                .expect("text");
        }
    }
    for route in snapshot.routes.routes() {
        let targets: Vec<String> = route
            .targets
            .iter()
            .map(|target| {
                let upstream = snapshot.upstream(target.slot).map_or("nothing", |upstream| &*upstream.label);
                let subset = match target.subset {
                    0 => "all".to_owned(),
                    position => snapshot
                        .upstream(target.slot)
                        .and_then(|upstream| upstream.settings.subsets.keys().nth(position - 1))
                        .map_or_else(|| "no subset".to_owned(), ToString::to_string),
                };
                format!("{}={upstream}/{subset}", target.label)
            })
            .collect();
        let state = match &route.state {
            RouteState::Resolved => "resolved".to_owned(),
            RouteState::Kept(reasons) => format!("kept: {}", reasons.join("; ")),
            RouteState::Unresolved(reasons) => format!("unresolved: {}", reasons.join("; ")),
        };
        writeln!(text, "route {} of {} to {}: {state}", route.name, route.provider, targets.join(", ")).expect("text");
    }
    text + &told_report(&snapshot.report)
}

/// What a report says, a line an item.
pub(super) fn told_report(report: &crate::snapshot::Report) -> String {
    let mut text = String::new();
    for hidden in &report.shadowed {
        let (kind, name, provider, by) = (hidden.kind, &hidden.name, hidden.provider, hidden.by);
        writeln!(text, "shadowed {kind}.{name} of {provider} by {by}").expect("text");
    }
    for one in &report.rejected {
        writeln!(text, "rejected by {}: {}", one.provider, one.line()).expect("text");
    }
    for one in report.diagnostics.iter().filter(|one| one.kind != DiagnosticKind::Shadowed) {
        writeln!(text, "{} of {}: {}", one.kind.as_str(), one.provider, one.line()).expect("text");
    }
    for remark in &report.remarks {
        writeln!(text, "remark {remark}").expect("text");
    }
    for provider in &report.unread {
        writeln!(text, "unread {provider}").expect("text");
    }
    text
}
