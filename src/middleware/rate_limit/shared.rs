//! Defines a limit that all gateways keep together: requests are decided on at once, and a task settles with the fleet's
//! ledger what they used.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use http::Request;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};

use super::account::{Account, Taken, Terms};
use super::gcra::Gcra;
use super::table::Table;
use super::{By, Told, key, limit, nanoseconds};
use crate::exchange::Exchange;
use crate::middleware::fleet::{Fleet, Ledger, Limit};
use crate::middleware::{Surroundings, Trouble};
use crate::spec::middleware::limit::{ALONE, Without};

/// Between two questions about a key, unless it is urgent.
const PERIOD: Duration = Duration::from_millis(100);

/// Between two exchanges, however urgent they are.
const SOONEST: Duration = Duration::from_millis(2);

/// Keys of one exchange; others wait for the next.
const AT_ONCE: usize = 4096;

/// The keys of a limit.
#[derive(Debug)]
pub(super) struct Shared {
    name: Arc<str>,
    parts: Vec<limit::LimitKey>,
    max_keys: u32,
    fleet: Arc<Fleet>,
    table: Table<Account>,
    /// Chooses places, so that nobody else can.
    secret: RandomState,
    /// For the task.
    numbers: Mutex<(Gcra, Without)>,
    /// Keys with a question.
    listed: Mutex<Vec<u128>>,
    some: Notify,
    urgent: Notify,
}

impl Shared {
    pub(super) fn start(spec: &limit::RateLimit, gcra: Gcra, without: Without, around: &Surroundings<'_>) -> Arc<Self> {
        let shared = Arc::new(Self {
            name: Arc::clone(around.label),
            parts: spec.key.clone(),
            max_keys: spec.max_keys,
            fleet: Arc::clone(around.fleet),
            table: Table::new(spec.max_keys),
            secret: RandomState::new(),
            numbers: Mutex::new((gcra, without)),
            listed: Mutex::default(),
            some: Notify::new(),
            urgent: Notify::new(),
        });
        // Where there is no runtime, nobody serves.
        if let (Some(ledger), Ok(runtime)) = (shared.fleet.ledger(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(settle(Arc::downgrade(&shared), Arc::clone(ledger)));
        }
        shared
    }

    /// Takes other numbers, if its keys serve for this spec, too.
    pub(super) fn goes_on(&self, spec: &limit::RateLimit, gcra: Gcra, without: Without) -> bool {
        let same = self.parts == spec.key && self.max_keys == spec.max_keys;
        if same {
            *lock(&self.numbers) = (gcra, without);
        }
        same
    }

    /// A request comes.
    pub(super) fn take<B>(
        &self,
        (gcra, without): (Gcra, Without),
        request: &Request<B>,
        exchange: &dyn Exchange,
        now: u64,
    ) -> (Told, By) {
        let key = key::of_fleet(&self.parts, request, exchange);
        let terms = self.terms(gcra, without);
        let taken = self.table.with(self.hash(key), key, now, |account, own| account.take(terms, own, now));
        let Taken { told, by, listed, urgent } = taken;
        if listed {
            lock(&self.listed).push(key);
            self.some.notify_one();
        }
        if urgent {
            self.urgent.notify_one();
        }
        (told, by)
    }

    /// What keeps it from being a limit of the fleet.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.fleet.is_alone().then(|| Trouble { text: ALONE.to_owned(), refuses: false })
    }

    fn terms(&self, gcra: Gcra, without: Without) -> Terms {
        // Without a ledger there is nothing else to be had.
        let ledger = self.fleet.ledger();
        let without = if ledger.is_some() { without } else { Without::Share };
        Terms { gcra, without, gateways: self.fleet.gateways(), session: ledger.map_or(0, |ledger| ledger.session()) }
    }

    fn hash(&self, key: u128) -> u64 {
        self.secret.hash_one(key)
    }

    /// Asks the ledger about the keys that are listed; some at most.
    async fn settle(&self, ledger: &dyn Ledger) {
        let (gcra, without) = *lock(&self.numbers);
        let terms = self.terms(gcra, without);
        if terms.session == 0 {
            // Nobody answers: whoever comes again asks again, and who does not makes room.
            for key in std::mem::take(&mut *lock(&self.listed)) {
                self.table.find(self.hash(key), key, Account::asks_no_more).unwrap_or_default();
            }
            return;
        }
        let listed: Vec<u128> = {
            let mut listed = lock(&self.listed);
            // The oldest come first.
            let most = listed.len().min(AT_ONCE);
            let rest = listed.split_off(most);
            std::mem::replace(&mut *listed, rest)
        };
        let now = nanoseconds();
        let ask = |key: &u128| self.table.find(self.hash(*key), *key, |account| account.ask(terms, now)).flatten();
        let asks: Vec<_> = listed.iter().filter_map(ask).collect();
        let limit = Limit { name: Arc::clone(&self.name), interval: terms.gcra.interval(), burst: terms.gcra.most() };
        if !asks.is_empty() {
            let answers = ledger.settle(&limit, &asks).await;
            let (now, mut answers) = (nanoseconds(), answers.into_iter());
            for ask in &asks {
                let answer = answers.next();
                let told = |account: &mut Account| match answer {
                    Some(answer) => account.answer(answer, terms.session, now),
                    None => account.unanswered(ask, terms, now),
                };
                self.table.find(self.hash(ask.key), ask.key, told).unwrap_or_default();
            }
        }
        // What was granted may be given back, and more may have come meanwhile; who has neither is forgotten then.
        lock(&self.listed).extend(asks.iter().map(|ask| ask.key));
    }
}

/// Settles for as long as somebody has the limit.
async fn settle(shared: Weak<Shared>, ledger: Arc<dyn Ledger>) {
    let mut last = Instant::now();
    loop {
        let Some(shared) = shared.upgrade() else { return };
        if lock(&shared.listed).is_empty() && timeout(Duration::from_secs(1), shared.some.notified()).await.is_err() {
            continue;
        }
        tokio::select! {
            () = shared.urgent.notified() => sleep_until(last + SOONEST).await,
            () = sleep_until(last + PERIOD) => {}
        }
        last = Instant::now();
        shared.settle(&*ledger).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
