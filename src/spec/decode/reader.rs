//! Defines how a tree becomes a raw serde struct: with every mistake at its place, not only the first.
//!
//! A [`serde::Deserializer`] over [`Node`]s. It knows the fields each struct asks for, so it reports unknown
//! keys with the nearest known one; and a value of the wrong type is reported, left out, and the reading done
//! again, until the rest fits. Raw structs therefore have no required fields.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

use serde::de::value::StringDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer as _, Visitor};

use super::parse::parse_toml_value;
use super::tree::{Entry, Node, Path, Spot, Value};

/// The name of structs that a text may stand for: [`Deserializer::deserialize_struct`] passes a text on.
pub const TEXT_OR_TABLE: &str = "a text or a table";

/// Most values of the wrong type told of one item.
const MOST_MISTAKES: usize = 100;

/// A mistake found while reading.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// Where.
    pub spot: Spot,
    /// The dotted key.
    pub key: String,
    /// What is wrong and how to mend it.
    pub text: String,
}

/// The values that were left out because of their type.
#[derive(Debug, Default)]
pub struct Broken(BTreeSet<usize>);

impl Broken {
    /// Whether this value was left out.
    pub fn contains(&self, node: &Node) -> bool {
        self.0.contains(&address(node))
    }

    /// The position in a list of an element that is counted without those that were left out.
    pub fn written_position(&self, elements: &[Node], index: usize) -> usize {
        let Some(first) = elements.first().map(address) else { return index };
        let size = size_of::<Node>();
        let left_out = self.0.range(first..first + size_of_val(elements)).map(|address| (address - first) / size);
        left_out.fold(index, |position, left_out| position + usize::from(left_out <= position))
    }

    /// Whether this value or one inside it was left out.
    pub fn is_within(&self, node: &Node) -> bool {
        if self.0.is_empty() {
            return false;
        }
        self.contains(node)
            || node.elements().iter().any(|node| self.is_within(node))
            || node.entries().iter().any(|entry| self.is_within(&entry.node))
    }
}

/// What reading gave.
#[derive(Debug)]
pub struct Reading<T> {
    /// All that could be read; `None` when the whole has the wrong type.
    pub raw: Option<T>,
    /// What was left out.
    pub broken: Broken,
    /// Unknown keys and wrong types.
    pub mistakes: BTreeSet<Mistake>,
}

/// Reads a value; `key` is its own dotted key, or empty.
pub fn read<T: DeserializeOwned>(node: &Node, key: &str) -> Reading<T> {
    let session = Session::default();
    let mut mistakes = BTreeSet::new();
    let mut raw = None;
    for _ in 0..MOST_MISTAKES {
        let reader = Reader { node, path: Path::Root(key), session: &session, inside: None };
        match T::deserialize(reader) {
            Ok(value) => {
                raw = Some(value);
                break;
            }
            Err(error) => {
                let Some(blame) = error.blame else { break };
                mistakes.insert(Mistake { spot: blame.spot, key: blame.key, text: error.text });
                session.broken.borrow_mut().0.insert(blame.address);
                if blame.address == address(node) {
                    break;
                }
            }
        }
    }
    mistakes.extend(session.unknown.into_inner());
    Reading { raw, broken: session.broken.into_inner(), mistakes }
}

/// A value's identity while its tree is borrowed.
fn address(node: &Node) -> usize {
    std::ptr::from_ref(node).addr()
}

#[derive(Default)]
struct Session {
    unknown: RefCell<BTreeSet<Mistake>>,
    broken: RefCell<Broken>,
}

/// Reads one value.
#[derive(Clone, Copy)]
struct Reader<'a> {
    node: &'a Node,
    path: Path<'a>,
    session: &'a Session,
    /// The environment variable this value is a part of. Its parts are parsed anew at each reading, so it is
    /// the variable as a whole that is left out.
    inside: Option<usize>,
}

impl<'a> Reader<'a> {
    fn mistake(&self, text: impl Into<String>) -> ReadError {
        self.blame(ReadError { text: text.into(), blame: None })
    }

    fn expected(&self, what: &str) -> ReadError {
        let text = match self.node.value {
            Value::Null => "has no value: give it one or remove the key".to_owned(),
            _ => format!("expected {what}, found {}", self.node.describe()),
        };
        self.mistake(text)
    }

