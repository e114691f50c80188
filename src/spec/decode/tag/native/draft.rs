//! What one instance says of one route, and the route that comes of it. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::claim::Bounds;
use super::{BARE, KEYS, KEYS_OF_ROUTES, Native, STRAY, TAG, WrongRoute};
use crate::spec::decode::condition::{parse_host, parse_path, parse_prefix};
use crate::spec::decode::reader::unknown_key;
use crate::spec::matching::{Conditions, MatchSpec, PathMatch};
use crate::spec::name::ItemRef;
use crate::spec::route::{Steps, StripPrefix};

/// Keys that say what a route matches.
const MATCH_KEYS: [&str; 2] = ["host", "path"];
/// What comes of a mistake that may be in any of an instance's routes.
const ANY_ROUTE: &str = "any route of this instance may be meant: until that is mended they stay as they were, and one without \
                     a known good form answers 503";

/// What is said of one route.
#[derive(Debug, Default)]
pub(super) struct Draft {
    values: BTreeMap<&'static str, String>,
    /// Other values of keys that are said twice.
    others: BTreeMap<&'static str, Vec<String>>,
    /// Values that may be meant for a key, by another word.
    guesses: BTreeMap<&'static str, Vec<String>>,
    /// Paths in what is said by a word that means nothing: they count where no host or path is said.
    paths: Vec<String>,
    /// Keys without a value.
    empty: BTreeSet<&'static str>,
    problems: Vec<String>,
    /// Something is said that is no known key.
    has_unknown: bool,
    /// Something of it may be said of another route.
    pub(super) is_stray: bool,
}

/// What instances say, by the routes' names.
pub(super) type Drafts = BTreeMap<String, Draft>;

/// Adds what a tag or a key of Meta says.
pub(super) fn add(drafts: &mut Drafts, key: &str, value: Option<&str>, said: &str) {
    let (name, key, known) = match key.strip_prefix("routes.").and_then(|rest| rest.rsplit_once('.')) {
        Some((name, key)) if is_name(name) => (name, key, &KEYS_OF_ROUTES[..]),
        Some(_) | None => ("", key, &KEYS[..]),
    };
    let Some(known_key) = known.iter().find(|known| **known == key) else {
        let text = if value.is_none() { "a value is missing: `KEY=VALUE`".to_owned() } else { unknown_key(key, known) };
        // `route.x.path`, `routes.path`, `routes=x`, `rou=tes.x.path=/x`: nobody knows of which route.
        let is_stray = key.contains('.')
            || key.is_empty()
            || may_mean(key, "routes")
            || name.is_empty() && value.is_some_and(|value| value.contains('='));
        let (name, word) = if is_stray {
            let (name, word) = key.rsplit_once('.').unwrap_or(("", key));
            (format!(".{name}"), word)
        } else {
            (name.to_owned(), key)
        };
        let draft = drafts.entry(name).or_default();
        draft.guess(&[word, &key.replace(|c: char| !c.is_alphanumeric(), "")], value);
        let text_of_path = value.unwrap_or(key);
        draft.paths.extend(text_of_path.find('/').map(|at| text_of_path[at..].to_owned()));
        if is_stray {
            return draft.stray(&format!("{said}: {text}"));
        }
        draft.has_unknown = true;
        return draft.wrong(format!("{said}: {text}"));
    };
    let draft = drafts.entry(name.to_owned()).or_default();
    let Some(value) = value else {
        draft.empty.insert(known_key);
        return draft.wrong(format!("{said}: a value is missing: `KEY=VALUE`"));
    };
    if *known_key == "weight" {
        return;
    }
    // A template whose variable is empty asks for less than was meant.
    if value.split(',').all(|part| part.trim().is_empty()) {
        draft.empty.insert(known_key);
        return draft.wrong(format!("{said}: empty value: remove the tag if nothing is meant"));
    }
    match draft.values.get(known_key) {
        Some(other) if other != value => {
            let text = format!("{said}: `{key}` is said twice, as `{other}` and as `{value}`");
            draft.others.entry(known_key).or_default().push(value.to_owned());
            draft.wrong(text);
        }
        _ => drop(draft.values.insert(known_key, value.to_owned())),
    }
}

