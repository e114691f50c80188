//! Random mistakes in documents, with gateways that are killed, started anew with and without what they saved, and that
//! stand beside each other, while registries freeze and die: nobody gets what is protected without a key.

use std::fs;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;

use super::super::random::seed;
use super::super::{SOON, config};
use crate::support::client::Request;
use crate::support::consul::Consul;
use crate::support::etcd::Etcd;
use crate::support::gateway::{Gateway, Setup};
use crate::support::load::Load;
use crate::support::origin::Origin;
use crate::support::{rounds, wait};

/// Gateways that stand beside each other at most.
const MOST: usize = 3;

/// Who defines an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    File,
    Etcd,
    Kv,
}

/// What happens.
#[derive(Debug)]
enum Step {
    /// Somebody makes a mistake in the route (0) or the middleware (1).
    Break(usize, usize),
    Mend(usize),
    /// The gateway of this number is killed and started again, perhaps without what it saved.
    Restart {
        which: usize,
        forgets: bool,
    },
    /// As that, while this registry answers nothing.
    RestartBesideFrozen(usize, Place),
    /// A gateway that knows nothing is started; the oldest one is stopped where there are enough.
    Another,
    Kill(Place),
}

impl Step {
    fn random(rng: &mut StdRng) -> Self {
        let which = rng.random_range(0..MOST);
        let registry = if rng.random() { Place::Etcd } else { Place::Kv };
        match rng.random_range(0..14) {
            0..5 => Self::Break(rng.random_range(0..2), rng.random_range(0..BREAKS)),
            5..7 => Self::Mend(rng.random_range(0..2)),
            7..10 => Self::Restart { which, forgets: rng.random() },
            10 => Self::RestartBesideFrozen(which, registry),
            11..13 => Self::Another,
            _ => Self::Kill(registry),
        }
    }
}

