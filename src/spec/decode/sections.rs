//! Defines how the sections of a file become items: `[routes.NAME]`, `[upstreams.NAME]`, `[middlewares.NAME]`,
//! `[certificates.NAME]`, `[consumers.NAME]`.

use crate::spec::certificate::CertificateSpec;
use crate::spec::consumer::ConsumerSpec;
use crate::spec::document::Kind;
use crate::spec::middleware::MiddlewareSpec;
use crate::spec::name::Name;
use crate::spec::problem::Problem;
use crate::spec::route::RouteSpec;
use crate::spec::upstream::UpstreamSpec;

use super::attached::Attached;
use super::item::{DecodeItem, Decoded, decode_node};
use super::reader::{shown_key, unknown_key};
use super::tree::{Node, Value};

/// The sections that only the main file has, read once at start.
pub const STATIC_SECTIONS: [&str; 6] = ["runtime", "listeners", "admin", "discovery", "redis", "telemetry"];

/// The items of one file.
#[derive(Debug)]
pub struct Sections {
    /// `[routes.NAME]`, in the order of the names.
    pub routes: Vec<SectionItem<RouteSpec>>,
    /// `[upstreams.NAME]`, in the order of the names.
    pub upstreams: Vec<SectionItem<UpstreamSpec>>,
    /// `[middlewares.NAME]`, in the order of the names.
    pub middlewares: Vec<SectionItem<MiddlewareSpec>>,
    /// `[certificates.NAME]`, in the order of the names.
    pub certificates: Vec<SectionItem<CertificateSpec>>,
    /// `[consumers.NAME]`, in the order of the names.
    pub consumers: Vec<SectionItem<ConsumerSpec>>,
    /// What belongs to no item: bad names, unknown sections.
    pub rejected: Vec<Problem>,
}

/// One item of a file.
#[derive(Debug)]
pub struct SectionItem<T> {
    /// Its name.
    pub name: Name,
    /// `file:line:column` of its name.
    pub place: String,
    /// What it says.
    pub decoded: Decoded<T>,
}

/// Decodes the dynamic sections of a parsed file. The main file may have the static ones beside them.
pub fn decode_sections(root: &Node, origin: &str, main: bool, attached: Attached<'_>) -> Sections {
    let mut rejected = unknown_sections(root, origin, main);
    Sections {
        routes: decode_section(root, origin, attached, &mut rejected),
        upstreams: decode_section(root, origin, attached, &mut rejected),
        middlewares: decode_section(root, origin, attached, &mut rejected),
        certificates: decode_section(root, origin, attached, &mut rejected),
        consumers: decode_section(root, origin, attached, &mut rejected),
        rejected,
    }
}

/// Sections that nobody knows, and static ones where they do not belong.
pub fn unknown_sections(root: &Node, origin: &str, main: bool) -> Vec<Problem> {
    let dynamic = Kind::ALL.map(Kind::as_str);
    let mut known = dynamic.to_vec();
    if main {
        known.extend(STATIC_SECTIONS);
    }
    let unknown = root.entries().iter().filter(|entry| !known.contains(&entry.key.as_str()));
    let problem = |entry: &super::tree::Entry| {
        let text = if STATIC_SECTIONS.contains(&entry.key.as_str()) {
            "this section belongs into the main configuration file: here stand routes, upstreams, middlewares, certificates and consumers"
                .to_owned()
        } else {
            unknown_key(&entry.key, &known)
        };
        Problem::new(entry.spot.in_origin(origin), shown_key(&entry.key), text)
    };
    unknown.map(problem).collect()
}

fn decode_section<T: DecodeItem>(
    root: &Node,
    origin: &str,
    attached: Attached<'_>,
    rejected: &mut Vec<Problem>,
) -> Vec<SectionItem<T>> {
    let section = T::KIND.as_str();
    let Some(node) = root.get(section) else { return Vec::new() };
    if !matches!(node.value, Value::Table(_) | Value::Null) {
        let text = format!("expected a table of {section} by name, found {}", node.describe());
        rejected.push(Problem::new(node.spot.in_origin(origin), section, text));
    }
    let mut items = Vec::new();
    for entry in node.entries() {
        let (place, key) = (entry.spot.in_origin(origin), format!("{section}.{}", entry.key));
        match entry.key.parse::<Name>() {
            Ok(name) => {
                let decoded = decode_node(&entry.node, &key, origin, Some(attached));
                items.push(SectionItem { name, place, decoded });
            }
            Err(error) => rejected.push(Problem::new(place, key, error.to_string())),
        }
    }
    items.sort_by(|a, b| a.name.cmp(&b.name));
    items
}
