//! Defines what to make of checks that have not run since their agent started. Pure.
//!
//! An agent that starts again with its data sets each check that it makes itself to critical, without a word
//! of output, until it has run: at a random point of its first interval. Nothing is wrong with the instance,
//! and where all agents restart together (an upgrade, or a single agent) whole services would lose their
//! traffic. So an instance that was usable stays as it was for a while. One that is registered anew does not:
//! it waits for its first check as its operator wants it to, but where the whole registry begins anew.

use std::time::Duration;

use tokio::time::Instant;

use super::follow::After;
use super::health::Instance;
use super::known::Entries;
use crate::spec::endpoint::RegistryStatus;

/// How long the last report counts: three intervals of the usual 10 s. A check that fails as it first runs may
/// be told as unreported for ten minutes more (its status does not change, and Consul defers mere output by
/// `check_update_interval`), so that Consul must be taken at its word some time.
pub(super) const LONGEST: Duration = Duration::from_secs(30);

/// What is known of an instance that would pass or warn but for checks that have not reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unreported {
    /// What its other checks say.
    pub(super) others: RegistryStatus,
    /// Since when it is kept as it was; `None`: it is not.
    pub(super) kept_since: Option<Instant>,
}

/// The types of checks that an agent makes itself and that never fail without saying why. `ttl` checks keep their
/// status over a restart; a script may fail in silence.
pub(super) fn tells_why(check_type: &str) -> bool {
    matches!(check_type, "http" | "tcp" | "grpc" | "h2ping" | "udp" | "os_service" | "alias")
}

/// Keeps instances of `fresh` as they are in `known` while their checks have not reported; returns how many are
/// kept from now on.
pub(super) fn keep_as_reported(
    known: &Entries<Instance>,
    fresh: &mut Entries<Instance>,
    now: Instant,
    after: After,
) -> usize {
    let mut begun = 0;
    for (id, instance) in fresh {
        let (Some(unreported), Some(before)) = (&mut instance.unreported, known.get(id)) else { continue };
        let usable = matches!(before.endpoint.status, RegistryStatus::Passing | RegistryStatus::Warning);
        // A registry that begins anew has everything registered anew, which says nothing of an instance.
        if !usable || (before.created != instance.created && !after.wipe) {
            continue;
        }
        let kept_since = before.unreported.and_then(|unreported| unreported.kept_since);
        // Where agents discard outputs, silence says nothing: only after an outage it is believed to.
        if kept_since.is_none() && !before.reported && !after.outage {
            continue;
        }
        let since = kept_since.unwrap_or(now);
        if now.duration_since(since) >= LONGEST {
            continue;
        }
        unreported.kept_since = Some(since);
        instance.endpoint.status = before.endpoint.status.max(unreported.others);
        instance.endpoint.weight = instance.weights.of(instance.endpoint.status);
        instance.reported |= before.reported;
        begun += usize::from(kept_since.is_none());
    }
    begun
}

