//! Defines how people write a time of the past. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// A time that was read.
pub type Moment = SystemTime;

const DAY: u64 = 86_400;

/// Reads RFC 3339, or `14:02` and `14:02:30`: the last time that clocks in UTC showed it.
///
/// # Errors
/// What is no time, and one that has not been yet.
pub fn moment(text: &str, now: SystemTime) -> Result<Moment, String> {
    let wrong =
        || format!("`{text}` is no time: write `14:02`, `14:02:30` (UTC, the last one) or `2026-11-24T14:02:30Z`");
    let time = match clock(text) {
        Some(of_day) => {
            let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let today = now - now % DAY + of_day;
            let seconds = if today > now { today.saturating_sub(DAY) } else { today };
            UNIX_EPOCH + Duration::from_secs(seconds)
        }
        None => SystemTime::from(text.parse::<Timestamp>().map_err(|_| wrong())?),
    };
    if time > now { Err(format!("`{text}` has not been yet")) } else { Ok(time) }
}

/// Seconds of the day of `14:02` or `14:02:30`.
fn clock(text: &str) -> Option<u64> {
    let number = |text: &str, below: u64| -> Option<u64> {
        let digits = (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().ok())?.filter(|number| *number < below)
    };
    let mut parts = text.split(':');
    let (hour, minute, second) = (parts.next()?, parts.next()?, parts.next().unwrap_or("0"));
    let seconds = number(hour, 24)? * 3600 + number(minute, 60)? * 60 + number(second, 60)?;
    parts.next().is_none().then_some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_the_past_are_read() {
        // 2026-11-23T12:34:56Z
        let now = UNIX_EPOCH + Duration::from_secs(1_795_437_296);
        let read = |text: &str| moment(text, now).map(super::super::event::time_text);
        for (text, time) in [
            ("12:34", "2026-11-23T12:34:00.000Z"),
            ("12:34:56", "2026-11-23T12:34:56.000Z"),
            ("12:35", "2026-11-22T12:35:00.000Z"),
            ("0:00", "2026-11-23T00:00:00.000Z"),
            ("2026-11-23T13:00:00+02:00", "2026-11-23T11:00:00.000Z"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(time), "{text}");
        }
        for text in ["", "14", "24:00", "1:2:3:4", "12:345", "-1:00", "yesterday"] {
            assert!(read(text).is_err_and(|error| error.contains("is no time")), "{text}");
        }
        assert_eq!(read("2026-11-24T00:00:00Z"), Err("`2026-11-24T00:00:00Z` has not been yet".to_owned()));
    }
}
