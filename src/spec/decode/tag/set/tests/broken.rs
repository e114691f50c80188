//! Wrong tags: what they close, what keeps its last good form, and what changes nothing, at a first look, at later ones,
//! and in the next process.

use proptest::prelude::*;

use super::*;
use crate::spec::route::Access;

/// What happens to requests, by place: `closed`, `guarded` or `open`.
pub(super) fn guards(documents: &Documents) -> BTreeMap<String, &'static str> {
    let mut guards: BTreeMap<String, (u64, &'static str)> = BTreeMap::new();
    for spec in documents.routes.values().filter_map(|item| item.good.as_ref()) {
        let is_open = |target: &TargetSpec| {
            let access = target.steps.as_ref().map(|steps| &steps.access);
            access.is_none_or(|access| *access == Access::Anybody)
        };
        let guard = match spec {
            _ if !spec.registered.broken.is_empty() => "closed",
            _ if !spec.middlewares.is_empty() || !spec.targets.iter().any(is_open) => "guarded",
            _ => "open",
        };
        for (at, place) in places(&spec.matching).into_iter().enumerate() {
            // Of equal routes the first one is asked, and of those that are as old any.
            let (since, known) = guards.entry(place).or_insert((u64::MAX, guard));
            let now = spec.since(at);
            *known = if now == *since {
                (*known).max(guard)
            } else if now < *since {
                guard
            } else {
                *known
            };
            *since = now.min(*since);
        }
    }
    guards.into_iter().map(|(place, (_, guard))| (place, guard)).collect()
}

pub(super) fn world() -> World {
    World::new(Bounds::default())
}

