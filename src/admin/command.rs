//! Defines the pages by which operators tell the gateway something. POST only: reading must never change anything.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State as Shared};
use axum::{Extension, Json};
use serde::Serialize;
use serde_json::json;

use super::State;
use super::access::Client;
use super::error::ApiError;
use crate::control::command::{Command, Outcome, Place, Refusal};
use crate::spec::name::ProviderId;

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

/// `POST /api/v1/providers/NAME/accept`
pub(super) async fn accept(Shared(state): Of, by: By, path: Result<Path<String>, PathRejection>) -> Answer {
    let Path(name) = path.map_err(|error| ApiError::Malformed(error.body_text()))?;
    let provider: ProviderId = name.parse().map_err(ApiError::NotFound)?;
    obey(&state, by, Command::Accept(provider)).await
}

fn place(path: Result<Path<(String, String)>, PathRejection>) -> Result<Place, ApiError> {
    let Path((upstream, address)) = path.map_err(|error| ApiError::Malformed(error.body_text()))?;
    let address: SocketAddr = address.parse().map_err(|_| {
        ApiError::Malformed(format!("`{address}` is no address of an endpoint: write it as lists show it, `10.0.0.5:8080` or `[::1]:8080`, percent-encoded"))
    })?;
    Ok(Place { upstream: upstream.into(), address })
}

async fn obey(state: &State, by: By, command: Command) -> Answer {
    let outcome = state.commands.give(command.clone()).await;
    note(state, by, &command, &outcome);
    match outcome {
        Ok(Outcome::Done(message)) => Ok(Json(Obeyed { result: "done", message })),
        Ok(Outcome::Unchanged(message)) => Ok(Json(Obeyed { result: "unchanged", message })),
        Err(refusal) => Err(match refusal {
            Refusal::Unknown(text) => ApiError::NotFound(text),
            Refusal::Impossible(text) => ApiError::Refused(text),
            Refusal::Unheard => ApiError::Unavailable(refusal.to_string()),
        }),
    }
}

/// Who commanded what, and what became of it, for the audit log.
fn note(state: &State, by: By, command: &Command, outcome: &Result<Outcome, Refusal>) {
    let (name, of, fact, now) = match command {
        Command::Drain(place) => ("drain", place.to_string(), "drained", true),
        Command::Undrain(place) => ("undrain", place.to_string(), "drained", false),
        Command::Accept(provider) => ("accept", provider.to_string(), "held", false),
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
