//! Defines `check`: everything that can be known to be wrong without asking a registry.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::spec::certificate::CertificateSpec;
use crate::spec::decode::Attached;
use crate::spec::decode::item::DecodeItem;
use crate::spec::decode::reader::unknown_key;
use crate::spec::decode::scope::{Reference, Referent};
use crate::spec::decode::sections::{SectionItem, Sections, decode_sections};
use crate::spec::decode::tree::Node;
use crate::spec::document::Kind;
use crate::spec::encode;
use crate::spec::file::{self, MAX_ATTACHMENT_BYTES};
use crate::spec::middleware::MiddlewareSpec;
use crate::spec::middleware::limit::{ALONE, Scope};
use crate::spec::name::{ItemRef, Name, ProviderId};
use crate::spec::problem::{Problem, sort};
use crate::spec::route::{Choice, RouteSpec, TargetSpec};
use crate::spec::settings::{FileProvider, Settings};

use super::{Loaded, Resolved, parse_file};

/// Something to mend, or to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The configuration is invalid.
    Error(Problem),
    /// It may be fine: a registry decides.
    Warning(Problem),
}

impl Finding {
    /// Where and what.
    pub fn problem(&self) -> &Problem {
        match self {
            Self::Error(problem) | Self::Warning(problem) => problem,
        }
    }
}

impl std::fmt::Display for Finding {
    /// `file:line:column: key: problem`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Error(problem) => problem.fmt(f),
            Self::Warning(problem) => Problem { text: format!("warning: {}", problem.text), ..problem.clone() }.fmt(f),
        }
    }
}

/// Checks the whole configuration: the static sections, the documents of the main file and of the files it
/// names, and the names they refer to. Sorted by place.
pub fn check(path: Option<&Path>, environment: impl IntoIterator<Item = (String, String)>) -> Vec<Finding> {
    let Loaded { resolved, problems: mut errors, mut warnings, main, .. } = Loaded::new(path, environment);
    if let Some(Resolved { settings, on, .. }) = resolved {
        let mut known = Known::new(&settings, on);
        if let Some((origin, root)) = &main {
            known.listeners.extend(root.get("listeners").map(names).unwrap_or_default());
            known.add(root, origin, true, &mut errors, &mut warnings);
        }
        for path in matching_files(&settings.discovery.file, &mut errors, &mut warnings) {
            let origin = shown(&path);
            match parse_file(&path, &origin) {
                Ok(root) => known.add(&root, &origin, false, &mut errors, &mut warnings),
                Err(problems) => errors.extend(problems),
            }
        }
        known.miss_certificates(&settings, main.as_ref(), &mut errors);
        known.refer_from_listeners(&settings, main.as_ref());
        known.doubt_routes(&mut warnings);
        known.doubt_fleet(&settings, &mut warnings);
        for reference in std::mem::take(&mut known.references) {
            known.follow(reference, &mut errors, &mut warnings);
        }
    }
    let mut all: Vec<Problem> = errors.iter().chain(&warnings).cloned().collect();
    sort(&mut all);
    let warnings: BTreeSet<Problem> = warnings.into_iter().collect();
    let finding =
        |problem| if warnings.contains(&problem) { Finding::Warning(problem) } else { Finding::Error(problem) };
    all.into_iter().map(finding).collect()
}

/// All files the patterns name, in the order that decides between equal names; and folders that cannot be looked into, or
/// are not there.
fn matching_files(provider: &FileProvider, errors: &mut Vec<Problem>, warnings: &mut Vec<Problem>) -> Vec<PathBuf> {
    let mut files = BTreeSet::new();
    for listing in provider.patterns.iter().filter_map(|pattern| file::list(pattern).ok()) {
        for (folder, reason) in listing.unreadable {
            errors.push(Problem::new(shown(&folder), "", format!("cannot be read: {reason}")));
        }
        if let Some((path, what)) = listing.missing {
            warnings.push(Problem::new(shown(&path), "discovery.file.paths", what));
        }
        files.extend(listing.paths.into_iter().filter(|path| provider.main.as_ref() != Some(path)));
    }
    files.into_iter().collect()
}

/// A path as a person would write it here.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}

