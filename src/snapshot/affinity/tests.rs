use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::snapshot::EndpointState;
use crate::spec::endpoint::RegistryStatus;
use crate::spec::upstream::Session;

const KEYS: u64 = 20_000;

fn endpoint(address: &str, weight: u16, version: &str) -> Endpoint {
    let address = address.parse().expect("an address");
    Endpoint {
        address,
        host: None,
        weight,
        labels: Arc::new([("version".to_owned(), version.to_owned())].into()),
        status: RegistryStatus::Unchecked,
        held: false,
        drained: false,
        prohibited: None,
        penalty: None,
        priority: 0,
        state: Arc::new(EndpointState::new(address)),
    }
}

/// Endpoints by their last octet, with weights.
fn endpoints(weights: &BTreeMap<u8, u16>) -> Vec<Endpoint> {
    weights.iter().map(|(last, weight)| endpoint(&format!("10.0.0.{last}:8080"), *weight, "v1")).collect()
}

fn affinity(balance: Balance, endpoints: &[Endpoint]) -> Affinity {
    Affinity::new(&name(), &UpstreamSettings { balance, ..UpstreamSettings::default() }, endpoints)
}

fn name() -> Name {
    "u".parse().expect("a name")
}

/// The last octet of each key's endpoint.
fn owners(balance: Balance, weights: &BTreeMap<u8, u16>) -> Vec<u8> {
    let octets: Vec<u8> = weights.keys().copied().collect();
    let affinity = affinity(balance, &endpoints(weights));
    let owner = |key: u64| affinity.walk(0, hash(KEY, &key.to_le_bytes())).next().expect("an owner");
    (0..KEYS).map(|key| octets[owner(key) as usize]).collect()
}

/// The share of keys for which it holds, in percent.
fn percent(holds: impl Iterator<Item = bool>) -> f64 {
    holds.filter(|holds| *holds).count() as f64 / KEYS as f64 * 100.0
}

fn share_of(owners: &[u8], octet: u8) -> f64 {
    percent(owners.iter().map(|owner| *owner == octet))
}

fn equal(count: u8) -> BTreeMap<u8, u16> {
    (1..=count).map(|last| (last, 1)).collect()
}

#[test]
fn keys_spread_by_weight() {
    // The ring's points are drawn, the table's places are counted.
    for (balance, off) in [(Balance::RingHash, 0.25), (Balance::Maglev, 0.08)] {
        let even = owners(balance, &equal(10));
        for last in 1..=10 {
            let share = share_of(&even, last);
            assert!((share - 10.0).abs() <= 10.0 * off, "{balance:?}: {last} has {share} % of 10 %");
        }
        let uneven = owners(balance, &[(1, 70), (2, 20), (3, 10), (4, 0)].into());
        for (last, wanted) in [(1, 70.0), (2, 20.0), (3, 10.0), (4, 0.0)] {
            let share = share_of(&uneven, last);
            assert!((share - wanted).abs() <= wanted * off, "{balance:?}: {last} has {share} % of {wanted} %");
        }
    }
}

#[test]
fn an_endpoint_that_is_out_leaves_its_keys_to_all_others() {
    for balance in [Balance::RingHash, Balance::Maglev] {
        let affinity = affinity(balance, &endpoints(&equal(5)));
        let mut heirs = [0u32; 5];
        for key in 0..KEYS {
            let mut walk = affinity.walk(0, hash(KEY, &key.to_le_bytes()));
            if walk.next() == Some(2) {
                heirs[walk.find(|index| *index != 2).expect("another") as usize] += 1;
            }
        }
        let all: u32 = heirs.iter().sum();
        for (index, count) in heirs.iter().enumerate().filter(|(index, _)| *index != 2) {
            assert!(f64::from(*count) / f64::from(all) > 0.12, "{balance:?}: {index} inherits {count} of {all}");
        }
        assert_eq!(heirs[2], 0);
    }
}

/// A hash that changes would send every client of a rolling update elsewhere: these answers are for ever.
#[test]
fn every_gateway_of_every_version_leads_alike() {
    let five: BTreeMap<u8, u16> = [(1, 1), (2, 3), (3, 1), (4, 2), (5, 1)].into();
    let first = |balance| owners(balance, &five)[..24].to_vec();
    assert_eq!(first(Balance::RingHash), [3, 3, 4, 2, 5, 1, 2, 2, 3, 4, 3, 4, 4, 2, 3, 2, 4, 3, 5, 2, 1, 2, 2, 1]);
    assert_eq!(first(Balance::Maglev), [2, 4, 3, 5, 4, 1, 5, 2, 3, 5, 1, 4, 2, 2, 4, 1, 4, 2, 2, 1, 4, 2, 4, 4]);
}

