//! Changes of a small world, told as lines; what the memory keeps; how it was at a time.

use std::fmt::Write as _;

use tokio::time::Instant;

use super::super::build::Builder;
use super::super::fixture::{World, consul};
use super::super::merge::Affected;
use super::*;
use crate::discovery::state::Origin;
use crate::snapshot::Health;
use crate::spec::endpoint::Penalty;

const DOCUMENT: &str =
    "[upstreams.u]\nconsul = { service = \"u\" }\n[routes.r]\nmatch = { path = \"/r\" }\nupstream = \"u\"\n";

/// Builds one snapshot after another and tells what the history says of each.
struct Told {
    world: World,
    builder: Builder,
    snapshot: Arc<Snapshot>,
    history: Arc<History>,
    after: u64,
}

impl Told {
    fn new() -> Self {
        let index: Box<IndexOf> = Box::new(|provider, _| (provider == ProviderId::Consul).then_some(7));
        let history = History::new(index, CancellationToken::new());
        let after = history.select(&Filter::default(), 1).next;
        let builder = Builder::new(Instant::now());
        Self { world: World::new(), builder, snapshot: Arc::new(Snapshot::empty()), history, after }
    }

    /// A line for each new event.
    fn next(&mut self) -> String {
        self.history.documents(&self.world.states);
        if let Some(next) = self.builder.build(&self.world.merge(), &Affected::All, &self.snapshot, Instant::now()) {
            self.snapshot = Arc::new(next);
        }
        self.history.observe(&self.snapshot);
        self.lines()
    }

    fn lines(&mut self) -> String {
        let page = self.history.select(&Filter { after: Some(self.after), ..Filter::default() }, 1000);
        self.after = page.next;
        let mut text = String::new();
        for event in &page.items {
            let json = serde_json::to_value(&**event).expect("JSON");
            let field = |key: &str| match &json[key] {
                serde_json::Value::Null => String::new(),
                serde_json::Value::String(text) => format!(" {text}"),
                other => format!(" {other}"),
            };
            let names: String = ["provider", "index", "route", "upstream", "endpoint"].map(field).concat();
            let state = |key: &str| json[key]["state"].as_str().unwrap_or("-").to_owned();
            let kind = field("event");
            let states = format!("{} > {}", state("before"), state("after"));
            writeln!(text, "{}{names} [{states}]{}", kind.trim(), field("cause")).expect("text");
        }
        text
    }

    fn flip(&mut self, endpoint: usize, health: Health) {
        let upstream = self.snapshot.upstreams().next().expect("an upstream");
        upstream.endpoints[endpoint].state.set_health(health);
        upstream.endpoints[endpoint]
            .state
            .set_last_failure((health == Health::Unhealthy).then(|| "status 500".to_owned()));
        upstream.state.advance_epoch();
        self.history.observe(&self.snapshot);
    }
}

