use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use tokio::net::TcpListener;

use super::*;
use crate::snapshot::Endpoint;
use crate::spec::endpoint::RegistryStatus;
use crate::spec::name::ProviderId;
use crate::spec::upstream::{Probe, UpstreamSettings};
use crate::telemetry::descriptors::Division;

fn descriptors() -> Arc<Descriptors> {
    Descriptors::new(Division::of(1024, 0), 0)
}

fn tcp(interval: Duration) -> HealthCheck {
    HealthCheck {
        probe: Probe::Tcp,
        interval,
        timeout: Duration::from_secs(10),
        healthy_threshold: 2,
        unhealthy_threshold: 3,
    }
}

fn upstream(states: &[Arc<EndpointState>], weight: u16, check: Option<HealthCheck>) -> Upstream {
    let endpoint = |state: &Arc<EndpointState>| Endpoint {
        address: state.address(),
        host: None,
        weight,
        labels: Arc::default(),
        status: RegistryStatus::Unchecked,
        held: false,
        drained: false,
        prohibited: None,
        penalty: None,
        priority: 0,
        state: Arc::clone(state),
    };
    Upstream {
        name: "users".parse().expect("a name"),
        label: "users".into(),
        provider: ProviderId::File,
        sources: Arc::default(),
        settings: Arc::new(UpstreamSettings { health_check: check, ..UpstreamSettings::default() }),
        endpoints: states.iter().map(endpoint).collect(),
        fallback: None,
        affinity: Arc::default(),
        known: true,
        state: Arc::default(),
    }
}

fn snapshot(upstream: Upstream) -> Arc<Snapshot> {
    Arc::new(Snapshot { upstreams: Arc::from([Some(Arc::new(upstream))]), ..Snapshot::empty() })
}

fn subject(check: HealthCheck) -> Subject {
    let state = Arc::new(EndpointState::new(([127, 0, 0, 1], 1).into()));
    let upstream = upstream(&[state], 1, None);
    Subject::new(&upstream, &upstream.endpoints[0], &check, &Arc::default(), &descriptors())
}

/// Runs checks whose answers are `answers`, one each, for as long as there are some; when each was asked.
async fn script(subject: &Subject, answers: &[Result<(), &str>]) -> Vec<Duration> {
    let began = Instant::now();
    let asked = Mutex::new(Vec::new());
    let (done, mut ended) = watch::channel(());
    let checks = subject.check_again_and_again(Arc::new(Semaphore::new(1)), async |_| {
        let place = {
            let mut asked = asked.lock().expect("the list");
            asked.push(began.elapsed());
            asked.len() - 1
        };
        match answers.get(place) {
            Some(answer) => answer.map_err(|text| CheckError::Failed(text.to_owned())),
            None => {
                done.send_replace(());
                std::future::pending().await
            }
        }
    });
    tokio::select! {
        () = checks => {}
        _ = ended.changed() => {}
    }
    asked.into_inner().expect("the list")
}

#[tokio::test(start_paused = true)]
async fn checks_come_at_once_and_then_at_the_interval_with_jitter() {
    let subject = subject(tcp(Duration::from_secs(5)));
    let asked = script(&subject, &[Ok(()); 50]).await;
    assert_eq!(asked[0], Duration::ZERO);
    let gaps: Vec<Duration> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // A timer of tokio's rounds up to the next millisecond.
    let (least, most) = (Duration::from_millis(4_500), Duration::from_millis(5_501));
    assert!(gaps.iter().all(|gap| (least..=most).contains(gap)), "{gaps:?}");
    assert!(gaps.iter().any(|gap| *gap != gaps[0]), "no jitter: {gaps:?}");
}

#[tokio::test(start_paused = true)]
async fn a_flip_is_written_with_its_reason_and_moves_the_epoch() {
    let subject = subject(tcp(Duration::from_secs(5)));
    let found =
        |subject: &Subject| (subject.state.health(), subject.state.last_failure(), subject.upstream_state.epoch());
    script(&subject, &[Ok(())]).await;
    assert_eq!(found(&subject), (Health::Healthy, None, 1));
    script(&subject, &[Err("a"), Err("b")]).await;
    assert_eq!(found(&subject), (Health::Healthy, Some("b".to_owned()), 1));
    script(&subject, &[Err("a"), Err("b"), Err("c")]).await;
    assert_eq!(found(&subject), (Health::Unhealthy, Some("c".to_owned()), 2));
    script(&subject, &[Ok(())]).await;
    assert_eq!(found(&subject), (Health::Unhealthy, Some("c".to_owned()), 2));
    script(&subject, &[Ok(()), Ok(())]).await;
    assert_eq!(found(&subject), (Health::Healthy, None, 3));
}

