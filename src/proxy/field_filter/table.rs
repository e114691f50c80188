//! The client's dynamic table (RFC 7541, 2.3.2) as far as the filter has to know it, and what of it h2 has, too.
//!
//! h2 never gets an entry of a malformed section: its own table lacks it. Such an entry is a *stand-in* here, with its
//! value: a later section that refers to it is rewritten. What h2 has of the others it has in the same order, and for
//! at least as long, because its table is never fuller than the client's.

use std::collections::VecDeque;
use std::rc::Rc;

use super::rules::{Fault, Kind};

/// Nobody is told of another size than this (SETTINGS_HEADER_TABLE_SIZE), so nobody may use more.
const MAX_SIZE: usize = 4096;

/// What a field counts for beside its texts (RFC 7541, 4.1).
const OVERHEAD: usize = 32;

#[derive(Debug)]
pub(super) struct Table {
    /// The newest first. Those beyond `live` are evicted, and kept until it is known that the section may pass.
    entries: VecDeque<Entry>,
    live: usize,
    size: usize,
    max_size: usize,
    stand_ins: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: NameText,
    pub(super) kind: Result<Kind, Fault>,
    /// Why no message may have it.
    pub(super) fault: Option<Fault>,
    /// Of its value as the client sent it.
    pub(super) value_length: usize,
    /// Kept as long as it may be needed: of stand-ins, and of hosts, for the log.
    pub(super) value: Option<Box<[u8]>>,
    /// h2 does not have it.
    pub(super) is_stand_in: bool,
}

/// A name of the static table, or another.
#[derive(Clone, Debug)]
pub(super) enum NameText {
    Static(usize),
    Own(Rc<[u8]>),
}

impl NameText {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Static(index) => STATIC.get(index - 1).map_or(&[], |name| name.as_bytes()),
            Self::Own(name) => name,
        }
    }
}

impl Entry {
    pub(super) fn size(&self) -> usize {
        field_size(self.name.bytes().len(), self.value_length)
    }
}

/// What a field counts for, in the table and in the size of a section (RFC 9113, 6.5.2).
pub(super) fn field_size(name: usize, value: usize) -> usize {
    name + value + OVERHEAD
}

/// What an index refers to.
pub(super) enum Known<'t> {
    Static(Kind, Option<Fault>),
    /// `position`: from the newest.
    Dynamic {
        entry: &'t Entry,
        position: usize,
    },
}

/// The table before a section.
#[derive(Clone, Copy)]
pub(super) struct Mark {
    inserted: usize,
    live: usize,
    size: usize,
    max_size: usize,
}

impl Default for Table {
    fn default() -> Self {
        Self { entries: VecDeque::new(), live: 0, size: 0, max_size: MAX_SIZE, stand_ins: 0 }
    }
}

