//! Defines how the gateway is registered in Consul: a service of the agent with a check that we report ourselves.
//!
//! The agent alone knows of it: one that starts again with nothing has forgotten it, so that it is registered
//! again every half minute, and at once when the agent does not know the check.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::StatusCode;
use serde_json::json;
use tokio::time::Instant;

use super::client::Client;
use super::query::Query;
use crate::discovery::register::{Change, Gateway, Registration};
use crate::discovery::supervise::WatchError;
use crate::spec::settings::ConsulRegistration as Settings;

/// Without a word from us for this long we are not to be used.
const TTL: Duration = Duration::from_secs(15);
/// How often we report.
const EVERY: Duration = Duration::from_secs(5);
/// How often we are registered again, whatever the agent knows.
const AGAIN: Duration = Duration::from_secs(30);
/// A gateway that died stays in the catalog this long, as critical; a minute is the least Consul takes.
const FORGET: &str = "10m";

/// This gateway as a service of an agent.
pub(super) struct Registered {
    client: Arc<Client>,
    settings: Settings,
    gateway: Gateway,
    id: String,
    registered_at: Option<Instant>,
}

impl Registered {
    /// Not registered yet.
    pub(super) fn new(client: Arc<Client>, settings: &Settings, gateway: Gateway) -> Self {
        let id = format!("{}-{}", settings.service, gateway.id);
        Self { client, settings: settings.clone(), gateway, id, registered_at: None }
    }

    async fn register(&mut self, status: &str) -> Result<(), WatchError> {
        let service = json!({
            "ID": self.id,
            "Name": self.settings.service,
            "Address": self.gateway.host.as_deref().unwrap_or_default(),
            "Port": self.gateway.port,
            "Tags": self.settings.tags,
            "Meta": { "version": env!("CARGO_PKG_VERSION") },
            "Check": {
                "Name": "readiness",
                "TTL": format!("{}s", TTL.as_secs()),
                "Status": status,
                "DeregisterCriticalServiceAfter": FORGET,
            },
        });
        self.put(&Query::register(), service.to_string()).await?;
        self.registered_at = Some(Instant::now());
        Ok(())
    }

    async fn put(&self, query: &Query, body: String) -> Result<(), WatchError> {
        let reply = self.client.put(query, body).await?;
        if reply.status == StatusCode::OK {
            return Ok(());
        }
        let hint = if reply.status == StatusCode::FORBIDDEN {
            format!("; the token needs `service \"{}\" {{ policy = \"write\" }}`", self.settings.service)
        } else {
            String::new()
        };
        Err(WatchError::failed(format!("{query}: {}: {}{hint}", reply.status, reply.excerpt())))
    }
}

#[async_trait]
impl Registration for Registered {
    fn place(&self) -> &str {
        &self.id
    }

    fn every(&self) -> Duration {
        EVERY
    }

    async fn assert(&mut self, standing: &Result<(), String>) -> Result<Option<Change>, WatchError> {
        let (status, output) = match standing {
            Ok(()) => ("passing", "ready"),
            Err(reason) => ("critical", reason.as_str()),
        };
        let known = self.registered_at.is_some();
        let mut renewed = false;
        if self.registered_at.is_none_or(|at| at.elapsed() >= AGAIN) {
            // What fails leaves the agent's knowledge in doubt: the next try begins with a registration.
            self.registered_at = None;
            self.register(status).await?;
            renewed = !known;
        }
        let report = json!({ "Status": status, "Output": output }).to_string();
        let update = Query::update_check(&format!("service:{}", self.id));
        if self.put(&update, report.clone()).await.is_err() {
            self.registered_at = None;
            self.register(status).await?;
            self.put(&update, report).await.inspect_err(|_| self.registered_at = None)?;
            renewed = true;
        }
        Ok(renewed.then_some(Change::Registered))
    }

    fn stands(&self) -> bool {
        self.registered_at.is_some()
    }

    async fn leave(&mut self) -> Result<(), WatchError> {
        let query = Query::deregister(&self.id);
        let reply = self.client.put(&query, String::new()).await?;
        // An agent that does not know it has nothing to forget.
        let unknown = reply.status == StatusCode::NOT_FOUND || reply.excerpt().contains("Unknown service");
        if reply.status == StatusCode::OK || unknown {
            return Ok(());
        }
        Err(WatchError::failed(format!("{query}: {}: {}", reply.status, reply.excerpt())))
    }
}
