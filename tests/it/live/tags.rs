//! Routes that services ask for in their registrations at a real Consul, with traffic.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::{config, fails, live, provider, rejects, stops, takes};
use crate::support::client::{Answer, Request, get};
use crate::support::consul::{Consul, Service};
use crate::support::gateway::Gateway;
use crate::support::load::Load;
use crate::support::origin::Origin;
use crate::support::wait;

/// A gateway that reads tags; `more` are keys of `[discovery.consul]`, `documents` come behind.
async fn gateway(consul: &Consul, more: &str, documents: &str) -> Gateway {
    Gateway::start(&config(&format!(
        r#"
        [discovery.consul]
        address = "{}"
        wait = "5s"
        tags = true
        tag_networks = ["127.0.0.0/8"]
        {more}
        {documents}
        "#,
        consul.url()
    )))
    .await
}

fn service(name: &str, origin: &Origin, tags: &[&str]) -> Service {
    Service::new(name, &origin.name, origin.address()).tags(tags)
}

async fn send(gateway: &Gateway, host: &str, path: &str) -> Answer {
    Request::get(path).host(host).send(gateway.address()).await
}

/// Waits until this request is answered by `who`.
async fn by(gateway: &Gateway, host: &str, path: &str, who: &str) -> Answer {
    let address = gateway.address();
    wait::until_ok(super::SOON, &format!("{who} to answer {host}{path}"), || async move {
        let answer = Request::get(path).host(host).send(address).await;
        if answer.served_by() == who { Ok(answer) } else { Err(answer) }
    })
    .await
}

/// What the admin API says of a route.
async fn route(gateway: &Gateway, name: &str) -> Value {
    let list = gateway.api("routes").await;
    let found = list["items"].as_array().and_then(|items| items.iter().find(|item| item["name"] == name));
    found.unwrap_or(&Value::Null).clone()
}

#[tokio::test]
async fn tags_and_meta_make_routes_that_follow_them() {
    let Some(consul) = Consul::start().await else { return };
    let (a, b, idle) = (Origin::start("a").await, Origin::start("b").await, Origin::start("idle").await);
    consul.register(&service("early", &a, &["fleetgate.path=/early"])).await;
    consul.register(&service("idle", &idle, &["web", "fleet"])).await;
    let gateway = gateway(&consul, "", "").await;
    // Ready means that what was there is served.
    assert_eq!(get(gateway.address(), "/early/x").await.served_by(), "a/v1");
    let early = route(&gateway, "early").await;
    assert_eq!((&early["provider"], &early["state"]), (&"consul-tags".into(), &"ok".into()));

    let several = ["fleetgate.host=b.com", "fleetgate.routes.api.path=/api", "fleetgate.routes.api.strip_prefix=/api"];
    consul.register(&service("several", &b, &several)).await;
    by(&gateway, "b.com", "/x", "b/v1").await;
    assert_eq!(by(&gateway, "c.com", "/api/v1?q", "b/v1").await.json()["target"], "/v1?q");
    assert_eq!(send(&gateway, "c.com", "/x").await.status, 404);

    let meta = service("meta", &b, &["fleetgate"]).meta("fleetgate-path", "/meta").meta("fleetgate-weight", "7");
    consul.register(&meta).await;
    by(&gateway, "c.com", "/meta", "b/v1").await;
    assert_eq!(gateway.api("upstreams/meta").await["endpoints"][0]["weight"], 7);

    consul.register(&service("several", &b, &["fleetgate.host=new.com"])).await;
    by(&gateway, "new.com", "/", "b/v1").await;
    gateway.until_status("/api", 404).await;
    assert!(gateway.api("upstreams").await["items"].as_array().unwrap().iter().all(|item| item["name"] != "idle"));
    // A protection that is not there leaves the route closed.
    consul.register(&service("closed", &a, &["fleetgate.path=/closed", "fleetgate.middlewares=auth"])).await;
    let closed = gateway.until_status("/closed", 503).await;
    assert_eq!(closed.header("x-fleetgate-flag"), Some("NC"));
    assert!(route(&gateway, "closed").await["reasons"].to_string().contains("no middleware `auth`"));
}