const ITEMS: [(&str, &str, &str); 2] = [
    ("routes", "admin", r#"{"match":{"path":"/admin"},"upstream":"app","middlewares":["keys"]}"#),
    ("middlewares", "keys", r#"{"api_key":{"header":"x-key"}}"#),
];
const BREAKS: usize = 8;

/// The text of an item with a mistake in it.
fn broken(item: usize, mistake: usize, rng: &mut StdRng) -> String {
    let good = ITEMS[item].2;
    match mistake {
        0 => format!(r#"{},"timout":"{}s"}}"#, &good[..good.len() - 1], rng.random_range(1..99)),
        1 => good[..rng.random_range(1..good.len())].to_owned(),
        2 => String::new(),
        3 => "null".to_owned(),
        4 => good.replace("path", "paht").replace("header", "haeder"),
        5 => "\u{feff}[]".to_owned(),
        6 => format!(r#"{},"listeners":["wbe"]}}"#, &good[..good.len() - 1]),
        _ => r#"{"match":5,"api_key":7}"#.to_owned(),
    }
}

struct Run {
    rng: StdRng,
    consul: Consul,
    etcd: Etcd,
    places: [Place; 2],
    /// What the items say now.
    texts: [String; 2],
    settings: String,
    gateways: Vec<(Gateway, Load)>,
}

impl Run {
    async fn write(&mut self, item: usize, text: String) {
        let (kind, name, _) = ITEMS[item];
        self.texts[item] = text;
        match self.places[item] {
            Place::Kv => self.consul.kv_put(&format!("fleetgate/{kind}/{name}"), &self.texts[item]).await,
            Place::Etcd => drop(self.etcd.put(&format!("/fleetgate/{kind}/{name}"), &self.texts[item]).await),
            Place::File => {
                for (gateway, _) in &self.gateways {
                    gateway.write(&format!("more/{name}.json"), &self.in_file(item));
                }
            }
        }
    }

    fn in_file(&self, item: usize) -> String {
        let (kind, name, _) = ITEMS[item];
        format!(r#"{{"{kind}":{{"{name}":{}}}}}"#, self.texts[item])
    }

    /// Starts a gateway that knows nothing.
    async fn start(&mut self) {
        let mut setup = Setup::new(&self.settings).file("more/other.json", "{}");
        for item in (0..ITEMS.len()).filter(|item| self.places[*item] == Place::File) {
            setup = setup.file(&format!("more/{}.json", ITEMS[item].1), &self.in_file(item));
        }
        let gateway = setup.start_listening().await;
        self.gateways.push(loaded(gateway));
    }

    async fn stop(&mut self, which: usize) -> Gateway {
        let (gateway, load) = self.gateways.remove(which);
        never_open(load).await;
        gateway
    }

    async fn restart(&mut self, which: usize, forgets: bool) {
        let which = which % self.gateways.len();
        let mut gateway = self.stop(which).await;
        if forgets {
            gateway.kill();
            fs::remove_dir_all(gateway.folder().join("state")).unwrap_or_default();
        }
        let gateway =
            if self.rng.random() { gateway.restart_in_order().await } else { gateway.restart_unready().await };
        self.gateways.insert(which, loaded(gateway));
    }

    async fn take(&mut self, step: &Step) {
        match *step {
            Step::Break(item, mistake) => {
                let text = broken(item, mistake, &mut self.rng);
                self.write(item, text).await;
            }
            Step::Mend(item) => self.write(item, ITEMS[item].2.to_owned()).await,
            Step::Restart { which, forgets } => self.restart(which, forgets).await,
            Step::RestartBesideFrozen(which, registry) => {
                self.freeze(registry);
                self.restart(which, false).await;
                tokio::time::sleep(Duration::from_millis(self.rng.random_range(100..1_500))).await;
                self.thaw(registry);
            }
            Step::Another => {
                if self.gateways.len() == MOST {
                    self.stop(0).await;
                }
                self.start().await;
            }
            Step::Kill(Place::Etcd) => {
                self.etcd.kill();
                self.etcd.start_again().await;
            }
            Step::Kill(_) => {
                self.consul.kill();
                self.consul.start_again().await;
            }
        }
        for (_, load) in &self.gateways {
            load.more(5).await;
        }
    }

    fn freeze(&mut self, registry: Place) {
        match registry {
            Place::Etcd => self.etcd.freeze(),
            Place::Kv | Place::File => self.consul.freeze(),
        }
    }

    fn thaw(&mut self, registry: Place) {
        match registry {
            Place::Etcd => self.etcd.thaw(),
            Place::Kv | Place::File => self.consul.thaw(),
        }
    }
}

fn loaded(gateway: Gateway) -> (Gateway, Load) {
    let load = Load::start_judging(gateway.address(), 1, |_, _| Request::get("/admin"), |answer| answer.status != 200);
    (gateway, load)
}

async fn never_open(load: Load) {
    let report = load.stop().await;
    assert_eq!(report.statuses.get(&200), None, "{report:#?}");
}

async fn run(places: [Place; 2], seed: u64, rests: usize) {
    let (Some(consul), Some(etcd)) = (Consul::start().await, Etcd::start().await) else { return };
    println!("seed {seed}, {places:?}");
    let origin = Origin::start("a").await;
    // The same name in a provider that goes behind is harmless, and waits for its turn.
    let decoy = json!({ "headers": { "response": { "set": { "x": "y" } } } }).to_string();
    if places[1] != Place::Kv {
        consul.kv_put("fleetgate/middlewares/keys", &decoy).await;
    }
    let settings = config(&format!(
        r#"
        discovery.state_dir = "state"
        discovery.file.paths = ["more/*.json"]
        discovery.consul = {{ address = "{}", wait = "2s" }}
        discovery.etcd.endpoints = ["{}"]
        upstreams.app.endpoints = ["{}"]
        routes.open = {{ match = {{ path = "/" }}, upstream = "app" }}
        "#,
        consul.url(),
        etcd.url(),
        origin.address()
    ));
    let texts = ITEMS.map(|(_, _, good)| good.to_owned());
    let rng = StdRng::seed_from_u64(seed);
    let mut run = Run { rng, consul, etcd, places, texts, settings, gateways: Vec::new() };
    for (item, (_, _, good)) in ITEMS.into_iter().enumerate() {
        run.write(item, good.to_owned()).await;
    }
    run.start().await;
    for _ in 0..rests {
        let mut taken = Vec::new();
        for _ in 0..8 {
            let step = Step::random(&mut run.rng);
            println!("{step:?}");
            run.take(&step).await;
            taken.push(step);
        }
        for (item, (_, _, good)) in ITEMS.into_iter().enumerate() {
            run.write(item, good.to_owned()).await;
        }
        for (gateway, _) in &run.gateways {
            wait::until_ok(2 * SOON, &format!("what is protected and what is open, after {taken:?}"), || async {
                let found = (gateway.get("/").await.status, gateway.get("/admin").await.status);
                if found == (200, 401) { Ok(()) } else { Err(format!("{found:?}")) }
            })
            .await;
        }
    }
    while !run.gateways.is_empty() {
        run.stop(0).await;
    }
}

#[tokio::test]
async fn nothing_opens_whatever_is_broken_in_files() {
    run([Place::File, Place::Etcd], seed(), rounds(2, 20)).await;
}

#[tokio::test]
async fn nothing_opens_whatever_is_broken_in_consul() {
    run([Place::Kv, Place::File], seed(), rounds(2, 20)).await;
}

#[tokio::test]
async fn nothing_opens_whatever_is_broken_in_etcd() {
    run([Place::Etcd, Place::Kv], seed(), rounds(2, 20)).await;
}
