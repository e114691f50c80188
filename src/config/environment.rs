//! Defines what the environment says: our own variables as a tree of keys, and the usual ones of the field.

use std::collections::BTreeMap;
use std::sync::Arc;

use figment::value::{Dict, Map, Tag, Value};
use figment::{Error, Metadata, Profile, Provider};

use crate::spec::decode::reader::unknown_key;
use crate::spec::decode::sections::STATIC_SECTIONS;
use crate::spec::document::Kind;
use crate::spec::problem::Problem;

const PREFIX: &str = "FLEETGATE_";

/// The variables of one process, or of a test.
#[derive(Debug, Default)]
pub(super) struct Environment {
    /// Ours, by the key they set: `admin.address` of `FLEETGATE_ADMIN__ADDRESS`.
    ours: BTreeMap<Vec<String>, (Arc<str>, String)>,
    /// Those of others that we read.
    usual: BTreeMap<String, String>,
    /// Ours that set nothing.
    problems: Vec<Problem>,
}

impl Environment {
    /// Sorts variables: ours with `__` in the name set a static key; ours without are for other uses.
    pub(super) fn new(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut environment = Self::default();
        for (name, text) in variables {
            match name.strip_prefix(PREFIX) {
                Some(rest) if rest.contains("__") => {
                    let path: Vec<String> = rest.split("__").map(str::to_ascii_lowercase).collect();
                    environment.add(&name, path, text);
                }
                Some(_) => {}
                // An empty variable is as good as none, as Consul and etcdctl have it.
                None if !text.is_empty() => drop(environment.usual.insert(name, text)),
                None => {}
            }
        }
        environment.drop_contradictions();
        environment
    }

    fn add(&mut self, name: &str, path: Vec<String>, text: String) {
        let section = path.first().map(String::as_str).unwrap_or_default();
        let mut problem = |text: String| self.problems.push(Problem::new(format!("env:{name}"), path.join("."), text));
        if path.iter().any(String::is_empty) {
            problem("the name has an empty part: sections and keys are joined by two underscores".to_owned());
        } else if Kind::ALL.iter().any(|kind| kind.as_str() == section) {
            problem(format!("`{section}` have no environment form: write them into a file or a registry"));
        } else if !STATIC_SECTIONS.contains(&section) {
            problem(unknown_key(section, &STATIC_SECTIONS));
        } else if let Some((other, _)) = self.ours.get(&path) {
            problem(format!("{other} sets the same key"));
        } else {
            self.ours.insert(path, (name.into(), text));
        }
    }

    /// A key cannot have both a value of its own and keys below it.
    fn drop_contradictions(&mut self) {
        let mut above: Option<(Vec<String>, Arc<str>)> = None;
        let problems = &mut self.problems;
        // Sorted: what lies below a path follows it.
        self.ours.retain(|path, (name, _)| {
            if let Some((above, other)) = &above
                && path.starts_with(above)
            {
                let text = format!("{other} sets all of `{}` already", above.join("."));
                problems.push(Problem::new(format!("env:{name}"), path.join("."), text));
                return false;
            }
            above = Some((path.clone(), Arc::clone(name)));
            true
        });
    }

    /// What is wrong with the names of our variables.
    pub(super) fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The variable that sets this key, or the first one that sets a key below it.
    pub(super) fn variable(&self, path: &[String]) -> Option<&Arc<str>> {
        let mut below = self.ours.range(path.to_vec()..).take_while(|(key, _)| key.starts_with(path));
        below.next().map(|(_, (name, _))| name)
    }

    /// A usual variable that is set to something.
    pub(super) fn usual(&self, name: &str) -> Option<&str> {
        self.usual.get(name).map(String::as_str)
    }
}

impl Environment {
    /// The name of this layer in the merge.
    pub(super) const LAYER: &str = "environment";
}

impl Provider for &Environment {
    fn metadata(&self) -> Metadata {
        Metadata::named(Environment::LAYER)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, Error> {
        let mut root = Dict::new();
        for (path, (_, text)) in &self.ours {
            insert(&mut root, path, text);
        }
        Ok(Map::from([(Profile::Default, root)]))
    }
}

fn insert(dict: &mut Dict, path: &[String], text: &str) {
    let Some((key, rest)) = path.split_first() else { return };
    if rest.is_empty() {
        dict.insert(key.clone(), Value::String(Tag::Default, text.to_owned()));
        return;
    }
    let below = dict.entry(key.clone()).or_insert_with(|| Value::Dict(Tag::Default, Dict::new()));
    if let Value::Dict(_, below) = below {
        insert(below, rest, text);
    }
}
