//! Defines how the times of lines are written.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// Writes times, and keeps the text of the last whole second.
#[derive(Debug)]
pub struct Clock {
    second: u64,
    /// `2026-11-23T12:34:56`
    text: String,
}

impl Default for Clock {
    fn default() -> Self {
        Self { second: u64::MAX, text: String::new() }
    }
}

impl Clock {
    /// RFC 3339 in UTC with milliseconds.
    pub(in crate::telemetry) fn write(&mut self, time: SystemTime, line: &mut Vec<u8>) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        if since.as_secs() != self.second {
            let second = i64::try_from(since.as_secs()).ok().and_then(|second| Timestamp::from_second(second).ok());
            self.text = second.unwrap_or(Timestamp::UNIX_EPOCH).to_string();
            self.text.pop();
            self.second = since.as_secs();
        }
        line.extend_from_slice(self.text.as_bytes());
        line.push(b'.');
        three_digits(line, since.subsec_millis());
        line.push(b'Z');
    }
}

/// `value` is under 1000.
pub(in crate::telemetry) fn three_digits(line: &mut Vec<u8>, value: u32) {
    let digit = |place: u32| b'0' + (value / place % 10) as u8;
    line.extend_from_slice(&[digit(100), digit(10), digit(1)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_back_and_forth() {
        let mut clock = Clock::default();
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_999, "1970-01-01T00:00:01.999Z"),
            (1_000, "1970-01-01T00:00:01.000Z"),
            (999, "1970-01-01T00:00:00.999Z"),
        ] {
            let mut line = Vec::new();
            clock.write(UNIX_EPOCH + Duration::from_millis(millis), &mut line);
            assert_eq!(String::from_utf8_lossy(&line), text);
        }
    }
}
