//! Makes settings of the raw `[redis]` section.

use std::time::Duration;

use super::raw::{RawRedis, RawRedisTls};
use super::resolve::{Surroundings, one_of_two, secret};
use crate::spec::decode::scope::Scope;
use crate::spec::secret::masked_url;
use crate::spec::settings::{Redis, RedisTls};

const PORT: u16 = 6379;

impl RawRedis {
    pub(super) fn resolve(self, scope: &Scope<'_>, surroundings: &Surroundings<'_>) -> Option<Redis> {
        if !cfg!(feature = "redis") {
            scope.problem("this binary was built without Redis (feature `redis`)");
        }
        let address = self.address.as_deref().unwrap_or("redis://127.0.0.1:6379");
        let address_scope = scope.key("address");
        let (secure, host, port) = address_scope.check(parse(address))?;
        let (password_scope, file_scope) = (scope.key("password"), scope.key("password_file"));
        let (password, file) = one_of_two(self.password, self.password_file, &password_scope, &file_scope);
        let password = password.and_then(|password| secret(&password, &password_scope));
        let password_file = file.and_then(|file| {
            surroundings.secret_file(&file, &file_scope)?;
            surroundings.absolute(&file, &file_scope)
        });
        if self.user.is_some() && password.is_none() && password_file.is_none() {
            scope.key("user").missing("`password_file` (or `password`) is missing");
        }
        let prefix = self.prefix.unwrap_or_else(|| "fleetgate:".to_owned());
        if prefix.is_empty() || prefix.len() > 100 || !prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
            scope.key("prefix").problem("must have 1 to 100 visible ASCII characters");
        }
        let timeout = self.timeout.map_or(Duration::from_millis(200), |raw| raw.0);
        if !(Duration::from_millis(10)..=Duration::from_secs(10)).contains(&timeout) {
            scope.key("timeout").problem("must be from 10ms to 10s");
        }
        let tls_scope = scope.key("tls");
        if self.tls.is_some() && !secure {
            tls_scope.problem("goes with an `address` that begins with `rediss://`");
        }
        let tls = self.tls.unwrap_or_default().resolve(&tls_scope, surroundings);
        Some(Redis {
            host,
            port,
            database: scope.key("database").number(self.database, 0, 0..=65_535),
            user: self.user,
            password,
            password_file,
            prefix,
            timeout,
            tls: secure.then_some(tls),
        })
    }
}

impl RawRedisTls {
    fn resolve(self, scope: &Scope<'_>, surroundings: &Surroundings<'_>) -> RedisTls {
        let path = |raw: Option<String>, key: &'static str| surroundings.readable(&raw?, &scope.key(key));
        let (certificate, key) = (path(self.certificate, "certificate"), path(self.key, "key"));
        if certificate.is_some() != key.is_some() {
            scope.missing("`certificate` and `key` go together: give both or none");
        }
        RedisTls { ca: path(self.ca, "ca"), identity: certificate.zip(key) }
    }
}

/// Whether it is by TLS, the host and the port.
fn parse(text: &str) -> Result<(bool, String, u16), String> {
    const FORM: &str = "write `redis://host:6379`, or `rediss://host:6379` for TLS";
    // Not shown: it may hold a password.
    if text.contains('@') {
        return Err(format!("an address has no user and password: {FORM}, and give `user` and `password_file`"));
    }
    let shown = masked_url(text);
    let wrong = || format!("`{shown}` is not an address: {FORM}");
    let uri: http::Uri = text.parse().map_err(|_| wrong())?;
    let (Some(scheme @ ("redis" | "rediss")), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(wrong());
    };
    if uri.path_and_query().is_some_and(|rest| !matches!(rest.as_str(), "" | "/")) {
        return Err(format!("`{shown}`: an address has no path: {FORM}, and give `database`"));
    }
    let port = if authority.as_str() == authority.host() { Some(PORT) } else { authority.port_u16() };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    match port.filter(|port| *port > 0 && !host.is_empty()) {
        Some(port) => Ok((scheme == "rediss", host.to_owned(), port)),
        None => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_scheme_a_host_and_a_port() {
        assert_eq!(parse("redis://10.0.0.5"), Ok((false, "10.0.0.5".to_owned(), 6379)));
        assert_eq!(parse("rediss://redis.internal:6380/"), Ok((true, "redis.internal".to_owned(), 6380)));
        assert_eq!(parse("redis://[::1]:7000"), Ok((false, "::1".to_owned(), 7000)));
        for bad in ["", "10.0.0.5:6379", "http://a:1", "redis://", "redis://a:0", "redis://a:99999", "redis://a/1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let error = parse("redis://root:hunter2@a").expect_err("a password");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
