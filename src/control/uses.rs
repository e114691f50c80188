//! Defines when sources were last used, as discovery is told: where it cannot watch them all, it watches those.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::discovery::state::Uses;
use crate::snapshot::Snapshot;
use crate::telemetry::stats::WorkersStats;

/// Between two looks at the counters of requests.
const LOOK: Duration = Duration::from_secs(5);

/// Looks for ever at what upstreams are used, and tells of their sources.
pub async fn follow(
    stats: Arc<WorkersStats>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    told: watch::Sender<Arc<Uses>>,
) {
    let (mut before, mut uses) = (BTreeMap::new(), Uses::new());
    loop {
        sleep(LOOK).await;
        let counts = stats.uses();
        let snapshot = Arc::clone(&snapshots.borrow());
        if note(&mut uses, &before, &counts, &snapshot, Instant::now()) {
            told.send_replace(Arc::new(uses.clone()));
        }
        before = counts;
    }
}

/// Notes the sources of upstreams that were used since the look before; whether there were any. Who is wanted no more is
/// forgotten.
fn note(
    uses: &mut Uses,
    before: &BTreeMap<Box<str>, u64>,
    counts: &BTreeMap<Box<str>, u64>,
    snapshot: &Snapshot,
    now: Instant,
) -> bool {
    let mut known = std::mem::take(uses);
    let mut changed = false;
    for upstream in snapshot.upstreams.iter().flatten() {
        let count = |counts: &BTreeMap<Box<str>, u64>| counts.get(&*upstream.label).copied().unwrap_or(0);
        let used = count(counts) > count(before);
        changed |= used;
        for source in upstream.sources.iter() {
            let last = if used { Some(now) } else { known.remove(source) };
            if let Some(last) = last.max(uses.get(source).copied()) {
                uses.insert(source.clone(), last);
            }
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::super::build::Builder;
    use super::super::fixture::{World, consul};
    use super::super::merge::Affected;
    use super::*;
    use crate::spec::name::ProviderId;

    #[test]
    fn an_upstream_that_is_used_uses_its_sources() {
        let mut world = World::new();
        let text = "[upstreams.a]\nconsul.service = \"a\"\n[upstreams.b]\nconsul.service = \"b\"";
        world.documents(ProviderId::File, text);
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let built = Builder::new(now).build(&world.merge(), &Affected::All, &Snapshot::empty(), now);
        let snapshot = built.expect("a snapshot");
        let counts = |a: u64, b: u64| [("a".into(), a), ("b".into(), b)].into();
        let mut uses = Uses::new();
        assert!(note(&mut uses, &BTreeMap::new(), &counts(1, 0), &snapshot, now));
        assert_eq!(uses, [(consul("a"), now)].into());
        assert!(!note(&mut uses, &counts(1, 0), &counts(1, 0), &snapshot, now + second));
        assert!(note(&mut uses, &counts(1, 0), &counts(1, 2), &snapshot, now + second));
        assert_eq!(uses, [(consul("a"), now), (consul("b"), now + second)].into());
        assert!(!note(&mut uses, &counts(1, 2), &BTreeMap::new(), &Snapshot::empty(), now));
        assert_eq!(uses, Uses::new());
    }
}
