//! Defines how commands ask a running gateway: its admin API.

use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use reqwest::Method;
use serde_json::Value;

use super::table::printable;
use super::{FAILED, FINE, UNANSWERED, say};
use crate::spec::cause::plain;
use crate::spec::file;

/// How to reach the admin API of a running gateway.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Access {
    /// Where the admin API is
    ///
    /// Else it is at FLEETGATE_ADMIN__ADDRESS, if set, as it is for the gateway.
    #[arg(long, value_name = "URL", default_value = PLACE.as_str(), value_parser = url)]
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
    /// The exit code: whether the gateway said no, or could not be asked.
    pub(super) exit: u8,
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self { code: String::new(), text, exit: UNANSWERED }
    }
}

/// Where the admin API is by default.
pub(super) const DEFAULT_URL: &str = "http://127.0.0.1:9901";

/// Where it is when the command line does not say. Commands that take the token from the environment must take the address
/// from there, too: the token is that gateway's.
static PLACE: LazyLock<String> = LazyLock::new(|| {
    variable("FLEETGATE_ADMIN__ADDRESS").map_or_else(|| DEFAULT_URL.to_owned(), |text| reached(&text))
});

/// The URL of an address that a gateway binds: one that stands for all of a machine's is asked on this one.
fn reached(bound: &str) -> String {
    let Ok(mut address) = bound.parse::<SocketAddr>() else { return bound.to_owned() };
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    format!("http://{address}")
}

/// A variable of the environment, if it is set and not empty.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

const TIMEOUT: Duration = Duration::from_secs(10);

/// The largest answer that is read: whatever listens at the URL may send without end.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// Members that an answer must have: whatever else listens at the URL may answer in JSON, too.
pub(super) type Shape = &'static [(&'static str, fn(&Value) -> bool)];

/// A list of the API.
pub(super) const ITEMS: Shape = &[("generation", Value::is_u64), ("items", Value::is_array)];

/// The result of a command, as text.
pub(super) const MESSAGE: Shape =
    &[("message", |message| message.as_str().is_some_and(|text| !text.trim().is_empty()))];

/// A page of the API: where it is, what it must have, and how it is shown.
pub(super) struct Page {
    pub(super) shape: Shape,
    pub(super) render: fn(&Value) -> String,
    /// The exit code for an answer.
    pub(super) verdict: fn(&Value) -> u8,
}

impl Page {
    /// A page that answers well whatever it says.
    pub(super) fn new(shape: Shape, render: fn(&Value) -> String) -> Self {
        Self { shape, render, verdict: |_| FINE }
    }
}

/// Asks for a path and shows the answer as a table, or as it is.
pub(super) fn show(access: &Access, path: &str, page: &Page, out: &mut dyn Write, remarks: &mut dyn Write) -> u8 {
    shown(access, access.ask(path, page.shape), page, out, remarks)
}

/// Asks with the fields of a form, and shows the answer likewise.
pub(super) fn show_posted(
    access: &Access,
    path: &str,
    fields: String,
    page: &Page,
    out: &mut dyn Write,
    remarks: &mut dyn Write,
) -> u8 {
    let body = ("application/x-www-form-urlencoded", fields);
    shown(access, access.exchange(Method::POST, path, Some(body), page.shape), page, out, remarks)
}

/// Tells the gateway something and shows its answer.
pub(super) fn tell(access: &Access, path: &str, out: &mut dyn Write, remarks: &mut dyn Write) -> u8 {
    let page = Page::new(MESSAGE, |answer| printable(&text(answer.get("message"))));
    shown(access, access.exchange(Method::POST, path, None, page.shape), &page, out, remarks)
}

/// An answer as JSON that cannot steer the terminal: a control character can only stand in a text, where it is escaped.
pub(super) fn pretty(answer: &Value) -> String {
    escape_controls(&format!("{answer:#}"))
}

/// JSON in one line, likewise.
pub(super) fn compact(answer: &Value) -> String {
    escape_controls(&answer.to_string())
}

fn escape_controls(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '\n' => escaped.push(character),
            _ if super::table::steers(character) => {
                let mut units = [0; 2];
                for unit in character.encode_utf16(&mut units) {
                    escaped.push_str(&format!("\\u{unit:04x}"));
                }
            }
            _ => escaped.push(character),
        }
    }
    escaped
}

