//! `fleetgate hash-key`: what documents hold of a consumer's key.

use std::io::{Read, Write};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::{FAILED, FINE, say};
use crate::spec::consumer::KeyHash;

/// A shorter key might be guessed: 16 characters of base64 are 96 bits.
const SHORTEST: usize = 16;

/// Prints the hash of the key that is read, or of a new one beside it.
pub(super) fn run(new: bool, stdin: &mut impl Read, stdout: &mut impl Write, stderr: &mut impl Write) -> u8 {
    if new {
        let mut random = [0; 24];
        if aws_lc_rs::rand::fill(&mut random).is_err() {
            say(stderr, "no random numbers can be had");
            return FAILED;
        }
        let key = BASE64_URL_SAFE_NO_PAD.encode(random);
        say(stdout, &format!("{key}\n{}", hash(&key)));
        return FINE;
    }
    let mut text = String::new();
    if let Err(error) = stdin.read_to_string(&mut text) {
        say(stderr, &format!("standard input: {error}"));
        return FAILED;
    }
    let key = text.strip_suffix('\n').unwrap_or(&text);
    let key = key.strip_suffix('\r').unwrap_or(key);
    if key.len() < SHORTEST || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        let wants = "a key is one line of at least 16 visible ASCII characters, and random: `fleetgate hash-key --new` makes one";
        say(stderr, wants);
        return FAILED;
    }
    say(stdout, &hash(key));
    FINE
}

fn hash(key: &str) -> String {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, key.as_bytes()).as_ref());
    KeyHash(hash).text()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(new: bool, text: &str) -> (u8, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = run(new, &mut text.as_bytes(), &mut out, &mut err);
        let read = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (code, read(out), read(err))
    }

    #[test]
    fn hashes_are_what_sha256sum_says() {
        // printf 0123456789abcdef | sha256sum
        let wanted = "sha256:9f9f5111f7b27a781f1f1ddde5ebc2dd2b796bfc7365c9c28b548e564176929f\n";
        for text in ["0123456789abcdef", "0123456789abcdef\n", "0123456789abcdef\r\n"] {
            assert_eq!(ran(false, text), (FINE, wanted.to_owned(), String::new()));
        }
        for short in ["", "short", "0123456789abcdef\nmore", "with a space in it 0123"] {
            let (code, out, err) = ran(false, short);
            assert!(code == FAILED && out.is_empty() && !err.contains("space"), "{short}: {err}");
        }
        let (_, made, _) = ran(true, "");
        let (key, hash) = made.split_once('\n').expect("two lines");
        assert_eq!((key.len(), ran(false, key).1), (32, hash.to_owned()));
    }
}
