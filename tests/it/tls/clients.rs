//! What clients have to show, and what endpoints learn of it.

use std::time::Duration;

use super::{setup, setup_with};
use crate::support::client::Request;
use crate::support::gateway::Gateway;
use crate::support::origin::Origin;
use crate::support::pki::{Authority, Issued};
use crate::support::tls::{Client, Setup as ClientSetup};
use crate::support::wait;

const SOON: Duration = Duration::from_secs(30);

struct World {
    origin: Origin,
    authority: Authority,
    gateway: Gateway,
}

impl World {
    async fn start(tls: &str, crl: Option<&[&Issued]>, authority: Authority) -> Self {
        Self::start_with(tls, crl, authority, "").await
    }

    async fn start_with(tls: &str, crl: Option<&[&Issued]>, authority: Authority, more: &str) -> Self {
        let origin = Origin::start("app").await;
        let web = authority.issue("web", &["a.example"]);
        let mut setup = setup_with(&origin, tls, &web, more).file("ca.pem", &authority.pem());
        if let Some(revoked) = crl {
            setup = setup.file("crl.pem", &authority.revoke(revoked));
        }
        let gateway = setup.start().await;
        Self { origin, authority, gateway }
    }

    async fn get(&self, shows: Option<&Issued>) -> Result<u16, String> {
        self.get_of(shows, "/").await
    }

    async fn get_of(&self, shows: Option<&Issued>, path: &str) -> Result<u16, String> {
        let client = Client::new(&ClientSetup { shows, ..ClientSetup::trusting(&self.authority) });
        let got = client.get(self.gateway.listener("secure"), "a.example", path).await;
        got.map(|(status, _)| status).map_err(|error| error.to_string())
    }

