//! A field section on its way through the filter: as it is, rewritten for h2, or replaced because it is malformed.

use std::cell::RefCell;
use std::rc::Rc;

use super::hpack::{self, CompressionError, Form, Literal, Name, Representation, Text, put_literal};
use super::rules::{self, Fault, Kind, MALFORMED, Part, Seen, trimmed};
use super::table::{Entry, Known, NameText, Table, field_size, static_kind, static_size, static_value};

/// Entries that a section may add at once and still pass as it is: what they evict is kept meanwhile.
const MAX_INSERTED: usize = 256;

/// Bytes of a field that the log may show of a malformed request.
const MAX_SHOWN: usize = 2048;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(1024));
}

/// The bytes that a text stands for.
fn decoded<T>(text: Text<'_>, read: impl FnOnce(&[u8]) -> T) -> Result<T, CompressionError> {
    if !text.is_huffman {
        return Ok(read(text.bytes));
    }
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.clear();
        text.decode(scratch)?;
        Ok(read(scratch))
    })
}

/// What a whole block has, if it passes as it is. If not, the table is as before.
pub(super) fn pass(table: &mut Table, part: Part, block: &[u8], limit: usize) -> Option<Seen> {
    if table.has_stand_ins() {
        return None;
    }
    let mut mark = table.mark();
    let read = read_sound(table, part, block, || mark.inserted());
    let sound = read.filter(|(_, size)| *size < limit).map(|(seen, _)| seen);
    if sound.is_none() {
        table.undo(mark);
    }
    table.settle();
    sound
}

/// Reads a block in which nothing is wrong and nothing unusual: what it has, and what its fields count for; `None` for
/// every other.
fn read_sound(
    table: &mut Table,
    part: Part,
    mut block: &[u8],
    mut inserted: impl FnMut() -> usize,
) -> Option<(Seen, usize)> {
    let (mut seen, mut begun, mut size) = (Seen::new(part), false, 0);
    while !block.is_empty() {
        let (representation, length) = hpack::read(block).ok()??;
        block = &block[length..];
        let (kind, counts) = match representation {
            Representation::Resize(size) => {
                if begun || !table.resize(size) {
                    return None;
                }
                continue;
            }
            Representation::Indexed(index) => match table.get(index)? {
                Known::Static(kind, None) => (kind, static_size(index)),
                Known::Dynamic { entry, .. } if entry.fault.is_none() => (entry.kind.ok()?, entry.size()),
                Known::Static(_, Some(_)) | Known::Dynamic { .. } => return None,
            },
            Representation::Literal(literal) => {
                let (kind, name_length) = match literal.name {
                    Name::Text(text) => decoded(text, |name| (rules::kind(name), name.len())).ok()?,
                    Name::Index(index) => name_kind(table, index)?,
                };
                let kind = kind.ok()?;
                let is_indexed = literal.form == Form::Indexing;
                let check = |value: &[u8]| {
                    let kept = (is_indexed && kind == Kind::Authority).then(|| Box::from(value));
                    (rules::fault(kind, value), kind.with(value), value.len(), kept)
                };
                let (None, kind, value_length, value) = decoded(literal.value, check).ok()? else { return None };
                if is_indexed {
                    let name = name_text(table, literal.name)?;
                    let kind = Ok(kind);
                    let entry = Entry { name, kind, fault: None, value_length, value, is_stand_in: false };
                    if table.insert(entry) && inserted() > MAX_INSERTED {
                        return None;
                    }
                }
                (kind, field_size(name_length, value_length))
            }
        };
        (begun, size) = (true, size + counts);
        seen.take(kind).ok()?;
    }
    seen.end().ok().map(|()| (seen, size))
}

/// The kind of a name of a table, and its length.
fn name_kind(table: &Table, index: usize) -> Option<(Result<Kind, Fault>, usize)> {
    if let Some(kind) = static_kind(index) {
        return Some((kind, NameText::Static(index).bytes().len()));
    }
    match table.get(index)? {
        Known::Dynamic { entry, .. } => Some((entry.kind, entry.name.bytes().len())),
        Known::Static(..) => None,
    }
}

fn name_text(table: &Table, name: Name<'_>) -> Option<NameText> {
    match name {
        Name::Text(text) => Some(NameText::Own(decoded(text, |name| Rc::from(name)).ok()?)),
        Name::Index(index) => match table.get(index)? {
            Known::Static(..) => Some(NameText::Static(index)),
            Known::Dynamic { entry, .. } => Some(entry.name.clone()),
        },
    }
}

/// Why a section is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Malformed(Fault),
    TooLarge,
}

/// Why a section cannot be read on; the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    Compression,
    /// A single field is larger than all of them may be.
    TooLarge,
}

impl From<CompressionError> for Broken {
    fn from(_: CompressionError) -> Self {
        Self::Compression
    }
}

