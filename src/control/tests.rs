//! The loop under paused time: when what a provider publishes goes out.

use std::time::Duration;

use super::command::{Commands, Place};
use super::fixture::{World, consul};
use super::*;

const ROUTES: &str = "[upstreams.u]\nconsul = { service = \"u\" }\n[routes.r]\nmatch = {}\nupstream = \"u\"\n";

struct Running {
    world: World,
    providers: BTreeMap<ProviderId, watch::Sender<Arc<ProviderState>>>,
    wanted: watch::Receiver<Arc<BTreeSet<Source>>>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    commands: Commands,
    accepts: BTreeMap<ProviderId, broadcast::Sender<HeldPart>>,
}

impl Running {
    fn start() -> Self {
        let world = World::new();
        let ends = world.states.iter().map(|(id, state)| (*id, watch::channel(Arc::clone(state))));
        let ends: Vec<_> = ends.collect();
        let providers = ends.iter().map(|(id, (sender, _))| (*id, sender.clone())).collect();
        let (wanted_sender, wanted) = watch::channel(Arc::default());
        let (snapshot_sender, snapshot) = watch::channel(Arc::new(Snapshot::empty()));
        let (commands, orders) = Commands::channel();
        let accepts: BTreeMap<_, _> = ProviderId::ALL.map(|id| (id, broadcast::channel(16).0)).into();
        let control = Control {
            providers: ends.into_iter().map(|(id, (_, receiver))| (id, receiver)).collect(),
            rules: world.rules.clone(),
            prohibitions: Prohibitions::default(),
            fleet: Arc::default(),
            gateways: BTreeSet::new(),
            diagnostics: watch::channel(None).0,
            labels: Default::default(),
            wanted: wanted_sender,
            snapshot: snapshot_sender,
            orders,
            overlay: watch::channel(Arc::default()).0,
            accepts: accepts.clone(),
            history: History::new(Box::new(|_, _| None), CancellationToken::new()),
            wipe_hold: Some(Duration::from_secs(600)),
            damping: true,
            optional: BTreeSet::new(),
            failing: watch::channel(BTreeSet::new()).1,
            saved: BTreeMap::new(),
            shown: watch::channel(None).0,
        };
        // Ends with the test's runtime.
        tokio::spawn(control.run(CancellationToken::new()));
        Self { world, providers, wanted, snapshot, commands, accepts }
    }

    fn publish(&self, id: ProviderId) {
        self.providers[&id].send_replace(Arc::clone(&self.world.states[&id]));
    }

    fn endpoints(&mut self, lines: &str) {
        self.world.source(&consul("u"), lines);
        self.publish(ProviderId::Consul);
    }

