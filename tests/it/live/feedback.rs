//! What is wrong with documents of a real etcd is told there, for the teams that wrote them.

use super::{SOON, live, provider};
use crate::support::client::get;
use crate::support::etcd::Etcd;
use crate::support::gateway::Gateway;
use crate::support::origin::Origin;
use crate::support::wait;

async fn gateway(etcd: &Etcd, more: &str) -> Gateway {
    Gateway::start(&format!(
        r#"
        listeners.web = {{ address = "127.0.0.1:0" }}
        admin.address = "127.0.0.1:0"
        [discovery.etcd]
        endpoints = ["{}"]
        write_status = true
        {more}
        "#,
        etcd.url()
    ))
    .await
}

/// Waits until exactly these keys stand below `/fleetgate-fleet/status/`, each with this in it.
async fn until_told(etcd: &Etcd, wanted: &[(&str, &str)]) {
    wait::until_ok(SOON, &format!("{wanted:?} to be told"), || async {
        let told = etcd.below("/fleetgate-fleet/status/").await;
        let fits = told.len() == wanted.len()
            && told.iter().zip(wanted).all(|((key, text), (name, part))| {
                key.strip_prefix("/fleetgate-fleet/status/") == Some(name) && text.contains(part)
            });
        if fits { Ok(()) } else { Err(told) }
    })
    .await;
}

/// Waits until exactly these keys stand where earlier versions wrote.
async fn until_former(etcd: &Etcd, wanted: &[&str]) {
    wait::until_ok(SOON, &format!("{wanted:?} to be left"), || async {
        let left: Vec<String> = etcd.below("/fleetgate/status/").await.into_iter().map(|(key, _)| key).collect();
        if left == wanted { Ok(()) } else { Err(left) }
    })
    .await;
}

/// Updates that a provider has looked at.
async fn updates(gateway: &Gateway) -> (u64, u64) {
    let updates = &provider(gateway, "etcd").await["updates"];
    (updates["applied"].as_u64().unwrap(), updates["unchanged"].as_u64().unwrap())
}

#[tokio::test]
async fn problems_stand_in_etcd_until_they_are_mended() {
    let Some(etcd) = Etcd::start().await else { return };
    let a = Origin::start("a").await;
    etcd.put("/fleetgate/upstreams/web", &format!(r#"{{"endpoints":["{}"]}}"#, a.address())).await;
    let route = |path: &str| format!(r#"{{"match":{{"path":"{path}"}},"upstream":"web"}}"#);
    etcd.put("/fleetgate/routes/web", &route("/web")).await;
    etcd.put("/fleetgate/routes/bad", "{ no JSON").await;
    etcd.put("/fleetgate/routes/Bad Name", &route("/x")).await;
    etcd.put("/fleetgate-fleet/status/routes/stale", "{}").await;
    // What an earlier version wrote: removed as far as it is mended.
    etcd.put("/fleetgate/status/routes/stale", "{}").await;
    etcd.put("/fleetgate/status/routes/bad", "{}").await;
    let gateway = gateway(&etcd, "").await;
    // A second one beside it writes the same.
    let second = self::gateway(&etcd, "").await;
    until_former(&etcd, &["/fleetgate/status/routes/bad"]).await;
    until_told(&etcd, &[("other", "Bad Name"), ("routes/bad", "etcd:/fleetgate/routes/bad:1")]).await;
    assert_eq!(
        provider(&gateway, "etcd").await["rejected"].as_array().unwrap().len(),
        2,
        "what is told is no document"
    );

    // Whatever changes there, no gateway looks at its documents again.
    let before = updates(&gateway).await;
    for number in 0..50 {
        etcd.put("/fleetgate-fleet/status/elsewhere", &number.to_string()).await;
    }
    etcd.delete_prefix("/fleetgate-fleet/status/elsewhere").await;
    etcd.put("/fleetgate/routes/more", &route("/more")).await;
    gateway.until_status("/more", 200).await;
    assert_eq!(updates(&gateway).await, (before.0 + 1, before.1));

    etcd.put("/fleetgate/routes/bad", &route("bad")).await;
    until_told(&etcd, &[("other", "Bad Name"), ("routes/bad", "a path begins with `/`")]).await;
    etcd.put("/fleetgate/routes/bad", &route("/bad")).await;
    etcd.delete("/fleetgate/routes/Bad Name").await;
    until_told(&etcd, &[]).await;
    until_former(&etcd, &[]).await;
    for gateway in [&gateway, &second] {
        live(gateway, "etcd").await;
        assert_eq!(get(gateway.address(), "/web").await.served_by(), "a/v1");
        assert!(!gateway.stderr().contains("cannot write"), "{}", gateway.stderr().text());
        assert!(!gateway.stderr().contains("holding back"), "{}", gateway.stderr().text());
    }
}

/// A user that may not write is told so once, and nothing else suffers.
#[tokio::test]
async fn a_user_that_may_only_read_reads_as_ever() {
    let Some(etcd) = Etcd::start().await else { return };
    let a = Origin::start("a").await;
    etcd.reader("reader", "secret", "/fleetgate/").await;
    etcd.enable_auth("root").await;
    let gateway = gateway(&etcd, "user = \"reader\"\npassword = \"secret\"").await;
    etcd.put("/fleetgate/routes/bad", "{ no JSON").await;
    wait::until_ok(SOON, "a word about the permission", || async {
        let said = gateway.stderr().text();
        if said.contains("cannot write below /fleetgate-fleet/status/ in etcd") { Ok(()) } else { Err(said) }
    })
    .await;
    etcd.put("/fleetgate/upstreams/web", &format!(r#"{{"endpoints":["{}"]}}"#, a.address())).await;
    etcd.put("/fleetgate/routes/web", r#"{"match":{"path":"/web"},"upstream":"web"}"#).await;
    gateway.until_status("/web", 200).await;
    live(&gateway, "etcd").await;
    assert_eq!(etcd.below("/fleetgate-fleet/status/").await, []);
}
