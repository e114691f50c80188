//! Defines what happens to headers on the way: hop-by-hop ones removed, forwarding ones set.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Version, header};
use ipnet::IpNet;

use super::outbound::Added;
use super::tls::Presented;
use crate::exchange::forwarded::{Sender, trusts};
use crate::exchange::header::{
    KEEP_ALIVE, PROXY_CONNECTION, VIA, VIA_2, VIA_10, X_FORWARDED_CLIENT_CERT, X_FORWARDED_FOR, X_FORWARDED_HOST,
    X_FORWARDED_PORT, X_FORWARDED_PROTO, X_REAL_IP, X_REQUEST_ID,
};
use crate::exchange::hop::options;
use crate::exchange::protected::{self, Believed};
use crate::exchange::{ClientAddress, ClientCertificate, forwarded, hop};
use crate::snapshot::gate::resembles_framing;

/// Which headers that a gateway cares about a message has, found in one look at all of them. Most messages have
/// few, and each question asked of the map itself would hash a name.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Noted(u32);

impl Noted {
    pub(super) const CONNECTION: Self = Self(1);
    pub(super) const UPGRADE: Self = Self(1 << 1);
    pub(super) const TE: Self = Self(1 << 2);
    pub(super) const TRANSFER_ENCODING: Self = Self(1 << 3);
    /// `keep-alive`, `proxy-connection`, `http2-settings`.
    pub(super) const OLD_HOP: Self = Self(1 << 4);
    pub(super) const EXPECT: Self = Self(1 << 5);
    pub(super) const X_REQUEST_ID: Self = Self(1 << 6);
    /// `forwarded`, `x-forwarded-for` and its kin, and what else a trusted proxy may say of its client.
    pub(super) const CLAIMS: Self = Self(1 << 7);
    pub(super) const CONTENT_LENGTH: Self = Self(1 << 8);
    pub(super) const HOST: Self = Self(1 << 9);
    pub(super) const USER_AGENT: Self = Self(1 << 10);
    pub(super) const ACCEPT: Self = Self(1 << 11);
    pub(super) const TRACEPARENT: Self = Self(1 << 12);
    /// What only looks like `content-length` or `transfer-encoding`.
    pub(super) const LIKE_FRAMING: Self = Self(1 << 13);
    /// What the gate has to look at for the framing of a request.
    pub(super) const FRAMING: Self = Self(Self::TRANSFER_ENCODING.0 | Self::LIKE_FRAMING.0);
    pub(super) const VIA: Self = Self(1 << 14);
    /// What nobody but the gateway says, in any spelling, and other spellings of what proxies say.
    pub(super) const FORGED: Self = Self(1 << 15);
    /// What belongs to one connection only (RFC 9110, 7.6.1).
    pub(super) const HOP_BY_HOP: Self =
        Self(Self::CONNECTION.0 | Self::UPGRADE.0 | Self::TE.0 | Self::TRANSFER_ENCODING.0 | Self::OLD_HOP.0);

    /// What a message of HTTP/2 has no such field for, or none that comes from here.
    pub(super) const OF_HTTP_1: Self = Self(
        Self::CONNECTION.0
            | Self::UPGRADE.0
            | Self::TRANSFER_ENCODING.0
            | Self::OLD_HOP.0
            | Self::HOST.0
            | Self::CONTENT_LENGTH.0,
    );

    pub(super) fn of(headers: &HeaderMap) -> Self {
        headers.keys().fold(Self::default(), |noted, name| Self(noted.0 | Self::one(name).0))
    }

    pub(super) fn one(name: &HeaderName) -> Self {
        match name.as_str() {
            "connection" => Self::CONNECTION,
            "upgrade" => Self::UPGRADE,
            "te" => Self::TE,
            "transfer-encoding" => Self::TRANSFER_ENCODING,
            "keep-alive" | "proxy-connection" | "http2-settings" => Self::OLD_HOP,
            "expect" => Self::EXPECT,
            "x-request-id" => Self::X_REQUEST_ID,
            "forwarded"
            | "x-forwarded-client-cert"
            | "x-forwarded-for"
            | "x-forwarded-host"
            | "x-forwarded-port"
            | "x-forwarded-proto"
            | "x-real-ip" => Self::CLAIMS,
            "content-length" => Self::CONTENT_LENGTH,
            "host" => Self::HOST,
            "user-agent" => Self::USER_AGENT,
            "accept" => Self::ACCEPT,
            "traceparent" => Self::TRACEPARENT,
            "via" => Self::VIA,
            _ => match protected::believed(name) {
                Some(Believed::OfProxies) => Self::CLAIMS,
                Some(Believed::OfNobody) => Self::FORGED,
                None if resembles_framing(name) => Self::LIKE_FRAMING,
                None => Self::default(),
            },
        }
    }

