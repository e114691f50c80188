//! What is served after mistakes and a restart, text in and text out.

use std::sync::Arc;

use proptest::prelude::*;

use super::super::tests::{Edits, SHOP};
use super::*;
use crate::control::fixture::{World, consul};
use crate::control::merge::Merger;

impl Edits {
    /// What is on disk when it stops.
    fn saved(&self) -> BTreeMap<ProviderId, SavedState> {
        let state = |(id, state): (&ProviderId, &Arc<ProviderState>)| {
            let forms = serde_json::to_string(&*state.forms).expect("JSON");
            let resolved = self.merger.to_save().get(id).cloned().unwrap_or_default();
            let resolved = serde_json::to_string(&resolved).expect("JSON");
            let forms = Some(Arc::new(serde_json::from_str(&forms).expect("forms")));
            let resolved = Arc::new(serde_json::from_str(&resolved).expect("forms"));
            (*id, SavedState { forms, resolved, ..SavedState::default() })
        };
        self.world.states.iter().filter(|(_, state)| state.documents.is_some()).map(state).collect()
    }

    /// The next process, which has read nothing.
    fn restarted(self) -> Self {
        let saved = self.saved();
        let mut world = World::new();
        world.rules = self.world.rules.clone();
        world.states = self.world.states.keys().map(|id| (*id, Arc::default())).collect();
        let ids = world.states.keys().copied();
        let forms = recall(&saved, ids, &world.rules, &world.overlay, &|_| Err("no file is named".to_owned()));
        Self { world, merger: Merger::recalling(forms) }
    }

    /// What is served once the next process has read this file, and the other providers, which are empty.
    fn reread(self, file: &str) -> (Self, String) {
        let mut next = self.restarted();
        next.edit(ProviderId::File, file);
        next.edit(ProviderId::Etcd, "");
        let told = next.edit(ProviderId::ConsulKv, "");
        (next, told)
    }
}

fn without(section: &str) -> String {
    let at = SHOP.find(section).expect("a section");
    let end = SHOP[at + 1..].find("\n[").map_or(SHOP.len(), |end| at + 1 + end);
    format!("{}{}", &SHOP[..at], &SHOP[end..])
}

#[test]
fn a_mistake_changes_nothing_at_a_restart_either() {
    let mut edits = Edits::new(SHOP);
    let served = edits.told();
    let mistakes = [
        SHOP.replace("upstream = \"shop\"", "upstream = \"shpo\""),
        SHOP.replace("subset = \"canary\"", "subset = \"canari\""),
        SHOP.replace("subsets.canary", "subsets.other"),
        without("[upstreams.shop]"),
        without("[upstreams.auth]"),
        without("[middlewares.login]"),
        SHOP[SHOP.find("[routes.shop]").expect("a route")..].to_owned(),
        // All at once, in a form that names other things than the last one did.
        "[routes.shop]\nmatch = { path = \"/elsewhere\" }\nupstream = \"nobody\"\n".to_owned(),
    ];
    for mistake in mistakes {
        let kept = edits.file(&mistake);
        let (next, told) = edits.reread(&mistake);
        assert_eq!(told, kept, "{mistake}");
        // What it saves in turn is enough for the one after it.
        let (next, told) = next.reread(&mistake);
        assert_eq!(told, kept, "{mistake}");
        let (next, told) = next.reread(SHOP);
        assert_eq!(told, served, "mended while it was down: {mistake}");
        assert!(next.merger.to_save().is_empty(), "{:?}", next.merger.to_save());
        // And a mistake that is made while it is down.
        let (mut next, told) = next.reread(&mistake);
        assert_eq!(told, kept, "{mistake}");
        assert_eq!(next.file(SHOP), served, "{mistake}");
        edits = next;
    }
}

#[test]
fn what_is_deleted_does_not_come_back() {
    let mut edits = Edits::new(SHOP);
    let route = &SHOP[SHOP.find("[routes.shop]").expect("a route")..];
    edits.file(route);
    let (next, told) = edits.reread("");
    assert_eq!(told, "", "the route went while it was down, and what only it needed with it");
    let (next, told) = next.reread(route);
    let unresolved =
        "route shop of file to shop/canary: unresolved: there is no middleware `login`; there is no upstream `shop`\n";
    assert_eq!(told, unresolved);
    // A new route gets nothing of what is retained for another.
    let mut next = next;
    next.file(SHOP);
    next.file(route);
    let new = "[routes.new]\nmatch = { path = \"/new\" }\nupstream = \"shop\"\n";
    let (_, told) = next.reread(&format!("{new}{route}"));
    assert!(told.contains("route new of file to shop: unresolved: there is no upstream `shop`"), "{told}");
    assert!(told.contains("route shop of file to shop/canary: kept"), "{told}");
}

