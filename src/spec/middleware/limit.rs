//! Defines how much a client may ask for, as someone asked for it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use http::HeaderName;

/// So many requests in a time, and so many at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// In the long run.
    pub rate: Rate,
    /// At once, after a pause; at least 1.
    pub burst: u32,
    /// Who shares a limit.
    pub key: Vec<LimitKey>,
    /// Whether answers say what is left.
    pub headers: bool,
    /// Keys that are told apart at once.
    pub max_keys: u32,
    /// Whose requests it counts.
    pub scope: Scope,
}

/// Whose requests a limit counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Those of each gateway by itself.
    #[default]
    Gateway,
    /// Those of all gateways together.
    Fleet {
        /// What holds while Redis does not answer.
        without: Without,
    },
}

/// What holds while nobody knows what the other gateways let through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Without {
    /// Each gateway lets its share through: the limit by the number of gateways.
    #[default]
    Share,
    /// Each gateway lets the whole limit through.
    Local,
    /// All requests pass.
    Open,
    /// None passes.
    Closed,
}

impl Without {
    /// Every choice.
    pub const ALL: [Self; 4] = [Self::Share, Self::Local, Self::Open, Self::Closed];

    /// As users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Share => "share",
            Self::Local => "local",
            Self::Open => "open",
            Self::Closed => "closed",
        }
    }
}

/// Requests in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concurrency {
    /// The most of them.
    pub limit: u32,
    /// Who shares a limit.
    pub key: Vec<LimitKey>,
}

/// What tells clients apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitKey {
    /// The client's address; of IPv6 its network of 64 bits, which a client has to itself.
    ClientIp,
    /// The consumer.
    Consumer,
    /// The route.
    Route,
    /// A header's first value.
    Header(HeaderName),
    /// A claim of a token.
    Claim(String),
}

impl fmt::Display for LimitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientIp => f.write_str("client_ip"),
            Self::Consumer => f.write_str("consumer"),
            Self::Route => f.write_str("route"),
            Self::Header(name) => write!(f, "header.{name}"),
            Self::Claim(name) => write!(f, "claims.{name}"),
        }
    }
}

impl FromStr for LimitKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = |prefix: &str| text.strip_prefix(prefix).filter(|name| !name.is_empty());
        match text {
            "client_ip" => Ok(Self::ClientIp),
            "consumer" => Ok(Self::Consumer),
            "route" => Ok(Self::Route),
            _ => {
                let header = named("header.").and_then(|name| name.parse().ok()).map(Self::Header);
                let claim = || named("claims.").map(|name| Self::Claim(name.to_owned()));
                header.or_else(claim).ok_or_else(|| {
                    format!("`{text}` is none of `client_ip`, `consumer`, `route`, `header.NAME` and `claims.NAME`")
                })
            }
        }
    }
}

/// Requests in a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// At least 1.
    pub amount: u32,
    /// From 1 s to a day.
    pub per: Duration,
}

const UNITS: [(&str, u64); 4] = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)];

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a rate, such as `100/s`, `5/m`, `1000/h` or `20/d`");
        let (amount, unit) = text.split_once('/').ok_or_else(wrong)?;
        let seconds = UNITS.iter().find(|(name, _)| *name == unit.trim()).ok_or_else(wrong)?.1;
        match amount.trim().parse() {
            Ok(amount @ 1..=1_000_000_000) => Ok(Self { amount, per: Duration::from_secs(seconds) }),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().find(|(_, seconds)| *seconds == self.per.as_secs()).map_or("s", |(name, _)| name);
        write!(f, "{}/{unit}", self.amount)
    }
}

impl Rate {
    /// From one request to the next, in nanoseconds, rounded up: never more than asked for.
    pub fn interval(self) -> u64 {
        u64::try_from(self.per.as_nanos()).unwrap_or(u64::MAX).div_ceil(u64::from(self.amount))
    }
}

/// What is wrong with a limit of the fleet where gateways know nothing of each other.
pub const ALONE: &str = "`scope = \"fleet\"` has no effect: each gateway lets the whole rate pass, as there is no `[redis]` \
     to count in, and no gateway registers (`[discovery.consul.register]` or `[discovery.etcd.register]`) to share it with";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_a_number_and_a_unit() {
        for (text, interval) in [
            ("1/s", 1_000_000_000),
            ("3/s", 333_333_334),
            ("60/m", 1_000_000_000),
            ("1000000000/s", 1),
            ("24/d", 3_600_000_000_000),
        ] {
            let rate: Rate = text.parse().expect(text);
            assert_eq!((rate.interval(), rate.to_string()), (interval, text.to_owned()));
        }
        for bad in ["", "1", "0/s", "-1/s", "1/x", "1.5/s", "/s", "1/", "9999999999/s"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
        for key in ["client_ip", "consumer", "route", "header.x-tenant", "claims.sub"] {
            assert_eq!(key.parse::<LimitKey>().map(|key| key.to_string()).as_deref(), Ok(key));
        }
        for bad in ["", "ip", "header.", "header.a b", "claims."] {
            assert!(bad.parse::<LimitKey>().is_err(), "{bad}");
        }
    }
}
