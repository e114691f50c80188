//! Defines how the resolving of a raw struct reports problems: at the value they belong to.

use std::cell::RefCell;
use std::cmp::Ordering;

use crate::spec::name::{ItemRef, Name, ProviderId};
use crate::spec::pattern::PatternBudget;
use crate::spec::problem::Problem;

use super::attached::Attached;
use super::reader::Broken;
use super::tree::{Node, Path, Spot};

/// Problems told of one item.
const MAX_PROBLEMS: usize = 200;

/// What one item's resolving collects.
#[derive(Debug)]
pub struct Report<'a> {
    /// The file or key that places begin with.
    origin: &'a str,
    broken: &'a Broken,
    attached: Option<Attached<'a>>,
    problems: RefCell<Vec<Problem>>,
    references: RefCell<Vec<Reference>>,
}

/// A name an item refers to, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// What is named.
    pub to: Referent,
    /// Where: `file:line:column`.
    pub place: String,
    /// The dotted key.
    pub key: String,
}

/// What can be referred to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Referent {
    /// An upstream.
    Upstream(ItemRef),
    /// A subset of an upstream.
    Subset(ItemRef, Name),
    /// A middleware.
    Middleware(ItemRef),
    /// A listener.
    Listener(Name),
    /// A provider that must be on.
    Provider(ProviderId),
}

impl<'a> Report<'a> {
    /// Nothing found yet.
    pub fn new(origin: &'a str, broken: &'a Broken) -> Self {
        Self { origin, broken, attached: None, problems: RefCell::default(), references: RefCell::default() }
    }

    /// The same, of a document that may name files.
    pub fn with_attached(self, attached: Option<Attached<'a>>) -> Self {
        Self { attached, ..self }
    }

    /// The whole value that was read; `key` is its own dotted key, or empty.
    pub fn root<'b>(&'b self, node: &'b Node, key: &'b str) -> Scope<'b> {
        Scope { report: self, node: Some(node), left_out: false, spot: &node.spot, path: Path::Root(key) }
    }

    /// What was found.
    pub fn into_parts(self) -> (Vec<Problem>, Vec<Reference>) {
        (self.problems.into_inner(), self.references.into_inner())
    }
}

/// A value that is being resolved.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    report: &'a Report<'a>,
    /// Absent when the value is not written out, or was left out.
    node: Option<&'a Node>,
    /// Whether this value or one around it was left out because of its type.
    left_out: bool,
    spot: &'a Spot,
    path: Path<'a>,
}

impl<'a> Scope<'a> {
    /// A key of this table, whether it is there or not.
    pub fn key(&'a self, key: &'a str) -> Self {
        let written = self.node.and_then(|node| node.get(key));
        let node = written.filter(|node| !self.report.broken.contains(node));
        Self {
            report: self.report,
            node,
            left_out: self.left_out || written.is_some() && node.is_none(),
            spot: node.map_or(self.spot, |node| &node.spot),
            path: Path::Key(&self.path, key),
        }
    }

    /// An element of this list, counted as in the raw struct, which lacks the elements of a wrong type.
    pub fn index(&'a self, index: usize) -> Self {
        let elements = self.node.map(Node::elements).unwrap_or_default();
        let position = self.report.broken.written_position(elements, index);
        let found = elements.get(position).map(|node| (position, node));
        let (written, node) = found.map_or((index, None), |(at, node)| (at, Some(node)));
        Self {
            report: self.report,
            node,
            left_out: self.left_out,
            spot: node.map_or(self.spot, |node| &node.spot),
            path: Path::Index(&self.path, written),
        }
    }

    /// Whether the text has this value.
    pub fn is_written(&self) -> bool {
        self.node.is_some()
    }

    /// Reports a problem of this value.
    pub fn problem(&self, text: impl Into<String>) {
        let mut problems = self.report.problems.borrow_mut();
        match problems.len().cmp(&MAX_PROBLEMS) {
            Ordering::Less => problems.push(Problem::new(self.place(), self.path.to_string(), text)),
            Ordering::Equal => {
                problems.push(Problem::new(self.place(), "", "the item has more problems, which are not told"))
            }
            Ordering::Greater => {}
        }
    }

    /// Reports that something is missing here; not when a value of the wrong type was left out of here, for
    /// that may be the one.
    pub fn missing(&self, text: impl Into<String>) {
        if !self.left_out && !self.node.is_some_and(|node| self.report.broken.is_within(node)) {
            self.problem(text);
        }
    }

    /// Whether the text has this key, rightly or wrongly.
    pub fn has(&self, key: &str) -> bool {
        self.node.is_some_and(|node| node.get(key).is_some())
    }

    /// Notes that this value names something.
    pub fn refers(&self, to: Referent) {
        let reference = Reference { to, place: self.place(), key: self.path.to_string() };
        self.report.references.borrow_mut().push(reference);
    }

    /// The value, or its error as a problem.
    pub fn check<T, E: ToString>(&self, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.problem(error.to_string())).ok()
    }

    /// A whole number within bounds; the default when it is not written.
    pub fn number<T: TryFrom<i64> + Copy>(
        &self,
        value: Option<i64>,
        default: T,
        bounds: std::ops::RangeInclusive<i64>,
    ) -> T {
        let Some(value) = value else { return default };
        match T::try_from(value) {
            Ok(number) if bounds.contains(&value) => number,
            _ => {
                self.problem(format!("{value} is not from {} to {}", bounds.start(), bounds.end()));
                default
            }
        }
    }

    /// Whose share of memory regular expressions of this document take.
    pub(super) fn pattern_budget(&self) -> PatternBudget {
        PatternBudget::of_origin(self.report.origin)
    }

    /// The files that may be named here; `None` where none may.
    pub(super) fn attached(&self) -> Option<Attached<'a>> {
        self.report.attached
    }

    /// `file:line:column` of this value.
    pub fn place(&self) -> String {
        self.spot.in_origin(self.report.origin)
    }

    /// Where this value was written.
    pub fn spot(&self) -> &'a Spot {
        self.spot
    }
}