#[test]
fn a_middleware_that_the_last_form_did_not_have_is_not_left_out_after_a_restart() {
    let mut edits = Edits::new(SHOP);
    let wrong = SHOP.replace("middlewares = [\"login\"]", "middlewares = [\"login\", \"lgoin\"]");
    let refused = edits.file(&wrong);
    assert!(refused.ends_with("unresolved: there is no middleware `lgoin`\n"), "{refused}");
    let (next, told) = edits.reread(&wrong);
    assert_eq!(told, refused);
    // The form before is remembered, and stays where an edit does not name it any more.
    let upstream = SHOP.replace("upstream = \"shop\"", "upstream = \"shpo\"");
    let (mut next, told) = next.reread(&wrong);
    assert_eq!(told, refused);
    assert!(next.file(&upstream).contains("kept: there is no upstream `shpo`"));
    // Nor is one that is named first while nobody looks.
    let (_, told) = next.reread(&wrong);
    assert_eq!(told, refused);
}

/// Another gateway may have seen the route in a form that had it.
#[test]
fn a_form_that_may_be_outdated_serves_nothing_that_names_more_middlewares() {
    const OPEN: &str = "[upstreams.u]\nendpoints = [\"10.0.0.1:80\"]\n[middlewares.keys]\napi_key.header = \"x-key\"\n\
                        [routes.r]\nmatch = {}\nupstream = \"u\"\n";
    let edits = Edits::new(OPEN);
    // Protected while this one was down, and then edited once more, with a wrong upstream.
    let broken = OPEN.replace("upstream = \"u\"", "upstream = \"uu\"\nmiddlewares = [\"keys\"]");
    let (next, refused) = edits.reread(&broken);
    assert!(refused.contains("unresolved: there is no upstream `uu`"), "{refused}");
    let (next, told) = next.reread(&broken);
    assert_eq!(told, refused, "nor at the start after that");
    let other = broken.replace("uu", "uuu");
    let (mut next, told) = next.reread(&other);
    assert!(told.contains("unresolved: there is no upstream `uuu`"), "{told}");
    assert!(next.file(&broken.replace("uu", "u")).contains(": resolved"));
    // What this process sees being edited is no more than an edit.
    next.file(OPEN);
    let kept = next.file(&broken);
    assert!(kept.contains("kept: there is no upstream `uu`"), "{kept}");
    let (_, told) = next.reread(&broken);
    assert_eq!(told, kept, "it saw all there was");
}

#[test]
fn a_saved_form_that_cannot_be_decoded_opens_nothing() {
    let mut edits = Edits::new(SHOP);
    let wrong = SHOP.replace("upstream = \"shop\"", "upstream = \"shpo\"");
    edits.file(&wrong);
    let mut saved = edits.saved();
    let state = saved.get_mut(&ProviderId::File).expect("files");
    for text in &mut Arc::make_mut(&mut state.resolved).texts {
        text.text.text = text.text.text.replace("canary", "Canary").into();
    }
    let ids = edits.world.states.keys().copied();
    let read = |_: &std::path::Path| Err("no file is named".to_owned());
    let forms = recall(&saved, ids, &edits.world.rules, &edits.world.overlay, &read);
    let mut next = Edits { merger: Merger::recalling(forms), ..edits };
    let told = next.told();
    assert!(told.contains("route shop of file to shpo/canary: unresolved: there is no upstream `shpo`"), "{told}");
    assert!(next.file(SHOP).contains(": resolved"));
}

