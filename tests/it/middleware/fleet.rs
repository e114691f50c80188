//! Rate limits that gateways hold together.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::support::consul::Consul;
use crate::support::etcd::Etcd;
use crate::support::pki::Authority;
use crate::support::redis::Redis;
use crate::support::wait;

use super::*;

/// Requests of the limit in a second.
const RATE: u64 = 150;

/// Requests at all gateways, several times as many as may pass.
struct Crowd {
    /// Those that passed, those that were refused.
    counts: Arc<[AtomicU64; 2]>,
    _clients: JoinSet<()>,
}

impl Crowd {
    fn at(gateways: &[Gateway]) -> Self {
        let counts = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let mut clients = JoinSet::new();
        for address in gateways.iter().map(Gateway::address) {
            let counts = Arc::clone(&counts);
            clients.spawn(async move {
                let mut client = Connection::open(address).await.unwrap();
                loop {
                    let status = client.exchange(&Request::get("/")).await.unwrap().status;
                    assert!(status == 200 || status == 429, "{status}");
                    counts[usize::from(status == 429)].fetch_add(1, Relaxed);
                    sleep(Duration::from_millis(3)).await;
                }
            });
        }
        Self { counts, _clients: clients }
    }

    /// Requests that passed over at least six seconds in which more came, in percent of what the limit allows.
    async fn percent(&self) -> u64 {
        let began = Instant::now();
        let [passed, refused] = [0, 1].map(|index: usize| self.counts[index].load(Relaxed));
        // Until that many had to be refused, however slow everything is.
        let seen = || async {
            began.elapsed() > Duration::from_secs(6) && self.counts[1].load(Relaxed) - refused > 6 * RATE / 2
        };
        wait::until(SOON * 2, "enough requests", seen).await;
        let passed = self.counts[0].load(Relaxed) - passed;
        // Read after the count, so that a pause between them never looks like too many.
        let allowed = RATE as f64 * began.elapsed().as_secs_f64();
        (100.0 * passed as f64 / allowed).round() as u64
    }

    /// At no time do more requests pass than `tolerance` percent above the limit, and soon no fewer than that below it.
    /// Fewer pass while a busy machine pauses gateways or clients for longer than the burst lasts.
    async fn passes_at_the_limit(&self, tolerance: u64, when: &str) {
        let mut seen = Vec::new();
        while seen.last().is_none_or(|percent| *percent < 100 - tolerance) {
            assert!(seen.len() < 10, "{seen:?} % of the limit pass {when}");
            let percent = self.percent().await;
            assert!(percent <= 100 + tolerance, "{percent} % of the limit pass {when}");
            seen.push(percent);
        }
    }
}

async fn fleet(of: u64, gateways: &[Gateway], connected: f64) {
    wait::until(SOON, "a fleet", || async {
        for gateway in gateways {
            let known = gateway.metric("fleetgate_fleet_gateways", &[]).await;
            let redis = gateway.metric("fleetgate_redis_connected", &[]).await;
            if known != Some(of as f64) || redis.is_some_and(|redis| redis != connected) {
                return false;
            }
        }
        true
    })
    .await;
}

async fn decided(gateways: &[Gateway], by: &str) -> f64 {
    let mut sum = 0.0;
    for gateway in gateways {
        let labels = [("middleware", "few"), ("by", by), ("result", "passed")];
        sum += gateway.metric("fleetgate_rate_limit_requests_total", &labels).await.unwrap_or_default();
    }
    sum
}

/// Three gateways before a service, with a limit that is of all of them.
async fn three(origin: &Origin, registry: impl Fn(usize) -> String, redis: &str) -> Vec<Gateway> {
    let limit = format!(
        "middlewares.few.rate_limit = {{ rate = \"{RATE}/s\", burst = 15, key = [\"route\"], scope = \"fleet\" }}\n{redis}"
    );
    let mut gateways = Vec::new();
    for index in 0..3 {
        let config = around(origin, &["few"], &format!("{limit}\n{}", registry(index)));
        gateways.push(Setup::new(&config).start().await);
    }
    gateways
}