/// Two versions of a service ask for different things while one replaces the other, under load.
#[tokio::test]
async fn a_rolling_deploy_that_changes_tags_fails_no_request() {
    let Some(consul) = Consul::start().await else { return };
    let (old, new) = (Origin::start("old").await, Origin::start("new").await);
    consul.register(&service("web", &old, &["fleetgate.path=/", "urlprefix-/f"])).await;
    let gateway = gateway(&consul, "fabio_tags = true", "").await;
    let load = Load::start(gateway.address(), 2, |worker, _| Request::get(["/a/x", "/f/x"][worker]));
    takes(&load, "old/v1").await;
    consul.register(&service("web", &new, &["fleetgate.path=/a", "urlprefix-/f strip=/f"])).await;
    takes(&load, "new/v1").await;
    wait::until_ok(super::SOON, "the conflict to show", || async {
        let shown = route(&gateway, "web").await;
        let told = shown["reasons"].to_string().contains("conflict") && shown["match"]["path"] == "/a";
        if told { Ok(()) } else { Err(shown) }
    })
    .await;
    load.more(200).await;
    consul.deregister("old").await;
    stops(&load, "old/v1").await;
    assert_eq!(by(&gateway, "a.com", "/f/x", "new/v1").await.json()["target"], "/x");
    load.stop().await.assert_all_ok();
    gateway.until_status("/other", 404).await;
    wait::until_ok(super::SOON, "the conflict to be over", || async {
        let shown = route(&gateway, "web").await;
        if shown["reasons"] == serde_json::json!([]) { Ok(()) } else { Err(shown) }
    })
    .await;
}

#[tokio::test]
async fn a_bad_tag_keeps_the_last_good_form_and_the_last_instance_leaves_a_route_behind() {
    let Some(consul) = Consul::start().await else { return };
    let a = Origin::start("a").await;
    consul.register(&service("web", &a, &["fleetgate.path=/web", "fleetgate.routes.b.path=/b"])).await;
    let gateway = gateway(&consul, "", "").await;
    let load = Load::start(gateway.address(), 1, |_, _| Request::get("/web"));
    consul.register(&service("web", &a, &["fleetgate.path=web", "fleetgate.routes.b.path=/c"])).await;
    rejects(&gateway, "consul-tags", &["consul:web", "/a", "`web`: a path begins with `/`"]).await;
    by(&gateway, "x", "/c", "a/v1").await;
    load.more(50).await;
    consul.register(&service("web", &a, &["fleetgate.path=/web"])).await;
    wait::until(super::SOON, "the problem to be gone", || async {
        provider(&gateway, "consul-tags").await["rejected"] == serde_json::json!([])
    })
    .await;
    load.stop().await.assert_all_ok();

    consul.deregister("a").await;
    let nobody = gateway.until_status("/web", 503).await;
    assert_eq!(nobody.header("x-fleetgate-flag"), Some("UH"));
    wait::until_ok(super::SOON, "the reason to show", || async {
        let shown = route(&gateway, "web").await["reasons"].to_string();
        if shown.contains("its last instance is gone") { Ok(()) } else { Err(shown) }
    })
    .await;
    assert_eq!(gateway.get("/web").await.status, 503, "and not 404");
    consul.register(&service("web", &a, &["fleetgate.path=/web"])).await;
    by(&gateway, "x", "/web", "a/v1").await;
}

#[tokio::test]
async fn a_route_ends_with_its_time() {
    let Some(consul) = Consul::start().await else { return };
    let a = Origin::start("a").await;
    consul.register(&service("web", &a, &["fleetgate.path=/web"])).await;
    let gateway = gateway(&consul, "route_ttl = \"1s\"", "").await;
    consul.deregister("a").await;
    gateway.until_status("/web", 503).await;
    gateway.until_status("/web", 404).await;
    assert_eq!(gateway.api("upstreams").await["items"], serde_json::json!([]));
}