/// When the first of the kept instances is kept no longer.
pub(super) fn ends_at(entries: &Entries<Instance>) -> Option<Instant> {
    let since = entries.values().filter_map(|instance| instance.unreported?.kept_since);
    since.min().map(|since| since + LONGEST)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::discovery::consul::health::instances;
    use crate::spec::source::ConsulService;

    const NOW: fn() -> Instant = Instant::now;

    fn check(kind: &str, status: &str, output: &str) -> Value {
        json!({"CheckID": "c", "Status": status, "Output": output, "Type": kind})
    }

    fn listed(created: u64, checks: &Value) -> Entries<Instance> {
        let service = json!({"ID": "w1", "Port": 80, "CreateIndex": created, "Weights": {"Passing": 10, "Warning": 3}});
        let body = json!([{"Node": {"Node": "n1", "Address": "10.0.0.1"}, "Service": service, "Checks": checks}]);
        instances(&ConsulService::named("web"), body.to_string().as_bytes()).expect("a list").entries
    }

    /// Status and weight of the instance after `checks` turned into `later`.
    const NOTHING: After = After { outage: false, wipe: false };
    const OUTAGE: After = After { outage: true, wipe: false };
    const WIPE: After = After { outage: false, wipe: true };

    fn after(checks: &Value, later: &Value, after: After) -> (RegistryStatus, u16) {
        let mut fresh = listed(7, later);
        keep_as_reported(&listed(7, checks), &mut fresh, NOW(), after);
        let endpoint = &fresh["n1/w1"].endpoint;
        (endpoint.status, endpoint.weight)
    }

    #[test]
    fn a_check_that_has_not_run_since_the_agent_started_leaves_its_instance_as_it_was() {
        use RegistryStatus::{Critical, Maintenance, Passing, Warning};
        let passed = check("http", "passing", "HTTP GET: 200 OK");
        let silent = check("http", "critical", "");
        let serf = |status: &str| json!({"CheckID": "serfHealth", "Status": status, "Output": "x", "Type": ""});
        let maintained =
            json!({"CheckID": "_service_maintenance:w1", "Status": "critical", "Output": "", "Type": "maintenance"});
        for (before, later, expected) in [
            (json!([passed]), json!([silent]), (Passing, 10)),
            (json!([check("tcp", "passing", "ok")]), json!([check("tcp", "critical", "")]), (Passing, 10)),
            (json!([check("http", "warning", "429")]), json!([silent]), (Warning, 3)),
            (json!([passed]), json!([silent, check("ttl", "warning", "")]), (Warning, 3)),
            // It has run and fails.
            (json!([passed]), json!([check("http", "critical", "HTTP GET: 503")]), (Critical, 10)),
            // It is not the only thing that is wrong.
            (json!([passed]), json!([silent, serf("critical")]), (Critical, 10)),
            (json!([passed]), json!([silent, maintained]), (Maintenance, 10)),
            // It did not pass before.
            (json!([check("http", "critical", "HTTP GET: 503")]), json!([silent]), (Critical, 10)),
            // What these say in silence is a word.
            (json!([check("ttl", "passing", "ok")]), json!([check("ttl", "critical", "")]), (Critical, 10)),
            (json!([check("script", "passing", "ok")]), json!([check("script", "critical", "")]), (Critical, 10)),
        ] {
            assert_eq!(after(&before, &later, NOTHING), expected, "{before} -> {later}");
        }
    }

    #[test]
    fn where_outputs_are_discarded_only_an_outage_explains_silence() {
        let (passed, silent) = (json!([check("http", "passing", "")]), json!([check("http", "critical", "")]));
        assert_eq!(after(&passed, &silent, NOTHING).0, RegistryStatus::Critical);
        assert_eq!(after(&passed, &silent, OUTAGE).0, RegistryStatus::Passing);
    }

    #[test]
    fn a_new_registration_waits_for_its_first_check() {
        let silent = json!([check("http", "critical", "")]);
        let mut fresh = listed(9, &silent);
        let before = listed(7, &json!([check("http", "passing", "ok")]));
        keep_as_reported(&before, &mut fresh, NOW(), OUTAGE);
        assert_eq!(fresh["n1/w1"].endpoint.status, RegistryStatus::Critical);
        for after in [OUTAGE, WIPE] {
            keep_as_reported(&Entries::new(), &mut fresh, NOW(), after);
            assert_eq!(fresh["n1/w1"].endpoint.status, RegistryStatus::Critical);
        }
        // Where everything is registered anew, this is what it was.
        keep_as_reported(&before, &mut fresh, NOW(), WIPE);
        assert_eq!(fresh["n1/w1"].endpoint.status, RegistryStatus::Passing);
    }

    #[test]
    fn it_ends_with_the_report_or_with_time() {
        let start = NOW();
        let read = |known: &Entries<Instance>, checks: Value, at: Duration| {
            let mut fresh = listed(7, &checks);
            keep_as_reported(known, &mut fresh, start + at, NOTHING);
            fresh
        };
        let status = |entries: &Entries<Instance>| entries["n1/w1"].endpoint.status;
        let silent = || json!([check("http", "critical", "")]);
        let second = Duration::from_secs(1);
        let known = listed(7, &json!([check("http", "passing", "ok")]));
        assert_eq!(ends_at(&known), None);
        let kept = read(&known, silent(), Duration::ZERO);
        assert_eq!(ends_at(&kept), Some(start + LONGEST));
        assert_eq!(read(&kept, silent(), second), kept, "reading the same again changes nothing");
        assert_eq!(status(&read(&kept, silent(), LONGEST - second)), RegistryStatus::Passing);
        let ended = read(&kept, silent(), LONGEST);
        assert_eq!((status(&ended), ends_at(&ended)), (RegistryStatus::Critical, None));
        assert_eq!(status(&read(&ended, silent(), LONGEST + second)), RegistryStatus::Critical);
        let failed = read(&kept, json!([check("http", "critical", "503")]), second);
        assert_eq!((status(&failed), ends_at(&failed)), (RegistryStatus::Critical, None));
        let passed = read(&kept, json!([check("http", "passing", "200")]), second);
        assert_eq!((status(&passed), ends_at(&passed)), (RegistryStatus::Passing, None));
    }
}
