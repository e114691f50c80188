//! What proxies in front say of a request's client: `X-Forwarded-For` and `X-Forwarded-Proto`, read as bytes and from the
//! right, where the nearest proxy writes.
//!
//! Proxies append to what their client sent, so everything left of the nearest address that no trusted proxy has may be
//! made up, and is never looked at. What cannot be read on the way there leaves the client unknown: to skip it, or to stop
//! before it, would give the client an address that somebody else chose, or the proxy's own.
//!
//! Empty members are ignored, as RFC 9110, 5.6.1.2 has it for lists. That is safe: an empty member names nobody, and what
//! a client puts into the line stands left of what the trusted proxy appends. A line with nothing but empty members names
//! nobody either, so its client is unknown.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::header::GetAll;
use http::{HeaderMap, HeaderValue};
use ipnet::IpNet;

use super::client::ClientAddress;
use super::header::{X_FORWARDED_FOR, X_FORWARDED_PROTO};

/// Who sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// The client.
    pub client: ClientAddress,
    /// Whether it speaks TLS, with the gateway or with a trusted proxy before it.
    pub is_secure: bool,
}

/// Who sent a request that the trusted proxy `peer` forwards. `is_secure`: where the proxy does not say.
pub fn sender(headers: &HeaderMap, peer: IpAddr, trusted_proxies: &[IpNet], is_secure: bool) -> Sender {
    let lines = headers.get_all(X_FORWARDED_FOR);
    let origin = origin(&lines, peer, |address| trusts(trusted_proxies, address));
    let is_https = is_https(&headers.get_all(X_FORWARDED_PROTO), origin.place);
    Sender { client: origin.client, is_secure: is_https.unwrap_or(is_secure) }
}

/// Whether an address in its canonical form is a trusted proxy's.
pub fn trusts(proxies: &[IpNet], address: IpAddr) -> bool {
    proxies.iter().any(|network| network.contains(&address))
}

/// Who sent a request, as a trusted proxy tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The client.
    pub client: ClientAddress,
    /// Which member of the list it is, counted from the right; `None`: every member is a trusted proxy, or there is none.
    pub place: Option<usize>,
}

impl Origin {
    /// A client that connects to the gateway itself.
    pub fn direct(peer: IpAddr) -> Self {
        Self { client: ClientAddress::Known(peer), place: None }
    }
}

/// Who sent a request that the trusted proxy `peer` forwards with these lines of `X-Forwarded-For`.
pub fn origin(lines: &GetAll<'_, HeaderValue>, peer: IpAddr, is_trusted: impl Fn(IpAddr) -> bool) -> Origin {
    let unknown = ClientAddress::Unknown { peer };
    let mut farthest = None;
    for (place, member) in members(lines).enumerate() {
        let Some(address) = address(member) else { return Origin { client: unknown, place: Some(place) } };
        let client = ClientAddress::Known(address);
        if !is_trusted(address) {
            return Origin { client, place: Some(place) };
        }
        farthest = Some(client);
    }
    let is_absent = lines.iter().next().is_none();
    let otherwise = if is_absent { ClientAddress::Known(peer) } else { unknown };
    Origin { client: farthest.unwrap_or(otherwise), place: None }
}

/// Whether the client spoke TLS with the trusted proxy that it connected to, by these lines of `X-Forwarded-Proto`; `None`
/// where they do not say.
///
/// Most proxies replace the line, and its one member counts. Where each appends, as they do to `X-Forwarded-For`, the
/// member in the client's place counts: what stands left of it is the client's own word. Without a client in that list
/// every member is a trusted proxy's, and the first one is about the client.
pub fn is_https(lines: &GetAll<'_, HeaderValue>, place: Option<usize>) -> Option<bool> {
    let most = place.map_or(usize::MAX, |place| place.saturating_add(1));
    let member = members(lines).take(most).last()?;
    let member = unquoted(member)?;
    let is = |name: &str| member.eq_ignore_ascii_case(name.as_bytes());
    // Traefik says `ws` and `wss` of WebSockets.
    if is("https") || is("wss") {
        Some(true)
    } else if is("http") || is("ws") {
        Some(false)
    } else {
        None
    }
}