#[tokio::test]
async fn a_team_claims_what_it_may_and_documents_go_first() {
    let Some(consul) = Consul::start().await else { return };
    let (a, doc) = (Origin::start("a").await, Origin::start("doc").await);
    let documents = format!(
        r#"
        [upstreams.doc]
        endpoints = ["{0}"]
        [upstreams.named]
        endpoints = ["{0}"]
        [routes.doc]
        match = {{ hosts = ["a.com"], path = "/" }}
        upstream = "doc"
        "#,
        doc.address()
    );
    let tags = ["fleetgate.host=a.com,b.com", "fleetgate.path=/x"];
    consul.register(&service("web", &a, &tags)).await;
    consul.register(&Service::new("named", "n", a.address()).tags(&["fleetgate.path=/named"])).await;
    let free = gateway(&consul, "", &documents).await;
    assert_eq!(
        send(&free, "a.com", "/x").await.served_by(),
        "doc/v1",
        "a document's route of the same host goes first"
    );
    assert_eq!(send(&free, "b.com", "/x").await.served_by(), "a/v1");
    assert_eq!(send(&free, "b.com", "/named").await.served_by(), "doc/v1", "precedence decides about upstreams, too");
    let shadowed = provider(&free, "consul-tags").await["shadowed"].to_string();
    assert!(shadowed.contains("named"), "{shadowed}");

    let bound = gateway(&consul, "tag_hosts = [\"a.com\"]\ntag_paths = [\"/x\"]", &documents).await;
    rejects(&bound, "consul-tags", &["claims the host `b.com`", "tag_hosts", "named"]).await;
    assert_eq!(send(&bound, "b.com", "/x").await.status, 404);
    consul.register(&service("web", &a, &["fleetgate.host=a.com", "fleetgate.path=/x"])).await;
    by(&bound, "a.com", "/x", "a/v1").await;
    consul.register(&service("web", &a, &["fleetgate.host=a.com", "fleetgate.path=/y"])).await;
    rejects(&bound, "consul-tags", &["claims the path `/y`", "tag_paths"]).await;
    by(&bound, "a.com", "/x", "a/v1").await;
    by(&bound, "a.com", "/y", "doc/v1").await;
}