/// A section of which not everything has come, or which does not pass as it is.
#[derive(Debug)]
pub(super) struct Section {
    part: Part,
    seen: Seen,
    verdict: Option<Verdict>,
    /// What has come and is not read.
    unread: Vec<u8>,
    /// The block that h2 gets.
    out: Vec<u8>,
    /// A field has come.
    begun: bool,
    /// What its fields count for.
    size: usize,
    resized: Option<usize>,
    /// Entries that it has added to the table.
    inserted: usize,
    /// The first of each field that the log shows.
    shown: Vec<(Vec<u8>, Vec<u8>)>,
    limit: usize,
}

/// A field as it stands in a section.
struct Field<'f> {
    name: &'f [u8],
    value: &'f [u8],
    kind: Result<Kind, Fault>,
}

impl Section {
    /// `limit`: bytes that it may have as it is sent; its fields have to count for less.
    pub(super) fn new(part: Part, fault: Option<Fault>, limit: usize) -> Self {
        Self {
            part,
            seen: Seen::new(part),
            verdict: fault.map(Verdict::Malformed),
            unread: Vec::new(),
            out: Vec::new(),
            begun: false,
            size: 0,
            resized: None,
            inserted: 0,
            shown: Vec::new(),
            limit,
        }
    }

    /// Reads on.
    ///
    /// # Errors
    /// The connection cannot go on.
    pub(super) fn feed(&mut self, fragment: &[u8], table: &mut Table) -> Result<(), Broken> {
        self.unread.extend_from_slice(fragment);
        let unread = std::mem::take(&mut self.unread);
        let mut at = 0;
        while let Some((representation, length)) = hpack::read(&unread[at..])? {
            self.read(representation, &unread[at..at + length], table)?;
            at += length;
            // h2 would answer by itself, and tell nobody; or end the connection.
            if self.size >= self.limit || self.out.len() > self.limit {
                self.replace(Verdict::TooLarge);
            }
        }
        self.unread = unread;
        self.unread.drain(..at);
        table.settle();
        if self.unread.len() > self.limit { Err(Broken::TooLarge) } else { Ok(()) }
    }

    /// What has come of it.
    pub(super) fn seen(&self) -> Seen {
        self.seen
    }

    fn replace(&mut self, verdict: Verdict) {
        self.verdict.get_or_insert(verdict);
        self.out = Vec::new();
    }

    fn read(&mut self, came: Representation<'_>, bytes: &[u8], table: &mut Table) -> Result<(), Broken> {
        match came {
            Representation::Resize(size) => {
                if self.begun || !table.resize(size) {
                    return Err(Broken::Compression);
                }
                self.resized = Some(size);
                self.put(|out| out.extend_from_slice(bytes));
            }
            Representation::Indexed(index) => match table.get(index).ok_or(Broken::Compression)? {
                Known::Static(kind, fault) => {
                    let value = static_value(index);
                    let name = NameText::Static(index);
                    self.size += static_size(index);
                    self.take(&Field { name: name.bytes(), value: value.as_bytes(), kind: Ok(kind) }, fault);
                    self.put(|out| out.extend_from_slice(bytes));
                }
                Known::Dynamic { entry, position } => {
                    let value = entry.value.as_deref();
                    self.size += entry.size();
                    let field = Field { name: entry.name.bytes(), value: value.unwrap_or_default(), kind: entry.kind };
                    self.take(&field, entry.fault);
                    self.put(|out| match value.filter(|_| entry.is_stand_in) {
                        Some(bytes) => put_literal(out, Form::WithoutIndexing, field.name, plain(bytes)),
                        None => hpack::put_indexed(out, table.index_at_h2(position)),
                    });
                }
            },
            Representation::Literal(literal) => self.literal(literal, bytes, table)?,
        }
        Ok(())
    }

