//! Reads the static configuration: defaults, then a file, then the environment, resolved into
//! [`Settings`] or told as problems, all at once.
//!
//! The text is parsed into a tree with places (`spec::decode`), figment merges the layers, the merged tree
//! is read into the raw sections (`raw`), and those are resolved (`resolve`, `registry`). The dynamic sections
//! of the same file are documents: the file provider reads them; [`check`] only looks at them.

use std::path::{Path, PathBuf};

use crate::spec::decode::Format;
use crate::spec::decode::parse::parse_bytes;
use crate::spec::decode::reader::{Reading, read};
use crate::spec::decode::scope::Report;
use crate::spec::decode::sections::{STATIC_SECTIONS, unknown_sections};
use crate::spec::decode::tree::{Node, Spot, Value};
use crate::spec::file::{self, MAX_DOCUMENT_BYTES, MAX_SECRET_BYTES};
use crate::spec::name::ProviderId;
use crate::spec::problem::{Problem, sort};
use crate::spec::settings::{EtcdProvider, Settings};

mod check;
mod environment;
mod layers;
mod near;
mod raw;
mod redis;
mod register;
mod registry;
mod resolve;
mod restart;
mod schema;
mod tls;

pub use check::{Finding, check};
pub use restart::{Changes, Running};
pub use schema::schema;

use environment::Environment;
use raw::RawSettings;
use resolve::Surroundings;

/// Where the configuration is looked for when none is named.
pub const DEFAULT_PATHS: [&str; 2] = ["config/fleetgate.toml", "/etc/fleetgate/fleetgate.toml"];

