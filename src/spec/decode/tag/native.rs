//! Defines how `fleetgate.*` tags and `Meta` of one instance are read. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::claim::Bounds;
use super::tags;
use crate::spec::decode::condition::{parse_host, parse_path, parse_prefix};
use crate::spec::decode::reader::unknown_key;
use crate::spec::endpoint::{EndpointSpec, Labels};
use crate::spec::matching::{Conditions, MatchSpec, PathMatch};
use crate::spec::name::{ItemRef, Name};
use crate::spec::route::{Steps, StripPrefix};

/// A route that a service asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Native {
    pub(super) matching: MatchSpec,
    pub(super) steps: Option<Arc<Steps>>,
    pub(super) middlewares: Vec<ItemRef>,
}

/// What an instance asks for.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// By name (`""` is the one without).
    pub(super) routes: BTreeMap<String, Result<Native, WrongRoute>>,
    /// Something is said of a route whose name cannot be told: it may be of any.
    pub(super) has_stray: bool,
}

/// A route that cannot be used as it is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct WrongRoute {
    pub(super) problems: Vec<String>,
    /// What it matches, where that can be told and may be claimed.
    pub(super) matching: Option<MatchSpec>,
}

const BARE: &str = "fleetgate";
const TAG: &str = "fleetgate.";
const META: &str = "fleetgate-";
const KEYS: [&str; 5] = ["host", "path", "strip_prefix", "middlewares", "weight"];
const KEYS_OF_ROUTES: [&str; 4] = ["host", "path", "strip_prefix", "middlewares"];
/// Those that say what a route matches.
const MATCH_KEYS: [&str; 2] = ["host", "path"];

/// Whether a tag asks for anything of ours.
pub(super) fn asks(tag: &str) -> bool {
    let tag = tag.trim();
    tag == BARE || tag.starts_with(TAG)
}

/// The weight that an instance asks for, instead of what its registry says.
///
/// # Errors
/// A weight that is none.
pub fn weight(labels: &Labels) -> Result<Option<u16>, String> {
    let tag = labels.keys().find_map(|label| label.strip_prefix("tag.")?.trim().strip_prefix("fleetgate.weight="));
    let opted = || labels.keys().filter_map(|label| label.strip_prefix("tag.")).any(asks);
    let meta = || labels.get("fleetgate-weight").map(String::as_str).filter(|_| opted());
    let Some(text) = tag.or_else(meta) else { return Ok(None) };
    let wrong =
        |_| format!("`fleetgate.weight={text}`: a weight is a number from 0 to 65535; the registered one counts");
    text.trim().parse().map(Some).map_err(wrong)
}

/// The label of all that an instance asks for, by which routes select instances that ask for the same. Meta has no dot in
/// its keys, and tags are labels with a prefix: it is nobody's own.
pub const ASK_LABEL: &str = "fleetgate.ask";

/// A digest of all that an instance asks for; `None`: for no route.
pub fn ask(labels: &Labels) -> Option<String> {
    let tags = labels.keys().filter_map(|label| label.strip_prefix("tag."));
    if !tags.clone().any(asks) {
        return None;
    }
    let said = tags.map(str::trim).filter_map(|tag| tag.strip_prefix(TAG)).map(str::to_owned);
    let meta = labels.iter().filter_map(|(label, value)| {
        let key = label.strip_prefix(META)?.replace('-', ".");
        Some(format!("{key}={}", value.trim()))
    });
    let mut said: Vec<String> = said.chain(meta).filter(|said| !said.starts_with("weight=")).collect();
    said.sort_unstable();
    said.dedup();
    (!said.is_empty()).then(|| Name::derived(&said.join("\n")).digest().to_owned())
}

