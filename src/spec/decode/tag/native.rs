//! Defines how `fleetgate.*` tags and `Meta` of one instance are read. Pure.

mod draft;
mod near;

use std::collections::BTreeMap;
use std::sync::Arc;

use self::draft::Drafts;
use self::near::{is_misspelt_bare, misspelt_label, misspelt_tag};
use super::claim::Bounds;
use super::tags;
use crate::spec::endpoint::{EndpointSpec, Labels};
use crate::spec::matching::{MatchSpec, PathMatch};
use crate::spec::name::{ItemRef, Name};
use crate::spec::route::Steps;

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
    /// Something is said that may be of any route.
    pub(super) has_stray: bool,
}

/// A route that cannot be used as it is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct WrongRoute {
    pub(super) problems: Vec<String>,
    /// What it may match, as far as that can be told and may be claimed.
    pub(super) matchings: Vec<MatchSpec>,
}

const BARE: &str = "fleetgate";
const TAG: &str = "fleetgate.";
const META: &str = "fleetgate-";
/// What stands for the route of which a stray option may be.
pub(super) const STRAY: &str = ".";
const KEYS: [&str; 5] = ["host", "path", "strip_prefix", "middlewares", "weight"];
const KEYS_OF_ROUTES: [&str; 4] = ["host", "path", "strip_prefix", "middlewares"];

/// Whether a tag asks for anything of ours, or may be meant to.
pub(super) fn asks(tag: &str) -> bool {
    let tag = tag.trim();
    tag == BARE || tag.starts_with(TAG) || misspelt_tag(tag).is_some() || is_misspelt_bare(tag)
}

/// Whether a key of Meta is misspelt.
fn is_misspelt(label: &str) -> bool {
    let is_meta = !label.starts_with("tag.") && !label.starts_with(META) && label != ASK_LABEL;
    is_meta && misspelt_label(label, "").is_some()
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
    let said = tags.map(str::trim).filter_map(|tag| match tag.strip_prefix(TAG) {
        Some(said) => Some(said.to_owned()),
        None => misspelt_tag(tag).map(|_| tag.to_owned()),
    });
    let meta = labels.iter().filter_map(|(label, value)| match label.strip_prefix(META) {
        Some(key) => Some(format!("{}={}", key.replace('-', "."), value.trim())),
        None => is_misspelt(label).then(|| format!("{label}={}", value.trim())),
    });
    let mut said: Vec<String> = said.chain(meta).filter(|said| !said.starts_with("weight=")).collect();
    said.sort_unstable();
    said.dedup();
    (!said.is_empty()).then(|| Name::derived(&said.join("\n")).digest().to_owned())
}