/// The names that files define, and those they refer to.
struct Known {
    /// The providers that are on.
    on: Vec<ProviderId>,
    /// Those of documents, the winner first.
    precedence: Vec<ProviderId>,
    listeners: BTreeSet<String>,
    routes: BTreeMap<Name, String>,
    middlewares: BTreeMap<Name, String>,
    certificates: BTreeMap<Name, String>,
    consumers: BTreeMap<Name, String>,
    /// Upstreams by name, with where they are and their subsets' names, right or wrong.
    upstreams: BTreeMap<Name, (String, BTreeSet<String>)>,
    references: Vec<Reference>,
    /// Routes that can be read, with where they are.
    sound_routes: Vec<(Name, String, RouteSpec)>,
    /// Limits that all gateways are to keep together, with where they are.
    fleet_limits: Vec<(Name, String)>,
}

/// Takes an item's name, which nobody may have before it.
fn add_item<T: DecodeItem>(
    item: SectionItem<T>,
    known: &mut BTreeMap<Name, String>,
    references: &mut Vec<Reference>,
    errors: &mut Vec<Problem>,
) {
    let SectionItem { name, place, decoded } = item;
    take(decoded.item, decoded.references, errors, references);
    match known.get(&name) {
        Some(other) => errors.push(twice(T::KIND, &name, &place, other)),
        None => drop(known.insert(name, place)),
    }
}

impl Known {
    fn new(settings: &Settings, on: Vec<ProviderId>) -> Self {
        Self {
            on,
            precedence: settings.discovery.precedence.clone(),
            listeners: settings.listeners.keys().map(Name::to_string).collect(),
            routes: BTreeMap::new(),
            middlewares: BTreeMap::new(),
            certificates: BTreeMap::new(),
            consumers: BTreeMap::new(),
            upstreams: BTreeMap::new(),
            references: Vec::new(),
            sound_routes: Vec::new(),
            fleet_limits: Vec::new(),
        }
    }

    fn add(&mut self, root: &Node, origin: &str, main: bool, errors: &mut Vec<Problem>, warnings: &mut Vec<Problem>) {
        let read = |path: &Path| file::read(path, MAX_ATTACHMENT_BYTES).map_err(|error| error.to_string());
        let attached = Attached::new(Path::new(origin), &read);
        let Sections { routes, upstreams, middlewares, certificates, consumers, rejected } =
            decode_sections(root, origin, main, attached);
        // Those of the main file's top level are told by reading its static sections.
        errors.extend(rejected.into_iter().filter(|problem| !errors.contains(problem)).collect::<Vec<_>>());
        for item in routes {
            if let Ok(route) = &item.decoded.item
                && !self.routes.contains_key(&item.name)
            {
                self.sound_routes.push((item.name.clone(), item.place.clone(), route.clone()));
            }
            add_item(item, &mut self.routes, &mut self.references, errors);
        }
        for item in upstreams {
            let SectionItem { name, place, decoded } = item;
            take(decoded.item, decoded.references, errors, &mut self.references);
            if let Some((other, _)) = self.upstreams.get(&name) {
                errors.push(twice(Kind::Upstream, &name, &place, other));
            } else {
                let node = root.get(Kind::Upstream.as_str()).and_then(|node| node.get(name.as_str()));
                let subsets = node.and_then(|node| node.get("subsets")).map(names).unwrap_or_default();
                self.upstreams.insert(name, (place, subsets));
            }
        }
        for item in middlewares {
            if let Ok(MiddlewareSpec::RateLimit(limit)) = &item.decoded.item
                && limit.scope != Scope::Gateway
            {
                self.fleet_limits.push((item.name.clone(), item.place.clone()));
            }
            add_item(item, &mut self.middlewares, &mut self.references, errors);
        }
        for item in consumers {
            add_item(item, &mut self.consumers, &mut self.references, errors);
        }
        for item in certificates {
            self.add_certificate(item, errors, warnings);
        }
    }

    fn add_certificate(
        &mut self,
        item: SectionItem<CertificateSpec>,
        errors: &mut Vec<Problem>,
        warnings: &mut Vec<Problem>,
    ) {
        let SectionItem { name, place, decoded } = item;
        if let Ok(certificate) = &decoded.item
            && let Some(text) = certificate.pair.untimely(SystemTime::now())
        {
            warnings.push(Problem::new(place.as_str(), format!("{}.{name}", Kind::Certificate.as_str()), text));
        }
        take(decoded.item, decoded.references, errors, &mut self.references);
        if let Some(other) = self.certificates.get(&name) {
            errors.push(twice(Kind::Certificate, &name, &place, other));
        } else {
            self.certificates.insert(name, place);
        }
    }

