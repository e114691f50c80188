//! Which certificate a client is shown, and how it is exchanged.

use std::io::Read as _;
use std::time::Duration;

use serde_json::json;

use super::{exchange, setup};
use crate::support::consul::Consul;
use crate::support::etcd::Etcd;
use crate::support::gateway::{Gateway, Setup};
use crate::support::origin::Origin;
use crate::support::pki::{Authority, Issued};
use crate::support::tls::{Client, Setup as ClientSetup, empty, request};
use crate::support::wait;

const SOON: Duration = Duration::from_secs(30);

/// Waits until who asks for `host` is shown this certificate.
async fn shows(gateway: &Gateway, client: &Client, host: &str, certificate: &Issued) {
    wait::until_ok(SOON, &format!("the certificate for {host}"), || async {
        let shown = client.connect(gateway.listener("secure"), host).await.map_err(|error| error.to_string())?;
        if shown.certificate() == certificate.der { Ok(()) } else { Err("another".to_owned()) }
    })
    .await;
}

/// Waits until the admin API tells of a rejected item with this text.
async fn rejected(gateway: &Gateway, text: &str) {
    wait::until_ok(SOON, &format!("a word about {text}"), || async {
        let providers = gateway.api("providers").await.to_string();
        if providers.contains(text) { Ok(()) } else { Err(providers) }
    })
    .await;
}

#[tokio::test]
async fn the_name_that_a_client_asks_for_decides() {
    let (origin, authority) = (Origin::start("app").await, Authority::new("authority"));
    let web = authority.issue("web", &["api.example.com"]);
    let (wild, default) = (authority.issue("wild", &["*.example.com"]), authority.issue("default", &["fallback"]));
    let mut setup = setup(&origin, "", &web);
    for (name, issued) in [("wild", &wild), ("default", &default)] {
        setup = setup.file(&format!("{name}.pem"), &issued.cert).file(&format!("{name}-key.pem"), &issued.key);
    }
    let gateway = setup.start().await;
    let further = "[certificates.wild]\ncert = \"wild.pem\"\nkey = \"wild-key.pem\"\n";
    let config = std::fs::read_to_string(gateway.folder().join("fleetgate.toml")).unwrap();
    gateway.write_config(&format!("{config}\n{further}"));
    let client = Client::trusting(&authority);
    shows(&gateway, &client, "api.example.com", &web).await;
    shows(&gateway, &client, "other.example.com", &wild).await;
    let unknown =
        async || gateway.metric("fleetgate_tls_handshakes_total", &[("result", "unknown_name")]).await.unwrap();
    let before = unknown().await;
    let refused = client.connect(gateway.listener("secure"), "unknown.test").await.unwrap_err();
    assert!(refused.to_string().contains("UnrecognisedName"), "{refused}");
    let nameless = Client::new(&ClientSetup { names_host: false, ..ClientSetup::trusting(&authority) });
    let refused = nameless.connect(gateway.listener("secure"), "fallback").await.unwrap_err();
    assert!(refused.to_string().contains("UnrecognisedName"), "{refused}");
    assert_eq!(unknown().await, before + 2.0);

    let with_default =
        format!("{further}[certificates.z]\ncert = \"default.pem\"\nkey = \"default-key.pem\"\ndefault = true\n");
    gateway.write_config(&format!("{config}\n{with_default}"));
    shows(&gateway, &nameless, "fallback", &default).await;
    shows(&gateway, &client, "api.example.com", &web).await;
    let (status, answer) = client.get(gateway.listener("secure"), "api.example.com", "/x?y=1").await.unwrap();
    assert_eq!(status, 200, "{answer}");
    let seen = origin.last_seen().unwrap();
    assert_eq!(seen.header("x-forwarded-proto"), ["https"]);
    let logged = gateway.until_logged("the request", |line| line["path"] == "/x").await;
    assert_eq!((&logged["listener"], &logged["protocol"]), (&json!("secure"), &json!("HTTP/1.1")));
}

