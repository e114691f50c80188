//! Defines how the text of one item becomes its spec.

use crate::spec::document::Kind;
use crate::spec::name::Name;
use crate::spec::problem::Problem;
use crate::spec::route::RouteSpec;
use crate::spec::upstream::UpstreamSpec;

use super::format::Format;

/// A kind of item that documents define.
pub trait DecodeItem: PartialEq + Sized {
    /// Its kind.
    const KIND: Kind;
}

impl DecodeItem for RouteSpec {
    const KIND: Kind = Kind::Route;
}

impl DecodeItem for UpstreamSpec {
    const KIND: Kind = Kind::Upstream;
}

/// Decodes the body of one item. Without a format the text tells: JSON when it starts with `{`, else TOML.
///
/// # Errors
/// Every problem of the item, each at `PLACE:line:column`.
pub fn decode_item<T: DecodeItem>(
    _name: &Name,
    _bytes: &[u8],
    _format: Option<Format>,
    place: &str,
) -> Result<T, Vec<Problem>> {
    Err(vec![Problem::new(place, T::KIND.as_str(), "not decoded yet")])
}
