//! Defines an endpoint as a source describes it: where it is, its weight and labels, and the registry's word.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Key and value pairs on an endpoint.
pub type Labels = BTreeMap<String, String>;

/// Where an endpoint listens: an address, or a host name that discovery resolves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// An IP address and port.
    Ip(SocketAddr),
    /// A host name and port; resolved outside the workers, again every 30 s.
    Name {
        /// The host name, in lower case.
        host: Arc<str>,
        /// The port, 1 to 65535.
        port: u16,
    },
}

impl Address {
    /// An address from a host (IPv4, bare or bracketed IPv6, or a name) and a port.
    ///
    /// # Errors
    /// Port 0, and a host that is neither an IP address nor a host name (RFC 1123, with `_`), with the reason.
    pub fn new(host: &str, port: u16) -> Result<Self, String> {
        if port == 0 {
            return Err(format!("`{host}` has port 0"));
        }
        let bare = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Ok(Self::Ip(SocketAddr::new(ip, port)));
        }
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        };
        let name = host.strip_suffix('.').unwrap_or(host);
        // A last label of digits only is a mistyped IPv4 address (WHATWG URL, "ends in a number").
        let numeric_tail = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
        if name.len() > 253 || numeric_tail || !name.split('.').all(label) {
            let hint = match host {
                _ if host.contains("://") => ": write the host alone, without a scheme",
                _ if host.trim() != host => ": remove the blanks around it",
                _ if host.contains('%') => ": an address with a zone is of use on one machine only",
                _ if host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) => {
                    ": write the host alone, and its port where ports are written"
                }
                _ => "",
            };
            return Err(format!("`{host}` is neither an IP address nor a host name{hint}"));
        }
        Ok(Self::Name { host: name.to_ascii_lowercase().into(), port })
    }
}

impl FromStr for Address {
    type Err = String;

    /// Reads `host:port`, `1.2.3.4:port` or `[::1]:port`.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(told) = told_of_url(text) {
            return Err(told);
        }
        let wrong = |why: &str| format!("`{text}` is not `host:port`{why}");
        if text.trim() != text {
            return Err(wrong(": remove the blanks around it"));
        }
        if text.parse::<Ipv6Addr>().is_ok() {
            let (host, port) = text.rsplit_once(':').unwrap_or((text, "8080"));
            let meant = if host.parse::<Ipv6Addr>().is_ok() { (host, port) } else { (text, "8080") };
            return Err(format!("`{text}`: write an IPv6 address in brackets, `[{}]:{}`", meant.0, meant.1));
        }
        let Some((host, port)) = text.rsplit_once(':').filter(|_| !text.ends_with(']')) else {
            let example = format!(": its port is missing, as in `{text}:8080`");
            return Err(wrong(if text.is_empty() { "" } else { &example }));
        };
        if host.contains(':') && !host.starts_with('[') {
            return Err(format!("`{text}`: write an IPv6 address in brackets, `[{host}]:{port}`"));
        }
        Self::new(host, port.parse().map_err(|_| wrong(": the port must be a number from 1 to 65535"))?)
    }
}

/// What to say of an address that is a URL, or has parts of one.
fn told_of_url(text: &str) -> Option<String> {
    // Not shown: it may hold a password.
    if text.contains('@') {
        return Some("an endpoint's address has no user and password: write `host:port`".to_owned());
    }
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None if text.contains(['/', '?', '#']) => (None, text),
        None => return None,
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let port = match scheme {
        _ if authority.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']')) => "",
        Some("https" | "grpcs") => ":443",
        Some("http") => ":80",
        Some(_) | None => ":8080",
    };
    let meant = if authority.is_empty() { "host:port".to_owned() } else { format!("{authority}{port}") };
    Some(match scheme {
        Some(scheme @ ("https" | "grpcs")) => {
            format!("`{text}` is a URL: write `{meant}` without `{scheme}://`, and give the upstream `tls = {{}}`")
        }
        Some(scheme) => format!("`{text}` is a URL: write `{meant}` without `{scheme}://`"),
        None => format!("`{text}`: write `{meant}` without a path"),
    })
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// What the registry says of an endpoint. A registry without checks says `Unchecked`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RegistryStatus {
    /// Nobody checks it but us: static, DNS and etcd endpoints.
    Unchecked,
    /// All its registry checks pass.
    Passing,
    /// A check warns, none is critical.
    Warning,
    /// A check is critical: no traffic.
    Critical,
    /// An operator put it, or its node, into maintenance: no traffic, whatever else holds.
    Maintenance,
}

/// An endpoint as a source describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSpec {
    /// Where it listens.
    pub address: Address,
    /// 0 to 65535; 0 drains. The weight that goes with `status` where a registry has several.
    pub weight: u16,
    /// What subsets select by.
    pub labels: Arc<Labels>,
    /// The registry's word.
    pub status: RegistryStatus,
    /// Who registered it, unique in its source: `node/service-id`, an etcd key's last part, a position.
    pub id: Arc<str>,
    /// Orders two registrations of one address: the newer (greater) wins. Consul's ModifyIndex of the
    /// service, etcd's mod_revision, 0 where there is none.
    pub modified: u64,
    /// When it was registered first, by its registry's counter; 0 where there is none. Consul's CreateIndex.
    pub created: u64,
}

