//! What a gateway serves before it knows everything: registries that are away, or slow, as it starts for the first time.

use serde_json::json;

use super::{SOON, config, saved::saves};
use crate::support::client::Request;
use crate::support::consul::Consul;
use crate::support::etcd::Etcd;
use crate::support::gateway::{Gateway, Setup};
use crate::support::load::Load;
use crate::support::origin::Origin;
use crate::support::wait;

/// A route of a file that takes everything, and the middleware that a route of a registry needs.
fn open_route(origin: &Origin, more: &str) -> String {
    config(&format!(
        r#"
        {more}
        [upstreams.app]
        endpoints = ["{}"]
        [routes.open]
        match = {{ path = "/" }}
        upstream = "app"
        [middlewares.keys]
        api_key = {{ header = "x-key" }}
        "#,
        origin.address()
    ))
}

const PROTECTED: &str = r#"{"match":{"path":"/admin"},"upstream":"app","middlewares":["keys"]}"#;

/// Every path is closed, the one of the open route too, and `/readyz` and `explain` name the provider.
async fn assert_closed(gateway: &Gateway, provider: &str) {
    for path in ["/", "/admin"] {
        let answer = gateway.get(path).await;
        assert_eq!((answer.status, answer.header("x-fleetgate-flag")), (503, Some("NC")), "{}", answer.text());
    }
    let (status, text) = gateway.admin_get("/readyz").await;
    assert!(status == 503 && text.contains(&format!("{provider} has not been read yet")), "{status}: {text}");
    let explained = gateway.api("explain?method=GET&url=http://a.test/").await;
    assert_eq!(explained["answer"]["flag"], "NC", "{explained}");
}

/// S-H2c: a registry that is away, and of which nothing was saved, may protect what a file serves openly.
#[tokio::test]
async fn nothing_is_served_before_every_registry_of_documents_was_read() {
    let (Some(mut consul), Some(mut etcd)) = (Consul::start().await, Etcd::start().await) else { return };
    let origin = Origin::start("a").await;
    consul.kv_put("fleetgate/routes/admin", PROTECTED).await;
    etcd.put("/fleetgate/routes/admin", PROTECTED).await;
    consul.terminate().await;
    etcd.kill();
    let of_consul = format!("[discovery]\nstate_dir = \"off\"\n[discovery.consul]\naddress = \"{}\"", consul.url());
    let of_etcd = format!("[discovery]\nstate_dir = \"off\"\n[discovery.etcd]\nendpoints = [\"{}\"]", etcd.url());
    // The limit is for endpoints: it opens nothing.
    let limited = |discovery: &str| open_route(&origin, &format!("runtime.ready_timeout = \"1ms\"\n{discovery}"));
    let gateways = [
        (Setup::new(&limited(&of_consul)).start_listening().await, "consul-kv"),
        (Setup::new(&limited(&of_etcd)).start_listening().await, "etcd"),
    ];
    for (gateway, provider) in &gateways {
        assert_closed(gateway, provider).await;
    }
    consul.start_again().await;
    etcd.start_again().await;
    for (mut gateway, _) in gateways {
        let load = Load::start(gateway.address(), 2, |_, _| Request::get("/admin"));
        gateway.wait_ready().await;
        gateway.until_status("/", 200).await;
        gateway.until_status("/admin", 401).await;
        let report = load.stop().await;
        assert!(report.statuses.keys().all(|status| [401, 503].contains(status)), "{:?}", report.statuses);
    }
}

/// What may be missing keeps nothing closed, and comes in when it can.
#[tokio::test]
async fn optional_documents_may_come_later() {
    let Some(mut consul) = Consul::start().await else { return };
    let origin = Origin::start("a").await;
    consul.kv_put("fleetgate/routes/late", r#"{"match":{"path":"/late","methods":["POST"]},"upstream":"app"}"#).await;
    consul.terminate().await;
    let gateway = Gateway::start(&open_route(
        &origin,
        &format!(
            "[discovery]\nstate_dir = \"state\"\noptional = [\"consul-kv\"]\n[discovery.consul]\naddress = \"{}\"",
            consul.url()
        ),
    ))
    .await;
    gateway.until_status("/", 200).await;
    consul.start_again().await;
    wait::until(SOON, "the route of KV", || async {
        gateway.api("routes").await["items"].as_array().is_some_and(|routes| routes.len() == 2)
    })
    .await;
    saves(&gateway, "consul-kv.json", &["fleetgate/routes/late"]).await;
}

/// Without optional documents a missing registry never counts as an empty one that was saved.
#[tokio::test]
async fn what_was_missing_is_not_saved_as_empty() {
    let Some(mut consul) = Consul::start().await else { return };
    let origin = Origin::start("a").await;
    consul.kv_put("fleetgate/routes/admin", PROTECTED).await;
    consul.terminate().await;
    let with = |optional: &str| {
        open_route(
            &origin,
            &format!(
                "[discovery]\nstate_dir = \"state\"\n{optional}\n[discovery.consul]\naddress = \"{}\"",
                consul.url()
            ),
        )
    };
    let gateway = Gateway::start(&with("optional = [\"consul-kv\"]")).await;
    gateway.until_status("/", 200).await;
    gateway.write_config(&with(""));
    let gateway = gateway.restart_unready().await;
    assert_closed(&gateway, "consul-kv").await;
}

/// A gateway of files alone never answers before it has read them: whoever connects in the first moment waits.
#[tokio::test]
async fn files_are_read_before_the_first_request_is_answered() {
    let origin = Origin::start("a").await;
    let routes =
        (0..400).map(|number| format!("[routes.r{number}]\nmatch = {{ path = \"/{number}\" }}\nupstream = \"app\"\n"));
    let gateway = Setup::new(&open_route(&origin, "[discovery]\nstate_dir = \"off\"\nfile.paths = [\"more/*.toml\"]"))
        .file("more/a.toml", &routes.collect::<String>())
        .start_listening()
        .await;
    let load = Load::start(gateway.address(), 4, |worker, _| Request::get(&format!("/{}", worker * 99)));
    load.more(200).await;
    load.stop().await.assert_all_ok();
    assert_eq!(gateway.api("providers").await["items"][0]["rejected"], json!([]));
}
