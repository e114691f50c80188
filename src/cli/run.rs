//! Defines `fleetgate run`.

use std::io::Write;
use std::path::Path;

use super::{FAILED, FINE, say};
use crate::config::Start;
use crate::{app, config, telemetry};

/// Runs the gateway until a signal ends it. The configuration's problems go to standard error, all at once.
pub(super) fn run(
    path: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    stderr: &mut dyn Write,
) -> u8 {
    let Start { settings, warnings, running } = match config::prepare(path, environment) {
        Ok(start) => start,
        Err(problems) => {
            for problem in problems {
                say(stderr, &problem.to_string());
            }
            return FAILED;
        }
    };
    let started = telemetry::log::init(&settings.telemetry).map_err(|error| error.to_string());
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    match started.and_then(|()| app::run(settings, running).map_err(|error| error.to_string())) {
        Ok(()) => FINE,
        Err(error) => {
            say(stderr, &format!("fleetgate: {error}"));
            FAILED
        }
    }
}
