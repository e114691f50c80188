//! Defines the pages of the admin API and what surrounds each: who may ask, errors as JSON, headers.

use std::net::Ipv4Addr;
use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State as Shared};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use serde_json::json;

use super::State;
use super::access::{self, Authorised, Client};
use super::command;
use super::error::ApiError;
use super::view::{Freshness, List, config, hold, provider, route, status, upstream};
use super::{events, explain, query};
use crate::snapshot::Snapshot;
use crate::spec::name::ProviderId;
use crate::telemetry::audit::Authentication;
use crate::telemetry::prometheus;

/// All pages.
pub(super) fn router(state: State) -> Router {
    let state = Arc::new(state);
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(async |Shared(state): Of| Json(status::view(&state))))
        .route("/api/v1/routes", get(async |Shared(state): Of| Json(route::list(&state.now()))))
        .route("/api/v1/upstreams", get(upstreams))
        .route("/api/v1/upstreams/{name}", get(one_upstream))
        .route("/api/v1/upstreams/{name}/endpoints/{address}/drain", post(command::drain))
        .route("/api/v1/upstreams/{name}/endpoints/{address}/undrain", post(command::undrain))
        .route("/api/v1/providers", get(providers))
        .route("/api/v1/providers/{name}/accept", post(command::accept))
        .route("/api/v1/providers/{name}/holds", get(holds_of_provider))
        .route("/api/v1/holds", get(holds))
        .route("/api/v1/accept", post(command::accept_target))
        .route("/api/v1/events", get(events::list))
        .route("/api/v1/events/at", get(events::at))
        .route("/api/v1/explain", get(explain::explain).post(explain::explain_form))
        .route("/api/v1/config", get(async |Shared(state): Of| Json(config::view(&state.settings, &state.now()))))
        .fallback(async |uri: Uri| ApiError::NotFound(format!("there is nothing at {}", uri.path())))
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .layer(from_fn_with_state(Arc::clone(&state), guard))
        .layer(from_fn(harden))
        .with_state(state)
}

type Of = Shared<Arc<State>>;

impl State {
    fn now(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.borrow())
    }
}

async fn healthz() -> Response {
    Json(json!({ "status": "ok" })).into_response()
}

async fn readyz(Shared(state): Of, authorised: Option<Extension<Authorised>>) -> Response {
    let progress = state.readiness.progress();
    let code = if progress.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = match authorised {
        Some(_) => json!({ "ready": progress.ready, "draining": progress.draining, "reasons": progress.reasons }),
        None => json!({ "ready": progress.ready }),
    };
    (code, Json(body)).into_response()
}

async fn metrics(Shared(state): Of) -> Result<Response, ApiError> {
    let text = state.metrics.render().map_err(|error| ApiError::Internal(format!("metrics: {error}")))?;
    Ok(([(header::CONTENT_TYPE, prometheus::CONTENT_TYPE)], text).into_response())
}

async fn upstreams(Shared(state): Of) -> Json<List<upstream::UpstreamView>> {
    Json(upstream::list(&state.now(), &Freshness::of(&state.providers)))
}

