//! The README says what is true: its configurations are valid, its links lead somewhere.

use std::fs;
use std::path::Path;
use std::process::Command;

pub(crate) fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

/// The texts between the fences of a language.
pub(crate) fn blocks(text: &str, language: &str) -> Vec<String> {
    let fenced = text.split("```").skip(1).step_by(2);
    fenced.filter_map(|block| Some(block.strip_prefix(language)?.strip_prefix('\n')?.to_owned())).collect()
}

#[test]
fn every_configuration_is_accepted_by_check() {
    let blocks = blocks(&readme(), "toml");
    assert!(blocks.len() >= 3, "only {} configurations found", blocks.len());
    for block in blocks {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("fleetgate.toml"), &block).unwrap();
        let mut check = Command::new(env!("CARGO_BIN_EXE_fleetgate"));
        check.args(["check", "--config", "fleetgate.toml"]).current_dir(directory.path()).env_clear();
        let output = check.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!((output.status.code(), said.as_str()), (Some(0), ""), "{block}");
    }
}

/// What is to be written to a registry is accepted there, and refers to nothing that is not written, too.
#[test]
fn every_document_for_a_registry_stands_by_itself() {
    let text = readme();
    for (command, prefix) in [("consul kv put ", "fleetgate/"), ("etcdctl put ", "/fleetgate/")] {
        let mut documents = serde_json::json!({ "listeners": { "web": { "address": "127.0.0.1:0" } } });
        // Inside a table or a sentence such a command names no document.
        let lines = text.lines().filter_map(|line| line.strip_prefix("    ")?.strip_prefix(command));
        for line in lines {
            let (key, value) = line.split_once(' ').unwrap();
            let (kind, name) = key.strip_prefix(prefix).unwrap().split_once('/').unwrap();
            documents[kind][name] = serde_json::from_str(value.trim_matches('\'')).unwrap();
        }
        // Sources of Consul need it to be on.
        documents["discovery"]["consul"] = serde_json::json!({});
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("fleetgate.json"), documents.to_string()).unwrap();
        let mut check = Command::new(env!("CARGO_BIN_EXE_fleetgate"));
        check.args(["check", "--config", "fleetgate.json"]).current_dir(directory.path()).env_clear();
        let output = check.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!((output.status.code(), said.as_str()), (Some(0), ""), "{documents}");
        assert!(documents["routes"]["orders"].is_object(), "{command}");
    }
}

/// The sample of `fleetgate status` has the columns that it prints.
#[test]
fn the_sample_of_status_has_its_columns() {
    let header = readme().lines().find(|line| line.starts_with("PROVIDER ")).unwrap().to_owned();
    let columns: Vec<&str> = header.split_whitespace().collect();
    let source = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/status.rs")).unwrap();
    let list = source.split_once("Table::new(&[").unwrap().1.split_once(']').unwrap().0;
    let printed: Vec<&str> = list.split(',').map(|column| column.trim().trim_matches('"')).collect();
    assert_eq!(columns, printed);
}

#[test]
fn what_it_points_to_is_there() {
    let text = readme();
    let targets: Vec<&str> = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|it| it.0).collect();
    assert!(!targets.is_empty());
    for target in targets.into_iter().filter(|target| !target.starts_with(['h', '#'])) {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(target).exists(), "{target}");
    }
}