    /// The same without these.
    fn without(self, gone: Self) -> Self {
        Self(self.0 & !gone.0)
    }

    /// Whether any of these is there.
    pub(super) fn has(self, any: Self) -> bool {
        self.0 & any.0 != 0
    }
}

/// The protocol a request asks to upgrade to (RFC 9110, 7.8), in lower case; `None` without `Connection: upgrade`.
pub(super) fn upgrade_of(headers: &HeaderMap, noted: Noted) -> Option<String> {
    if noted.has(Noted::UPGRADE) { hop::upgrade_of(headers) } else { None }
}

/// Removes what belongs to one connection only (RFC 9110, 7.6.1): the fixed list, and what `Connection` names.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap, noted: Noted) {
    if !noted.has(Noted::HOP_BY_HOP) {
        return;
    }
    if noted.has(Noted::CONNECTION) {
        for name in hop::nominated(headers) {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    for (noted_by, name) in [
        (Noted::OLD_HOP, KEEP_ALIVE),
        (Noted::OLD_HOP, PROXY_CONNECTION),
        (Noted::OLD_HOP, HTTP2_SETTINGS),
        (Noted::TE, header::TE),
        (Noted::TRANSFER_ENCODING, header::TRANSFER_ENCODING),
        (Noted::UPGRADE, header::UPGRADE),
    ] {
        if noted.has(noted_by) {
            headers.remove(name);
        }
    }
}

/// Removes what `Connection` names, before middlewares: none of theirs is named away by a client.
pub(super) fn settle_nominated(headers: &mut HeaderMap, noted: Noted) {
    if noted.has(Noted::CONNECTION) {
        hop::settle_nominated(headers);
    }
}

/// `http2-settings`: only beside `Upgrade: h2c`, which is never forwarded.
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Whether `TE` says that trailers are welcome.
pub(super) fn welcomes_trailers(headers: &HeaderMap, noted: Noted) -> bool {
    noted.has(Noted::TE) && options(headers, header::TE).any(|option| option.eq_ignore_ascii_case(b"trailers"))
}

/// Whether a field may stand behind a body: not what frames, routes, authenticates or describes the message, which an
/// endpoint that merges trailers into headers would believe (RFC 9110, 6.5.1).
pub(super) fn may_trail(name: &HeaderName) -> bool {
    const HEAD_ONLY: Noted = Noted(
        Noted::HOP_BY_HOP.0
            | Noted::EXPECT.0
            | Noted::X_REQUEST_ID.0
            | Noted::CLAIMS.0
            | Noted::FORGED.0
            | Noted::CONTENT_LENGTH.0
            | Noted::LIKE_FRAMING.0
            | Noted::HOST.0,
    );
    let described = [
        header::AUTHORIZATION,
        header::CACHE_CONTROL,
        header::CONTENT_ENCODING,
        header::CONTENT_RANGE,
        header::CONTENT_TYPE,
        header::COOKIE,
        header::MAX_FORWARDS,
        header::PROXY_AUTHORIZATION,
        header::RANGE,
        header::TRAILER,
    ];
    !Noted::one(name).has(HEAD_ONLY) && !described.contains(name)
}

/// How the gateway says in `Via` that it was here (RFC 9110, 7.6.3).
pub(super) fn via(received: Version) -> HeaderValue {
    match received {
        Version::HTTP_10 => VIA_10,
        Version::HTTP_2 => VIA_2,
        _ => VIA,
    }
}

/// Whether a request came through so many gateways like this one that it must go in a circle.
pub(super) fn goes_in_circles(headers: &HeaderMap, noted: Noted) -> bool {
    noted.has(Noted::VIA) && hop::goes_in_circles(headers)
}

/// What is known of a client connection, ready to be put into each of its requests.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) address: IpAddr,
    text: HeaderValue,
    trusted: bool,
    proto: HeaderValue,
    /// Whether its certificate was asked for, so that nobody else's word on it counts.
    verified: bool,
    certificate: Option<Presented>,
}