    /// A listener that speaks TLS has nothing to show where no file has a certificate and no registry is asked.
    fn miss_certificates(&self, settings: &Settings, main: Option<&(String, Node)>, errors: &mut Vec<Problem>) {
        if !self.certificates.is_empty() || !self.registries(&self.precedence).is_empty() {
            return;
        }
        for (name, _) in settings.listeners.iter().filter(|(_, listener)| listener.tls.is_some()) {
            let place = main.and_then(|(origin, root)| {
                let node = root.get("listeners")?.get(name.as_str())?.get("tls")?;
                Some(node.spot.in_origin(origin))
            });
            let text = "there is no certificate to show: give one, `[certificates.NAME]`";
            errors.push(Problem::new(place.unwrap_or_default(), format!("listeners.{name}.tls"), text));
        }
    }

    /// Routes that get no request, or answer none.
    fn doubt_routes(&self, warnings: &mut Vec<Problem>) {
        let mut known: BTreeMap<String, (&Name, &str)> = BTreeMap::new();
        for (name, place, route) in &self.sound_routes {
            let mut warn = |text: String| warnings.push(Problem::new(place.as_str(), format!("routes.{name}"), text));
            let weight = |target: &TargetSpec| match &target.choice {
                Choice::Weight(weight) => *weight,
                Choice::When(_) => 0,
            };
            let is_conditional = route.targets.iter().any(|target| matches!(target.choice, Choice::When(_)));
            if route.targets.iter().all(|target| weight(target) == 0) {
                warn(match is_conditional {
                    true => "no target has a weight: requests that meet no condition get 503".to_owned(),
                    false => "no target has a weight: every request gets 503".to_owned(),
                });
            }
            match known.get(&taken_by(route)) {
                Some((other, there)) => warn(format!(
                    "matches the same as route `{other}` at {there}, and only one of them gets requests: change the match \
                     or the `priority` of one"
                )),
                None => drop(known.insert(taken_by(route), (name, place))),
            }
        }
    }

    /// Limits that gateways can't keep together, knowing nothing of each other.
    fn doubt_fleet(&self, settings: &Settings, warnings: &mut Vec<Problem>) {
        let discovery = &settings.discovery;
        let registers = discovery.consul.as_ref().is_some_and(|consul| consul.register.is_some())
            || discovery.etcd.as_ref().is_some_and(|etcd| etcd.register.is_some());
        if settings.redis.is_some() || registers {
            return;
        }
        for (name, place) in &self.fleet_limits {
            warnings.push(Problem::new(place.as_str(), format!("middlewares.{name}.rate_limit.scope"), ALONE));
        }
    }

    /// The middlewares that listeners name.
    fn refer_from_listeners(&mut self, settings: &Settings, main: Option<&(String, Node)>) {
        for (name, listener) in &settings.listeners {
            let list = main.and_then(|(origin, root)| {
                let list = root.get("listeners")?.get(name.as_str())?.get("middlewares")?;
                Some((origin, list.elements()))
            });
            for (index, middleware) in listener.middlewares.iter().enumerate() {
                let place = list.and_then(|(origin, list)| Some(list.get(index)?.spot.in_origin(origin)));
                self.references.push(Reference {
                    to: Referent::Middleware(middleware.clone()),
                    place: place.unwrap_or_default(),
                    key: format!("listeners.{name}.middlewares[{index}]"),
                });
            }
        }
    }

    /// The providers among these that are on, files aside.
    fn registries(&self, among: &[ProviderId]) -> Vec<String> {
        let registries = among.iter().filter(|id| **id != ProviderId::File && self.on.contains(id));
        registries.map(|id| format!("`{id}`")).collect()
    }

