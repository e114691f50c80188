//! Import circles: files that use each other, directly or by way of others.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{Crate, Segments};

/// The groups of modules in which each reaches every other, the largest first. An arrow goes from a module to each
/// that its code uses; what tests use and what is only re-exported makes none.
pub(super) fn circles(of: &Crate) -> Vec<Vec<Segments>> {
    let uses = of.uses();
    let reached: BTreeMap<&Segments, BTreeSet<&Segments>> =
        uses.keys().map(|module| (module, reachable(module, &uses))).collect();
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for (module, reaches) in &reached {
        if !reaches.contains(module) || seen.contains(module) {
            continue;
        }
        let circle: Vec<Segments> =
            reaches.iter().filter(|other| reached[**other].contains(module)).map(|other| (*other).clone()).collect();
        seen.extend(reaches.iter().copied().filter(|other| circle.contains(other)));
        found.push(circle);
    }
    found.sort_by_key(|circle| std::cmp::Reverse(circle.len()));
    found
}

fn reachable<'a>(
    from: &'a Segments,
    uses: &'a BTreeMap<Segments, BTreeMap<Segments, usize>>,
) -> BTreeSet<&'a Segments> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from];
    while let Some(module) = open.pop() {
        for used in uses[module].keys() {
            if reached.insert(used) {
                open.push(used);
            }
        }
    }
    reached
}

/// The arrows within a circle, as lines of a report.
pub(super) fn arrows_within(of: &Crate, circle: &[Segments]) -> String {
    let uses = of.uses();
    let mut report = String::new();
    for module in circle {
        for (used, line) in uses[module].iter().filter(|(used, _)| circle.contains(used)) {
            report += &format!("  {}:{line} uses {}\n", of.file_of(module).display(), of.file_of(used).display());
        }
    }
    report
}