fn tagged(id: &str, modified: u64, tags: &[&str]) -> EndpointSpec {
    let said: Vec<String> = tags.iter().map(|tag| format!("tag:{tag}")).collect();
    instance(id, modified, &said.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The places of all services, where the only instance of one has these tags now.
fn at(world: &mut World, service: &str, modified: u64, tags: &[&str]) -> String {
    world.services.insert(service.into(), Some([tagged(service, modified, tags)].into()));
    shown(world)
}

fn shown(world: &mut World) -> String {
    let guards = guards(&world.set.update(&world.services, world.now));
    guards.iter().map(|(place, guard)| format!("{place} {guard}")).collect::<Vec<_>>().join(", ")
}

pub(super) const KEYS: &[&str] = &["fleetgate.path=/a", "fleetgate.middlewares=keys"];
const KEYS_TYPO: &[&str] = &["fleetgate.path=/a", "fleetgate.middlewares=keys", "fleetgate.strp=/a"];
const KEYS_ELSEWHERE: &[&str] = &["fleetgate.path=a", "fleetgate.middlewares=keys"];
const ALLOW: &[&str] = &["urlprefix-/f allow=ip:10.0.0.0/8"];
const ALLOW_TYPO: &[&str] = &["urlprefix-/f allow=ip:10.0.0.0/8 strip=f"];

#[test]
fn at_a_first_look_what_is_wrong_closes_what_it_matches() {
    for (tags, wanted) in [
        (KEYS_TYPO, "/a closed"),
        (&["fleetgate.path=/a", "fleetgate.midlewares=keys"], "/a closed"),
        (&["fleetgate.routes.x.host=a.com", "fleetgate.routes.x.middlewares=Keys"], "a.com/ closed"),
        (KEYS_ELSEWHERE, ""),
        (&["fleetgate.middlewares=keys"], ""),
        (&["fleetgate.path=/a", "fleetgate..middlewares=keys"], "/a closed"),
        (&["fleetgate.path=/a", "fleetgate.routes.middlewares=keys"], "/a closed"),
        (&["fleetgate.path=/a", "fleetgate.routes.adm=x"], "/a closed"),
        (&["fleetgate.path=/a", "fleetgate.route.x=1"], "/a closed"),
        (&["fleetgate.path=/a", "fleetgate.path=/c"], "/a closed, /c closed"),
        (&["fleetgate.path=/a", "FLEETGATE.middlewares=keys"], "/a closed"),
        (&["fleetgate.path=/a", "fleetgate-middlewares=keys"], "/a closed"),
        (&["fleetgate_path=/a", "fleetgate_middlewares=keys"], "/a closed"),
        (&["fleetgate.route.x.path=/a", "fleetgate.route.x.middlewares=keys"], "/a closed"),
        (&["fleetgate.host=a.com,b b", "fleetgate.path=/a"], "a.com/a closed"),
        (&["fleetgate.host=a.com", "fleetgate.path=/a b"], "a.com/ closed"),
        (&["fleetgate.routes.adm.path=/a", "fleetgate.routes.amd.middlewares=keys"], "/a closed"),
        (&["fleetgate.path=/a", "fleetgate.routes.old.strip_prefix=/old"], "/a open"),
        (&["urlprefix-/f allow="], "/f (as text) closed"),
        (&["urlprefix-/f permit=ip:10.0.0.0/8"], "/f (as text) closed"),
        (&["URLPREFIX-/f allow=ip:10.0.0.0/8"], "/f (as text) closed"),
        (ALLOW_TYPO, "/f (as text) closed"),
        (&["urlprefix-/f weight=x"], "/f (as text) closed"),
        (&["urlprefix-f weight=x"], ""),
    ] {
        let mut world = world();
        assert_eq!(at(&mut world, "s", 1, tags), wanted, "{tags:?}");
        assert_eq!(shown(&mut world), wanted, "{tags:?}");
        assert!(world.told().contains("consul:s: s: "), "it is reported: {tags:?}");
        for saved in [true, false] {
            assert_eq!(shown(&mut world.restarted(saved)), wanted, "{tags:?}");
        }
        assert_eq!(at(&mut world, "s", 2, &["fleetgate.path=/b", "urlprefix-/g"]), "/b open, /g (as text) open");
    }
    let mut bounds = Bounds::default();
    bounds.add_path("/b").expect("a path");
    let mut bound = World::new(bounds);
    assert_eq!(at(&mut bound, "s", 1, &[KEYS_TYPO, ALLOW_TYPO].concat()), "", "no good form could be there");
}

#[test]
fn what_appears_wrong_after_a_look_changes_nothing_now_and_in_the_next_process() {
    for wrong in [KEYS_TYPO, &["urlprefix-/f weight=x"]] {
        let mut world = world();
        at(&mut world, "other", 1, &["fleetgate.path=/o"]);
        assert_eq!(at(&mut world, "s", 2, wrong), "/o open");
        let mut next = world.restarted(true);
        assert_eq!((shown(&mut next), shown(&mut next.restarted(true))), ("/o open".to_owned(), "/o open".to_owned()));
        assert_ne!(shown(&mut world.restarted(false)), "/o open");
        // One that came while no gateway ran.
        assert_eq!(at(&mut next.restarted(true), "t", 3, wrong), "/o open");
    }
}

#[test]
fn last_good_forms_outlive_processes_and_instances() {
    for (good, wrong, wanted) in [
        (KEYS, KEYS_TYPO, "/a guarded"),
        (KEYS, KEYS_ELSEWHERE, "/a guarded"),
        (ALLOW, ALLOW_TYPO, "/f (as text) guarded"),
    ] {
        let mut world = world();
        assert_eq!(at(&mut world, "s", 1, good), wanted);
        assert_eq!(at(&mut world, "s", 2, wrong), wanted);
        let mut next = world.restarted(true);
        assert_eq!(shown(&mut next), wanted);
        // Before anything is read, and where the service is not there for a while.
        next = next.restarted(true);
        assert_eq!(guards(&next.set.documents()).values().collect::<Vec<_>>(), [&"guarded"]);
        next.services.insert("s".into(), Some([].into()));
        assert_eq!(shown(&mut next), wanted);
        next = next.restarted(true);
        // Another instance takes its place, as wrong.
        next.services.insert("s".into(), Some([tagged("b", 9, wrong)].into()));
        assert_eq!(shown(&mut next), wanted);
        assert_eq!(at(&mut next, "s", 10, &["fleetgate.path=/a"]), "/a open", "as it asks for now");
    }
}

#[test]
fn a_service_without_instances_is_remembered_for_the_rest_of_its_time() {
    let mut world = world();
    at(&mut world, "s", 1, KEYS);
    world.services.insert("s".into(), Some([].into()));
    assert_eq!(shown(&mut world), "/a guarded");
    for _ in 0..3 {
        world.now += TTL / 4;
        world = world.restarted(true);
        assert_eq!(shown(&mut world), "/a guarded");
    }
    world.now += TTL / 4;
    assert_eq!(shown(&mut world.restarted(true)), "");
}

#[test]
fn a_service_that_was_listed_and_not_read_may_have_had_good_forms() {
    let mut world = world();
    world.services.insert("s".into(), None);
    at(&mut world, "other", 1, &["fleetgate.path=/o"]);
    let mut next = world.restarted(true);
    for world in [&mut world, &mut next] {
        assert_eq!(at(world, "s", 1, KEYS_TYPO), "/a closed, /o open");
    }
    // Nor is anything known by the instances alone that an earlier process had.
    let mut recalled = self::world();
    recalled.set.recall(&world.services, world.now);
    recalled.services.clone_from(&world.services);
    let mut recalled = recalled.restarted(true);
    assert!(!recalled.set.knows_services);
    let told = at(&mut recalled, "t", 1, &["fleetgate.path=/t", "fleetgate.x=1"]);
    assert_eq!(told, "/a closed, /o open, /t closed");
}

#[test]
fn the_newest_instance_decides_even_where_its_form_is_not_known() {
    let open = |id, modified| tagged(id, modified, &["fleetgate.path=/a"]);
    for (newest, wanted) in [
        (tagged("w", 9, KEYS_TYPO), "/a closed"),
        (tagged("w", 9, KEYS_ELSEWHERE), "/a closed"),
        (tagged("w", 1, KEYS_TYPO), "/a open"),
    ] {
        let mut fresh = world();
        fresh.update("s", &[open("o", 5), newest.clone()]);
        assert_eq!(shown(&mut fresh), wanted);
        // As long as it is the newest one that takes traffic.
        fresh.update("s", &[open("o", 5), with(newest, RegistryStatus::Critical)]);
        assert_eq!(shown(&mut fresh), "/a open");
    }
    let mut known = world();
    known.update("s", &[open("o", 5)]);
    known.update("s", &[open("o", 5), tagged("w", 9, KEYS_TYPO)]);
    assert_eq!(shown(&mut known), "/a open", "it is new, and asks for what the others do");
}

#[test]
fn what_is_closed_asks_for_its_place_and_takes_no_part_from_others() {
    let mut world = world();
    at(&mut world, "other", 1, &["urlprefix-/f"]);
    let mut fresh = world.restarted(false);
    assert_eq!(at(&mut fresh, "s", 2, ALLOW_TYPO), "/f (as text) open", "the part of the other service");
    let mut fresh = self::world();
    at(&mut fresh, "s", 7, KEYS_TYPO);
    let asking = fresh.set.asking()["/a"][0].clone();
    assert_eq!((asking.created, asking.is_registered, asking.is_blocked), (7, true, true));
    at(&mut fresh, "s", 8, KEYS);
    assert!(!fresh.set.asking()["/a"][0].is_blocked);
}

#[test]
fn an_instance_keeps_its_own_options_of_a_prefix_that_it_shares() {
    let mut world = world();
    let open = tagged("o", 1, &["urlprefix-/f"]);
    world.update("s", &[open.clone(), tagged("g", 2, ALLOW)]);
    world.update("s", &[open, tagged("g", 3, ALLOW_TYPO)]);
    let documents = world.set.update(&world.services, world.now);
    let (_, route) = documents.routes.first_key_value().expect("a route");
    let targets = &route.good.as_ref().expect("good").targets;
    let steps = targets.iter().filter_map(|target| target.steps.as_ref());
    assert_eq!((targets.len(), steps.filter(|steps| steps.access != Access::Anybody).count()), (2, 1));
}

#[test]
fn a_mistake_in_a_place_or_a_name_loses_no_route() {
    let mut fabio = world();
    let tcp = "urlprefix-:3306 proto=tcp";
    at(&mut fabio, "s", 1, &[ALLOW[0], "urlprefix-/g", tcp]);
    assert_eq!(at(&mut fabio, "s", 2, &[ALLOW[0], tcp]), "/f (as text) guarded", "a deletion");
    for _ in 0..2 {
        let told = at(&mut fabio, "s", 3, &["urlprefix-f allow=ip:10.0.0.0/8", tcp]);
        assert_eq!(told, "/f (as text) guarded");
        fabio = fabio.restarted(true);
    }
    assert_eq!(at(&mut fabio, "s", 4, &["urlprefix-/h", tcp]), "/h (as text) open", "mended");
    fabio = fabio.restarted(true);
    assert_eq!(at(&mut fabio, "s", 5, &["urlprefix-/i", tcp]), "/i (as text) open");

    let mut native = world();
    for (word, modified) in [("routes", 1), ("route", 2), ("route", 3)] {
        let tags = [format!("fleetgate.{word}.x.path=/a"), format!("fleetgate.{word}.x.middlewares=keys")];
        assert_eq!(at(&mut native, "s", modified, &[&tags[0], &tags[1]]), "/a guarded", "{word}");
        native = native.restarted(true);
    }
    assert_eq!(at(&mut native, "s", 4, &["fleetgate.routes.y.path=/b"]), "/b open");
}

/// What an instance that was edited keeps, and what of it is new and changes nothing.
#[test]
fn an_option_that_is_lost_to_another_name_changes_nothing() {
    let named = |name: &str, rest: &[&str]| {
        let tags = [format!("fleetgate.routes.{name}.path=/p"), "fleetgate.routes.adm.middlewares=keys".to_owned()];
        tags.into_iter().chain(rest.iter().map(|tag| (*tag).to_owned())).collect::<Vec<_>>()
    };
    let good = named("adm", &["fleetgate.path=/web"]);
    let place =
        |text: &str| vec![text.to_owned(), "fleetgate.routes.adm.path=/p".to_owned(), "fleetgate.path=/web".to_owned()];
    let mut mistakes: Vec<Vec<String>> =
        ["ad", "zz", "a dm", "Adm"].map(|name| named(name, &["fleetgate.path=/web"])).into();
    mistakes.push(vec!["fleetgate.path=/p".to_owned(), "fleetgate.routes.adm.middlewares=keys".to_owned()]);
    for wrong in ["route.adm", "routes.amd", "routes.Adm", "routes.\"adm", "routes.s", "routes", ""] {
        mistakes.push(place(&format!("fleetgate.{wrong}.middlewares=keys")));
    }
    for wrong in ["FLEETGATE.routes.adm.", "fleetgate_routes_adm_", "fleetgate-routes.adm.", "fleetgate/routes/adm/"] {
        mistakes.push(place(&format!("{wrong}middlewares=keys")));
    }
    for wrong in mistakes {
        let tagged =
            |modified, tags: &[String]| tagged("s", modified, &tags.iter().map(String::as_str).collect::<Vec<_>>());
        let mut live = world();
        live.services.insert("s".into(), Some([tagged(1, &good)].into()));
        let before = "/p guarded, /web open";
        assert_eq!(shown(&mut live), before);
        live.services.insert("s".into(), Some([tagged(2, &wrong)].into()));
        let told = wrong.join(" ");
        assert_eq!(shown(&mut live), before, "{told}");
        assert!(live.told().contains("may be meant"), "{told}: {}", live.told());
        let mut next = live.restarted(true);
        assert_eq!(shown(&mut next), before, "after a restart: {told}");
        let new = guards(&{
            let mut new = live.restarted(false);
            new.set.update(&new.services, new.now)
        });
        assert_eq!(new.get("/p"), Some(&"closed"), "at a new gateway: {told}");
        let routes = live.restarted(false).told();
        assert_eq!(routes.matches(": Prefix(\"/p\")").count(), 1, "nothing shadows itself: {routes}");
        // Another instance in its place, as wrong.
        let other = EndpointSpec { id: "t".into(), ..tagged(9, &wrong) };
        next.services.insert("s".into(), Some([other].into()));
        assert_eq!(shown(&mut next), before, "in another instance: {told}");
        next.services.insert("s".into(), Some([tagged(10, &good)].into()));
        assert!(!next.told().contains("problem") && shown(&mut next) == before, "mended: {told}");
    }
}

#[test]
fn of_equal_routes_of_a_service_the_guarded_one_and_then_the_older_one_goes_first() {
    let first = |world: &mut World| {
        let documents = world.set.update(&world.services, world.now);
        let of = |(name, item): (&Name, &Item<RouteSpec>)| {
            let spec = item.good.as_ref().expect("good");
            (spec.since(0), name.to_string())
        };
        documents.routes.iter().map(of).min().expect("a route").1
    };
    let adm = ["fleetgate.routes.adm.path=/p", "fleetgate.routes.adm.middlewares=keys"];
    let ad = ["fleetgate.routes.ad.path=/p", "fleetgate.routes.ad.middlewares=other"];
    let mut world = world();
    at(&mut world, "s", 1, &adm);
    assert_eq!(at(&mut world, "s", 2, &[&adm[..], &["fleetgate.path=/p"]].concat()), "/p guarded");
    assert_eq!(first(&mut world), "s.adm");
    at(&mut world, "s", 3, &[&adm[..], &ad].concat());
    assert_eq!(first(&mut world), "s.adm", "older");
    // Over restarts and redeploys.
    let mut next = world.restarted(true);
    assert_eq!(first(&mut next), "s.adm");
    next.services.insert("s".into(), Some([tagged("t", 9, &[&adm[..], &ad].concat())].into()));
    assert_eq!(first(&mut next), "s.adm");
    assert_eq!(first(&mut world.restarted(false)), "s.ad", "by name, where nobody knows");
    at(&mut next, "s", 10, &[&["fleetgate.routes.adm.path=/q"], &ad[..]].concat());
    at(&mut next, "s", 11, &[&adm[..], &ad].concat());
    assert_eq!(first(&mut next), "s.ad", "the other one was away meanwhile");
}

/// That a wrong registration never was right is believed of what was seen.
#[test]
fn a_registration_that_changed_while_no_gateway_ran_may_have_been_right() {
    for (wrong, wanted) in
        [(KEYS_TYPO, "/a closed, /o open"), (&["urlprefix-/f weight=x"], "/f (as text) closed, /o open")]
    {
        let mut world = world();
        at(&mut world, "other", 1, &["fleetgate.path=/o"]);
        assert_eq!(at(&mut world, "s", 2, wrong), "/o open");
        let changed = EndpointSpec { modified: 7, ..tagged("s", 2, wrong) };
        for remembered in [false, true] {
            let mut next = world.restarted(true);
            if remembered {
                next.set.recall(&next.services.clone(), next.now);
            }
            next.services.insert("s".into(), Some([changed.clone()].into()));
            assert_eq!(shown(&mut next), wanted);
            assert_eq!(shown(&mut next.restarted(true)), wanted);
        }
        // While it runs, it saw all.
        world.services.insert("s".into(), Some([changed.clone()].into()));
        assert_eq!(shown(&mut world), "/o open");
        // One that is new and was changed already.
        let mut next = world.restarted(true);
        next.services.remove("s");
        next.told();
        let mut next = next.restarted(true);
        next.services.insert("s".into(), Some([changed].into()));
        assert_eq!(shown(&mut next), wanted);
    }
}

/// A step of a random history of one service's instances.
#[derive(Clone, Debug)]
enum Step {
    /// An instance is registered with tags, by their positions in lists.
    Register { id: u8, native: usize, fabio: usize, usable: bool },
    /// Unless it is the last one.
    Deregister(u8),
    /// The gateway is started again, with its saved state or without.
    Restart { saved: bool },
}

/// Those before the first one that is right are wrong: what they match can be read, and is what the others match.
const NATIVE: &[&[&str]] = &[
    &["fleetgate.path=/a", "fleetgate..middlewares=keys"],
    &["fleetgate.path=/a", "fleetgate-middlewares=keys"],
    &["fleetgate.path=/a", "fleetgate.routes.s.middlewares=keys"],
    &["fleetgate.routes.ad.path=/a", "fleetgate.routes.adm.middlewares=keys"],
    &["fleetgate.routes.adm.path=/a", "fleetgate.routes.amd.middlewares=keys"],
    &["fleetgate.path=/a", "fleetgate.routes.adm.middlewares=keys"],
    &["fleetgate.path=/a", "fleetgate.midlewares=keys"],
    &["fleetgate.path=/a", "fleetgate.middlewares=Keys"],
    &["fleetgate.path=/a", "fleetgate.strip_prefix=a"],
    &["fleetgate.path=/a"],
    KEYS,
    &["fleetgate.path=/a", "fleetgate.middlewares=keys", "fleetgate.strip_prefix=/a"],
    &["fleetgate.routes.adm.path=/a", "fleetgate.routes.adm.middlewares=keys"],
];
const FABIO: &[&str] = &[
    "urlprefix-/f weight=x",
    "urlprefix-/f alow=ip:10.0.0.0/8",
    "urlprefix-/f allow=",
    "urlprefix-/f permit=ip:10.0.0.0/8",
    "urlprefix-/f,allow=ip:10.0.0.0/8",
    "urlprefix_/f allow=ip:10.0.0.0/8",
    "urlprefix-/f allow=ip:10.0.0.0/8 strip=f",
    "urlprefix-/f",
    "urlprefix-/f allow=ip:10.0.0.0/8",
    "urlprefix-/f deny=ip:10.0.0.0/8 strip=/f",
];
/// These match something else, or nothing that can be read, or are for no route.
const MORE_NATIVE: &[&[&str]] = &[
    &["fleetgate.path=a"],
    &["fleetgate.path=/b"],
    &["fleetgate.path=/b", "fleetgate.x=1"],
    &["fleetgate.routes.x.path=/a", "fleetgate.routes.x.middlewares=keys"],
    &["fleetgate.route.x.path=/a"],
    &["fleetgate.routes.x.middlewares=keys"],
    &["fleetgate.middlewares=keys"],
    &["fleetgate"],
    &[],
];
const MORE_FABIO: &[&str] =
    &["urlprefix-f allow=ip:10.0.0.0/8", "urlprefix-:3306 proto=tcp", "urlprefix-/g auth=x", "x"];

fn step(natives: usize, fabios: usize, saved: BoxedStrategy<bool>) -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4_u8, 0..natives, 0..fabios, prop::bool::weighted(0.8))
            .prop_map(|(id, native, fabio, usable)| Step::Register { id, native, fabio, usable }),
        1 => (0..4_u8).prop_map(Step::Deregister),
        2 => saved.prop_map(|saved| Step::Restart { saved }),
    ]
}

