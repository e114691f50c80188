//! Which headers a setting may name, by what the gateway does with them.

use http::HeaderName;

use crate::spec::decode::condition::parse_header_name;
use crate::spec::decode::scope::Scope;

/// What the gateway does with a header that a setting names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderUse {
    /// It sets the header on requests for services.
    SetOnRequest,
    /// It removes the header from requests for services.
    RemoveFromRequest,
    /// It sets the header on responses, or removes it.
    EditOnResponse,
    /// It copies the header from the request into the question to an auth service.
    CopyToQuestion,
    /// It reads the header of an auth service's answer.
    ReadFromAnswer,
    /// It finds in it what proves who a client is, and hides it from services.
    Credential,
}

/// Reads the name of a header, unless the gateway would break a message with it or needs it for something else.
pub(super) fn header_for(usage: HeaderUse, name: &str, scope: &Scope<'_>) -> Option<HeaderName> {
    let header = scope.check(parse_header_name(name))?;
    match refusal(usage, &header) {
        Some(why) => {
            scope.problem(why);
            None
        }
        None => Some(header),
    }
}

/// Why a setting may not name a header. Other spellings that services take for the same name are no way around.
fn refusal(usage: HeaderUse, header: &HeaderName) -> Option<String> {
    use HeaderUse::{CopyToQuestion, Credential, EditOnResponse, ReadFromAnswer, RemoveFromRequest, SetOnRequest};
    let folded: String = header.as_str().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    match folded.as_str() {
        "connection" | "content-length" | "http2-settings" | "keep-alive" | "proxy-connection" | "te" | "trailer"
        | "transfer-encoding" | "upgrade" => Some(format!("`{header}` belongs to the connection, not to the message")),
        "host" => match usage {
            SetOnRequest | RemoveFromRequest => Some("a middleware `rewrite` gives another `host`".to_owned()),
            CopyToQuestion => Some(in_every_question(header)),
            Credential => Some("`host` names the host that is asked for, and proves nothing".to_owned()),
            EditOnResponse | ReadFromAnswer => None,
        },
        "expect" => match usage {
            SetOnRequest | CopyToQuestion | Credential => Some(format!(
                "`{header}` is between a client and the gateway: it says when the body of the request follows"
            )),
            RemoveFromRequest | EditOnResponse | ReadFromAnswer => None,
        },
        "x-forwarded-for" | "x-forwarded-host" | "x-forwarded-proto" | "x-request-id" | "via"
            if usage == CopyToQuestion =>
        {
            Some(in_every_question(header))
        }
        "forwarded"
        | "x-forwarded-for"
        | "x-forwarded-host"
        | "x-forwarded-port"
        | "x-forwarded-proto"
        | "x-real-ip"
        | "x-forwarded-client-cert"
        | "x-request-id"
        | "via" => match usage {
            SetOnRequest | RemoveFromRequest | Credential => {
                Some(format!("`{header}` is the gateway's own: it tells who asks, and by which way"))
            }
            CopyToQuestion | EditOnResponse | ReadFromAnswer => None,
        },
        "x-consumer" if usage == Credential => {
            Some(format!("`{header}` is the gateway's own: it tells services who a client is, and no client's passes"))
        }
        "cookie" if usage == Credential => {
            Some("holds many cookies: name the one that is meant by `cookie = \"NAME\"` instead".to_owned())
        }
        _ => None,
    }
}

fn in_every_question(header: &HeaderName) -> String {
    format!("`{header}` is in every question: leave it out")
}
