//! Clients that speak TLS with the gateway: which certificate they are shown, what they have to show, and HTTP/2.

mod certificates;
mod clients;
mod floods;
mod http2;
mod sessions;

use crate::support::gateway::{Gateway, Setup};
use crate::support::origin::Origin;
use crate::support::pki::Issued;

/// A gateway with a TLS listener, whose table has these further lines, and a route for everything to this service. The
/// certificate of `web` lies beside it.
fn setup(origin: &Origin, tls: &str, web: &Issued) -> Setup {
    setup_with(origin, tls, web, "")
}

/// The same, with more configuration.
fn setup_with(origin: &Origin, tls: &str, web: &Issued, more: &str) -> Setup {
    let config = format!(
        r#"
        listeners.secure = {{ address = "127.0.0.1:0", tls = {{ {tls} }} }}
        listeners.plain = {{ address = "127.0.0.1:0" }}
        admin.address = "127.0.0.1:0"
        discovery.state_dir = "off"
        certificates.web = {{ cert = "web.pem", key = "web-key.pem" }}
        upstreams.app.endpoints = ["{}"]
        routes.all = {{ match = {{ path = "/" }}, upstream = "app" }}
        {more}
        "#,
        origin.address()
    );
    Setup::new(&config).file("web.pem", &web.cert).file("web-key.pem", &web.key)
}

/// Replaces the certificate of `web`, one file after the other.
fn exchange(gateway: &Gateway, web: &Issued) {
    gateway.write("web.pem", &web.cert);
    gateway.write("web-key.pem", &web.key);
}