#[tokio::test]
async fn three_gateways_hold_one_limit_with_redis_and_without() {
    let (Some(consul), Some(mut redis)) = (Consul::start().await, Redis::start().await) else { return };
    let origin = Origin::start("a").await;
    let registered = |index: usize| {
        format!("[discovery.consul]\naddress = \"{}\"\n[discovery.consul.register]\nid = \"g{index}\"\n", consul.url())
    };
    let mut gateways = three(&origin, registered, &format!("redis.address = \"redis://{}\"", redis.address)).await;
    fleet(3, &gateways, 1.0).await;
    let crowd = Crowd::at(&gateways);
    crowd.passes_at_the_limit(5, "with Redis").await;

    redis.kill();
    fleet(3, &gateways, 0.0).await;
    let (_, status) = gateways[0].admin_get("/api/v1/status").await;
    assert!(status.contains("\"state\":\"lost\""), "{status}");
    crowd.passes_at_the_limit(15, "without Redis").await;
    assert!(decided(&gateways, "share").await > (RATE * 4) as f64);

    redis.start_again().await;
    fleet(3, &gateways, 1.0).await;
    // A period of the limit.
    sleep(Duration::from_secs(1)).await;
    crowd.passes_at_the_limit(5, "with Redis again").await;

    // Who leaves leaves its part to the others, which know of it by the registry alone.
    drop(crowd);
    redis.kill();
    gateways.pop().unwrap().terminate().await;
    fleet(2, &gateways, 0.0).await;
    let crowd = Crowd::at(&gateways);
    crowd.passes_at_the_limit(15, "at two gateways").await;
}

#[tokio::test]
async fn etcd_tells_how_many_gateways_share_a_limit() {
    let Some(etcd) = Etcd::start().await else { return };
    let origin = Origin::start("a").await;
    let registered = |index: usize| {
        format!(
            "[discovery.etcd]\nendpoints = [\"{}\"]\n[discovery.etcd.register]\nid = \"g{index}\"\nttl = \"10s\"\n",
            etcd.url()
        )
    };
    let mut gateways = three(&origin, registered, "").await;
    fleet(3, &gateways, 0.0).await;
    let crowd = Crowd::at(&gateways);
    crowd.passes_at_the_limit(15, "at three gateways").await;
    drop(crowd);
    assert_eq!(gateways[0].api("status").await["gateways"], 3);
    // One that dies is forgotten with its lease.
    gateways[2].kill();
    gateways.pop();
    fleet(2, &gateways, 0.0).await;
}