/// A text as one segment of a path.
pub(super) fn segment(text: &str) -> impl std::fmt::Display {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
}

fn shown(
    access: &Access,
    answer: Result<Value, Failure>,
    page: &Page,
    out: &mut dyn Write,
    remarks: &mut dyn Write,
) -> u8 {
    match answer {
        Ok(answer) => {
            let text = if access.json { pretty(&answer) } else { (page.render)(&answer) };
            say(out, &text);
            (page.verdict)(&answer)
        }
        Err(failure) => failed(remarks, &failure),
    }
}

/// Says why there is no answer.
pub(super) fn failed(remarks: &mut dyn Write, failure: &Failure) -> u8 {
    say(remarks, &format!("fleetgate: {}", printable(&failure.text)));
    failure.exit
}

/// A URL, also where only `host:port` was written.
fn url(text: &str) -> Result<String, String> {
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let parsed = reqwest::Url::parse(&url).map_err(|error| format!("{error}; write {DEFAULT_URL}"))?;
    match parsed.scheme() {
        "http" | "https" => Ok(url),
        other => Err(format!("`{other}` is not http or https; write {DEFAULT_URL}")),
    }
}

impl Access {
    /// Whether JSON is wanted.
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// Asks for a path.
    pub(super) fn ask(&self, path: &str, shape: Shape) -> Result<Value, Failure> {
        self.exchange(Method::GET, path, None, shape)
    }

    /// Sends a body.
    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.exchange(Method::POST, path, Some(("application/json", body.to_string())), MESSAGE)
    }

    /// `body`: its type, and itself.
    fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, String)>,
        shape: Shape,
    ) -> Result<Value, Failure> {
        let token = self.token()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("cannot start: {error}"))?;
        let (status, body) = runtime.block_on(async {
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
            if let Some((kind, body)) = body {
                request = request.header("content-type", kind).body(body);
            }
            let mut response = request.send().await.map_err(|error| self.unreachable(&error))?;
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
                body.extend_from_slice(&chunk);
                if body.len() > MAX_ANSWER_BYTES {
                    return Err(self.foreign("its answer does not end"));
                }
            }
            Ok::<_, Failure>((response.status(), body))
        })?;
        let parsed = serde_json::from_slice::<Value>(&body);
        if !status.is_success() {
            return Err(self.refused(status, &parsed.unwrap_or_default()));
        }
        let answer = parsed.map_err(|_| self.foreign("its answer is not JSON"))?;
        match shape.iter().find(|(name, fits)| !answer.get(name).is_some_and(fits)) {
            Some((name, _)) => Err(self.foreign(&format!("its answer has no `{name}` as that API has it"))),
            None => Ok(answer),
        }
    }

    /// What answers is something else.
    fn foreign(&self, why: &str) -> Failure {
        format!(
            "{} is not the admin API of Fleetgate: {why}; give the address of the line `admin` that `fleetgate run` \
             prints (--admin URL)",
            self.admin
        )
        .into()
    }

    fn token(&self) -> Result<Option<String>, String> {
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
        let cause = plain(&cause.to_string());
        format!("no answer from the admin API at {}: {cause}; is the gateway running? (--admin URL)", self.admin)
    }

    fn refused(&self, status: reqwest::StatusCode, body: &Value) -> Failure {
        use reqwest::StatusCode;
        let code = text(body.pointer("/error/code"));
        let Some(message) = body.pointer("/error/message").and_then(Value::as_str) else {
            if matches!(status, StatusCode::URI_TOO_LONG | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE) {
                return format!(
                    "{} answered {status}: the arguments make a longer request than it reads; shorten them",
                    self.admin
                )
                .into();
            }
            return self.foreign(&format!("it answers {status}"));
        };
        let (hint, exit) = match status {
            StatusCode::UNAUTHORIZED => (" (give the admin token by --token-file)", UNANSWERED),
            StatusCode::FORBIDDEN
            | StatusCode::BAD_REQUEST
            | StatusCode::URI_TOO_LONG
            | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNSUPPORTED_MEDIA_TYPE => ("", UNANSWERED),
            _ => ("", FAILED),
        };
        Failure { code, text: format!("{} answered {status}: {message}{hint}", self.admin), exit }
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
