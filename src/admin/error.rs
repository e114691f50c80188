//! Defines the errors of the admin API and their shape: `{"error":{"code","message"}}`.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

/// Why a request gets no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ApiError {
    /// The token is missing or wrong.
    #[error("this needs the admin token: `Authorization: Bearer TOKEN`, or Basic with it as the password")]
    Unauthorised,
    /// Without a token only names of this machine are believed: a page may point its own name here (DNS rebinding).
    #[error("without `admin.token_file` the Host must be localhost or a loopback address")]
    ForeignHost,
    /// A page of somebody else's site may send requests here by the browser of an operator.
    #[error("a request that changes something must not come from another site's page")]
    ForeignOrigin,
    /// Clients of a gateway must not reach the API by having the gateway ask for them.
    #[error("this request came through a gateway or proxy (it has `{0}`); connect to the admin API directly")]
    Forwarded(String),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// There is, but not for this method.
    #[error("this method is not understood here; `Allow` says which are")]
    MethodNotAllowed,
    /// The request can't be read.
    #[error("{0}")]
    Malformed(String),
    /// Its body has more than so many bytes.
    #[error("the body is too large: {0} bytes at most are read")]
    TooLarge(usize),
    /// Its body is of another type than this.
    #[error("the body's Content-Type must be {0}")]
    UnsupportedType(&'static str),
    /// It can be read, and cannot be done.
    #[error("{0}")]
    Refused(String),
    /// What it is about is not what the caller saw.
    #[error("{0}")]
    Changed(String),
    /// The caller has to look first.
    #[error("{0}")]
    Unseen(String),
    /// Nobody is there to do it now.
    #[error("{0}")]
    Unavailable(String),
    /// Our own fault.
    #[error("{0}")]
    Internal(String),
}

impl ApiError {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Unauthorised => StatusCode::UNAUTHORIZED,
            Self::ForeignHost | Self::ForeignOrigin | Self::Forwarded(_) => StatusCode::FORBIDDEN,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedType(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Refused(_) | Self::Changed(_) => StatusCode::CONFLICT,
            Self::Unseen(_) => StatusCode::PRECONDITION_REQUIRED,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Unauthorised => "unauthorised",
            Self::ForeignHost => "foreign_host",
            Self::ForeignOrigin => "foreign_origin",
            Self::Forwarded(_) => "forwarded",
            Self::NotFound(_) => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Malformed(_) => "malformed",
            Self::TooLarge(_) => "too_large",
            Self::UnsupportedType(_) => "unsupported_media_type",
            Self::Refused(_) => "refused",
            Self::Changed(_) => "changed",
            Self::Unseen(_) => "precondition_required",
            Self::Unavailable(_) => "unavailable",
            Self::Internal(_) => "internal",
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = json!({ "error": { "code": self.code(), "message": self.to_string() } });
        let mut response = (self.status(), Json(body)).into_response();
        if self == Self::Unauthorised {
            for challenge in ["Bearer realm=\"fleetgate\"", "Basic realm=\"fleetgate\", charset=\"UTF-8\""] {
                response.headers_mut().append(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
        }
        response
    }
}