/// Without a registry gateways meet in Redis; what holds while it is away is chosen.
#[tokio::test]
async fn what_holds_without_redis_is_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let authority = Authority::new("Redis CA");
    std::fs::write(file("ca.pem"), authority.pem()).unwrap();
    std::fs::write(file("password"), "not-this-one\n").unwrap();
    let started = Redis::start_with(|at| {
        let issued = authority.issue("redis", &[&at.ip().to_string()]);
        std::fs::write(file("server.pem"), &issued.cert).unwrap();
        std::fs::write(file("server.key"), &issued.key).unwrap();
        let texts = ["--port", "0", "--tls-port", &at.port().to_string(), "--tls-auth-clients", "no"];
        let files =
            [("--tls-cert-file", "server.pem"), ("--tls-key-file", "server.key"), ("--tls-ca-cert-file", "ca.pem")];
        let files = files.into_iter().flat_map(|(key, name)| [key.to_owned(), file(name)]);
        let user = ["--requirepass", "hunter2-of-redis"];
        texts.into_iter().chain(user).map(ToOwned::to_owned).chain(files).collect()
    });
    let Some(mut redis) = started.await else { return };
    let origin = Origin::start("a").await;
    let limits: String = ["share", "local", "open", "closed"]
        .map(|without| {
            format!(
                "middlewares.{without}.rate_limit = {{ rate = \"1/h\", burst = 4, key = [\"route\"], scope = \"fleet\", \
                 without_redis = \"{without}\" }}\n\
                 routes.{without} = {{ match = {{ path = \"/{without}\" }}, upstream = \"app\", middlewares = [\"{without}\"] }}\n"
            )
        })
        .concat();
    // A session that a slow answer ends is not what this is about.
    let config = around(
        &origin,
        &[],
        &format!(
            "{limits}\n[redis]\naddress = \"rediss://{}\"\npassword_file = {:?}\ntls.ca = {:?}\ntimeout = \"10s\"\n",
            redis.address,
            file("password"),
            file("ca.pem")
        ),
    );
    let gateways = [Gateway::start(&config).await, Gateway::start(&config).await];
    let passed = |path: &'static str| {
        let gateways = &gateways;
        async move {
            let mut passed = [0, 0];
            for turn in 0..20 {
                let status = gateways[turn % 2].get(path).await.status;
                passed[turn % 2] += u64::from(status == 200);
            }
            passed
        }
    };

    // The password is wrong: each of the choices holds, and the log says why.
    let told = || async { gateways.iter().all(|gateway| gateway.stderr().contains("authentication failed")) };
    wait::until(SOON, "what is wrong", told).await;
    assert_eq!(passed("/share").await, [4, 4], "nobody has told of another gateway");
    assert_eq!(passed("/local").await, [4, 4]);
    assert_eq!(passed("/open").await, [10, 10]);
    assert_eq!(passed("/closed").await, [0, 0]);

    // It is mended without a restart. What passed while nobody counted counts.
    std::fs::write(file("password"), "hunter2-of-redis\n").unwrap();
    fleet(2, &gateways, 1.0).await;
    assert_eq!(passed("/local").await, [0, 0], "each had its burst");
    let mut spent = 0;
    for _ in 0..10 {
        spent += u64::from(gateways[0].get("/closed").await.status == 200);
    }
    assert_eq!(spent, 4);
    // The other one decides at once, and learns what is spent a moment later: its first requests may pass, not a burst.
    let mut late = 0;
    while gateways[1].get("/closed").await.status == 200 {
        late += 1;
        assert!(late < 4, "it knows nothing of what the first one spent");
        sleep(Duration::from_secs(1)).await;
    }
    redis.kill();
    fleet(2, &gateways, 0.0).await;
    assert_eq!(passed("/closed").await, [0, 0]);
    for gateway in &gateways {
        let (_, config) = gateway.admin_get("/api/v1/config").await;
        assert!(!config.contains("hunter2") && !gateway.stderr().contains("hunter2"), "a secret is told");
    }
}

/// Requests are decided on while the answer about them is out, however long that takes.
#[tokio::test]
async fn no_request_waits_for_redis() {
    let Some(mut redis) = Redis::start().await else { return };
    let origin = Origin::start("a").await;
    let limit = "middlewares.few.rate_limit = { rate = \"1/h\", burst = 50, key = [\"route\"], scope = \"fleet\" }";
    let config = format!("{limit}\nredis = {{ address = \"redis://{}\", timeout = \"10s\" }}", redis.address);
    let gateways = [Gateway::start(&around(&origin, &["few"], &config)).await];
    fleet(1, &gateways, 1.0).await;
    redis.pause();
    let mut passed = 0;
    for _ in 0..100 {
        passed += u64::from(gateways[0].get("/").await.status == 200);
    }
    assert_eq!(passed, 50);
    // Nobody has given up waiting for the answer yet.
    let connected = gateways[0].metric("fleetgate_redis_connected", &[]).await;
    assert_eq!((connected, decided(&gateways, "redis").await), (Some(1.0), 50.0));
    fleet(1, &gateways, 0.0).await;
}