#[test]
fn a_subset_has_a_table_of_its_own() {
    let all = [endpoint("10.0.0.1:80", 1, "v1"), endpoint("10.0.0.2:80", 1, "v2"), endpoint("10.0.0.3:80", 1, "v2")];
    let subsets = [("new".parse().expect("a name"), [("version".to_owned(), "v2".to_owned())].into())];
    let settings = UpstreamSettings { balance: Balance::Maglev, subsets: subsets.into(), ..Default::default() };
    let affinity = Affinity::new(&name(), &settings, &all);
    assert!((0..100).all(|key| affinity.walk(1, key * 7919).all(|index| index != 0)));
    assert!(affinity.walk(0, 1).any(|index| index == 0));
    assert_eq!(affinity.walk(2, 1).count(), 0);
    let drained = [endpoint("10.0.0.1:80", 0, "v1")];
    assert_eq!(Affinity::new(&name(), &settings, &drained).walk(0, 1).count(), 0);
    assert_eq!(Affinity::new(&name(), &settings, &[]).walk(0, 1).count(), 0);
}

#[test]
fn a_cookie_tells_the_endpoint_and_not_its_address() {
    use http::{HeaderMap, Method, header};

    let settings =
        UpstreamSettings { session: Some(Session { cookie: "at".to_owned(), secret: None }), ..Default::default() };
    let all = endpoints(&equal(3));
    let affinity = Affinity::new(&name(), &settings, &all);
    let sessions = affinity.sessions().expect("sessions");
    let listener: Name = "web".parse().expect("a name");
    let find = |cookie: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, cookie.parse().expect("a value"));
        let (host, path, method) = ("", "/", &Method::GET);
        sessions.find(&RequestView { listener: &listener, host, path, method, headers: &headers, query: None })
    };
    for position in 0..3usize {
        let set = sessions.set_cookie(position, false).expect("a cookie").to_str().expect("text");
        assert!(set.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{set}");
        assert!(!set.contains("10.0") && !set.contains("8080"), "{set}");
        assert_eq!(find(&format!("a=1; {}", set.split(';').next().expect("a pair"))), Some(position as u32));
        let secure = sessions.set_cookie(position, true).expect("a cookie").to_str().expect("text");
        assert_eq!(secure, format!("{set}; Secure"));
    }
    assert_eq!(find("at=10.0.0.1:8080"), None);
    assert_eq!(find("at="), None);
}

#[test]
fn a_session_with_a_secret_is_the_same_everywhere_and_tells_no_address() {
    use crate::spec::settings::Secret;

    let cookie = |secret: Option<&str>| {
        let session = Session { cookie: "at".to_owned(), secret: secret.map(Secret::new) };
        let settings = UpstreamSettings { session: Some(session), ..Default::default() };
        let affinity = Affinity::new(&name(), &settings, &endpoints(&equal(1)));
        affinity.sessions().expect("sessions").set_cookie(0, false).expect("a cookie").clone()
    };
    let secret = Some("what every gateway has");
    assert_eq!(cookie(secret), cookie(secret));
    assert_ne!(cookie(secret), cookie(Some("what every gateway had")));
    assert_ne!(cookie(secret), cookie(None));
    // Fixed for ever: another value moves every client once.
    for (secret, wanted) in [(secret, "9912ea55999e417176a3e67e7eb97c59"), (None, "bfb42cbf5324006094ef484c761a5790")] {
        assert_eq!(cookie(secret), format!("at={wanted}; Path=/; HttpOnly; SameSite=Lax"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Ring: of equal weights, no key moves but to who comes and from who goes. Maglev moves a few more.
    #[test]
    fn few_keys_move_when_an_endpoint_comes_or_goes(known in prop::collection::btree_set(1u8..200, 2..30), next in 200u8..250) {
        let before: BTreeMap<u8, u16> = known.iter().map(|last| (*last, 1)).collect();
        let mut after = before.clone();
        after.insert(next, 1);
        let fair = 100.0 / after.len() as f64;
        for balance in [Balance::RingHash, Balance::Maglev] {
            let (without, with) = (owners(balance, &before), owners(balance, &after));
            let gained = share_of(&with, next);
            prop_assert!(gained > fair * 0.6 && gained < fair * 1.4, "{balance:?}: {gained} % of {fair} %");
            let strayed = percent(without.iter().zip(&with).map(|(a, b)| a != b && *b != next));
            let allowed = if balance == Balance::RingHash { 0.0 } else { 5.0 };
            prop_assert!(strayed <= allowed, "{balance:?}: {strayed} % moved between others");
        }
    }

    /// A greater weight draws keys; hardly any move between the others.
    #[test]
    fn a_change_of_weight_moves_its_own_keys(weights in prop::collection::btree_map(1u8..100, 1u16..50, 3..20), factor in 2u16..4) {
        let (&changed, &weight) = weights.iter().next().expect("at least three");
        let mut after = weights.clone();
        after.insert(changed, weight * factor);
        for balance in [Balance::RingHash, Balance::Maglev] {
            let (before, after) = (owners(balance, &weights), owners(balance, &after));
            let left = percent(before.iter().zip(&after).map(|(a, b)| *a == changed && *b != changed));
            prop_assert!(left <= 3.0, "{balance:?}: {left} % left who became heavier");
        }
    }
}
