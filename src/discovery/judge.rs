//! Defines the decision whether a read may remove what is known: at once, or after a second read.
//!
//! Additions and changes (of a weight, a status, an address) are never in doubt: only what a read no longer
//! lists is. A removal is dangerous when it leaves nothing, takes most of what there is, or comes from a read
//! that is itself suspicious (its counter went back, or stood still while the content changed).

use std::collections::BTreeMap;
use std::fmt;

/// What speaks against a read besides what it lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signs {
    /// The registry's counter (index, revision) is lower than that of what is known.
    pub regressed: bool,
    /// The counter is the same as that of what is known, so the content should be, too.
    pub unmoved: bool,
    /// The registry says that it left out what the token may not read.
    pub filtered: bool,
    /// Something is held already, and no read has confirmed it since.
    pub held: bool,
}

/// What to do with a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It says what is known.
    Unchanged,
    /// Take it as it is.
    Publish,
    /// Take what it adds and changes, keep what it lacks ([`keeping_lost`]), and read a second time.
    Verify(Danger),
}

/// Why a removal needs a second read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Danger {
    /// Nothing would be left.
    Empties {
        /// How many there are.
        of: usize,
    },
    /// Too much would go to believe it unseen: for [`judge`] more than half, and at least two.
    Takes {
        /// How many would go.
        lost: usize,
        /// How many there are.
        of: usize,
    },
    /// The counter went back.
    Regressed,
    /// The content changed and the counter did not.
    Unmoved,
    /// Something was left out for lack of permission.
    Filtered,
    /// An earlier removal is still held.
    Unconfirmed,
}

impl fmt::Display for Danger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empties { of } => write!(f, "it would remove the last {of}"),
            Self::Takes { lost, of } => write!(f, "it would remove {lost} of {of}"),
            Self::Regressed => f.write_str("the registry's counter went back"),
            Self::Unmoved => f.write_str("the registry's counter did not move although something is gone"),
            Self::Filtered => f.write_str("the registry left out what the credentials may not read"),
            Self::Unconfirmed => f.write_str("an earlier removal is not confirmed yet"),
        }
    }
}

/// Judges `candidate`, a complete and authoritative read, against what is known. `None` known: nothing was
/// ever read, so nothing can be lost.
pub fn judge<K: Ord, V: PartialEq>(
    known: Option<&BTreeMap<K, V>>,
    candidate: &BTreeMap<K, V>,
    signs: Signs,
) -> Verdict {
    let Some(known) = known else { return Verdict::Publish };
    let (lost, of) = (lost(known, candidate).count(), known.len());
    if lost == 0 {
        return if known == candidate { Verdict::Unchanged } else { Verdict::Publish };
    }
    danger(lost, of, candidate.len(), signs).map_or(Verdict::Publish, Verdict::Verify)
}

/// Why a removal of `lost` things out of `of`, which leaves `left` (new ones included), needs a second read;
/// `None` when it does not.
pub fn danger(lost: usize, of: usize, left: usize, signs: Signs) -> Option<Danger> {
    if lost == 0 {
        None
    } else if signs.filtered {
        Some(Danger::Filtered)
    } else if signs.regressed {
        Some(Danger::Regressed)
    } else if signs.unmoved {
        Some(Danger::Unmoved)
    } else if left == 0 {
        Some(Danger::Empties { of })
    } else if lost >= 2 && lost * 2 > of {
        Some(Danger::Takes { lost, of })
    } else if signs.held {
        Some(Danger::Unconfirmed)
    } else {
        None
    }
}

/// What is known and `candidate` lacks.
pub fn lost<'a, K: Ord, V, W>(
    known: &'a BTreeMap<K, V>,
    candidate: &BTreeMap<K, W>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    known.iter().filter(|(key, _)| !candidate.contains_key(key))
}