/// The forms of fabio's documentation, fed unchanged.
#[tokio::test]
async fn fabios_tags_route_as_fabio_routes() {
    let Some(consul) = Consul::start().await else { return };
    let a = Origin::start("a").await;
    let tags = [
        "urlprefix-/css",
        "urlprefix-i.com/static",
        "urlprefix-MySite.com/",
        "urlprefix-*.wild.com/",
        "urlprefix-/folder/",
        "urlprefix-/foo/bar strip=/foo",
        "urlprefix-/bar prepend=/foo",
        "urlprefix-/dst host=dst",
        "urlprefix-/named host=other.com",
        "urlprefix-/google redirect=301,https://www.google.com/",
        "urlprefix-/away redirect=303,https://www.foo.com$path",
        "urlprefix-/news strip=/news redirect=301,https://h.test/bulletin$path",
        "urlprefix-/pre prepend=/en redirect=301,https://h.test$path",
        "urlprefix-/near alow=ip:10.0.0.0/8",
        "urlprefix-/typo strp=/typo",
        "urlprefix-/inside allow=ip:127.0.0.0/8,ip:fe80::/10",
        "urlprefix-/outside allow=ip:10.0.0.0/8",
        "urlprefix-/denied deny=ip:127.0.0.1",
        "urlprefix-/mapped deny=ip:::ffff:127.0.0.0/104",
        "urlprefix-/my.service/Method proto=tcp+sni",
        "urlprefix-/secret auth=team",
        "urlprefix-:3306 proto=tcp",
    ];
    consul.register(&service("web", &a, &tags)).await;
    let gateway = gateway(&consul, "fabio_tags = true", "").await;
    let own = a.address().to_string();
    for (host, path, status, target, sent_host) in [
        ("x.com", "/css", 200, "/css", "x.com"),
        ("x.com", "/css/a?b=c", 200, "/css/a?b=c", "x.com"),
        ("x.com", "/css2", 200, "/css2", "x.com"),
        ("x.com", "/cs", 404, "", ""),
        ("I.COM:8080", "/static/x", 200, "/static/x", "I.COM:8080"),
        ("x.com", "/static/x", 404, "", ""),
        ("mysite.com", "/anything", 200, "/anything", "mysite.com"),
        ("a.b.wild.com", "/w", 200, "/w", "a.b.wild.com"),
        ("wild.com", "/w", 404, "", ""),
        ("x.com", "/folder/x", 200, "/folder/x", "x.com"),
        ("x.com", "/folder", 404, "", ""),
        ("x.com", "/foo/bar", 200, "/bar", "x.com"),
        ("x.com", "/foo/barge/x", 200, "/barge/x", "x.com"),
        ("x.com", "/bar", 200, "/foo/bar", "x.com"),
        ("x.com", "/dst", 200, "/dst", own.as_str()),
        ("x.com", "/named", 200, "/named", "other.com"),
        ("x.com", "/google/a?b", 301, "https://www.google.com/", ""),
        ("x.com", "/away/a?b", 303, "https://www.foo.com/away/a?b", ""),
        ("x.com", "/news/foo", 301, "https://h.test/bulletin/foo", ""),
        ("x.com", "/news?q=1", 301, "https://h.test/bulletin?q=1", ""),
        ("x.com", "/pre/a", 301, "https://h.test/en/pre/a", ""),
        ("x.com", "/near", 503, "", "NC"),
        ("x.com", "/typo/a", 200, "/typo/a", "x.com"),
        ("x.com", "/inside", 200, "/inside", "x.com"),
        ("x.com", "/outside", 403, "", "UAEX"),
        ("x.com", "/mapped", 403, "", "UAEX"),
        ("x.com", "/denied", 403, "", "UAEX"),
        ("x.com", "/my.service/Method", 503, "", "NC"),
        ("x.com", "/secret", 503, "", "NC"),
    ] {
        let url = utf8_percent_encode(&format!("http://{host}{path}"), NON_ALPHANUMERIC).to_string();
        let explained = gateway.api(&format!("explain?client=127.0.0.1&url={url}")).await;
        let own_answer = explained["answer"]["status"].as_u64();
        assert_eq!(own_answer.unwrap_or(200), u64::from(status), "{host}{path}: {explained}");
        let answer = send(&gateway, host, path).await;
        assert_eq!(answer.status, status, "{host}{path}: {answer:?}");
        match status {
            200 => {
                assert_eq!(answer.json()["target"], target, "{host}{path}");
                assert_eq!(a.last_seen().unwrap().header("host"), [sent_host], "{host}{path}");
            }
            301 | 303 => assert_eq!(answer.header("location"), Some(target), "{host}{path}"),
            404 => {}
            _ => assert_eq!(answer.header("x-fleetgate-flag"), Some(sent_host), "{host}{path}"),
        }
    }
    send(&gateway, "x.com", "/foo/bar").await;
    assert_eq!(a.last_seen().unwrap().header("x-forwarded-prefix"), ["/foo"]);
    rejects(&gateway, "consul-tags", &["urlprefix-:3306", "asks for a TCP port"]).await;
    rejects(&gateway, "consul-tags", &["alow", "did you mean `allow`?", "did you mean `strip`?"]).await;
}