    /// Lets everything run that can, without time passing.
    async fn settle(&self) {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    fn served(&self) -> Vec<String> {
        let snapshot = self.snapshot.borrow();
        let endpoints = snapshot.upstreams().flat_map(|upstream| upstream.endpoints.iter());
        endpoints.map(|endpoint| endpoint.address.to_string()).collect()
    }
}

fn fleet(size: usize) -> String {
    (1..=size).map(|host| format!("10.0.0.{host}:80\n")).collect()
}

#[tokio::test(start_paused = true)]
async fn a_first_change_goes_out_at_once_and_wants_its_source() {
    let mut running = Running::start();
    running.settle().await;
    assert_eq!(running.snapshot.borrow().generation, 1);
    let begun = Instant::now();
    running.world.documents(ProviderId::File, ROUTES);
    running.publish(ProviderId::File);
    running.snapshot.wait_for(|snapshot| snapshot.generation == 2).await.expect("control lives");
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(**running.wanted.borrow(), BTreeSet::from([consul("u")]));
}

#[tokio::test(start_paused = true)]
async fn a_burst_coalesces_and_its_last_state_wins() {
    let mut running = Running::start();
    running.world.documents(ProviderId::File, ROUTES);
    running.publish(ProviderId::File);
    running.settle().await;
    let before = running.snapshot.borrow().generation;
    for size in 1..=200 {
        running.endpoints(&fleet(size));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let deadline = Instant::now() + Duration::from_millis(500);
    running
        .snapshot
        .wait_for(|snapshot| snapshot.upstreams().any(|upstream| upstream.endpoints.len() == 200))
        .await
        .expect("control lives");
    assert!(Instant::now() <= deadline);
    let published = running.snapshot.borrow().generation - before;
    assert!((2..=10).contains(&published), "{published} publications for 200 changes in a second");
}

#[tokio::test(start_paused = true)]
async fn what_is_published_together_goes_out_together_even_when_it_is_urgent() {
    let mut running = Running::start();
    let with = |addresses: &str| format!("{ROUTES}[upstreams.s]\nendpoints = [{addresses}]\n");
    running.world.documents(ProviderId::File, &with("\"10.1.0.1:80\", \"10.1.0.2:80\""));
    running.publish(ProviderId::File);
    running.endpoints("10.0.0.1:80");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(running.served().len(), 3);
    // Tags come before the instances they are read of in the order of providers, as files do here.
    running.endpoints("10.0.0.1:80\n10.0.0.2:80");
    running.world.documents(ProviderId::File, &with("\"10.1.0.1:80\""));
    running.publish(ProviderId::File);
    running.snapshot.mark_unchanged();
    running.snapshot.changed().await.expect("control lives");
    let mut served = running.served();
    served.sort();
    assert_eq!(served, ["10.0.0.1:80", "10.0.0.2:80", "10.1.0.1:80"]);
}

#[tokio::test(start_paused = true)]
async fn a_removal_goes_out_at_once_even_in_a_burst() {
    let mut running = Running::start();
    running.world.documents(ProviderId::File, ROUTES);
    running.publish(ProviderId::File);
    for size in 1..=20 {
        running.endpoints(&fleet(size));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    running.endpoints(&fleet(21));
    running.settle().await;
    running.endpoints(&fleet(22));
    running.settle().await;
    let waiting = running.served().len();
    assert!(waiting < 22, "an addition in a burst waits its turn");
    let begun = Instant::now();
    running.endpoints("10.0.0.1:80 critical\n10.0.0.2:80");
    running.settle().await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(running.served(), ["10.0.0.1:80", "10.0.0.2:80"]);
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_source_waits_no_longer_than_its_time() {
    let mut running = Running::start();
    running.world.documents(ProviderId::File, ROUTES);
    running.publish(ProviderId::File);
    running.endpoints(&fleet(2));
    running
        .snapshot
        .wait_for(|snapshot| snapshot.upstreams().any(|upstream| upstream.endpoints.len() == 2))
        .await
        .expect("control lives");
    let begun = Instant::now();
    running.world.documents(ProviderId::File, &ROUTES.replace("service = \"u\"", "service = \"nobody\""));
    running.publish(ProviderId::File);
    running
        .snapshot
        .wait_for(|snapshot| snapshot.upstreams().all(|upstream| upstream.endpoints.is_empty()))
        .await
        .expect("control lives");
    let waited = begun.elapsed();
    assert!((5..=6).contains(&waited.as_secs()), "{waited:?}");
}

fn place(address: &str) -> Place {
    Place { upstream: "u".into(), address: address.parse().expect("an address") }
}

#[tokio::test(start_paused = true)]
async fn a_drain_is_in_force_when_it_is_answered_and_survives_its_endpoint() {
    let mut running = Running::start();
    running.world.documents(ProviderId::File, ROUTES);
    running.publish(ProviderId::File);
    running.endpoints(&fleet(2));
    running.snapshot.wait_for(|snapshot| snapshot.upstreams().any(|it| it.endpoints.len() == 2)).await.expect("lives");
    let usable = |running: &Running| {
        let snapshot = running.snapshot.borrow();
        let upstream = snapshot.upstreams().next().expect("an upstream");
        upstream
            .usable(None)
            .into_iter()
            .map(|at| upstream.endpoints[at as usize].address.to_string())
            .collect::<Vec<_>>()
    };
    let one = place("10.0.0.1:80");
    let give = async |running: &Running, command| running.commands.give(command).await;

    assert!(matches!(give(&running, Command::Undrain(one.clone())).await, Ok(Outcome::Unchanged(_))));
    assert!(matches!(give(&running, Command::Drain(one.clone())).await, Ok(Outcome::Done(_))));
    assert_eq!(usable(&running), ["10.0.0.2:80"]);
    assert!(matches!(give(&running, Command::Drain(one.clone())).await, Ok(Outcome::Unchanged(_))));

    running.endpoints("10.0.0.2:80");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(running.served(), ["10.0.0.2:80"]);
    let remarks = running.snapshot.borrow().report.remarks.clone();
    assert!(remarks.iter().any(|remark| remark.text.contains("10.0.0.1:80 is drained")), "{remarks:?}");
    running.endpoints(&fleet(2));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(running.served().len(), 2);
    assert_eq!(usable(&running), ["10.0.0.2:80"], "registered anew, and drained as before");

    assert!(matches!(give(&running, Command::Undrain(one)).await, Ok(Outcome::Done(_))));
    assert_eq!(usable(&running), ["10.0.0.1:80", "10.0.0.2:80"]);
    for unknown in [place("10.0.0.9:80"), Place { upstream: "nobody".into(), ..place("10.0.0.1:80") }] {
        for command in [Command::Drain(unknown.clone()), Command::Undrain(unknown.clone())] {
            assert!(matches!(give(&running, command).await, Err(Refusal::Unknown(_))), "{unknown}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_says_what_has_no_endpoint_left() {
    let mut running = Running::start();
    running.world.documents(
        ProviderId::File,
        "[upstreams.u]\nconsul = { service = \"u\" }\nsubsets = { old = { version = \"1\" }, new = { version = \"2\" } }",
    );
    running.publish(ProviderId::File);
    running.endpoints("10.0.0.1:80 version=1\n10.0.0.2:80 version=2\n10.0.0.3:80 version=2");
    running.snapshot.wait_for(|snapshot| snapshot.upstreams().any(|it| it.endpoints.len() == 3)).await.expect("lives");
    for (address, left) in [
        ("10.0.0.2:80", ""),
        ("10.0.0.1:80", "; subset `old` of it has no endpoint left that takes traffic"),
        ("10.0.0.3:80", "; upstream `u` has no endpoint left that takes traffic"),
    ] {
        let said = running.commands.give(Command::Drain(place(address))).await;
        assert_eq!(said, Ok(Outcome::Done(format!("{address} of upstream `u` is drained{left}"))));
    }
}

/// Gives the holds of a name as they are told, with the digest of them.
fn acceptance(running: &Running, target: &str) -> (Vec<String>, Command) {
    let snapshot = running.snapshot.borrow();
    let holds: Vec<_> = snapshot.report.holds.iter().filter(|hold| hold.is_named(target)).collect();
    let digest = Some(crate::snapshot::report::digest_of(holds.iter().copied()));
    let told = holds.iter().map(|hold| format!("{} loses {}", hold.id, hold.lost.join(" "))).collect();
    (told, Command::Accept(Acceptance { target: target.into(), digest }))
}

impl Running {
    /// A watch that holds an endpoint of `u`, for this reason.
    fn hold(&mut self, lost: &str, missing_right: Option<&str>) {
        let source = consul("u");
        self.world.source_of(&source, &fleet(2), crate::discovery::state::Origin::Held, &[]);
        let state = Arc::make_mut(self.world.states.get_mut(&ProviderId::Consul).expect("Consul is on"));
        let missing_right = missing_right.map(Into::into);
        let held = crate::spec::hold::Held { lost: vec![lost.to_owned()], why: "in doubt".into(), missing_right };
        state.holds.insert(HeldPart::Endpoints(source), held);
        self.publish(ProviderId::Consul);
    }
}

#[tokio::test(start_paused = true)]
async fn a_hold_is_accepted_by_those_who_hold_as_the_operator_saw_it() {
    let mut running = Running::start();
    running.world.documents(ProviderId::File, ROUTES);
    running.publish(ProviderId::File);
    running.settle().await;
    let (told, accept) = acceptance(&running, "consul");
    assert_eq!(told, [""; 0]);
    assert!(matches!(running.commands.give(accept).await, Ok(Outcome::Unchanged(_))));
    running.hold("10.0.0.1:80", None);
    running.settle().await;
    for target in ["consul", "upstreams/u", "upstreams/u@consul"] {
        let (told, accept) = acceptance(&running, target);
        assert_eq!(told, ["upstreams/u loses 10.0.0.1:80"]);
        assert!(matches!(running.commands.give(accept).await, Err(Refusal::Impossible(_))), "nobody listens");
    }
    for (target, unknown) in
        [("upstreams/nobody", true), ("upstreams/u@etcd", false), ("nobody", true), ("etcd", false)]
    {
        let outcome = running.commands.give(acceptance(&running, target).1).await;
        match outcome {
            Err(Refusal::Unknown(_)) => assert!(unknown, "{target}"),
            Ok(Outcome::Unchanged(_)) => assert!(!unknown, "{target}"),
            other => panic!("{target}: {other:?}"),
        }
    }
    let mut listener = running.accepts[&ProviderId::Consul].subscribe();
    let unseen = Command::Accept(Acceptance { target: "consul".into(), digest: None });
    assert!(matches!(running.commands.give(unseen).await, Err(Refusal::Unseen(_))));
    let (_, seen) = acceptance(&running, "consul");
    // More is lost between the look and the word.
    running.hold("10.0.0.2:80", None);
    assert!(matches!(running.commands.give(seen).await, Err(Refusal::Changed(_))));
    assert!(listener.try_recv().is_err());
    let (told, accept) = acceptance(&running, "upstreams/u");
    assert_eq!(told, ["upstreams/u loses 10.0.0.2:80"]);
    assert!(matches!(running.commands.give(accept).await, Ok(Outcome::Done(_))));
    assert_eq!(listener.try_recv().ok(), Some(HeldPart::Endpoints(consul("u"))));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_accepted_or_offered_while_a_right_is_missing() {
    let mut running = Running::start();
    running.world.documents(ProviderId::File, ROUTES);
    running.publish(ProviderId::File);
    let mut listener = running.accepts[&ProviderId::Consul].subscribe();
    running.hold("10.0.0.1:80", Some("the token may not read the service `u`"));
    running.settle().await;
    let offered = |running: &Running| {
        let snapshot = running.snapshot.borrow();
        snapshot.report.held.iter().any(|(_, problem)| problem.text.contains("fleetgate accept"))
    };
    assert!(!offered(&running));
    let (_, accept) = acceptance(&running, "consul");
    match running.commands.give(accept.clone()).await {
        Err(Refusal::Impossible(text)) => assert!(text.contains("may not read the service `u`"), "{text}"),
        other => panic!("{other:?}"),
    }
    assert!(listener.try_recv().is_err());
    running.hold("10.0.0.1:80", None);
    running.settle().await;
    assert!(offered(&running));
    assert!(matches!(running.commands.give(accept).await, Err(Refusal::Changed(_))), "what was refused is another set");
    assert!(matches!(running.commands.give(acceptance(&running, "consul").1).await, Ok(Outcome::Done(_))));
}