/// Whether these lines are one line with nothing but one protocol, as services read it.
pub fn is_plain_proto(lines: &GetAll<'_, HeaderValue>) -> bool {
    let mut lines = lines.iter();
    let (first, second) = (lines.next(), lines.next());
    let plain = [&b"https"[..], b"http", b"wss", b"ws"];
    second.is_none() && first.is_some_and(|line| plain.contains(&line.as_bytes()))
}

/// The line that goes on: what came, without its empty members, and with the peer's address behind it. A member that no
/// header of a proxy has (control characters, bytes beyond ASCII) goes on as `unknown`, in its place, and so do lines with
/// nothing but empty members: they name no client, and to the next gateway the peer must not look like one.
pub fn appended(lines: &GetAll<'_, HeaderValue>, peer: &HeaderValue) -> HeaderValue {
    let mut line = Vec::with_capacity(lines.iter().map(HeaderValue::len).sum::<usize>() + peer.len() + 4);
    for member in lines.iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(trimmed) {
        if member.is_empty() {
            continue;
        }
        let is_text = member.iter().all(|byte| matches!(byte, b' '..=b'~'));
        line.extend_from_slice(if is_text { member } else { ClientAddress::UNKNOWN.as_bytes() });
        line.extend_from_slice(b", ");
    }
    if line.is_empty() && lines.iter().next().is_some() {
        line.extend_from_slice(ClientAddress::UNKNOWN.as_bytes());
        line.extend_from_slice(b", ");
    }
    line.extend_from_slice(peer.as_bytes());
    // Nothing but visible ASCII: always a header's value.
    HeaderValue::from_maybe_shared(bytes::Bytes::from(line)).unwrap_or_else(|_| peer.clone())
}

/// The members of a list over several lines from the right, without empty ones.
///
/// A comma in quotes divides, too: no address has one, and where a quote begins is the client's to say.
fn members<'h>(lines: &GetAll<'h, HeaderValue>) -> impl Iterator<Item = &'h [u8]> {
    let lines = lines.iter().rev().flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    lines.map(trimmed).filter(|member| !member.is_empty())
}

fn trimmed(member: &[u8]) -> &[u8] {
    member.trim_ascii()
}

/// What is in quotes, or stands without them; `None` where they do not close.
fn unquoted(member: &[u8]) -> Option<&[u8]> {
    match member.strip_prefix(b"\"") {
        Some(rest) => rest.strip_suffix(b"\""),
        None => Some(member),
    }
}

/// The address in a member of `X-Forwarded-For`, in its canonical form: with a port, brackets, a zone or quotes, as
/// proxies write them. `None`: it cannot be read, or is not told (`unknown`, `_hidden`).
pub fn address(member: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(unquoted(trimmed(member))?).ok()?;
    if let Some(rest) = text.strip_prefix('[') {
        let (inside, behind) = rest.split_once(']')?;
        let is_whole = behind.is_empty() || behind.strip_prefix(':').is_some_and(is_port);
        return if is_whole { ipv6(inside) } else { None };
    }
    // No IPv6 address has less than two colons, and an IPv4 address with a port has one.
    match text.split_once(':') {
        None => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        Some((_, behind)) if behind.contains(':') => ipv6(text),
        Some((before, port)) if is_port(port) => before.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        Some(_) => None,
    }
}

/// An IPv6 address, perhaps with a zone (RFC 4007, 11), which means something to the proxy alone.
fn ipv6(text: &str) -> Option<IpAddr> {
    let (address, zone) = text.split_once('%').map_or((text, None), |(address, zone)| (address, Some(zone)));
    let is_zone = |zone: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'~');
        !zone.is_empty() && zone.bytes().all(fits)
    };
    if zone.is_some_and(|zone| !is_zone(zone)) {
        return None;
    }
    Some(IpAddr::V6(address.parse::<Ipv6Addr>().ok()?).to_canonical())
}

fn is_port(text: &str) -> bool {
    text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests;