/// What an instance asks for.
pub(super) fn read(endpoint: &EndpointSpec, bounds: &Bounds) -> Asked {
    let mut drafts: BTreeMap<String, Draft> = BTreeMap::new();
    if !tags(endpoint).any(asks) {
        return Asked::default();
    }
    for tag in tags(endpoint) {
        let Some(said) = tag.trim().strip_prefix(TAG) else { continue };
        let (key, value) = match said.split_once('=') {
            Some((key, value)) => (key, Some(value.trim())),
            None => (said, None),
        };
        add(&mut drafts, key.trim(), value, &format!("`{TAG}{said}`"));
    }
    for (label, value) in endpoint.labels.iter() {
        if let Some(key) = label.strip_prefix(META) {
            add(&mut drafts, &key.replace('-', "."), Some(value.trim()), &format!("`{label}` of Meta"));
        }
    }
    let has_stray = drafts.values().any(|draft| draft.is_stray);
    let routes = drafts.into_iter().filter_map(|(name, draft)| Some((name, draft.resolve(bounds)?)));
    Asked { routes: routes.collect(), has_stray }
}

/// Tags that ask for a route: [`read`] makes the same of them.
pub(super) fn tags_of(route: &str, native: &Native) -> Vec<String> {
    let Native { matching, steps, middlewares } = native;
    let mut tags = matching_tags(route, matching);
    if let Some(strip) = steps.as_ref().and_then(|steps| steps.strip_prefix.as_ref()) {
        tags.push(tag_of(route, "strip_prefix", strip.as_str()));
    }
    if !middlewares.is_empty() {
        tags.push(tag_of(route, "middlewares", &joined(middlewares)));
    }
    tags
}

/// Tags that say what a route matches.
pub(super) fn matching_tags(route: &str, matching: &MatchSpec) -> Vec<String> {
    let mut tags = Vec::new();
    if !matching.hosts.is_empty() {
        tags.push(tag_of(route, "host", &joined(&matching.hosts)));
    }
    if let PathMatch::Prefix(path) = &matching.path {
        tags.push(tag_of(route, "path", if path.is_empty() { "/" } else { path }));
    }
    tags
}

fn tag_of(route: &str, key: &str, value: &str) -> String {
    if route.is_empty() { format!("{TAG}{key}={value}") } else { format!("{TAG}routes.{route}.{key}={value}") }
}