impl Peer {
    pub(super) fn new(address: IpAddr, trusted_proxies: &[IpNet]) -> Self {
        let address = address.to_canonical();
        // An address is always a valid header value.
        let text = HeaderValue::from_str(&address.to_string()).unwrap_or(HeaderValue::from_static("unknown"));
        let trusted = trusts(trusted_proxies, address);
        Self { address, text, trusted, proto: HTTP, verified: false, certificate: None }
    }

    /// The same, over TLS. `certificate`: its certificate was asked for, and the one it showed.
    pub(super) fn over_tls(self, certificate: Option<Option<Presented>>) -> Self {
        Self { proto: HTTPS, verified: certificate.is_some(), certificate: certificate.flatten(), ..self }
    }

    /// The certificate that it showed.
    pub(super) fn certificate(&self) -> Option<Arc<ClientCertificate>> {
        self.certificate.as_ref().map(|presented| Arc::clone(&presented.certificate))
    }

    /// Whether it speaks TLS with us.
    pub(super) fn is_over_tls(&self) -> bool {
        self.proto == HTTPS
    }

    /// Who sent a request, and whether it spoke TLS with whoever is trusted and nearest to it.
    pub(super) fn sender(&self, headers: &HeaderMap, noted: Noted, trusted_proxies: &[IpNet]) -> Sender {
        let is_secure = self.is_over_tls();
        if !self.trusted || !noted.has(Noted::CLAIMS) {
            return Sender { client: ClientAddress::Known(self.address), is_secure };
        }
        forwarded::sender(headers, self.address, trusted_proxies, is_secure)
    }

    /// Removes what this peer may not say, before anything reads it: what tells who the client is, unless the peer is
    /// trusted; who the consumer is, and all of these in another spelling, whoever says it. Returns what is left.
    pub(super) fn settle_claims(&self, headers: &mut HeaderMap, noted: Noted) -> Noted {
        let refused = if self.trusted { Noted::FORGED } else { Noted(Noted::FORGED.0 | Noted::CLAIMS.0) };
        let is_verified = self.verified && noted.has(Noted::CLAIMS);
        if is_verified || noted.has(refused) {
            let standing = protected::Standing { is_trusted: self.trusted, shows_certificate: self.verified };
            protected::settle_claims(headers, standing);
        }
        noted.without(refused)
    }

    /// Adds the forwarding headers. Those of an untrusted peer are replaced, whatever it claims.
    pub(super) fn forward(
        &self,
        headers: &mut HeaderMap,
        noted: Noted,
        host: Option<&HeaderValue>,
        is_secure: bool,
        added: &mut Added,
    ) {
        if !noted.has(Noted::CLAIMS) {
            added.put(X_FORWARDED_FOR, self.text.clone());
            added.put(X_FORWARDED_PROTO, self.proto.clone());
            if let Some(host) = host {
                added.put(X_FORWARDED_HOST, host.clone());
            }
            if let Some(Presented { header, .. }) = &self.certificate {
                added.put(X_FORWARDED_CLIENT_CERT, header.clone());
            }
            return;
        }
        let line = match self.trusted {
            true => forwarded::appended(&headers.get_all(X_FORWARDED_FOR), &self.text),
            false => self.text.clone(),
        };
        headers.remove(X_FORWARDED_FOR);
        if !self.trusted {
            for name in [header::FORWARDED, X_FORWARDED_HOST, X_FORWARDED_PORT, X_FORWARDED_PROTO, X_REAL_IP] {
                headers.remove(name);
            }
        }
        if !self.trusted || self.verified {
            headers.remove(X_FORWARDED_CLIENT_CERT);
        }
        if let Some(Presented { header, .. }) = &self.certificate {
            added.put(X_FORWARDED_CLIENT_CERT, header.clone());
        }
        added.put(X_FORWARDED_FOR, line);
        // One line with one protocol, which every service reads alike.
        if !forwarded::is_plain_proto(&headers.get_all(X_FORWARDED_PROTO)) {
            headers.remove(X_FORWARDED_PROTO);
            added.put(X_FORWARDED_PROTO, if is_secure { HTTPS } else { HTTP });
        }
        if let Some(host) = host
            && !headers.contains_key(X_FORWARDED_HOST)
        {
            added.put(X_FORWARDED_HOST, host.clone());
        }
    }
}

