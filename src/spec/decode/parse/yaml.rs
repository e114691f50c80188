//! Parses YAML 1.2 by `serde-saphyr`, which bounds depth and alias expansion.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use super::{Node, Spot, SyntaxError, Value, narrow, one_line};
use crate::spec::decode::tree::Entry;

pub(super) fn parse(text: &str) -> Result<Node, Vec<SyntaxError>> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            // A file with tens of thousands of routes.
            max_nodes: 4_000_000,
            max_events: 16_000_000,
            max_depth: 32,
            flow_nesting_limit: 32,
        },
        // Kept comments count against small limits, and nobody reads them.
        emit_comments: false,
        // Far more than a person writes, far less than what fills the memory.
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
            max_replay_stack_depth: 16,
        },
        // `on`, `no` and the like are texts, as YAML 1.2 has it.
        strict_booleans: true,
    };
    match serde_saphyr::from_str_with_options::<Spanned<Tree>>(text, options) {
        Ok(root) => Ok(node(root)),
        Err(error) => {
            let spot = error.location().map_or(Spot::START, |location| spot(&location));
            let message = error.without_snippet().to_string();
            let message = message.split(" at line ").next().unwrap_or(&message);
            // What follows speaks to programmers.
            let message = match message.split_once(", set DuplicateKeyPolicy") {
                Some((message, _)) => message,
                None if message.starts_with("multiple YAML documents") => "a second YAML document: keep one in a text",
                None => message,
            };
            Err(vec![SyntaxError { spot, text: one_line(message) }])
        }
    }
}

/// A value of any type.
struct Tree(Value);

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor).map(Tree)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = seq.next_element::<Spanned<Tree>>()? {
            elements.push(node(element));
        }
        Ok(Value::List(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, value)) = map.next_entry::<Spanned<String>, Spanned<Tree>>()? {
            entries.push(Entry::new(key.value, spot(&key.referenced), node(value)));
        }
        Ok(Value::Table(entries))
    }
}

fn node(tree: Spanned<Tree>) -> Node {
    Node { spot: spot(&tree.referenced), value: tree.value.0 }
}

fn spot(location: &Location) -> Spot {
    Spot::Text { line: narrow(location.line().max(1)), column: narrow(location.column().max(1)) }
}
