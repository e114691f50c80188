//! Regular expressions with bounds: on each compiled expression, on all of a provider's, and on the text that is searched.
//!
//! Documents come from people who may write to a registry, and texts from anybody. Without these bounds one document could
//! take the gateway's memory, and one request a worker's time.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use regex_automata::meta::{BuildError, Regex};

use super::name::ProviderId;

/// The longest text that is searched. Where a longer one would decide whether a route matches, the request is refused.
pub const MAX_SUBJECT_BYTES: usize = 8 * 1024;

/// The largest compiled expression.
const MAX_COMPILED_BYTES: usize = 64 * 1024;

/// All compiled expressions of one provider.
const MAX_TOTAL_BYTES: usize = 16 << 20;

/// What a worker keeps at most while it searches with one expression, in each direction.
const MAX_CACHE_BYTES: usize = 256 * 1024;

/// Whose share of memory an expression takes. Each provider has its own, so that it does not depend on which provider
/// is read first whose expression is one too many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PatternBudget(usize);

/// The shares: files (and whatever has no provider), then registries.
static TOTALS: [AtomicUsize; 4] = [const { AtomicUsize::new(0) }; 4];

impl PatternBudget {
    /// The share of the provider that an origin such as `consul-kv:KEY` names.
    pub fn of_origin(origin: &str) -> Self {
        let provider = origin.split(':').next().unwrap_or_default();
        let registries = [ProviderId::Etcd, ProviderId::ConsulKv, ProviderId::ConsulTags];
        Self(registries.iter().position(|id| id.as_str() == provider).map_or(0, |position| position + 1))
    }

    fn total(self) -> &'static AtomicUsize {
        &TOTALS[self.0]
    }
}

/// An expression that several documents, or a document and its saved form, may share.
#[derive(Debug)]
struct Compiled {
    regex: Regex,
    bytes: usize,
    budget: PatternBudget,
}

