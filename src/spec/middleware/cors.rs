//! Defines which pages of other origins may use a service (CORS, Fetch Standard, 3.2), as someone asked for it.

use std::time::Duration;

use http::{HeaderName, Method};

/// Which pages may do what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Of these origins; `None`: of any.
    pub origins: Option<Vec<OriginMatch>>,
    /// By these methods; `None`: by any.
    pub methods: Option<Vec<Method>>,
    /// With these headers; `None`: with any.
    pub headers: Option<Vec<HeaderName>>,
    /// Headers of answers that scripts may read; `None`: all.
    pub expose: Option<Vec<HeaderName>>,
    /// With cookies and the like.
    pub credentials: bool,
    /// How long browsers may remember that.
    pub max_age: Option<Duration>,
}

/// An origin as browsers send it: `https://example.com`, `https://*.example.com` for one or more labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginMatch {
    /// In lower case, up to the host or the labels before it.
    before: String,
    /// Behind the labels, where there are some.
    behind: Option<String>,
}

impl OriginMatch {
    /// Reads an origin.
    ///
    /// # Errors
    /// What is none: RFC 6454, 6.2.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        let wrong =
            || format!("`{text}` is not an origin, such as `https://example.com` or `https://*.example.com:8443`");
        let (scheme, authority) = lower.split_once("://").ok_or_else(wrong)?;
        let plain = authority.strip_prefix("*.").unwrap_or(authority);
        let parsed: http::uri::Authority = plain.parse().map_err(|_| wrong())?;
        if scheme.is_empty() || plain.contains(['*', '@']) || parsed.host().is_empty() {
            return Err(wrong());
        }
        let default = match scheme {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        };
        if parsed.port_u16().is_some() && parsed.port_u16() == default {
            return Err(format!("`{text}`: browsers leave the default port out; leave it out here, too"));
        }
        Ok(if plain == authority {
            Self { before: lower, behind: None }
        } else {
            Self { before: format!("{scheme}://"), behind: Some(format!(".{plain}")) }
        })
    }

    /// Whether an origin as a browser sends it is one of those meant.
    pub fn fits(&self, origin: &[u8]) -> bool {
        let Some(behind) = &self.behind else { return origin.eq_ignore_ascii_case(self.before.as_bytes()) };
        let Some((scheme, rest)) = origin.split_at_checked(self.before.len()) else { return false };
        let Some((labels, suffix)) = rest.len().checked_sub(behind.len()).and_then(|at| rest.split_at_checked(at))
        else {
            return false;
        };
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
        scheme.eq_ignore_ascii_case(self.before.as_bytes())
            && suffix.eq_ignore_ascii_case(behind.as_bytes())
            && !labels.is_empty()
            && labels.iter().all(plain)
    }

    /// As users write it.
    pub fn text(&self) -> String {
        match &self.behind {
            None => self.before.clone(),
            Some(behind) => format!("{}*{behind}", self.before),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_fit_whole_and_below_a_name() {
        for (pattern, origin, wanted) in [
            ("https://a.com", "https://a.com", true),
            ("HTTPS://A.com", "https://a.com", true),
            ("https://a.com", "http://a.com", false),
            ("https://a.com", "https://a.com:8443", false),
            ("https://a.com", "https://a.com.evil.org", false),
            ("https://*.a.com", "https://x.a.com", true),
            ("https://*.a.com", "https://x.y.a.com", true),
            ("https://*.a.com", "https://a.com", false),
            ("https://*.a.com", "https://.a.com", false),
            ("https://*.a.com", "https://xa.com", false),
            ("https://*.a.com", "https://evil.org/x.a.com", false),
            ("https://*.a.com", "https://evil.org:80@x.a.com", false),
            ("https://*.a.com", "https://x.a.com:81", false),
            ("http://*.a.com:81", "http://x.a.com:81", true),
            ("https://*.a.com", "null", false),
        ] {
            let parsed = OriginMatch::parse(pattern).expect(pattern);
            assert_eq!(parsed.fits(origin.as_bytes()), wanted, "{pattern} {origin}");
            assert_eq!(parsed.text(), pattern.to_ascii_lowercase());
        }
        for bad in [
            "",
            "a.com",
            "*.a.com",
            "https://",
            "https://a.com/",
            "https://a.*.com",
            "https://u@a.com",
            "https://a.com:443",
        ] {
            assert!(OriginMatch::parse(bad).is_err(), "{bad}");
        }
    }
}
