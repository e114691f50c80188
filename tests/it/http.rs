//! HTTP/1.1 through the gateway, as clients and services see it.

mod balancing;
mod failures;
mod forwarding;
mod hostile;
mod reloads;
mod stopping;
mod upgrades;

use crate::support::gateway::Gateway;
use crate::support::origin::Origin;

/// A gateway with one route for everything, to this service.
async fn before(origin: &Origin) -> Gateway {
    with_upstream(origin, "").await
}

/// As [`before`], with further settings of the upstream.
async fn with_upstream(origin: &Origin, settings: &str) -> Gateway {
    Gateway::start(&format!(
        r#"
        [listeners.web]
        address = "127.0.0.1:0"
        [admin]
        address = "127.0.0.1:0"
        [upstreams.app]
        endpoints = ["{}"]
        {settings}
        [routes.all]
        match = {{ path = "/" }}
        upstream = "app"
        "#,
        origin.address()
    ))
    .await
}