impl Drop for Compiled {
    fn drop(&mut self) {
        self.budget.total().fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Expressions in use, by whose they are and how they are written, anchors included.
type InUse = HashMap<(PatternBudget, String), Weak<Compiled>>;

static IN_USE: LazyLock<Mutex<InUse>> = LazyLock::new(Mutex::default);

fn in_use() -> MutexGuard<'static, InUse> {
    IN_USE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A compiled regular expression that compares by its text.
#[derive(Clone)]
pub struct Pattern {
    source: Arc<str>,
    compiled: Arc<Compiled>,
}

impl Pattern {
    /// Compiles an unanchored expression, for header, query and cookie values.
    ///
    /// # Errors
    /// What is wrong with the expression, or that it is too large by itself or with all others.
    pub fn unanchored(source: &str, budget: PatternBudget) -> Result<Self, String> {
        Self::unanchored_shown(source, source, budget)
    }

    /// The same of an expression that stands as `shown` in errors, because it may be a secret.
    ///
    /// # Errors
    /// As [`Pattern::unanchored`].
    pub fn unanchored_shown(source: &str, shown: &str, budget: PatternBudget) -> Result<Self, String> {
        Self::compile(source, shown, source.to_owned(), budget)
    }

    /// Compiles an expression that must match a whole path.
    ///
    /// # Errors
    /// As [`Pattern::unanchored`].
    pub fn whole(source: &str, budget: PatternBudget) -> Result<Self, String> {
        // The source alone first: `a)(b` must not become valid inside the group.
        build(source).map_err(|error| describe(source, &error))?;
        Self::compile(source, source, format!("^(?:{source})$"), budget)
    }

    fn compile(source: &str, shown: &str, expression: String, budget: PatternBudget) -> Result<Self, String> {
        let known = in_use().get(&(budget, expression.clone())).and_then(Weak::upgrade);
        let compiled = match known {
            Some(compiled) => compiled,
            None => {
                let regex = build(&expression).map_err(|error| describe(shown, &error))?;
                let bytes = regex.memory_usage();
                let compiled = Arc::new(Compiled { regex, bytes, budget });
                // Dropping it gives the bytes back.
                let before = budget.total().fetch_add(bytes, Ordering::Relaxed);
                if before + bytes > MAX_TOTAL_BYTES {
                    return Err(format!(
                        "`{}` is one regular expression too many: all of this provider may take {} MiB when compiled",
                        shortened(shown),
                        MAX_TOTAL_BYTES >> 20
                    ));
                }
                let mut known = in_use();
                if known.len() >= 64 && known.len().is_power_of_two() {
                    known.retain(|_, compiled| compiled.strong_count() > 0);
                }
                known.insert((budget, expression), Arc::downgrade(&compiled));
                compiled
            }
        };
        Ok(Self { source: source.into(), compiled })
    }

    /// The expression as written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the text matches; one that is too long to be searched does not.
    pub fn is_match(&self, text: &[u8]) -> bool {
        text.len() <= MAX_SUBJECT_BYTES && self.compiled.regex.is_match(text)
    }

    pub(super) fn regex(&self) -> &Regex {
        &self.compiled.regex
    }
}

fn build(expression: &str) -> Result<Regex, Box<BuildError>> {
    let config = Regex::config()
        .nfa_size_limit(Some(MAX_COMPILED_BYTES))
        .onepass_size_limit(Some(MAX_COMPILED_BYTES))
        .hybrid_cache_capacity(MAX_CACHE_BYTES);
    Regex::builder().configure(config).build(expression).map_err(Box::new)
}

fn describe(source: &str, error: &BuildError) -> String {
    let quoted = shortened(source);
    match error.syntax_error() {
        // The library draws a multi-line picture; its last line says what is wrong.
        Some(syntax) => {
            let text = syntax.to_string();
            let last = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            format!("`{quoted}` is not a regular expression: {last}")
        }
        None => format!(
            "`{quoted}` is too large a regular expression: more than {} KiB when compiled; repeat less, and write \
             `[0-9A-Za-z_]` for `\\w`, which stands for the letters of all languages",
            MAX_COMPILED_BYTES >> 10
        ),
    }
}

/// The beginning of an expression, for messages.
fn shortened(source: &str) -> String {
    const MAX_QUOTED: usize = 200;
    match source.char_indices().nth(MAX_QUOTED) {
        Some((end, _)) => format!("{}...", &source[..end]),
        None => source.to_owned(),
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
        // In quotes, so that no expression looks like the end of one and what is behind it: keys are composed of this.
        write!(f, "{:?}", self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(source: &str) -> Result<Pattern, String> {
        Pattern::whole(source, PatternBudget::default())
    }

    fn unanchored(source: &str) -> Result<Pattern, String> {
        Pattern::unanchored(source, PatternBudget::default())
    }

    #[test]
    fn patterns_compile_or_say_why() {
        let either = whole("/a|/b").expect("a pattern");
        assert!(
            either.is_match(b"/a") && either.is_match(b"/b") && !either.is_match(b"/ab") && !either.is_match(b"/a/b")
        );
        let inside = unanchored("b+").expect("a pattern");
        assert!(inside.is_match(b"abbc"));
        assert!(whole("a)(b").is_err());
        let error = unanchored("(").expect_err("unclosed");
        assert!(error.contains("unclosed group"), "{error}");
        for large in ["(a{1000}){1000}", "/[ab]*a[ab]{3000}c", &"(x|y)".repeat(20_000)] {
            let error = unanchored(large).expect_err("too large");
            assert!(error.contains("too large") && error.len() < 500, "{error}");
        }
    }

    #[test]
    fn patterns_that_people_write_are_taken() {
        for usual in [
            "/users/[0-9]+(/.*)?",
            r"/v[0-9]+/orders/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
            r"(?i)^bearer\s+[A-Za-z0-9._~+/-]+=*$",
            r"^\w+$",
            r"^/[^/]+/(?:a|b|c)/\d+\.(?:png|jpe?g|webp)$",
            "/pN/([a-z0-9]{1,20}/){1,5}",
        ] {
            assert!(whole(usual).is_ok(), "{usual}");
        }
    }

    #[test]
    fn a_text_that_is_too_long_matches_nothing() {
        let any = whole("(?s).*").expect("a pattern");
        assert!(any.is_match(&[b'a'; MAX_SUBJECT_BYTES]));
        assert!(!any.is_match(&[b'a'; MAX_SUBJECT_BYTES + 1]));
    }

    /// With a share that no other test uses.
    #[test]
    fn all_patterns_of_a_provider_have_a_bound_and_give_back_what_they_took() {
        let budget = PatternBudget::of_origin("consul-tags:x");
        assert_ne!(budget, PatternBudget::of_origin("routes.toml:1:2"));
        let make = |number: usize| Pattern::whole(&format!("/p{number}/([a-z0-9]{{1,20}}/){{1,8}}"), budget);
        let mut taken = Vec::new();
        let error = loop {
            match make(taken.len()) {
                Ok(pattern) => taken.push(pattern),
                Err(error) => break error,
            }
            assert!(taken.len() < 10_000, "there is no bound");
        };
        assert!(error.contains("`/p") && error.contains("16 MiB"), "{error}");
        assert!(taken.len() > 50, "{}", taken.len());
        // The same text again costs nothing.
        assert!(make(0).is_ok());
        let one_more = taken.len();
        drop(taken.pop());
        assert!(make(one_more).is_ok());
        drop(taken);
        assert_eq!(budget.total().load(Ordering::Relaxed), 0);
    }
}