const HTTP: HeaderValue = HeaderValue::from_static("http");
const HTTPS: HeaderValue = HeaderValue::from_static("https");

/// Keeps a valid request id, or makes one of 128 random bits.
pub(super) fn request_id(
    headers: &mut HeaderMap,
    noted: Noted,
    added: &mut Added,
    mut random: impl FnMut() -> u64,
) -> HeaderValue {
    if noted.has(Noted::X_REQUEST_ID)
        && let Some(id) = protected::settle_request_id(headers)
    {
        return id;
    }
    let mut text = [0u8; 32];
    let (high, low) = text.split_at_mut(16);
    high.copy_from_slice(&hexadecimal(random()));
    low.copy_from_slice(&hexadecimal(random()));
    // Hexadecimal digits are a valid value.
    let id = HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("none"));
    added.put(X_REQUEST_ID, id.clone());
    id
}

/// The 16 digits of a number, all at once: each half byte becomes a byte, and those above 9 are moved to `a`.
fn hexadecimal(number: u64) -> [u8; 16] {
    const NIBBLES: u128 = 0x0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f;
    const ONES: u128 = 0x0101_0101_0101_0101_0101_0101_0101_0101;
    // Spread 64 bits over 128, half byte by half byte.
    let mut spread = u128::from(number);
    spread = (spread | (spread << 32)) & 0x0000_0000_ffff_ffff_0000_0000_ffff_ffff;
    spread = (spread | (spread << 16)) & 0x0000_ffff_0000_ffff_0000_ffff_0000_ffff;
    spread = (spread | (spread << 8)) & 0x00ff_00ff_00ff_00ff_00ff_00ff_00ff_00ff;
    spread = (spread | (spread << 4)) & NIBBLES;
    let above_nine = ((spread + ONES * 6) >> 4) & ONES;
    (spread + ONES * u128::from(b'0') + above_nine * u128::from(b'a' - b'0' - 10)).to_be_bytes()
}

