//! The queue of password checks: who goes next when more logins come than the cores can check.
//!
//! A check takes from 5 ms to seconds, so whoever may add to the queue without limit keeps everybody else out. Three rules
//! keep a flood to itself: each client network has a bounded number of places, known names go before unknown ones and
//! networks without a recent wrong password before those with one, and networks take turns.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::exchange::ProxyError;

/// Places of one network for one known name. A client retries one login; it does not need more at once.
const MAX_WAITING_PER_LOGIN: usize = 8;

/// Places of one network for known names.
const MAX_WAITING_PER_NETWORK: usize = 32;

/// Places of one network for names that nobody has, which never turn out right.
const MAX_UNKNOWN_PER_NETWORK: usize = 8;

/// Places of the process. When they are taken, a login of higher rank displaces the newest one of the lowest.
const MAX_WAITING: usize = 512;

/// How long a wrong password lowers the rank of its network.
const SUSPICION: Duration = Duration::from_secs(60);

/// Networks whose turns and mistakes are remembered.
const MAX_NETWORKS: usize = 8192;

/// A login that wants to be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Login {
    /// The client's address, or its network.
    pub(super) network: u64,
    /// A hash of the name.
    pub(super) name: u64,
    /// Whether somebody has that name.
    pub(super) is_known: bool,
}

/// Logins that wait, and how many are being checked.
#[derive(Debug)]
pub(super) struct Queue {
    max_running: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    running: usize,
    /// The number of the next login, and of the next turn.
    next: u64,
    waiting: Vec<Waiting>,
    networks: HashMap<u64, Network>,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    login: Login,
    turn: oneshot::Sender<Turn>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Network {
    /// The turn it had last.
    turn: u64,
    /// When it last had a password wrong.
    failed: Option<Instant>,
}

impl Network {
    fn is_suspect(self, now: Instant) -> bool {
        self.failed.is_some_and(|failed| now.saturating_duration_since(failed) < SUSPICION)
    }
}

/// The right to run one check. The next login has its turn when this is dropped.
#[derive(Debug)]
pub(super) struct Turn(Arc<Queue>);

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.running -= 1;
        let next = self.0.next(&mut state);
        drop(state);
        self.0.start(next);
    }
}

/// Takes a login out of the queue when its client no longer waits.
struct Place<'q> {
    queue: &'q Queue,
    number: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.queue.lock().waiting.retain(|waiting| waiting.number != self.number);
    }
}

