//! Whether clients that give up say something of an endpoint: only where several do, and it answers nobody meanwhile.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// The clients that gave up since an endpoint began its last response. Written by all workers, seldom.
#[derive(Debug, Default)]
pub(super) struct Abandonment {
    /// [`NOBODY`], [`SEVERAL`], or the hash of the only one.
    clients: AtomicU64,
    /// The second of that response, and 1 more; 0: there was none.
    answered: AtomicU32,
}

const NOBODY: u64 = 0;
const SEVERAL: u64 = u64::MAX;

impl Abandonment {
    /// A response began. Reads first: all workers come here with every request, and nearly always there is nothing to do.
    pub(super) fn answers(&self, second: u32) {
        let answered = second.saturating_add(1);
        if self.answered.load(Relaxed) != answered {
            self.answered.store(answered, Relaxed);
        }
        if self.clients.load(Relaxed) != NOBODY {
            self.clients.store(NOBODY, Relaxed);
        }
    }

    /// A client gave up a request that the endpoint had in full since `second`; whether that counts. A response to
    /// somebody else that began after that second says that the endpoint works. A client of unknown address (`None`) may be
    /// any of the others, by whatever proxy it came: it is never the second one.
    pub(super) fn is_given_up(&self, client: Option<IpAddr>, second: u32) -> bool {
        if self.answered.load(Relaxed) > second.saturating_add(1) {
            return false;
        }
        let Some(client) = client else { return self.clients.load(Relaxed) == SEVERAL };
        let mut hasher = DefaultHasher::new();
        client.hash(&mut hasher);
        let client = hasher.finish().clamp(NOBODY + 1, SEVERAL - 1);
        let before = self.clients.fetch_update(Relaxed, Relaxed, |known| match known {
            NOBODY => Some(client),
            known if known == client || known == SEVERAL => None,
            _ => Some(SEVERAL),
        });
        match before {
            Ok(NOBODY) => false,
            Ok(_) => true,
            Err(known) => known == SEVERAL,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn only_several_clients_without_an_answer_between_them_count() {
        let (abandonment, [one, two]) = (Abandonment::default(), ["10.0.0.1", "10.0.0.2"].map(address));
        for _ in 0..10 {
            assert!(!abandonment.is_given_up(one, 5), "it may be the client");
        }
        assert!(abandonment.is_given_up(two, 5));
        assert!(abandonment.is_given_up(one, 6), "it is more than one now");
        abandonment.answers(7);
        assert!(!abandonment.is_given_up(two, 6), "somebody was answered while it waited");
        assert!(!abandonment.is_given_up(one, 7));
        abandonment.answers(7);
        assert!(!abandonment.is_given_up(two, 8), "somebody was answered since the other gave up");
        assert!(abandonment.is_given_up(one, 8));
    }

    #[test]
    fn a_client_of_unknown_address_is_never_the_second_one() {
        let (abandonment, [one, two]) = (Abandonment::default(), ["10.0.0.1", "10.0.0.2"].map(address));
        for _ in 0..10 {
            assert!(!abandonment.is_given_up(None, 5));
        }
        for _ in 0..10 {
            assert!(!abandonment.is_given_up(one, 5), "the unknown client may have been this one");
            assert!(!abandonment.is_given_up(None, 5), "it may be this one");
        }
        assert!(abandonment.is_given_up(two, 5));
        assert!(abandonment.is_given_up(None, 5), "two known clients gave up before it");
        abandonment.answers(7);
        assert!(!abandonment.is_given_up(None, 8) && !abandonment.is_given_up(one, 8));
    }
}