    /// Blames the innermost value for an error.
    fn blame(&self, error: ReadError) -> ReadError {
        let blame = error.blame.unwrap_or_else(|| Blame {
            spot: self.node.spot.clone(),
            key: self.path.to_string(),
            address: self.inside.unwrap_or_else(|| address(self.node)),
        });
        ReadError { text: error.text, blame: Some(blame) }
    }

    /// The value of an environment variable that must be a list or a table.
    fn parse_variable(&self, text: &str, what: &str) -> Result<Node, ReadError> {
        // The parser's own message would only say at which character it gave up.
        parse_toml_value(text, &self.node.spot).map_err(|_| self.mistake(format!("expected {what}")))
    }

    /// Reads what this variable was parsed into.
    fn parsed<'b>(&self, node: &'b Node) -> Reader<'b>
    where
        'a: 'b,
    {
        let inside = self.inside.or_else(|| Some(address(self.node)));
        Reader { node, path: self.path, session: self.session, inside }
    }

    fn whole_number<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        let number = match &self.node.value {
            Value::Integer(number) => Some(*number),
            Value::Variable(text) => text.trim().parse().ok(),
            _ => None,
        };
        match number.map(i64::try_from) {
            Some(Ok(number)) => visitor.visit_i64(number).map_err(|error| self.blame(error)),
            Some(Err(_)) => Err(self.mistake("the number is too large")),
            None => Err(self.expected("a whole number")),
        }
    }

    fn text<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.node.value {
            Value::Text(text) | Value::Variable(text) => visitor.visit_str(text).map_err(|error| self.blame(error)),
            Value::Bool(_) | Value::Integer(_) | Value::Float(_) => {
                Err(self.mistake(format!("expected a text, found {}: put it in quotes", self.node.describe())))
            }
            _ => Err(self.expected("a text")),
        }
    }

    fn list<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.node.value {
            Value::List(elements) => visitor
                .visit_seq(Elements { parent: self, rest: elements.iter().enumerate() })
                .map_err(|error| self.blame(error)),
            Value::Variable(text) => {
                let node = self.parse_variable(text, "a list as in TOML, such as `[\"a\", \"b\"]`")?;
                self.parsed(&node).list(visitor)
            }
            _ => Err(self.expected("a list")),
        }
    }

    fn table<'de, V: Visitor<'de>>(
        self,
        known: Option<&'static [&'static str]>,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match &self.node.value {
            Value::Table(entries) => {
                let entries = Entries { parent: self, known, rest: entries.iter(), value: None };
                visitor.visit_map(entries).map_err(|error| self.blame(error))
            }
            Value::Variable(text) => {
                let node = self.parse_variable(text, "a table as in TOML, such as `{ key = \"value\" }`")?;
                self.parsed(&node).table(known, visitor)
            }
            _ => Err(self.expected("a table")),
        }
    }
}