/// Adds what is said with almost the prefix of a gateway's tags.
pub(super) fn add_misspelt(drafts: &mut Drafts, name: &str, key: &'static str, value: &str, said: &str) {
    let draft = drafts.entry(format!(".{name}")).or_default();
    let text =
        format!("{said}: almost a tag of the gateway's, which begins with `{TAG}`, as a key of Meta with `fleetgate-`");
    if key == "weight" {
        return draft.wrong(text);
    }
    draft.guess(&[key], Some(value));
    draft.stray(&text);
}

/// Adds that a tag is almost the one without which Meta is not read.
pub(super) fn add_misspelt_bare(drafts: &mut Drafts, tag: &str) {
    drafts
        .entry(STRAY.to_owned())
        .or_default()
        .stray(&format!("`{tag}`: almost the tag `{BARE}`, by which Meta is read"));
}

/// Marks what may be said of another route than it seems.
pub(super) fn mark_strays(drafts: &mut Drafts) {
    let mut spellings: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in drafts.keys() {
        spellings.entry(name.to_ascii_lowercase()).or_default().push(name.clone());
    }
    for names in spellings.values().filter(|names| names.len() > 1) {
        if let Some(draft) = drafts.get_mut(&names[0]) {
            draft.stray(&format!("the name of a route is written as `{}`", names.join("` and `")));
        }
    }
    for (name, draft) in drafts {
        let may_protect = draft.has_unknown || draft.says("middlewares");
        let is_placed = MATCH_KEYS.iter().any(|key| draft.says(key));
        // `routes.ad.mpath`: the name may be as wrong as the key.
        let is_named_so = name.is_empty() || !draft.values.is_empty();
        if may_protect && !draft.is_stray && !(is_placed && is_named_so) {
            let route =
                if name.is_empty() { "the service's own route".to_owned() } else { format!("the route `{name}`") };
            let tags = if name.is_empty() { TAG.to_owned() } else { format!("{TAG}routes.{name}.") };
            let said = draft.values.get("middlewares").map(|value| format!("`{tags}middlewares={value}`: "));
            let said = said.unwrap_or_default();
            draft.stray(&format!("{said}nothing gives {route} a `host` or `path`, so it is not a route"));
        }
    }
}

/// Whether a route may have this name.
fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    name.split('.').all(|part| !part.is_empty() && part.chars().all(fits))
}

/// Whether an unknown key may be meant for a known one.
fn may_mean(key: &str, known: &str) -> bool {
    let key = key.to_ascii_lowercase();
    key.starts_with(known) || strsim::normalized_damerau_levenshtein(&key, known) >= 0.6
}

impl Draft {
    fn wrong(&mut self, text: String) {
        self.problems.push(text);
    }

    fn stray(&mut self, text: &str) {
        self.is_stray = true;
        self.wrong(format!("{text}; {ANY_ROUTE}"));
    }

    /// Notes a value that may say what the route matches, by words that may be meant for a known key.
    fn guess(&mut self, words: &[&str], value: Option<&str>) {
        // `pat=h=/x`: the mistake may be a `=`.
        let value = value.and_then(|value| value.rsplit('=').next()).map(str::to_owned);
        for key in MATCH_KEYS.into_iter().filter(|known| words.iter().any(|word| may_mean(word, known))) {
            self.guesses.entry(key).or_default().extend(value.clone());
        }
    }

    fn check<T>(&mut self, key: &str, result: Result<T, String>) -> Option<T> {
        result.map_err(|error| self.wrong(format!("`{key}`: {error}"))).ok()
    }

    /// Whether anything is said by this key, or by a word that may mean it.
    fn says(&self, key: &str) -> bool {
        self.values.contains_key(key) || self.empty.contains(key) || self.guesses.contains_key(key)
    }