    fn follow(&self, reference: Reference, errors: &mut Vec<Problem>, warnings: &mut Vec<Problem>) {
        let Reference { to, place, key } = reference;
        let mut report = |told: Result<Option<String>, String>| match told {
            Ok(None) => {}
            Ok(Some(text)) => warnings.push(Problem::new(place.as_str(), key.as_str(), text)),
            Err(text) => errors.push(Problem::new(place.as_str(), key.as_str(), text)),
        };
        match to {
            Referent::Listener(name) => {
                if !self.listeners.contains(name.as_str()) {
                    report(Err(absent("listener", name.as_str(), self.listeners.iter().map(String::as_str))));
                }
            }
            Referent::Provider(id) => {
                if !self.on.contains(&id) {
                    report(Err(format!("there is no `[discovery.{id}]` to learn its endpoints from")));
                }
            }
            Referent::Upstream(upstream) => {
                let names = self.upstreams.keys().map(Name::as_str);
                let found = self.find(&upstream, self.upstreams.get(&upstream.name));
                report(found.told("upstream", &upstream.name, names));
            }
            Referent::Middleware(middleware) => {
                let (here, names) = (self.middlewares.get(&middleware.name), self.middlewares.keys().map(Name::as_str));
                report(self.find(&middleware, here).told("middleware", &middleware.name, names));
            }
            Referent::Subset(upstream, subset) => {
                if let Found::Here((_, subsets)) = self.find(&upstream, self.upstreams.get(&upstream.name))
                    && !subsets.contains(subset.as_str())
                {
                    let what = format!("subset of `{}` named", upstream.name);
                    report(Err(absent(&what, subset.as_str(), subsets.iter().map(String::as_str))));
                }
            }
        }
    }

    /// Where an item is that files define as `here`.
    fn find<'a, T>(&self, item: &ItemRef, here: Option<&'a T>) -> Found<'a, T> {
        match (item.provider, here) {
            (Some(ProviderId::File), here) => here.map_or(Found::Nowhere, Found::Here),
            (Some(id), _) if self.precedence.contains(&id) && self.on.contains(&id) => {
                Found::Elsewhere(format!("`{id}`"))
            }
            (Some(id), _) => Found::NoProvider(id),
            (None, Some(here)) => {
                let files = self.precedence.iter().position(|id| *id == ProviderId::File).unwrap_or_default();
                // What goes before files may define another one.
                match self.registries(self.precedence.get(..files).unwrap_or_default()) {
                    before if before.is_empty() => Found::Here(here),
                    _ => Found::Replaceable,
                }
            }
            (None, None) => match self.registries(&self.precedence) {
                on if on.is_empty() => Found::Nowhere,
                on => Found::Elsewhere(on.join(" or ")),
            },
        }
    }
}

/// Where an item is.
enum Found<'a, T> {
    /// In a file.
    Here(&'a T),
    /// In a file, but a registry may define another one that wins.
    Replaceable,
    /// Perhaps in one of these registries.
    Elsewhere(String),
    /// Nowhere.
    Nowhere,
    /// In a provider that is off or has no documents.
    NoProvider(ProviderId),
}

impl<T> Found<'_, T> {
    /// What there is to say of one that must be there: nothing, or a warning.
    ///
    /// # Errors
    /// It is not there.
    fn told<'n>(self, what: &str, name: &Name, known: impl Iterator<Item = &'n str>) -> Result<Option<String>, String> {
        match self {
            Self::Here(_) | Self::Replaceable => Ok(None),
            Self::Elsewhere(ids) => Ok(Some(format!("no file defines the {what} `{name}`; {ids} may"))),
            Self::Nowhere => Err(absent(what, name.as_str(), known)),
            Self::NoProvider(id) => Err(format!("`{id}` is off, or provides no documents")),
        }
    }
}

/// What routes have in common of which only one gets requests.
fn taken_by(route: &RouteSpec) -> String {
    let mut matching = encode::matching(&route.matching);
    for key in ["hosts", "methods"] {
        if let Some(list) = matching.get_mut(key).and_then(|list| list.as_array_mut()) {
            list.sort_by_key(ToString::to_string);
        }
    }
    let listeners: BTreeSet<&Name> = route.listeners.iter().collect();
    format!("{} {listeners:?} {matching}", route.priority)
}

fn names(node: &Node) -> BTreeSet<String> {
    node.entries().iter().map(|entry| entry.key.clone()).collect()
}

fn take<T>(
    item: Result<T, Vec<Problem>>,
    references: Vec<Reference>,
    errors: &mut Vec<Problem>,
    known: &mut Vec<Reference>,
) {
    errors.extend(item.err().into_iter().flatten());
    known.extend(references);
}

fn twice(kind: Kind, name: &Name, place: &str, other: &str) -> Problem {
    Problem::new(
        place,
        format!("{}.{name}", kind.as_str()),
        format!("is defined at {other} already: remove one of them"),
    )
}

fn absent<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.collect();
    let hint = unknown_key(name, &known);
    match hint.split_once("; ") {
        Some((_, hint)) if !known.is_empty() => format!("there is no {what} `{name}`; {hint}"),
        _ => format!("there is no {what} `{name}`"),
    }
}
