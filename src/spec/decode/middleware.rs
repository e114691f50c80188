//! Defines how a middleware is written: one key, which names its type.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::spec::middleware::MiddlewareSpec;
use crate::spec::route::StripPrefix;

use super::condition::parse_prefix;
use super::scope::Scope;

/// A step around the exchanges of the routes that name it; one key says what it does.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Middleware", deny_unknown_fields)]
pub struct RawMiddleware {
    /// What a path that begins with it, by whole segments, loses; services are told in `X-Forwarded-Prefix`.
    strip_prefix: Option<String>,
    /// What is put before the path.
    add_prefix: Option<String>,
}

/// The types, as they are written.
const TYPES: [&str; 2] = ["strip_prefix", "add_prefix"];

impl RawMiddleware {
    pub(super) fn resolve(self, scope: &Scope<'_>) -> Option<MiddlewareSpec> {
        let given: Vec<&str> = TYPES.into_iter().filter(|key| scope.has(key)).collect();
        match given[..] {
            [] => scope.missing(format!("has no type: give one of `{}`", TYPES.join("`, `"))),
            [_] => {}
            [first, ..] => scope
                .problem(format!("has several types: make a middleware of `{first}` alone, and others of the rest")),
        }
        let strip_prefix = self.strip_prefix.and_then(|path| {
            let scope = scope.key("strip_prefix");
            scope.check(StripPrefix::new(&some_prefix(&path, &scope)?)).map(MiddlewareSpec::StripPrefix)
        });
        let add_prefix = || Some(MiddlewareSpec::AddPrefix(some_prefix(&self.add_prefix?, &scope.key("add_prefix"))?));
        strip_prefix.or_else(add_prefix)
    }
}

/// A prefix that is more than the slash every path begins with.
fn some_prefix(path: &str, scope: &Scope<'_>) -> Option<String> {
    let prefix = scope.check(parse_prefix(path))?;
    if prefix.is_empty() {
        scope.problem(format!("`{path}` changes no path"));
        return None;
    }
    Some(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::decode::item::decode_item;

    fn read(text: &str) -> Result<MiddlewareSpec, Vec<String>> {
        let told = |problems: Vec<crate::spec::problem::Problem>| problems.iter().map(ToString::to_string).collect();
        decode_item(text.as_bytes(), None, "kv").map_err(told)
    }

    #[test]
    fn one_key_says_what_it_does() {
        let stripped = StripPrefix::new("/users").expect("a path");
        assert_eq!(read("strip_prefix = \"/users/\""), Ok(MiddlewareSpec::StripPrefix(stripped)));
        assert_eq!(read("{\"add_prefix\": \"//v1\"}"), Ok(MiddlewareSpec::AddPrefix("/v1".to_owned())));
    }

    #[test]
    fn mistakes_name_their_place() {
        for (text, wanted) in [
            ("{}", "kv:1:1: has no type: give one of `strip_prefix`, `add_prefix`"),
            (
                "strip_prefix = \"/a\"\nadd_prefix = \"/b\"",
                "kv:1:1: has several types: make a middleware of `strip_prefix` alone, and others of the rest",
            ),
            ("strip_prefix = \"a\"", "kv:1:16: strip_prefix: `a`: a path begins with `/`"),
            ("add_prefix = \"/\"", "kv:1:14: add_prefix: `/` changes no path"),
            ("strip_prefx = \"/a\"", "kv:1:1: strip_prefx: unknown key; did you mean `strip_prefix`?"),
        ] {
            assert!(read(text).expect_err(text).contains(&wanted.to_owned()), "{text}: {:?}", read(text));
        }
    }
}
