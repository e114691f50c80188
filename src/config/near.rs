//! Names of variables that set nothing, though they look as if they should.

use std::sync::OnceLock;

use serde_json::Value;

use super::schema::schema;
use crate::spec::decode::sections::STATIC_SECTIONS;

/// A part of a key that is a name of the user's own.
const NAME: &str = "*";
/// Parts of a key.
const MAX_DEPTH: usize = 8;

/// What may have been meant by a variable whose name without the prefix is this, in lower case: the name of the variable
/// that sets the nearest static key. `None`: it is like none of them, and may be meant for other programs.
pub(super) fn nearest_variable(rest: &str) -> Option<String> {
    // Of containers: Docker links and Kubernetes services of our name set these.
    if ["service_host", "service_port", "port"]
        .iter()
        .any(|theirs| rest == *theirs || rest.starts_with(&format!("{theirs}_")))
    {
        return None;
    }
    let keys = static_keys();
    let exact = keys.iter().find_map(|key| fitted(key, rest));
    let alike = || {
        let likeness = |key: &Vec<String>| strsim::normalized_damerau_levenshtein(&key.join("_"), rest);
        let plain = keys.iter().filter(|key| !key.iter().any(|part| part == NAME));
        let (likeness, key) = plain.map(|key| (likeness(key), key)).max_by(|a, b| a.0.total_cmp(&b.0))?;
        (likeness >= 0.85).then(|| variable(key))
    };
    let of_section = || {
        let section = STATIC_SECTIONS
            .into_iter()
            .find(|section| rest.strip_prefix(section).is_some_and(|rest| rest.starts_with('_')))?;
        Some(variable(&[section.to_owned(), "KEY".to_owned()]))
    };
    exact.or_else(alike).or_else(of_section)
}

fn variable(key: &[String]) -> String {
    format!("FLEETGATE_{}", key.join("__").to_ascii_uppercase())
}

/// The variable of a key whose parts, joined by one underscore, are this name.
fn fitted(key: &[String], rest: &str) -> Option<String> {
    let at = key.iter().position(|part| part == NAME);
    let Some(at) = at else { return (key.join("_") == rest).then(|| variable(key)) };
    let (before, after) = (key.get(..at)?.join("_"), key.get(at + 1..)?.join("_"));
    let name = rest.strip_prefix(&before)?.strip_prefix('_')?;
    let name = if after.is_empty() { name } else { name.strip_suffix(&after)?.strip_suffix('_')? };
    let mut key = key.to_vec();
    *key.get_mut(at).filter(|_| !name.is_empty())? = name.to_owned();
    Some(variable(&key))
}

/// Every static key; names of the user's own are [`NAME`].
fn static_keys() -> &'static [Vec<String>] {
    static KEYS: OnceLock<Vec<Vec<String>>> = OnceLock::new();
    KEYS.get_or_init(|| {
        let schema = schema();
        let mut keys = Vec::new();
        for section in STATIC_SECTIONS {
            if let Some(value) = schema.pointer(&format!("/properties/{section}")) {
                collect(&schema, value, &mut vec![section.to_owned()], &mut keys);
            }
        }
        keys
    })
}

fn collect(root: &Value, value: &Value, path: &mut Vec<String>, keys: &mut Vec<Vec<String>>) {
    if path.len() > MAX_DEPTH {
        return;
    }
    let reference = value.get("$ref").and_then(Value::as_str).and_then(|at| root.pointer(at.trim_start_matches('#')));
    if let Some(value) = reference {
        return collect(root, value, path, keys);
    }
    for choice in value.get("anyOf").and_then(Value::as_array).into_iter().flatten() {
        collect(root, choice, path, keys);
    }
    let named = value.get("properties").and_then(Value::as_object).into_iter().flatten();
    let free = value.get("additionalProperties").filter(|value| value.is_object());
    let mut any = false;
    for (key, value) in named.map(|(key, value)| (key.as_str(), value)).chain(free.map(|value| (NAME, value))) {
        any = true;
        path.push(key.to_owned());
        collect(root, value, path, keys);
        path.pop();
    }
    if !any {
        keys.push(path.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_underscore_and_slips_are_known_from_other_programs_variables() {
        let near = |rest| nearest_variable(rest).unwrap_or_default();
        assert_eq!(near("admin_address"), "FLEETGATE_ADMIN__ADDRESS");
        assert_eq!(near("admin_adress"), "FLEETGATE_ADMIN__ADDRESS");
        assert_eq!(near("discovery_consul_token_file"), "FLEETGATE_DISCOVERY__CONSUL__TOKEN_FILE");
        assert_eq!(near("discovery_state_dir"), "FLEETGATE_DISCOVERY__STATE_DIR");
        assert_eq!(near("listeners_my_web_address"), "FLEETGATE_LISTENERS__MY_WEB__ADDRESS");
        assert_eq!(near("runtime_labels_zone"), "FLEETGATE_RUNTIME__LABELS__ZONE");
        assert_eq!(near("runtime_what_is_this"), "FLEETGATE_RUNTIME__KEY");
        for other in
            ["home", "registries", "python", "cache", "long_tests", "service_host", "port_8080_tcp_addr", "config", ""]
        {
            assert_eq!(near(other), "", "{other}");
        }
    }
}