/// A pair in files: exchanged under open connections, and kept where the new one is bad.
#[tokio::test]
async fn a_certificate_is_exchanged_without_dropping_a_connection() {
    let (origin, authority) = (Origin::start("app").await, Authority::new("authority"));
    let (first, second) = (authority.issue("1", &["a.example"]), authority.issue_until("2", &["a.example"], 2050));
    let gateway = setup(&origin, "", &first).start().await;
    let client = Client::trusting(&authority);
    let address = gateway.listener("secure");
    let mut open = client.connect(address, "a.example").await.unwrap().http1().await;
    let mut send = async || {
        open.ready().await.unwrap();
        let sent = open.send_request(request("GET", "/").header("host", "a.example").body(empty()).unwrap());
        sent.await.unwrap().status().as_u16()
    };
    assert_eq!(send().await, 200);
    let expires =
        async || gateway.metric("fleetgate_certificate_expires_timestamp_seconds", &[("certificate", "web")]).await;
    assert_eq!(expires().await, Some(2_840_140_800.0));

    exchange(&gateway, &second);
    shows(&gateway, &client, "a.example", &second).await;
    assert_eq!(send().await, 200, "the connection from before goes on");
    assert_eq!(expires().await, Some(2_524_608_000.0));

    gateway.write("web-key.pem", &first.key);
    rejected(&gateway, "it is not the key of the certificate").await;
    gateway.write("web.pem", "nothing");
    rejected(&gateway, "there is no certificate in it").await;
    shows(&gateway, &client, "a.example", &second).await;
    assert_eq!(send().await, 200);
    exchange(&gateway, &first);
    shows(&gateway, &client, "a.example", &first).await;

    // Expired is a word, not an end: some clients do not care, and no certificate is worse.
    let expired = authority.issue_until("old", &["a.example"], 2025);
    exchange(&gateway, &expired);
    wait::until(SOON, "a word about it", || async {
        gateway.api("status").await.to_string().contains("the certificate has expired on 2025-01-01T00:00:00Z")
    })
    .await;
    let refused = client.connect(address, "a.example").await.unwrap_err();
    assert!(refused.to_string().contains("certificate expired"), "{refused}");
    assert_eq!(send().await, 200);
    keeps_keys_to_itself(&gateway, &[&first, &second, &expired]).await;
}

