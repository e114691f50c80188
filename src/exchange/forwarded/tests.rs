use http::HeaderMap;
use http::header::HeaderName;
use ipnet::IpNet;
use proptest::prelude::*;

use super::*;

const NAME: HeaderName = HeaderName::from_static("x-forwarded-for");

fn map(lines: &[&[u8]]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for line in lines {
        map.append(NAME, HeaderValue::from_bytes(line).expect("a value"));
    }
    map
}

fn networks() -> Vec<IpNet> {
    ["10.0.0.0/8", "127.0.0.1/32", "fd00::/8"].map(|text| text.parse().expect("a network")).into()
}

fn told(lines: &[&[u8]]) -> (String, Option<usize>) {
    let (map, networks, peer) = (map(lines), networks(), "10.0.0.1".parse().expect("an address"));
    let is_trusted = |address| networks.iter().any(|network| network.contains(&address));
    let Origin { client, place } = origin(&map.get_all(NAME), peer, is_trusted);
    (client.to_string(), place)
}

#[test]
fn addresses_are_read_as_proxies_write_them() {
    for (member, wanted) in [
        ("6.6.6.6", "6.6.6.6"),
        (" \t6.6.6.6 ", "6.6.6.6"),
        ("6.6.6.6:1234", "6.6.6.6"),
        ("\"6.6.6.6\"", "6.6.6.6"),
        ("\"6.6.6.6:1\"", "6.6.6.6"),
        ("2001:DB8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("\"[2001:db8::1]:443\"", "2001:db8::1"),
        ("2001:db8::1%eth0", "2001:db8::1"),
        ("[fe80::1%25eth0]:80", "fe80::1"),
        ("::ffff:6.6.6.6", "6.6.6.6"),
        ("[::ffff:6.6.6.6]:443", "6.6.6.6"),
        ("::1", "::1"),
    ] {
        assert_eq!(address(member.as_bytes()).map(|it| it.to_string()).as_deref(), Some(wanted), "{member}");
    }
    for member in [
        "",
        "unknown",
        "_hidden",
        "_",
        "006.6.6.6",
        "6.6.6.06",
        "6.6.6",
        "6.6.6.6.6",
        "6.6.6.6:",
        "6.6.6.6:x",
        "6.6.6.6:99999",
        "6.6.6.6:000080",
        "6.6.6.6:-1",
        "6.6.6.6%eth0",
        "6.6.6.6/32",
        "0x6.6.6.6",
        "101058054",
        "[6.6.6.6]",
        "[::1",
        "::1]",
        "[::1]x",
        "[::1]:",
        "[::1]:x",
        "[]",
        "::1%",
        "::1%a b",
        "fe80::1%eth0%1",
        "2001:db8:1:2:3:4:5:6:443",
        ":::",
        "\"6.6.6.6",
        "6.6.6.6\"",
        "\"",
        "\"\"",
        "\" 6.6.6.6\"",
        "'6.6.6.6'",
        "for=6.6.6.6",
        "6.6.6.6 7.7.7.7",
        "6.6.6.6;",
        "localhost",
        "unix:",
        "-",
        "６.6.6.6",
    ] {
        assert_eq!(address(member.as_bytes()), None, "{member}");
    }
    assert_eq!(address(b"6.6.6.6\xff"), None);
}

#[test]
fn the_nearest_address_that_is_not_a_trusted_proxys_is_the_client() {
    for (lines, client, place) in [
        (&[][..], "10.0.0.1", None),
        (&[&b"6.6.6.6"[..]][..], "6.6.6.6", Some(0)),
        (&[b"1.1.1.1, 6.6.6.6"], "6.6.6.6", Some(0)),
        (&[b"1.1.1.1, 6.6.6.6:99, 10.1.2.3:443, [fd00::1]:80"], "6.6.6.6", Some(2)),
        (&[b"1.1.1.1", b"6.6.6.6", b"10.1.2.3"], "6.6.6.6", Some(1)),
        (&[b"10.2.2.2, 10.1.1.1"], "10.2.2.2", None),
        (&[b"\xff, 6.6.6.6"], "6.6.6.6", Some(0)),
        (&[b"\xff", b"6.6.6.6"], "6.6.6.6", Some(0)),
        // Empty members are no members.
        (&[b"6.6.6.6,"], "6.6.6.6", Some(0)),
        (&[b"1.1.1.1, 6.6.6.6,, ,10.1.1.1, ", b"", b" , "], "6.6.6.6", Some(1)),
        // What cannot be read is nobody, whatever stands left of it.
        (&[b"6.6.6.6, \xff"], "unknown", Some(0)),
        (&[b"10.9.9.9, unknown, 10.1.1.1"], "unknown", Some(1)),
        (&[b"6.6.6.6", b"_x"], "unknown", Some(0)),
        (&[b"\"6.6.6.6, 10.1.1.1\""], "unknown", Some(0)),
        (&[b"10.1.1.1 6.6.6.6"], "unknown", Some(0)),
        (&[b"127.0.0.1x"], "unknown", Some(0)),
        (&[b""], "unknown", None),
        (&[b" ,, ", b""], "unknown", None),
    ] {
        assert_eq!(told(lines), (client.to_owned(), place), "{lines:?}");
    }
}

