//! Defines `fleetgate run`.

use std::io::Write;
use std::path::Path;

use super::{FAILED, FINE, say};
use crate::{app, config, telemetry};

/// Runs the gateway until a signal ends it. The configuration's problems go to standard error, all at once.
pub(super) fn run(
    path: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    stderr: &mut dyn Write,
) -> u8 {
    let settings = match config::load(path, environment) {
        Ok(settings) => settings,
        Err(problems) => {
            for problem in problems {
                say(stderr, &problem.to_string());
            }
            return FAILED;
        }
    };
    let started = telemetry::log::init(&settings.telemetry).map_err(|error| error.to_string());
    match started.and_then(|()| app::run(settings).map_err(|error| error.to_string())) {
        Ok(()) => FINE,
        Err(error) => {
            say(stderr, &format!("fleetgate: {error}"));
            FAILED
        }
    }
}
