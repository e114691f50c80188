//! What of a setting may be shown: in logs, views, events and messages, wherever people who may not know secrets look.

use http::HeaderName;

/// What stands in the place of a secret.
pub const MASK: &str = "...";

/// A URL without its user, password, query and fragment, each of which may be a secret.
pub fn masked_url(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
    // A password may hold a slash that nobody escaped.
    let (authority, path) = match rest.rfind('@') {
        Some(at) if at > end => (&rest[..rest[at..].find(['/', '?', '#']).map_or(rest.len(), |end| at + end)], ""),
        _ => rest.split_at(end),
    };
    let host = authority.rsplit_once('@').map_or_else(|| authority.to_owned(), |(_, host)| format!("{MASK}@{host}"));
    let separator = if url.contains("://") { "://" } else { "" };
    format!("{scheme}{separator}{host}{}", masked_path(path))
}

/// A path without its query and fragment.
pub fn masked_path(path: &str) -> String {
    match path.split_once(['?', '#']) {
        Some((path, "")) => path.to_owned(),
        Some((path, _)) => format!("{path}?{MASK}"),
        None => path.to_owned(),
    }
}

/// Whether the value of a header of this name is likely to prove who somebody is.
pub fn is_credential(name: &HeaderName) -> bool {
    is_credential_name(name.as_str())
}

/// The same of a header, cookie or parameter of a query by this name.
pub fn is_credential_name(name: &str) -> bool {
    const PARTS: [&str; 12] = [
        "authorization",
        "authentication",
        "cookie",
        "token",
        "secret",
        "password",
        "passwd",
        "credential",
        "apikey",
        "api-key",
        "api_key",
        "signature",
    ];
    const ENDS: [&str; 4] = ["-key", "_key", "-auth", "_auth"];
    let name = name.to_ascii_lowercase();
    name == "key"
        || name == "auth"
        || ENDS.iter().any(|end| name.ends_with(end))
        || PARTS.iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_shown_without_what_may_be_secret() {
        for (url, shown) in [
            ("https://login.test/jwks.json", "https://login.test/jwks.json"),
            ("http://user:PASS@host:80/x?token=T", "http://...@host:80/x?..."),
            ("https://PASS@host", "https://...@host"),
            ("https://host?token=T", "https://host?..."),
            ("https://host/#T", "https://host/?..."),
            ("https://u:P@SS@host/x", "https://...@host/x"),
            ("https://u:PA/SS@host/x", "https://...@host"),
            ("user:PASS@host:80", "...@host:80"),
            ("//user:PASS@host", "...@host"),
            ("host:80", "host:80"),
            ("", ""),
        ] {
            let masked = masked_url(url);
            assert_eq!(masked, shown, "{url}");
            assert!(!masked.contains("PASS") && !masked.contains("SS") && !masked.contains("T"), "{masked}");
        }
        assert_eq!(masked_path("/verify?a=1"), "/verify?...");
        assert_eq!(masked_path("/verify?"), "/verify");
    }

    #[test]
    fn credentials_are_known_by_their_names() {
        for name in
            ["Authorization", "proxy-authorization", "Cookie", "x-api-key", "X-Vault-Token", "key", "session_key"]
        {
            assert!(is_credential_name(name), "{name}");
        }
        for name in ["x-user", "accept", "x-request-id", "host", "x-forwarded-for", "keep-alive", "x-author"] {
            assert!(!is_credential_name(name), "{name}");
        }
    }
}