impl Queue {
    pub(super) fn new(max_running: usize) -> Self {
        Self { max_running: max_running.max(1), state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// The network has taken its places, or all places are taken by logins that go before this one.
    pub(super) async fn turn(self: &Arc<Self>, login: Login) -> Result<Turn, ProxyError> {
        let full = ProxyError::Overloaded { seconds: 1 };
        let (sender, receiver) = oneshot::channel();
        let (number, next, displaced) = {
            let mut state = self.lock();
            let of_network = |same: fn(&Login, &Login) -> bool| {
                let waiting = state.waiting.iter().map(|waiting| &waiting.login);
                waiting.filter(|other| other.network == login.network && same(other, &login)).count()
            };
            let is_full = if login.is_known {
                of_network(|other, login| other.is_known && other.name == login.name) >= MAX_WAITING_PER_LOGIN
                    || of_network(|other, _| other.is_known) >= MAX_WAITING_PER_NETWORK
            } else {
                of_network(|other, _| !other.is_known) >= MAX_UNKNOWN_PER_NETWORK
            };
            if is_full {
                return Err(full);
            }
            let number = state.count();
            state.waiting.push(Waiting { number, login, turn: sender });
            let displaced = (state.waiting.len() > MAX_WAITING).then(|| state.displace()).flatten();
            let next = self.next(&mut state);
            (number, next, displaced)
        };
        // Whoever waits for it learns that by the end of its channel.
        drop(displaced);
        let _place = Place { queue: self, number };
        self.start(next);
        receiver.await.map_err(|_| full)
    }

    /// Notes whether a login was right.
    pub(super) fn note(&self, login: Login, is_right: bool) {
        let mut state = self.lock();
        let now = Instant::now();
        state.forget(now);
        let network = state.networks.entry(login.network).or_default();
        network.failed = (!is_right).then_some(now);
    }

    /// Takes out the login whose turn it is, if there is room for it.
    fn next(&self, state: &mut State) -> Option<oneshot::Sender<Turn>> {
        if state.running >= self.max_running {
            return None;
        }
        let now = Instant::now();
        let position = (0..state.waiting.len()).min_by_key(|&position| state.rank(&state.waiting[position], now))?;
        let Waiting { login, turn, .. } = state.waiting.remove(position);
        state.running += 1;
        let number = state.count();
        state.forget(now);
        state.networks.entry(login.network).or_default().turn = number;
        Some(turn)
    }

    fn start(self: &Arc<Self>, next: Option<oneshot::Sender<Turn>>) {
        if let Some(turn) = next {
            // Whoever went away gives its turn back by dropping it.
            drop(turn.send(Turn(Arc::clone(self))));
        }
    }
}

impl State {
    fn count(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// What decides whose turn it is: the lowest goes first.
    fn rank(&self, waiting: &Waiting, now: Instant) -> (bool, bool, u64, u64) {
        let network = self.networks.get(&waiting.login.network).copied().unwrap_or_default();
        (!waiting.login.is_known, network.is_suspect(now), network.turn, waiting.number)
    }

    /// Takes out the login that would be checked last, the newest of equals.
    fn displace(&mut self) -> Option<Waiting> {
        let now = Instant::now();
        let last = (0..self.waiting.len()).max_by_key(|&position| self.rank(&self.waiting[position], now))?;
        Some(self.waiting.remove(last))
    }

    /// Forgets networks that no longer matter, where too many are known.
    fn forget(&mut self, now: Instant) {
        if self.networks.len() < MAX_NETWORKS {
            return;
        }
        self.networks.retain(|_, network| network.is_suspect(now));
        if self.networks.len() >= MAX_NETWORKS {
            self.networks.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::task::JoinHandle;

    use super::*;

    const fn known(network: u64, name: u64) -> Login {
        Login { network, name, is_known: true }
    }

    const fn unknown(network: u64, name: u64) -> Login {
        Login { network, name, is_known: false }
    }

    /// A login that waits, in a task of its own that has run until it does.
    async fn waits(queue: &Arc<Queue>, login: Login) -> JoinHandle<Result<Turn, ProxyError>> {
        let queue = Arc::clone(queue);
        let task = tokio::spawn(async move { queue.turn(login).await });
        tokio::task::yield_now().await;
        task
    }

    /// The order in which logins have their turns.
    async fn order(
        queue: &Arc<Queue>,
        running: Turn,
        tasks: Vec<(&'static str, JoinHandle<Result<Turn, ProxyError>>)>,
    ) -> Vec<&'static str> {
        let (mut turn, mut left, mut order) = (running, tasks, Vec::new());
        while !left.is_empty() {
            drop(turn);
            let (done, position, _) = futures_util::future::select_all(left.iter_mut().map(|(_, task)| task)).await;
            turn = done.expect("no panic").expect("a turn");
            order.push(left.remove(position).0);
        }
        assert_eq!(queue.lock().running, 1);
        order
    }

    #[tokio::test]
    async fn known_names_and_networks_without_mistakes_go_first_and_networks_take_turns() {
        let queue = Arc::new(Queue::new(1));
        let running = queue.turn(known(9, 9)).await.expect("a turn");
        queue.note(known(3, 1), false);
        let tasks = vec![
            ("unknown", waits(&queue, unknown(1, 7)).await),
            ("suspect", waits(&queue, known(3, 1)).await),
            ("first of one", waits(&queue, known(1, 1)).await),
            ("second of one", waits(&queue, known(1, 2)).await),
            ("of two", waits(&queue, known(2, 1)).await),
        ];
        let order = order(&queue, running, tasks).await;
        assert_eq!(order, ["first of one", "of two", "second of one", "suspect", "unknown"]);
    }

    #[tokio::test]
    async fn a_network_fills_its_own_places_and_nobody_elses() {
        let queue = Arc::new(Queue::new(1));
        let _running = queue.turn(known(9, 9)).await.expect("a turn");
        let mut tasks = Vec::new();
        for _ in 0..MAX_WAITING_PER_LOGIN {
            tasks.push(waits(&queue, known(1, 1)).await);
        }
        for _ in 0..MAX_UNKNOWN_PER_NETWORK {
            tasks.push(waits(&queue, unknown(1, 1)).await);
        }
        let full = Err(ProxyError::Overloaded { seconds: 1 });
        let refused = |login: Login| queue.turn(login).now_or_never().map(|turn| turn.map(drop));
        assert_eq!(refused(known(1, 1)), Some(full));
        assert_eq!(refused(unknown(1, 2)), Some(full));
        assert_eq!(refused(known(1, 2)), None, "another name of the same network waits");
        assert_eq!(refused(known(2, 1)), None, "the same name of another network waits");
        // Who goes away leaves its place.
        for task in &tasks {
            task.abort();
        }
        for task in tasks {
            assert!(task.await.is_err());
        }
        assert_eq!(queue.lock().waiting.len(), 0);
    }

    #[tokio::test]
    async fn a_full_queue_makes_room_for_those_that_go_first() {
        let queue = Arc::new(Queue::new(1));
        let running = queue.turn(known(0, 0)).await.expect("a turn");
        let mut flood = Vec::new();
        for network in 0..MAX_WAITING as u64 {
            flood.push(waits(&queue, unknown(network + 1, 1)).await);
        }
        let right = waits(&queue, known(1, 1)).await;
        assert_eq!(queue.lock().waiting.len(), MAX_WAITING);
        let last = flood.pop().expect("a login");
        assert_eq!(last.await.expect("no panic").map(drop), Err(ProxyError::Overloaded { seconds: 1 }));
        let one_more = queue.turn(unknown(9999, 1)).now_or_never().map(|turn| turn.map(drop));
        assert_eq!(one_more, Some(Err(ProxyError::Overloaded { seconds: 1 })));
        drop(running);
        assert!(right.await.expect("no panic").is_ok());
    }

    #[tokio::test]
    async fn a_turn_that_nobody_takes_goes_to_the_next() {
        let queue = Arc::new(Queue::new(1));
        let running = queue.turn(known(1, 1)).await.expect("a turn");
        let gone = waits(&queue, known(2, 1)).await;
        let next = waits(&queue, known(3, 1)).await;
        gone.abort();
        drop(running);
        assert!(next.await.expect("no panic").is_ok());
        assert!(gone.await.is_err());
        assert_eq!(queue.lock().running, 0);
    }
}
