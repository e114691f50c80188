//! An agent that speaks TLS, and wants a client's certificate.

use std::cell::Cell;
use std::path::Path;
use std::process::Command;

use fleetgate::spec::settings::{ClientTls, ConsulProvider as Settings};
use serde_json::json;

use super::{Running, SOON, failure, settings};
use crate::support::consul::{Consul, Service};
use crate::support::{place, registry, wait};

/// Makes an authority and certificates for `server.dc1.consul` and a client, by Consul's own means.
pub(crate) fn certificates(folder: &Path) -> Option<ClientTls> {
    let binary = registry::binary("consul")?;
    for arguments in ["ca create", "cert create -server -dc dc1", "cert create -client -dc dc1"] {
        let made = Command::new(&binary).arg("tls").args(arguments.split(' ')).current_dir(folder).output().unwrap();
        assert!(made.status.success(), "{made:?}");
    }
    Some(ClientTls {
        ca: Some(folder.join("consul-agent-ca.pem")),
        certificate: Some(folder.join("dc1-client-consul-0.pem")),
        key: Some(folder.join("dc1-client-consul-0-key.pem")),
        server_name: Some("server.dc1.consul".to_owned()),
    })
}

/// An agent that speaks TLS with the certificates in `folder`, and its URL.
pub(crate) async fn secured(folder: &Path) -> Option<(Consul, String)> {
    let https = Cell::new(0);
    let consul = Consul::start_with(|address| {
        let [port] = place::free_ports(address);
        https.set(port);
        json!({
            "ports": { "https": port },
            "ca_file": folder.join("consul-agent-ca.pem"),
            "cert_file": folder.join("dc1-server-consul-0.pem"),
            "key_file": folder.join("dc1-server-consul-0-key.pem"),
            "verify_incoming_https": true,
        })
    })
    .await?;
    let url = format!("https://{}:{}", consul.address, https.get());
    Some((consul, url))
}

#[tokio::test]
async fn an_agent_is_verified_and_shown_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let Some(tls) = certificates(folder.path()) else { return };
    let Some((consul, url)) = secured(folder.path()).await else { return };
    consul.register(&Service::new("web", "a", ([127, 0, 0, 1], 1001).into())).await;
    let settings = settings(&url);

    let running = Running::start(&Settings { tls: tls.clone(), ..settings.clone() }, &["web"]);
    running.shows("web", "a").await;
    consul.register(&Service::new("web", "b", ([127, 0, 0, 1], 1002).into())).await;
    running.shows("web", "a b").await;
    running.stop().await;

    for (bad, why) in [
        (ClientTls { server_name: None, ..tls.clone() }, "certificate not valid for name"),
        (ClientTls { ca: None, ..tls.clone() }, "UnknownIssuer"),
        // Its connection is closed with our request unread: the reset may overtake the alert that says why.
        (ClientTls { certificate: None, key: None, ..tls.clone() }, ""),
    ] {
        let running = Running::start(&Settings { tls: bad, ..settings.clone() }, &["web"]);
        let watch = running.watch("web");
        wait::until_ok(SOON, why, || async {
            match failure(&watch) {
                Some(text) if text.contains(why) => Ok(()),
                other => Err(other),
            }
        })
        .await;
        assert_eq!(running.shown("web"), "-");
        running.stop().await;
    }
}

/// Fault case 30 as far as certificates go: wrong at first, put right, exchanged, and spoilt while connections last.
#[tokio::test]
async fn certificates_may_change_at_any_time() {
    let (folder, used) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let Some(good) = certificates(folder.path()) else { return };
    let Some((mut consul, url)) = secured(folder.path()).await else { return };
    let other = tempfile::tempdir().unwrap();
    let Some(foreign) = certificates(other.path()) else { return };
    // What is configured are copies.
    let path = |name: &str| used.path().join(name);
    let put = |tls: &ClientTls| {
        for (from, name) in [(&tls.ca, "ca.pem"), (&tls.certificate, "cert.pem"), (&tls.key, "key.pem")] {
            std::fs::copy(from.as_ref().unwrap(), path(name)).unwrap();
        }
    };
    put(&foreign);
    let tls = ClientTls {
        ca: Some(path("ca.pem")),
        certificate: Some(path("cert.pem")),
        key: Some(path("key.pem")),
        server_name: good.server_name.clone(),
    };
    let at = |port| ([127, 0, 0, 1], port).into();
    consul.register(&Service::new("web", "a", at(1001))).await;
    let running = Running::start(&Settings { tls, ..settings(&url) }, &["web"]);
    let watch = running.watch("web");
    wait::until(SOON, "a refusal", || async { failure(&watch).is_some_and(|text| text.contains("certificate")) }).await;
    put(&good);
    running.shows("web", "a").await;

    // A key that does not fit, and no certificate at all: what was good stays in use.
    std::fs::copy(foreign.key.as_ref().unwrap(), path("key.pem")).unwrap();
    std::fs::write(path("ca.pem"), "no certificate").unwrap();
    consul.register(&Service::new("web", "b", at(1002))).await;
    running.shows("web", "a b").await;
    consul.kill();
    consul.start_again().await;
    consul.register(&Service::new("web", "c", at(1003))).await;
    running.shows("web", "a b c").await;
    running.stop().await;
}

/// Fault case 24: over HTTP/2 five hundred services are watched on three connections.
#[tokio::test]
async fn many_services_share_few_connections() {
    let folder = tempfile::tempdir().unwrap();
    let Some(tls) = certificates(folder.path()) else { return };
    let Some((consul, url)) = secured(folder.path()).await else { return };
    let names: Vec<String> = (0..500).map(|number| format!("s{number:03}")).collect();
    let at = |port| ([127, 0, 0, 1], port).into();
    for name in &names {
        consul.register(&Service::new(name, &format!("{name}-1"), at(1001))).await;
    }
    let proxy = crate::support::proxy::Proxy::start(url.trim_start_matches("https://").parse().unwrap()).await;
    let words: Vec<&str> = names.iter().map(String::as_str).collect();
    let running = Running::start(&Settings { tls, ..settings(&format!("https://{}", proxy.address())) }, &words);
    for name in &words {
        running.shows(name, &format!("{name}-1")).await;
    }
    let polled = || words.iter().filter(|name| running.watch(name).is_polled()).count();
    assert_eq!(polled(), 0);
    for name in ["s000", "s250", "s499"] {
        consul.register(&Service::new(name, &format!("{name}-2"), at(1002))).await;
        running.shows(name, &format!("{name}-1 {name}-2")).await;
    }
    assert!(proxy.connections() <= 3, "{} connections", proxy.connections());
    running.stop().await;
}
