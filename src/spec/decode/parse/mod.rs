//! Parses a text into a tree with places.

use super::format::Format;
use super::tree::{Node, Spot, Value};

mod json;
mod toml;
mod yaml;

pub(crate) use self::toml::parse_value as parse_toml_value;

/// What is wrong with a text as such.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// Where.
    pub spot: Spot,
    /// What, in one line.
    pub text: String,
}

/// Parses a whole text; its root is a table. An empty text is an empty table.
///
/// # Errors
/// What is wrong, with places; never empty.
pub fn parse(text: &str, format: Format) -> Result<Node, Vec<SyntaxError>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim().is_empty() {
        return Ok(Node::empty_table());
    }
    let root = match format {
        Format::Toml => self::toml::parse(text)?,
        Format::Yaml => yaml::parse(text)?,
        Format::Json => json::parse(text)?,
    };
    match root.value {
        Value::Table(_) => Ok(root),
        // Nothing but comments.
        Value::Null => Ok(Node::empty_table()),
        _ => {
            let text = format!("expected keys and values, found {}", root.describe());
            Err(vec![SyntaxError { spot: root.spot, text }])
        }
    }
}

/// Parses bytes, which must be UTF-8; without a format the text tells.
///
/// # Errors
/// As [`parse`].
pub fn parse_bytes(bytes: &[u8], format: Option<Format>) -> Result<Node, Vec<SyntaxError>> {
    match std::str::from_utf8(bytes) {
        Ok(text) => parse(text, format.unwrap_or_else(|| Format::sniff(text))),
        Err(error) => {
            let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let spot = Lines::new(&String::from_utf8_lossy(valid)).spot(valid.len());
            Err(vec![SyntaxError { spot, text: "not UTF-8 text".to_owned() }])
        }
    }
}

/// Turns byte offsets into lines and columns, quickly on lines of any length.
struct Lines<'t> {
    bytes: &'t [u8],
    /// Where each line starts.
    starts: Vec<usize>,
    /// How many characters start before each block of bytes.
    characters: Vec<usize>,
}

const BLOCK: usize = 256;

impl<'t> Lines<'t> {
    fn new(text: &'t str) -> Self {
        let bytes = text.as_bytes();
        let after_newlines = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
        let starts = std::iter::once(0).chain(after_newlines).collect();
        let mut before = 0;
        let characters = bytes.chunks(BLOCK).map(|block| {
            let count = before;
            before += characters(block);
            count
        });
        Self { bytes, starts, characters: characters.collect() }
    }

    fn spot(&self, offset: usize) -> Spot {
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = self.starts.get(line.saturating_sub(1)).copied().unwrap_or_default();
        let column = self.characters_before(offset).saturating_sub(self.characters_before(start)) + 1;
        Spot::Text { line: narrow(line), column: narrow(column) }
    }

    fn characters_before(&self, offset: usize) -> usize {
        let block = (offset / BLOCK).min(self.characters.len().saturating_sub(1));
        let rest = self.bytes.get(block * BLOCK..offset.min(self.bytes.len())).unwrap_or_default();
        self.characters.get(block).copied().unwrap_or_default() + characters(rest)
    }
}

/// Characters that start in these bytes of UTF-8.
fn characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}

fn narrow(number: impl TryInto<u32>) -> u32 {
    number.try_into().unwrap_or(u32::MAX)
}