/// fabio's weights: the share of a route that an instance gets.
#[tokio::test]
async fn services_of_one_fabio_prefix_share_it_by_weight() {
    let Some(consul) = Consul::start().await else { return };
    let (a, b, c) = (Origin::start("a").await, Origin::start("b").await, Origin::start("c").await);
    consul.register(&service("web", &a, &["urlprefix-/w"])).await;
    consul.register(&service("web", &b, &["urlprefix-/w"])).await;
    consul.register(&service("canary", &c, &["urlprefix-/w weight=0.1"])).await;
    let gateway = gateway(&consul, "fabio_tags = true", "").await;
    let load = Load::start(gateway.address(), 2, |_, _| Request::get("/w"));
    load.more(2_000).await;
    let report = load.report();
    let share = |who: &str| report.served_by(who) as f64 / report.answers() as f64;
    assert!((0.06..0.14).contains(&share("c/v1")), "{:?}", report.served);
    for who in ["a/v1", "b/v1"] {
        assert!((0.39..0.51).contains(&share(who)), "{:?}", report.served);
    }
    consul.register(&service("canary", &c, &["urlprefix-/w weight=0.5"])).await;
    wait::until(super::SOON, "the new share", || async {
        let before = load.report();
        load.more(400).await;
        let (after, before) = (load.report(), (before.served_by("c/v1"), before.answers()));
        (after.served_by("c/v1") - before.0) * 10 > (after.answers() - before.1) * 4
    })
    .await;
    consul.deregister("c").await;
    stops(&load, "c/v1").await;
    load.stop().await.assert_all_ok();
}

/// Consul killed, started again with its data, and its token taken away: no route is lost.
#[tokio::test]
async fn no_fault_of_the_catalog_costs_a_route() {
    let Some(mut consul) = Consul::start_with_acl().await else { return };
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    consul.policy("read", READ).await;
    let (token, spare) = (consul.token(&["read"]).await, consul.token(&["read"]).await);
    consul.register(&service("web", &a, &["fleetgate.path=/web"]).checked("passing")).await;
    let config = config(&format!(
        r#"
        [discovery.consul]
        address = "{}"
        token_file = "token"
        wait = "1s"
        tags = true
        tag_networks = ["127.0.0.0/8"]
        "#,
        consul.url()
    ));
    let gateway = crate::support::gateway::Setup::new(&config).file("token", &token.secret).start().await;
    let load = Load::start(gateway.address(), 2, |_, _| Request::get("/web"));
    takes(&load, "a/v1").await;

    consul.kill();
    fails(&gateway, "consul-tags", "").await;
    load.more(200).await;
    consul.start_again().await;
    live(&gateway, "consul-tags").await;
    load.more(200).await;
    // A policy that allows nothing: `200 {}` with a leader.
    consul.policy("read", "").await;
    fails(&gateway, "consul-tags", "service:read").await;
    load.more(200).await;
    consul.policy("read", READ).await;
    live(&gateway, "consul-tags").await;
    // A deleted token: 403.
    consul.delete_token(&token).await;
    fails(&gateway, "consul-tags", "403").await;
    load.more(200).await;
    gateway.write("token", &spare.secret);
    live(&gateway, "consul-tags").await;
    consul.register(&service("more", &b, &["fleetgate.path=/more"])).await;
    by(&gateway, "x", "/more", "b/v1").await;
    load.stop().await.assert_all_ok();
}

const READ: &str = "service_prefix \"\" { policy = \"read\" } node_prefix \"\" { policy = \"read\" } \
                    key_prefix \"\" { policy = \"read\" }";

