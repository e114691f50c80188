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
fn certificates(folder: &Path) -> Option<ClientTls> {
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

#[tokio::test]
async fn an_agent_is_verified_and_shown_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let Some(tls) = certificates(folder.path()) else { return };
    let https = Cell::new(0);
    let consul = Consul::start_with(|address| {
        let [port] = place::free_ports(address);
        https.set(port);
        json!({
            "ports": { "https": port },
            "ca_file": folder.path().join("consul-agent-ca.pem"),
            "cert_file": folder.path().join("dc1-server-consul-0.pem"),
            "key_file": folder.path().join("dc1-server-consul-0-key.pem"),
            "verify_incoming_https": true,
        })
    })
    .await
    .unwrap();
    consul.register(&Service::new("web", "a", ([127, 0, 0, 1], 1001).into())).await;
    let settings = settings(&format!("https://{}:{}", consul.address, https.get()));

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
