//! Random changes and random faults against a model, with traffic flowing: at rest every pool is what the registry
//! has, and at no instant was anyone taken out whom the registry had not taken out.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tempfile::TempDir;

use self::model::{Model, Slot};
use super::{SOON, provider, removals};
use crate::support::client::Request;
use crate::support::consul::{Consul, Service};
use crate::support::etcd::Etcd;
use crate::support::gateway::Gateway;
use crate::support::load::Load;
use crate::support::origin::Origin;
use crate::support::proxy::{Mode, Proxy};
use crate::support::{rounds, wait};

mod model;

const SEED: u64 = 59;
/// Between two rests.
const STEPS: usize = 8;

/// What happens to the registry or on the way to it.
#[derive(Debug)]
enum Step {
    /// So many changes, one after the other.
    Write(usize),
    /// It freezes for so many milliseconds.
    Freeze(u64),
    /// It is killed, and started again with its data.
    Kill,
    /// Connections to it are cut.
    Cut,
    /// Connections are cut after so many bytes, for a while.
    CutAfter(usize),
    /// Nothing passes during so many changes; then it does, or what was held is lost.
    Hold {
        writes: usize,
        lost: bool,
        compacted: bool,
    },
    /// What is past is forgotten.
    Compact,
    Defragment,
    /// A backup is made.
    Save,
    /// The last backup is put in place, perhaps so that its revisions look like later ones.
    Restore {
        bumped: bool,
    },
}

impl Step {
    fn random(rng: &mut StdRng, etcd: bool) -> Self {
        let kinds = if etcd { 16 } else { 10 };
        match rng.random_range(0..kinds) {
            0..4 => Self::Write(rng.random_range(1..6)),
            4 => Self::Freeze(rng.random_range(50..1_500)),
            5 => Self::Kill,
            6 => Self::Cut,
            7 => Self::CutAfter(rng.random_range(100..3_000)),
            8..10 => Self::Hold { writes: rng.random_range(1..6), lost: rng.random(), compacted: false },
            10..12 => Self::Hold { writes: rng.random_range(1..6), lost: rng.random(), compacted: true },
            12 => Self::Compact,
            13 => Self::Defragment,
            14 => Self::Save,
            _ => Self::Restore { bumped: rng.random() },
        }
    }
}

enum Registry {
    Etcd(Box<Etcd>),
    Consul(Box<Consul>),
}

impl Registry {
    async fn put(&self, slot: Slot, address: &str, life: u64) {
        match self {
            Self::Etcd(etcd) => {
                let value = format!(r#"{{"address":"{address}","labels":{{"life":"{life}"}}}}"#);
                etcd.put(&slot.key(), &value).await;
            }
            Self::Consul(consul) => {
                let service = Service::new(&slot.pool(), &slot.id(), address.parse().unwrap());
                consul.register(&service.meta("life", &life.to_string())).await;
            }
        }
    }

    async fn delete(&self, slot: Slot) {
        match self {
            Self::Etcd(etcd) => {
                etcd.delete(&slot.key()).await;
            }
            Self::Consul(consul) => consul.deregister(&slot.id()).await,
        }
    }

    fn freeze(&mut self) {
        match self {
            Self::Etcd(etcd) => etcd.freeze(),
            Self::Consul(consul) => consul.freeze(),
        }
    }

    fn thaw(&mut self) {
        match self {
            Self::Etcd(etcd) => etcd.thaw(),
            Self::Consul(consul) => consul.thaw(),
        }
    }

    async fn kill(&mut self) {
        match self {
            Self::Etcd(etcd) => {
                etcd.kill();
                etcd.start_again().await;
            }
            Self::Consul(consul) => {
                consul.kill();
                consul.start_again().await;
            }
        }
    }

    /// What only etcd has.
    fn etcd(&mut self) -> &mut Etcd {
        match self {
            Self::Etcd(etcd) => etcd,
            Self::Consul(_) => unreachable!("a step that only etcd has"),
        }
    }
}

/// A gateway before a registry, and what should be known of it.
struct Run {
    rng: StdRng,
    registry: Registry,
    proxy: Proxy,
    model: Model,
    /// A backup, and what was there then.
    saved: Option<(TempDir, Model)>,
}

impl Run {
    async fn take(&mut self, step: &Step) {
        match *step {
            Step::Write(changes) => self.write(changes).await,
            Step::Freeze(milliseconds) => {
                self.registry.freeze();
                tokio::time::sleep(Duration::from_millis(milliseconds)).await;
                self.registry.thaw();
            }
            Step::Kill => self.registry.kill().await,
            Step::Cut => self.proxy.cut(),
            Step::CutAfter(bytes) => {
                self.proxy.set(Mode::CutAfter(bytes));
                self.proxy.cut();
                self.write(2).await;
                self.proxy.set(Mode::Pass);
            }
            Step::Hold { writes, lost, compacted } => {
                self.proxy.set(Mode::Hold);
                self.write(writes).await;
                if compacted {
                    self.compact().await;
                }
                if lost {
                    self.proxy.cut();
                }
                self.proxy.set(Mode::Pass);
            }
            Step::Compact => self.compact().await,
            Step::Defragment => self.registry.etcd().defragment().await,
            Step::Save => {
                let folder = tempfile::tempdir().unwrap();
                self.registry.etcd().save(&folder.path().join("saved"));
                self.saved = Some((folder, self.model.clone()));
            }
            Step::Restore { bumped } => {
                let Some((folder, then)) = &self.saved else { return };
                let more = if bumped { &["--bump-revision=100000", "--mark-compacted"][..] } else { &[] };
                self.model.loses_what_is_not_in(then);
                self.registry.etcd().restore(&folder.path().join("saved"), more).await;
                self.model.becomes(then);
            }
        }
    }

