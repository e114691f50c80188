//! Defines a share in whole percent.

use std::fmt;
use std::str::FromStr;

/// A share: 0 to 100 percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u8);

impl Percent {
    /// Nothing of it.
    pub const NONE: Self = Self(0);

    /// One half.
    pub const HALF: Self = Self(50);

    /// This share of a number, rounded down.
    pub fn of(self, whole: usize) -> usize {
        // Without overflow, and exact: the rest of the division has its share, too.
        let (hundreds, rest) = (whole / 100, whole % 100);
        hundreds * usize::from(self.0) + rest * usize::from(self.0) / 100
    }

    /// Whether `part` is less than this share of `whole`.
    pub fn is_more_than(self, part: u64, whole: u64) -> bool {
        u128::from(part) * 100 < u128::from(whole) * u128::from(self.0)
    }
}

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.trim().strip_suffix('%').map(str::trim_end);
        match number.map(str::parse) {
            Some(Ok(percent @ 0..=100)) => Ok(Self(percent)),
            Some(_) => Err(format!("`{text}` is not from 0% to 100%, in whole percent")),
            None => Err(format!("`{text}` is not a percentage: write `50%`")),
        }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_written_with_their_sign() {
        let read = |text: &str| text.parse::<Percent>().map(|percent| percent.to_string());
        for text in ["0%", "50%", "100%"] {
            assert_eq!(read(text).as_deref(), Ok(text));
        }
        for bad in ["50", "101%", "-1%", "1.5%", "%", "", "half"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn shares_are_exact() {
        let half = Percent::HALF;
        assert_eq!([0, 1, 2, 3, 201].map(|whole| half.of(whole)), [0, 0, 1, 1, 100]);
        assert_eq!(Percent(100).of(usize::MAX), usize::MAX);
        assert!(half.is_more_than(1, 3) && !half.is_more_than(1, 2) && !Percent::NONE.is_more_than(0, 0));
    }
}
