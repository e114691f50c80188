//! Mistakes in the name of a route, in the prefix of a tag or in a value: each in a service of its own, at a gateway that saw
//! the good form, at one that starts after it, and after restarts.

use super::*;

/// A mistake in what a service registers; `@` is a path of its own, and `#` a host.
struct Typo {
    good: &'static [&'static str],
    wrong: &'static [&'static str],
    /// Its host, where it has one.
    host: &'static str,
}

const fn typo(good: &'static [&'static str], wrong: &'static [&'static str]) -> Typo {
    Typo { good, wrong, host: "" }
}

const OWN: &[&str] = &["fleetgate.path=@", "fleetgate.middlewares=keys"];
const NAMED: &[&str] = &["fleetgate.routes.adm.path=@", "fleetgate.routes.adm.middlewares=keys"];
const HOSTED: &[&str] = &["fleetgate.host=#", "fleetgate.path=@", "fleetgate.middlewares=keys"];
const META: &[&str] = &["fleetgate", "META fleetgate-path=@", "META fleetgate-middlewares=keys"];
const ALLOW: &[&str] = &["urlprefix-@ allow=ip:10.9.9.9/32"];

const TYPOS: &[Typo] = &[
    // In the name of a route.
    typo(NAMED, &["fleetgate.routes.adm.path=@", "fleetgate.route.adm.middlewares=keys"]),
    typo(NAMED, &["fleetgate.routes.adm.path=@", "fleetgate.routes.amd.middlewares=keys"]),
    typo(NAMED, &["fleetgate.routes.adm.path=@", "fleetgate.routes.Adm.middlewares=keys"]),
    typo(NAMED, &["fleetgate.routes.adm.path=@", "fleetgate.routes.\"adm.middlewares=keys"]),
    typo(OWN, &["fleetgate.path=@", "fleetgate.routes.s4.middlewares=keys"]),
    typo(NAMED, &["fleetgate.routes.ad.path=@", "fleetgate.routes.adm.middlewares=keys"]),
    typo(NAMED, &["fleetgate.routes.zz.path=@", "fleetgate.routes.adm.middlewares=keys"]),
    typo(NAMED, &["fleetgate.routes.a dm.path=@", "fleetgate.routes.adm.middlewares=keys"]),
    typo(NAMED, &["fleetgate.path=@", "fleetgate.routes.adm.middlewares=keys"]),
    // That belong to no route.
    typo(OWN, &["fleetgate.path=@", "fleetgate..middlewares=keys"]),
    typo(OWN, &["fleetgate.path=@", "fleetgate.routes.middlewares=keys"]),
    typo(OWN, &["fleetgate.path=@", "fleetgate.middlewares=keys", "fleetgate.routes.adm=x"]),
    typo(OWN, &["fleetgate.path=@", "fleetgate.middlewares=keys", "fleetgate.route.x=1"]),
    // In a host or a path.
    typo(OWN, &["fleetgate.path=@", "fleetgate.path=@2", "fleetgate.middlewares=keys"]),
    Typo {
        good: HOSTED,
        wrong: &["fleetgate.host=#,b b", "fleetgate.path=@", "fleetgate.middlewares=keys"],
        host: "#",
    },
    Typo { good: HOSTED, wrong: &["fleetgate.host=#", "fleetgate.path=@ x", "fleetgate.middlewares=keys"], host: "#" },
    Typo { good: HOSTED, wrong: &["fleetgate.host=#", "fleetgate.path=", "fleetgate.middlewares=keys"], host: "#" },
    // In the prefix.
    typo(OWN, &["fleetgate.path=@", "fleetgate-middlewares=keys"]),
    typo(OWN, &["fleetgate.path=@", "FLEETGATE.middlewares=keys"]),
    typo(OWN, &["fleetgate.path=@", "fleetgate_middlewares=keys"]),
    typo(OWN, &["fleetgate.path=@", "fleetgate/middlewares=keys"]),
    typo(OWN, &["Fleetgate.path=@", "Fleetgate.middlewares=keys"]),
    typo(META, &["fleetgate", "META fleetgate-path=@", "META fleetgate_middlewares=keys"]),
    typo(META, &["fletgate", "META fleetgate-path=@", "META fleetgate-middlewares=keys"]),
    // In fabio's options.
    typo(ALLOW, &["urlprefix-@ allow="]),
    typo(&["urlprefix-@ deny=ip:127.0.0.1/32"], &["urlprefix-@ deny="]),
    typo(ALLOW, &["urlprefix-@ alw=ip:10.9.9.9/32"]),
    typo(ALLOW, &["urlprefix-@ permit=ip:10.9.9.9/32"]),
    typo(ALLOW, &["urlprefix-@ ip:10.9.9.9/32"]),
    typo(ALLOW, &["urlprefix-@,allow=ip:10.9.9.9/32"]),
    typo(ALLOW, &["URLPREFIX-@ allow=ip:10.9.9.9/32"]),
];