/// `candidate` with everything kept that only `known` has: additions and changes flow while a removal waits.
pub fn keeping_lost<K: Ord + Clone, V: Clone>(known: &BTreeMap<K, V>, mut candidate: BTreeMap<K, V>) -> BTreeMap<K, V> {
    for (key, value) in known {
        candidate.entry(key.clone()).or_insert_with(|| value.clone());
    }
    candidate
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(text: &str) -> BTreeMap<char, u8> {
        text.chars().map(|c| (c.to_ascii_lowercase(), u8::from(c.is_ascii_uppercase()))).collect()
    }

    #[test]
    fn removals_are_judged_by_how_much_they_take() {
        use Verdict::{Publish, Unchanged, Verify};
        // A letter is an endpoint, its case a weight or a status.
        for (known, candidate, verdict) in [
            ("", "", Unchanged),
            ("abc", "abc", Unchanged),
            ("abc", "aBc", Publish),
            ("", "abc", Publish),
            ("abc", "abcd", Publish),
            ("abcde", "abcd", Publish),
            ("ab", "a", Publish),
            ("abcd", "ab", Publish),
            ("abc", "ABCD", Publish),
            ("a", "", Verify(Danger::Empties { of: 1 })),
            ("abc", "", Verify(Danger::Empties { of: 3 })),
            ("abc", "a", Verify(Danger::Takes { lost: 2, of: 3 })),
            ("a", "b", Publish),
            ("ab", "cd", Verify(Danger::Takes { lost: 2, of: 2 })),
            ("abcde", "abxyz", Verify(Danger::Takes { lost: 3, of: 5 })),
        ] {
            assert_eq!(judge(Some(&map(known)), &map(candidate), Signs::default()), verdict, "{known} -> {candidate}");
        }
    }

    #[test]
    fn suspicious_reads_remove_nothing_unverified() {
        let none = Signs::default();
        for (signs, danger) in [
            (Signs { regressed: true, ..none }, Danger::Regressed),
            (Signs { unmoved: true, ..none }, Danger::Unmoved),
            (Signs { filtered: true, ..none }, Danger::Filtered),
            (Signs { held: true, ..none }, Danger::Unconfirmed),
        ] {
            assert_eq!(judge(Some(&map("abcde")), &map("abcd"), signs), Verdict::Verify(danger));
            assert_eq!(judge(Some(&map("abcde")), &map("abcdeF"), signs), Verdict::Publish);
            assert_eq!(judge(Some(&map("abcde")), &map("abcde"), signs), Verdict::Unchanged);
        }
    }

    #[test]
    fn nothing_known_is_not_the_same_as_nothing_there() {
        assert_eq!(judge::<char, u8>(None, &map(""), Signs::default()), Verdict::Publish);
    }

    fn any_map() -> impl Strategy<Value = BTreeMap<u8, u8>> {
        proptest::collection::btree_map(0u8..12, 0u8..3, 0..12)
    }

    fn any_signs() -> impl Strategy<Value = Signs> {
        proptest::array::uniform4(any::<bool>()).prop_map(|[regressed, unmoved, filtered, held]| Signs {
            regressed,
            unmoved,
            filtered,
            held,
        })
    }

    proptest! {
        #[test]
        fn what_is_published_unverified_is_a_small_and_unsuspicious_removal(
            known in any_map(), candidate in any_map(), signs in any_signs()
        ) {
            let gone = lost(&known, &candidate).count();
            match judge(Some(&known), &candidate, signs) {
                Verdict::Unchanged => prop_assert_eq!(&known, &candidate),
                Verdict::Publish => {
                    prop_assert_ne!(&known, &candidate);
                    if gone > 0 {
                        prop_assert_eq!(signs, Signs::default());
                        prop_assert!(!candidate.is_empty());
                        prop_assert!(gone == 1 || gone * 2 <= known.len());
                    }
                }
                Verdict::Verify(_) => prop_assert!(gone > 0),
            }
        }

        #[test]
        fn keeping_what_is_lost_loses_nothing_and_takes_every_change(known in any_map(), candidate in any_map()) {
            let kept = keeping_lost(&known, candidate.clone());
            prop_assert_eq!(lost(&known, &kept).count(), 0);
            for (key, value) in &candidate {
                prop_assert_eq!(kept.get(key), Some(value));
            }
            prop_assert_eq!(kept.len(), candidate.len() + lost(&known, &candidate).count());
        }
    }
}
