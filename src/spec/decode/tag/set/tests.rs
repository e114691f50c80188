use super::super::native::tests::instance;
use super::*;
use crate::spec::endpoint::RegistryStatus;

mod broken;
mod typos;

const TTL: Duration = Duration::from_secs(60);

struct World {
    set: TagSet,
    services: BTreeMap<Arc<str>, Option<Arc<[EndpointSpec]>>>,
    began: Instant,
    now: Instant,
}

impl World {
    fn new(bounds: Bounds) -> Self {
        let rules = Rules { native: true, fabio: true, bounds, ttl: TTL };
        let now = Instant::now();
        let set = TagSet::new(rules).dated(now, 1_000_000);
        Self { set, services: BTreeMap::new(), began: now, now }
    }

    /// What the next process makes of the same services.
    fn restarted(&self, saved: bool) -> Self {
        let millis = u64::try_from((self.now - self.began).as_millis()).expect("a short time");
        let mut set = TagSet::new(self.set.rules.clone()).dated(self.now, 1_000_000 + millis);
        if saved {
            let text = serde_json::to_string(&self.set.forms()).expect("JSON");
            set = set.remembering(&serde_json::from_str(&text).expect("forms"));
        }
        Self { set, services: self.services.clone(), ..*self }
    }

    fn update(&mut self, service: &str, endpoints: &[EndpointSpec]) -> String {
        self.services.insert(service.into(), Some(endpoints.into()));
        self.told()
    }

    fn told(&mut self) -> String {
        let documents = self.set.update(&self.services, self.now);
        let mut lines = Vec::new();
        for (name, item) in &documents.routes {
            let spec = item.good.as_ref().expect("a route without a form is left out");
            let targets: Vec<String> = spec.targets.iter().map(target).collect();
            let hosts: Vec<String> = spec.matching.hosts.iter().map(ToString::to_string).collect();
            lines.push(format!("{name}: {}{:?} to {}", hosts.join(","), spec.matching.path, targets.join(", ")));
            let Registered { yields: _, since: _, broken, remarks } = &spec.registered;
            lines.extend(broken.iter().map(|text| format!("  broken {text}")));
            lines.extend(remarks.iter().map(|text| format!("  remark {text}")));
            lines.extend(item.problems.iter().map(|problem| format!("  problem {problem}")));
        }
        for (name, item) in &documents.upstreams {
            let spec = item.good.as_ref().expect("an upstream");
            let subsets: Vec<String> =
                spec.settings.subsets.values().map(|labels| format!("{:?}", labels.keys())).collect();
            lines.push(format!("upstream {name} {}", subsets.join(" ")).trim_end().to_owned());
            lines.extend(item.problems.iter().map(|problem| format!("  problem {problem}")));
        }
        lines.extend(documents.rejected.iter().map(|problem| format!("rejected {problem}")));
        lines.join("\n")
    }
}

fn target(target: &TargetSpec) -> String {
    let Choice::Weight(weight) = target.choice else { panic!("by weight") };
    let strip = target.steps.as_ref().and_then(|steps| steps.strip_prefix.clone());
    let strip = strip.as_ref().map_or("", |strip| strip.as_str());
    format!("{} {weight} {strip}", target.label()).trim_end().to_owned()
}

fn with(mut endpoint: EndpointSpec, status: RegistryStatus) -> EndpointSpec {
    endpoint.status = status;
    endpoint
}

#[test]
fn a_service_makes_routes_and_an_upstream() {
    let mut world = World::new(Bounds::default());
    let told = world
        .update("Users", &[instance("a", 1, &["tag:fleetgate.path=/users", "tag:fleetgate.routes.api.host=a.com"])]);
    assert_eq!(told, "users: Prefix(\"/users\") to users 1\nusers.api: a.comPrefix(\"\") to users 1\nupstream users");
    assert_eq!(world.update("other", &[instance("b", 1, &["tag:x"])]), told, "who asks for nothing gets nothing");
}

