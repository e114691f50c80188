//! Defines the raw scalars that have a form of their own: durations, sizes.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// A duration with its unit: `250ms`, `5s`, `1m 30s`, `2h`. More than 0, at most 366 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawDuration(pub Duration);

/// Longest duration: sums of a few with the clock stay far from any overflow.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

impl RawDuration {
    /// Reads a duration; zero only where it means something.
    ///
    /// # Errors
    /// What is wrong, and how to write it.
    pub fn parse(text: &str, zero_allowed: bool) -> Result<Self, String> {
        let parsed = jiff::fmt::friendly::SpanParser::new().parse_unsigned_duration(text.trim()).map_err(|_| {
            format!("`{text}` is not a duration: write numbers with units, such as `250ms`, `5s` or `1m 30s`")
        })?;
        if parsed.is_zero() && !zero_allowed {
            return Err(format!("`{text}`: must be more than 0"));
        }
        if parsed > LONGEST {
            return Err(format!("`{text}`: must be at most 366 days"));
        }
        Ok(Self(parsed))
    }
}

impl<'de> Deserialize<'de> for RawDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DurationVisitor { zero_allowed: false })
    }
}

impl JsonSchema for RawDuration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "Numbers with units: `250ms`, `5s`, `1m 30s`, `2h`.",
            "examples": ["250ms", "5s", "1m 30s"],
        })
    }
}

/// A duration that may be 0: `0s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawDurationOrZero(pub Duration);

impl<'de> Deserialize<'de> for RawDurationOrZero {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DurationVisitor { zero_allowed: true }).map(|RawDuration(duration)| Self(duration))
    }
}

impl JsonSchema for RawDurationOrZero {
    fn inline_schema() -> bool {
        RawDuration::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        RawDuration::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        RawDuration::json_schema(generator)
    }
}

struct DurationVisitor {
    zero_allowed: bool,
}

impl Visitor<'_> for DurationVisitor {
    type Value = RawDuration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as `250ms` or `5s`")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<RawDuration, E> {
        RawDuration::parse(text, self.zero_allowed).map_err(E::custom)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<RawDuration, E> {
        Err(E::custom(format!("a duration needs a unit: write \"{number}s\" or \"{number}ms\"")))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<RawDuration, E> {
        Err(E::custom(format!("a duration needs a unit and quotes: write \"{number}s\"")))
    }
}

/// A size in bytes with its unit: `64KiB`, `10MB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawSize(pub u64);

impl<'de> Deserialize<'de> for RawSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }
}

impl JsonSchema for RawSize {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A number of bytes with a unit: `512B`, `64KiB`, `10MB`.",
            "examples": ["64KiB", "10MB"],
        })
    }
}

struct SizeVisitor;

impl Visitor<'_> for SizeVisitor {
    type Value = RawSize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size such as `64KiB`")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<RawSize, E> {
        let text = text.trim();
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(E::custom(format!("`{text}`: a size needs a unit: write `{text}B` or `{text}KiB`")));
        }
        match text.parse::<bytesize::ByteSize>() {
            Ok(size) if size.0 > 0 => Ok(RawSize(size.0)),
            Ok(_) => Err(E::custom(format!("`{text}`: must be more than 0"))),
            Err(_) => {
                Err(E::custom(format!("`{text}` is not a size: write a number with a unit, such as `64KiB` or `10MB`")))
            }
        }
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<RawSize, E> {
        Err(E::custom(format!("a size needs a unit: write \"{number}B\" or \"{number}KiB\"")))
    }
}

#[cfg(test)]
mod tests {
    use serde::de::value::{Error, StrDeserializer};

    use super::*;

    fn size(text: &str) -> Result<u64, String> {
        RawSize::deserialize(StrDeserializer::<Error>::new(text)).map(|size| size.0).map_err(|error| error.to_string())
    }

    #[test]
    fn durations_have_units() {
        for (text, millis) in
            [("250ms", 250), ("5s", 5_000), ("1m 30s", 90_000), ("1m30s", 90_000), (" 2h ", 7_200_000)]
        {
            assert_eq!(RawDuration::parse(text, false), Ok(RawDuration(Duration::from_millis(millis))), "{text}");
        }
        for bad in ["", "5", "-5s", "5 parsecs", "0s", "400d", "s", "99999999999999999999h"] {
            assert!(RawDuration::parse(bad, false).is_err(), "{bad}");
        }
        assert_eq!(RawDuration::parse("0s", true), Ok(RawDuration(Duration::ZERO)));
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [("1B", 1), ("64KiB", 65_536), ("10MB", 10_000_000), ("1.5 MiB", 1_572_864), ("2k", 2_000)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "64", "0B", "KiB", "64 potatoes", "-1KiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