/// What is wrong is told where the team can read it, and is taken away when it is mended.
#[tokio::test]
async fn problems_stand_in_kv_until_they_are_mended() {
    let Some(consul) = Consul::start().await else { return };
    let a = Origin::start("a").await;
    consul.register(&service("web", &a, &["fleetgate.path=web"])).await;
    consul.kv_put("fleetgate/routes/bad", "{ no JSON").await;
    consul.kv_put("fleetgate-fleet/status/routes/stale", "{}").await;
    // What an earlier version wrote: removed as far as it is mended.
    consul.kv_put("fleetgate/status/routes/stale", "{}").await;
    consul.kv_put("fleetgate/status/routes/bad", "{}").await;
    let gateway = gateway(&consul, "write_status = true", "").await;
    // A second one beside it writes the same.
    let second = self::gateway(&consul, "write_status = true", "").await;
    until_told(
        &consul,
        &[("routes/bad", "consul-kv:fleetgate/routes/bad:1"), ("services/web", "a path begins with `/`")],
    )
    .await;
    until_former(&consul, &["fleetgate/status/routes/bad"]).await;
    assert_eq!(provider(&gateway, "consul-kv").await["rejected"].as_array().unwrap().len(), 1, "it is no document");
    consul.register(&service("web", &a, &["fleetgate.path=/web", "fleetgate.middlewares=Auth"])).await;
    until_told(&consul, &[("routes/bad", "consul-kv"), ("services/web", "`Auth` is not a name")]).await;
    consul.kv_delete("fleetgate/routes/bad").await;
    consul.register(&service("web", &a, &["fleetgate.path=/web"])).await;
    until_told(&consul, &[]).await;
    until_former(&consul, &[]).await;
    for gateway in [&gateway, &second] {
        by(gateway, "x", "/web", "a/v1").await;
    }
}

/// Waits until exactly these keys stand where earlier versions wrote.
async fn until_former(consul: &Consul, wanted: &[&str]) {
    wait::until_ok(super::SOON, &format!("{wanted:?} to be left"), || async {
        let left = consul.kv_keys("fleetgate/status/").await.unwrap_or_default();
        if left == wanted { Ok(()) } else { Err(left) }
    })
    .await;
}

/// Waits until exactly these keys stand below `fleetgate-fleet/status/`, each with this in it.
async fn until_told(consul: &Consul, wanted: &[(&str, &str)]) {
    wait::until_ok(super::SOON, &format!("{wanted:?} to be told"), || async {
        let keys = consul.kv_keys("fleetgate-fleet/status/").await.unwrap_or_default();
        let names: Vec<_> = wanted.iter().map(|(key, _)| format!("fleetgate-fleet/status/{key}")).collect();
        if keys != names {
            return Err(format!("{keys:?}"));
        }
        for (name, (_, part)) in names.iter().zip(wanted) {
            let value = consul.kv_raw(name).await;
            if !value.contains(part) {
                return Err(value);
            }
        }
        Ok(())
    })
    .await;
}

/// As fault case 11: what services ask for outlives a restart without Consul, and one before an empty Consul.
#[tokio::test]
async fn routes_of_registrations_outlive_a_restart_without_consul() {
    let Some(mut consul) = Consul::start().await else { return };
    let a = Origin::start("a").await;
    consul.register(&service("web", &a, &["fleetgate.path=/web", "urlprefix-/fabio"])).await;
    let state = "[discovery]\nstate_dir = \"state\"";
    let gateway = gateway(&consul, "fabio_tags = true", state).await;
    by(&gateway, "x.com", "/web", "a/v1").await;
    super::saved::saves(&gateway, "consul.json", &[&a.address().to_string(), "urlprefix-/fabio"]).await;
    consul.kill();
    let gateway = gateway.restart().await;
    let paths = ["/web", "/fabio"];
    let load = Load::start(gateway.address(), 2, move |worker, _| Request::get(paths[worker]));
    fails(&gateway, "consul-tags", "").await;
    load.more(200).await;
    consul.start_empty().await;
    live(&gateway, "consul-tags").await;
    load.more(200).await;
    load.stop().await.assert_all_ok();
    let b = Origin::start("b").await;
    consul.register(&service("web", &b, &["fleetgate.path=/other"])).await;
    by(&gateway, "x.com", "/other", "b/v1").await;
    assert_eq!(send(&gateway, "x.com", "/fabio").await.status, 404, "registered again, without it");
}
