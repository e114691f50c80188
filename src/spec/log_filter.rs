//! Defines what a filter of our own log may be: levels and `target=level` pairs, as in `RUST_LOG`.

use tracing_subscriber::EnvFilter;

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// Checks a filter.
///
/// # Errors
/// What is wrong with it.
pub fn check(filter: &str) -> Result<(), String> {
    // A mistyped level is a valid target to the parser, and would turn everything else off.
    for word in filter.split(',').map(str::trim) {
        let lower = word.to_ascii_lowercase();
        if LEVELS.contains(&&*lower) {
            continue;
        }
        let near = |level: &str| strsim::osa_distance(&lower, level) <= 2 || lower.starts_with(level);
        if let Some(level) = LEVELS.into_iter().find(|level| near(level)) {
            return Err(format!("`{word}` is no level, perhaps `{level}`"));
        }
    }
    EnvFilter::try_new(filter).map(drop).map_err(|error| error.to_string())
}
