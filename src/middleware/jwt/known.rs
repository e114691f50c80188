//! Defines which tokens were found right before: to read and check one takes longer than all else.
//!
//! A token is known by its whole text, for as long as its keys are the same and it has not expired.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use serde_json::{Map, Value};

use super::ring::Ring;
use crate::middleware::tag::{Tag, Tags};

/// Parts of the table, so that workers seldom meet.
const SHARDS: usize = 16;

/// Tokens in each.
const MOST: usize = 256;

/// A longer token is checked each time: what is remembered takes memory as its claims do.
const LONGEST: usize = 4 * 1024;

/// Tokens that were right.
#[derive(Default)]
pub(super) struct Known {
    tags: Tags,
    shards: [Mutex<HashMap<Tag, Token>>; SHARDS],
}

#[derive(Debug)]
struct Token {
    /// What it was checked with.
    ring: Weak<Ring>,
    /// In seconds since 1970; it is no good from then on.
    expires: f64,
    claims: Arc<Map<String, Value>>,
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Known")
    }
}

impl Known {
    /// What a token is known by.
    pub(super) fn tag(&self, token: &str) -> Option<Tag> {
        self.tags.of([token.as_bytes()]).filter(|_| token.len() <= LONGEST)
    }

    /// A number that stands for a text in this process.
    pub(super) fn number_of(&self, text: &str) -> Option<u64> {
        let tag = self.tags.of([text.as_bytes()])?;
        tag.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
    }

    /// What a token says that was right by these keys, and has not expired at `now`.
    pub(super) fn claims(&self, tag: &Tag, ring: &Arc<Ring>, now: u64) -> Option<Arc<Map<String, Value>>> {
        let shard = self.shard(tag);
        let token = shard.get(tag)?;
        let holds = token.ring.as_ptr() == Arc::as_ptr(ring) && (now as f64) < token.expires;
        holds.then(|| Arc::clone(&token.claims))
    }

    /// Remembers a token that was right, until it expires.
    pub(super) fn remember(&self, tag: Tag, ring: &Arc<Ring>, claims: &Arc<Map<String, Value>>, now: u64) {
        let Some(expires) = claims.get("exp").and_then(Value::as_f64) else { return };
        let mut shard = self.shard(&tag);
        if shard.len() >= MOST {
            shard.retain(|_, token| token.expires > now as f64 && token.ring.as_ptr() == Arc::as_ptr(ring));
            if shard.len() >= MOST {
                shard.clear();
            }
        }
        shard.insert(tag, Token { ring: Arc::downgrade(ring), expires, claims: Arc::clone(claims) });
    }

    fn shard(&self, tag: &Tag) -> MutexGuard<'_, HashMap<Tag, Token>> {
        let shard = &self.shards[usize::from(tag[0]) % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_token_is_known_by_its_text_its_keys_and_its_time() {
        let known = Known::default();
        let (ring, other) = (Arc::new(Ring::default()), Arc::new(Ring::default()));
        let claims = |exp: f64| Arc::new(json!({ "exp": exp }).as_object().expect("claims").clone());
        let (a, b) = (known.tag("a").expect("a tag"), known.tag("b").expect("a tag"));
        known.remember(a, &ring, &claims(100.5), 50);
        assert!(known.claims(&a, &ring, 100).is_some());
        assert!(known.claims(&a, &ring, 101).is_none(), "expired");
        assert!(known.claims(&a, &other, 60).is_none(), "other keys");
        assert!(known.claims(&b, &ring, 60).is_none(), "another token");
        // Keys at the place of those that are gone are not those.
        drop(ring);
        let again = Arc::new(Ring::default());
        assert!(known.claims(&a, &again, 60).is_none());
        assert_eq!(known.tag(&"x".repeat(LONGEST + 1)), None);
    }

    #[test]
    fn what_is_known_is_bounded() {
        let (known, ring) = (Known::default(), Arc::new(Ring::default()));
        let claims = Arc::new(json!({ "exp": 1000 }).as_object().expect("claims").clone());
        for number in 0..20_000 {
            let tag = known.tag(&number.to_string()).expect("a tag");
            known.remember(tag, &ring, &claims, 0);
        }
        let kept: usize = known.shards.iter().map(|shard| shard.lock().expect("a shard").len()).sum();
        assert!(kept > 0 && kept <= SHARDS * MOST, "{kept}");
    }
}