#[test]
fn the_line_that_goes_on_is_well_formed() {
    let peer = HeaderValue::from_static("10.0.0.1");
    for (lines, wanted) in [
        (&[][..], "10.0.0.1"),
        (&[&b""[..]][..], "unknown, 10.0.0.1"),
        (&[b", "], "unknown, 10.0.0.1"),
        (&[b"203.0.113.1,"], "203.0.113.1, 10.0.0.1"),
        (&[b",a,,b ", b"", b"\tc"], "a, b, c, 10.0.0.1"),
        (&[b"\xff, 6.6.6.6:80", b"J\xc3\xb6rg, \"[::1]\""], "unknown, 6.6.6.6:80, unknown, \"[::1]\", 10.0.0.1"),
    ] {
        assert_eq!(appended(&map(lines).get_all(NAME), &peer), wanted, "{lines:?}");
    }
}

#[test]
fn the_protocol_is_that_of_the_proxy_which_the_client_connected_to() {
    for (lines, place, wanted) in [
        (&[][..], None, None),
        (&[&b"https"[..]][..], None, Some(true)),
        (&[b"HTTPS"], Some(0), Some(true)),
        (&[b" \thttps "], Some(3), Some(true)),
        (&[b"\"https\""], Some(0), Some(true)),
        (&[b"wss"], Some(0), Some(true)),
        (&[b"http"], Some(0), Some(false)),
        (&[b"Ws"], Some(0), Some(false)),
        // Nobody untrusted is known of: all members are trusted proxies', the first of which had the client.
        (&[b"https, http"], None, Some(true)),
        (&[b"https,https"], None, Some(true)),
        (&[b"https", b"http"], None, Some(true)),
        (&[b"http, https"], None, Some(false)),
        // `X-Forwarded-For: client`, or `client, proxy`, and each proxy appends: the member in the client's place counts.
        (&[b"https, http"], Some(0), Some(false)),
        (&[b"https, http"], Some(1), Some(true)),
        (&[b"https, http, http"], Some(1), Some(false)),
        (&[b"https", b"http, http"], Some(1), Some(false)),
        // Fewer members than proxies: the farthest proxy that says it.
        (&[b"https, http"], Some(4), Some(true)),
        (&[b"https,, ,"], Some(0), Some(true)),
        (&[b""], None, None),
        (&[b"\xffhttps"], Some(0), None),
        (&[b"on"], None, None),
        (&[b"https;q=1"], None, None),
        (&[b"\"https"], None, None),
    ] {
        assert_eq!(is_https(&map(lines).get_all(NAME), place), wanted, "{lines:?} {place:?}");
    }
}

/// What a member says, told apart from how it is written.
#[derive(Clone, Debug)]
enum Member {
    Address(IpAddr, Vec<u8>),
    Junk(Vec<u8>),
    Empty(Vec<u8>),
}

impl Member {
    fn text(&self) -> &[u8] {
        match self {
            Self::Address(_, text) | Self::Junk(text) | Self::Empty(text) => text,
        }
    }
}

fn written(address: IpAddr, style: u8) -> Vec<u8> {
    let bracketed = matches!(address, IpAddr::V6(_));
    let text = match style % 7 {
        0 => format!("{address}"),
        1 if bracketed => format!("[{address}]:4711"),
        1 => format!("{address}:4711"),
        2 => format!("  {address}\t"),
        3 if bracketed => format!("\"[{address}]\""),
        3 => format!("\"{address}\""),
        4 if bracketed => format!("{address}%eth0"),
        4 => format!("::ffff:{address}"),
        5 if bracketed => format!("[{address}%1]"),
        5 => format!("[::ffff:{address}]:1"),
        _ => format!("{address}"),
    };
    text.into_bytes()
}