#[test]
fn each_instance_gets_what_it_asks_for_and_the_conflict_is_shown() {
    let mut world = World::new(Bounds::default());
    let old = instance("old", 1, &["tag:fleetgate.path=/a"]);
    let new = instance("new", 2, &["tag:fleetgate.path=/b"]);
    let sick = with(new.clone(), RegistryStatus::Critical);
    let told = world.update("s", &[old.clone(), sick]);
    assert!(told.starts_with("s: Prefix(\"/a\")"), "the name is not the new one's before it may take traffic: {told}");
    let subset = |endpoint: &EndpointSpec| format!("ask-{}", native::ask(&endpoint.labels).expect("it asks"));
    let (of_old, of_new) = (subset(&old), subset(&new));
    let told = world.update("s", &[old.clone(), new.clone()]);
    let remark =
        "  remark conflict: instances ask for different hosts or paths; 1 of 2 ask for this, and get its requests";
    assert!(told.starts_with(&format!("s: Prefix(\"/b\") to s@consul-tags/{of_new} 1\n{remark}\n")), "{told}");
    assert!(told.contains(&format!(": Prefix(\"/a\") to s@consul-tags/{of_old} 1\n{remark}\n")), "{told}");
    assert_eq!(world.update("s", &[new]), "s: Prefix(\"/b\") to s 1\nupstream s");
}

/// As Nomad's canaries: other tags on one of three.
#[test]
fn a_canary_takes_its_own_host_and_no_other() {
    let mut world = World::new(Bounds::default());
    let app = |id, modified| instance(id, modified, &["tag:fleetgate.host=app.test"]);
    let canary = instance("c", 9, &["tag:fleetgate.host=canary.app.test"]);
    let (first, second) = (app("a", 1), app("b", 2));
    let subset = |endpoint: &EndpointSpec| format!("ask-{}", native::ask(&endpoint.labels).expect("it asks"));
    let told = world.update("app", &[first.clone(), second.clone(), canary.clone()]);
    assert!(told.contains(&format!("app: app.testPrefix(\"\") to app@consul-tags/{} 1\n", subset(&first))), "{told}");
    assert!(
        told.contains(&format!(": canary.app.testPrefix(\"\") to app@consul-tags/{} 1\n", subset(&canary))),
        "{told}"
    );
    // By a name of its own beside the service's host.
    let both = instance("c", 9, &["tag:fleetgate.host=app.test", "tag:fleetgate.routes.canary.host=canary.app.test"]);
    let told = world.update("app", &[first.clone(), second.clone(), both.clone()]);
    assert!(told.starts_with("app: app.testPrefix(\"\") to app 1\n"), "all ask for it: {told}");
    let canary_alone = format!("app.canary: canary.app.testPrefix(\"\") to app@consul-tags/{} 1\n", subset(&both));
    assert!(told.contains(&canary_alone), "{told}");
    // One that asks for nothing gets nothing.
    let told = world.update("app", &[first.clone(), second, instance("d", 10, &["tag:x"])]);
    assert!(
        told.starts_with(&format!("app: app.testPrefix(\"\") to app@consul-tags/{} 1\n", subset(&first))),
        "{told}"
    );
}

#[test]
fn instances_with_other_steps_keep_their_own() {
    let mut world = World::new(Bounds::default());
    let old = instance("old", 1, &["tag:fleetgate.path=/a"]);
    let new = instance("new", 2, &["tag:fleetgate.path=/a", "tag:fleetgate.strip_prefix=/a"]);
    let told = world.update("s", &[old, new]);
    let line = told.lines().next().expect("a route");
    assert!(line.starts_with("s: Prefix(\"/a\") to s@consul-tags/ask-"), "{told}");
    assert_eq!(line.matches(" 1").count(), 2, "{told}");
    assert_eq!(line.matches("1 /a").count(), 1, "{told}");
}

#[test]
fn a_strip_that_never_applies_is_reported() {
    let mut world = World::new(Bounds::default());
    let told = world.update("s", &[instance("a", 1, &["tag:fleetgate.path=/a", "tag:fleetgate.strip_prefix=/b"])]);
    assert!(told.contains("problem consul:s: `strip_prefix=/b` never applies"), "{told}");
}