/// A library's message as one line without control characters.
fn one_line(message: &str) -> String {
    let words: Vec<&str> = message.split_whitespace().collect();
    words.join(" ").chars().filter(|character| !character.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn outline(node: &Node, indent: usize, out: &mut String) {
        use std::fmt::Write as _;
        let spot = |spot: &Spot| spot.in_origin("").trim_start_matches(':').to_owned();
        let pad = "  ".repeat(indent);
        match &node.value {
            Value::Table(entries) => {
                let mut entries: Vec<_> = entries.iter().collect();
                entries.sort_by(|a, b| a.spot.cmp(&b.spot));
                for entry in entries {
                    write!(out, "{pad}{} {}", spot(&entry.spot), entry.key).expect("a string");
                    match entry.node.value {
                        Value::Table(_) | Value::List(_) => {
                            writeln!(out, " @{}", spot(&entry.node.spot)).expect("a string");
                            outline(&entry.node, indent + 1, out);
                        }
                        ref scalar => writeln!(out, " = {scalar:?} @{}", spot(&entry.node.spot)).expect("a string"),
                    }
                }
            }
            Value::List(elements) => {
                for element in elements {
                    writeln!(out, "{pad}- @{}", spot(&element.spot)).expect("a string");
                    outline(element, indent + 1, out);
                }
            }
            scalar => writeln!(out, "{pad}{scalar:?}").expect("a string"),
        }
    }

    fn outlined(text: &str, format: Format) -> String {
        let mut out = String::new();
        match parse(text, format) {
            Ok(node) => outline(&node, 0, &mut out),
            Err(errors) => {
                for error in errors {
                    out += &format!("{}: {}\n", error.spot.in_origin("error"), error.text);
                }
            }
        }
        out
    }

    #[test]
    fn toml_values_know_their_places() {
        let text = "[routes.users]\nmatch.path = \"/ä\" # c\ntargets = [\n  { upstream = 'u', weight = 0x10 },\n]\nx.y = 1.5\nd = 2020-01-01\n";
        insta::assert_snapshot!(outlined(text, Format::Toml), @r#"
1:2 routes @1:2
  1:9 users @1:9
    2:1 match @2:1
      2:7 path = Text("/ä") @2:14
    3:1 targets @3:11
      - @4:3
        4:5 upstream = Text("u") @4:16
        4:21 weight = Integer(16) @4:30
    6:1 x @6:1
      6:3 y = Float(1.5) @6:7
    7:1 d = Text("2020-01-01") @7:5
"#);
    }

    #[test]
    fn yaml_values_know_their_places() {
        let text = "routes:\n  users:\n    match: { path: \"/ä\" }\n    targets:\n      - upstream: u\n        weight: 16\n    on: on\n    none:\n    f: 1.5\nbase: &b { a: 1 }\nother:\n  <<: *b\n";
        insta::assert_snapshot!(outlined(text, Format::Yaml), @r#"
1:1 routes @1:1
  2:3 users @2:3
    3:5 match @3:5
      3:14 path = Text("/ä") @3:20
    4:5 targets @5:7
      - @5:9
        5:9 upstream = Text("u") @5:19
        6:9 weight = Integer(16) @6:17
    7:5 on = Text("on") @7:9
    8:5 none = Null @8:9
    9:5 f = Float(1.5) @9:8
10:1 base @10:1
  10:12 a = Integer(1) @10:15
11:1 other @11:1
  12:7 a = Integer(1) @12:7
"#);
    }

    #[test]
    fn json_values_know_their_places() {
        let text = "{\"routes\": {\n  \"users\": {\"match\": {\"p\\u0061th\": \"/\\ud83d\\ude00\"}, \"targets\": [\n    {\"weight\": 16, \"f\": 1.5e3, \"t\": true, \"n\": null}, [], {}\n]}}}";
        insta::assert_snapshot!(outlined(text, Format::Json), @r#"
1:2 routes @1:2
  2:3 users @2:3
    2:13 match @2:13
      2:23 path = Text("/😀") @2:36
    2:54 targets @2:65
      - @3:5
        3:6 weight = Integer(16) @3:16
        3:20 f = Float(1500.0) @3:25
        3:32 t = Bool(true) @3:37
        3:43 n = Null @3:48
      - @3:55
      - @3:59
"#);
    }

    #[test]
    fn broken_texts_say_where() {
        let mut out = String::new();
        for (format, text) in [
            (Format::Toml, "a = \nb = 1\n[x\n"),
            (Format::Toml, "a = 1\na = 2\n"),
            (Format::Toml, "[a]\n[a]\n"),
            (Format::Toml, "\u{feff}a = 1e999\n"),
            (Format::Yaml, "a: 1\n b: 2\n"),
            (Format::Yaml, "a: 1\na: 2\n"),
            (Format::Yaml, "- a\n"),
            (Format::Yaml, "a: 1\n---\nb: 1\n"),
            (Format::Yaml, "1: 2\n"),
            (Format::Json, "{\"a\": }"),
            (Format::Json, "{\"a\": 1,\n \"a\": 2}"),
            (Format::Json, "[1]"),
            (Format::Json, "{} {}"),
        ] {
            out += &format!("{text:?}\n{}", outlined(text, format));
        }
        insta::assert_snapshot!(out, @r#"
"a = \nb = 1\n[x\n"
error:3:3: unclosed table, expected `]`
error:1:5: string values must be quoted, expected literal string
"a = 1\na = 2\n"
error:2:1: duplicate key
"[a]\n[a]\n"
error:2:2: duplicate key
"\u{feff}a = 1e999\n"
1:1 a = Float(inf) @1:5
"a: 1\n b: 2\n"
error:2:3: mapping values are not allowed in this context
"a: 1\na: 2\n"
error:2:1: duplicate mapping key: a
"- a\n"
error:1:1: expected keys and values, found a list
"a: 1\n---\nb: 1\n"
error:3:1: a second YAML document: keep one in a text
"1: 2\n"
1:1 1 = Integer(2) @1:4
"{\"a\": }"
error:1:7: expected value
"{\"a\": 1,\n \"a\": 2}"
error:2:2: the key `a` is given twice
"[1]"
error:1:1: expected keys and values, found a list
"{} {}"
error:1:4: trailing characters
"#);
        let error = parse_bytes(b"a = 1\nb = \"\xff\"", None).expect_err("not UTF-8");
        assert_eq!(error[0].spot, Spot::Text { line: 2, column: 6 });
    }

    #[test]
    fn places_are_counted_in_characters_on_long_lines() {
        let text = format!("{{\"{}\": 1,\n\"{}\": {{\"ü\": 2, \"b\": true}}}}", "ä".repeat(1000), "x".repeat(600));
        let root = parse(&text, Format::Json).expect("valid");
        let spots: Vec<_> = root.entries().iter().map(|entry| entry.node.spot.in_origin("")).collect();
        assert_eq!(spots, [":1:1006", ":2:1"]);
        let inner: Vec<_> = root.entries()[1].node.entries().iter().map(|entry| entry.spot.in_origin("")).collect();
        assert_eq!(inner, [":2:606", ":2:614"]);
    }

    #[test]
    fn hostile_depth_and_aliases_are_refused() {
        assert!(parse(&format!("a = {}", "[".repeat(100_000)), Format::Toml).is_err());
        assert!(parse(&format!("{{\"a\": {}", "[".repeat(100_000)), Format::Json).is_err());
        assert!(parse(&"{\"a\":".repeat(100_000), Format::Json).is_err());
        assert!(parse(&format!("a: {}", "[".repeat(100_000)), Format::Yaml).is_err());
        let nested: String = (0..5_000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
        assert!(parse(&nested, Format::Yaml).is_err());
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..10 {
            let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb += &format!("a{level}: &a{level} [{aliases}]\n");
        }
        assert!(parse(&bomb, Format::Yaml).is_err());
    }

    proptest! {
        #[test]
        fn hostile_text_never_panics(text in "\\PC*", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for format in [Format::Toml, Format::Yaml, Format::Json] {
                let _ = parse(&text, format);
                let _ = parse_bytes(&bytes, Some(format));
            }
        }

        #[test]
        fn nearly_valid_text_never_panics(text in "[\\[\\]{}\"':=,.&*!|>#<%@ \\n\\ta-c0-9_\\\\uäé-]{0,60}") {
            for format in [Format::Toml, Format::Yaml, Format::Json] {
                let _ = parse(&text, format);
            }
        }
    }
}