    async fn write(&mut self, changes: usize) {
        for _ in 0..changes {
            let slot = Slot::random(&mut self.rng);
            if self.model.may_remove(slot) && self.rng.random() {
                self.model.remove(slot);
                self.registry.delete(slot).await;
            } else {
                // Somebody new, or the same anew: it is there all the time.
                let life = self.model.next_life();
                self.registry.put(slot, &self.model.address(slot), life).await;
                self.model.add(slot, life);
            }
        }
    }

    async fn compact(&mut self) {
        let etcd = self.registry.etcd();
        let revision = etcd.revision().await;
        // Two compactions at one revision are one too many for etcd.
        let _ = etcd.try_call("kv/compaction", serde_json::json!({ "revision": revision.to_string() })).await;
    }
}

/// Lets a registry and the way to it suffer, and looks at what the gateway makes of it.
async fn run(registry: Registry, seed: u64, rests: usize) {
    println!("seed {seed}, {rests} times {STEPS} steps");
    let origin = Origin::start_at("0.0.0.0:0".parse().unwrap(), "all", "v1").await;
    let (server, discovery, source) = match &registry {
        Registry::Etcd(etcd) => (etcd.client_address(), "etcd.endpoints = [\"URL\"]", "etcd = {}"),
        Registry::Consul(consul) => {
            (consul.http_address(), "consul = { address = \"URL\", wait = \"2s\" }", "consul.service = \"POOL\"")
        }
    };
    let name = discovery.split(['.', ' ']).next().unwrap();
    let proxy = Proxy::start(server).await;
    let model = Model::new(origin.address().port());
    let mut run = Run { rng: StdRng::seed_from_u64(seed), registry, proxy, model: model.clone_shared(), saved: None };
    for slot in Slot::all() {
        let life = run.model.next_life();
        run.registry.put(slot, &run.model.address(slot), life).await;
        run.model.add(slot, life);
    }
    let mut config = format!(
        "listeners.web.address = \"127.0.0.1:0\"\nadmin.address = \"127.0.0.1:0\"\n\
         discovery.state_dir = \"off\"\ndiscovery.damping = false\ndiscovery.wipe_hold = \"1s\"\ndiscovery.{}\n",
        discovery.replace("URL", &run.proxy.url())
    );
    for pool in Slot::pools() {
        config += &format!("upstreams.{pool}.{}\n", source.replace("POOL", &pool));
        config += &format!("routes.{pool} = {{ match = {{ path = \"/{pool}\" }}, upstream = \"{pool}\" }}\n");
    }
    let gateway = Gateway::start(&config).await;
    let load = Load::start(gateway.address(), 2, |_, number| Request::get(&format!("/{}", Slot::pool_of(number))));
    let watching = model.watch(gateway.admin());
    if name == "etcd" {
        run.take(&Step::Save).await;
    }
    for _ in 0..rests {
        let mut taken = Vec::new();
        for _ in 0..STEPS {
            let step = Step::random(&mut run.rng, matches!(run.registry, Registry::Etcd(_)));
            run.take(&step).await;
            taken.push(step);
        }
        println!("{taken:?}");
        wait::until_ok(2 * SOON, &format!("rest after {taken:?}"), || async {
            let (shown, wanted) = (model::shown(gateway.admin()).await, model.wanted());
            let held = provider(&gateway, name).await["held"].to_string();
            if shown == wanted && held == "[]" { Ok(()) } else { Err(format!("{shown:?}, not {wanted:?}; {held}")) }
        })
        .await;
        model.assert_nobody_vanished();
    }
    watching.abort();
    load.stop().await.assert_all_ok();
    for pool in Slot::pools() {
        for (address, events) in removals(&gateway, &pool).await {
            let removed = model.removals(&address);
            assert!(events.len() <= removed, "{address} was removed {removed} times, and taken out by {events:#?}");
        }
    }
}

/// Where tests may take long, each run is another; `FLEETGATE_SEED` repeats one.
pub(super) fn seed() -> u64 {
    if let Ok(seed) = std::env::var("FLEETGATE_SEED") {
        return seed.parse().expect("a number");
    }
    if rounds(0, 1) == 1 { rand::rng().random() } else { SEED }
}

/// Fault case 59 with etcd: it freezes, dies, loses connections and history, and goes back in time.
#[tokio::test]
async fn nobody_is_lost_whatever_happens_to_etcd() {
    let Some(etcd) = Etcd::start().await else { return };
    run(Registry::Etcd(Box::new(etcd)), seed(), rounds(3, 30)).await;
}

/// Fault case 59 with Consul: it freezes, dies and loses connections.
#[tokio::test]
async fn nobody_is_lost_whatever_happens_to_consul() {
    let Some(consul) = Consul::start().await else { return };
    run(Registry::Consul(Box::new(consul)), seed(), rounds(2, 20)).await;
}