fn any_member() -> impl Strategy<Value = Member> {
    let ipv4 = prop_oneof![
        (1u8..250).prop_map(|last| IpAddr::from([10, 0, 0, last])),
        (1u8..250).prop_map(|last| IpAddr::from([203, 0, 113, last])),
    ];
    let ipv6 = (any::<bool>(), 1u16..9)
        .prop_map(|(near, last)| IpAddr::from([if near { 0xfd00 } else { 0x2001 }, 0xdb8, 0, 0, 0, 0, 0, last]));
    let junk = prop_oneof![
        Just(b"unknown".to_vec()),
        Just(b"_secret".to_vec()),
        Just(b"10.0.0.1\xff".to_vec()),
        Just(b"\xff".to_vec()),
        Just(b"010.0.0.1".to_vec()),
        Just(b"10.0.0.1:".to_vec()),
        Just(b"10.0.0.1 10.0.0.2".to_vec()),
        Just(b"\"10.0.0.1".to_vec()),
        "[a-z0-9.:]{1,12}x".prop_map(String::into_bytes),
    ];
    prop_oneof![
        4 => (prop_oneof![ipv4, ipv6], any::<u8>())
            .prop_map(|(address, style)| Member::Address(address, written(address, style))),
        1 => junk.prop_map(Member::Junk),
        1 => prop_oneof![Just(Vec::new()), Just(b" ".to_vec()), Just(b"\t ".to_vec())].prop_map(Member::Empty),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever comes, the client is the nearest address that is not a trusted proxy's, and nobody where something that
    /// cannot be read is nearer. Only if all are trusted proxies' it is the farthest of them.
    #[test]
    fn the_client_is_never_another_than_the_nearest_untrusted_one(
        lines in prop::collection::vec(prop::collection::vec(any_member(), 0..5), 0..4),
        trusts_ipv6 in any::<bool>(),
    ) {
        let peer = IpAddr::from([10, 0, 0, 254]);
        let trusted = |address: &IpAddr| match address {
            IpAddr::V4(address) => address.octets()[0] == 10,
            IpAddr::V6(address) => trusts_ipv6 && address.segments()[0] == 0xfd00,
        };
        let mut map = HeaderMap::new();
        for line in &lines {
            let text = line.iter().map(Member::text).collect::<Vec<_>>().join(&b","[..]);
            map.append(NAME, HeaderValue::from_bytes(&text).expect("a value"));
        }
        // The oracle: the members in the order written, without what is empty, from the last one.
        let said: Vec<&Member> = lines.iter().flatten().filter(|member| !matches!(member, Member::Empty(_))).collect();
        let mut left = said.clone();
        let wanted = loop {
            match left.pop() {
                None => break match said.first() {
                    Some(Member::Address(address, _)) => Some(*address),
                    Some(_) => unreachable!("it ended there"),
                    None if lines.is_empty() => Some(peer),
                    None => None,
                },
                Some(Member::Address(address, _)) if trusted(address) => {}
                Some(Member::Address(address, _)) => break Some(*address),
                Some(_) => break None,
            }
        };
        let found = origin(&map.get_all(NAME), peer, |address| trusted(&address));
        prop_assert_eq!(found.client.known(), wanted, "{:?}", map);
        if let Some(place) = found.place {
            prop_assert_eq!(place, said.len() - left.len() - 1);
        }
        // What goes on names the same client to whoever trusts the gateway, too.
        let line = appended(&map.get_all(NAME), &HeaderValue::from_static("10.0.0.254"));
        let text = line.to_str().expect("text");
        prop_assert!(!text.split(',').any(|member| member.trim().is_empty()), "{text}");
        let mut next = HeaderMap::new();
        next.append(NAME, line);
        let again = origin(&next.get_all(NAME), IpAddr::from([10, 9, 9, 9]), |address| trusted(&address));
        if !lines.is_empty() {
            prop_assert_eq!(again.client.known(), wanted, "{:?}", next);
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..4)) {
        let mut map = HeaderMap::new();
        for line in lines {
            if let Ok(value) = HeaderValue::from_bytes(&line) {
                map.append(NAME, value);
            }
        }
        let found = origin(&map.get_all(NAME), IpAddr::from([10, 0, 0, 1]), |_| true);
        is_https(&map.get_all(NAME), found.place);
        appended(&map.get_all(NAME), &HeaderValue::from_static("10.0.0.1"));
    }
}
