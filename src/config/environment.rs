//! Defines what the environment says: our own variables as a tree of keys, and the usual ones of the field.

use std::collections::BTreeMap;
use std::sync::Arc;

use figment::value::{Dict, Map, Tag, Value};
use figment::{Error, Metadata, Profile, Provider};

use crate::spec::decode::reader::unknown_key;
use crate::spec::decode::sections::STATIC_SECTIONS;
use crate::spec::decode::tree::Node;
use crate::spec::document::Kind;
use crate::spec::problem::Problem;

use super::near::nearest_variable;

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
    /// Those that look like ours, and are ignored.
    ignored: Vec<Problem>,
}

impl Environment {
    /// Sorts variables: ours with `__` in the name set a static key; ours without are for other uses, unless they are
    /// like one.
    pub(super) fn new(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut environment = Self::default();
        for (name, text) in variables {
            match name.strip_prefix(PREFIX) {
                Some(rest) if rest.contains("__") => {
                    let path: Vec<String> = rest.split("__").map(str::to_ascii_lowercase).collect();
                    environment.add(&name, path, text);
                }
                Some(rest) => environment.look_like_ours(&name, &rest.to_ascii_lowercase()),
                None if is_in_lower_case(&name) => {
                    let text = format!("is ignored: write its name in capitals, `{}`", name.to_ascii_uppercase());
                    environment.ignored.push(Problem::new(format!("env:{name}"), "", text));
                }
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

    /// Notes a variable that is ignored, where it is likely meant to set a key.
    fn look_like_ours(&mut self, name: &str, rest: &str) {
        if let Some(meant) = nearest_variable(rest) {
            let text = format!("is ignored: did you mean `{meant}`? Sections and keys are joined by two underscores");
            self.ignored.push(Problem::new(format!("env:{name}"), "", text));
        }
    }

    /// Variables that make something new beside what the file has under nearly the same name, which most shells cannot
    /// write: `my_web` beside the listener `my-web`.
    pub(super) fn misnamed(&self, file: &Node) -> Vec<Problem> {
        let plain = |key: &str| key.to_ascii_lowercase().replace(['-', '.'], "_");
        let mut problems = Vec::new();
        for (path, (name, _)) in &self.ours {
            let mut node = Some(file);
            for (at, part) in path.iter().enumerate() {
                let Some(here) = node else { break };
                node = here.get(part);
                let like = here.entries().iter().find(|entry| plain(&entry.key) == *part);
                if let (None, Some(like)) = (node, like) {
                    let mut meant = path.clone();
                    if let Some(part) = meant.get_mut(at) {
                        part.clone_from(&like.key);
                    }
                    let text = format!(
                        "there is no `{part}`, but `{}`; did you mean `{PREFIX}{}`? Where such a name cannot be written, call it `{part}` in the file, too",
                        like.key,
                        meant.join("__").to_ascii_uppercase()
                    );
                    problems.push(Problem::new(format!("env:{name}"), path.join("."), text));
                    break;
                }
            }
        }
        problems
    }

    /// What is ignored, though it looks like one of ours.
    pub(super) fn ignored(&self) -> &[Problem] {
        &self.ignored
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

/// `fleetgate_admin__address`: names of variables are not read in another case.
fn is_in_lower_case(name: &str) -> bool {
    let of_ours = name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX));
    of_ours && name.contains("__")
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
