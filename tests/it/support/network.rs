//! Network namespaces, for tests that need rules of the firewall: those must not touch anybody else.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use super::process::Process;

/// Set in the process that has a network of its own.
const OWN: &str = "FLEETGATE_TEST_NETWORK";
/// A loopback interface is all there is; `"$@"` must be able to set rules, too.
const ENTERED: &str = "ip link set lo up && iptables -L -n >/dev/null && exec \"$@\"";
const DEADLINE: Duration = Duration::from_secs(300);

/// Whether this process has a network of its own. If not, the test of this name (`live::subject::test`) is run in one,
/// by another process of the test binary, and has nothing more to do here.
///
/// Where no such network can be made (no CAP_NET_ADMIN, no `iptables`) that is said aloud.
pub async fn is_own(test: &str) -> bool {
    if std::env::var_os(OWN).is_some() {
        return true;
    }
    let tried = entering(["true"]).output();
    if !tried.as_ref().is_ok_and(|output| output.status.success()) {
        // Past the test harness's capture: a skip must be seen.
        let _ = writeln!(std::io::stderr(), "SKIPPED {test}: no network of its own can be made: {tried:?}");
        return false;
    }
    let binary = std::env::current_exe().unwrap();
    let mut command = entering([binary.to_str().unwrap(), "--exact", test, "--nocapture"]);
    command.env(OWN, "1");
    let mut process = Process::start(&format!("{test} in a network of its own"), &command);
    let ended = process.end(DEADLINE).await;
    let (said, stderr) = (process.stdout.text(), process.stderr.text());
    assert!(ended.success() && said.contains("1 passed"), "{said}\n{stderr}");
    false
}

/// Runs this in a new network, which root may, and where the kernel allows it anybody.
fn entering<'a>(words: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--net", "--", "sh", "-c", ENTERED, "sh"]).args(words);
    command
}

/// Packets from an address to a server, which can be swallowed.
pub struct Swallowed {
    rule: Vec<String>,
}

impl Swallowed {
    /// Swallows them from now on, in a network of one's own (see [`is_own`]).
    pub fn start(from: IpAddr, to: SocketAddr) -> Self {
        assert!(std::env::var_os(OWN).is_some(), "rules are for a network of one's own");
        let rule = format!("OUTPUT -s {from} -d {} -p tcp --dport {} -j DROP", to.ip(), to.port());
        let swallowed = Self { rule: rule.split(' ').map(str::to_owned).collect() };
        swallowed.iptables("-A");
        swallowed
    }

    /// Lets them pass again.
    pub fn stop(self) {
        self.iptables("-D");
    }

    fn iptables(&self, action: &str) {
        let done = Command::new("iptables").arg(action).args(&self.rule).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    }
}