fn registration(at: usize, origin: &Origin, said: &[&str]) -> Service {
    let name = format!("s{at}");
    let said = said.iter().map(|text| text.replace('@', &format!("/p{at}")).replace('#', &format!("h{at}.test")));
    let (meta, tags): (Vec<String>, Vec<String>) = said.partition(|text| text.starts_with("META "));
    let mut service = service(&name, origin, &tags.iter().map(String::as_str).collect::<Vec<_>>());
    for text in meta {
        let (key, value) = text["META ".len()..].split_once('=').expect("a value");
        service = service.meta(key, value);
    }
    service
}

async fn refuses_all(gateway: &Gateway, wanted: impl Fn(usize) -> u16, when: &str) {
    for (at, typo) in TYPOS.iter().enumerate() {
        let host = typo.host.replace('#', &format!("h{at}.test"));
        let request = || {
            let request = Request::get(&format!("/p{at}/x"));
            if host.is_empty() { request } else { request.host(&host) }
        };
        wait::until_ok(SOON, &format!("{} {when}: {:?}", wanted(at), typo.wrong), || async {
            let status = gateway.send(request()).await.status;
            if status == wanted(at) { Ok(()) } else { Err(status) }
        })
        .await;
    }
}

#[tokio::test]
async fn a_typo_in_a_name_a_prefix_or_a_value_opens_no_route() {
    let Some(consul) = Consul::start().await else { return };
    let (app, admin) = (Origin::start("app").await, Origin::start("admin").await);
    let refusal = |at: usize| if TYPOS[at].good[0].starts_with("urlprefix-") { 403 } else { 401 };
    let mut gateway = start(&consul, &app, "state").await;
    for (at, typo) in TYPOS.iter().enumerate() {
        consul.register(&registration(at, &admin, typo.good)).await;
    }
    refuses_all(&gateway, refusal, "while it is right").await;
    let load = Load::start(gateway.address(), 4, |worker, round| {
        let at = (worker + 4 * usize::try_from(round).expect("few")) % TYPOS.len();
        let host = TYPOS[at].host.replace('#', &format!("h{at}.test"));
        let request = Request::get(&format!("/p{at}"));
        if host.is_empty() { request } else { request.host(&host) }
    });
    for (at, typo) in TYPOS.iter().enumerate() {
        consul.register(&registration(at, &admin, typo.wrong)).await;
    }
    let places: Vec<String> = (0..TYPOS.len()).map(|at| format!("\"consul:s{at}\"")).collect();
    let places: Vec<&str> = places.iter().map(String::as_str).collect();
    rejects(&gateway, "consul-tags", &places).await;
    load.more(500).await;
    let statuses = load.stop().await.statuses;
    assert!(statuses.keys().all(|status| [401, 403].contains(status)), "while it runs: {statuses:?}");
    refuses_all(&gateway, refusal, "while it runs").await;
    saves(&gateway, "consul.json", &[&format!("/p{},allow", TYPOS.len() - 2)]).await;

    for _ in 0..2 {
        gateway = gateway.restart_unready().await;
        gateway.wait_ready().await;
        rejects(&gateway, "consul-tags", &places).await;
        refuses_all(&gateway, refusal, "after a restart").await;
    }
    let other = start(&consul, &app, "off").await;
    rejects(&other, "consul-tags", &places).await;
    refuses_all(&other, |_| 503, "at a new gateway").await;
    assert_eq!((other.get("/").await.status, other.admin_get("/readyz").await.0), (200, 200));

    for (at, typo) in TYPOS.iter().enumerate() {
        consul.register(&registration(at, &admin, typo.good)).await;
    }
    for gateway in [&gateway, &other] {
        refuses_all(gateway, refusal, "mended").await;
        wait::until(SOON, "nothing to be rejected", || async {
            provider(gateway, "consul-tags").await["rejected"] == serde_json::json!([])
        })
        .await;
    }
}

