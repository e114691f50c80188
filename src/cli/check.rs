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
    let verdict = match (errors, findings.len()) {
        (0, 0) => "the configuration is valid".to_owned(),
        (0, 1) => "the configuration is valid, with a warning".to_owned(),
        (0, warnings) => format!("the configuration is valid, with {warnings} warnings"),
        (errors, _) => format!("{errors} problem{}", if errors == 1 { "" } else { "s" }),
    };
    say(remarks, &verdict);
    if errors == 0 { FINE } else { FAILED }
}
