//! Changes without end, with traffic flowing: nothing grows, nothing lags, nothing is lost.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::task::JoinSet;

use super::SOON;
use crate::support::client::{Connection, Request, get};
use crate::support::etcd::Etcd;
use crate::support::gateway::Gateway;
use crate::support::load::Load;
use crate::support::origin::Origin;
use crate::support::{long_tests, wait};

const SERVICES: usize = 500;
const EVERY: Duration = Duration::from_millis(10);
const CHANGES: usize = 9_000;
/// Every so many changes one is timed.
const TIMED: usize = 20;

/// What a process has in use.
#[derive(Debug)]
struct Use {
    kibibytes: u64,
    files: usize,
}

impl Use {
    fn of(process: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        Self {
            kibibytes: resident.split_whitespace().next().unwrap().parse().unwrap(),
            files: fs::read_dir(format!("/proc/{process}/fd")).unwrap().count(),
        }
    }
}

/// Each service is on one of two machines; a change moves one to the other.
struct Fleet {
    etcd: Etcd,
    machines: [Origin; 2],
    changes: usize,
}

impl Fleet {
    /// Who serves a service after so many changes of all.
    fn machine(&self, service: usize, changes: usize) -> &Origin {
        let moved = changes / SERVICES + usize::from(changes % SERVICES > service);
        &self.machines[moved % 2]
    }

    async fn put(&self, service: usize, changes: usize) {
        let key = format!("/fleetgate/endpoints/s{service:03}/one");
        self.etcd.put(&key, &self.machine(service, changes).address().to_string()).await;
    }

    /// Moves the next service: which one, and who serves it now.
    async fn change(&mut self) -> (usize, String) {
        let service = self.changes % SERVICES;
        self.changes += 1;
        self.put(service, self.changes).await;
        (service, format!("{}/v1", self.machine(service, self.changes).name))
    }

    /// Moves all services, as fast as etcd takes it.
    async fn change_all(&mut self) {
        self.changes += SERVICES;
        for part in (0..SERVICES).collect::<Vec<_>>().chunks(20) {
            join_all(part.iter().map(|service| self.put(*service, self.changes))).await;
        }
    }

    async fn is_served(&self, gateway: &Gateway) {
        for service in 0..SERVICES {
            let wanted = format!("{}/v1", self.machine(service, self.changes).name);
            let what = format!("s{service:03} by {wanted}");
            wait::until_ok(SOON, &what, || async {
                let served = get(gateway.address(), &format!("/s{service:03}")).await.served_by().to_owned();
                if served == wanted { Ok(()) } else { Err(served) }
            })
            .await;
        }
    }
}

/// Fault case 60, as a minute and a half that stands for a day.
#[tokio::test]
async fn changes_without_end_make_nothing_grow_and_lose_nothing() {
    if !long_tests() {
        return;
    }
    let Some(etcd) = Etcd::start().await else { return };
    let machines = [Origin::start("one").await, Origin::start("two").await];
    let mut fleet = Fleet { etcd, machines, changes: 0 };
    fleet.change_all().await;
    let mut config = format!(
        "listeners.web.address = \"127.0.0.1:0\"\nadmin.address = \"127.0.0.1:0\"\n\
         discovery.damping = false\ndiscovery.state_dir = \"state\"\ndiscovery.etcd.endpoints = [\"{}\"]\n",
        fleet.etcd.url()
    );
    for service in 0..SERVICES {
        let _ = writeln!(config, "upstreams.s{service:03}.etcd = {{}}");
        let _ = writeln!(
            config,
            "routes.s{service:03} = {{ match = {{ path = \"/s{service:03}\" }}, upstream = \"s{service:03}\" }}"
        );
    }
    let mut gateway = Gateway::start(&config).await;
    let process = gateway.process().id();
    let load = Load::start(gateway.address(), 2, |worker, number| {
        Request::get(&format!("/s{:03}", (worker as u64 * 250 + number) % SERVICES as u64))
    });
    // The history holds what it may before anything is compared.
    while gateway.api("events?limit=1").await["dropped"] == 0 {
        fleet.change_all().await;
    }
    fleet.is_served(&gateway).await;
    let before = Use::of(process);

    let mut timed = JoinSet::new();
    let mut turn = tokio::time::interval(EVERY);
    for change in 0..CHANGES {
        turn.tick().await;
        let (service, wanted) = fleet.change().await;
        if change % TIMED == 0 {
            let (address, since) = (gateway.address(), Instant::now());
            timed.spawn(async move {
                let mut connection = Connection::open(address).await.unwrap();
                let request = Request::get(&format!("/s{service:03}"));
                while connection.exchange(&request).await.unwrap().served_by() != wanted {
                    assert!(since.elapsed() < SOON, "s{service:03} is not served by {wanted}");
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                since.elapsed()
            });
        }
    }
    let mut times = timed.join_all().await;
    fleet.is_served(&gateway).await;
    let after = Use::of(process);
    times.sort();
    let part = |share: usize| times[(times.len() - 1) * share / 100];
    println!(
        "{} changes timed: half within {:?}, 90 % {:?}, 99 % {:?}, all {:?}; {before:?}, then {after:?}",
        times.len(),
        part(50),
        part(90),
        part(99),
        part(100)
    );
    load.stop().await.assert_all_ok();
    // A tenth more is what an allocator does; what grows with each change would be far beyond.
    assert!(after.kibibytes <= before.kibibytes * 11 / 10, "{before:?}, then {after:?}");
    assert!(after.files <= before.files + 4, "{before:?}, then {after:?}");
}