impl Table {
    /// What an index refers to; `None`: to nothing.
    pub(super) fn get(&self, index: usize) -> Option<Known<'_>> {
        let Some(position) = index.checked_sub(STATIC.len() + 1) else {
            let (kind, fault) = static_field(index)?;
            return Some(Known::Static(kind, fault));
        };
        let entry = self.entries.get(position).filter(|_| position < self.live)?;
        Some(Known::Dynamic { entry, position })
    }

    /// The index that h2 has for an entry which it has.
    pub(super) fn index_at_h2(&self, position: usize) -> usize {
        let absent = self.entries.iter().take(position).filter(|entry| entry.is_stand_in).count();
        STATIC.len() + 1 + position - absent
    }

    /// Whether there are entries that h2 does not have.
    pub(super) fn has_stand_ins(&self) -> bool {
        self.stand_ins > 0
    }

    /// Sets the most bytes it may have; false when the client may not have so many.
    pub(super) fn resize(&mut self, size: usize) -> bool {
        if size > MAX_SIZE {
            return false;
        }
        self.max_size = size;
        self.evict(size);
        true
    }

    /// Adds an entry, if there is room for it at all; whether there is.
    pub(super) fn insert(&mut self, entry: Entry) -> bool {
        let size = entry.size();
        self.evict(self.max_size.saturating_sub(size));
        if size > self.max_size {
            return false;
        }
        self.size += size;
        self.live += 1;
        self.stand_ins += usize::from(entry.is_stand_in);
        self.entries.push_front(entry);
        true
    }

    fn evict(&mut self, room: usize) {
        while self.size > room && self.live > 0 {
            self.live -= 1;
            let entry = &self.entries[self.live];
            self.size -= entry.size();
            self.stand_ins -= usize::from(entry.is_stand_in);
        }
    }

    pub(super) fn mark(&self) -> Mark {
        Mark { inserted: 0, live: self.live, size: self.size, max_size: self.max_size }
    }

    /// Forgets what came since the mark, of which nothing was a stand-in or forgotten meanwhile.
    pub(super) fn undo(&mut self, mark: Mark) {
        self.entries.drain(..mark.inserted);
        (self.live, self.size, self.max_size) = (mark.live, mark.size, mark.max_size);
    }

    /// Forgets what is evicted.
    pub(super) fn settle(&mut self) {
        self.entries.truncate(self.live);
        if self.entries.capacity() > 2 * MAX_SIZE / OVERHEAD {
            self.entries.shrink_to_fit();
        }
    }

    /// The newest entries are of a section that passed (h2 has them), or of one that did not.
    pub(super) fn conclude(&mut self, inserted: usize, passed: bool) {
        for entry in self.entries.iter_mut().take(inserted.min(self.live)).filter(|entry| !entry.is_stand_in) {
            if passed {
                entry.value.take_if(|_| entry.kind != Ok(Kind::Authority));
            } else {
                entry.is_stand_in = true;
                self.stand_ins += 1;
            }
        }
    }
}

impl Mark {
    /// One more entry was added.
    pub(super) fn inserted(&mut self) -> usize {
        self.inserted += 1;
        self.inserted
    }
}

/// What a field of the static table counts for.
pub(super) fn static_size(index: usize) -> usize {
    let value = if (8..=14).contains(&index) { 3 } else { static_value(index).len() };
    field_size(NameText::Static(index).bytes().len(), value)
}

/// The kind of a field of the static table, and why no message may have it as it stands there.
fn static_field(index: usize) -> Option<(Kind, Option<Fault>)> {
    let kind = match index {
        1 => Kind::Authority,
        2 | 3 => Kind::Method,
        4 | 5 => Kind::Path,
        6 | 7 => Kind::Scheme,
        8..=14 => Kind::Status,
        28 => return Some((Kind::ContentLength, Some(Fault::ContentLength))),
        57 => return Some((Kind::Other, Some(Fault::ConnectionSpecific))),
        15..=61 => Kind::Other,
        _ => return None,
    };
    Some((kind, None))
}

/// The kind of a name of the static table.
pub(super) fn static_kind(index: usize) -> Option<Result<Kind, Fault>> {
    let (kind, fault) = static_field(index)?;
    Some(match fault {
        Some(Fault::ConnectionSpecific) => Err(Fault::ConnectionSpecific),
        Some(_) | None => Ok(kind),
    })
}

/// The value of a field of the static table that stands for itself.
pub(super) fn static_value(index: usize) -> &'static str {
    match index {
        2 => "GET",
        3 => "POST",
        4 => "/",
        5 => "/index.html",
        6 => "http",
        7 => "https",
        16 => "gzip, deflate",
        _ => "",
    }
}

/// The names of the static table (RFC 7541, appendix A).
const STATIC: [&str; 61] = [
    ":authority",
    ":method",
    ":method",
    ":path",
    ":path",
    ":scheme",
    ":scheme",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "accept",
    "access-control-allow-origin",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "link",
    "location",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "refresh",
    "retry-after",
    "server",
    "set-cookie",
    "strict-transport-security",
    "transfer-encoding",
    "user-agent",
    "vary",
    "via",
    "www-authenticate",
];