#[test]
fn a_bad_tag_keeps_the_last_good_form_of_its_route_alone() {
    let mut world = World::new(Bounds::default());
    world.update("s", &[instance("a", 1, &["tag:fleetgate.path=/a", "tag:fleetgate.routes.b.path=/b"])]);
    assert_eq!(
        world.update("s", &[instance("a", 2, &["tag:fleetgate.path=a", "tag:fleetgate.routes.b.path=/c"])]),
        "s: Prefix(\"/a\") to s 1\n  problem consul:s: a: `path`: `a`: a path begins with `/`\n\
         s.b: Prefix(\"/c\") to s 1\nupstream s"
    );
    assert_eq!(
        World::new(Bounds::default()).update("s", &[instance("a", 2, &["tag:fleetgate.path=a"])]),
        "upstream s\nrejected consul:s: a: `path`: `a`: a path begins with `/`"
    );
}

#[test]
fn routes_outlive_their_last_instance_for_a_while() {
    let mut world = World::new(Bounds::default());
    world.update("s", &[instance("a", 1, &["tag:fleetgate.path=/a", "tag:urlprefix-/f"])]);
    let outlived = "s: Prefix(\"/a\") to s 1\n  remark its last instance is gone; the route stays for 1m after it\n\
                    urlprefix--f-ef0cf1ef: Start(\"/f\") to s 1\n  \
                    remark its last instance is gone; the route stays for 1m after it\nupstream s";
    let outlived = outlived.replace("urlprefix--f-ef0cf1ef", Name::derived("urlprefix-/f").as_str());
    assert_eq!(world.update("s", &[]), outlived);
    world.now += TTL - Duration::from_secs(1);
    assert_eq!(world.told(), outlived);
    assert_eq!(world.set.ends_at(), Some(world.now + Duration::from_secs(1)));
    world.now += Duration::from_secs(1);
    assert_eq!(world.told(), "");
    assert_eq!(world.set.services().count(), 0);
}

#[test]
fn what_was_not_read_stays_as_it_was_and_nothing_changes_without_cause() {
    let mut world = World::new(Bounds::default());
    let told = world.update("s", &[instance("a", 1, &["tag:fleetgate.path=/a"])]);
    let before = world.set.update(&world.services, world.now);
    world.services.insert("s".into(), None);
    assert_eq!(world.told(), told);
    let after = world.set.update(&world.services, world.now);
    let good = |documents: &Documents| documents.routes["s"].good.clone().expect("a route");
    assert!(Arc::ptr_eq(&good(&before), &good(&after)));
}

#[test]
fn routes_of_one_fabio_prefix_share_it_by_fabios_weights() {
    let mut world = World::new(Bounds::default());
    let name = Name::derived("urlprefix-/a");
    world.update("x", &[instance("1", 1, &["tag:urlprefix-/a"]), instance("2", 2, &["tag:urlprefix-/a"])]);
    let told = world.update("y", &[instance("1", 3, &["tag:urlprefix-/a"])]);
    assert_eq!(told, format!("{name}: Start(\"/a\") to x 2, y 1\nupstream x\nupstream y"), "by instance");
    let told = world.update("y", &[instance("1", 3, &["tag:urlprefix-/a weight=0.1"])]);
    assert!(told.starts_with(&format!("{name}: Start(\"/a\") to x 900000, y 100000\n")), "{told}");
    // Two versions of one service, each with its own options.
    world.services.remove("y");
    let strip = "urlprefix-/a strip=/a";
    let told =
        world.update("x", &[instance("1", 1, &["tag:urlprefix-/a"]), instance("2", 2, &[&format!("tag:{strip}")])]);
    let (plain, stripped) = (Name::derived("urlprefix-/a"), Name::derived(strip));
    assert_eq!(
        told,
        format!(
            "{name}: Start(\"/a\") to x@consul-tags/{plain} 1, x@consul-tags/{stripped} 1 /a\n  \
             remark instances of `x` ask for different options: each has its own\n\
             upstream x [\"tag.urlprefix-/a\"] [\"tag.{strip}\"]"
        )
    );
}

#[test]
fn fabio_parts_that_cannot_be_served_get_nothing() {
    let mut world = World::new(Bounds::default());
    let name = Name::derived("urlprefix-/a");
    let why = "`x`: `auth=b`: authentication is not available; it is never served without";
    let told = world.update("x", &[instance("1", 1, &["tag:urlprefix-/a auth=b"])]);
    assert_eq!(told, format!("{name}: Start(\"/a\") to x 1\n  broken {why}\nupstream x"));
    let told = world.update("y", &[instance("1", 1, &["tag:urlprefix-/a"])]);
    assert_eq!(told, format!("{name}: Start(\"/a\") to y 1\n  remark {why}\nupstream x\nupstream y"));
}