/// What an endpoint has against it that its registry took out of use again and again. It halves every 30 s.
#[derive(Clone, Debug, PartialEq)]
pub struct Penalty {
    value: f64,
    as_of: Instant,
    /// Whether the endpoint waits for the penalty to decay.
    pub damped: bool,
}

impl Penalty {
    /// For each time.
    const FLAP: f64 = 1_000.0;
    /// Above this the endpoint waits: the third time within a minute, about.
    pub const SUPPRESS: f64 = 2_000.0;
    /// At this it is used again.
    pub const REUSE: f64 = 750.0;
    /// Below this it is forgotten.
    const NOTHING: f64 = 100.0;
    const HALF_LIFE: Duration = Duration::from_secs(30);
    /// Four half-lives above [`Self::REUSE`]: nobody waits longer than 2 min after the last time.
    const CEILING: f64 = 16.0 * Self::REUSE;

    /// Nothing yet.
    pub fn none(now: Instant) -> Self {
        Self { value: 0.0, as_of: now, damped: false }
    }

    /// What it is now.
    pub fn now(&self, now: Instant) -> f64 {
        let lives = now.saturating_duration_since(self.as_of).as_secs_f64() / Self::HALF_LIFE.as_secs_f64();
        self.value * 0.5_f64.powf(lives)
    }

    /// The registry took the endpoint out once more.
    #[must_use]
    pub fn after_flap(&self, now: Instant) -> Self {
        let value = (self.now(now) + Self::FLAP).min(Self::CEILING);
        Self { value, as_of: now, damped: self.damped || value > Self::SUPPRESS }
    }

    /// How long until the endpoint may be used again.
    pub fn reused_in(&self, now: Instant) -> Duration {
        let lives = (self.now(now) / Self::REUSE).log2();
        if lives > 0.0 { Self::HALF_LIFE.mul_f64(lives) } else { Duration::ZERO }
    }

    /// Whether it is worth to be remembered.
    pub fn counts(&self, now: Instant) -> bool {
        self.now(now) >= Self::NOTHING
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for text in ["10.0.0.1:80", "[::1]:8080", "orders-2.internal:8080", "a_b.example:1"] {
            assert_eq!(text.parse::<Address>().map(|address| address.to_string()), Ok(text.to_owned()));
        }
        assert_eq!(Address::new("::1", 80).map(|a| a.to_string()), Ok("[::1]:80".to_owned()));
        assert_eq!(Address::new("Orders.Internal.", 80).map(|a| a.to_string()), Ok("orders.internal:80".to_owned()));
        for (wrong, told) in [
            ("http://10.0.0.5:8080", "`http://10.0.0.5:8080` is a URL: write `10.0.0.5:8080` without `http://`"),
            ("http://10.0.0.5:8080/", "`http://10.0.0.5:8080/` is a URL: write `10.0.0.5:8080` without `http://`"),
            ("http://web", "`http://web` is a URL: write `web:80` without `http://`"),
            (
                "https://[::1]/x",
                "`https://[::1]/x` is a URL: write `[::1]:443` without `https://`, and give the upstream `tls = {}`",
            ),
            ("unix:///run/a.sock", "`unix:///run/a.sock` is a URL: write `host:port` without `unix://`"),
            ("10.0.0.5:8080/x", "`10.0.0.5:8080/x`: write `10.0.0.5:8080` without a path"),
            ("http://u:secret@a:1", "an endpoint's address has no user and password: write `host:port`"),
            ("10.0.0.5", "`10.0.0.5` is not `host:port`: its port is missing, as in `10.0.0.5:8080`"),
            ("[::1]", "`[::1]` is not `host:port`: its port is missing, as in `[::1]:8080`"),
            ("::1", "`::1`: write an IPv6 address in brackets, `[::1]:8080`"),
            ("fe80::1:80", "`fe80::1:80`: write an IPv6 address in brackets, `[fe80::1]:80`"),
            ("a:70000", "`a:70000` is not `host:port`: the port must be a number from 1 to 65535"),
            (" a:80", "` a:80` is not `host:port`: remove the blanks around it"),
        ] {
            assert_eq!(wrong.parse::<Address>(), Err(told.to_owned()));
        }
        let told = |host| Address::new(host, 80).expect_err("no host");
        assert!(told("http://10.0.0.5").ends_with("write the host alone, without a scheme"));
        assert!(told("127.0.0.1:80").ends_with("and its port where ports are written"));
        for bad in ["", "a", "a:", "a:0", "a:x", "a:70000", ":80", "::1:80", "a b:80", "10.0.0.256:80", "http://a:80"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