    fn told(&self) -> Vec<String> {
        self.origin.last_seen().unwrap().header("x-forwarded-client-cert").into_iter().map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn a_required_certificate_is_verified_and_told() {
    let authority = Authority::new("authority");
    let world = World::start("client_ca = \"ca.pem\"", None, authority).await;
    let good = world.authority.issue("billing", &["billing.example", "spiffe://example/billing"]);
    assert_eq!(world.get(Some(&good)).await, Ok(200));
    let [told] = world.told().try_into().unwrap();
    let (hash, rest) = told.split_once(';').unwrap();
    assert_eq!(rest, r#"Subject="CN=billing";URI=spiffe://example/billing;DNS=billing.example"#);
    assert!(hash.starts_with("Hash=") && hash.len() == 5 + 64, "{told}");

    let without = world.get(None).await.unwrap_err();
    assert!(without.contains("CertificateRequired"), "{without}");
    let foreign = Authority::new("authority").issue("billing", &["billing.example"]);
    let refused = world.get(Some(&foreign)).await.unwrap_err();
    assert!(refused.contains("DecryptError") || refused.contains("UnknownCA"), "{refused}");
    let expired = world.authority.issue_until("billing", &["billing.example"], 2025);
    assert!(world.get(Some(&expired)).await.unwrap_err().contains("CertificateExpired"));
    let counted = world.gateway.metric("fleetgate_tls_handshakes_total", &[("result", "client_certificate")]).await;
    assert_eq!(counted, Some(3.0));
}

#[tokio::test]
async fn an_optional_certificate_may_be_missing_but_not_bad_and_nobody_can_claim_one() {
    let authority = Authority::new("authority");
    let tls = "client_ca = \"ca.pem\", client_auth = \"optional\"";
    let world = World::start(tls, None, authority).await;
    assert_eq!(world.get(None).await, Ok(200));
    assert_eq!(world.told(), Vec::<String>::new());
    let foreign = Authority::new("other").issue("a", &["a.example"]);
    world.get(Some(&foreign)).await.unwrap_err();

    // A claim is taken away on every listener, also where nobody is asked for a certificate.
    let claim = "Hash=1;Subject=\"CN=admin\"";
    let client = Client::trusting(&world.authority);
    let mut secured = client.connect(world.gateway.listener("secure"), "a.example").await.unwrap().http1().await;
    let request = crate::support::tls::request("GET", "/").header("host", "a.example");
    let request = request.header("x-forwarded-client-cert", claim).body(crate::support::tls::empty()).unwrap();
    assert_eq!(secured.send_request(request).await.unwrap().status(), 200);
    assert_eq!(world.told(), Vec::<String>::new());
    let request = Request::get("/").header("X-Forwarded-Client-Cert", claim);
    assert_eq!(request.send(world.gateway.listener("plain")).await.status, 200);
    assert_eq!(world.told(), Vec::<String>::new());
}

#[tokio::test]
async fn a_certificate_says_which_consumer_a_client_is() {
    let authority = Authority::new("authority");
    let hosts = ["billing.example", "spiffe://example/billing"];
    let (billing, other) = (authority.issue("billing", &hosts), authority.issue("reports", &["Reports.example"]));
    let (pinned, nameless) = (authority.issue("pinned", &["p.example"]), authority.issue("admin", &[]));
    let hash: String = fingerprint(&pinned);
    let more = format!(
        r#"
        middlewares.known.client_certificate = {{}}
        middlewares.named.client_certificate = {{ consumer = "dns" }}
        middlewares.gold.client_certificate = {{ groups = ["gold"] }}
        middlewares.maybe.client_certificate = {{ optional = true }}
        middlewares.someone.require = [{{ consumers = ["*"] }}]
        consumers.billing = {{ certificates = ["uri:spiffe://example/billing"], groups = ["gold"] }}
        consumers.pinned.certificates = ["sha256:{hash}"]
        consumers.shared-a.certificates = ["subject:CN=reports"]
        consumers.shared-b.certificates = ["subject:CN=reports"]
        routes.known = {{ match = {{ path = "/known" }}, upstream = "app", middlewares = ["known"] }}
        routes.named = {{ match = {{ path = "/named" }}, upstream = "app", middlewares = ["named"] }}
        routes.gold = {{ match = {{ path = "/gold" }}, upstream = "app", middlewares = ["gold"] }}
        routes.maybe = {{ match = {{ path = "/maybe" }}, upstream = "app", middlewares = ["maybe"] }}
        routes.rule = {{ match = {{ path = "/rule" }}, upstream = "app", middlewares = ["maybe", "someone"] }}
        "#
    );
    let tls = "client_ca = \"ca.pem\", client_auth = \"optional\"";
    let world = World::start_with(tls, None, authority, &more).await;
    let cases = [
        (Some(&billing), "/known", 200, Some("billing")),
        (Some(&billing), "/gold", 200, Some("billing")),
        (Some(&billing), "/rule", 200, Some("billing")),
        (Some(&pinned), "/known", 200, Some("pinned")),
        (Some(&pinned), "/gold", 403, None),
        // That two consumers list it is told, and it is neither's.
        (Some(&other), "/known", 403, None),
        (Some(&other), "/named", 200, Some("reports.example")),
        (Some(&nameless), "/named", 403, None),
        (None, "/known", 403, None),
        (None, "/maybe", 200, None),
        (None, "/rule", 403, None),
    ];
    for (shows, path, status, consumer) in cases {
        let before = world.origin.requests();
        assert_eq!(world.get_of(shows, path).await, Ok(status), "{path}");
        if world.origin.requests() > before {
            let told = world.origin.last_seen().unwrap();
            assert_eq!(told.header("x-consumer"), Vec::from_iter(consumer), "{path}");
        }
    }
    // Who has no certificate says in vain who it is, also where nobody is asked for one.
    for (header, value) in [("x-consumer", "billing"), ("x-forwarded-client-cert", "URI=spiffe://example/billing")] {
        let request = Request::get("/known").header(header, value);
        assert_eq!(request.send(world.gateway.listener("plain")).await.status, 403);
        let request = Request::get("/maybe").header(header, value);
        assert_eq!(request.send(world.gateway.listener("plain")).await.status, 200);
        let seen = world.origin.last_seen().unwrap();
        assert_eq!((seen.header("x-consumer"), seen.header("x-forwarded-client-cert")), (vec![], vec![]));
    }
    let status = world.gateway.api("status").await.to_string();
    assert!(status.contains("another consumer has `subject:CN=reports`, too"), "{status}");
    let line = |line: &serde_json::Value| line["consumer"] == "billing" && line["path"] == "/gold";
    world.gateway.until_logged("the consumer", line).await;
}

/// The SHA-256 of a certificate, as `openssl x509 -fingerprint -sha256` shows it.
fn fingerprint(issued: &Issued) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &issued.der);
    digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

#[tokio::test]
async fn revoked_certificates_are_refused_and_the_lists_are_followed() {
    let authority = Authority::new("authority");
    let (revoked, good) = (authority.issue("revoked", &["r.example"]), authority.issue("good", &["g.example"]));
    let tls = "client_ca = \"ca.pem\", client_crl = \"crl.pem\"";
    let world = World::start(tls, Some(&[&revoked]), authority).await;
    let refused = world.get(Some(&revoked)).await.unwrap_err();
    assert!(refused.contains("CertificateRevoked"), "{refused}");
    assert_eq!(world.get(Some(&good)).await, Ok(200));
    // The session of one that is revoked later does not go on either.
    let client = Client::new(&ClientSetup { shows: Some(&good), ..ClientSetup::trusting(&world.authority) });
    let address = world.gateway.listener("secure");
    assert_eq!(client.get(address, "a.example", "/").await.unwrap().0, 200);

    world.gateway.write("crl.pem", "nothing");
    wait::until(SOON, "a word about it", || async {
        world.gateway.stderr().text().contains("the former authorities of client certificates stay")
    })
    .await;
    assert!(world.get(Some(&revoked)).await.unwrap_err().contains("CertificateRevoked"));
    world.gateway.write("crl.pem", &world.authority.revoke(&[&good]));
    wait::until(SOON, "the new list", || async { world.get(Some(&good)).await.is_err() }).await;
    assert_eq!(world.get(Some(&revoked)).await, Ok(200));
    client.get(address, "a.example", "/").await.unwrap_err();
}

#[tokio::test]
async fn files_of_no_use_are_told_before_anything_starts() {
    let (origin, authority) = (Origin::start("app").await, Authority::new("authority"));
    let web = authority.issue("web", &["a.example"]);
    for (tls, file, text, told) in [
        (
            "client_ca = \"ca.pem\"",
            "ca.pem",
            "nothing",
            "listeners.secure.tls.client_ca: there is no certificate in it",
        ),
        ("client_ca = \"none.pem\"", "x", "", "cannot be read: No such file"),
        ("client_auth = \"optional\"", "x", "", "listeners.secure.tls.client_auth: it needs `client_ca`"),
        ("min_version = \"1.1\"", "x", "", "`1.1` is no version that is spoken"),
    ] {
        let (status, stdout, stderr) = setup(&origin, tls, &web).file(file, text).fail().await;
        assert_eq!(status.code(), Some(1));
        assert!(stdout.contains(told) || stderr.contains(told), "{told}: {stdout}{stderr}");
    }
}
