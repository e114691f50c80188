//! The frames of a connection as they come (RFC 9113, 4 and 6), of which the filter reads those with fields.

use std::cell::Cell;
use std::rc::Rc;

use bytes::BytesMut;

use super::open_streams::OpenStreams;
use super::rules::{Fault, Part, Seen};
use super::section::{self, Broken, Section, Verdict};
use super::table::Table;

/// Length, type, flags, stream.
const HEAD: usize = 9;
/// Nobody is told of another size than this (SETTINGS_MAX_FRAME_SIZE), so nobody may send more.
const MAX_FRAME: usize = 16 * 1024;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// Which side of a connection is filtered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Side {
    Client,
    Endpoint,
}

/// Reads frames, and says what h2 gets of them.
#[derive(Debug)]
pub(super) struct Frames {
    side: Side,
    /// Bytes that a field section may have (SETTINGS_MAX_HEADER_LIST_SIZE).
    limit: usize,
    table: Table,
    /// Bytes that pass before the next head.
    ahead: usize,
    /// A frame that is not whole yet.
    partial: Vec<u8>,
    section: Option<Box<Open>>,
    /// The latest stream that the client began.
    last_stream: u32,
    /// Where the peer may send trailers.
    open: OpenStreams,
    /// What h2 gets before anything else.
    ready: BytesMut,
    /// What h2 has got ends the connection; it gets nothing more.
    has_ended: bool,
    /// That is because a block cannot be decompressed.
    cannot_decompress: bool,
    /// Requests that were replaced by one that says so.
    replaced: Rc<Cell<u32>>,
}

/// A section and the frame that began it.
#[derive(Debug)]
struct Open {
    section: Section,
    stream: u32,
    ends_stream: bool,
    priority: Option<[u8; 5]>,
    continuations: usize,
}

#[derive(Clone, Copy)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Head {
    fn read(bytes: &[u8]) -> Option<Self> {
        let [high, middle, low, kind, flags, stream @ ..] = *bytes.first_chunk::<HEAD>()?;
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        Some(Self { length, kind, flags, stream: u32::from_be_bytes(stream) & (u32::MAX >> 1) })
    }

    fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// What a HEADERS frame has beside its fragment of a block.
struct Headers<'p> {
    priority: Option<[u8; 5]>,
    depends_on_itself: bool,
    fragment: &'p [u8],
}

impl<'p> Headers<'p> {
    /// `None`: its padding or its length is wrong.
    fn read(head: Head, payload: &'p [u8]) -> Option<Self> {
        let (padding, rest) = match payload {
            [padding, rest @ ..] if head.has(PADDED) => (usize::from(*padding), rest),
            _ if head.has(PADDED) => return None,
            rest => (0, rest),
        };
        let (priority, rest) = if head.has(PRIORITY) {
            let (priority, rest) = rest.split_first_chunk::<5>()?;
            (Some(*priority), rest)
        } else {
            (None, rest)
        };
        let fragment = rest.get(..rest.len().checked_sub(padding)?)?;
        let dependency = priority.and_then(|priority| priority.first_chunk().copied()).map(u32::from_be_bytes);
        let depends_on_itself = dependency.is_some_and(|stream| stream & (u32::MAX >> 1) == head.stream);
        Some(Self { priority, depends_on_itself, fragment })
    }
}

/// Why a connection ends. h2 says so to the peer, each time for the same error in what it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Frames in a wrong order or a wrong shape: PROTOCOL_ERROR.
    Protocol,
    /// A block that cannot be decoded.
    Compression,
    /// Too many CONTINUATION frames, or too large a field: ENHANCE_YOUR_CALM.
    Flood,
}

impl Frames {
    /// `preface`: bytes before the first frame.
    pub(super) fn new(side: Side, limit: usize, preface: usize) -> Self {
        Self {
            side,
            limit,
            table: Table::default(),
            ahead: preface,
            partial: Vec::new(),
            section: None,
            last_stream: 0,
            open: OpenStreams::default(),
            ready: BytesMut::new(),
            has_ended: false,
            cannot_decompress: false,
            replaced: Rc::default(),
        }
    }

    pub(super) fn count_by(&mut self, replaced: &Rc<Cell<u32>>) {
        self.replaced = Rc::clone(replaced);
    }