#[test]
fn providers_that_were_not_read_yet_lose_nothing() {
    const PAIR: &str = "[upstreams.shop]\nconsul.service = \"shop\"\n[middlewares.stamp]\nstrip_prefix = \"/x\"\n";
    const ROUTE: &str = "[routes.r]\nmatch = {}\nupstream = \"shop\"\nmiddlewares = [\"stamp\"]\n";
    let mut edits = Edits::new(ROUTE);
    edits.edit(ProviderId::Etcd, PAIR);
    edits.edit(ProviderId::ConsulKv, ROUTE);
    let kept = edits.edit(ProviderId::Etcd, "");
    assert!(kept.contains("upstream shop of etcd") && kept.contains("middleware stamp of etcd"), "{kept}");
    assert!(kept.contains("route r of file to shop: kept"), "{kept}");
    for order in [
        [ProviderId::File, ProviderId::Etcd, ProviderId::ConsulKv],
        [ProviderId::ConsulKv, ProviderId::Etcd, ProviderId::File],
        [ProviderId::Etcd, ProviderId::File, ProviderId::ConsulKv],
    ] {
        let mut next = edits.restarted();
        assert_eq!(next.told(), "", "before anything was read nothing is there");
        for provider in order {
            next.edit(provider, if provider == ProviderId::Etcd { "" } else { ROUTE });
        }
        assert_eq!(next.told(), kept, "{order:?}");
        let wanted = next.world.merge_with(&mut next.merger.forms().clone()).wanted;
        assert_eq!(wanted, [consul("shop")].into(), "its endpoints are followed");
        edits = next;
    }
}

#[test]
fn a_listener_keeps_its_middlewares_over_a_restart() {
    let mut edits = Edits::new(SHOP);
    let web = ("web".parse().expect("a name"), vec!["login".parse().expect("a reference")]);
    edits.world.rules.listeners = [web].into();
    let mut edits = Edits { world: edits.world, merger: Merger::default() };
    edits.told();
    let kept = edits.file("");
    assert!(kept.contains("middleware login of file") && kept.contains("upstream auth of file"), "{kept}");
    let (next, told) = edits.reread("");
    assert_eq!(told, kept);
    let (_, told) = next.reread("");
    assert_eq!(told, kept);
}

#[test]
fn what_a_registration_asks_for_keeps_what_it_needs() {
    let tags = ProviderId::ConsulTags;
    let route = "[upstreams.web]\nconsul.service = \"web\"\nsubsets.of-r = { version = \"v2\" }\n\
                 [routes.web]\nmatch = {}\ntargets = [{ upstream = \"web\", subset = \"of-r\", weight = 1 }]\nmiddlewares = [\"keys\"]\n";
    let keys = "[middlewares.keys]\napi_key.header = \"x-key\"\n";
    let mut edits = Edits::new(keys);
    edits.edit(tags, route);
    // Registrations have no text.
    let forget_texts = |edits: &mut Edits| {
        Arc::make_mut(edits.world.states.get_mut(&tags).expect("tags")).forms = Arc::default();
    };
    forget_texts(&mut edits);
    edits.merger = Merger::default();
    edits.told();
    edits.edit(ProviderId::ConsulKv, "[routes.kv]\nmatch = { path = \"/kv\" }\nupstream = \"web\"\n");
    let kept = edits.file("");
    assert!(kept.contains("route web of consul-tags to web/of-r: kept: there is no middleware `keys`"), "{kept}");
    let again = |edits: Edits, route: &str| {
        let mut next = edits.restarted();
        next.file("");
        next.edit(ProviderId::Etcd, "");
        next.edit(ProviderId::ConsulKv, "[routes.kv]\nmatch = { path = \"/kv\" }\nupstream = \"web\"\n");
        next.world.documents(tags, route);
        forget_texts(&mut next);
        let told = next.told();
        (next, told)
    };
    let (next, told) = again(edits, route);
    assert_eq!(told, kept);
    let (next, told) = again(next, route);
    assert_eq!(told, kept);
    // With another middleware it is another route.
    let (next, told) = again(next, &route.replace("\"keys\"", "\"keys\", \"other\""));
    assert!(told.contains("route web of consul-tags to web/of-r: unresolved"), "{told}");
    // The service is gone, and a document still needs its upstream.
    let mut next = next;
    next.world.documents(tags, "");
    forget_texts(&mut next);
    let told = next.told();
    assert!(told.contains("route kv of consul-kv to web: kept: there is no upstream `web`"), "{told}");
    assert!(told.contains("upstream web of consul-tags"), "{told}");
    let (_, again) = again(next, "");
    assert_eq!(again, told, "though no document said what it is");
}

