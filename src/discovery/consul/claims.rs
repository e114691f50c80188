//! The claims that gateways share in Consul's KV store: a key for each place below `<fleet_prefix>claims/`.
//!
//! A gateway writes only where nobody has written since it read (`cas`), so that of two that race one learns from the
//! other. Where its token may not write, it uses what others have written; if nobody does, claims are not shared.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::sleep;

use crate::discovery::feedback::Board;
use crate::discovery::supervise::{WatchError, around};
use crate::spec::claims::{ClaimBook, MAX_PLACES, SharedPlace, place_key};
use crate::spec::problem::Problem;

/// Between two looks at what others have written.
const REFRESH: Duration = Duration::from_secs(10);
/// After a failed read.
const RETRY_DELAY: Duration = Duration::from_secs(5);
/// Between a refused write and the next look: somebody else may write the same meanwhile.
const SECOND_LOOK: Duration = Duration::from_secs(1);
/// Problems that are told one by one.
const MAX_PROBLEMS: usize = 5;

/// What came of sharing.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Agreed {
    /// What holds.
    pub(super) book: ClaimBook,
    /// What the registry alone says.
    pub(super) registry: ClaimBook,
    /// Why claims are not shared; `None`: they are.
    pub(super) unshared: Option<String>,
    /// Keys that cannot be used.
    pub(super) problems: Vec<Problem>,
}

/// Keeps claims alike here and in the registry.
pub(super) struct Sharing<B: Board> {
    pub(super) board: B,
    /// How long a claim outlives its service.
    pub(super) ttl: Duration,
    /// What this gateway knows.
    pub(super) proposed: watch::Receiver<Arc<ClaimBook>>,
    /// What came of it; `None` before the first look.
    pub(super) agreed: watch::Sender<Option<Arc<Agreed>>>,
}

/// Milliseconds of Unix time.
pub(super) fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// How a round ended.
enum Round {
    /// The registry holds what holds here.
    Alike,
    /// Others wrote at the same time.
    Raced,
    /// The token may not read or write.
    Refused(String),
}

impl<B: Board> Sharing<B> {
    /// Shares claims, for ever.
    pub(super) async fn follow(mut self) {
        let (mut refusals, mut said) = (0, None);
        loop {
            let proposed = Arc::clone(&self.proposed.borrow_and_update());
            let mut agreed = Agreed::default();
            let pause = match self.round(&proposed, &mut agreed).await {
                Ok(Round::Alike) => {
                    (refusals, said) = (0, None);
                    self.tell(agreed);
                    self.until_next(&proposed)
                }
                Ok(Round::Raced) => around(Duration::from_millis(50), 0.5),
                Ok(Round::Refused(why)) => {
                    refusals += 1;
                    if refusals < 2 {
                        SECOND_LOOK
                    } else {
                        if said.as_ref() != Some(&why) {
                            let place = self.board.place();
                            tracing::warn!("claims of tags are not shared: below {place}: {why}");
                            said = Some(why.clone());
                        }
                        agreed.unshared = Some(why);
                        self.tell(agreed);
                        self.until_next(&proposed)
                    }
                }
                Err(error) => {
                    tracing::debug!("claims of tags: {error}");
                    RETRY_DELAY
                }
            };
            tokio::select! {
                changed = self.proposed.changed() => if changed.is_err() { return std::future::pending().await },
                () = sleep(pause) => {}
            }
        }
    }

    fn tell(&self, agreed: Agreed) {
        self.agreed.send_if_modified(|known| {
            let changed = known.as_deref() != Some(&agreed);
            if changed {
                *known = Some(Arc::new(agreed));
            }
            changed
        });
    }

    fn until_next(&self, book: &ClaimBook) -> Duration {
        let release = book.releases_at(millis(self.ttl)).map(|at| Duration::from_millis(at.saturating_sub(now())));
        // One that is overdue was just looked at.
        let release = release.filter(|release| !release.is_zero());
        around(REFRESH, 0.2).min(release.unwrap_or(REFRESH) + Duration::from_millis(10))
    }

    /// Reads, and writes what is missing.
    async fn round(&self, proposed: &ClaimBook, agreed: &mut Agreed) -> Result<Round, WatchError> {
        let there = match self.board.read().await {
            Ok(there) => there,
            Err(error) if is_refusal(&error) => {
                agreed.book = proposed.clone();
                return Ok(Round::Refused(error.text));
            }
            Err(error) => return Err(error),
        };
        let mut shared: BTreeMap<Arc<str>, SharedPlace> = BTreeMap::new();
        for (key, (text, _)) in there.iter().take(MAX_PLACES) {
            match SharedPlace::read(key, text) {
                Ok(place) => drop(shared.insert(Arc::clone(&place.place), place)),
                Err(why) => agreed.problems.push(Problem::new(
                    format!("{}{key}", self.board.place().split(' ').next().unwrap_or_default()),
                    "",
                    format!("a claim that cannot be used: {why}; delete the key, and gateways write it anew"),
                )),
            }
        }
        if there.len() > MAX_PLACES {
            let text = format!("{} keys, and {MAX_PLACES} are the most: the others are not read", there.len());
            agreed.problems.push(Problem::new(self.board.place(), "", text));
        }
        agreed.problems.truncate(MAX_PROBLEMS);
        let (now, ttl) = (now(), millis(self.ttl));
        agreed.registry = ClaimBook::default().merge(&shared, now, ttl);
        agreed.book = proposed.merge(&shared, now, ttl);
        let wanted: BTreeMap<String, SharedPlace> =
            agreed.book.shared().map(|place| (place_key(&place.place), place)).collect();
        for (key, place) in &wanted {
            match there.get(key) {
                Some(_) if shared.get(&place.place) == Some(place) => agreed.book.agree(&place.place),
                // What cannot be read may be a later version's: it stays.
                Some(_) if !shared.contains_key(&place.place) => {}
                known => {
                    let version = known.map_or(0, |(_, version)| *version);
                    let text = serde_json::json!(place).to_string();
                    match self.board.put(key, Some(text), version).await {
                        Ok(true) => agreed.book.agree(&place.place),
                        Ok(false) => return Ok(Round::Raced),
                        Err(error) if is_refusal(&error) => return Ok(Round::Refused(error.text)),
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        for place in shared.keys() {
            let key = place_key(place);
            let Some((_, version)) = there.get(&key).filter(|_| !wanted.contains_key(&key)) else { continue };
            match self.board.put(&key, None, *version).await {
                Ok(true) => {}
                Ok(false) => return Ok(Round::Raced),
                Err(error) if is_refusal(&error) => return Ok(Round::Refused(error.text)),
                Err(error) => return Err(error),
            }
        }
        Ok(Round::Alike)
    }
}

fn is_refusal(error: &WatchError) -> bool {
    error.text.contains("403")
}
