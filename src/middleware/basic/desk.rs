//! Password checks: off the workers, a few at once, and not again for a login that was right before.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::super::tag::{Tag, Tags};
use super::queue::{Login, Queue};
use crate::exchange::ProxyError;

/// The checks of the whole process: half of the cores is left for requests.
static QUEUE: LazyLock<Arc<Queue>> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Arc::new(Queue::new(cores / 2))
});

/// How long a login that was right is not checked again after its last use.
const REMEMBERED: Duration = Duration::from_secs(300);

/// Logins remembered at once.
const MAX_REMEMBERED: usize = 4096;

/// Where passwords are checked.
#[derive(Default)]
pub(super) struct Desk {
    tags: Tags,
    /// When each was used last.
    right: Mutex<HashMap<Tag, Instant>>,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Desk")
    }
}

/// What a client shows.
#[derive(Debug)]
pub(super) struct Credentials {
    pub(super) name: String,
    pub(super) password: String,
}

impl Desk {
    /// Whether a password is the one of a hash; `None` for a name that nobody has, which is checked at one of these costs.
    ///
    /// # Errors
    /// Too many others wait for a check.
    pub(super) async fn proves(
        &self,
        Credentials { name, password }: Credentials,
        hash: Option<Arc<str>>,
        costs: &[u8],
        network: u64,
    ) -> Result<bool, ProxyError> {
        let parts = [&name, &password, hash.as_deref().unwrap_or_default()];
        let tag = self.tags.of(parts.map(str::as_bytes));
        if hash.is_some() && tag.is_some_and(|tag| self.remembers(&tag)) {
            return Ok(true);
        }
        let is_known = hash.is_some();
        let name = self.number_of(&name);
        let login = Login { network, name, is_known };
        let turn = QUEUE.turn(login).await?;
        let hash = hash.unwrap_or_else(|| hash_of_nobody(costs, name).into());
        // A check goes on when its client is gone, and counts until it ends.
        let checked = tokio::task::spawn_blocking(move || {
            let proves = bcrypt::verify(password, &hash).unwrap_or(false) && is_known;
            QUEUE.note(login, proves);
            drop(turn);
            proves
        });
        let proves = checked.await.unwrap_or(false);
        if let Some(tag) = tag.filter(|_| proves) {
            self.remember(tag);
        }
        Ok(proves)
    }

    /// A number that stands for a name in this process.
    fn number_of(&self, name: &str) -> u64 {
        let tag = self.tags.of([name.as_bytes()]);
        tag.and_then(|tag| tag.first_chunk().copied()).map_or(0, u64::from_be_bytes)
    }

    fn remembers(&self, tag: &Tag) -> bool {
        let mut right = self.right.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(used) = right.get_mut(tag).filter(|used| used.elapsed() < REMEMBERED) else { return false };
        *used = Instant::now();
        true
    }

    fn remember(&self, tag: Tag) {
        let mut right = self.right.lock().unwrap_or_else(PoisonError::into_inner);
        if right.len() >= MAX_REMEMBERED {
            right.retain(|_, used| used.elapsed() < REMEMBERED);
        }
        if right.len() >= MAX_REMEMBERED
            && let Some(oldest) = right.iter().min_by_key(|(_, used)| **used).map(|(tag, _)| *tag)
        {
            right.remove(&oldest);
        }
        right.insert(tag, Instant::now());
    }
}

/// What is checked for a name that nobody has: a hash of no password, at the cost of one of the users. Which one depends
/// on the name alone, so that such names differ in time as users do, and the same one never tells by changing.
fn hash_of_nobody(costs: &[u8], name: u64) -> String {
    let chosen = usize::try_from(name % (costs.len().max(1) as u64)).unwrap_or_default();
    let cost = costs.get(chosen).copied().unwrap_or(DEFAULT_COST);
    format!("$2y${cost:02}$abcdefghijklmnopqrstuuRmxbPUVAlTQ9qnTlWbGmiWxVB5gGmB2")
}

/// Where nobody has a password: that of `htpasswd -nB`.
const DEFAULT_COST: u8 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(name: &str, password: &str) -> Credentials {
        Credentials { name: name.to_owned(), password: password.to_owned() }
    }

    #[tokio::test]
    async fn a_password_proves_what_its_hash_says_and_is_remembered() {
        let desk = Desk::default();
        let hash: Arc<str> = bcrypt::hash("right", 4).expect("a hash").into();
        let proves =
            |password: &str, hash: Option<&Arc<str>>| desk.proves(shown("a", password), hash.map(Arc::clone), &[4], 1);
        for _ in 0..2 {
            assert_eq!(proves("right", Some(&hash)).await, Ok(true));
            assert_eq!(proves("wrong", Some(&hash)).await, Ok(false));
            assert_eq!(proves("right", None).await, Ok(false));
        }
        assert_eq!(desk.right.lock().expect("no panic").len(), 1);
        // Another hash is another password.
        let other: Arc<str> = bcrypt::hash("other", 4).expect("a hash").into();
        assert_eq!(proves("right", Some(&other)).await, Ok(false));
    }

    #[test]
    fn the_oldest_login_is_forgotten_for_a_new_one() {
        let desk = Desk::default();
        let tag = |number: usize| desk.tags.of([&number.to_be_bytes()[..]]).expect("a tag");
        for number in 0..=MAX_REMEMBERED {
            desk.remember(tag(number));
        }
        assert!(!desk.remembers(&tag(0)) && desk.remembers(&tag(1)) && desk.remembers(&tag(MAX_REMEMBERED)));
        // Using a login keeps it: number 2 goes before number 1.
        desk.remember(tag(MAX_REMEMBERED + 1));
        assert!(desk.remembers(&tag(1)) && !desk.remembers(&tag(2)));
    }

    #[test]
    fn names_that_nobody_has_are_checked_at_the_cost_of_users() {
        let cost = |costs: &[u8], name: u64| hash_of_nobody(costs, name)[4..6].parse::<u8>().expect("a cost");
        assert_eq!((cost(&[12], 7), cost(&[12], 8)), (12, 12));
        assert_eq!([0, 1, 2, 3].map(|name| cost(&[5, 12], name)), [5, 12, 5, 12]);
        assert_eq!(cost(&[], 7), DEFAULT_COST);
        let hash = hash_of_nobody(&[4], 0);
        assert!(bcrypt::verify("", &hash).is_ok(), "it takes as long as another one");
    }
}
