//! `X-Forwarded-For`: two gateways in a row agree on the client, who is nobody that a stranger made up.
#![no_main]

use std::net::IpAddr;

use fleetgate::exchange::ClientAddress;
use fleetgate::exchange::forwarded::{address, appended, origin};
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;

const NAME: HeaderName = HeaderName::from_static("x-forwarded-for");

fn is_trusted(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address.octets()[0] == 10)
}

fn client(headers: &HeaderMap, peer: &str) -> ClientAddress {
    origin(&headers.get_all(NAME), peer.parse().expect("an address"), is_trusted).client
}

fuzz_target!(|text: &[u8]| {
    let mut headers = HeaderMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        let Ok(line) = HeaderValue::from_bytes(line) else { return };
        headers.append(NAME, line);
    }
    let found = client(&headers, "10.0.0.1");

    // Read aloud: from the right, the first member that is no trusted proxy's, if it can be read.
    let members = text.split(|byte| matches!(byte, b',' | b'\n')).map(<[u8]>::trim_ascii);
    let members = members.filter(|member| !member.is_empty());
    let wanted = members.rev().map(address).find(|member| !member.is_some_and(is_trusted));
    match wanted {
        Some(Some(address)) => assert_eq!(found, ClientAddress::Known(address.to_canonical())),
        Some(None) => assert!(matches!(found, ClientAddress::Unknown { .. }), "{found}"),
        None => assert!(found.known().is_none_or(is_trusted), "{found} is in no line"),
    }

    let line = appended(&headers.get_all(NAME), &HeaderValue::from_static("10.0.0.1"));
    let members = line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    assert!(members.clone().all(|member| !member.is_empty()), "an empty member goes on: {line:?}");
    let mut behind = HeaderMap::new();
    behind.append(NAME, line);
    assert_eq!(client(&behind, "10.0.0.2").known(), found.known(), "the gateway behind sees another client");
});
