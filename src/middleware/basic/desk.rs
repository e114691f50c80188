//! Defines how passwords are checked: off the workers, a few at once, and each only now and then.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::super::tag::{Tag, Tags};
use crate::exchange::ProxyError;

/// Checks of the whole process at once: the other half of the cores is for requests.
static WORK: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Arc::new(Semaphore::new((cores / 2).max(1)))
});

/// Who waits for a check, in the whole process.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// Who would have to wait behind so many is refused: a check takes 50 ms and more.
const MOST_WAITING: usize = 64;

/// How long a password that was right is not checked again.
const REMEMBERED: Duration = Duration::from_secs(300);

/// So many are remembered.
const MOST_REMEMBERED: usize = 4096;

/// What is checked for a name that nobody has, so that it takes as long: of no password.
const NOBODY: &str = "$2y$10$abcdefghijklmnopqrstuuRmxbPUVAlTQ9qnTlWbGmiWxVB5gGmB2";

/// Where passwords are checked.
#[derive(Default)]
pub(super) struct Desk {
    tags: Tags,
    right: Mutex<HashMap<Tag, Instant>>,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Desk")
    }
}

impl Desk {
    /// Whether a password is the one of a hash; `None` for a name that nobody has.
    ///
    /// # Errors
    /// Too many wait for that.
    pub(super) async fn proves(
        &self,
        name: &str,
        password: String,
        hash: Option<Arc<str>>,
    ) -> Result<bool, ProxyError> {
        let parts = [name, &password, hash.as_deref().unwrap_or_default()];
        let tag = self.tags.of(parts.map(str::as_bytes));
        if hash.is_some() && tag.is_some_and(|tag| self.remembers(&tag)) {
            return Ok(true);
        }
        let _place = Place::take()?;
        let permit = Arc::clone(&WORK).acquire_owned().await.map_err(|_| ProxyError::Overloaded { seconds: 1 })?;
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| NOBODY.into());
        // It goes on when its client is gone, and is counted until it ends.
        let checked = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            bcrypt::verify(password, &hash).unwrap_or(false)
        });
        let proves = checked.await.unwrap_or(false) && known;
        if let Some(tag) = tag.filter(|_| proves) {
            self.remember(tag);
        }
        Ok(proves)
    }

    fn remembers(&self, tag: &Tag) -> bool {
        let right = self.right.lock().unwrap_or_else(PoisonError::into_inner);
        right.get(tag).is_some_and(|since| since.elapsed() < REMEMBERED)
    }

    fn remember(&self, tag: Tag) {
        let mut right = self.right.lock().unwrap_or_else(PoisonError::into_inner);
        if right.len() >= MOST_REMEMBERED {
            right.retain(|_, since| since.elapsed() < REMEMBERED);
        }
        if right.len() < MOST_REMEMBERED {
            right.insert(tag, Instant::now());
        }
    }
}

/// A place among those who wait.
struct Place;

impl Place {
    fn take() -> Result<Self, ProxyError> {
        let place = Self;
        match WAITING.fetch_add(1, Ordering::Relaxed) {
            before if before < MOST_WAITING => Ok(place),
            // It is given back when it goes.
            _ => Err(ProxyError::Overloaded { seconds: 1 }),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        WAITING.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_proves_what_its_hash_says_and_is_remembered() {
        let desk = Desk::default();
        let hash: Arc<str> = bcrypt::hash("right", 4).expect("a hash").into();
        let proves =
            |password: &str, hash: Option<&Arc<str>>| desk.proves("a", password.to_owned(), hash.map(Arc::clone));
        for _ in 0..2 {
            assert_eq!(proves("right", Some(&hash)).await, Ok(true));
            assert_eq!(proves("wrong", Some(&hash)).await, Ok(false));
            assert_eq!(proves("right", None).await, Ok(false));
        }
        assert_eq!(desk.right.lock().expect("no panic").len(), 1);
        // Another hash is another password.
        let other: Arc<str> = bcrypt::hash("other", 4).expect("a hash").into();
        assert_eq!(proves("right", Some(&other)).await, Ok(false));
        assert!(bcrypt::verify("", NOBODY).is_ok(), "it takes as long as another one");
    }
}