#[test]
fn every_change_is_told_with_its_cause() {
    let mut told = Told::new();
    let mut text = String::new();
    let mut step = |name: &str, lines: String| write!(text, "# {name}\n{lines}").expect("text");

    told.world.documents(ProviderId::File, DOCUMENT);
    step("documents", told.next());
    told.world.source(&consul("u"), "10.0.0.1:80 version=v1\n10.0.0.2:80");
    step("first read", told.next());
    step("nothing", told.next());
    told.world.source(&consul("u"), "10.0.0.1:80 version=v2 weight=3\n10.0.0.2:80 critical\n10.0.0.3:80");
    step("registrations", told.next());
    Arc::make_mut(&mut told.world.overlay).drain("u", ([10, 0, 0, 1], 80).into());
    step("drain", told.next());
    told.world.overlay = Arc::default();
    told.world.source_of(&consul("u"), "10.0.0.1:80 version=v2 weight=3\n10.0.0.3:80", Origin::Held, &[]);
    step("hold", told.next());
    told.world.source(&consul("u"), "10.0.0.3:80");
    step("deregistered", told.next());
    told.world.source_of(&consul("u"), "10.0.0.3:80", Origin::Live, &["node/x: port 0"]);
    step("bad registration", told.next());
    told.world.documents(ProviderId::File, &DOCUMENT.replace("path = \"/r\"", "path = 7"));
    step("bad edit", told.next());
    told.world.documents(ProviderId::File, &DOCUMENT.replace("\"/r\"", "\"/s\""));
    told.world.source(&consul("u"), "10.0.0.3:80");
    step("good again", told.next());
    told.world.documents(ProviderId::File, "[routes.r]\nmatch = { path = \"/s\" }\nupstream = \"u\"\n");
    step("no upstream", told.next());
    told.world.documents(ProviderId::File, "");
    step("no route", told.next());
    insta::assert_snapshot!(text, @"
# documents
upstream_added file u [- > -] file defines it
route_added file r [- > resolved] file defines it
# first read
upstream_changed file u [- > -] consul:u was read for the first time
endpoint_added consul 7 u 10.0.0.1:80 [- > healthy] the first read of consul:u has it
endpoint_added consul 7 u 10.0.0.2:80 [- > healthy] the first read of consul:u has it
# nothing
# registrations
endpoint_changed consul 7 u 10.0.0.1:80 [healthy > healthy] consul:u gives it weight 3; consul:u gives it other labels
endpoint_changed consul 7 u 10.0.0.2:80 [healthy > unhealthy] consul:u says that a check is critical
endpoint_added consul 7 u 10.0.0.3:80 [- > healthy] consul:u has it
# drain
endpoint_changed consul 7 u 10.0.0.1:80 [healthy > draining] drained by an operator
# hold
hold_began consul 7 u [- > -] consul:u lost some in a way that looks like its own fault: 2 are held
endpoint_changed consul 7 u 10.0.0.1:80 [draining > held] undrained by an operator; consul:u lost it, which is not confirmed: it is held
endpoint_changed consul 7 u 10.0.0.3:80 [healthy > held] consul:u lost it, which is not confirmed: it is held
endpoint_removed consul 7 u 10.0.0.2:80 [unhealthy > -] consul:u has it no more
# deregistered
hold_ended consul 7 u [- > -] consul:u is taken at its word again
endpoint_changed consul 7 u 10.0.0.3:80 [held > healthy] consul:u is taken at its word again
endpoint_removed consul 7 u 10.0.0.1:80 [held > -] consul:u has it no more
# bad registration
item_rejected consul 7 [- > -] consul:u: node/x: port 0
# bad edit
item_rejected file r [- > -] file:4:18: routes.r.match.path: expected a text or a table, found a number; its last good form serves
# good again
item_accepted file r [- > -] it can be used as it is
item_accepted consul 7 [- > -] what was wrong is gone
route_changed file r [- > -] its document in file changed
# no upstream
endpoint_removed file u 10.0.0.3:80 [healthy > -] its upstream is gone
upstream_removed file u [- > -] file defines it no more
route_changed file r [resolved > unresolved] there is no upstream `u`
# no route
route_removed file r [unresolved > -] file defines it no more
");
}

#[test]
fn flips_of_health_are_told_and_an_old_picture_is_not() {
    let mut told = Told::new();
    told.world.documents(ProviderId::File, &format!("{DOCUMENT}[upstreams.u.health_check]\ntcp = true\n"));
    told.world.source(&consul("u"), "10.0.0.1:80\n10.0.0.2:80");
    told.next();
    told.flip(1, Health::Healthy);
    assert_eq!(told.lines(), "", "it was taken for healthy already, on the registry's word");
    told.flip(1, Health::Unhealthy);
    insta::assert_snapshot!(told.lines(), @"
endpoint_changed consul 7 u 10.0.0.2:80 [healthy > unhealthy] active checks fail: status 500
");
    let former = Arc::clone(&told.snapshot);
    told.world.source(&consul("u"), "10.0.0.2:80");
    told.next();
    told.history.observe(&former);
    assert_eq!(told.lines(), "");
    told.flip(0, Health::Healthy);
    insta::assert_snapshot!(told.lines(), @"
endpoint_changed consul 7 u 10.0.0.2:80 [unhealthy > healthy] active checks pass
");
    told.flip(0, Health::Unhealthy);
    told.lines();
    told.world.documents(ProviderId::File, DOCUMENT);
    let lines = told.next();
    assert!(lines.contains("[unhealthy > healthy] nobody checks it any more"), "{lines}");
}

#[test]
fn an_endpoint_that_nobody_vouches_for_waits_for_its_first_check() {
    let mut told = Told::new();
    let checked = "[upstreams.u.health_check]\ntcp = true\n[upstreams.u]\nendpoints = [\"10.0.0.1:80\"]\n";
    told.world.documents(ProviderId::File, checked);
    let lines = told.next();
    assert!(lines.contains("the document of file has it; no active check has answered yet"), "{lines}");
    told.flip(0, Health::Healthy);
    let lines = told.lines();
    assert!(lines.contains("[unhealthy > healthy] its first active check passes"), "{lines}");
}

#[test]
fn the_memory_is_bounded_and_the_oldest_go() {
    let history = History::new(Box::new(|_, _| None), CancellationToken::new());
    let add = |count: usize, length: usize| {
        let changes = (0..count).map(|_| Change::new(What::Command, "x".repeat(length))).collect();
        history.record(&mut history.kept(), changes);
    };
    add(MOST_EVENTS + 5, 1);
    let page = history.select(&Filter::default(), 10);
    assert_eq!((page.items.len(), page.dropped), (10, 5));
    assert_eq!(page.items.last().expect("an event").id, page.next);
    let oldest = history.select(&Filter { after: Some(0), ..Filter::default() }, 3);
    assert!(oldest.more && oldest.next == oldest.items[2].id);
    assert_eq!(oldest.items[0].id, page.next + 1 - MOST_EVENTS as u64);

    add(20, MOST_BYTES / 10);
    let kept = history.kept();
    assert!(kept.bytes <= MOST_BYTES && kept.events.len() == 9, "{} of {} bytes", kept.events.len(), kept.bytes);
    assert_eq!(kept.dropped as usize + kept.events.len(), MOST_EVENTS + 25);
}

#[test]
fn labels_count_too() {
    let mut told = Told::new();
    told.world.documents(ProviderId::File, DOCUMENT);
    told.next();
    for version in 0..6 {
        let long = "x".repeat(MOST_BYTES / 10);
        told.world.source(&consul("u"), &format!("10.0.0.1:80 version={version}{long}"));
        told.next();
    }
    // One that came, and what it was and became five times.
    assert!(told.history.kept().bytes <= MOST_BYTES);
    assert!(told.history.select(&Filter::default(), 100).dropped > 0);
}

#[test]
fn filters_choose() {
    let mut told = Told::new();
    told.world.documents(ProviderId::File, DOCUMENT);
    told.world.source(&consul("u"), "10.0.0.1:80");
    told.next();
    told.history.watches(ProviderId::Consul, [("consul:u".to_owned(), "refused".to_owned())].into());
    told.history.watches(ProviderId::Etcd, [("documents:/".to_owned(), "refused".to_owned())].into());
    let whats = |filter: Filter| -> Vec<What> {
        told.history.select(&filter, 100).items.iter().map(|event| event.change.event).collect()
    };
    let upstream = |name: &str| Filter { upstream: Some(name.to_owned()), ..Filter::default() };
    assert_eq!(whats(upstream("u")), [What::UpstreamAdded, What::EndpointAdded, What::ProviderFailing]);
    assert_eq!(whats(upstream("v")), []);
    assert_eq!(whats(Filter { route: Some("r".to_owned()), ..Filter::default() }), [What::RouteAdded]);
    assert_eq!(whats(Filter { provider: Some(ProviderId::Etcd), ..Filter::default() }), [What::ProviderFailing]);
    let future = SystemTime::now() + Duration::from_secs(60);
    assert_eq!(whats(Filter { since: Some(future), ..Filter::default() }), []);
    assert_eq!(whats(Filter::default()).len(), 5);
}

#[test]
fn how_it_was_is_read_backwards() {
    let mut told = Told::new();
    told.world.documents(ProviderId::File, DOCUMENT);
    told.world.source(&consul("u"), "10.0.0.1:80\n10.0.0.2:80");
    told.next();
    told.world.source(&consul("u"), "10.0.0.1:80\n10.0.0.2:80 critical");
    told.next();
    told.world.source(&consul("u"), "10.0.0.1:80");
    told.next();
    // One event a second, whatever the clock did.
    let start = UNIX_EPOCH + Duration::from_secs(1_000_000);
    for (seconds, event) in (0..).zip(&mut told.history.kept().events) {
        Arc::make_mut(event).time = start + Duration::from_secs(seconds);
    }
    let at = |seconds: u64| -> Vec<String> {
        let past = told.history.at(start + Duration::from_secs(seconds), Some("u"));
        let line = |stood: &Stood| {
            let state = stood.facts.as_ref().map_or("absent", |facts| facts.state.as_str());
            let [cause, then] = [&stood.cause, &stood.then].map(|text| text.as_deref().unwrap_or("-"));
            format!("{} {state}: {cause}; then {then}", stood.address.ip())
        };
        past.items.iter().map(line).collect()
    };
    // 0 is the upstream's, 1 and 2 are its endpoints', 3 the route's, 4 and 5 those of 10.0.0.2.
    assert_eq!(at(0), [""; 0]);
    let first = "the first read of consul:u has it";
    let critical = "consul:u says that a check is critical";
    assert_eq!(at(1), [format!("10.0.0.1 healthy: {first}; then -")]);
    assert_eq!(at(2)[1], format!("10.0.0.2 healthy: {first}; then {critical}"));
    assert_eq!(at(4)[1], format!("10.0.0.2 unhealthy: {critical}; then consul:u has it no more"));
    assert_eq!(at(9)[1], "10.0.0.2 absent: consul:u has it no more; then -");
    assert!(told.history.at(start, Some("v")).items.is_empty());

    // What is forgotten is told by what came after it.
    told.history.kept().events.drain(..5);
    assert_eq!(at(4), ["10.0.0.1 healthy: -; then -", "10.0.0.2 unhealthy: -; then consul:u has it no more"]);
}

#[test]
fn who_flaps_is_told_when_it_waits_and_when_it_is_used_again() {
    let mut told = Told::new();
    told.world.documents(ProviderId::File, DOCUMENT);
    told.world.source(&consul("u"), "10.0.0.1:80\n10.0.0.2:80 critical");
    told.next();
    let penalise = |told: &mut Told, damped: bool| {
        let now = std::time::Instant::now();
        let mut penalty = (0..3).fold(Penalty::none(now), |penalty, _| penalty.after_flap(now));
        penalty.damped = damped;
        let state = Arc::make_mut(told.world.states.get_mut(&ProviderId::Consul).expect("a state"));
        let of_source = BTreeMap::from([("10.0.0.2:80".parse().expect("an address"), penalty)]);
        state.kept.penalties.insert(consul("u"), Arc::new(of_source));
    };
    penalise(&mut told, true);
    assert_eq!(told.next(), "", "it is out anyway");
    told.world.source(&consul("u"), "10.0.0.1:80\n10.0.0.2:80");
    penalise(&mut told, true);
    let line = told.next();
    assert!(
        line.contains("10.0.0.2:80 [unhealthy > ejected] consul:u says that its checks pass; flaps: its"),
        "{line}"
    );
    penalise(&mut told, false);
    let line = told.next();
    assert!(line.contains("10.0.0.2:80 [ejected > healthy] used again: its penalty has decayed"), "{line}");
}

#[test]
fn a_process_knows_nothing_of_what_another_one_saw() {
    let (mut first, ended) = (Told::new(), CancellationToken::new());
    first.history.starts();
    first.world.documents(ProviderId::File, DOCUMENT);
    first.world.source(&consul("u"), "10.0.0.1:80\n10.0.0.2:80");
    first.next();
    first.history.stops();
    let seen = first.history.kept().events.iter().map(|event| Event::clone(event)).collect();
    // The second process read that back, and never saw 10.0.0.2.
    let mut second = Told::new();
    second.history = History::resuming(Former { events: seen, damaged: 3 }, Box::new(|_, _| None), ended);
    second.history.starts();
    second.world.documents(ProviderId::File, DOCUMENT);
    second.world.source(&consul("u"), "10.0.0.1:80");
    second.next();
    let page = second.history.select(&Filter::default(), 1_000);
    assert!(page.items.is_sorted_by(|one, next| one.id < next.id) && page.damaged == 3);
    let start = UNIX_EPOCH + Duration::from_secs(1_000_000);
    for (seconds, event) in (0..).zip(&mut second.history.kept().events) {
        Arc::make_mut(event).time = start + Duration::from_secs(seconds);
    }
    let at = |time: SystemTime| {
        let past = second.history.at(time, Some("u"));
        let then = |stood: &Stood| format!("{} then {}", stood.address, stood.then.as_deref().unwrap_or("-"));
        (past.started_at.is_some(), past.items.iter().map(then).collect::<Vec<_>>())
    };
    let kinds: Vec<What> = second.history.kept().events.iter().map(|event| event.change.event).collect();
    let stop = kinds.iter().position(|kind| *kind == What::GatewayStopped).expect("a stop") as u64;
    let second_of = |number: u64| start + Duration::from_secs(number);
    let both = ["10.0.0.1:80 then the gateway stops", "10.0.0.2:80 then the gateway stops"].map(str::to_owned);
    assert_eq!(at(second_of(stop - 1)), (true, both.to_vec()));
    assert_eq!(at(second_of(stop)), (false, vec![]), "nobody ran");
    assert_eq!(at(second_of(stop + 1)), (true, vec![]), "nothing was read yet");
    assert_eq!(at(SystemTime::now()), (true, vec!["10.0.0.1:80 then -".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn followers_are_woken_bounded_and_sent_home() {
    let ended = CancellationToken::new();
    let history = History::new(Box::new(|_, _| None), ended.clone());
    let after = history.select(&Filter::default(), 1).next;
    let filter = Filter { after: Some(after), ..Filter::default() };
    let follow = |patience| {
        let (history, filter) = (Arc::clone(&history), filter.clone());
        tokio::spawn(async move { history.wait(&filter, 10, Duration::from_secs(patience)).await })
    };
    assert!(follow(1).await.expect("no panic").expect("a page").items.is_empty(), "nothing came");
    let waiting: Vec<_> = (0..MOST_FOLLOWERS).map(|_| follow(60)).collect();
    tokio::task::yield_now().await;
    assert_eq!(follow(60).await.expect("no panic").expect_err("one too many"), TooMany);
    history.record(&mut history.kept(), vec![Change::new(What::Command, "now")]);
    for follower in waiting {
        assert_eq!(follower.await.expect("no panic").expect("a page").items.len(), 1);
    }
    let waiting = {
        let filter = Filter { upstream: Some("u".to_owned()), ..filter };
        let history = Arc::clone(&history);
        tokio::spawn(async move { history.wait(&filter, 10, Duration::from_secs(60)).await })
    };
    ended.cancel();
    assert!(waiting.await.expect("no panic").expect("a page").items.is_empty());
}
