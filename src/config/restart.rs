//! What became of the static sections of the main file since the start: settings that wait for a restart, and mistakes that
//! the next start would stumble over.

use std::path::{Path, PathBuf};

use crate::spec::decode::Format;
use crate::spec::decode::parse::parse_bytes;
use crate::spec::decode::reader::shown_key;
use crate::spec::decode::tree::{Node, Spot, Value};
use crate::spec::problem::{Problem, sort};
use crate::spec::settings::Settings;

use super::environment::Environment;
use super::resolve_merged;

/// The static settings that the gateway runs with.
#[derive(Debug)]
pub struct Running {
    pub(super) path: PathBuf,
    pub(super) origin: String,
    pub(super) environment: Environment,
    /// File and environment, merged.
    pub(super) merged: Node,
    pub(super) settings: Settings,
}

/// What the main file says now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Settings that are others than those of the start. What the environment sets is not among them.
    pub pending: Vec<Problem>,
    /// What would keep the gateway from starting.
    pub invalid: Vec<Problem>,
}

impl Running {
    /// Compares the text that the main file has now. One that cannot be parsed says nothing: that is told of it as a whole.
    pub fn compare(&self, bytes: &[u8]) -> Changes {
        let format = self.path.extension().and_then(|extension| Format::of_extension(extension.to_str()?));
        let Ok(root) = parse_bytes(bytes, format) else { return Changes::default() };
        let mut invalid = Vec::new();
        let resolved = resolve_merged(&root, &self.origin, Some(&self.path), &self.environment, &mut invalid);
        for problem in &mut invalid {
            problem.text = format!("the gateway would not start: {}", problem.text);
        }
        let mut pending = Vec::new();
        if let Some(resolved) = resolved
            && (resolved.settings != self.settings || !invalid.is_empty())
        {
            let mut differ = |path: &str, spot: Option<&Spot>| {
                let place = spot.map_or_else(|| self.origin.clone(), |spot| spot.in_origin(&self.origin));
                pending.push(Problem::new(place, path, "takes effect at the next start"));
            };
            compare(Some(&self.merged), Some(&resolved.merged), "", &mut differ);
        }
        sort(&mut pending);
        sort(&mut invalid);
        Changes { pending, invalid }
    }

    /// The main file, as it was named.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Tells the keys at which two trees differ, wherever they stand in their texts.
fn compare(before: Option<&Node>, now: Option<&Node>, path: &str, differ: &mut dyn FnMut(&str, Option<&Spot>)) {
    let is_table = |node: Option<&Node>| node.is_none_or(|node| matches!(node.value, Value::Table(_)));
    let entries = |node: Option<&Node>| node.is_some_and(|node| !node.entries().is_empty());
    if !is_table(before) || !is_table(now) || !(entries(before) || entries(now)) {
        let same = match (before, now) {
            (Some(before), Some(now)) => is_same(before, now),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !same {
            differ(path, now.map(|node| &node.spot));
        }
        return;
    }
    let below =
        |key: &str| if path.is_empty() { shown_key(key).into_owned() } else { format!("{path}.{}", shown_key(key)) };
    for entry in before.into_iter().flat_map(Node::entries) {
        compare(Some(&entry.node), now.and_then(|now| now.get(&entry.key)), &below(&entry.key), differ);
    }
    for entry in now.into_iter().flat_map(Node::entries) {
        if before.is_none_or(|before| before.get(&entry.key).is_none()) {
            compare(None, Some(&entry.node), &below(&entry.key), differ);
        }
    }
}

/// Whether two values are the same, whatever lines they stand in.
fn is_same(one: &Node, other: &Node) -> bool {
    match (&one.value, &other.value) {
        (Value::Table(one), Value::Table(other)) => {
            let is_in =
                |key: &str, node: &Node| other.iter().any(|entry| entry.key == key && is_same(node, &entry.node));
            one.len() == other.len() && one.iter().all(|entry| is_in(&entry.key, &entry.node))
        }
        (Value::List(one), Value::List(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same(one, other))
        }
        (one, other) => one == other,
    }
}

#[cfg(test)]
mod tests {
    use crate::config::prepare;

    const START: &str =
        "[listeners.web]\naddress = \"127.0.0.1:0\"\nmax_body_size = \"1KiB\"\n[admin]\ntoken = \"secret-1\"\n";

    fn changes(edit: impl Fn(&str) -> String, variables: &[(&str, &str)]) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("f.toml");
        std::fs::write(&path, START).expect("written");
        let variables = variables.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        let start = prepare(Some(&path), variables).expect("valid");
        let running = start.running.expect("a main file");
        let changes = running.compare(edit(START).as_bytes());
        let lines: Vec<String> = changes.pending.iter().chain(&changes.invalid).map(ToString::to_string).collect();
        lines.join("\n").replace(&path.display().to_string(), "f.toml")
    }

    #[test]
    fn each_setting_that_differs_is_told_by_its_key() {
        let same = |text: &str| format!("# moved\n\n{}", text.replace("\"1KiB\"", "\"1024B\""));
        assert_eq!(changes(same, &[]), "");
        assert_eq!(changes(|text| format!("{text}\n[routes.a]\nx = 1\n"), &[]), "");
        insta::assert_snapshot!(changes(|text| text.replace("1KiB", "2KiB").replace("secret-1", "secret-2") + "[discovery.consul]\ntags = true\n", &[]), @r"
f.toml:3:17: listeners.web.max_body_size: takes effect at the next start
f.toml:5:9: admin.token: takes effect at the next start
f.toml:7:8: discovery.consul.tags: takes effect at the next start
");
        let shorter =
            |text: &str| text.replace("max_body_size = \"1KiB\"\n", "").replace("[admin]\ntoken = \"secret-1\"\n", "");
        insta::assert_snapshot!(changes(shorter, &[]), @r"
f.toml: admin.token: takes effect at the next start
f.toml: listeners.web.max_body_size: takes effect at the next start
");
    }

    #[test]
    fn what_the_environment_sets_is_not_pending() {
        let variables = [("FLEETGATE_LISTENERS__WEB__MAX_BODY_SIZE", "5KiB")];
        assert_eq!(changes(|text| text.replace("1KiB", "2KiB"), &variables), "");
        let both = changes(|text| text.replace("1KiB", "2KiB").replace("secret-1", "secret-2"), &variables);
        assert_eq!(both, "f.toml:5:9: admin.token: takes effect at the next start");
    }

    #[test]
    fn a_section_that_became_invalid_is_told_without_its_secret() {
        let wrong = changes(|text| text.replace("secret-1", "sec ret").replace("1KiB", "many"), &[]);
        assert!(wrong.contains("f.toml:3:17: listeners.web.max_body_size: the gateway would not start: "), "{wrong}");
        assert!(wrong.contains("f.toml:5:9: admin.token: the gateway would not start: the secret is empty"), "{wrong}");
        assert!(!wrong.contains("sec ret"), "{wrong}");
    }
}
