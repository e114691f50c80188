//! Parses JSON: `serde_json` says whether it is valid, a scan of the valid text finds the places.

use std::collections::BTreeSet;

use super::{Lines, Node, Spot, SyntaxError, Value, narrow, one_line};
use crate::spec::decode::tree::Entry;

pub(super) fn parse(text: &str) -> Result<Node, Vec<SyntaxError>> {
    // Into a value, for that checks the depth (128), which the scan below relies on.
    if let Err(error) = serde_json::from_str::<serde_json::Value>(text) {
        let message = error.to_string();
        let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
        let spot = Spot::Text { line: narrow(error.line().max(1)), column: narrow(error.column().max(1)) };
        return Err(vec![SyntaxError { spot, text: one_line(message) }]);
    }
    let mut scan = Scan { text, at: 0, lines: Lines::new(text), problems: Vec::new() };
    let root = scan.node();
    if scan.problems.is_empty() { Ok(root) } else { Err(scan.problems) }
}

/// Walks a text that is known to be valid.
struct Scan<'t> {
    text: &'t str,
    at: usize,
    lines: Lines<'t>,
    problems: Vec<SyntaxError>,
}

impl Scan<'_> {
    fn node(&mut self) -> Node {
        self.skip_space();
        let spot = self.lines.spot(self.at);
        let value = match self.peek() {
            Some(b'{') => self.table(),
            Some(b'[') => self.list(),
            Some(b'"') => Value::Text(self.string()),
            _ => self.word(),
        };
        Node { spot, value }
    }

    fn table(&mut self) -> Value {
        self.at += 1;
        let mut entries = Vec::new();
        let mut seen = BTreeSet::new();
        while !self.ends_with(b'}') {
            let spot = self.lines.spot(self.at);
            let key = self.string();
            self.skip_space();
            // The colon.
            self.at += 1;
            let node = self.node();
            if !seen.insert(key.clone()) {
                let text = format!("the key `{key}` is given twice");
                self.problems.push(SyntaxError { spot: spot.clone(), text });
            }
            entries.push(Entry::new(key, spot, node));
        }
        Value::Table(entries)
    }

    fn list(&mut self) -> Value {
        self.at += 1;
        let mut elements = Vec::new();
        while !self.ends_with(b']') {
            elements.push(self.node());
        }
        Value::List(elements)
    }

    /// Whether the list or table ends here; else stands before its next part.
    fn ends_with(&mut self, end: u8) -> bool {
        loop {
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(byte) if byte == end => {
                    self.at += 1;
                    return true;
                }
                // A valid text ends after its last bracket; without this a bug here would never end.
                None => return true,
                Some(_) => return false,
            }
        }
    }

    fn string(&mut self) -> String {
        let start = self.at;
        self.at += 1;
        while let Some(byte) = self.peek() {
            match byte {
                b'\\' => self.at += 2,
                b'"' => break,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        self.decode(start).unwrap_or_default()
    }

    fn word(&mut self) -> Value {
        let start = self.at;
        while self.peek().is_some_and(|byte| !matches!(byte, b',' | b']' | b'}' | b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
        match self.text.get(start..self.at) {
            Some("null") | None => Value::Null,
            Some("true") => Value::Bool(true),
            Some("false") => Value::Bool(false),
            Some(number) => number.parse().map(Value::Integer).unwrap_or_else(|_| {
                // More digits than i128 has, a fraction, an exponent.
                Value::Float(number.parse().unwrap_or(f64::NAN))
            }),
        }
    }

    fn decode<T: serde::de::DeserializeOwned>(&self, start: usize) -> Option<T> {
        serde_json::from_str(self.text.get(start..self.at)?).ok()
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }
}
