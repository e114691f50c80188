//! What a typist may do to the tags and `Meta` of a protected route, one character at a time.

use proptest::prelude::*;

use super::broken::{KEYS, guards, world};
use super::*;

/// Registrations that protect the place they begin with, each in tags or Meta, and what of them may be misspelt: not the
/// values that say what is matched.
const PROTECTED: &[(&[&str], &[&str])] = &[
    (&["/a"], KEYS),
    (&["/a"], &["fleetgate.routes.adm.path=/a", "fleetgate.routes.adm.middlewares=keys", "fleetgate.path=/o"]),
    (&["/a"], &["fleetgate.path=/a", "fleetgate.middlewares=keys", "fleetgate.routes.o.path=/o"]),
    (&["a.com/a", "a.com/", "/a"], &["fleetgate.host=a.com", "fleetgate.path=/a", "fleetgate.middlewares=keys"]),
    (&["/a"], &["fleetgate", "META fleetgate-path=/a", "META fleetgate-middlewares=keys"]),
    (&["/a"], &["fleetgate.path=/a", "META fleetgate-middlewares=keys"]),
    (&["/f (as text)"], &["urlprefix-/f allow=ip:10.0.0.0/8", "urlprefix-/g"]),
    (&["/f (as text)"], &["urlprefix-/f deny=ip:10.0.0.0/8 strip=/f", "fleetgate.path=/o"]),
];

/// A mistake of somebody who types.
#[derive(Clone, Debug)]
enum Typo {
    Drop,
    Insert(char),
    Replace(char),
    Swap,
    Upper,
}

fn typo() -> impl Strategy<Value = Typo> {
    let of_tags = || {
        prop::sample::select(vec![
            '.', '-', '_', '/', ':', '=', ' ', ',', '"', 'a', 's', 'x', 'M', '0', '\u{200b}', 'é',
        ])
    };
    prop_oneof![
        Just(Typo::Drop),
        of_tags().prop_map(Typo::Insert),
        of_tags().prop_map(Typo::Replace),
        Just(Typo::Swap),
        Just(Typo::Upper),
    ]
}

/// A text with a mistake at one of these positions.
fn misspell(text: &str, positions: &[usize], at: prop::sample::Index, typo: &Typo) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    let at = positions[at.index(positions.len())];
    match typo {
        Typo::Drop => drop(chars.remove(at)),
        Typo::Insert(c) => chars.insert(at, *c),
        Typo::Replace(c) => chars[at] = *c,
        Typo::Swap if at + 1 < chars.len() && positions.contains(&(at + 1)) => chars.swap(at, at + 1),
        Typo::Swap => {}
        Typo::Upper => chars[at] = chars[at].to_ascii_uppercase(),
    }
    chars.into_iter().collect()
}

/// Where a tag may be misspelt: a key of Meta has few characters to be so.
fn positions(tag: &str) -> Vec<usize> {
    let key = tag.find('=').unwrap_or(tag.len());
    if let Some(blank) = tag.strip_prefix("urlprefix-").and_then(|rest| rest.find(' ')) {
        let options = "urlprefix-".len() + blank + 1;
        return (0.."urlprefix".len()).chain(options..tag.len()).collect();
    }
    if tag.starts_with("urlprefix-") {
        return (0.."urlprefix".len()).collect();
    }
    // `=` is no part of a key of Meta.
    if tag.contains("middlewares") && !tag.starts_with("META") { (0..tag.len()).collect() } else { (0..key).collect() }
}

fn registered(modified: u64, tags: &[String]) -> EndpointSpec {
    let said: Vec<String> = tags
        .iter()
        .map(|tag| match tag.strip_prefix("META ") {
            Some(meta) => meta.to_owned(),
            None => format!("tag:{tag}"),
        })
        .collect();
    instance("s", modified, &said.iter().map(String::as_str).collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// A single mistake of a typist in what protects a place opens it nowhere: not at a gateway that runs, not after its
    /// restart, not at a new one; and at the first two nothing else changes either.
    #[test]
    fn a_typo_opens_nothing(
        which in any::<prop::sample::Index>(),
        tag in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        typo in typo(),
    ) {
        let (places, tags) = PROTECTED[which.index(PROTECTED.len())];
        let good: Vec<String> = tags.iter().map(|tag| (*tag).to_owned()).collect();
        let position = tag.index(good.len());
        let mut wrong = good.clone();
        wrong[position] = match good[position].strip_prefix("META ") {
            // A key of Meta has no other characters.
            Some(meta) => {
                let typo = match &typo {
                    Typo::Insert(c) if !c.is_ascii_alphanumeric() => Typo::Insert('_'),
                    Typo::Replace(c) if !c.is_ascii_alphanumeric() => Typo::Replace('_'),
                    typo => typo.clone(),
                };
                format!("META {}", misspell(meta, &(0..meta.find('=').expect("a value")).collect::<Vec<_>>(), at, &typo))
            }
            None => misspell(&good[position], &positions(&good[position]), at, &typo),
        };
        let told = &wrong[position];
        let mut live = world();
        at_of(&mut live, registered(1, &good));
        let before = guards(&live.set.documents());
        at_of(&mut live, registered(2, &wrong));
        let after = guards(&live.set.documents());
        prop_assert_eq!(&before, &after, "live: {}", told);
        let mut next = live.restarted(true);
        prop_assert_eq!(&before, &guards(&next.set.update(&next.services, next.now)), "restarted: {}", told);
        let mut new = live.restarted(false);
        let new = guards(&new.set.update(&new.services, new.now));
        let guard = places.iter().find_map(|place| new.get(*place));
        prop_assert!(matches!(guard, Some(&"guarded" | &"closed")), "new: {} {:?}", told, new);
    }
}

fn at_of(world: &mut World, endpoint: EndpointSpec) {
    world.services.insert("s".into(), Some([endpoint].into()));
    world.set.update(&world.services, world.now);
}
