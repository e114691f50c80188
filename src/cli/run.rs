//! `fleetgate run`

use std::path::PathBuf;
use std::sync::Arc;

use super::{FAILED, FINE, say};
use crate::app::{self, RunError};
use crate::config;
use crate::telemetry::outputs::Outputs;

/// Runs the gateway until a signal ends it. The configuration's problems go to standard error, all at once.
pub(super) fn run(
    path: Option<PathBuf>,
    environment: impl IntoIterator<Item = (String, String)>,
    outputs: &Arc<Outputs>,
) -> u8 {
    let environment: Vec<_> = environment.into_iter().collect();
    let mut stderr = outputs.stderr();
    match app::run(move || config::prepare(path.as_deref(), environment), outputs) {
        Ok(()) => return FINE,
        Err(RunError::Configuration(problems)) => {
            for problem in &problems {
                say(&mut stderr, &problem.to_string());
            }
        }
        Err(RunError::Start(error)) => {
            say(&mut stderr, &format!("fleetgate: {error}"));
        }
    }
    FAILED
}