async fn one_upstream(
    Shared(state): Of,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<upstream::UpstreamView>, ApiError> {
    let Path(name) = name.map_err(|error| ApiError::Malformed(error.body_text()))?;
    let view = upstream::one(&state.now(), &name, &Freshness::of(&state.providers));
    view.map(Json).ok_or_else(|| ApiError::NotFound(format!("there is no upstream `{name}`")))
}

async fn providers(Shared(state): Of) -> Json<List<provider::ProviderView>> {
    let snapshot = state.now();
    Json(provider::list(snapshot.generation, &state.providers, &snapshot.report))
}

/// `GET /api/v1/holds?target=`
async fn holds(Shared(state): Of, uri: Uri) -> Result<Json<hold::HoldsView>, ApiError> {
    let mut target = None;
    for (name, value) in query::pairs(&uri) {
        match &*name {
            "target" => query::once(&mut target, "target", value)?,
            _ => return Err(query::unknown(&name, &["target"])),
        }
    }
    Ok(Json(hold::view(&state.now(), target.as_deref())))
}

/// `GET /api/v1/providers/NAME/holds`
async fn holds_of_provider(
    Shared(state): Of,
    name: Result<Path<String>, PathRejection>,
) -> Result<Json<hold::HoldsView>, ApiError> {
    let Path(name) = name.map_err(|error| ApiError::Malformed(error.body_text()))?;
    let provider: ProviderId = name.parse().map_err(ApiError::NotFound)?;
    Ok(Json(hold::view(&state.now(), Some(provider.as_str()))))
}

/// Lets in who may ask, and notes who may see everything.
async fn guard(Shared(state): Of, mut request: Request, next: Next) -> Result<Response, ApiError> {
    let origin = if request.method().is_safe() { Ok(()) } else { access::judge_origin(request.headers()) };
    let judged = origin.and_then(|()| access::judge(&state.settings.admin, request.uri(), request.headers()));
    let authorised = judged.inspect_err(|error| {
        let client = request.extensions().get::<Client>().map(|client| client.0.ip());
        state.audit.add(
            "authentication",
            &Authentication {
                method: request.method().as_str(),
                path: request.uri().path(),
                status: Some(error.status().as_u16()),
                ..Authentication::refused("admin", error.code(), client.unwrap_or(Ipv4Addr::UNSPECIFIED.into()))
            },
        );
    })?;
    if let Some(authorised) = authorised {
        request.extensions_mut().insert(authorised);
    }
    Ok(next.run(request).await)
}

/// Nothing here is to be cached, framed, guessed at or run by a browser.
async fn harden(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use http::{HeaderMap, Method};
    use serde_json::Value;
    use tokio::sync::watch;
    use tokio::time::Instant;
    use tokio_util::sync::CancellationToken;
    use tower::ServiceExt as _;

    use super::*;
    use crate::admin::view::sample;
    use crate::admin::{Readiness, metrics};
    use crate::control::command::Commands;
    use crate::control::history::History;
    use crate::spec::settings::Secret;
    use crate::telemetry::audit::AuditLog;
    use crate::telemetry::descriptors::{Descriptors, Division};
    use crate::telemetry::lines::LogStates;
    use crate::telemetry::prometheus::Metrics;

    fn state(token: Option<&str>) -> State {
        let mut settings = sample::settings();
        settings.admin.token = token.map(Secret::new);
        let (_, snapshot) = watch::channel(Arc::new(sample::Picture::default().snapshot()));
        let metrics = Metrics::new().expect("a registry");
        let started = Instant::now();
        let picture =
            metrics::Picture { snapshot: snapshot.clone(), providers: Vec::new(), fleet: Arc::default(), started };
        metrics.register(picture).expect("families");
        State {
            listeners: vec![("web".parse().expect("a name"), ([127, 0, 0, 1], 8080).into())],
            settings: Arc::new(settings),
            snapshot,
            providers: Vec::new(),
            fleet: Arc::default(),
            audit: Arc::new(AuditLog::off()),
            commands: Commands::channel().0,
            history: History::new(Box::new(|_, _| None), CancellationToken::new()),
            logs: LogStates(Vec::new()),
            unreadable: Arc::default(),
            descriptors: Descriptors::new(Division::of(1024, 0), 0),
            metrics,
            readiness: Readiness::new(),
            started,
        }
    }

    async fn send(state: State, method: Method, path: &str, token: Option<&str>) -> (StatusCode, HeaderMap, String) {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(axum::body::Body::empty()).expect("a request");
        let (head, body) = router(state).oneshot(request).await.expect("an answer").into_parts();
        let body = to_bytes(body, usize::MAX).await.expect("a body");
        (head.status, head.headers, String::from_utf8(body.to_vec()).expect("text"))
    }

    async fn asked(path: &str) -> (StatusCode, Value) {
        let (status, _, body) = send(state(None), Method::GET, path, None).await;
        (status, serde_json::from_str(&body).unwrap_or_else(|_| panic!("no JSON: {body}")))
    }

    #[tokio::test]
    async fn every_page_answers() {
        assert_eq!(asked("/healthz").await, (StatusCode::OK, json!({ "status": "ok" })));
        for list in ["/api/v1/routes", "/api/v1/upstreams", "/api/v1/providers"] {
            let (status, value) = asked(list).await;
            assert_eq!((status, &value["generation"]), (StatusCode::OK, &json!(7)), "{list}");
            assert!(value["items"].is_array(), "{list}");
        }
        assert_eq!(asked("/api/v1/upstreams/users").await.1["name"], "users");
        assert_eq!(asked("/api/v1/upstreams/us%65rs").await.1["name"], "users");
        assert_eq!(asked("/api/v1/config").await.1["settings"]["runtime"]["workers"], 2);
        let (_, events) = asked("/api/v1/events?limit=5&wait=0").await;
        assert_eq!((&events["items"], &events["dropped"]), (&json!([]), &json!(0)));
        assert_eq!(asked("/api/v1/events/at?time=00:00").await.1["items"], json!([]));
        let explained = asked("/api/v1/explain?url=http://nobody/x&header=x-a:%20b&client=10.0.0.1").await;
        assert_eq!((explained.0, &explained.1["request"]["client"]), (StatusCode::OK, &json!("10.0.0.1")));
        let (_, status) = asked("/api/v1/status").await;
        assert_eq!(status["routes"], json!({ "ok": 1, "degraded": 0, "kept": 0, "shadowed": 0, "unresolved": 1 }));
        assert_eq!(status["endpoints"]["healthy"], 2);
        assert_eq!(status["listeners"], json!([{ "name": "web", "address": "127.0.0.1:8080" }]));
        assert_eq!(status["ready"], false);
        let (code, headers, text) = send(state(None), Method::GET, "/metrics", None).await;
        assert_eq!(code, StatusCode::OK);
        assert_eq!(headers[header::CONTENT_TYPE], prometheus::CONTENT_TYPE);
        assert!(text.contains("\nfleetgate_snapshot_generation 7\n"), "{text}");
    }

    #[tokio::test]
    async fn errors_have_one_shape() {
        for (path, status, code) in [
            ("/", StatusCode::NOT_FOUND, "not_found"),
            ("/api/v1/nothing", StatusCode::NOT_FOUND, "not_found"),
            ("/api/v1/upstreams/nobody", StatusCode::NOT_FOUND, "not_found"),
            ("/api/v1/upstreams/%FF", StatusCode::BAD_REQUEST, "malformed"),
            ("/api/v1/events?limit=0", StatusCode::BAD_REQUEST, "malformed"),
            ("/api/v1/events?limit=1001", StatusCode::BAD_REQUEST, "malformed"),
            ("/api/v1/events?since=tomorrow", StatusCode::BAD_REQUEST, "malformed"),
            ("/api/v1/events?provider=nobody", StatusCode::BAD_REQUEST, "malformed"),
            ("/api/v1/events?follow=1", StatusCode::BAD_REQUEST, "malformed"),
            ("/api/v1/events/at", StatusCode::BAD_REQUEST, "malformed"),
            ("/api/v1/events/at?time=25:00", StatusCode::BAD_REQUEST, "malformed"),
            ("/api/v1/events/at?time=14:02&upstream=nobody", StatusCode::NOT_FOUND, "not_found"),
            ("/api/v1/explain", StatusCode::BAD_REQUEST, "malformed"),
            ("/api/v1/explain?url=/", StatusCode::BAD_REQUEST, "malformed"),
            ("/api/v1/explain?url=http://a/&url=http://b/", StatusCode::BAD_REQUEST, "malformed"),
            ("/api/v1/explain?url=http://a/&headers=a:b", StatusCode::BAD_REQUEST, "malformed"),
            ("/api/v1/explain?url=http://a/&client=a", StatusCode::BAD_REQUEST, "malformed"),
            ("/api/v1/explain?url=http://a/&listener=none", StatusCode::NOT_FOUND, "not_found"),
            ("/api/v1/explain?url=http://a/&route=none", StatusCode::NOT_FOUND, "not_found"),
        ] {
            let (got, value) = asked(path).await;
            assert_eq!((got, &value["error"]["code"]), (status, &json!(code)), "{path}");
            assert!(value["error"]["message"].is_string(), "{path}");
        }
        let (status, headers, body) = send(state(None), Method::POST, "/api/v1/routes", None).await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(headers[header::ALLOW], "GET,HEAD");
        assert!(body.contains(r#""code":"method_not_allowed""#), "{body}");
        let (status, headers, body) = send(state(Some("s3cret")), Method::GET, "/metrics", None).await;
        assert_eq!((status, headers.get_all(header::WWW_AUTHENTICATE).iter().count()), (StatusCode::UNAUTHORIZED, 2));
        assert!(body.contains(r#""code":"unauthorised""#), "{body}");
    }

    #[tokio::test]
    async fn readiness_tells_its_reasons_to_those_who_may_know() {
        let now = state(Some("s3cret"));
        let ask = async |token| {
            let (status, _, body) = send(now.clone(), Method::GET, "/readyz", token).await;
            (status.as_u16(), serde_json::from_str::<Value>(&body).expect("JSON"))
        };
        assert_eq!(ask(None).await, (503, json!({ "ready": false })));
        let reasons = json!(["no configuration was read yet"]);
        assert_eq!(ask(Some("s3cret")).await, (503, json!({ "ready": false, "draining": false, "reasons": reasons })));
        now.readiness.follow(now.snapshot.clone(), None).await;
        assert_eq!(ask(None).await, (200, json!({ "ready": true })));
        now.readiness.drain();
        assert_eq!(ask(None).await, (503, json!({ "ready": false })));
        assert_eq!(ask(Some("s3cret")).await.1["draining"], true);
    }

    #[tokio::test]
    async fn every_answer_is_hardened() {
        for (path, token) in [("/healthz", None), ("/api/v1/status", None), ("/nowhere", Some("s3cret"))] {
            let (_, headers, _) = send(state(Some("s3cret")), Method::GET, path, token).await;
            assert_eq!(headers[header::CACHE_CONTROL], "no-store", "{path}");
            assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff", "{path}");
            assert_eq!(headers[header::X_FRAME_OPTIONS], "DENY", "{path}");
        }
    }

    #[tokio::test]
    async fn head_is_get_without_a_body() {
        let (status, headers, body) = send(state(None), Method::HEAD, "/api/v1/status", None).await;
        assert_eq!((status, &*body), (StatusCode::OK, ""));
        assert!(headers.contains_key(header::CONTENT_LENGTH));
    }
}
