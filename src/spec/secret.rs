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

/// The same of a header or a parameter of a query by this name. Cookies are always secrets: nobody can tell those that are a
/// session from others.
pub fn is_credential_name(name: &str) -> bool {
    /// In the name, whatever is around it.
    const PARTS: [&str; 20] = [
        "authorization",
        "authentication",
        "cookie",
        "token",
        "secret",
        "password",
        "passwd",
        "passphrase",
        "passcode",
        "credential",
        "api-key",
        "apikey",
        "accesskey",
        "private-key",
        "signature",
        "session",
        "sessid",
        "assertion",
        "jwt",
        "saml",
    ];
    /// A word of the name.
    const WORDS: [&str; 16] = [
        "dpop", "oidc", "bearer", "hmac", "otp", "totp", "pin", "pwd", "pass", "sid", "sig", "csrf", "xsrf", "jws",
        "jwe", "macaroon",
    ];
    const LAST_WORDS: [&str; 2] = ["key", "auth"];
    let fold = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = name.chars().map(fold).collect();
    let last = name.rsplit('-').next().unwrap_or_default();
    LAST_WORDS.contains(&last)
        || name.split('-').any(|word| WORDS.contains(&word))
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
        for name in [
            "Authorization",
            "proxy-authorization",
            "X-Forwarded-Authorization",
            "Cookie",
            "set-cookie",
            "x-api-key",
            "X_Api_Key",
            "x.api.key",
            "apikey",
            "ocp-apim-subscription-key",
            "X-Vault-Token",
            "X-Amz-Security-Token",
            "x-amz-credential",
            "X-Amz-Signature",
            "sig",
            "key",
            "session_key",
            "auth",
            "x-auth",
            // Tokens that other proxies make.
            "x-goog-iap-jwt-assertion",
            "Cf-Access-Jwt-Assertion",
            "x-jwt",
            "x-amzn-oidc-data",
            "x-amzn-oidc-accesstoken",
            "x-forwarded-access-token",
            "x-ms-token-aad-id-token",
            "client_assertion",
            "SAMLResponse",
            "DPoP",
            "x-bearer",
            "x-shopify-hmac-sha256",
            "x-hub-signature-256",
            // Sessions, and what stands for a password.
            "session",
            "x-session-id",
            "JSESSIONID",
            "PHPSESSID",
            "connect.sid",
            "x-csrf",
            "X-XSRF-Token",
            "x-otp",
            "pin",
            "user-pass",
            "pwd",
            "passphrase",
        ] {
            assert!(is_credential_name(name), "{name}");
        }
        for name in [
            "x-user",
            "accept",
            "accept-encoding",
            "x-request-id",
            "host",
            "x-forwarded-for",
            "x-forwarded-proto",
            "keep-alive",
            "x-author",
            "x-key-id",
            "x-auth-request-user",
            "x-consumer",
            "x-tenant",
            "x-canary",
            "x-sidecar",
            "x-pinned",
            "x-passthrough",
            "x-design",
            "x-sample",
            "user-agent",
            "traceparent",
            "etag",
            "page",
        ] {
            assert!(!is_credential_name(name), "{name}");
        }
    }
}