/// Nothing that refers to nobody protects a route, but an upstream whose fallback is missing serves.
#[test]
fn what_is_deleted_before_it_resolved_stays_as_it_was_after_a_restart() {
    const ROUTE: &str = "[routes.r]\nmatch = {}\nupstream = \"u\"\nmiddlewares = [\"keys\"]\n";
    let upstream = "[upstreams.u]\nendpoints = [\"10.0.0.1:80\"]\nbreaker.fallback.upstream = \"nobody\"\n";
    let keys = "[middlewares.keys]\nforward_auth = { upstream = \"nobody\", path = \"/\" }\n";
    let mut edits = Edits::new(ROUTE);
    edits.edit(ProviderId::Etcd, &format!("{upstream}{keys}"));
    let kept = edits.edit(ProviderId::Etcd, "");
    assert!(kept.contains("upstream u of etcd") && kept.contains("middleware keys of etcd"), "{kept}");
    let (next, told) = edits.reread(ROUTE);
    assert_eq!(told, kept);
    let (mut next, told) = next.reread(ROUTE);
    assert_eq!(told, kept);
    // It never resolved, and so it is no last good form beside another mistake.
    let wrong = format!("{upstream}{}", keys.replace("nobody", "somebody"));
    let told = next.edit(ProviderId::Etcd, &wrong);
    let mut fresh = Edits::new(ROUTE);
    assert_eq!(told, fresh.edit(ProviderId::Etcd, &wrong));
}

/// What a provider may define, each as two texts or not at all.
const PARTS: [[&str; 2]; 4] = [
    [
        "[routes.r]\nmatch = {}\nupstream = \"u\"\nmiddlewares = [\"keys\"]\n",
        "[routes.r]\nmatch = {}\ntargets = [{ upstream = \"u\", subset = \"s\", weight = 1 }]\nmiddlewares = [\"keys\", \"more\"]\n",
    ],
    [
        "[upstreams.u]\nendpoints = [\"10.0.0.1:80\"]\nsubsets.s = { version = \"v1\" }\n",
        "[upstreams.u]\nendpoints = [\"10.0.0.2:80\"]\nbreaker.fallback.upstream = \"v\"\n",
    ],
    [
        "[middlewares.keys]\napi_key.header = \"x-key\"\n",
        "[middlewares.keys]\nforward_auth = { upstream = \"v\", path = \"/\" }\n",
    ],
    [
        "[middlewares.more]\nstrip_prefix = \"/x\"\n[upstreams.v]\nendpoints = [\"10.0.0.9:80\"]\n",
        "[upstreams.v]\nendpoints = [\"10.0.0.8:80\"]\n",
    ],
];
const PLACES: [ProviderId; 3] = [ProviderId::File, ProviderId::Etcd, ProviderId::ConsulKv];

/// What each provider defines: of each part one of its texts, or none.
type Texts = [[Option<usize>; 4]; 3];

fn written(choices: &[Option<usize>; 4]) -> String {
    PARTS.iter().zip(choices).filter_map(|(texts, choice)| Some(texts[(*choice)?])).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A restart in which nobody edits anything changes nothing, in whatever order providers are read.
    #[test]
    fn a_restart_changes_nothing(
        steps in prop::collection::vec((0..3_usize, 0..4_usize, prop::option::of(0..2_usize), any::<bool>(), 0..3_usize), 1..24),
    ) {
        let mut texts = Texts::default();
        texts[0] = [Some(0); 4];
        let mut edits = Edits::new(&written(&texts[0]));
        let mut told = edits.told();
        for (place, part, choice, restarts, first) in steps {
            texts[place][part] = choice;
            told = edits.edit(PLACES[place], &written(&texts[place]));
            if restarts {
                edits = edits.restarted();
                for offset in 0..3 {
                    let place = (first + offset) % 3;
                    edits.edit(PLACES[place], &written(&texts[place]));
                }
                prop_assert_eq!(edits.told(), told.clone(), "{:?}", texts);
            }
        }
        // Nothing is remembered of what is deleted.
        for place in PLACES {
            edits.edit(place, "");
        }
        prop_assert_eq!(edits.told(), "");
        prop_assert!(edits.merger.to_save().is_empty());
        prop_assert!(!told.is_empty() || texts.iter().flatten().all(Option::is_none));
    }
}