    /// The values of a key, or of words that may mean it.
    fn said(&self, key: &str) -> impl Iterator<Item = &String> {
        let guesses = self.guesses.get(key).filter(|_| !self.values.contains_key(key));
        self.values
            .get(key)
            .into_iter()
            .chain(self.others.get(key).into_iter().flatten())
            .chain(guesses.into_iter().flatten())
    }

    /// What the route may match, as far as that can be read and may be claimed: of several hosts those that are right; where
    /// no path can be read, all of its hosts.
    fn matchings(&self, bounds: &Bounds) -> Vec<MatchSpec> {
        let mut hosts = Vec::new();
        let said = self.said("host").flat_map(|text| text.split(','));
        for host in said.filter_map(|text| parse_host(text.trim()).ok()).filter(|host| bounds.allows(host)) {
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        if self.says("host") && hosts.is_empty() {
            return Vec::new();
        }
        let mut paths: BTreeSet<String> = self.said("path").filter_map(|text| parse_prefix(text).ok()).collect();
        if paths.is_empty() && hosts.is_empty() {
            let is_placed = MATCH_KEYS.iter().any(|key| self.says(key) && self.said(key).next().is_some());
            paths = self.paths.iter().filter(|_| !is_placed).filter_map(|text| parse_prefix(text).ok()).collect();
        } else if paths.is_empty() {
            paths = if self.says("path") { bounds.widest_paths() } else { [String::new()].into() };
        }
        let matching = |path| {
            let (hosts, path) = (hosts.clone(), PathMatch::Prefix(path));
            MatchSpec { hosts, path, methods: Vec::new(), conditions: Conditions::default() }
        };
        paths.into_iter().map(matching).filter(|matching| bounds.check(matching).is_ok()).collect()
    }

    /// The route; nothing when nothing of a route is said.
    pub(super) fn resolve(mut self, bounds: &Bounds) -> Option<Result<Native, WrongRoute>> {
        if self.values.is_empty() && self.problems.is_empty() {
            return None;
        }
        let said = |key: &str| self.values.get(key).cloned();
        let (host, path, strip_prefix, named) = (said("host"), said("path"), said("strip_prefix"), said("middlewares"));
        if host.is_none() && path.is_none() && self.problems.is_empty() {
            self.wrong("says what to do, and not with which requests: give `host` or `path`".to_owned());
        }
        let mut hosts = Vec::new();
        for text in host.iter().flat_map(|text| text.split(',')) {
            hosts.extend(self.check("host", parse_host(text.trim())));
        }
        let path = path.and_then(|text| self.check("path", parse_prefix(&text)));
        let strip_prefix = strip_prefix.and_then(|text| self.check("strip_prefix", parse_path(&text)));
        let mut middlewares: Vec<ItemRef> = Vec::new();
        let named = named.iter().flat_map(|text| text.split(',')).map(str::trim);
        for name in named.filter(|name| !name.is_empty()) {
            let reference = self.check("middlewares", name.parse::<ItemRef>());
            middlewares.extend(reference.filter(|reference| !middlewares.contains(reference)));
        }
        let path = PathMatch::Prefix(path.unwrap_or_default());
        let matching = MatchSpec { hosts, path, methods: Vec::new(), conditions: Conditions::default() };
        if let (true, Err(text)) = (self.problems.is_empty(), bounds.check(&matching)) {
            self.wrong(text);
        }
        if !self.problems.is_empty() {
            let matchings = self.matchings(bounds);
            return Some(Err(WrongRoute { problems: self.problems, matchings }));
        }
        let strip_prefix =
            strip_prefix.as_deref().map(|path| path.trim_end_matches('/')).filter(|path| !path.is_empty());
        // A path in normal form fits into a header.
        let strip_prefix = strip_prefix.and_then(|path| StripPrefix::new(path).ok());
        let steps = strip_prefix.map(|path| Steps { strip_prefix: Some(path), ..Steps::default() });
        Some(Ok(Native { matching, steps: steps.map(Arc::new), middlewares }))
    }
}