    fn literal(&mut self, literal: Literal<'_>, bytes: &[u8], table: &mut Table) -> Result<(), Broken> {
        let Literal { form, name: sent_name, value: sent_value } = literal;
        let mut value = Vec::new();
        sent_value.decode(&mut value)?;
        if let Name::Text(text) = sent_name {
            decoded(text, |_| ())?;
        }
        let name = name_text(table, sent_name).ok_or(Broken::Compression)?;
        let kind = match sent_name {
            Name::Text(_) => rules::kind(name.bytes()),
            Name::Index(index) => name_kind(table, index).ok_or(Broken::Compression)?.0,
        };
        let value_length = value.len();
        self.size += field_size(name.bytes().len(), value_length);
        let mut fault = kind.map_or_else(Some, |kind| rules::fault(kind, &value));
        // Services have always sent such values, and in HTTP/1.1 the spaces are no part of them.
        let is_trimmed = self.part.is_of_response() && fault == Some(Fault::Edges);
        if is_trimmed {
            value = trimmed(&value).to_vec();
            fault = kind.map_or_else(Some, |kind| rules::fault(kind, &value));
        }
        let kind = kind.map(|kind| kind.with(&value));
        self.take(&Field { name: name.bytes(), value: &value, kind }, fault);
        self.put(|out| match sent_name {
            _ if is_trimmed => {
                let form = if form == Form::Indexing { Form::WithoutIndexing } else { form };
                put_literal(out, form, name.bytes(), plain(&value));
            }
            Name::Text(_) => out.extend_from_slice(bytes),
            Name::Index(index) => match table.get(index) {
                Some(Known::Dynamic { entry, .. }) if entry.is_stand_in => {
                    put_literal(out, form, name.bytes(), sent_value);
                }
                Some(Known::Dynamic { position, .. }) => {
                    hpack::put_named(out, form, table.index_at_h2(position), sent_value);
                }
                Some(Known::Static(..)) | None => out.extend_from_slice(bytes),
            },
        });
        if form == Form::Indexing {
            let value = Some(value.into_boxed_slice());
            let entry = Entry { name, kind, fault, value_length, value, is_stand_in: is_trimmed };
            self.inserted += usize::from(table.insert(entry));
            table.settle();
        }
        Ok(())
    }

    /// Takes a field, which has a fault perhaps.
    fn take(&mut self, field: &Field<'_>, fault: Option<Fault>) {
        self.begun = true;
        let taken = match (field.kind, fault) {
            (Err(fault), _) | (Ok(_), Some(fault)) => Err(fault),
            (Ok(kind), None) => self.seen.take(kind),
        };
        match taken {
            Ok(()) => self.show(field),
            Err(fault) => self.replace(Verdict::Malformed(fault)),
        }
    }

    /// Keeps what the log shows of a request, should it be refused.
    fn show(&mut self, field: &Field<'_>) {
        let is_shown = self.part == Part::Request
            && matches!(
                field.name,
                b":method" | b":authority" | b":path" | b"x-request-id" | b"user-agent" | b"accept"
            )
            && (1..=MAX_SHOWN).contains(&field.value.len());
        if is_shown && !self.shown.iter().any(|(name, _)| name == field.name) {
            self.shown.push((field.name.to_vec(), field.value.to_vec()));
        }
    }

    fn put(&mut self, put: impl FnOnce(&mut Vec<u8>)) {
        if self.verdict.is_none() {
            put(&mut self.out);
        }
    }

    /// The block that h2 gets, and why it is another than came.
    ///
    /// # Errors
    /// It ends within a field.
    pub(super) fn end(mut self, table: &mut Table) -> Result<(Vec<u8>, Option<Verdict>), Broken> {
        if !self.unread.is_empty() {
            return Err(Broken::Compression);
        }
        if self.verdict.is_none()
            && let Err(fault) = self.seen.end()
        {
            self.replace(Verdict::Malformed(fault));
        }
        table.conclude(self.inserted, self.verdict.is_none());
        let block = match self.verdict {
            None => self.out,
            Some(verdict) => self.replacement(verdict),
        };
        Ok((block, self.verdict))
    }

    fn replacement(&self, verdict: Verdict) -> Vec<u8> {
        let mut block = Vec::new();
        if let Some(size) = self.resized {
            hpack::put_resize(&mut block, size);
        }
        let mut put = |name: &[u8], value: &[u8]| put_literal(&mut block, Form::WithoutIndexing, name, plain(value));
        if self.part != Part::Request {
            // h2 resets a stream for this.
            put(b"te", b"malformed");
            return block;
        }
        let shown = |name: &[u8]| {
            let mut shown = self.shown.iter().filter(|(shown, _)| shown == name).map(|(_, value)| value.as_slice());
            shown.next()
        };
        // Whatever h2 would reset the stream for is left out: the client is answered.
        let method = shown(b":method").filter(|method| *method != b"CONNECT").unwrap_or(b"-");
        let path =
            shown(b":path").filter(|path| path.starts_with(b"/") && http::uri::PathAndQuery::try_from(*path).is_ok());
        put(b":method", method);
        put(b":scheme", b"http");
        put(b":path", path.unwrap_or(b"/"));
        if let Some(authority) = shown(b":authority").filter(|host| http::uri::Authority::try_from(*host).is_ok()) {
            put(b":authority", authority);
        }
        for (name, value) in self.shown.iter().filter(|(name, _)| !name.starts_with(b":")) {
            put(name, value);
        }
        let reason = match verdict {
            Verdict::Malformed(fault) => fault.reason(),
            Verdict::TooLarge => "",
        };
        put(MALFORMED.as_bytes(), reason.as_bytes());
        block
    }
}

fn plain(bytes: &[u8]) -> Text<'_> {
    Text { is_huffman: false, bytes }
}