/// A host that may be claimed stays closed beside one that may not, and one with a path that cannot be read.
#[tokio::test]
async fn hosts_that_may_be_claimed_are_closed_beside_what_is_wrong() {
    let Some(consul) = Consul::start().await else { return };
    let (app, admin) = (Origin::start("app").await, Origin::start("admin").await);
    let settings =
        settings(&consul, &app, "off").replace(" tags = true,", " tags = true, tag_hosts = [\"*.ok.test\"],");
    let good = ["fleetgate.host=a.ok.test", "fleetgate.path=/p", "fleetgate.middlewares=keys"];
    consul.register(&service("s", &admin, &good)).await;
    let asks = async |gateway: &Gateway| gateway.send(Request::get("/p").host("a.ok.test")).await;
    let start = || async {
        let mut gateway = Setup::new(&settings).start_listening().await;
        gateway.wait_ready().await;
        gateway
    };
    let old = start().await;
    for wrong in
        [["fleetgate.host=a.ok.test,b.test", "fleetgate.path=/p"], ["fleetgate.host=a.ok.test", "fleetgate.path=p"]]
    {
        wait::until(SOON, "the route", || async { asks(&old).await.status == 401 }).await;
        consul.register(&service("s", &admin, &[&wrong[..], &["fleetgate.middlewares=keys"]].concat())).await;
        rejects(&old, "consul-tags", &["consul:s"]).await;
        let new = start().await;
        rejects(&new, "consul-tags", &["consul:s"]).await;
        wait::until(SOON, "the host to be closed", || async { asks(&new).await.status == 503 }).await;
        assert_eq!(new.get("/p").await.served_by(), "app/v1", "other hosts are not");
        assert_eq!(asks(&old).await.status, 401);
    }
}

/// An edit that is right, but makes an open route for the place of a guarded one.
#[tokio::test]
async fn of_equal_routes_of_a_service_the_guarded_one_stays() {
    let Some(consul) = Consul::start().await else { return };
    let (app, admin) = (Origin::start("app").await, Origin::start("admin").await);
    let adm = ["fleetgate.routes.adm.path=/p", "fleetgate.routes.adm.middlewares=keys"];
    consul.register(&service("s", &admin, &adm)).await;
    let old = start(&consul, &app, "state").await;
    refuses(&old, "/p", 401).await;
    consul
        .register(&service("s", &admin, &[&adm[..], &["fleetgate.path=/p", "fleetgate.routes.o.path=/o"]].concat()))
        .await;
    let old = {
        wait::until(SOON, "the edit", || async { old.get("/o").await.served_by() == "admin/v1" }).await;
        refuses(&old, "/p", 401).await;
        old.restart_unready().await
    };
    let new = start(&consul, &app, "off").await;
    for gateway in [&old, &new] {
        wait::until(SOON, "the edit", || async { gateway.get("/o").await.served_by() == "admin/v1" }).await;
        refuses(gateway, "/p", 401).await;
    }
}

/// A leftover that protects nothing closes nothing.
#[tokio::test]
async fn a_leftover_that_protects_nothing_closes_nothing() {
    let Some(consul) = Consul::start().await else { return };
    let (app, admin) = (Origin::start("app").await, Origin::start("admin").await);
    let tags = ["fleetgate.path=/web", "fleetgate.routes.old.strip_prefix=/old", "fleetgate_managed=true"];
    consul.register(&service("s", &admin, &tags)).await;
    let gateway = start(&consul, &app, "off").await;
    rejects(&gateway, "consul-tags", &["give `host` or `path`"]).await;
    wait::until(SOON, "the route", || async { gateway.get("/web").await.served_by() == "admin/v1" }).await;
}

/// A good form that came and went while the gateway was down, with the same wrong text before and after it.
#[tokio::test]
async fn what_was_right_while_the_gateway_was_down_is_closed_at_its_restart() {
    let Some(consul) = Consul::start().await else { return };
    let (app, admin) = (Origin::start("app").await, Origin::start("admin").await);
    consul.register(&service("other", &admin, &["fleetgate.path=/other"])).await;
    let mut stopped = start(&consul, &app, "state").await;
    let running = start(&consul, &app, "off").await;
    let wrong = ["fleetgate.path=/late", "fleetgate.midlewares=keys", "urlprefix-/fabio weight=x"];
    let right = ["fleetgate.path=/late", "fleetgate.middlewares=keys", "urlprefix-/fabio allow=ip:10.0.0.0/8"];
    consul.register(&service("late", &admin, &wrong)).await;
    for gateway in [&stopped, &running] {
        rejects(gateway, "consul-tags", &["midlewares", "weight=x"]).await;
        assert_eq!(gateway.get("/late").await.served_by(), "app/v1", "it never was right");
    }
    saves(&stopped, "consul-tags.json", &["\"late\""]).await;
    saves(&stopped, "consul.json", &["midlewares"]).await;
    assert!(stopped.terminate().await.success());
    consul.register(&service("late", &admin, &right)).await;
    refuses(&running, "/late", 401).await;
    refuses(&running, "/fabio", 403).await;
    consul.register(&service("late", &admin, &wrong)).await;
    rejects(&running, "consul-tags", &["midlewares", "weight=x"]).await;
    let mut stopped = stopped.restart_unready().await;
    stopped.wait_ready().await;
    rejects(&stopped, "consul-tags", &["midlewares", "weight=x"]).await;
    for (path, refusal) in [("/late", 401), ("/fabio", 403)] {
        refuses(&running, path, refusal).await;
        refuses(&stopped, path, 503).await;
    }
}
