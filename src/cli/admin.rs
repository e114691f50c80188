//! Defines how commands ask a running gateway: its admin API.

use std::convert::Infallible;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Method;
use serde_json::Value;

use super::table::printable;
use super::{FAILED, FINE, say};
use crate::spec::file;

/// How to reach the admin API of a running gateway.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Access {
    /// Where the admin API is
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9901", value_parser = url)]
    admin: String,
    /// A file that holds the admin token
    ///
    /// Else FLEETGATE_ADMIN__TOKEN or the file FLEETGATE_ADMIN__TOKEN_FILE is used, if set.
    #[arg(long, value_name = "PATH")]
    token_file: Option<PathBuf>,
    /// Prints the answer of the API as JSON, for scripts
    #[arg(long)]
    json: bool,
}

/// Why there is no answer.
pub(super) struct Failure {
    /// The API's word for it; empty where the API was not reached.
    pub(super) code: String,
    /// For people.
    pub(super) text: String,
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self { code: String::new(), text }
    }
}

const TIMEOUT: Duration = Duration::from_secs(10);

/// Asks for a path and shows the answer as a table, or as it is.
pub(super) fn show(
    access: &Access,
    path: &str,
    render: fn(&Value) -> String,
    out: &mut dyn Write,
    remarks: &mut dyn Write,
) -> u8 {
    shown(access, access.ask(path), render, out, remarks)
}

/// Tells the gateway something and shows its answer.
pub(super) fn tell(access: &Access, path: &str, out: &mut dyn Write, remarks: &mut dyn Write) -> u8 {
    let message = |answer: &Value| printable(&text(answer.get("message")));
    shown(access, access.send(Method::POST, path), message, out, remarks)
}

/// A text as one segment of a path.
pub(super) fn segment(text: &str) -> impl std::fmt::Display {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
}

fn shown(
    access: &Access,
    answer: Result<Value, String>,
    render: fn(&Value) -> String,
    out: &mut dyn Write,
    remarks: &mut dyn Write,
) -> u8 {
    match answer {
        Ok(answer) => {
            let text = if access.json { format!("{answer:#}") } else { render(&answer) };
            say(out, &text);
            FINE
        }
        Err(error) => {
            say(remarks, &format!("fleetgate: {}", printable(&error)));
            FAILED
        }
    }
}

/// A URL, also where only `host:port` was written.
fn url(text: &str) -> Result<String, Infallible> {
    Ok(if text.contains("://") { text.to_owned() } else { format!("http://{text}") })
}

impl Access {
    /// Whether JSON is wanted.
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// Asks for a path.
    pub(super) fn ask(&self, path: &str) -> Result<Value, String> {
        self.send(Method::GET, path)
    }

    /// Sends a body.
    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.exchange(Method::POST, path, Some(body))
    }

    fn send(&self, method: Method, path: &str) -> Result<Value, String> {
        self.exchange(method, path, None).map_err(|failure| failure.text)
    }

    fn exchange(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let token = self.token()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("cannot start: {error}"))?;
        runtime.block_on(async {
            let mut client = reqwest::Client::builder();
            if !self.admin.starts_with("https://") {
                // A machine may have no certificates at all, which matters only to https.
                client = client.tls_certs_only([]);
            }
            let client = client
                .connect_timeout(TIMEOUT)
                .timeout(TIMEOUT)
                // The admin API is near; a proxy for the way out would only be in between.
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .map_err(|error| format!("no HTTP client: {error}"))?;
            let mut request = client.request(method, format!("{}{path}", self.admin.trim_end_matches('/')));
            if let Some(token) = &token {
                request = request.bearer_auth(token);
            }
            if let Some(body) = body {
                request = request.header("content-type", "application/json").body(body.to_string());
            }
            let response = request.send().await.map_err(|error| self.unreachable(&error))?;
            let status = response.status();
            let body = response.text().await.map_err(|error| self.unreachable(&error))?;
            if !status.is_success() {
                return Err(self.refused(status, &body));
            }
            let parsed = serde_json::from_str(&body);
            parsed.map_err(|_| Failure::from(format!("{} is no admin API of Fleetgate", self.admin)))
        })
    }

    fn token(&self) -> Result<Option<String>, String> {
        let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let file = match (&self.token_file, variable("FLEETGATE_ADMIN__TOKEN")) {
            (Some(file), _) => Some(file.clone()),
            (None, Some(token)) => return Ok(Some(token)),
            (None, None) => variable("FLEETGATE_ADMIN__TOKEN_FILE").map(PathBuf::from),
        };
        let Some(file) = file else { return Ok(None) };
        let text =
            file::read_text(&file, file::MAX_SECRET_BYTES).map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(Some(text.trim_end_matches(['\n', '\r']).to_owned()))
    }

    fn unreachable(&self, error: &reqwest::Error) -> String {
        // The innermost cause says what happened ("Connection refused").
        let mut cause: &dyn std::error::Error = error;
        while let Some(next) = cause.source() {
            cause = next;
        }
        format!("no answer from the admin API at {}: {cause}; is the gateway running? (--admin URL)", self.admin)
    }

    fn refused(&self, status: reqwest::StatusCode, body: &str) -> Failure {
        let body: Value = serde_json::from_str(body).unwrap_or_default();
        let message = body.pointer("/error/message").and_then(Value::as_str).unwrap_or_default();
        let hint = match status {
            reqwest::StatusCode::UNAUTHORIZED => " (give the admin token by --token-file)",
            _ => "",
        };
        let code = text(body.pointer("/error/code"));
        Failure { code, text: format!("{} answered {status}: {message}{hint}", self.admin) }
    }
}

/// The text of a value inside an answer: a string as it is, other scalars as JSON, nothing for what is absent.
pub(super) fn text(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// The elements of a list inside an answer.
pub(super) fn list<'v>(value: &'v Value, key: &str) -> &'v [Value] {
    value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Texts with a separator.
pub(super) fn joined(values: &[Value], separator: &str) -> String {
    values.iter().map(|value| text(Some(value))).collect::<Vec<_>>().join(separator)
}

/// `a=1,b=2` of an object.
pub(super) fn pairs(value: Option<&Value>) -> String {
    let pairs = value.and_then(Value::as_object).into_iter().flatten();
    pairs.map(|(key, value)| format!("{key}={}", text(Some(value)))).collect::<Vec<_>>().join(",")
}

/// As many members of an object, `key=value`, as a cell has room for, and how many more there are.
pub(super) fn few_pairs(value: Option<&Value>) -> String {
    const MAX_CHARS: usize = 60;
    let all = value.and_then(Value::as_object).into_iter().flatten();
    let all: Vec<String> = all.map(|(key, value)| format!("{key}={}", text(Some(value)))).collect();
    let mut width = 0;
    let fits = all.iter().take_while(|pair| {
        width += pair.chars().count() + 1;
        width <= MAX_CHARS
    });
    // One that is too long by itself is shown as far as the table lets it.
    let shown = fits.count().max(1).min(all.len());
    let mut text = all[..shown].join(",");
    if shown < all.len() {
        text.push_str(&format!(" and {} more", all.len() - shown));
    }
    text
}
