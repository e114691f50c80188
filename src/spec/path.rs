//! Defines the one form in which a path is matched and forwarded.
//!
//! RFC 3986, 6.2.2: unreserved characters decoded, percent-encodings in upper case, dot segments removed. What lies
//! beyond ASCII is encoded, as browsers do it.
//! Beyond it, repeated slashes are merged, and what an origin could take for a separator is refused.

use std::borrow::Cow;

/// Why a path has no normal form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not begin with a slash.
    #[error("a path begins with `/`")]
    NotAbsolute,
    /// A `%` that two hexadecimal digits do not follow.
    #[error("a `%` is not followed by two hexadecimal digits")]
    BadEscape,
    /// `%2F`, `%5C`, `%00` or a backslash, which origins may take for a separator or an end.
    #[error("`%2F`, `%5C`, `%00` and `\\` are not allowed in a path")]
    EncodedSlash,
    /// A control or a space, which no URI has.
    #[error("a path holds no spaces or control characters; percent-encode them")]
    BadByte,
}

/// The normal form of a path (without query). Borrows when it is in normal form already, which is the usual case.
///
/// # Errors
/// Where the path is malformed or could be read in two ways; `allow_encoded_slashes` lets
/// `%2F`, `%5C`, `%00` and `\` pass as they are.
pub fn normalize(path: &str, allow_encoded_slashes: bool) -> Result<Cow<'_, str>, PathError> {
    let bytes = path.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err(PathError::NotAbsolute);
    }
    let mut previous = 0u8;
    let mut normal = true;
    for &byte in bytes {
        match byte {
            0..=b' ' | 0x7f => return Err(PathError::BadByte),
            b'\\' if !allow_encoded_slashes => return Err(PathError::EncodedSlash),
            b'%' | 0x80.. => normal = false,
            b'/' | b'.' if previous == b'/' => normal = false,
            _ => {}
        }
        previous = byte;
    }
    if normal {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = decode_unreserved(bytes, allow_encoded_slashes)?;
    Ok(Cow::Owned(remove_dot_segments(&decoded)))
}

fn decode_unreserved(bytes: &[u8], allow_encoded_slashes: bool) -> Result<String, PathError> {
    let digit = |byte: Option<&u8>| byte.and_then(|&byte| char::from(byte).to_digit(16));
    let mut out = String::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte != b'%' {
            at += 1;
            if byte.is_ascii() {
                out.push(char::from(byte));
            } else {
                encode(&mut out, byte);
            }
            continue;
        }
        let (Some(high), Some(low)) = (digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) else {
            return Err(PathError::BadEscape);
        };
        let decoded = (high * 16 + low) as u8;
        match decoded {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(decoded)),
            b'/' | b'\\' | 0 if !allow_encoded_slashes => return Err(PathError::EncodedSlash),
            _ => encode(&mut out, decoded),
        }
        at += 3;
    }
    Ok(out)
}

fn encode(out: &mut String, byte: u8) {
    const UPPER: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(UPPER[usize::from(byte >> 4)]));
    out.push(char::from(UPPER[usize::from(byte & 15)]));
}

/// RFC 3986, 5.2.4, on segments, with empty segments merged. A `..` above the root stays at the root.
fn remove_dot_segments(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_in_slash = true;
    for segment in path.split('/').skip(1) {
        ends_in_slash = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in &kept {
        out.push('/');
        out.push_str(segment);
    }
    if ends_in_slash || kept.is_empty() {
        out.push('/');
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_have_one_form() {
        for (path, normal) in [
            ("/", "/"),
            ("/users", "/users"),
            ("/users/", "/users/"),
            ("//users//7", "/users/7"),
            ("/a/./b/../c", "/a/c"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/..", "/"),
            ("/../../a", "/a"),
            ("/%7Euser", "/~user"),
            ("/%2e%2E/a", "/a"),
            ("/a%2fb", "!"),
            ("/a%5cb", "!"),
            ("/a%00", "!"),
            ("/a\\b", "!"),
            ("/%c3%a4", "/%C3%A4"),
            ("/a%20b", "/a%20b"),
            ("/a%2", "!"),
            ("/a%zz", "!"),
            ("/ä", "/%C3%A4"),
            ("/ä/../b", "/b"),
            ("/a b", "!"),
            ("/\u{7f}", "!"),
            ("a", "!"),
            ("", "!"),
            ("/.hidden", "/.hidden"),
            ("/...", "/..."),
            ("/a/..;/b", "/a/..;/b"),
        ] {
            let found = normalize(path, false);
            assert_eq!(found.as_deref().unwrap_or("!"), normal, "{path}");
        }
        assert_eq!(normalize("/a%2fb\\c", true).as_deref(), Ok("/a%2Fb\\c"));
    }

    proptest! {
        #[test]
        fn the_form_is_stable_and_clean(path in "/[a-cä./%25EF\\\\2;~ -]{0,24}") {
            if let Ok(normal) = normalize(&path, false) {
                let again = normalize(&normal, false);
                prop_assert_eq!(again.as_deref(), Ok(&*normal));
                prop_assert!(!normal.contains("//") && !normal.contains("/../") && !normal.contains("/./"));
                prop_assert!(!normal.ends_with("/..") && !normal.ends_with("/."));
            }
        }
    }
}