/// Reads the settings from the file named, else from the first default path there is, else from the
/// environment alone. No registry is contacted; files that hold secrets are read.
///
/// # Errors
/// Everything that is wrong, sorted by place.
pub fn load(
    path: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Settings, Vec<Problem>> {
    prepare(path, environment).map(|start| start.settings)
}

/// What a gateway starts with.
#[derive(Debug)]
pub struct Start {
    /// The settings.
    pub settings: Settings,
    /// What is ignored, or will be missing: nothing that keeps it from starting.
    pub warnings: Vec<Problem>,
    /// What the main file is compared with while the gateway runs; `None` without one.
    pub running: Option<Running>,
}

/// As [`load`], with what else a start needs.
///
/// # Errors
/// As [`load`].
pub fn prepare(
    path: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Start, Vec<Problem>> {
    let Loaded { resolved, problems, warnings, main, path, environment } = Loaded::new(path, environment);
    match resolved {
        Some(Resolved { settings, merged, .. }) if problems.is_empty() => {
            let main = main.zip(path).map(|((origin, _), path)| (origin, path));
            let running =
                main.map(|(origin, path)| Running { path, origin, environment, merged, settings: settings.clone() });
            Ok(Start { settings, warnings, running })
        }
        _ => Err(problems),
    }
}

/// Reads `[discovery.etcd]` alone: of the file named, if any, and of the environment. What else is wrong does not
/// matter.
///
/// # Errors
/// Everything that is wrong with it, sorted by place.
pub fn load_etcd(
    path: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<EtcdProvider, Vec<Problem>> {
    const SECTION: &str = "discovery.etcd";
    let mut variables: Vec<_> = environment.into_iter().collect();
    if path.is_none() && !variables.iter().any(|(name, _)| name.starts_with("FLEETGATE_DISCOVERY__ETCD")) {
        // On, with every default.
        variables.push(("FLEETGATE_DISCOVERY__ETCD".to_owned(), "{}".to_owned()));
    }
    let Loaded { resolved, mut problems, main, .. } = Loaded::of(path.map(PathBuf::from), variables);
    problems.retain(|problem| problem.key.is_empty() || problem.key.starts_with(SECTION));
    match resolved.and_then(|resolved| resolved.settings.discovery.etcd) {
        Some(etcd) if problems.is_empty() => Ok(etcd),
        None if problems.is_empty() => {
            let place = main.map(|(origin, _)| origin).unwrap_or_default();
            Err(vec![Problem::new(place, SECTION, "there is no such section, and no variable sets a key of it")])
        }
        _ => Err(problems),
    }
}

/// What became of the static configuration.
struct Loaded {
    /// `None` when the file could not be parsed.
    resolved: Option<Resolved>,
    /// Sorted.
    problems: Vec<Problem>,
    /// What is ignored, or will be missing.
    warnings: Vec<Problem>,
    /// The main file: its name as it was given, and its tree.
    main: Option<(String, Node)>,
    path: Option<PathBuf>,
    environment: Environment,
}

/// What the merged layers say.
struct Resolved {
    /// Valid without problems only.
    settings: Settings,
    /// The providers that are on.
    on: Vec<ProviderId>,
    /// The tree they were read from.
    merged: Node,
}

impl Loaded {
    fn new(path: Option<&Path>, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        Self::of(path.map(PathBuf::from).or_else(default_path), variables)
    }

    /// Of this file, or of the environment alone.
    fn of(path: Option<PathBuf>, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let environment = Environment::new(variables);
        let origin = path.as_ref().map(|path| path.display().to_string());
        let (root, mut problems) = match &path {
            None => (nothing(), Vec::new()),
            Some(path) => match parse_file(path, origin.as_deref().unwrap_or_default()) {
                Ok(root) => (root, Vec::new()),
                Err(mut problems) => {
                    problems.extend_from_slice(environment.problems());
                    sort(&mut problems);
                    let warnings = environment.ignored().to_vec();
                    return Self {
                        resolved: None,
                        problems,
                        warnings,
                        main: None,
                        path: Some(path.clone()),
                        environment,
                    };
                }
            },
        };
        let main_origin = origin.as_deref().unwrap_or_default();
        problems.extend(unknown_sections(&root, main_origin, true));
        problems.extend_from_slice(environment.problems());
        problems.extend(environment.misnamed(&static_sections(&root)));
        let resolved = resolve_merged(&root, main_origin, path.as_deref(), &environment, &mut problems);
        sort(&mut problems);
        let mut warnings = environment.ignored().to_vec();
        warnings
            .extend(resolved.iter().filter_map(|resolved| no_token(&resolved.settings, &resolved.merged, main_origin)));
        if origin.is_none() {
            // What is missing may stand in a file that is not where it is looked for.
            for problem in problems.iter_mut().filter(|problem| problem.place == "env:FLEETGATE_*") {
                let looked = DEFAULT_PATHS.join(" or ");
                problem.text = format!(
                    "{} (no configuration file: there is none at {looked}, and no --config names one)",
                    problem.text
                );
            }
        }
        let main = origin.map(|origin| (origin, root));
        Self { resolved, problems, warnings, main, path, environment }
    }
}

fn resolve_merged(
    root: &Node,
    origin: &str,
    path: Option<&Path>,
    environment: &Environment,
    problems: &mut Vec<Problem>,
) -> Option<Resolved> {
    let working_directory = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let file = path.map(|path| working_directory.join(path));
    let merged = match layers::merge(&static_sections(root), environment) {
        Ok(merged) => merged,
        Err(error) => {
            problems.push(Problem::new(origin, "", error));
            return None;
        }
    };
    let Reading { raw, broken, mistakes } = read::<RawSettings>(&merged, "");
    let mistakes = mistakes.into_iter();
    problems.extend(mistakes.map(|mistake| Problem::new(mistake.spot.in_origin(origin), mistake.key, mistake.text)));
    let report = Report::new(origin, &broken);
    let surroundings = Surroundings { environment, file: file.as_deref(), working_directory: &working_directory };
    let settings = resolve::resolve(raw.unwrap_or_default(), &report.root(&merged, ""), &surroundings);
    problems.extend(report.into_parts().0);
    // On by being there, even where it is wrong.
    let discovery = merged.get("discovery");
    let mut on = vec![ProviderId::File];
    if discovery.is_some_and(|discovery| discovery.get("etcd").is_some()) {
        on.push(ProviderId::Etcd);
    }
    if discovery.is_some_and(|discovery| discovery.get("consul").is_some()) {
        on.extend([ProviderId::Consul, ProviderId::ConsulKv]);
    }
    if settings.discovery.consul.as_ref().is_some_and(|consul| consul.tags.is_some()) {
        on.push(ProviderId::ConsulTags);
    }
    Some(Resolved { settings, on, merged })
}

/// What keeps the token of Consul from being read now. The gateway starts all the same, since what writes the file may
/// come later, and reads it again and again.
fn no_token(settings: &Settings, merged: &Node, origin: &str) -> Option<Problem> {
    let file = settings.discovery.consul.as_ref()?.token_file.as_ref()?;
    let text = match file::read_text(file, MAX_SECRET_BYTES) {
        Ok(text) => token_problem(&text)?.to_owned(),
        Err(error) => format!("cannot be read: {error}"),
    };
    let written = merged.get("discovery").and_then(|node| node.get("consul")?.get("token_file"));
    let place = written.map_or_else(|| "env:CONSUL_HTTP_TOKEN_FILE".to_owned(), |node| node.spot.in_origin(origin));
    let text = format!("`{}`: {text}; Consul is asked without a token until that is mended", file.display());
    Some(Problem::new(place, "discovery.consul.token_file", text))
}

/// Why the text of a file is no token.
fn token_problem(text: &str) -> Option<&'static str> {
    let text = text.trim();
    if text.is_empty() {
        Some("is empty")
    } else if text.lines().count() > 1 {
        Some("holds several lines: a token is one")
    } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Some("holds characters that no token has")
    } else {
        None
    }
}

/// The first default path that is there.
fn default_path() -> Option<PathBuf> {
    DEFAULT_PATHS.map(PathBuf::from).into_iter().find(|path| path.exists())
}

/// No file: what is missing is missing in the environment.
fn nothing() -> Node {
    Node { spot: Spot::Variable("FLEETGATE_*".into()), value: Value::Table(Vec::new()) }
}

/// The static sections of the file; a section without anything in it is none.
fn static_sections(root: &Node) -> Node {
    let known = |key: &str| STATIC_SECTIONS.contains(&key);
    let entries = root.entries().iter().filter(|entry| known(&entry.key) && entry.node.value != Value::Null);
    Node { spot: root.spot.clone(), value: Value::Table(entries.cloned().collect()) }
}

/// Reads and parses a file; its format is told by its extension.
fn parse_file(path: &Path, origin: &str) -> Result<Node, Vec<Problem>> {
    let whole = |text: String| vec![Problem::new(origin, "", text)];
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let Some(format) = Format::of_extension(extension) else {
        return Err(whole("the name must end in .toml, .yaml, .yml or .json, which tells the format".to_owned()));
    };
    let bytes = file::read(path, MAX_DOCUMENT_BYTES).map_err(|error| whole(format!("cannot be read: {error}")))?;
    parse_bytes(&bytes, Some(format)).map_err(|errors| {
        let problem =
            |error: crate::spec::decode::parse::SyntaxError| Problem::new(error.spot.in_origin(origin), "", error.text);
        errors.into_iter().map(problem).collect()
    })
}
