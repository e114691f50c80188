//! Defines how the text of one item becomes its spec.

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use crate::spec::certificate::CertificateSpec;
use crate::spec::consumer::ConsumerSpec;
use crate::spec::document::Kind;
use crate::spec::middleware::MiddlewareSpec;
use crate::spec::problem::{Problem, sort};
use crate::spec::route::RouteSpec;
use crate::spec::upstream::UpstreamSpec;

use super::attached::Attached;
use super::certificate::RawCertificate;
use super::consumer::RawConsumer;
use super::format::Format;
use super::middleware::RawMiddleware;
use super::parse::{SyntaxError, parse_bytes};
use super::reader::{Mistake, Reading, read, resembles};
use super::route::RawRoute;
use super::scope::{Reference, Referent, Report, Scope};
use super::tree::Node;
use super::upstream::RawUpstream;

/// A kind of item that documents define.
pub trait DecodeItem: PartialEq + Sized {
    /// Its kind.
    const KIND: Kind;
    /// How it is written: a serde mirror without required fields.
    type Raw: DeserializeOwned + JsonSchema;
    /// Makes the item of its raw form, reporting what is wrong; what it returns counts only without a report.
    fn resolve(raw: Self::Raw, scope: &Scope<'_>) -> Option<Self>;
    /// What blocks the requests of an item that cannot be used, where its text says which those are. Items that take no
    /// requests have none.
    fn stand_in(_flawed: Self, _flaws: &Flaws<'_>) -> Option<Self> {
        None
    }
    /// What blocks the requests of an item that may be served elsewhere, and is not here.
    fn blocking(&self) -> Option<Self> {
        None
    }
    /// Whether nothing protects it.
    fn is_open(&self) -> bool {
        false
    }
    /// Whether another text, which names these, asks for more protection than this form has.
    fn has_less_than(&self, _names: &[Reference]) -> bool {
        false
    }
}

impl DecodeItem for RouteSpec {
    const KIND: Kind = Kind::Route;
    type Raw = RawRoute;

    fn resolve(raw: RawRoute, scope: &Scope<'_>) -> Option<Self> {
        raw.resolve(scope)
    }

    fn stand_in(flawed: Self, flaws: &Flaws<'_>) -> Option<Self> {
        let Self { matching, priority, listeners, .. } = flawed;
        let is_known = flaws.has("match") && ["match", "priority", "listeners"].into_iter().all(|key| flaws.spare(key));
        is_known.then(|| Self::blocked(matching, priority, listeners))
    }

    fn blocking(&self) -> Option<Self> {
        Some(Self::blocking(self))
    }

    fn is_open(&self) -> bool {
        self.all_middlewares().next().is_none()
    }

    fn has_less_than(&self, names: &[Reference]) -> bool {
        names.iter().any(|reference| match &reference.to {
            Referent::Middleware(named) => self.all_middlewares().all(|own| own != named),
            Referent::Upstream(_) | Referent::Subset(..) | Referent::Listener(_) | Referent::Provider(_) => false,
        })
    }
}

impl DecodeItem for UpstreamSpec {
    const KIND: Kind = Kind::Upstream;
    type Raw = RawUpstream;

    fn resolve(raw: RawUpstream, scope: &Scope<'_>) -> Option<Self> {
        raw.resolve(scope)
    }
}

impl DecodeItem for MiddlewareSpec {
    const KIND: Kind = Kind::Middleware;
    type Raw = RawMiddleware;

    fn resolve(raw: RawMiddleware, scope: &Scope<'_>) -> Option<Self> {
        raw.resolve(scope)
    }
}

impl DecodeItem for CertificateSpec {
    const KIND: Kind = Kind::Certificate;
    type Raw = RawCertificate;

    fn resolve(raw: RawCertificate, scope: &Scope<'_>) -> Option<Self> {
        raw.resolve(scope)
    }
}

impl DecodeItem for ConsumerSpec {
    const KIND: Kind = Kind::Consumer;
    type Raw = RawConsumer;