/// What `check` knows of certificates: bad pairs, old ones, none at all.
#[tokio::test]
async fn mistakes_are_told_before_anything_runs() {
    let (origin, authority) = (Origin::start("app").await, Authority::new("authority"));
    let (good, expired) = (authority.issue("1", &["a.example"]), authority.issue_until("2", &["a.example"], 2025));
    let told = |issued: &Issued| {
        let output = setup(&origin, "", issued).output(&["check", "--config", "fleetgate.toml"]);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(told(&good), (Some(0), String::new()));
    let (status, text) = told(&expired);
    let warning = "certificates.web: warning: the certificate has expired on 2025-01-01T00:00:00Z\n";
    assert!(status == Some(0) && text.starts_with("fleetgate.toml:6:22: ") && text.ends_with(warning), "{text}");
    let (status, text) = told(&Issued { key: expired.key, ..good });
    let wrong = "certificates.web.key: it is not the key of the certificate";
    assert!(status == Some(1) && text.contains(wrong), "{text}");
    for (registry, status, told) in [
        ("", Some(1), "listeners.a.tls: there is no certificate to show: give one, `[certificates.NAME]`"),
        ("discovery.etcd = {}", Some(0), ""),
    ] {
        let bare = Setup::new(&format!("listeners.a = {{ address = \"127.0.0.1:0\", tls = {{}} }}\n{registry}\n"));
        let output = bare.output(&["check", "--config", "fleetgate.toml"]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.code() == status && text.contains(told), "{text}");
    }
}

/// No key is in what the gateway tells.
async fn keeps_keys_to_itself(gateway: &Gateway, issued: &[&Issued]) {
    let mut told = gateway.metrics().await;
    for page in ["status", "config", "providers", "events", "routes"] {
        told += &gateway.api(page).await.to_string();
    }
    told += &gateway.stdout().text();
    told += &gateway.stderr().text();
    assert!(told.contains("certificate_changed"), "the history has it: {told}");
    for Issued { key, .. } in issued {
        for line in key.lines().filter(|line| !line.starts_with('-')) {
            assert!(!told.contains(line), "a key is told: {told}");
        }
    }
}

fn of_registry(section: &str, origin: &Origin) -> Setup {
    Setup::new(&format!(
        r#"
        listeners.secure = {{ address = "127.0.0.1:0", tls = {{}} }}
        admin.address = "127.0.0.1:0"
        discovery.state_dir = "state"
        {section}
        [upstreams.app]
        endpoints = ["{}"]
        [routes.all]
        match = {{ path = "/" }}
        upstream = "app"
        "#,
        origin.address()
    ))
}

fn document(issued: &Issued) -> String {
    json!({ "cert": issued.cert, "key": issued.key }).to_string()
}

#[tokio::test]
async fn certificates_in_consul_are_followed_and_outlive_it() {
    let Some(mut consul) = Consul::start().await else { return };
    let (origin, authority) = (Origin::start("app").await, Authority::new("authority"));
    let (first, second) = (authority.issue("1", &["a.example"]), authority.issue("2", &["a.example"]));
    consul.kv_put("fleetgate/certificates/web.json", &document(&first)).await;
    let gateway = of_registry(&format!("discovery.consul.address = \"{}\"", consul.url()), &origin).start().await;
    let client = Client::trusting(&authority);
    shows(&gateway, &client, "a.example", &first).await;
    consul.kv_put("fleetgate/certificates/web.json", &document(&second)).await;
    shows(&gateway, &client, "a.example", &second).await;
    let foreign = json!({ "cert": first.cert, "key": second.key }).to_string();
    consul.kv_put("fleetgate/certificates/web.json", &foreign).await;
    rejected(&gateway, "not the key of the certificate").await;
    consul.kv_put("fleetgate/certificates/web.json", r#"{"cert":"/etc/a.pem","key":"/etc/b.pem"}"#).await;
    rejected(&gateway, "only documents from files may name files").await;
    shows(&gateway, &client, "a.example", &second).await;
    consul.kv_put("fleetgate/certificates/web.json", &document(&second)).await;

    // What was saved serves while Consul is away, and is for this user alone.
    let file = gateway.folder().join("state/consul-kv.json");
    wait::until(SOON, "the saved state", || async {
        let mut text = String::new();
        std::fs::File::open(&file).and_then(|mut file| file.read_to_string(&mut text)).is_ok()
            && text.contains("fleetgate/certificates/web.json")
            && text
                .contains(&serde_json::to_string(&second.cert[..60]).unwrap().trim_matches('"').replace('\\', "\\\\"))
    })
    .await;
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    consul.kill();
    let gateway = gateway.restart().await;
    shows(&gateway, &client, "a.example", &second).await;
}

#[tokio::test]
async fn certificates_in_etcd_are_followed() {
    let Some(etcd) = Etcd::start().await else { return };
    let (origin, authority) = (Origin::start("app").await, Authority::new("authority"));
    let (first, second) = (authority.issue("1", &["a.example"]), authority.issue("2", &["a.example"]));
    let toml = format!("cert = '''{}'''\nkey = '''{}'''\n", first.cert, first.key);
    etcd.put("/fleetgate/certificates/web", &toml).await;
    let gateway = of_registry(&format!("discovery.etcd.endpoints = [\"{}\"]", etcd.url()), &origin).start().await;
    let client = Client::trusting(&authority);
    shows(&gateway, &client, "a.example", &first).await;
    etcd.put("/fleetgate/certificates/web", &document(&second)).await;
    shows(&gateway, &client, "a.example", &second).await;
    let foreign = json!({ "cert": first.cert, "key": second.key }).to_string();
    etcd.put("/fleetgate/certificates/web", &foreign).await;
    rejected(&gateway, "not the key of the certificate").await;
    shows(&gateway, &client, "a.example", &second).await;
    // Routes and certificates are watched apart, and are one set of documents.
    etcd.put("/fleetgate/routes/gone", r#"{"match":{"path":"/gone"},"upstream":"nowhere"}"#).await;
    wait::until(SOON, "the route", || async {
        let (status, _) = client.get(gateway.listener("secure"), "a.example", "/gone").await.unwrap();
        status == 503
    })
    .await;
    etcd.delete("/fleetgate/certificates/web").await;
    wait::until(SOON, "the end of the certificate", || async {
        client.connect(gateway.listener("secure"), "a.example").await.is_err()
    })
    .await;
}