/// What an instance asks for.
pub(super) fn read(endpoint: &EndpointSpec, bounds: &Bounds) -> Asked {
    if !tags(endpoint).any(asks) {
        return Asked::default();
    }
    let mut drafts = Drafts::new();
    let is_bare = |tag: &str| tag == BARE || tag.starts_with(TAG) || misspelt_tag(tag).is_some();
    let has_meta = endpoint.labels.keys().any(|label| label.starts_with(META));
    if let (true, Some(tag)) =
        (has_meta && !tags(endpoint).map(str::trim).any(is_bare), tags(endpoint).find(|tag| asks(tag)))
    {
        draft::add_misspelt_bare(&mut drafts, tag.trim());
    }
    for tag in tags(endpoint).map(str::trim) {
        if let Some(said) = tag.strip_prefix(TAG) {
            let (key, value) = match said.split_once('=') {
                Some((key, value)) => (key, Some(value.trim())),
                None => (said, None),
            };
            draft::add(&mut drafts, key.trim(), value, &format!("`{TAG}{said}`"));
        } else if let Some(miss) = misspelt_tag(tag) {
            draft::add_misspelt(&mut drafts, miss.name, miss.key, miss.value, &format!("`{tag}`"));
        }
    }
    for (label, value) in endpoint.labels.iter() {
        let said = format!("`{label}` of Meta");
        if let Some(key) = label.strip_prefix(META) {
            draft::add(&mut drafts, &key.replace('-', "."), Some(value.trim()), &said);
        } else if is_misspelt(label)
            && let Some(miss) = misspelt_label(label, value)
        {
            draft::add_misspelt(&mut drafts, miss.name, miss.key, miss.value, &said);
        }
    }
    draft::mark_strays(&mut drafts);
    let has_stray = drafts.values().any(|draft| draft.is_stray);
    let routes = drafts.into_iter().filter_map(|(name, draft)| Some((name, draft.resolve(bounds)?)));
    let mut routes: BTreeMap<String, Result<Native, WrongRoute>> = routes.collect();
    if has_stray {
        // It may be an option that one of them lost, or one of a route that is not asked for any more, in the same place.
        let mut all: Vec<MatchSpec> = Vec::new();
        for asked in routes.values_mut() {
            if let Ok(Native { matching, .. }) = asked {
                *asked = Err(WrongRoute { problems: Vec::new(), matchings: vec![matching.clone()] });
            }
            let matchings = asked.as_ref().err().into_iter().flat_map(|wrong| &wrong.matchings);
            all.extend(matchings.filter(|matching| !all.contains(matching)).cloned().collect::<Vec<_>>());
        }
        let stray = routes.entry(STRAY.to_owned()).or_insert_with(|| Err(WrongRoute::default()));
        if let Err(wrong) = stray {
            wrong.matchings = all;
        }
    }
    Asked { routes, has_stray }
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::spec::endpoint::RegistryStatus;
    use crate::spec::route::StripPrefix;

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
            "tag:fleetgate.routes.c.strip_prefix=/y/%C3%A4/",
        ];
        let routes = |endpoint: &EndpointSpec| -> BTreeMap<String, Native> {
            let routes = read(endpoint, &Bounds::default()).routes.into_iter();
            routes.filter_map(|(name, asked)| Some((name, asked.ok()?))).collect()
        };
        for said in [&said[..4], &[said[0], said[1], said[2], said[3], said[4]]] {
            let wanted = routes(&instance("a", 1, said));
            assert_eq!(wanted.len(), 3);
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
            let told = wrong.matchings.iter().map(|matching| (matching.hosts.len(), matching.path.clone()));
            told.collect::<Vec<_>>()
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
            let told = matching(&["tag:fleetgate.path=/a", &format!("tag:fleetgate.{wrong}")]);
            assert_eq!(told, std::slice::from_ref(&at_a), "{wrong}");
        }
        // A host by another word, and what is wrong beside a good path.
        for (wrong, hosts) in [
            ("hots=a.com", 1),
            ("hostname=a.com", 1),
            ("host=a.com,b b", 1),
            ("route.b.host=a.com", 0),
            (".middlewares=keys", 0),
            ("routes.middlewares=keys", 0),
            ("routes.b=x", 0),
            ("routes=b", 0),
            ("routes.b c.middlewares=keys", 0),
            ("routes.b.middlewares=keys", 0),
            ("path=/b", 0),
        ] {
            let told = matching(&["tag:fleetgate.path=/a", &format!("tag:fleetgate.{wrong}")]);
            assert_eq!(told, [(hosts, at_a.1.clone())], "{wrong}");
        }
        for wrong in ["host=a b", "host"] {
            assert_eq!(matching(&["tag:fleetgate.path=/a", &format!("tag:fleetgate.{wrong}")]), [], "{wrong}");
        }
        // Without a path that can be read, all of its hosts, as far as they may be claimed.
        for wrong in ["pth=/a", "path=a", "path=", "path", "path=/a b"] {
            let told = matching(&["tag:fleetgate.host=a.com", &format!("tag:fleetgate.{wrong}")]);
            assert_eq!(told, [(1, at_a.1.clone())], "{wrong}");
        }
        assert_eq!(matching(&["tag:fleetgate.strip_prefix=/a"]), []);
        // It may not be claimed, so no good form of it is served anywhere.
        assert_eq!(matching(&["tag:fleetgate.path=/b", "tag:fleetgate.middlewares=Auth"]), []);
    }

    #[test]
    fn of_what_is_said_twice_all_is_told() {
        let said = ["tag:fleetgate.path=/a", "tag:fleetgate.path=/b", "tag:fleetgate.host=a.com"];
        let asked = read(&instance("a", 1, &said), &Bounds::default()).routes;
        let wrong = asked[""].as_ref().expect_err("it is wrong");
        let told: Vec<_> = wrong.matchings.iter().map(|it| (it.hosts[0].to_string(), it.path.clone())).collect();
        let at = |path: &str| ("a.com".to_owned(), PathMatch::Prefix(path.to_owned()));
        assert_eq!(told, [at("/a"), at("/b")]);
        let mut bounds = Bounds::default();
        bounds.add_host("*.ok.test").expect("a host");
        let said = ["tag:fleetgate.host=a.ok.test,b.test", "tag:fleetgate.path=/a"];
        let asked = read(&instance("a", 1, &said), &bounds).routes;
        let told = &asked[""].as_ref().expect_err("it may not be claimed").matchings[0];
        assert_eq!(told.hosts.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a.ok.test"]);
    }

    /// A name that is misspelt in one tag leaves another one with options and without a place.
    #[test]
    fn what_may_be_said_of_any_route_stands_in_the_way_of_all() {
        let stray = |said: &[&str]| read(&instance("a", 1, said), &Bounds::default()).has_stray;
        let place = "tag:fleetgate.routes.adm.path=/p";
        for wrong in [
            "tag:fleetgate.middlewares=keys",
            "tag:fleetgate.route.adm.middlewares=keys",
            "tag:fleetgate.routes.amd.middlewares=keys",
            "tag:fleetgate.routes.Adm.middlewares=keys",
            "tag:fleetgate.routes.Adm.host=a.com",
            "tag:fleetgate.routes.\"adm.middlewares=keys",
            "tag:fleetgate.routes.a dm.path=/p",
            "tag:fleetgate.routes.middlewares=keys",
            "tag:fleetgate.routes.adm=x",
            "tag:fleetgate..middlewares=keys",
            "tag:FLEETGATE.middlewares=keys",
            "fleetgate_middlewares=keys",
            "fleetgate-routes-a-dm-middlewares=keys",
        ] {
            let asked = read(&instance("a", 1, &[place, wrong]), &Bounds::default());
            assert!(asked.has_stray, "{wrong}");
            assert!(asked.routes.values().all(Result::is_err), "{wrong}");
            let problems = asked.routes.values().filter_map(|asked| asked.as_ref().err()).flat_map(|it| &it.problems);
            assert!(problems.clone().any(|text| text.contains("may be meant")), "{wrong}: {problems:?}");
        }
        for right in [
            "tag:fleetgate.routes.adm.middlewares=keys",
            "tag:fleetgate.weight=3",
            "tag:fleetgate.routes.old.strip_prefix=/old",
            "tag:FLEETGATE.weight=3",
            "tag:fleetgate_managed=true",
            "fleetgate_version=1",
        ] {
            assert!(!stray(&[place, right]), "{right}");
        }
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
