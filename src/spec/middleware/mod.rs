//! Defines middlewares as someone asked for them: each is a step around the exchanges of the routes that name it, of one
//! type, which is the one key of its document.

pub mod access;
pub mod compression;
pub mod cors;
pub mod forward_auth;
pub mod jwt;
pub mod limit;
pub mod template;
pub mod transform;

use self::access::{ApiKey, Basic, ClientCertificate, Ip, Require};
use self::compression::Compression;
use self::cors::Cors;
use self::forward_auth::ForwardAuth;
use self::jwt::Jwt;
use self::limit::{Concurrency, RateLimit};
use self::transform::{ErrorPages, Fault, Headers, Maintenance, Redirection, Respond, Rewrite, SecurityHeaders};
use super::route::StripPrefix;

/// A middleware.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MiddlewareSpec {
    /// `strip_prefix`: what a path that begins with it loses, by whole segments.
    StripPrefix(StripPrefix),
    /// `add_prefix`: what is put before the path; begins with a slash and does not end in one.
    AddPrefix(String),
    /// `rewrite`: another path and host.
    Rewrite(Rewrite),
    /// `headers`: headers of requests and answers.
    Headers(Headers),
    /// `redirect`: an answer that sends clients elsewhere.
    Redirect(Redirection),
    /// `respond`: an answer without a service.
    Respond(Respond),
    /// `maintenance`: 503 for everybody but a few.
    Maintenance(Maintenance),
    /// `error_pages`: bodies for errors.
    ErrorPages(ErrorPages),
    /// `security_headers`: headers that tell browsers to be careful.
    SecurityHeaders(SecurityHeaders),
    /// `cors`: which pages of other origins may use a service.
    Cors(Cors),
    /// `compression`: which answers are compressed.
    Compression(Compression),
    /// `ip`: whose requests are taken, by address.
    Ip(Ip),
    /// `api_key`: who a client is, by a key.
    ApiKey(ApiKey),
    /// `basic`: who a client is, by name and password.
    Basic(Basic),
    /// `client_certificate`: who a client is, by its certificate.
    ClientCertificate(ClientCertificate),
    /// `require`: what a request must be like.
    Require(Require),
    /// `rate_limit`: how many requests in a time.
    RateLimit(RateLimit),
    /// `concurrency`: how many requests in flight.
    Concurrency(Concurrency),
    /// `body_limit`: bytes of a request's body.
    BodyLimit(u64),
    /// `jwt`: who a client is, by a token.
    Jwt(Box<Jwt>),
    /// `forward_auth`: whom to ask whether a request may pass.
    ForwardAuth(Box<ForwardAuth>),
    /// `fault`: what goes wrong on purpose.
    Fault(Fault),
}

impl MiddlewareSpec {
    /// The key that names its type.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::StripPrefix(_) => "strip_prefix",
            Self::AddPrefix(_) => "add_prefix",
            Self::Rewrite(_) => "rewrite",
            Self::Headers(_) => "headers",
            Self::Redirect(_) => "redirect",
            Self::Respond(_) => "respond",
            Self::Maintenance(_) => "maintenance",
            Self::ErrorPages(_) => "error_pages",
            Self::SecurityHeaders(_) => "security_headers",
            Self::Cors(_) => "cors",
            Self::Compression(_) => "compression",
            Self::Ip(_) => "ip",
            Self::ApiKey(_) => "api_key",
            Self::Basic(_) => "basic",
            Self::ClientCertificate(_) => "client_certificate",
            Self::Require(_) => "require",
            Self::RateLimit(_) => "rate_limit",
            Self::Concurrency(_) => "concurrency",
            Self::BodyLimit(_) => "body_limit",
            Self::Jwt(_) => "jwt",
            Self::ForwardAuth(_) => "forward_auth",
            Self::Fault(_) => "fault",
        }
    }

    /// Whether an exchange has one of its type at most: that of a route then goes before that of its listener.
    pub fn is_single(&self) -> bool {
        match self {
            Self::ErrorPages(_) | Self::SecurityHeaders(_) | Self::Cors(_) | Self::Compression(_) => true,
            Self::StripPrefix(_)
            | Self::AddPrefix(_)
            | Self::Rewrite(_)
            | Self::Headers(_)
            | Self::Redirect(_)
            | Self::Respond(_)
            | Self::Maintenance(_)
            | Self::Ip(_)
            | Self::ApiKey(_)
            | Self::Basic(_)
            | Self::ClientCertificate(_)
            | Self::Require(_)
            | Self::RateLimit(_)
            | Self::Concurrency(_)
            | Self::BodyLimit(_)
            | Self::Jwt(_)
            | Self::ForwardAuth(_)
            | Self::Fault(_) => false,
        }
    }
}