    /// What h2 gets before anything else.
    pub(super) fn ready(&mut self) -> &mut BytesMut {
        &mut self.ready
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Whether the connection ends because a block cannot be decompressed.
    pub(super) fn cannot_decompress(&self) -> bool {
        self.cannot_decompress
    }

    /// Takes what came, when nothing is ready; how much of its beginning passes as it is. h2 gets the rest, if any of it,
    /// from `ready`.
    pub(super) fn take(&mut self, bytes: &[u8]) -> usize {
        let is_between = self.partial.is_empty() && self.section.is_none() && !self.has_ended;
        let passed = if is_between { self.pass(bytes) } else { 0 };
        self.hold(&bytes[passed..]);
        passed
    }

    fn pass(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        loop {
            let passed = self.ahead.min(bytes.len() - at);
            self.ahead -= passed;
            at += passed;
            let Some(head) = Head::read(&bytes[at..]) else { return at };
            if self.is_unread(head) {
                self.note_unread(head);
                self.ahead = HEAD + head.length;
                continue;
            }
            let payload = bytes[at + HEAD..].get(..head.length);
            let Some(seen) = payload.and_then(|payload| self.pass_section(head, payload)) else { return at };
            self.note_section(head.stream, head.has(END_STREAM), Some(seen));
            at += HEAD + head.length;
        }
    }

    /// Whether it passes whatever it says.
    fn is_unread(&self, head: Head) -> bool {
        self.section.is_none()
            && head.length <= MAX_FRAME
            && !matches!(head.kind, HEADERS | CONTINUATION | PUSH_PROMISE)
    }

    /// What a frame has, if it is a whole section that passes as it is.
    fn pass_section(&mut self, head: Head, payload: &[u8]) -> Option<Seen> {
        let headers = Headers::read(head, payload)?;
        let is_whole = head.kind == HEADERS && head.length <= MAX_FRAME && head.has(END_HEADERS) && head.stream != 0;
        if !is_whole || headers.depends_on_itself {
            return None;
        }
        let part = self.part(head.stream);
        section::pass(&mut self.table, part, headers.fragment, self.limit)
    }

    fn part(&self, stream: u32) -> Part {
        match self.side {
            Side::Endpoint if self.open.has(stream) => Part::ResponseTrailers,
            Side::Endpoint => Part::Response,
            Side::Client if stream > self.last_stream => Part::Request,
            Side::Client if self.open.has(stream) => Part::RequestTrailers,
            Side::Client => Part::Stray,
        }
    }

    /// Notes a section that is over; `seen`: of one that h2 gets as it came.
    fn note_section(&mut self, stream: u32, ends_stream: bool, seen: Option<Seen>) {
        let begins = match self.side {
            Side::Client => stream > self.last_stream && seen.is_some(),
            Side::Endpoint => seen.is_some_and(Seen::is_final_response),
        };
        if ends_stream {
            self.open.remove(stream);
        } else if begins {
            self.open.insert(stream);
        }
        self.last_stream = self.last_stream.max(stream);
    }

    /// Notes a frame without fields, which may end its stream.
    fn note_unread(&mut self, head: Head) {
        if head.kind == RST_STREAM || head.kind == DATA && head.has(END_STREAM) {
            self.open.remove(head.stream);
        }
    }

    /// Takes what does not pass as it is, and what comes behind.
    fn hold(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.has_ended {
            if self.ahead > 0 {
                let (passes, rest) = bytes.split_at(self.ahead.min(bytes.len()));
                self.ready.extend_from_slice(passes);
                self.ahead -= passes.len();
                bytes = rest;
                continue;
            }
            bytes = self.fill(HEAD, bytes);
            let Some(head) = Head::read(&self.partial) else { return };
            if self.is_unread(head) {
                self.note_unread(head);
                self.ready.extend_from_slice(&self.partial);
                self.partial.clear();
                self.ahead = head.length;
                continue;
            }
            if head.length > MAX_FRAME {
                // h2 ends the connection for the head alone: FRAME_SIZE_ERROR.
                self.ready.extend_from_slice(&self.partial);
                self.has_ended = true;
                return;
            }
            bytes = self.fill(HEAD + head.length, bytes);
            if self.partial.len() == HEAD + head.length {
                let frame = std::mem::take(&mut self.partial);
                if let Err(end) = self.frame(head, &frame[HEAD..]) {
                    self.end(end, head.stream);
                }
            }
        }
    }

    /// Takes as much as the frame lacks of this length.
    fn fill<'b>(&mut self, length: usize, bytes: &'b [u8]) -> &'b [u8] {
        let lacking = length.saturating_sub(self.partial.len()).min(bytes.len());
        let (taken, rest) = bytes.split_at(lacking);
        self.partial.extend_from_slice(taken);
        rest
    }

    fn frame(&mut self, head: Head, payload: &[u8]) -> Result<(), End> {
        let (mut open, fragment) = match (head.kind, self.section.take()) {
            (HEADERS, None) if head.stream != 0 => {
                let headers = Headers::read(head, payload).ok_or(End::Protocol)?;
                let fault = headers.depends_on_itself.then_some(Fault::Itself);
                let section = Section::new(self.part(head.stream), fault, self.limit);
                let (stream, ends_stream) = (head.stream, head.has(END_STREAM));
                let open = Open { section, stream, ends_stream, priority: headers.priority, continuations: 0 };
                (Box::new(open), headers.fragment)
            }
            (CONTINUATION, Some(mut open)) if head.stream == open.stream => {
                open.continuations += 1;
                (open, payload)
            }
            _ => return Err(End::Protocol),
        };
        open.section.feed(fragment, &mut self.table).map_err(End::from)?;
        if head.has(END_HEADERS) {
            return self.section_ends(*open);
        }
        if open.continuations > self.most_continuations() {
            return Err(End::Flood);
        }
        self.section = Some(open);
        Ok(())
    }

    /// As h2 counts, which sees fewer of them.
    fn most_continuations(&self) -> usize {
        let least = (self.limit / MAX_FRAME).max(1);
        (least + least / 4).max(5)
    }

    fn section_ends(&mut self, open: Open) -> Result<(), End> {
        let is_request = self.part(open.stream) == Part::Request;
        let seen = open.section.seen();
        let (block, verdict) = open.section.end(&mut self.table)?;
        self.note_section(open.stream, open.ends_stream, verdict.is_none().then_some(seen));
        if let Some(Verdict::Malformed(fault)) = verdict {
            tracing::debug!(stream = open.stream, side = ?self.side, "malformed HTTP/2 fields: {}", fault.reason());
        }
        if verdict.is_some() && is_request {
            self.replaced.set(self.replaced.get().saturating_add(1));
        }
        let ends_stream = if open.ends_stream { END_STREAM } else { 0 };
        let priority = open.priority.filter(|_| verdict.is_none());
        let (first, rest) = block.split_at(block.len().min(MAX_FRAME - 5));
        let priority_flag = if priority.is_some() { PRIORITY } else { 0 };
        let last = if rest.is_empty() { END_HEADERS } else { 0 };
        let length = first.len() + priority.map_or(0, |priority| priority.len());
        self.put_head(length, HEADERS, ends_stream | priority_flag | last, open.stream);
        self.ready.extend_from_slice(priority.as_ref().map_or(&[], |priority| priority.as_slice()));
        self.ready.extend_from_slice(first);
        let mut pieces = rest.chunks(MAX_FRAME).peekable();
        while let Some(piece) = pieces.next() {
            let last = if pieces.peek().is_none() { END_HEADERS } else { 0 };
            self.put_head(piece.len(), CONTINUATION, last, open.stream);
            self.ready.extend_from_slice(piece);
        }
        Ok(())
    }

    fn put_head(&mut self, length: usize, kind: u8, flags: u8, stream: u32) {
        let [_, high, middle, low] = (length as u32).to_be_bytes();
        self.ready.extend_from_slice(&[high, middle, low, kind, flags]);
        self.ready.extend_from_slice(&stream.to_be_bytes());
    }

    /// Gives h2 what it ends the connection for.
    fn end(&mut self, end: End, stream: u32) {
        (self.has_ended, self.section) = (true, None);
        self.cannot_decompress = end == End::Compression;
        tracing::debug!(stream, side = ?self.side, "an HTTP/2 connection cannot go on: {end:?}");
        let stream = stream.max(1);
        match end {
            End::Protocol => {
                // A section that another frame interrupts.
                self.put_head(0, HEADERS, 0, stream);
                self.put_head(8, PING, 0, 0);
                self.ready.extend_from_slice(&[0; 8]);
            }
            End::Compression => {
                // An index of 0.
                self.put_head(1, HEADERS, END_HEADERS, stream);
                self.ready.extend_from_slice(&[0x80]);
            }
            End::Flood => {
                self.put_head(0, HEADERS, 0, stream);
                for _ in 0..self.most_continuations() + 2 {
                    self.put_head(0, CONTINUATION, 0, stream);
                }
            }
        }
    }
}

impl From<Broken> for End {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Compression => Self::Compression,
            Broken::TooLarge => Self::Flood,
        }
    }
}
