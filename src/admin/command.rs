//! Defines the pages by which operators tell the gateway something. POST only: reading must never change anything.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State as Shared};
use serde::Serialize;

use super::State;
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

/// `POST /api/v1/upstreams/NAME/endpoints/ADDRESS/drain`
pub(super) async fn drain(Shared(state): Of, path: Result<Path<(String, String)>, PathRejection>) -> Answer {
    obey(&state, Command::Drain(place(path)?)).await
}

/// `POST /api/v1/upstreams/NAME/endpoints/ADDRESS/undrain`
pub(super) async fn undrain(Shared(state): Of, path: Result<Path<(String, String)>, PathRejection>) -> Answer {
    obey(&state, Command::Undrain(place(path)?)).await
}

/// `POST /api/v1/providers/NAME/accept`
pub(super) async fn accept(Shared(state): Of, path: Result<Path<String>, PathRejection>) -> Answer {
    let Path(name) = path.map_err(|error| ApiError::Malformed(error.body_text()))?;
    let provider: ProviderId = name.parse().map_err(ApiError::NotFound)?;
    obey(&state, Command::Accept(provider)).await
}

fn place(path: Result<Path<(String, String)>, PathRejection>) -> Result<Place, ApiError> {
    let Path((upstream, address)) = path.map_err(|error| ApiError::Malformed(error.body_text()))?;
    let address: SocketAddr = address.parse().map_err(|_| {
        ApiError::Malformed(format!("`{address}` is no address of an endpoint: write it as lists show it, `10.0.0.5:8080` or `[::1]:8080`, percent-encoded"))
    })?;
    Ok(Place { upstream: upstream.into(), address })
}

async fn obey(state: &State, command: Command) -> Answer {
    match state.commands.give(command).await {
        Ok(Outcome::Done(message)) => Ok(Json(Obeyed { result: "done", message })),
        Ok(Outcome::Unchanged(message)) => Ok(Json(Obeyed { result: "unchanged", message })),
        Err(refusal) => Err(match refusal {
            Refusal::Unknown(text) => ApiError::NotFound(text),
            Refusal::Impossible(text) => ApiError::Refused(text),
            Refusal::Unheard => ApiError::Unavailable(refusal.to_string()),
        }),
    }
}
