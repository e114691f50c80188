//! Defines the conditions on a request, parsed and compiled: hosts, paths, values.

use std::fmt;

use http::{HeaderName, Method};
use regex_automata::PatternID;
use regex_automata::util::interpolate;

pub use super::pattern::{MAX_SUBJECT_BYTES, Pattern, PatternBudget};

/// The longest text that a substitution makes.
const MAX_SUBSTITUTED_BYTES: usize = 64 * 1024;

/// A regular expression and what takes the place of each of its matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Substitution {
    pattern: Pattern,
    replacement: String,
}

impl Substitution {
    /// Compiles an unanchored expression. In the replacement `$1`, `${1}` and `${name}` stand for what groups matched, and
    /// `$$` is a dollar.
    ///
    /// # Errors
    /// As [`Pattern::unanchored`], or a group that the expression does not have.
    pub fn new(source: &str, replacement: &str, budget: PatternBudget) -> Result<Self, String> {
        let pattern = Pattern::unanchored(source, budget)?;
        let groups = pattern.regex().group_info();
        let mut missing = None;
        let by_name = |name: &str| {
            let found = groups.to_index(PatternID::ZERO, name);
            missing = missing.take().or(found.is_none().then(|| name.to_owned()));
            found
        };
        let mut unknown = None;
        let known = |index: usize, _: &mut String| {
            if index >= groups.group_len(PatternID::ZERO) {
                unknown = Some(index.to_string());
            }
        };
        interpolate::string(replacement, known, by_name, &mut String::new());
        match missing.or(unknown) {
            Some(group) => Err(format!("`{replacement}`: `{source}` has no group `{group}`")),
            None => Ok(Self { pattern, replacement: replacement.to_owned() }),
        }
    }

    /// The expression as written.
    pub fn source(&self) -> &str {
        self.pattern.source()
    }

    /// The replacement as written.
    pub fn replacement(&self) -> &str {
        &self.replacement
    }

    /// The text with all matches replaced; `None` where there is none.
    ///
    /// # Errors
    /// The path is too long to be searched, or what it would become is too long.
    pub fn apply(&self, text: &str) -> Result<Option<String>, TooLong> {
        if text.len() > MAX_SUBJECT_BYTES {
            return Err(TooLong::Target);
        }
        let (mut out, mut end, mut is_found) = (String::new(), 0, false);
        for captures in self.pattern.regex().captures_iter(text) {
            let Some(found) = captures.get_match() else { continue };
            is_found = true;
            out.push_str(&text[end..found.start()]);
            captures.interpolate_string_into(text, &self.replacement, &mut out);
            end = found.end();
            if out.len() > MAX_SUBSTITUTED_BYTES {
                return Err(TooLong::Target);
            }
        }
        if !is_found {
            return Ok(None);
        }
        out.push_str(&text[end..]);
        Ok(Some(out))
    }
}

/// What of a request is longer than a regular expression searches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooLong {
    /// Its path or query.
    Target,
    /// Header fields, cookies among them.
    Fields,
}

/// A host a route answers for, in lower case, without port and trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostMatch {
    /// Exactly this host.
    Exact(String),
    /// `*.x.y`, kept as `x.y`: one or more labels before it.
    Wildcard(String),
}

impl HostMatch {
    /// Whether a host, in lower case, is one of those meant.
    pub fn fits(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => name == host,
            Self::Wildcard(suffix) => host.strip_suffix(suffix.as_str()).is_some_and(|rest| rest.ends_with('.')),
        }
    }
}

impl fmt::Display for HostMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

/// A condition on the path, in its normal form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// By whole segments; kept without a trailing slash, so that `/` is the empty text.
    Prefix(String),
    /// By text, as fabio has it: `/users` takes `/users2` too, and `/users/` does not take `/users`.
    Start(String),
    /// Exactly this path.
    Exact(String),
    /// The whole path matches.
    Regex(Pattern),
}

/// A condition on a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    /// Exactly this value.
    Exact(String),
    /// The expression matches somewhere in the value.
    Regex(Pattern),
    /// There is (true) or is not (false) such a name, whatever its value.
    Present(bool),
}

/// Conditions on the headers, the query and the cookies of a request; all must hold.
/// A name that comes several times holds when any of its values does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// Header conditions; names ignore case.
    pub headers: Vec<(HeaderName, ValueMatch)>,
    /// Query conditions, on percent-decoded names and values (`+` is a space).
    pub query: Vec<(String, ValueMatch)>,
    /// Cookie conditions (targets only).
    pub cookies: Vec<(String, ValueMatch)>,
}

impl Conditions {
    /// Whether there is no condition at all.
    pub fn is_empty(&self) -> bool {
        self.headers.is_empty() && self.query.is_empty() && self.cookies.is_empty()
    }
}

/// What a route asks of a request. Empty lists ask nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatchSpec {
    /// Any of these hosts.
    pub hosts: Vec<HostMatch>,
    /// The path.
    pub path: PathMatch,
    /// Any of these methods.
    pub methods: Vec<Method>,
    /// Headers and query (`cookies` is empty here).
    pub conditions: Conditions,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn substitutions_are_bounded() {
        let substitution = |to: &str| Substitution::new("a", to, PatternBudget::default()).expect("a substitution");
        assert_eq!(substitution("b").apply("xaya"), Ok(Some("xbyb".to_owned())));
        assert_eq!(substitution("b").apply("xy"), Ok(None));
        assert_eq!(substitution("").apply("a"), Ok(Some(String::new())));
        assert_eq!(substitution("b").apply(&"x".repeat(MAX_SUBJECT_BYTES + 1)), Err(TooLong::Target));
        assert_eq!(substitution(&"b".repeat(100)).apply(&"a".repeat(1000)), Err(TooLong::Target));
    }
}
