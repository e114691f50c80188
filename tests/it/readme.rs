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

#[test]
fn what_it_points_to_is_there() {
    let text = readme();
    let targets: Vec<&str> = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|it| it.0).collect();
    assert!(!targets.is_empty());
    for target in targets.into_iter().filter(|target| !target.starts_with(['h', '#'])) {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(target).exists(), "{target}");
    }
}