    fn resolve(raw: RawConsumer, scope: &Scope<'_>) -> Option<Self> {
        raw.resolve(scope)
    }
}

/// What decoding one item gave.
#[derive(Debug)]
pub struct Decoded<T> {
    /// The item, or every problem it has.
    pub item: Result<T, Vec<Problem>>,
    /// See [`DecodeItem::stand_in`]; only without an item.
    pub stand_in: Option<T>,
    /// What it refers to, as far as that could be read.
    pub references: Vec<Reference>,
}

/// Decodes the body of one item that a registry holds. Without a format the text tells: JSON when it starts with `{`, else TOML.
///
/// # Errors
/// Every problem of the item, each at `PLACE:line:column`.
pub fn decode_item<T: DecodeItem>(bytes: &[u8], format: Option<Format>, place: &str) -> Result<T, Vec<Problem>> {
    decode_body(bytes, format, place).item
}

/// As [`decode_item`], with what can be told of an item that cannot be used.
pub fn decode_body<T: DecodeItem>(bytes: &[u8], format: Option<Format>, place: &str) -> Decoded<T> {
    let problems = if bytes.trim_ascii().is_empty() {
        let kind = T::KIND.noun();
        vec![Problem::new(place, "", format!("empty value: delete the key to remove the {kind}"))]
    } else {
        match parse_bytes(bytes, format) {
            Ok(node) => return decode_node(&node, "", place, None),
            Err(errors) => {
                let problem = |error: SyntaxError| Problem::new(error.spot.in_origin(place), "", error.text);
                errors.into_iter().map(problem).collect()
            }
        }
    };
    Decoded { item: Err(problems), stand_in: None, references: Vec::new() }
}

/// Decodes an item that was parsed already; `key` is its dotted key in its text, or empty. `attached`: it may name
/// files.
pub fn decode_node<T: DecodeItem>(node: &Node, key: &str, origin: &str, attached: Option<Attached<'_>>) -> Decoded<T> {
    let Reading { raw, broken, mistakes } = read::<T::Raw>(node, key);
    let report = Report::new(origin, &broken).with_attached(attached);
    let spec = raw.and_then(|raw| T::resolve(raw, &report.root(node, key)));
    let (mut problems, references) = report.into_parts();
    let problem = |mistake: Mistake| Problem::new(mistake.spot.in_origin(origin), mistake.key, mistake.text);
    problems.extend(mistakes.into_iter().map(problem));
    sort(&mut problems);
    let (item, stand_in) = match spec {
        Some(spec) if problems.is_empty() => (Ok(spec), None),
        None if problems.is_empty() => {
            (Err(vec![Problem::new(node.spot.in_origin(origin), key, "cannot be read")]), None)
        }
        Some(flawed) => {
            let stand_in = T::stand_in(flawed, &Flaws { node, key, problems: &problems });
            (Err(problems), stand_in)
        }
        None => (Err(problems), None),
    };
    Decoded { item, stand_in, references }
}

/// An item that was read in part, and what is wrong with the rest.
#[derive(Debug)]
pub struct Flaws<'a> {
    node: &'a Node,
    /// Its dotted key in its text, or empty.
    key: &'a str,
    problems: &'a [Problem],
}

impl Flaws<'_> {
    /// Whether the text has this key.
    fn has(&self, part: &str) -> bool {
        self.node.get(part).is_some()
    }

    /// Whether nothing is wrong with a part, and no unknown key beside it may be meant for it.
    fn spare(&self, part: &str) -> bool {
        self.problems.iter().all(|problem| {
            let below = problem.key.strip_prefix(self.key).unwrap_or(&problem.key).trim_start_matches('.');
            let first = below.split(['.', '[']).next().unwrap_or_default();
            first != part && (first != below || !resembles(first, part))
        })
    }
}

#[cfg(test)]
mod tests;
