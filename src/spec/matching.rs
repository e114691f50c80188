//! Defines the conditions on a request, parsed and compiled: hosts, paths, values.

use std::fmt;

use http::{HeaderName, Method};
use regex_automata::PatternID;
use regex_automata::meta::Regex;
use regex_automata::util::interpolate;

/// A compiled regular expression that compares by its text.
#[derive(Clone)]
pub struct Pattern {
    source: String,
    regex: Regex,
}

impl Pattern {
    /// Largest compiled size, in bytes: a pattern in a document must not eat the gateway's memory.
    const SIZE_LIMIT: usize = 1 << 20;

    /// Compiles an unanchored expression, for header, query and cookie values.
    ///
    /// # Errors
    /// What is wrong with the expression, or that it compiles to more than 1 MiB.
    pub fn unanchored(source: &str) -> Result<Self, String> {
        Self::compile(source, source)
    }

    /// Compiles an expression that must match a whole path.
    ///
    /// # Errors
    /// As [`Pattern::unanchored`].
    pub fn whole(source: &str) -> Result<Self, String> {
        // The source alone first: `a)(b` must not become valid inside the group.
        regex_syntax_check(source)?;
        Self::compile(source, &format!("^(?:{source})$"))
    }

    fn compile(source: &str, expression: &str) -> Result<Self, String> {
        let config = Regex::config().nfa_size_limit(Some(Self::SIZE_LIMIT)).hybrid_cache_capacity(Self::SIZE_LIMIT);
        let regex = Regex::builder()
            .configure(config)
            .build(expression)
            .map_err(|error| describe_regex_error(source, &error))?;
        Ok(Self { source: source.to_owned(), regex })
    }

    /// The expression as written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the text matches.
    pub fn is_match(&self, text: &[u8]) -> bool {
        self.regex.is_match(text)
    }
}

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
    pub fn new(source: &str, replacement: &str) -> Result<Self, String> {
        let pattern = Pattern::unanchored(source)?;
        let groups = pattern.regex.group_info();
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
        &self.pattern.source
    }

    /// The replacement as written.
    pub fn replacement(&self) -> &str {
        &self.replacement
    }

    /// The text with all matches replaced; `None` where there is none.
    pub fn apply(&self, text: &str) -> Option<String> {
        let (mut out, mut end) = (String::new(), 0);
        for captures in self.pattern.regex.captures_iter(text) {
            let Some(found) = captures.get_match() else { continue };
            out.push_str(&text[end..found.start()]);
            captures.interpolate_string_into(text, &self.replacement, &mut out);
            end = found.end();
        }
        if end == 0 && out.is_empty() && !self.pattern.is_match(text.as_bytes()) {
            return None;
        }
        out.push_str(&text[end..]);
        Some(out)
    }
}

fn regex_syntax_check(source: &str) -> Result<(), String> {
    Regex::builder()
        .configure(Regex::config().nfa_size_limit(Some(Pattern::SIZE_LIMIT)))
        .build(source)
        .map(drop)
        .map_err(|error| describe_regex_error(source, &error))
}

fn describe_regex_error(source: &str, error: &regex_automata::meta::BuildError) -> String {
    match error.syntax_error() {
        // The library draws a multi-line picture; its last line says what is wrong.
        Some(syntax) => {
            let text = syntax.to_string();
            let last = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            format!("`{source}` is not a regular expression: {last}")
        }
        None => format!("`{source}` is too large a regular expression: more than 1 MiB when compiled"),
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.source)
    }
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

impl ValueMatch {
    /// Whether the condition holds for a name's value; `None` when the name is absent.
    pub fn holds(&self, value: Option<&[u8]>) -> bool {
        match (self, value) {
            (Self::Exact(wanted), Some(value)) => wanted.as_bytes() == value,
            (Self::Regex(pattern), Some(value)) => pattern.is_match(value),
            (Self::Exact(_) | Self::Regex(_), None) => false,
            (Self::Present(wanted), value) => *wanted == value.is_some(),
        }
    }
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
    fn patterns_compile_or_say_why() {
        let whole = Pattern::whole("/a|/b").expect("a pattern");
        assert!(whole.is_match(b"/a") && whole.is_match(b"/b") && !whole.is_match(b"/ab") && !whole.is_match(b"/a/b"));
        let inside = Pattern::unanchored("b+").expect("a pattern");
        assert!(inside.is_match(b"abbc"));
        assert!(Pattern::whole("a)(b").is_err());
        let error = Pattern::unanchored("(").expect_err("unclosed");
        assert!(error.contains("unclosed group"), "{error}");
        let error = Pattern::unanchored("(a{1000}){1000}").expect_err("too large");
        assert!(error.contains("too large"), "{error}");
    }

    #[test]
    fn values_match() {
        assert!(ValueMatch::Present(false).holds(None));
        assert!(!ValueMatch::Present(true).holds(None));
        assert!(ValueMatch::Exact("a".into()).holds(Some(b"a")));
        assert!(!ValueMatch::Exact("a".into()).holds(Some(b"A")));
    }
}
