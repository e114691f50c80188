//! Networks and addresses as people write them, in the form that client addresses have.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The bits before the IPv4 address in an IPv4-mapped one, `::ffff:a.b.c.d` (RFC 4291, 2.5.5.2).
const MAPPED_BITS: u8 = 96;

/// The first IPv4-mapped address.
const MAPPED: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0);

/// A network, or an address for it alone. IPv4-mapped ones become IPv4: so do the addresses of clients, and a list that
/// kept the mapped form would match nobody.
///
/// # Errors
/// A text that is neither, or a network that has IPv4-mapped addresses and others.
pub(crate) fn parse_network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    let network = text
        .parse::<IpNet>()
        .or_else(|_| address())
        .map_err(|_| format!("`{text}` is not a network such as `10.0.0.0/8`"))?;
    match network {
        IpNet::V4(_) => Ok(network),
        IpNet::V6(network) => canonical(network).ok_or_else(|| {
            format!(
                "`{text}` has IPv4-mapped addresses and others: write the IPv4 network, such as `10.0.0.0/8` for \
                 `::ffff:10.0.0.0/104`, or `0.0.0.0/0` for all of IPv4"
            )
        }),
    }
}

/// `None` for a network of which only a part is IPv4-mapped. `::/80` and shorter ones have that part by the way: they mean
/// IPv6, as `::/0` does.
fn canonical(network: Ipv6Net) -> Option<IpNet> {
    let bits = network.prefix_len();
    match network.addr().to_ipv4_mapped() {
        Some(address) => {
            let bits = bits.checked_sub(MAPPED_BITS)?;
            Ipv4Net::new(address, bits).ok().map(IpNet::V4)
        }
        None if bits > 80 && network.contains(&MAPPED) => None,
        None => Some(IpNet::V6(network)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_in_the_form_that_client_addresses_have() {
        for (text, wanted) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("127.0.0.1", "127.0.0.1/32"),
            ("::1", "::1/128"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::/0", "::/0"),
            ("::/64", "::/64"),
            ("::ffff:127.0.0.77", "127.0.0.77/32"),
            ("::ffff:7f00:4d", "127.0.0.77/32"),
            ("0:0:0:0:0:FFFF:127.0.0.77", "127.0.0.77/32"),
            ("::ffff:127.0.0.77/128", "127.0.0.77/32"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:a00:0/104", "10.0.0.0/8"),
            ("::ffff:10.1.2.3/104", "10.1.2.3/8"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            // These look like mapped ones.
            ("::fffe:0:0/96", "::fffe:0:0/96"),
            ("::7f00:4d", "::7f00:4d/128"),
            ("::ffff:0:7f00:4d", "::ffff:0:7f00:4d/128"),
            ("64:ff9b::10.0.0.0/104", "64:ff9b::a00:0/104"),
        ] {
            let read = parse_network(text).expect(text);
            assert_eq!(read, wanted.parse::<IpNet>().expect(wanted), "{text}");
        }
    }

    #[test]
    fn networks_that_mix_mapped_addresses_with_others_are_mistakes() {
        for text in ["::ffff:0:0/90", "::ffff:10.0.0.0/95", "::ffff:10.0.0.0/8", "::fffe:0:0/95", "::ffff:0:0/0"] {
            let error = parse_network(text).expect_err(text);
            assert!(error.starts_with(&format!("`{text}` has IPv4-mapped addresses and others: write")), "{error}");
        }
        for text in ["", "a", "10.0.0.0/33", "::ffff:10.0.0.0/129", "fe80::1%eth0", "10.0.0.0/8 "] {
            assert!(parse_network(text).expect_err(text).contains("is not a network such as"), "{text}");
        }
    }

    #[test]
    fn a_mapped_network_has_the_clients_of_its_ipv4_form() {
        for text in ["::ffff:10.1.2.3/104", "::ffff:10.0.0.0/104", "10.0.0.0/8"] {
            let network = parse_network(text).expect(text);
            let has = |client: &str| network.contains(&client.parse::<IpAddr>().expect(client).to_canonical());
            assert!(has("10.9.9.9") && has("::ffff:10.9.9.9") && !has("11.0.0.1") && !has("::1"), "{text}");
        }
    }
}
