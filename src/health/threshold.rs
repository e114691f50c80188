//! Defines when answers of checks change an endpoint's health. Pure.

use crate::snapshot::Health;

/// Answers in a row.
#[derive(Clone, Debug)]
pub struct Threshold {
    healthy: u32,
    unhealthy: u32,
    passes: u32,
    failures: u32,
}

impl Threshold {
    /// `healthy`: passes in a row that make an unhealthy endpoint healthy; `unhealthy`: failures in a row
    /// that make any other unhealthy. 0 counts as 1.
    pub fn new(healthy: u32, unhealthy: u32) -> Self {
        Self { healthy: healthy.max(1), unhealthy: unhealthy.max(1), passes: 0, failures: 0 }
    }

    /// Takes an answer; the new health when it flips. An endpoint nothing is known of is healthy with its
    /// first pass.
    pub fn answer(&mut self, health: Health, passed: bool) -> Option<Health> {
        if passed {
            self.failures = 0;
            self.passes = self.passes.saturating_add(1);
        } else {
            self.passes = 0;
            self.failures = self.failures.saturating_add(1);
        }
        match health {
            Health::Unknown if passed => Some(Health::Healthy),
            Health::Unhealthy if self.passes >= self.healthy => Some(Health::Healthy),
            Health::Unknown | Health::Healthy if self.failures >= self.unhealthy => Some(Health::Unhealthy),
            Health::Unknown | Health::Healthy | Health::Unhealthy => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Health after each answer; `+` passes, `-` fails.
    fn healths(start: Health, answers: &str) -> String {
        let mut threshold = Threshold::new(2, 3);
        let mut health = start;
        let mut letters = String::new();
        for answer in answers.chars() {
            health = threshold.answer(health, answer == '+').unwrap_or(health);
            letters.push(match health {
                Health::Unknown => '?',
                Health::Healthy => 'H',
                Health::Unhealthy => 'U',
            });
        }
        letters
    }

    #[test]
    fn only_answers_in_a_row_count() {
        assert_eq!(healths(Health::Healthy, "--+---+-++"), "HHHHHUUUUH");
        assert_eq!(healths(Health::Unhealthy, "+-+-++---"), "UUUUUHHHU");
    }

    #[test]
    fn the_first_pass_settles_the_unknown_and_single_failures_do_not() {
        assert_eq!(healths(Health::Unknown, "+"), "H");
        assert_eq!(healths(Health::Unknown, "--+"), "??H");
        assert_eq!(healths(Health::Unknown, "---+"), "??UU");
    }

    #[test]
    fn zero_counts_as_one() {
        let mut threshold = Threshold::new(0, 0);
        assert_eq!(threshold.answer(Health::Healthy, false), Some(Health::Unhealthy));
        assert_eq!(threshold.answer(Health::Unhealthy, true), Some(Health::Healthy));
    }
}
