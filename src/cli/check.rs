//! Defines `fleetgate check`.

use std::io::Write;
use std::path::Path;

use crate::config::{Finding, check};

use super::{FAILED, FINE, say};

/// Prints every problem, one a line: `file:line:column: key: problem`.
pub(super) fn run(
    path: Option<&Path>,
    variables: impl Iterator<Item = (String, String)>,
    out: &mut dyn Write,
    remarks: &mut dyn Write,
) -> u8 {
    let findings = check(path, variables);
    let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
    if !lines.is_empty() {
        say(out, &lines.join("\n"));
    }
    let errors = findings.iter().filter(|finding| matches!(finding, Finding::Error(_))).count();
    match (errors, findings.len()) {
        (0, 0) => say(remarks, "the configuration is valid"),
        (0, 1) => say(remarks, "the configuration is valid, with a warning"),
        (0, warnings) => say(remarks, &format!("the configuration is valid, with {warnings} warnings")),
        (errors, _) => say(remarks, &format!("{errors} problem{}", if errors == 1 { "" } else { "s" })),
    }
    if errors == 0 { FINE } else { FAILED }
}