/// The trace id of a `traceparent` (W3C Trace Context, 3.2): 32 hexadecimal digits, not all zero.
pub(super) fn trace_id(value: &HeaderValue) -> Option<&str> {
    let text = value.to_str().ok()?;
    let id = text.get(3..35)?;
    let fits = text.as_bytes().get(2) == Some(&b'-')
        && matches!(text.as_bytes().get(35), Some(b'-'))
        && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        && id.bytes().any(|byte| byte != b'0');
    fits.then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value")))
            .collect()
    }

    #[test]
    fn what_belongs_to_a_connection_stays_there() {
        let mut map = headers(&[
            ("connection", "close, X-Secret, host, x-request-id"),
            ("x-secret", "1"),
            ("x-request-id", "7"),
            ("host", "a"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "close"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABk"),
            ("transfer-encoding", "chunked"),
            ("trailer", "x-sum"),
            ("x-kept", "1"),
        ]);
        let noted = Noted::of(&map);
        remove_hop_by_hop(&mut map, noted);
        let mut left: Vec<_> = map.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["host", "trailer", "x-kept", "x-request-id"]);
    }

    /// All headers that an endpoint gets.
    fn with(mut map: HeaderMap, added: &Added) -> HeaderMap {
        for (name, value) in added.iter() {
            map.append(name, value.clone());
        }
        map
    }

    fn trusted() -> Vec<IpNet> {
        vec!["10.0.0.0/8".parse().expect("a network")]
    }

    fn forwarded(peer: &Peer, claimed: &HeaderMap, host: &HeaderValue) -> HeaderMap {
        let (mut map, mut added) = (claimed.clone(), Added::default());
        let is_secure = peer.sender(claimed, Noted::of(claimed), &trusted()).is_secure;
        peer.forward(&mut map, Noted::of(claimed), Some(host), is_secure, &mut added);
        let map = with(map, &added);
        assert!(map.keys().all(|name| map.get_all(name).iter().count() == 1), "each of them once: {map:?}");
        map
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let trusted = trusted();
        let claimed = headers(&[
            ("x-forwarded-for", "6.6.6.6, 1.2.3.4, 10.0.0.9"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "public.example"),
            ("forwarded", "for=6.6.6.6"),
            ("x-real-ip", "6.6.6.6"),
            ("x-forwarded-client-cert", "Hash=1"),
        ]);
        let host = HeaderValue::from_static("a.example");

        let proxy = Peer::new("10.0.0.1".parse().expect("an address"), &trusted);
        let sender = proxy.sender(&claimed, Noted::of(&claimed), &trusted);
        assert_eq!((sender.client.to_string().as_str(), sender.is_secure), ("1.2.3.4", true));
        let map = forwarded(&proxy, &claimed, &host);
        assert_eq!(map[X_FORWARDED_FOR], "6.6.6.6, 1.2.3.4, 10.0.0.9, 10.0.0.1");
        assert_eq!(
            (&map[X_FORWARDED_PROTO], &map[X_FORWARDED_HOST]),
            (&"https".parse().expect("a value"), &"public.example".parse().expect("a value"))
        );
        assert_eq!(map[X_FORWARDED_CLIENT_CERT], "Hash=1");
        // Where certificates are asked for, nobody else tells of them.
        let verified = |shown| Peer::new(proxy.address, &trusted).over_tls(Some(shown));
        let shown = HeaderValue::from_static("Hash=2");
        let presented = Presented { header: shown.clone(), certificate: Arc::default() };
        let map = forwarded(&verified(Some(presented)), &claimed, &host);
        assert_eq!(map.get_all(X_FORWARDED_CLIENT_CERT).iter().collect::<Vec<_>>(), [&shown]);
        assert!(!forwarded(&verified(None), &claimed, &host).contains_key(X_FORWARDED_CLIENT_CERT));

        let stranger = Peer::new("::ffff:9.9.9.9".parse().expect("an address"), &trusted);
        let sender = stranger.sender(&claimed, Noted::of(&claimed), &trusted);
        assert_eq!((sender.client.to_string().as_str(), sender.is_secure), ("9.9.9.9", false));
        for claimed in [claimed, HeaderMap::new()] {
            let map = forwarded(&stranger, &claimed, &host);
            assert_eq!(map[X_FORWARDED_FOR], "9.9.9.9");
            assert_eq!((&map[X_FORWARDED_PROTO], &map[X_FORWARDED_HOST]), (&HTTP, &host));
            for name in [header::FORWARDED, X_REAL_IP, X_FORWARDED_CLIENT_CERT] {
                assert!(!map.contains_key(&name), "{name}");
            }
        }
    }

    #[test]
    fn strangers_say_nothing_of_who_they_are_and_proxies_only_by_its_name() {
        let claimed = headers(&[
            ("x-forwarded-for", "6.6.6.6"),
            ("x_forwarded_for", "6.6.6.6"),
            ("x-forwarded-prefix", "/evil"),
            ("x-original-url", "/admin"),
            ("x-rewrite-url", "/admin"),
            ("x-consumer", "root"),
            ("x.consumer", "root"),
            ("x-request-id", "7"),
            ("x_request_id", "8"),
            ("x-plain", "1"),
        ]);
        let left = |address: &str| {
            let (mut map, peer) = (claimed.clone(), Peer::new(address.parse().expect("an address"), &trusted()));
            let noted = peer.settle_claims(&mut map, Noted::of(&claimed));
            assert!(!noted.has(Noted::FORGED) && noted.has(Noted::X_REQUEST_ID));
            assert_eq!(noted.has(Noted::CLAIMS), Noted::of(&map).has(Noted::CLAIMS));
            let mut names: Vec<String> = map.keys().map(HeaderName::to_string).collect();
            names.sort_unstable();
            names.join(" ")
        };
        assert_eq!(left("9.9.9.9"), "x-plain x-request-id");
        let proxys = "x-forwarded-for x-forwarded-prefix x-original-url x-plain x-request-id x-rewrite-url";
        assert_eq!(left("10.0.0.1"), proxys);
        for name in ["x-consumer", "x_consumer", "x-forwarded-user", "x_forwarded_for", "x_request_id", "x-real-ip"] {
            assert!(!may_trail(&HeaderName::from_static(name)), "{name}");
        }
        assert!(may_trail(&HeaderName::from_static("x-sum")));
    }

    #[test]
    fn a_byte_that_is_no_text_hides_no_member_of_a_list() {
        let line = |bytes: &'static [u8]| HeaderValue::from_bytes(bytes).expect("a value");
        let mut map = headers(&[("x-secret", "1"), ("x-forwarded-for", "6.6.6.6"), ("upgrade", "websocket")]);
        map.append("connection", line(b"\xff, x-secret, upgrade, x-forwarded-for"));
        map.append("te", line(b"\xff, trailers"));
        let noted = Noted::of(&map);
        assert!(welcomes_trailers(&map, noted) && upgrade_of(&map, noted).is_some());
        remove_hop_by_hop(&mut map, noted);
        assert!(!map.contains_key("x-secret"));
        assert!(map.contains_key("x-forwarded-for"), "a client names away nothing of what its proxy says");
    }

    #[test]
    fn endpoints_get_one_protocol_and_one_list_of_addresses() {
        let proxy = Peer::new("10.0.0.1".parse().expect("an address"), &trusted());
        let over_tls = Peer::new(proxy.address, &trusted()).over_tls(None);
        let host = HeaderValue::from_static("a.example");
        for (peer, lines, wanted) in [
            (&proxy, &["https"][..], "https"),
            (&proxy, &["http"], "http"),
            (&proxy, &["wss"], "wss"),
            (&proxy, &["https, http"], "https"),
            (&proxy, &["https", "http"], "https"),
            (&proxy, &["http, https"], "http"),
            (&proxy, &["HTTPS"], "https"),
            (&proxy, &["https,"], "https"),
            (&proxy, &["ftp"], "http"),
            (&over_tls, &["ftp"], "https"),
            (&over_tls, &["http"], "http"),
            (&over_tls, &[], "https"),
        ] {
            let lines = lines.iter().map(|line| ("x-forwarded-proto", *line));
            let claimed = headers(&lines.chain([("x-real-ip", "6.6.6.6")]).collect::<Vec<_>>());
            assert_eq!(forwarded(peer, &claimed, &host)[X_FORWARDED_PROTO], wanted, "{claimed:?}");
        }
        let claimed = headers(&[("x-forwarded-for", "203.0.113.1,"), ("x-forwarded-for", "")]);
        assert_eq!(forwarded(&proxy, &claimed, &host)[X_FORWARDED_FOR], "203.0.113.1, 10.0.0.1");
    }

    #[test]
    fn request_ids_are_kept_when_valid() {
        let mut kept = headers(&[("x-request-id", "abc-123")]);
        let (noted, mut added) = (Noted::of(&kept), Added::default());
        assert_eq!(request_id(&mut kept, noted, &mut added, || 0), "abc-123");
        assert_eq!(with(kept, &added).get_all(X_REQUEST_ID).iter().collect::<Vec<_>>(), ["abc-123"]);
        for bad in ["", "has space", &"x".repeat(129)] {
            let mut map = headers(&[("x-request-id", bad)]);
            let (noted, mut added) = (Noted::of(&map), Added::default());
            let made = request_id(&mut map, noted, &mut added, || 0x0123_4567_89ab_cdef);
            assert_eq!(made, "0123456789abcdef0123456789abcdef");
            assert_eq!(with(map, &added).get_all(X_REQUEST_ID).iter().collect::<Vec<_>>(), [made]);
        }
    }

    #[test]
    fn trace_ids_are_read() {
        let value = |text| HeaderValue::from_static(text);
        let good = value("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        assert_eq!(trace_id(&good), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        for bad in [
            "",
            "00-",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-x",
        ] {
            assert_eq!(trace_id(&value(bad)), None, "{bad}");
        }
    }
}
