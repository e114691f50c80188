//! Defines how to find out whether something is gone or merely hidden: Consul filters silently by ACL.
//!
//! An anonymous or narrowed token gets `200 []` with a leader and an unmoved index; nothing in that answer
//! tells it from a service that has gone. So before much is removed, Consul is asked what the token may read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use tokio::time::sleep;

use super::answer::denies_by_default;
use super::client::{Client, Reply};
use super::follow::Doubted;
use super::query::Query;
use crate::discovery::supervise::{ErrorKind, WatchError};
use crate::spec::settings::Consistency;
use crate::spec::source::ConsulService;

/// Whether what an answer lacks may be hidden.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Permission {
    /// There is nothing that could hide it: ACLs are off, or the missing key itself was asked for.
    Beyond,
    /// The token may read it, as far as the agent knows; client agents cache what a token may do.
    Granted,
    /// It may be hidden, for this reason.
    Doubtful(Doubt),
}

/// Why something that an answer lacks may still be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Doubt {
    pub(super) why: String,
    /// The token lacks a right: no operator's word makes the answer complete.
    pub(super) missing_right: bool,
}

impl Doubt {
    /// Something else than a missing right.
    pub(super) fn unclear(why: impl Into<String>) -> Self {
        Self { why: why.into(), missing_right: false }
    }

    /// The token lacks a right.
    pub(super) fn missing_right(why: impl Into<String>) -> Self {
        Self { why: why.into(), missing_right: true }
    }
}

/// What is known of everything that an answer lacks.
#[derive(Debug)]
pub(super) struct Verdicts {
    /// Of all of it together.
    pub(super) whole: Permission,
    /// Doubts about single entries, by their id; the others are gone.
    pub(super) each: BTreeMap<Arc<str>, Doubt>,
}

impl From<Permission> for Verdicts {
    fn from(whole: Permission) -> Self {
        Self { whole, each: BTreeMap::new() }
    }
}

/// Nodes asked about at once; an agent takes 64 questions.
const MOST_NODES: usize = 63;
/// Keys read at once,
const KEYS_AT_ONCE: usize = 16;
/// and the pause before the next ones.
const KEYS_PAUSE: Duration = Duration::from_millis(50);
/// After which a permission that was granted all the time is believed even where the catalog shows nothing:
/// client agents cache policies and tokens for 30 s by default (`acl.policy_ttl`, `acl.token_ttl`).
const PATIENCE: Duration = Duration::from_secs(65);

/// Whether instances of `service` on `nodes` may be hidden from the token.
///
/// # Errors
/// It could not be found out.
pub(super) async fn of_instances(
    client: &Client,
    service: &ConsulService,
    nodes: BTreeSet<&str>,
    doubted: &Doubted<'_>,
) -> Result<Permission, WatchError> {
    let mut questions = vec![json!({"Resource": "service", "Access": "read", "Segment": &*service.name})];
    let nodes = nodes.into_iter().take(MOST_NODES);
    questions.extend(nodes.map(|node| json!({"Resource": "node", "Access": "read", "Segment": node})));
    let reply =
        client.authorize(&Query::authorize().beside(service), serde_json::Value::from(questions).to_string()).await?;
    let asked = authorized(&reply)?;
    let knows_nodes = asked.is_some();
    let permission = match asked {
        Some(permission) => permission,
        None => without_asking(client, doubted).await?,
    };
    if !doubted.nothing || matches!(permission, Permission::Doubtful(_)) {
        return Ok(permission);
    }
    let catalog = client.read(&Query::services().beside(service), Consistency::Consistent).await?;
    Ok(match (in_catalog(&catalog, &service.name)?, &permission) {
        (Listed::Yes, _) => Permission::Doubtful(Doubt {
            why: format!(
                "the catalog lists `{}` all the same: \
                 perhaps the token lacks `node:read`, or its instances are just being replaced",
                service.name
            ),
            missing_right: !knows_nodes,
        }),
        (Listed::NothingAtAll, Permission::Granted) if doubted.held_for >= PATIENCE => permission,
        (Listed::NothingAtAll, _) => Permission::Doubtful(Doubt {
            why: "the catalog is empty, without even Consul itself: the token lacks `service:read`, or there is none"
                .to_owned(),
            missing_right: permission != Permission::Beyond,
        }),
        (Listed::No, _) => permission,
    })
}

/// Whether services may be hidden: a catalog lists Consul itself at least.
///
/// # Errors
/// It could not be found out.
pub(super) async fn of_catalog(client: &Client, doubted: &Doubted<'_>) -> Result<Permission, WatchError> {
    let question = json!([{"Resource": "service", "Access": "read", "Segment": "consul"}]);
    let permission = match authorized(&client.authorize(&Query::authorize(), question.to_string()).await?)? {
        Some(permission) => permission,
        None => without_asking(client, doubted).await?,
    };
    Ok(match permission {
        Permission::Granted if doubted.held_for < PATIENCE => Permission::Doubtful(Doubt::unclear(
            "the catalog is empty, without even Consul itself: perhaps the token lacks `service:read`",
        )),
        permission => permission,
    })
}

