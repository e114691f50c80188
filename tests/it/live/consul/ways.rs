//! The ways to a Consul: agents that stop, sockets, certificates and places that are wrong, with traffic flowing.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use fleetgate::spec::settings::ClientTls;
use serde_json::{Value, json};

use super::super::{SOON, config, fails, live, provider, stops, takes};
use crate::consul::tls::{certificates, secured};
use crate::support::client::Request;
use crate::support::consul::{Consul, Service};
use crate::support::gateway::{Gateway, Setup};
use crate::support::load::Load;
use crate::support::origin::Origin;
use crate::support::pki::Authority;
use crate::support::wait;

fn service(origin: &Origin) -> Service {
    Service::new("web", &origin.name, origin.address()).checked("passing")
}

/// A configuration with the Consul at this address, and more keys of it.
fn at(url: &str, more: &str) -> String {
    config(&format!(
        r#"
        discovery.consul = {{ address = "{url}"{more} }}
        upstreams.web.consul.service = "web"
        routes.web = {{ match.path = "/", upstream = "web" }}
        "#
    ))
}

fn load(gateway: &Gateway) -> Load {
    Load::start(gateway.address(), 2, |_, _| Request::get("/"))
}

/// Fault case 8: an agent that is stopped answers its blocked queries once more, with what it has or an error.
#[tokio::test]
async fn an_agent_that_is_stopped_and_started_costs_nothing() {
    let Some(mut consul) = Consul::start().await else { return };
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    consul.register(&service(&a)).await;
    let gateway = Gateway::start(&at(&consul.url(), "")).await;
    let load = load(&gateway);
    takes(&load, "a/v1").await;
    consul.terminate().await;
    fails(&gateway, "consul", "").await;
    load.more(200).await;
    consul.start_again().await;
    live(&gateway, "consul").await;
    // It plays its log back as it starts: who asks it then may see less than there is, and believes none of it.
    let events = gateway.api("events").await.to_string();
    assert!(!events.contains("endpoint_removed"), "{events}");
    consul.register(&service(&b)).await;
    takes(&load, "b/v1").await;
    load.stop().await.assert_all_ok();
}

/// Fault case 30 as far as sockets go: a killed agent leaves its own behind, the next one makes it anew.
#[tokio::test]
async fn a_socket_that_is_left_behind_and_made_anew_costs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let socket = folder.path().join("consul.sock");
    let both = |address| json!({ "addresses": { "http": format!("{address} unix://{}", socket.display()) } });
    let Some(mut consul) = Consul::start_with(both).await else { return };
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    consul.register(&service(&a)).await;
    let gateway = Gateway::start(&at(&format!("unix://{}", socket.display()), "")).await;
    let load = load(&gateway);
    takes(&load, "a/v1").await;
    consul.kill();
    fails(&gateway, "consul", "").await;
    assert!(socket.exists(), "left behind");
    load.more(200).await;
    consul.start_again().await;
    consul.register(&service(&b)).await;
    takes(&load, "b/v1").await;
    live(&gateway, "consul").await;
    load.stop().await.assert_all_ok();
}

/// Puts certificates where [`OUR_TLS`] looks for them.
pub(super) fn put(tls: &ClientTls, used: &Path) {
    for (from, name) in [(&tls.ca, "ca.pem"), (&tls.certificate, "cert.pem"), (&tls.key, "key.pem")] {
        fs::copy(from.as_ref().unwrap(), used.join(name)).unwrap();
    }
}

/// TLS with an agent, to be added to its settings.
pub(super) const OUR_TLS: &str = ", tls = { ca = \"ca.pem\", certificate = \"cert.pem\", key = \"key.pem\", \
                       server_name = \"server.dc1.consul\" }";

/// Fault case 30 as far as certificates go: of another authority, so that neither side believes the other.
#[tokio::test]
async fn certificates_that_are_wrong_cost_nothing_and_are_put_right() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let Some(good) = certificates(folder.path()) else { return };
    let Some(foreign) = certificates(other.path()) else { return };
    let Some((mut consul, url)) = secured(folder.path()).await else { return };
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    consul.register(&service(&a)).await;
    let setup = Setup::new(&at(&url, OUR_TLS));
    put(&good, setup.folder());
    let gateway = setup.start().await;
    let load = load(&gateway);
    takes(&load, "a/v1").await;

    put(&foreign, gateway.folder());
    consul.kill();
    consul.start_again().await;
    fails(&gateway, "consul", "certificate").await;
    consul.register(&service(&b)).await;
    load.more(200).await;
    let shown = gateway.endpoints("web").await;
    assert_eq!(shown.len(), 1, "{shown:?}");
    put(&good, gateway.folder());
    takes(&load, "b/v1").await;
    live(&gateway, "consul").await;
    load.stop().await.assert_all_ok();
}

