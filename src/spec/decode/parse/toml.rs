//! Parses TOML.

use ::toml::Spanned;
use ::toml::de::{DeTable, DeValue, Error};

use super::{Lines, Node, Spot, SyntaxError, Value, one_line};
use crate::spec::decode::tree::Entry;

/// Most syntax errors told of one text: what follows is mostly their echo.
const MOST_ERRORS: usize = 10;

pub(super) fn parse(text: &str) -> Result<Node, Vec<SyntaxError>> {
    let lines = Lines::new(text);
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(errors.iter().take(MOST_ERRORS).map(|error| syntax_error(error, &lines)).collect());
    }
    let mut problems = Vec::new();
    let value = table(root.get_ref(), &lines, &mut problems);
    if problems.is_empty() { Ok(Node { spot: Spot::START, value }) } else { Err(problems) }
}

/// Parses one TOML value, as after `key =`; all of it has the given place.
pub(crate) fn parse_value(text: &str, spot: &Spot) -> Result<Node, String> {
    let value = DeValue::parse(text).map_err(|error| one_line(error.message()))?;
    let mut problems = Vec::new();
    let mut parsed = node(&value, &Lines::new(text), &mut problems);
    place(&mut parsed, spot);
    match problems.into_iter().next() {
        Some(problem) => Err(problem.text),
        None => Ok(parsed),
    }
}

fn place(node: &mut Node, spot: &Spot) {
    node.spot = spot.clone();
    match &mut node.value {
        Value::List(elements) => elements.iter_mut().for_each(|element| place(element, spot)),
        Value::Table(entries) => {
            for entry in entries {
                entry.spot = spot.clone();
                place(&mut entry.node, spot);
            }
        }
        _ => {}
    }
}

fn syntax_error(error: &Error, lines: &Lines<'_>) -> SyntaxError {
    let spot = error.span().map_or(Spot::START, |span| lines.spot(span.start));
    SyntaxError { spot, text: one_line(error.message()) }
}

fn table(table: &DeTable<'_>, lines: &Lines<'_>, problems: &mut Vec<SyntaxError>) -> Value {
    let entry = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
        let key: &Spanned<std::borrow::Cow<'_, str>> = key;
        Entry::new(key.get_ref().to_string(), lines.spot(key.span().start), node(value, lines, problems))
    };
    Value::Table(table.iter().map(entry).collect())
}

fn node(value: &Spanned<DeValue<'_>>, lines: &Lines<'_>, problems: &mut Vec<SyntaxError>) -> Node {
    let spot = lines.spot(value.span().start);
    let value = match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Datetime(value) => Value::Text(value.to_string()),
        DeValue::Integer(integer) => match i128::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(value) => Value::Integer(value),
            Err(_) => {
                problems.push(SyntaxError { spot: spot.clone(), text: "the number is too large".to_owned() });
                Value::Null
            }
        },
        DeValue::Float(float) => Value::Float(float.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Array(elements) => {
            Value::List(elements.iter().map(|element| node(element, lines, problems)).collect())
        }
        DeValue::Table(entries) => table(entries, lines, problems),
    };
    Node { spot, value }
}