macro_rules! whole_numbers {
    ($($name:ident)*) => {
        $(fn $name<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
            self.whole_number(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = ReadError;

    whole_numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.node.value {
            Value::Null => Err(self.expected("a value")),
            Value::Bool(value) => visitor.visit_bool(*value).map_err(|error| self.blame(error)),
            Value::Integer(_) => self.whole_number(visitor),
            Value::Float(value) => visitor.visit_f64(*value).map_err(|error| self.blame(error)),
            Value::Text(_) | Value::Variable(_) => self.text(visitor),
            Value::List(_) => self.list(visitor),
            Value::Table(_) => self.table(None, visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.node.value {
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Variable(text) if text == "true" => visitor.visit_bool(true),
            Value::Variable(text) if text == "false" => visitor.visit_bool(false),
            _ => Err(self.expected("true or false")),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.text(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.text(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.list(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.table(None, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match &self.node.value {
            Value::Text(_) if name == TEXT_OR_TABLE => self.text(visitor),
            Value::Variable(text) if name == TEXT_OR_TABLE && !text.trim_start().starts_with('{') => self.text(visitor),
            Value::Table(_) | Value::Variable(_) => self.table(Some(fields), visitor),
            _ if name == TEXT_OR_TABLE => Err(self.expected(TEXT_OR_TABLE)),
            _ => Err(self.expected("a table")),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match &self.node.value {
            Value::Text(text) | Value::Variable(text) => {
                let variant: StringDeserializer<ReadError> = text.clone().into_deserializer();
                visitor.visit_enum(variant).map_err(|error| self.blame(error))
            }
            _ => Err(self.expected("a text")),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct identifier
    }
}

/// The elements of a list, without the broken ones.
struct Elements<'a, I> {
    parent: Reader<'a>,
    rest: I,
}

impl<'de, 'a, I: Iterator<Item = (usize, &'a Node)>> de::SeqAccess<'de> for Elements<'a, I> {
    type Error = ReadError;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, ReadError> {
        let parent = &self.parent;
        let Some((index, node)) = self.rest.find(|(_, node)| !parent.session.broken.borrow().contains(node)) else {
            return Ok(None);
        };
        let path = Path::Index(&parent.path, index);
        seed.deserialize(Reader { node, path, session: parent.session, inside: parent.inside }).map(Some)
    }
}

/// The entries of a table, without the broken ones.
struct Entries<'a> {
    parent: Reader<'a>,
    known: Option<&'static [&'static str]>,
    rest: std::slice::Iter<'a, Entry>,
    value: Option<&'a Entry>,
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = ReadError;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, ReadError> {
        let parent = &self.parent;
        for entry in self.rest.by_ref() {
            if parent.session.broken.borrow().contains(&entry.node) {
                continue;
            }
            if let Some(known) = self.known
                && !known.contains(&entry.key.as_str())
            {
                parent.session.unknown.borrow_mut().insert(Mistake {
                    spot: entry.spot.clone(),
                    key: Path::Key(&parent.path, &shown_key(&entry.key)).to_string(),
                    text: unknown_key(&entry.key, known),
                });
                continue;
            }
            self.value = Some(entry);
            let key: StringDeserializer<ReadError> = entry.key.clone().into_deserializer();
            return seed.deserialize(key).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, ReadError> {
        let Some(Entry { key, node, .. }) = self.value.take() else {
            return Err(self.parent.mistake("a value was asked for before its key"));
        };
        let parent = &self.parent;
        let path = Path::Key(&parent.path, key);
        seed.deserialize(Reader { node, path, session: parent.session, inside: parent.inside })
    }
}

/// What to say of a key nobody asked for.
pub fn unknown_key(key: &str, known: &[&str]) -> String {
    format!("unknown key; {}", nearest(key, known))
}

/// An unknown key as a message shows it. One that is longer than any name is a secret in the wrong place.
pub fn shown_key(key: &str) -> Cow<'_, str> {
    if key.len() <= 63 { Cow::Borrowed(key) } else { key.chars().take(8).chain(['…']).collect() }
}

/// From this likeness on, a word may be another one misspelled.
const MIN_LIKENESS: f64 = 0.5;

/// Whether a word may be another one misspelled.
pub(super) fn resembles(word: &str, other: &str) -> bool {
    strsim::normalized_damerau_levenshtein(&word.to_ascii_lowercase(), other) >= MIN_LIKENESS
}

/// What may have been meant by a word that is none of those known.
pub fn nearest(word: &str, known: &[&str]) -> String {
    let likeness = |candidate: &str| strsim::normalized_damerau_levenshtein(word, candidate);
    let nearest = known.iter().map(|candidate| (likeness(candidate), *candidate)).max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((likeness, nearest)) if likeness >= MIN_LIKENESS => format!("did you mean `{nearest}`?"),
        Some((_, nearest)) if known.len() > 12 => format!("the nearest known one is `{nearest}`"),
        Some(_) => format!("known are {}", known.join(", ")),
        None => "nothing may stand here".to_owned(),
    }
}

/// An error on its way up to [`read`].
#[derive(Debug)]
struct ReadError {
    text: String,
    blame: Option<Blame>,
}

#[derive(Debug)]
struct Blame {
    spot: Spot,
    key: String,
    address: usize,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for ReadError {}

impl de::Error for ReadError {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self { text: text.to_string(), blame: None }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format!("`{}` is not one of its values; {}", shown_key(variant), nearest(variant, expected)))
    }
}
