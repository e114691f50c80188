//! Our own log, which tells operators what happens, on standard error; panics are told there, too.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal, Write as _};
use std::panic;
use std::thread;

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;

use super::outputs::Outputs;
use crate::spec::log_filter;
use crate::spec::settings::{LogFormat, Telemetry};

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is none.
    #[error(
        "telemetry.log: `{filter}` is not a log filter: {reason}; write a level (error, warn, info, debug, off), \
             or `target=level` pairs with commas, as in `info,fleetgate::discovery=debug`"
    )]
    Filter {
        /// As it was written.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is a log already.
    #[error("the log is set up already")]
    Set,
}

/// Sends what is logged from now on to standard error. Nobody waits for its reader: lines that find no room are dropped.
///
/// # Errors
/// A filter that is none, and a process that has a log already.
pub fn init(settings: &Telemetry, outputs: &Outputs) -> Result<(), LogError> {
    let colour = settings.log_format == LogFormat::Text && io::stderr().is_terminal();
    let stream = outputs.stderr();
    subscriber(settings, move || OneLine(stream.clone()), colour)?.try_init().map_err(|_| LogError::Set)
}

/// Tells panics from now on in our own log. What the standard library does instead waits for the reader of standard
/// error, and holds a lock meanwhile.
pub fn tell_panics(outputs: &Outputs) {
    let stream = outputs.stderr();
    panic::set_hook(Box::new(move |panic| {
        let message = panic.payload_as_str().unwrap_or("no message");
        let thread = thread::current();
        let (thread, place) = (thread.name().unwrap_or("unnamed"), panic.location().map(ToString::to_string));
        let place = place.unwrap_or_default();
        // As the environment asks (RUST_BACKTRACE).
        let trace = Backtrace::capture();
        let trace = (trace.status() == BacktraceStatus::Captured).then(|| trace.to_string());
        if tracing::enabled!(tracing::Level::ERROR) {
            tracing::error!(thread, place, trace, "a thread panicked: {message}");
        } else {
            let trace = trace.map(|trace| format!("\n{trace}")).unwrap_or_default();
            // It takes any text.
            let _ = writeln!(stream.clone(), "fleetgate: thread `{thread}` panicked at {place}: {message}{trace}");
        }
    }));
}

/// A writer of events, each of which stays one line: what registries and files say may hold line breaks, and would
/// otherwise write lines of its own.
struct OneLine<W>(W);

impl<W: io::Write> io::Write for OneLine<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let (line, end) = event.strip_suffix(b"\n").map_or((event, &b""[..]), |line| (line, b"\n"));
        if !line.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
            return self.0.write(event);
        }
        let mut whole = Vec::with_capacity(event.len() + 16);
        for byte in line {
            match byte {
                b'\n' => whole.extend_from_slice(b"\\n"),
                b'\r' => whole.extend_from_slice(b"\\r"),
                byte => whole.push(*byte),
            }
        }
        whole.extend_from_slice(end);
        self.0.write_all(&whole)?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Checks a filter.
///
/// # Errors
/// A filter that is none.
pub fn check_filter(filter: &str) -> Result<(), LogError> {
    parse(filter).map(drop)
}

fn subscriber<W>(settings: &Telemetry, writer: W, colour: bool) -> Result<Box<dyn Subscriber + Send + Sync>, LogError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let log = tracing_subscriber::fmt().with_env_filter(parse(&settings.log)?).with_writer(writer).with_ansi(colour);
    Ok(match settings.log_format {
        LogFormat::Text => Box::new(log.finish()),
        LogFormat::Json => Box::new(log.json().flatten_event(true).finish()),
    })
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    let wrong = |reason: String| LogError::Filter { filter: filter.to_owned(), reason };
    log_filter::check(filter).map_err(wrong)?;
    EnvFilter::try_new(filter).map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;
    use crate::spec::settings::LogDestination;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(text);
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(filter: &str, log_format: LogFormat) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let settings = Telemetry {
            access_log: LogDestination::Off,
            audit: LogDestination::Off,
            audit_accepted: false,
            log: filter.to_owned(),
            log_format,
            events: None,
        };
        let subscriber = subscriber(&settings, move || OneLine(writer.clone()), false).expect("a subscriber");
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(upstream = "users", "hello");
            tracing::debug!("detail");
            let hostile = "a\r\n2026-11-30T00:00:00Z ERROR forged";
            tracing::error!(hostile, "from outside: {hostile}");
        });
        let text = lines.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        String::from_utf8(text).expect("UTF-8")
    }

    #[test]
    fn the_filter_decides_what_is_told() {
        let text = logged("info", LogFormat::Text);
        assert!(text.contains("hello") && text.contains("upstream=\"users\"") && !text.contains("detail"), "{text}");
        assert!(logged("warn,fleetgate=debug", LogFormat::Text).contains("detail"));
        assert_eq!(logged("off", LogFormat::Text), "");
    }

    #[test]
    fn nothing_that_is_told_makes_a_line_of_its_own() {
        let text = logged("error", LogFormat::Text);
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("from outside: a\\r\\n2026-11-30"), "{text}");
        assert_eq!(logged("error", LogFormat::Json).lines().count(), 1);
    }

    #[test]
    fn json_lines_are_json() {
        let text = logged("info", LogFormat::Json);
        let first = text.lines().next().expect("a line");
        let value: serde_json::Value = serde_json::from_str(first).expect("JSON");
        assert_eq!((value["level"].as_str(), value["message"].as_str()), (Some("INFO"), Some("hello")));
        assert_eq!(value["upstream"], "users");
    }

    #[test]
    fn a_wrong_filter_is_named() {
        for wrong in ["inof", "info,fleetgate=loud", "debgu", "warning,x", "fleetgate=info=x"] {
            let error = check_filter(wrong).expect_err(wrong).to_string();
            assert!(error.contains(wrong), "{error}");
        }
        for right in ["info", "INFO", "warn,hyper=debug", "fleetgate", "off", ""] {
            assert!(check_filter(right).is_ok(), "{right}");
        }
    }
}