fn joined<T: ToString>(list: &[T]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// What is said of one route.
#[derive(Debug, Default)]
struct Draft {
    values: BTreeMap<&'static str, String>,
    problems: Vec<String>,
    /// Something that is wrong may say what it matches.
    hides_match: bool,
    /// Something of it may be said of another route.
    is_stray: bool,
    /// Unknown keys.
    unknown: Vec<String>,
}

fn add(drafts: &mut BTreeMap<String, Draft>, key: &str, value: Option<&str>, said: &str) {
    let (name, key, known) = match key.strip_prefix("routes.").map(|rest| rest.rsplit_once('.')) {
        Some(Some((name, key))) => (name, key, &KEYS_OF_ROUTES[..]),
        Some(None) => ("", key, &KEYS[..]),
        None => ("", key, &KEYS[..]),
    };
    let draft = drafts.entry(name.to_owned()).or_default();
    let Some(known_key) = known.iter().find(|known| **known == key) else {
        draft.is_stray |= key.contains('.');
        draft.unknown.push(key.to_owned());
        let text = if value.is_none() { "a value is missing: `KEY=VALUE`".to_owned() } else { unknown_key(key, known) };
        return draft.wrong(format!("{said}: {text}"));
    };
    let Some(value) = value else {
        draft.hides_match |= MATCH_KEYS.contains(known_key);
        return draft.wrong(format!("{said}: a value is missing: `KEY=VALUE`"));
    };
    if *known_key == "weight" {
        return;
    }
    // A template whose variable is empty asks for less than was meant.
    if value.split(',').all(|part| part.trim().is_empty()) {
        draft.hides_match |= MATCH_KEYS.contains(known_key);
        return draft.wrong(format!("{said}: empty value: remove the tag if nothing is meant"));
    }
    match draft.values.get(known_key) {
        Some(other) if other != value => {
            let text = format!("{said}: `{key}` is said twice, as `{other}` and as `{value}`");
            draft.hides_match |= MATCH_KEYS.contains(known_key);
            draft.wrong(text);
        }
        _ => drop(draft.values.insert(known_key, value.to_owned())),
    }
}

/// Whether an unknown key may be meant for a known one. Few are taken for that: a route whose match cannot be told
/// blocks nothing.
fn may_mean(key: &str, known: &str) -> bool {
    let key = key.to_ascii_lowercase();
    key.starts_with(known) || strsim::normalized_damerau_levenshtein(&key, known) >= 0.6
}

impl Draft {
    fn wrong(&mut self, text: String) {
        self.problems.push(text);
    }

    fn check<T>(&mut self, key: &str, result: Result<T, String>) -> Option<T> {
        result.map_err(|error| self.wrong(format!("`{key}`: {error}"))).ok()
    }

    /// The route; nothing when nothing of a route is said.
    fn resolve(mut self, bounds: &Bounds) -> Option<Result<Native, WrongRoute>> {
        let values = std::mem::take(&mut self.values);
        if values.is_empty() && self.problems.is_empty() {
            return None;
        }
        let is_hidden =
            |known: &&str| !values.contains_key(*known) && self.unknown.iter().any(|unknown| may_mean(unknown, known));
        let mut hides_match = self.hides_match || self.is_stray || MATCH_KEYS.iter().any(is_hidden);
        hides_match |= !MATCH_KEYS.iter().any(|key| values.contains_key(*key));
        let known_problems = self.problems.len();
        let mut hosts = Vec::new();
        for text in values.get("host").into_iter().flat_map(|text| text.split(',')) {
            hosts.extend(self.check("host", parse_host(text.trim())));
        }
        let path = values.get("path").and_then(|text| self.check("path", parse_prefix(text)));
        hides_match |= self.problems.len() > known_problems;
        let strip_prefix = values.get("strip_prefix").and_then(|text| self.check("strip_prefix", parse_path(text)));
        if !values.contains_key("host") && !values.contains_key("path") && self.problems.is_empty() {
            self.wrong("says what to do, and not with which requests: give `host` or `path`".to_owned());
        }
        let mut middlewares: Vec<ItemRef> = Vec::new();
        let named = values.get("middlewares").into_iter().flat_map(|text| text.split(',')).map(str::trim);
        for name in named.filter(|name| !name.is_empty()) {
            let reference = self.check("middlewares", name.parse::<ItemRef>());
            middlewares.extend(reference.filter(|reference| !middlewares.contains(reference)));
        }
        let path = PathMatch::Prefix(path.unwrap_or_default());
        let matching = MatchSpec { hosts, path, methods: Vec::new(), conditions: Conditions::default() };
        let claim = bounds.check(&matching);
        let is_told = !hides_match && claim.is_ok();
        if let (true, Err(text)) = (self.problems.is_empty(), claim) {
            self.wrong(text);
        }
        if !self.problems.is_empty() {
            return Some(Err(WrongRoute { problems: self.problems, matching: is_told.then_some(matching) }));
        }
        let strip_prefix =
            strip_prefix.as_deref().map(|path| path.trim_end_matches('/')).filter(|path| !path.is_empty());
        // A path in normal form fits into a header.
        let strip_prefix = strip_prefix.and_then(|path| StripPrefix::new(path).ok());
        let steps = strip_prefix.map(|path| Steps { strip_prefix: Some(path), ..Steps::default() });
        Some(Ok(Native { matching, steps: steps.map(Arc::new), middlewares }))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::spec::endpoint::RegistryStatus;

    /// An instance: its labels as `tag:TEXT` or `KEY=VALUE` of Meta.
    pub(in crate::spec::decode::tag) fn instance(id: &str, modified: u64, said: &[&str]) -> EndpointSpec {
        let label = |text: &&str| match text.strip_prefix("tag:") {
            Some(tag) => (format!("tag.{tag}"), "true".to_owned()),
            None => text.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())).expect("KEY=VALUE"),
        };
        EndpointSpec {
            address: format!("10.0.0.1:{}", 1000 + modified).parse().expect("an address"),
            weight: 1,
            labels: Arc::new(said.iter().map(label).collect()),
            status: RegistryStatus::Passing,
            id: id.into(),
            modified,
            created: modified,
        }
    }

    fn told(said: &[&str]) -> String {
        let asked = read(&instance("a", 1, said), &Bounds::default()).routes;
        let line = |(name, asked): (String, Result<Native, WrongRoute>)| match asked {
            Ok(Native { matching, steps, middlewares }) => {
                let hosts: Vec<_> = matching.hosts.iter().map(ToString::to_string).collect();
                let strip = steps.and_then(|steps| steps.strip_prefix.clone());
                let strip = strip.as_ref().map_or("", StripPrefix::as_str);
                let middlewares: Vec<_> = middlewares.iter().map(ToString::to_string).collect();
                format!("{name}: {} {:?} {strip} {}", hosts.join(","), matching.path, middlewares.join(" "))
            }
            Err(wrong) => format!("{name}! {}", wrong.problems.join("; ")),
        };
        asked.into_iter().map(line).map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn tags_and_meta_are_routes() {
        for (said, wanted) in [
            (&["tag:canary", "version=v1"][..], ""),
            (&["tag:fleetgate"], ""),
            (&["fleetgate-host=a.com"], ""),
            (&["tag:fleetgate.weight=20"], ""),
            (&["tag:fleetgate.host=A.com"], ": a.com Prefix(\"\")"),
            (&["tag:fleetgate", "fleetgate-host=a.com", "fleetgate-path=/x/"], ": a.com Prefix(\"/x\")"),
            (&["tag:fleetgate.path=/users", "tag: fleetgate.strip_prefix=/users/ "], ":  Prefix(\"/users\") /users"),
            (
                &[
                    "tag:fleetgate.routes.api.host=a.com,*.b.com",
                    "fleetgate-routes-api-path=/v1",
                    "tag:fleetgate.path=/w",
                ],
                ":  Prefix(\"/w\")\napi: a.com,*.b.com Prefix(\"/v1\")",
            ),
            (
                &["tag:fleetgate.path=/a", "tag:fleetgate.middlewares=auth, limit@file,auth"],
                ":  Prefix(\"/a\")  auth limit@file",
            ),
            (
                &["tag:fleetgate.path=users", "tag:fleetgate.routes.b.path=/b"],
                "! `path`: `users`: a path begins with `/`\nb:  Prefix(\"/b\")",
            ),
            (
                &["tag:fleetgate.pth=/a", "tag:fleetgate.path=/a"],
                "! `fleetgate.pth=/a`: unknown key; did you mean `path`?",
            ),
            (
                &["tag:fleetgate.strip_prefix=/a"],
                "! says what to do, and not with which requests: give `host` or `path`",
            ),
            (
                &["tag:fleetgate.path=/a", "fleetgate-path=/b"],
                "! `fleetgate-path` of Meta: `path` is said twice, as `/a` and as `/b`",
            ),
            (&["tag:fleetgate.path"], "! `fleetgate.path`: a value is missing: `KEY=VALUE`"),
        ] {
            assert_eq!(told(said), wanted, "{said:?}");
        }
    }

    #[test]
    fn a_route_is_read_from_its_own_tags() {
        let said = [
            "tag:fleetgate.host=A.com,*.b.com",
            "tag:fleetgate.routes.a.b.path=/x/",
            "fleetgate-routes-c-path=/",
            "fleetgate-routes-c-middlewares=keys, limit@file",
            "fleetgate-routes-c-strip-prefix=/x",
            "tag:fleetgate.routes.c.strip_prefix=/y/%C3%A4/",
        ];
        let routes = |endpoint: &EndpointSpec| -> BTreeMap<String, Native> {
            let routes = read(endpoint, &Bounds::default()).routes.into_iter();
            routes.filter_map(|(name, asked)| Some((name, asked.ok()?))).collect()
        };
        for said in [&said[..5], &[said[0], said[1], said[2], said[3], said[5]]] {
            let wanted = routes(&instance("a", 1, said));
            let tags = wanted.iter().flat_map(|(name, native)| tags_of(name, native));
            let tags: Vec<String> = tags.map(|tag| format!("tag:{tag}")).collect();
            let again = routes(&instance("a", 1, &tags.iter().map(String::as_str).collect::<Vec<_>>()));
            assert_eq!(again, wanted);
        }
    }

    #[test]
    fn what_a_wrong_route_matches_is_told_unless_that_may_be_what_is_wrong() {
        let mut bounds = Bounds::default();
        bounds.add_path("/a").expect("a path");
        let matching = |said: &[&str]| {
            let asked = read(&instance("a", 1, said), &bounds).routes;
            let wrong = asked[""].as_ref().expect_err("it is wrong");
            wrong.matching.as_ref().map(|matching| (matching.hosts.len(), matching.path.clone()))
        };
        let at_a = (0, PathMatch::Prefix("/a".to_owned()));
        for wrong in [
            "strip_prefix=a",
            "middlewares=Auth",
            "middlewares=",
            "middlewares= ,",
            "midlewares=keys",
            "auth=keys",
            "middlewares",
            "pth=/b",
            "x",
        ] {
            assert_eq!(
                matching(&["tag:fleetgate.path=/a", &format!("tag:fleetgate.{wrong}")]),
                Some(at_a.clone()),
                "{wrong}"
            );
        }
        for wrong in ["hots=a.com", "hostname=a.com", "host=a b", "host", "path=/b", "route.b.host=a.com"] {
            assert_eq!(matching(&["tag:fleetgate.path=/a", &format!("tag:fleetgate.{wrong}")]), None, "{wrong}");
        }
        assert_eq!(matching(&["tag:fleetgate.host=a.com", "tag:fleetgate.pth=/a"]), None);
        assert_eq!(matching(&["tag:fleetgate.strip_prefix=/a"]), None);
        // It may not be claimed, so no good form of it is served anywhere.
        assert_eq!(matching(&["tag:fleetgate.path=/b", "tag:fleetgate.middlewares=Auth"]), None);
    }

    #[test]
    fn instances_that_say_the_same_have_the_same_digest() {
        let ask = |said: &[&str]| super::ask(&instance("a", 1, said).labels);
        let host = ask(&["tag:fleetgate.host=a.com"]);
        assert!(host.is_some());
        for same in [
            &["tag: fleetgate.host=a.com", "tag:fleetgate.weight=3", "version=v1"][..],
            &["tag:fleetgate", "fleetgate-host=a.com"],
        ] {
            assert_eq!(ask(same), host, "{same:?}");
        }
        for other in [&["tag:fleetgate.host=b.com"][..], &["tag:fleetgate.host=a.com", "tag:fleetgate.path=/a"]] {
            assert!(ask(other).is_some() && ask(other) != host, "{other:?}");
        }
        for nothing in [&["tag:x"][..], &["fleetgate-host=a.com"], &["tag:fleetgate", "tag:fleetgate.weight=3"]] {
            assert_eq!(ask(nothing), None, "{nothing:?}");
        }
    }

    #[test]
    fn weights_are_numbers() {
        let weight = |said: &[&str]| super::weight(&instance("a", 1, said).labels);
        assert_eq!(weight(&["tag:fleetgate.weight=20"]), Ok(Some(20)));
        assert_eq!(weight(&["tag:fleetgate", "fleetgate-weight=0"]), Ok(Some(0)));
        assert_eq!(weight(&["fleetgate-weight=0"]), Ok(None));
        assert_eq!(weight(&["tag:x"]), Ok(None));
        assert!(weight(&["tag:fleetgate.weight=-1"]).is_err() && weight(&["tag:fleetgate.weight=0.5"]).is_err());
    }
}
