//! HTTP/1.1 through the gateway, as clients and services see it.

mod balancers;
mod balancing;
mod blame;
mod breaker;
mod circles;
mod cookies;
pub(crate) mod draining;
mod endpoints;
mod failures;
mod forwarded;
mod forwarding;
mod hostile;
mod limits;
mod passive;
mod protected;
mod queue;
mod reloads;
mod retries;
mod slow;
mod stopping;
pub(crate) mod upgrades;

use crate::support::gateway::Gateway;
use crate::support::origin::Origin;

/// A gateway with one route for everything, to this service.
async fn before(origin: &Origin) -> Gateway {
    with(origin, &[]).await
}

/// As [`before`], with further lines in these sections of its configuration.
async fn with(origin: &Origin, further: &[(&str, &str)]) -> Gateway {
    let endpoints = format!("endpoints = [\"{}\"]", origin.address());
    let sections = [
        ("runtime", ""),
        ("listeners.web", "address = \"127.0.0.1:0\""),
        ("admin", "address = \"127.0.0.1:0\""),
        ("upstreams.app", &endpoints),
        ("routes.all", "match = { path = \"/\" }\nupstream = \"app\""),
    ];
    let mut config = String::new();
    for (section, lines) in sections {
        let further = further.iter().filter(|(of, _)| *of == section).map(|(_, lines)| *lines);
        let lines: Vec<&str> = std::iter::once(lines).chain(further).collect();
        config += &format!("[{section}]\n{}\n", lines.join("\n"));
    }
    Gateway::start(&config).await
}

/// A gateway with one route for everything, to these services, and these lines for the upstream.
async fn before_all(services: impl IntoIterator<Item = &Origin>, lines: &str) -> Gateway {
    Gateway::start(&config_of(services, lines)).await
}

fn config_of<'s>(services: impl IntoIterator<Item = &'s Origin>, lines: &str) -> String {
    let endpoints: Vec<String> = services.into_iter().map(|service| format!("\"{}\"", service.address())).collect();
    format!(
        r#"
        listeners.web.address = "127.0.0.1:0"
        admin.address = "127.0.0.1:0"
        runtime.workers = 2
        routes.all = {{ match = {{ path = "/" }}, upstream = "app" }}
        [upstreams.app]
        endpoints = [{}]
        {lines}
        "#,
        endpoints.join(", ")
    )
}
