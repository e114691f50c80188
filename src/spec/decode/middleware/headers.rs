//! Defines how changes of headers are written.

use std::collections::BTreeMap;

use http::HeaderValue;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::spec::decode::scope::Scope;
use crate::spec::middleware::template::Template;
use crate::spec::middleware::transform::{HeaderEdits, Headers};
use crate::spec::secret::is_credential;

use super::header_name::{HeaderUse, header_for};

/// Changes of headers. Values may hold those of the request, such as `${client_ip}`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Headers", deny_unknown_fields)]
pub(super) struct RawHeaders {
    /// Of requests.
    request: Option<RawEdits>,
    /// Of answers, the gateway's own among them.
    response: Option<RawEdits>,
}

/// Headers that are removed, then set, then added.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "HeaderEdits", deny_unknown_fields)]
pub(super) struct RawEdits {
    /// Instead of what there is of that name; a value that comes out empty removes it.
    set: Option<BTreeMap<String, String>>,
    /// Beside what there is of that name; a value that comes out empty is left out.
    add: Option<BTreeMap<String, String>>,
    /// All of these names.
    remove: Option<Vec<String>>,
}

impl RawHeaders {
    pub(super) fn resolve(self, scope: &Scope<'_>) -> Headers {
        if self.request.is_none() && self.response.is_none() {
            scope.missing("changes nothing: give `request` or `response`");
        }
        let edits =
            |raw: Option<RawEdits>, set, remove, key| raw.unwrap_or_default().resolve(set, remove, &scope.key(key));
        Headers {
            request: edits(self.request, HeaderUse::SetOnRequest, HeaderUse::RemoveFromRequest, "request"),
            response: edits(self.response, HeaderUse::EditOnResponse, HeaderUse::EditOnResponse, "response"),
        }
    }
}

impl RawEdits {
    fn resolve(self, set: HeaderUse, remove: HeaderUse, scope: &Scope<'_>) -> HeaderEdits {
        let values = |raw: Option<BTreeMap<String, String>>, scope: &Scope<'_>| {
            let value = |(name, text): (String, String)| {
                let scope = scope.key(&name);
                let name = header_for(set, &name, &scope)?;
                let value = parse_value(&text).map_err(|error| match is_credential(&name) {
                    true => NOT_SHOWN.to_owned(),
                    false => error,
                });
                Some((name, scope.check(value)?))
            };
            raw.unwrap_or_default().into_iter().filter_map(value).collect()
        };
        let remove_scope = scope.key("remove");
        let removed = self.remove.unwrap_or_default().into_iter().enumerate();
        HeaderEdits {
            set: values(self.set, &scope.key("set")),
            add: values(self.add, &scope.key("add")),
            remove: removed.filter_map(|(index, name)| header_for(remove, &name, &remove_scope.index(index))).collect(),
        }
    }
}

/// What is wrong with a value that may be a secret.
const NOT_SHOWN: &str = "is not the value of a header, and not shown, for it may be a secret: a `$` begins a value, `${NAME}`; \
                         write `$$` for a dollar, and no control characters";

/// A template whose fixed parts a header can carry.
fn parse_value(text: &str) -> Result<Template, String> {
    let template = Template::parse(text)?;
    match HeaderValue::from_str(&template.fill(|_, _| ())) {
        Ok(_) => Ok(template),
        Err(_) => Err(format!("{text:?} is not the value of a header: it has control characters")),
    }
}
