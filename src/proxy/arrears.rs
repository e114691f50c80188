//! Defines how far a client is behind with an answer: what it should have taken while it was waited for, and has not.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bytes that a client is behind. Told by whoever writes, which hyper wants to be `Send`; on one thread.
#[derive(Debug)]
pub(super) struct Arrears {
    /// Bytes a second; 0: nobody is ever behind.
    rate: u32,
    bytes: AtomicU64,
}

impl Arrears {
    pub(super) fn new(rate: u32) -> Self {
        Self { rate, bytes: AtomicU64::new(0) }
    }

    /// It was waited for.
    pub(super) fn waited(&self, seconds: u32) {
        if seconds > 0 {
            let more = u64::from(seconds) * u64::from(self.rate);
            self.bytes.store(self.bytes.load(Relaxed).saturating_add(more), Relaxed);
        }
    }

    /// It took so many bytes.
    pub(super) fn took(&self, bytes: usize) {
        let behind = self.bytes.load(Relaxed);
        if behind > 0 {
            self.bytes.store(behind.saturating_sub(bytes as u64), Relaxed);
        }
    }

    /// For how long it was waited for in vain, all in all.
    pub(super) fn seconds(&self) -> u32 {
        let seconds = self.bytes.load(Relaxed).checked_div(u64::from(self.rate)).unwrap_or(0);
        u32::try_from(seconds).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_add_up_and_bytes_make_up_for_them() {
        let arrears = Arrears::new(100);
        arrears.took(1 << 20);
        arrears.waited(10);
        assert_eq!(arrears.seconds(), 10, "what was taken before counts for nothing");
        arrears.took(250);
        assert_eq!(arrears.seconds(), 7);
        arrears.waited(5);
        assert_eq!(arrears.seconds(), 12);
        arrears.took(1 << 20);
        assert_eq!(arrears.seconds(), 0);
        arrears.waited(u32::MAX);
        assert_eq!(arrears.seconds(), u32::MAX);
    }

    #[test]
    fn without_a_rate_nobody_is_behind() {
        let arrears = Arrears::new(0);
        arrears.waited(1_000);
        assert_eq!(arrears.seconds(), 0);
    }
}
