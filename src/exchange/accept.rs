//! Defines what a client wants to read.

use http::HeaderValue;

/// Whether an `Accept` names JSON before anything textual.
pub fn prefers_json(accept: &HeaderValue) -> bool {
    let text = String::from_utf8_lossy(accept.as_bytes()).to_ascii_lowercase();
    match (text.find("application/json"), text.find("text/")) {
        (Some(json), Some(text)) => json < text,
        (json, None) => json.is_some(),
        (None, Some(_)) => false,
    }
}
