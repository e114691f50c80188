//! Why an endpoint is never used, whatever its source and its checks say.

/// Why an endpoint is never used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Prohibition {
    /// It is the admin API of this gateway.
    Admin,
    /// It is a listener of this gateway, and its upstream has no `allow_self`.
    Listener,
    /// It is a loopback or link-local address that only tags name, outside `tag_networks`.
    TagNetwork,
}

impl Prohibition {
    /// The reason and the fix, to follow an address or a state.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "never used: it is the admin API of this gateway, which routes must not reach",
            Self::Listener => {
                "never used: it is a listener of this gateway, which would route to itself; register another port, or set \
                 `allow_self = true` on the upstream"
            }
            Self::TagNetwork => {
                "never used: tags may name a loopback or link-local address only within `discovery.consul.tag_networks`"
            }
        }
    }
}
