//! Defines what a call to etcd can fail with, by what it asks of us.

use std::error::Error as _;

use etcd_client::Error;

use crate::discovery::supervise::{ErrorKind, WatchError};
use crate::spec::cause::{describe, plain};

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Transport, timeout, no leader: another member may do better.
    Lost(String),
    /// The token is missing, expired, or from another life of the store: a new one helps.
    Token(String),
    /// The user may not do this.
    Forbidden(String),
    /// The user is not who they say.
    Denied(String),
    /// A user is configured and authentication is switched off.
    AuthOff,
    /// The revision is compacted away (or not yet there): only a list helps.
    Compacted(String),
    /// The answer is larger than we take: ask for less.
    TooLarge(String),
    /// The request itself is wrong.
    Refused(String),
}

/// gRPC status codes (grpc/grpc, doc/statuscodes.md).
mod code {
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const FAILED_PRECONDITION: i32 = 9;
    pub(super) const OUT_OF_RANGE: i32 = 11;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

impl Failure {
    /// What a status says. Compaction and an answer too large share a code; their texts tell them apart.
    pub(super) fn of_status(code: i32, message: &str) -> Self {
        let text = message.strip_prefix("etcdserver: ").unwrap_or(message).to_owned();
        let says = |words: &str| message.contains(words);
        match code {
            code::UNAUTHENTICATED => Self::Token(text),
            code::PERMISSION_DENIED => Self::Forbidden(text),
            code::INVALID_ARGUMENT if says("user name is empty") || says("auth store is old") => Self::Token(text),
            code::INVALID_ARGUMENT if says("authentication failed") => Self::Denied(text),
            code::FAILED_PRECONDITION if says("authentication is not enabled") => Self::AuthOff,
            code::OUT_OF_RANGE if says("message length too large") => Self::TooLarge(text),
            code::OUT_OF_RANGE => Self::Compacted(text),
            code::INVALID_ARGUMENT | code::FAILED_PRECONDITION => Self::Refused(text),
            _ => Self::Lost(text),
        }
    }

    /// What the reason of a cancelled watch says. A watch tells of authentication in its stream, and each
    /// version of etcd words it differently, "permission denied" for an expired token among them.
    pub(super) fn of_cancelled(compact_revision: i64, reason: &str) -> Self {
        let text = reason.strip_prefix("etcdserver: ").unwrap_or(reason).to_owned();
        let auth = ["auth token", "permission denied", "user name is empty", "auth store is old"];
        if compact_revision > 0 || reason.contains("compacted") {
            Self::Compacted(format!("history up to revision {compact_revision} is compacted away"))
        } else if auth.iter().any(|words| reason.contains(words)) {
            Self::Token(text)
        } else {
            Self::Lost(format!("the watch was cancelled: {text}"))
        }
    }

    /// For the retry loop.
    pub(super) fn into_error(self, url: &str) -> WatchError {
        let (kind, text) = match self {
            Self::Lost(text) | Self::Compacted(text) | Self::TooLarge(text) => (ErrorKind::Failed, text),
            Self::Token(text) => (ErrorKind::Unauthorised, text),
            Self::Forbidden(text) => (ErrorKind::Denied, format!("{text} (see `discovery.etcd.user`)")),
            Self::Denied(text) => (ErrorKind::Unauthorised, format!("{text} (see `discovery.etcd.user`)")),
            Self::AuthOff => (ErrorKind::Failed, "authentication is not enabled".to_owned()),
            Self::Refused(text) => (ErrorKind::Refused, text),
        };
        WatchError { kind, text: format!("{url}: {text}") }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::GRpcStatus(status) => {
                let mut text = status.message().to_owned();
                let mut cause = status.source();
                while let Some(error) = cause {
                    let next = error.to_string();
                    if !text.contains(&next) {
                        text = format!("{text}: {next}");
                    }
                    cause = error.source();
                }
                Self::of_status(i32::from(status.code()), &plain(&text))
            }
            Error::InvalidUri(_) | Error::InvalidArgs(_) => Self::Refused(error.to_string()),
            other => Self::Lost(describe(&other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Statuses and reasons as etcd 3.4 and 3.5 send them.
    #[test]
    fn failures_are_told_apart() {
        let lost: fn(String) -> Failure = Failure::Lost;
        for (code, message, wanted) in [
            (14, "etcdserver: no leader", lost),
            (4, "context deadline exceeded", lost),
            (16, "etcdserver: invalid auth token", Failure::Token),
            (3, "etcdserver: user name is empty", Failure::Token),
            (3, "etcdserver: revision of auth store is old", Failure::Token),
            (3, "etcdserver: authentication failed, invalid user ID or password", Failure::Denied),
            (7, "etcdserver: permission denied", Failure::Forbidden),
            (9, "etcdserver: authentication is not enabled", |_| Failure::AuthOff),
            (11, "etcdserver: mvcc: required revision has been compacted", Failure::Compacted),
            (11, "etcdserver: mvcc: required revision is a future revision", Failure::Compacted),
            (11, "Error, decoded message length too large: found 5, the limit is: 4", Failure::TooLarge),
            (3, "etcdserver: key is not provided", Failure::Refused),
        ] {
            let text = message.strip_prefix("etcdserver: ").unwrap_or(message).to_owned();
            assert_eq!(Failure::of_status(code, message), wanted(text), "{message}");
        }
        for reason in ["etcdserver: permission denied", "etcdserver: invalid auth token", "auth store is old"] {
            assert!(matches!(Failure::of_cancelled(0, reason), Failure::Token(_)), "{reason}");
        }
        assert!(matches!(Failure::of_cancelled(7, ""), Failure::Compacted(_)));
        assert!(matches!(Failure::of_cancelled(0, "server shut down"), Failure::Lost(_)));
    }

    #[test]
    fn refusals_wait_longer_than_losses() {
        let kind = |failure: Failure| failure.into_error("http://127.0.0.1:2379").kind;
        assert_eq!(kind(Failure::Lost(String::new())), ErrorKind::Failed);
        assert_eq!(kind(Failure::Compacted(String::new())), ErrorKind::Failed);
        assert_eq!(kind(Failure::Denied(String::new())), ErrorKind::Unauthorised);
        assert_eq!(kind(Failure::Forbidden(String::new())), ErrorKind::Denied);
        assert_eq!(kind(Failure::Token(String::new())), ErrorKind::Unauthorised);
        assert_eq!(kind(Failure::Refused(String::new())), ErrorKind::Refused);
        assert!(Failure::Lost("x".to_owned()).into_error("http://a").text.starts_with("http://a: "));
    }
}