/// Fault case 30, too: of the server's certificate nobody thought in time.
#[tokio::test]
async fn a_certificate_that_has_expired_costs_nothing_and_is_renewed() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new("authority"));
    let write = |folder: &Path, name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    write(folder.path(), "consul-agent-ca.pem", &authority.pem());
    let valid_until = |year| {
        let issued = authority.issue_until("server", &["server.dc1.consul"], year);
        write(folder.path(), "dc1-server-consul-0.pem", &issued.cert);
        write(folder.path(), "dc1-server-consul-0-key.pem", &issued.key);
    };
    valid_until(2060);
    let Some((mut consul, url)) = secured(folder.path()).await else { return };
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    consul.register(&service(&a)).await;
    let own = authority.issue("gateway", &["gateway.example"]);
    let setup = Setup::new(&at(&url, OUR_TLS));
    for (name, text) in [("ca.pem", &authority.pem()), ("cert.pem", &own.cert), ("key.pem", &own.key)] {
        write(setup.folder(), name, text);
    }
    let gateway = setup.start().await;
    let load = load(&gateway);
    takes(&load, "a/v1").await;

    valid_until(2025);
    consul.kill();
    consul.start_again().await;
    fails(&gateway, "consul", "expired").await;
    consul.register(&service(&b)).await;
    load.more(200).await;
    let shown = gateway.endpoints("web").await;
    assert_eq!(shown.len(), 1, "{shown:?}");
    valid_until(2060);
    consul.kill();
    consul.start_again().await;
    takes(&load, "b/v1").await;
    live(&gateway, "consul").await;
    load.stop().await.assert_all_ok();
}

/// Fault case 31. There is no filter to mistype; a datacenter that is not there is refused by the same status, and asked
/// for no more than once a minute, while the rest goes on.
#[tokio::test]
async fn a_datacenter_that_is_not_there_is_named_and_not_asked_again_and_again() {
    let Some(consul) = Consul::start().await else { return };
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    consul.register(&service(&a)).await;
    let typo = |datacenter: &str| {
        let elsewhere = format!(
            "upstreams.far.consul = {{ service = \"web\", datacenter = \"{datacenter}\" }}\n\
             routes.far = {{ match.path = \"/far\", upstream = \"far\" }}"
        );
        format!("{}{elsewhere}", at(&consul.url(), ", wait = \"1s\""))
    };
    let mut gateway = Setup::new(&typo("nowhere")).launch().await;
    wait::until(SOON, "the listeners", || async { gateway.stdout().contains("admin ") }).await;
    gateway.until_status("/", 200).await;
    let load = load(&gateway);
    fails(&gateway, "consul", "No path to datacenter").await;
    let watch = async |far: bool| -> Value {
        let provider = provider(&gateway, "consul").await;
        let watches = provider["watches"].as_array().unwrap();
        let of_far = |watch: &&Value| watch["name"].as_str().unwrap().contains("nowhere") == far;
        watches.iter().find(of_far).unwrap().clone()
    };
    // Five waits of the other one: time for a dozen tries, were it taken for a fault that passes.
    let wakeups = async || provider(&gateway, "consul").await["cost"]["wakeups"].as_u64().unwrap();
    let before = wakeups().await;
    wait::until(SOON, "five waits to end", || async { wakeups().await >= before + 5 }).await;
    assert_eq!(watch(true).await["failures"], 1, "{}", watch(true).await);
    assert_eq!(watch(false).await["state"], "live", "{}", watch(false).await);
    consul.register(&service(&b)).await;
    takes(&load, "b/v1").await;
    assert_eq!(gateway.until_status("/far", 503).await.header("x-fleetgate-flag"), Some("UH"));

    gateway.write_config(&typo("dc1"));
    gateway.reload();
    gateway.wait_ready().await;
    gateway.until_status("/far", 200).await;
    consul.deregister("b").await;
    stops(&load, "b/v1").await;
    load.stop().await.assert_all_ok();
}