/// Plays a history to a gateway that is never started again, and to one that is; looks at both after each step.
fn play(steps: &[Step], natives: &[&[&str]], fabios: &[&str], mut check: impl FnMut(&mut World, &mut World, &Step)) {
    let (mut whole, mut other) = (world(), world());
    let mut instances: BTreeMap<u8, EndpointSpec> = BTreeMap::new();
    for (modified, step) in (1..).zip(steps) {
        match step {
            Step::Register { id, native, fabio, usable } => {
                let tags = [natives[*native], &[fabios[*fabio]]].concat();
                let status = if *usable { RegistryStatus::Passing } else { RegistryStatus::Critical };
                instances.insert(*id, with(tagged(&id.to_string(), modified, &tags), status));
            }
            Step::Deregister(id) if instances.len() > 1 => drop(instances.remove(id)),
            Step::Deregister(_) => {}
            Step::Restart { saved } => other = other.restarted(*saved),
        }
        let endpoints: Arc<[EndpointSpec]> = instances.values().cloned().collect();
        for world in [&mut whole, &mut other] {
            world.services.insert("s".into(), Some(Arc::clone(&endpoints)));
        }
        check(&mut whole, &mut other, step);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// A gateway that lost what it knew answers nothing openly that one which knows all protects, where a guarded form
    /// was ever right: what never had one may be closed at one of them, and unknown to the other or open beside it.
    #[test]
    fn broken_never_opens(
        steps in prop::collection::vec(step(NATIVE.len(), FABIO.len(), any::<bool>().boxed()), 1..30),
    ) {
        let first = |lists: &[&[&str]]| lists.iter().position(|tags| *tags == ["fleetgate.path=/a"]);
        let (native_right, fabio_right) = (first(NATIVE), FABIO.iter().position(|tag| *tag == "urlprefix-/f"));
        let (mut native_was, mut fabio_was) = (false, false);
        play(&steps, NATIVE, FABIO, |whole, other, step| {
            if let Step::Register { native, fabio, .. } = step {
                // Of those that are right the first is open.
                native_was |= Some(*native) > native_right;
                fabio_was |= Some(*fabio) > fabio_right;
            }
            let whole = guards(&whole.set.update(&whole.services, whole.now));
            let other = guards(&other.set.update(&other.services, other.now));
            let was_right = |place: &str| if place.starts_with("/f") { fabio_was } else { native_was };
            for (place, guard) in whole.iter().filter(|(place, guard)| **guard != "open" && was_right(place)) {
                let seen = other.get(place).copied();
                assert!(matches!(seen, Some("guarded" | "closed")), "{place} is {guard}, and {seen:?} after {step:?}");
            }
        });
    }

    /// A gateway that saves what it knows answers as if it had never stopped.
    #[test]
    fn a_restart_with_a_saved_state_changes_nothing(
        steps in prop::collection::vec(
            step(NATIVE.len() + MORE_NATIVE.len(), FABIO.len() + MORE_FABIO.len(), Just(true).boxed()),
            1..30,
        ),
    ) {
        let (natives, fabios) = ([NATIVE, MORE_NATIVE].concat(), [FABIO, MORE_FABIO].concat());
        play(&steps, &natives, &fabios, |whole, other, _| {
            let (whole, other) = (whole.told(), other.told());
            assert_eq!(whole, other);
        });
    }
}
