//! Defines the pages by which operators tell the gateway something. POST only: reading must never change anything.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State as Shared};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::State;
use super::access::Client;
use super::error::ApiError;
use crate::control::command::{Acceptance, Command, Outcome, Place, Refusal};
use crate::snapshot::Snapshot;
use crate::spec::name::ProviderId;

/// How long an acceptance waits for watches to confirm it.
const CONFIRMATION: Duration = Duration::from_secs(2);

/// What became of a command.
#[derive(Debug, Serialize)]
pub(super) struct Obeyed {
    /// `done`, or `unchanged` where it was so before.
    result: &'static str,
    /// For people.
    message: String,
}

type Answer = Result<Json<Obeyed>, ApiError>;
type Of = Shared<Arc<State>>;
/// Who gives it.
type By = Option<Extension<Client>>;

/// `POST /api/v1/upstreams/NAME/endpoints/ADDRESS/drain`
pub(super) async fn drain(Shared(state): Of, by: By, path: Result<Path<(String, String)>, PathRejection>) -> Answer {
    obey(&state, by, Command::Drain(place(path)?)).await
}

/// `POST /api/v1/upstreams/NAME/endpoints/ADDRESS/undrain`
pub(super) async fn undrain(Shared(state): Of, by: By, path: Result<Path<(String, String)>, PathRejection>) -> Answer {
    obey(&state, by, Command::Undrain(place(path)?)).await
}

/// The body of an acceptance.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Accepted {
    /// What `fleetgate accept` takes; of a provider's own page it is the provider.
    target: Option<String>,
    /// That of the holds, as the caller saw them.
    digest: Option<String>,
}

/// `POST /api/v1/providers/NAME/accept`, with `{"digest": ...}`
pub(super) async fn accept(
    Shared(state): Of,
    by: By,
    path: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let Path(name) = path.map_err(|error| ApiError::Malformed(error.body_text()))?;
    let provider: ProviderId = name.parse().map_err(ApiError::NotFound)?;
    match accepted(body)? {
        Accepted { target: Some(_), .. } => Err(ApiError::Malformed("`target` is for /api/v1/accept".to_owned())),
        Accepted { target: None, digest } => accept_holds(&state, by, provider.as_str(), digest).await,
    }
}

/// `POST /api/v1/accept`, with `{"target": ..., "digest": ...}`
pub(super) async fn accept_target(Shared(state): Of, by: By, body: Result<Bytes, BytesRejection>) -> Answer {
    let Accepted { target, digest } = accepted(body)?;
    let target = target.ok_or_else(|| ApiError::Malformed("`target` is missing: what is to be accepted".to_owned()))?;
    accept_holds(&state, by, &target, digest).await
}

fn accepted(body: Result<Bytes, BytesRejection>) -> Result<Accepted, ApiError> {
    let body = body.map_err(|error| ApiError::Malformed(error.body_text()))?;
    if body.is_empty() {
        return Ok(Accepted::default());
    }
    let wrong = |error| ApiError::Malformed(format!("the body is not as expected: {error}"));
    serde_json::from_slice(&body).map_err(wrong)
}

async fn accept_holds(state: &State, by: By, target: &str, digest: Option<String>) -> Answer {
    let held = |snapshot: &Snapshot| -> Vec<String> {
        let named = snapshot.report.holds.iter().filter(|hold| hold.refused.is_none() && hold.is_named(target));
        named.map(|hold| hold.id.clone()).collect()
    };
    let before = held(&state.snapshot.borrow());
    let command = Command::Accept(Acceptance { target: target.into(), digest });
    let Json(Obeyed { result, mut message }) = obey(state, by, command.clone()).await?;
    if result == "done" {
        // A watch reads once more before it lets go.
        let mut snapshots = state.snapshot.clone();
        let gone = snapshots.wait_for(|now| !held(now).iter().any(|id| before.contains(id)));
        let _ = tokio::time::timeout(CONFIRMATION, gone).await;
        let now = state.snapshot.borrow().clone();
        let stays = now.report.holds.iter().filter(|hold| hold.is_named(target) && before.contains(&hold.id));
        let stays: Vec<&str> = stays.map(|hold| hold.id.as_str()).collect();
        if !stays.is_empty() {
            let _ = write!(message, "; still held, see `fleetgate status`: {}", stays.join(", "));
        }
        message += &state.commands.settle(&command).await;
    }
    Ok(Json(Obeyed { result, message }))
}

fn place(path: Result<Path<(String, String)>, PathRejection>) -> Result<Place, ApiError> {
    let Path((upstream, address)) = path.map_err(|error| ApiError::Malformed(error.body_text()))?;
    let address: SocketAddr = address.parse().map_err(|_| {
        ApiError::Malformed(format!("`{address}` is no address of an endpoint: write it as lists show it, `10.0.0.5:8080` or `[::1]:8080`, percent-encoded"))
    })?;
    Ok(Place { upstream: upstream.into(), address })
}

async fn obey(state: &State, by: By, command: Command) -> Answer {
    let mut outcome = state.commands.give(command.clone()).await;
    // What is accepted can be saved only once watches have confirmed it.
    if let (Ok(Outcome::Done(message) | Outcome::Unchanged(message)), false) =
        (&mut outcome, matches!(command, Command::Accept(_)))
    {
        *message += &state.commands.settle(&command).await;
    }
    note(state, by, &command, &outcome);
    match outcome {
        Ok(Outcome::Done(message)) => Ok(Json(Obeyed { result: "done", message })),
        Ok(Outcome::Unchanged(message)) => Ok(Json(Obeyed { result: "unchanged", message })),
        Err(refusal) => Err(match refusal {
            Refusal::Unknown(text) => ApiError::NotFound(text),
            Refusal::Impossible(text) => ApiError::Refused(text),
            Refusal::Changed(text) => ApiError::Changed(text),
            Refusal::Unseen(text) => ApiError::Unseen(text),
            Refusal::Unheard => ApiError::Unavailable(refusal.to_string()),
        }),
    }
}

/// Who commanded what, and what became of it, for the audit log.
fn note(state: &State, by: By, command: &Command, outcome: &Result<Outcome, Refusal>) {
    let (name, of, fact, now) = match command {
        Command::Drain(place) => ("drain", place.to_string(), "drained", true),
        Command::Undrain(place) => ("undrain", place.to_string(), "drained", false),
        Command::Accept(acceptance) => ("accept", acceptance.target.to_string(), "held", false),
    };
    let (result, message, before, after) = match outcome {
        Ok(Outcome::Done(message)) => ("done", message.clone(), Some(!now), Some(now)),
        Ok(Outcome::Unchanged(message)) => ("unchanged", message.clone(), Some(now), Some(now)),
        Err(refusal) => ("refused", refusal.to_string(), None, None),
    };
    let fact = |value: Option<bool>| value.map(|value| json!({ fact: value }));
    state.audit.add(
        "command",
        &json!({
            "client": by.map(|Extension(client)| client.0.ip()),
            "token": state.settings.admin.token.is_some(),
            "command": name,
            "of": of,
            "result": result,
            "message": message,
            "before": fact(before),
            "after": fact(after),
        }),
    );
}