/// Which keys may be hidden: unlike a list, a read of one key says so. So many at once, with a pause between, that a
/// prefix which lost thousands of keys does not keep an agent busy.
pub(super) async fn of_keys(client: &Client, keys: &[Arc<str>]) -> BTreeMap<Arc<str>, Doubt> {
    let mut doubts = BTreeMap::new();
    for (position, some) in keys.chunks(KEYS_AT_ONCE).enumerate() {
        if position > 0 {
            sleep(KEYS_PAUSE).await;
        }
        let doubted = join_all(some.iter().map(async |key| Some((Arc::clone(key), of_key(client, key).await?)))).await;
        doubts.extend(doubted.into_iter().flatten());
    }
    doubts
}

/// Why a key that a list lacks may be there; `None`: it is gone.
async fn of_key(client: &Client, key: &str) -> Option<Doubt> {
    let reply = match client.read(&Query::key(key), Consistency::Consistent).await {
        Ok(reply) => reply,
        Err(error) => return Some(Doubt::unclear(format!("`{key}` could not be read: {error}"))),
    };
    match reply.status {
        StatusCode::NOT_FOUND => None,
        StatusCode::OK => Some(Doubt::unclear(format!("`{key}` is there all the same"))),
        StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => Some(Doubt::missing_right(format!(
            "the token may not read `{key}`: it needs `key:read` (Consul answered {})",
            reply.excerpt()
        ))),
        status => Some(Doubt::unclear(format!("`{key}`: Consul answered {status}: {}", reply.excerpt()))),
    }
}

/// Whether the token may do something.
#[derive(Deserialize)]
pub(super) struct Decision {
    #[serde(rename = "Resource")]
    resource: String,
    #[serde(rename = "Segment")]
    segment: String,
    #[serde(rename = "Allow")]
    pub(super) allow: bool,
}

/// Reads what an agent says that the token may do.
pub(super) fn decisions(body: &[u8]) -> Result<Vec<Decision>, String> {
    serde_json::from_slice(body).map_err(|error| format!("permissions: no answer that makes sense: {error}"))
}

/// What the agent said about permissions; `None` when it does not know the question.
fn authorized(reply: &Reply) -> Result<Option<Permission>, WatchError> {
    match reply.status {
        StatusCode::OK => {
            let decisions = decisions(&reply.body).map_err(WatchError::failed)?;
            let refused = decisions.iter().find(|decision| !decision.allow);
            Ok(Some(match refused {
                None => Permission::Granted,
                Some(Decision { resource, segment, .. }) => Permission::Doubtful(Doubt::missing_right(format!(
                    "the token may not read the {resource} `{segment}`: it needs `{resource}:read`"
                ))),
            }))
        }
        StatusCode::UNAUTHORIZED if reply.excerpt().contains("ACL support disabled") => Ok(Some(Permission::Beyond)),
        StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => Err(WatchError {
            kind: ErrorKind::Unauthorised,
            text: format!("Consul answered {}: {}", reply.status.as_u16(), reply.excerpt()),
        }),
        status if status.is_server_error() => {
            Err(WatchError::failed(format!("permissions: Consul answered {status}: {}", reply.excerpt())))
        }
        _ => Ok(None),
    }
}

/// For agents that cannot be asked: a token must at least exist, and no token must not meet a default of deny.
async fn without_asking(client: &Client, doubted: &Doubted<'_>) -> Result<Permission, WatchError> {
    if client.token.header().is_none() {
        return Ok(if denies_by_default(&doubted.reply.headers) {
            Permission::Doubtful(Doubt::missing_right("Consul denies by default, and no token is configured"))
        } else {
            Permission::Granted
        });
    }
    let reply = client.read(&Query::own_token(), Consistency::Default).await?;
    Ok(match reply.status {
        StatusCode::OK => Permission::Granted,
        StatusCode::UNAUTHORIZED if reply.excerpt().contains("ACL support disabled") => Permission::Beyond,
        status => {
            let why = format!("the token is not accepted: {status}: {}", reply.excerpt());
            Permission::Doubtful(Doubt { missing_right: !status.is_server_error(), why })
        }
    })
}

enum Listed {
    Yes,
    No,
    NothingAtAll,
}

fn in_catalog(reply: &Reply, service: &str) -> Result<Listed, WatchError> {
    if reply.status != StatusCode::OK {
        return Err(WatchError::failed(format!("catalog: Consul answered {}: {}", reply.status, reply.excerpt())));
    }
    let names: std::collections::BTreeMap<String, serde::de::IgnoredAny> = serde_json::from_slice(&reply.body)
        .map_err(|error| WatchError::failed(format!("catalog: no answer that makes sense: {error}")))?;
    Ok(if names.is_empty() {
        Listed::NothingAtAll
    } else if names.keys().any(|name| name.eq_ignore_ascii_case(service)) {
        Listed::Yes
    } else {
        Listed::No
    })
}
