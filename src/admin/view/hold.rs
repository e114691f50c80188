//! Shows what operators may accept: what would be lost, what follows, and the digest to accept it with.

use serde::Serialize;

use crate::snapshot::Snapshot;
use crate::snapshot::report::{self, Hold};

/// Holds of one name, or all.
#[derive(Debug, Serialize)]
pub struct HoldsView {
    /// Of the snapshot that serves them.
    pub generation: u64,
    /// Of these items; accepting them takes it.
    pub digest: String,
    /// By provider and id.
    pub items: Vec<Hold>,
}

/// What `target` names, as `fleetgate accept` takes it; without one everything.
pub fn view(snapshot: &Snapshot, target: Option<&str>) -> HoldsView {
    let named = |hold: &&Hold| target.is_none_or(|target| hold.is_named(target));
    let items: Vec<Hold> = snapshot.report.holds.iter().filter(named).cloned().collect();
    HoldsView { generation: snapshot.generation, digest: report::digest_of(&items), items }
}