#[tokio::test(start_paused = true)]
async fn a_check_waits_for_a_permit_before_its_time_runs() {
    let subject = subject(tcp(Duration::from_secs(5)));
    let permits = Arc::new(Semaphore::new(1));
    let held = Arc::clone(&permits).acquire_owned().await.expect("a permit");
    let asked = AtomicU32::new(0);
    let checks = subject.check_again_and_again(permits, async |_| {
        asked.fetch_add(1, Relaxed);
        Ok(())
    });
    tokio::pin!(checks);
    tokio::select! {
        () = &mut checks => {}
        () = sleep(Duration::from_secs(60)) => {}
    }
    assert_eq!(asked.load(Relaxed), 0);
    drop(held);
    tokio::select! {
        () = &mut checks => {}
        () = sleep(Duration::from_secs(1)) => {}
    }
    assert_eq!(asked.load(Relaxed), 1);
}

#[tokio::test]
async fn a_reload_that_leaves_the_check_alone_leaves_its_task_alone() {
    let state = Arc::new(EndpointState::new(([127, 0, 0, 1], 1).into()));
    let other = Arc::new(EndpointState::new(([127, 0, 0, 1], 2).into()));
    let check = tcp(Duration::from_secs(3600));
    let mut prober = Prober::new(&descriptors());
    let task = |prober: &Prober, state| prober.checks.get(&(Arc::as_ptr(state) as usize)).map(|it| it.task.id());

    prober.adopt(&snapshot(upstream(&[Arc::clone(&state), Arc::clone(&other)], 1, Some(check.clone()))));
    let first = task(&prober, &state);
    assert!(first.is_some() && task(&prober, &other).is_some());

    prober.adopt(&snapshot(upstream(&[Arc::clone(&state)], 7, Some(check.clone()))));
    assert_eq!(task(&prober, &state), first, "the weight is no business of the check");
    assert_eq!(task(&prober, &other), None, "the endpoint is gone");

    state.set_health(Health::Unhealthy);
    let changed = HealthCheck { unhealthy_threshold: 1, ..check };
    prober.adopt(&snapshot(upstream(&[Arc::clone(&state)], 7, Some(changed))));
    assert_ne!(task(&prober, &state), first, "a changed check begins anew");
    assert_eq!(state.health(), Health::Unhealthy, "and keeps what is known");

    prober.adopt(&snapshot(upstream(&[Arc::clone(&state)], 7, None)));
    assert_eq!((task(&prober, &state), state.health()), (None, Health::Unknown), "no check, no verdict");
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waited = async {
        while !condition() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waited).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn endpoints_are_found_unhealthy_and_healthy_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let state = Arc::new(EndpointState::new(address));
    let check = tcp(Duration::from_millis(5));
    let (publish, snapshots) = watch::channel(Arc::new(Snapshot::empty()));
    let shutdown = CancellationToken::new();
    let prober = tokio::spawn(Prober::new(&descriptors()).run(snapshots, shutdown.clone()));
    publish.send_replace(snapshot(upstream(&[Arc::clone(&state)], 1, Some(check))));
    until("healthy", || state.health() == Health::Healthy).await;
    drop(listener);
    until("unhealthy", || state.health() == Health::Unhealthy).await;
    assert!(state.last_failure().is_some_and(|failure| failure.contains("refused")));
    let _listener = TcpListener::bind(address).await.expect("the same port");
    until("healthy again", || state.health() == Health::Healthy).await;
    shutdown.cancel();
    prober.await.expect("to end");
    until("no task holds the state", || Arc::strong_count(&state) == 2).await;
}

#[tokio::test(start_paused = true)]
async fn many_new_endpoints_are_not_asked_all_at_once() {
    let addresses = (0..1_000u16).map(|port| SocketAddr::from(([127, 0, 0, 1], port + 1)));
    let places: Vec<f64> = addresses.map(place).collect();
    assert!(places.iter().all(|place| (0.0..=1.0).contains(place)));
    for tenth in 0..10 {
        let within = places.iter().filter(|place| (**place * 10.0) as i32 == tenth).count();
        assert!((50..=150).contains(&within), "{within} of 1000 in tenth {tenth}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_that_cannot_be_made_changes_nothing_and_is_told() {
    let subject = subject(tcp(Duration::from_secs(5)));
    script(&subject, &[Ok(())]).await;
    let mut threshold = Threshold::new(2, 3);
    for _ in 0..10 {
        subject.note(&mut threshold, Err(CheckError::Unmade("connect: Too many open files".to_owned())));
    }
    assert_eq!((subject.state.health(), subject.upstream_state.epoch()), (Health::Healthy, 1));
    assert_eq!(subject.state.unmade_check().as_deref(), Some("connect: Too many open files"));
    // Nor does it come between failures in a row.
    for _ in 0..3 {
        subject.note(&mut threshold, Err(CheckError::Unmade(String::new())));
        subject.note(&mut threshold, Err(CheckError::Failed("refused".to_owned())));
    }
    assert_eq!((subject.state.health(), subject.state.unmade_check()), (Health::Unhealthy, None));
}
