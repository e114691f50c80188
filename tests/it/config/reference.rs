//! What is shipped to be read: the commented reference, the examples, the schema.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use fleetgate::config::{check, schema};
use serde_json::Value;

use super::{Files, env};

fn examples() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut paths: Vec<PathBuf> =
        fs::read_dir(root.join("examples")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.push(root.join("fleetgate.toml"));
    paths
}

#[test]
fn the_reference_and_every_example_are_without_a_problem() {
    let paths = examples();
    assert!(paths.len() >= 6, "{paths:?}");
    for path in paths {
        assert_eq!(check(Some(&path), env(&[])), [], "{}", path.display());
    }
}

#[test]
fn the_examples_in_three_formats_say_the_same() {
    use fleetgate::spec::decode::{FileSet, FileText, Format};
    let documents = |extension: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples/canary").with_extension(extension);
        let bytes = Ok(fs::read(path).unwrap());
        let format = Format::of_extension(extension).unwrap();
        let documents =
            FileSet::new().update(vec![FileText { path: "x".into(), format, main: true, bytes, writing: None }]);
        let routes = documents.routes.into_iter().map(|(name, item)| (name, item.good.unwrap()));
        let upstreams = documents.upstreams.into_iter().map(|(name, item)| (name, item.good.unwrap()));
        (routes.collect::<Vec<_>>(), upstreams.collect::<Vec<_>>())
    };
    let toml = documents("toml");
    assert_eq!((toml.0.len(), toml.1.len()), (1, 1));
    assert_eq!(documents("yaml"), toml);
    assert_eq!(documents("json"), toml);
}

/// What the reference says of a default is the default: with every comment of the form `# key = value` on, but for
/// the examples, the settings are the same.
#[test]
fn the_reference_shows_the_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/fleetgate.toml");
    let text = fs::read_to_string(&path).unwrap();
    let (top, _) = text.split_once("# From here on").unwrap();
    let uncommented: Vec<&str> = top
        .lines()
        .filter(|line| !line.contains("example") && !line.contains("token = ") && !line.contains("password = "))
        .filter(|line| !line.starts_with("# [discovery.etcd.tls]") && !line.starts_with("# [discovery.consul.tls]"))
        .map(|line| match line.strip_prefix("# ") {
            Some(rest)
                if rest.starts_with('[') || rest.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')) =>
            {
                rest
            }
            _ => line,
        })
        .collect();
    let files = Files::new(&[("fleetgate.toml", &uncommented.join("\n"))]);
    let shown = files.load(&[]);
    let bare = Files::new(&[(
        "fleetgate.toml",
        "[listeners.web]\naddress = \"0.0.0.0:8080\"\n\
         [discovery.consul.register]\n[discovery.etcd.register]\naddress = \"10.0.0.2:8080\"\n[redis]\n",
    )])
    .load(&[]);
    assert_eq!(shown.runtime, bare.runtime);
    assert_eq!(shown.listeners, bare.listeners);
    assert_eq!(shown.admin, bare.admin);
    assert_eq!(shown.telemetry, bare.telemetry);
    assert_eq!(shown.discovery.precedence, bare.discovery.precedence);
    assert_eq!(shown.discovery.optional, bare.discovery.optional);
    assert_eq!(shown.discovery.consul, bare.discovery.consul);
    assert_eq!(shown.discovery.etcd, bare.discovery.etcd);
    assert_eq!(shown.redis, bare.redis);
    assert!(uncommented.iter().filter(|line| line.contains(" = ") && !line.starts_with('#')).count() > 20);
}

#[test]
fn the_reference_mentions_every_key() {
    fn keys(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(object) => {
                if let Some(Value::Object(properties)) = object.get("properties") {
                    found.extend(properties.keys().cloned());
                }
                object.values().for_each(|value| keys(value, found));
            }
            Value::Array(elements) => elements.iter().for_each(|value| keys(value, found)),
            _ => {}
        }
    }
    let mut known = BTreeSet::new();
    keys(&schema(), &mut known);
    assert!(known.len() > 60, "{known:?}");
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/fleetgate.toml")).unwrap();
    let mentioned = |key: &String| {
        let forms = [format!("{key} = "), format!("[{key}"), format!(".{key}"), format!("{key}]")];
        forms.iter().any(|form| text.contains(form)) || text.contains(&format!("headers, query, {key}"))
    };
    let missing: Vec<_> = known.iter().filter(|key| !mentioned(key)).collect();
    assert!(missing.is_empty(), "not in config/fleetgate.toml: {missing:?}");
}

#[test]
fn the_schema_refuses_what_the_reader_refuses() {
    let schema = schema();
    assert_eq!(schema.pointer("/$defs/Route/additionalProperties"), Some(&Value::Bool(false)));
    assert!(!schema.to_string().contains("\"null\""), "null is never a value");
    let minimum = schema.pointer("/$defs/Target/properties/weight/maximum");
    assert_eq!(minimum, Some(&Value::from(1_000_000)));
}
