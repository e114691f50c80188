//! Defines the tree a text is parsed into: plain values, each with the place it was written at.

use std::fmt;
use std::sync::Arc;

/// Where a key or a value was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Spot {
    /// In the text; both count from 1, columns in characters.
    Text {
        /// The line.
        line: u32,
        /// The column.
        column: u32,
    },
    /// In an environment variable of this name.
    Variable(Arc<str>),
}

impl Spot {
    /// The beginning of a text.
    pub const START: Self = Self::Text { line: 1, column: 1 };

    /// As problems show it, `origin` being the text's file or key: `ORIGIN:line:column`, or `env:NAME`.
    pub fn in_origin(&self, origin: &str) -> String {
        match self {
            Self::Text { line, column } => format!("{origin}:{line}:{column}"),
            Self::Variable(name) => format!("env:{name}"),
        }
    }
}

/// A value and its place. A table's place is that of its key.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it was written.
    pub spot: Spot,
    /// What was written.
    pub value: Value,
}

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`, or nothing after a YAML key.
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A whole number.
    Integer(i128),
    /// Any other number.
    Float(f64),
    /// A string; a TOML date is one, too.
    Text(String),
    /// An environment variable's text: becomes what its reader wants.
    Variable(String),
    /// A list.
    List(Vec<Node>),
    /// Keys and values in any order; each key once.
    Table(Vec<Entry>),
}

/// A key and its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key was written.
    pub spot: Spot,
    /// Its value.
    pub node: Node,
}

impl Entry {
    /// An entry; a table takes the key's place, where a person looks for it.
    pub fn new(key: String, spot: Spot, mut node: Node) -> Self {
        if matches!(node.value, Value::Table(_)) {
            node.spot = spot.clone();
        }
        Self { key, spot, node }
    }
}

impl Node {
    /// A table without keys.
    pub fn empty_table() -> Self {
        Self { spot: Spot::START, value: Value::Table(Vec::new()) }
    }

    /// The value of a key; `None` when there is none, or this is no table.
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| &entry.node)
    }

    /// The entries of a table; none of anything else.
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Table(entries) => entries,
            _ => &[],
        }
    }

    /// The elements of a list; none of anything else.
    pub fn elements(&self) -> &[Self] {
        match &self.value {
            Value::List(elements) => elements,
            _ => &[],
        }
    }

    /// What it is, for messages.
    pub fn describe(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Integer(_) => "a number",
            Value::Float(_) => "a number with a fraction",
            Value::Text(_) | Value::Variable(_) => "a text",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
        }
    }
}

/// The way to a value from where reading began, for the dotted key of a problem.
#[derive(Clone, Copy, Debug)]
pub enum Path<'a> {
    /// Where reading began; its own dotted key, or nothing.
    Root(&'a str),
    /// A key of a table.
    Key(&'a Path<'a>, &'a str),
    /// An element of a list.
    Index(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    /// `routes.users.targets[1].weight`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root(text) => f.write_str(text),
            Self::Key(parent, key) => match parent {
                Self::Root("") => f.write_str(key),
                _ => write!(f, "{parent}.{key}"),
            },
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}
