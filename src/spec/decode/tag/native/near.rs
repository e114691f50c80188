//! Tags and keys of `Meta` whose prefix is almost that of a gateway's: `FLEETGATE.path=`, `fleetgate_path=`, `fleegate.path=`.

use super::{BARE, KEYS};

/// A tag or a key of Meta that may be meant for a gateway.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NearMiss<'t> {
    /// What it says, but for its last word.
    pub(super) name: &'t str,
    /// The key that it may mean.
    pub(super) key: &'static str,
    pub(super) value: &'t str,
}

/// Reads a tag `KEY=VALUE` that begins almost as those of a gateway do.
pub(super) fn misspelt_tag(tag: &str) -> Option<NearMiss<'_>> {
    // Of what begins so a prefix with one mistake has a half.
    let lower = || tag.to_ascii_lowercase();
    if tag.len() > 1024 || !tag.contains('=') || !["flee", "gate"].iter().any(|half| lower().contains(half)) {
        return None;
    }
    // The mistake may be a `=`.
    let at = tag.match_indices('=').map(|(at, _)| at).take(2);
    at.into_iter().find_map(|at| misspelt(&tag[..at], tag[at + 1..].trim()))
}

/// Whether a tag is almost the one without which Meta is not read.
pub(super) fn is_misspelt_bare(tag: &str) -> bool {
    tag.len() <= 2 * BARE.len()
        && tag != BARE
        && strsim::osa_distance(&letters(tag).iter().collect::<String>(), BARE) <= 1
}

fn letters(text: &str) -> Vec<char> {
    text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Reads a key of Meta that begins almost as those of a gateway do.
pub(super) fn misspelt_label<'t>(label: &'t str, value: &'t str) -> Option<NearMiss<'t>> {
    misspelt(label, value.trim())
}

fn misspelt<'t>(key: &'t str, value: &'t str) -> Option<NearMiss<'t>> {
    let word = letters(key);
    let text = |range: &[char]| range.iter().collect::<String>();
    let lengths = [BARE.len(), BARE.len() - 1, BARE.len() + 1];
    let rests = lengths.into_iter().filter(|length| word.len() > *length);
    let rests = rests.filter(|length| strsim::osa_distance(&text(&word[..*length]), BARE) <= 1);
    rests.into_iter().find_map(|length| {
        let rest = text(&word[length..]);
        let of_route = rest.starts_with("route");
        let means = |known: &&&str| {
            let known = known.replace('_', "");
            of_route && rest.ends_with(&known) || strsim::normalized_damerau_levenshtein(&rest, &known) >= 0.75
        };
        let known = KEYS.iter().find(means)?;
        let end = key.rfind(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(0);
        Some(NearMiss { name: &key[..end], key: known, value })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_with_one_mistake_is_told_from_others() {
        for (tag, wanted) in [
            ("FLEETGATE.middlewares=keys", Some("middlewares")),
            ("Fleetgate.path=/a", Some("path")),
            ("fleetgate-middlewares=keys", Some("middlewares")),
            ("fleetgate_strip_prefix=/a", Some("strip_prefix")),
            ("fleetgate/host=a.com", Some("host")),
            ("fleetgate:path=/a", Some("path")),
            ("fleetgate middlewares=keys", Some("middlewares")),
            ("fleet-gate.middlewares=keys", Some("middlewares")),
            ("fleet=gate.middlewares=keys", Some("middlewares")),
            ("fleegate.middlewares=keys", Some("middlewares")),
            ("feletgate.path=/a", Some("path")),
            ("fleetgates.path=/a", Some("path")),
            ("fleetgatepath=/a", Some("path")),
            ("leetgate.routes.adm.middlewares=keys", Some("middlewares")),
            ("\u{200b}fleetgate.path=/a", Some("path")),
            ("FLEETGATE.weight=3", Some("weight")),
            ("fleetgate_managed=true", None),
            ("fleetgate-gateway", None),
            ("fleet.host=a", None),
            ("fleet.gateway=a", None),
            ("gateway.path=/a", None),
            ("traefik.http.routers.gate.rule=Path(`/a`)", None),
        ] {
            assert_eq!(misspelt_tag(tag).map(|miss| miss.key), wanted, "{tag}");
        }
        assert_eq!(misspelt_label("fleetgate_middlewares", "keys").map(|miss| miss.key), Some("middlewares"));
        assert_eq!(misspelt_label("version", "1"), None);
        for (tag, wanted) in
            [("fleetgate", false), ("Fleetgate", true), ("fleet-gate", true), ("fletgate", true), ("fleet", false)]
        {
            assert_eq!(is_misspelt_bare(tag), wanted, "{tag}");
        }
    }
}
