//! Waiting for a condition with a deadline; never for luck.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Returns as soon as `condition` holds; panics after `deadline`, saying `what` was waited for.
#[track_caller]
pub fn until<F, Fut>(deadline: Duration, what: &str, mut condition: F) -> impl Future<Output = ()> + use<F, Fut>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    until_ok(deadline, what, move || {
        let holds = condition();
        async move { holds.await.then_some(()).ok_or("not yet") }
    })
}

/// Returns the first `Ok`; panics after `deadline` with the last `Err`, which says what was seen instead.
#[track_caller]
pub fn until_ok<F, Fut, T, E>(
    deadline: Duration,
    what: &str,
    mut attempt: F,
) -> impl Future<Output = T> + use<F, Fut, T, E>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
    E: Debug,
{
    let what = what.to_owned();
    let caller = std::panic::Location::caller();
    async move {
        let started = Instant::now();
        let mut last = "the attempt itself did not end".to_owned();
        loop {
            // An attempt that hangs must not outlive the deadline.
            let left = deadline.saturating_sub(started.elapsed()).max(LOOK_EVERY);
            match tokio::time::timeout(left, attempt()).await {
                Ok(Ok(value)) => return value,
                Ok(Err(error)) => last = format!("{error:?}"),
                Err(_) => {}
            }
            assert!(started.elapsed() < deadline, "{caller}: waited {deadline:?} for {what}; last: {last}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Checks that `condition` holds all the time for `duration`.
#[track_caller]
pub fn always<F, Fut>(duration: Duration, what: &str, mut condition: F) -> impl Future<Output = ()> + use<F, Fut>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let what = what.to_owned();
    let caller = std::panic::Location::caller();
    async move {
        let started = Instant::now();
        while started.elapsed() < duration {
            let holds = condition().await;
            assert!(holds, "{caller}: after {:?} no longer: {what}", started.elapsed());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