#[test]
fn a_bad_option_keeps_the_last_good_ones() {
    let mut world = World::new(Bounds::default());
    let name = Name::derived("urlprefix-/a");
    world.update("x", &[instance("1", 1, &["tag:urlprefix-/a strip=/a"])]);
    assert_eq!(
        world.update("x", &[instance("1", 2, &["tag:urlprefix-/a strip=a"])]),
        format!(
            "{name}: Start(\"/a\") to x 1 /a\n  \
             problem consul:x: 1: `urlprefix-/a strip=a`: `strip=a`: `a`: a path begins with `/`\nupstream x"
        )
    );
}

#[test]
fn an_option_that_looks_like_one_of_access_never_opens_its_route() {
    let mut world = World::new(Bounds::default());
    let name = Name::derived("urlprefix-/a");
    let closed = |told: &str, tag: &str| {
        assert!(told.starts_with(&format!("{name}: Start(\"/a\") to x 1\n  broken `x`: `{tag}`")), "{told}");
        assert!(told.contains("problem consul:x: 1: "), "{told}");
    };
    let tag = "urlprefix-/a alow=ip:10.0.0.1";
    closed(&world.update("x", &[instance("1", 1, &[&format!("tag:{tag}")])]), tag);
    let open = world.update("x", &[instance("1", 2, &["tag:urlprefix-/a"])]);
    assert!(!open.contains("broken"), "{open}");
    closed(&world.update("x", &[instance("1", 3, &[&format!("tag:{tag}")])]), tag);
    world.update("x", &[instance("1", 4, &["tag:urlprefix-/a allow=ip:10.0.0.1"])]);
    let guarded = world.update("x", &[instance("1", 5, &["tag:urlprefix-/a allow=ip:10.0.0.300"])]);
    assert!(!guarded.contains("broken") && guarded.contains("problem consul:x"), "the last good form: {guarded}");
}

#[test]
fn ignored_options_are_reported_and_the_route_is_served() {
    let mut world = World::new(Bounds::default());
    let told = world.update("x", &[instance("1", 1, &["tag:urlprefix-/a strp=/a"])]);
    let name = Name::derived("urlprefix-/a");
    assert_eq!(
        told,
        format!(
            "{name}: Start(\"/a\") to x 1\nupstream x\n  problem consul:x: 1: `urlprefix-/a strp=/a`: `strp=/a`: unknown \
             option, ignored; did you mean `strip`?"
        )
    );
}

#[test]
fn endpoints_of_https_have_an_upstream_of_their_own() {
    let mut world = World::new(Bounds::default());
    let tags = ["tag:urlprefix-/a proto=https tlsskipverify=true host=a.com", "tag:urlprefix-/b"];
    let told = world.update("x", &[instance("1", 1, &tags)]);
    let (a, b) = (Name::derived("urlprefix-/a"), Name::derived("urlprefix-/b"));
    let secure = Name::derived("x-https-a.com-unverified");
    let routes = format!("{a}: Start(\"/a\") to {secure}@consul-tags 1\n{b}: Start(\"/b\") to x 1");
    assert_eq!(told, format!("{routes}\nupstream x\nupstream {secure}"));
}

#[test]
fn claims_beyond_the_bounds_are_refused() {
    let mut bounds = Bounds::default();
    bounds.add_host("*.example.com").expect("a host");
    let mut world = World::new(bounds);
    let told = world.update(
        "s",
        &[instance(
            "a",
            1,
            &["tag:fleetgate.host=bank.org", "tag:fleetgate.routes.ok.host=a.example.com", "tag:urlprefix-/x"],
        )],
    );
    assert_eq!(
        told,
        "s.ok: a.example.comPrefix(\"\") to s 1\nupstream s\n  problem consul:s: a: `urlprefix-/x`: claims every host, and \
         `discovery.consul.tag_hosts` does not allow that: name a host\nrejected consul:s: a: claims the host `bank.org`, \
         which `discovery.consul.tag_hosts` does not allow"
    );
}
