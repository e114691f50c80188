//! Defines how the end of the token's life is learnt, so that operators hear of it before reads are refused.

use std::time::{Duration, SystemTime};

use http::StatusCode;
use serde::Deserialize;
use tokio::sync::Notify;

use super::client::Client;
use super::query::Query;
use crate::discovery::status::ProviderStatus;
use crate::discovery::supervise::around;
use crate::spec::settings::Consistency;

/// Between two looks; a token's end is set when it is made.
const LOOK: Duration = Duration::from_secs(300);
/// After a look that failed.
const AGAIN: Duration = Duration::from_secs(10);

/// Keeps what `status` says of the token true, for ever; `changed` tells of another token.
pub(super) async fn follow(client: &Client, status: &ProviderStatus, changed: &Notify) {
    loop {
        let told = changed.notified();
        let wait = match look(client).await {
            Some(expires_at) => {
                status.set_token_expires_at(expires_at);
                LOOK
            }
            None => AGAIN,
        };
        tokio::select! {
            () = told => {}
            () = tokio::time::sleep(around(wait, 0.2)) => {}
        }
    }
}

/// When the token expires; `None` when that could not be learnt.
async fn look(client: &Client) -> Option<Option<SystemTime>> {
    if client.token.header().is_none() {
        return Some(None);
    }
    let reply = client.read(&Query::own_token(), Consistency::Stale).await.ok()?;
    match reply.status {
        StatusCode::OK => expiration(&reply.body),
        // ACLs are off; and what is refused as a whole is told by the watches.
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Some(None),
        _ => None,
    }
}

/// What a token's description says of its end.
fn expiration(body: &[u8]) -> Option<Option<SystemTime>> {
    #[derive(Deserialize)]
    struct Description {
        #[serde(rename = "ExpirationTime", default)]
        expires: Option<String>,
    }
    let description: Description = serde_json::from_slice(body).ok()?;
    let at = |text: String| text.parse::<jiff::Timestamp>().ok();
    Some(description.expires.and_then(at).map(SystemTime::from))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn only_some_tokens_expire() {
        let at = |body: &str| expiration(body.as_bytes());
        assert_eq!(at(r#"{"AccessorID":"a","Policies":[]}"#), Some(None));
        let expires = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(at(r#"{"ExpirationTime":"2023-11-14T22:13:20Z"}"#), Some(Some(expires)));
        assert_eq!(at(r#"{"ExpirationTime":"soon"}"#), Some(None));
        assert_eq!(at("<html>"), None);
    }
}
