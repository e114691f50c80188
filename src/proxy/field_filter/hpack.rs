//! HPACK's representations of fields (RFC 7541, 6), read from and written to the bytes of a field block.

use super::huffman;

/// What a block cannot be decoded behind. It ends the connection (RFC 9113, 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CompressionError;

/// One step of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Representation<'b> {
    Indexed(usize),
    Literal(Literal<'b>),
    /// A dynamic table size update.
    Resize(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Literal<'b> {
    pub(super) form: Form,
    pub(super) name: Name<'b>,
    pub(super) value: Text<'b>,
}

/// What becomes of a literal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// It enters the dynamic table.
    Indexing,
    WithoutIndexing,
    NeverIndexed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name<'b> {
    Index(usize),
    Text(Text<'b>),
}

/// A text as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Text<'b> {
    pub(super) is_huffman: bool,
    pub(super) bytes: &'b [u8],
}

impl Text<'_> {
    /// Appends what it stands for.
    ///
    /// # Errors
    /// Its Huffman code is broken.
    pub(super) fn decode(self, out: &mut Vec<u8>) -> Result<(), CompressionError> {
        if self.is_huffman {
            return huffman::decode(self.bytes, out);
        }
        out.extend_from_slice(self.bytes);
        Ok(())
    }
}

impl Form {
    /// The first byte without its index, and the bits of that.
    fn pattern(self) -> (u8, u32) {
        match self {
            Self::Indexing => (0x40, 6),
            Self::WithoutIndexing => (0, 4),
            Self::NeverIndexed => (0x10, 4),
        }
    }
}

/// Reads the first representation of a block and how many bytes it has; `None` when it is not whole.
///
/// # Errors
/// An integer has more bytes than h2 reads.
pub(super) fn read(block: &[u8]) -> Result<Option<(Representation<'_>, usize)>, CompressionError> {
    let mut reader = Reader { block, at: 0 };
    let representation = reader.representation()?;
    Ok(representation.map(|representation| (representation, reader.at)))
}

/// A place in a block. Each reading gives `None` when the block ends too soon.
struct Reader<'b> {
    block: &'b [u8],
    at: usize,
}

impl<'b> Reader<'b> {
    fn representation(&mut self) -> Result<Option<Representation<'b>>, CompressionError> {
        let Some(first) = self.block.first() else { return Ok(None) };
        let form = match first {
            0x80.. => return Ok(self.integer(7)?.map(Representation::Indexed)),
            0x40.. => Form::Indexing,
            0x20.. => return Ok(self.integer(5)?.map(Representation::Resize)),
            0x10.. => Form::NeverIndexed,
            _ => Form::WithoutIndexing,
        };
        let Some(index) = self.integer(form.pattern().1)? else { return Ok(None) };
        let name = match index {
            0 => self.text()?.map(Name::Text),
            index => Some(Name::Index(index)),
        };
        let (Some(name), Some(value)) = (name, self.text()?) else { return Ok(None) };
        Ok(Some(Representation::Literal(Literal { form, name, value })))
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = self.block.get(self.at)?;
        self.at += 1;
        Some(*byte)
    }

    /// RFC 7541, 5.1. h2 reads five bytes at most, and so do we: a longer one is an error in both.
    fn integer(&mut self, bits: u32) -> Result<Option<usize>, CompressionError> {
        let most = (1 << bits) - 1;
        let Some(first) = self.byte() else { return Ok(None) };
        let mut value = usize::from(first) & most;
        if value < most {
            return Ok(Some(value));
        }
        for shift in [0, 7, 14, 21] {
            let Some(byte) = self.byte() else { return Ok(None) };
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(Some(value));
            }
        }
        Err(CompressionError)
    }

    fn text(&mut self) -> Result<Option<Text<'b>>, CompressionError> {
        let is_huffman = self.block.get(self.at).is_some_and(|first| first & 0x80 != 0);
        let Some(length) = self.integer(7)? else { return Ok(None) };
        let Some(bytes) = self.block.get(self.at..self.at + length) else { return Ok(None) };
        self.at += length;
        Ok(Some(Text { is_huffman, bytes }))
    }
}

pub(super) fn put_indexed(out: &mut Vec<u8>, index: usize) {
    put_integer(out, 0x80, 7, index);
}

pub(super) fn put_resize(out: &mut Vec<u8>, size: usize) {
    put_integer(out, 0x20, 5, size);
}

/// A literal with a name of a table.
pub(super) fn put_named(out: &mut Vec<u8>, form: Form, index: usize, value: Text<'_>) {
    let (pattern, bits) = form.pattern();
    put_integer(out, pattern, bits, index);
    put_text(out, value);
}

/// A literal with its name.
pub(super) fn put_literal(out: &mut Vec<u8>, form: Form, name: &[u8], value: Text<'_>) {
    out.push(form.pattern().0);
    put_text(out, Text { is_huffman: false, bytes: name });
    put_text(out, value);
}

fn put_text(out: &mut Vec<u8>, text: Text<'_>) {
    put_integer(out, u8::from(text.is_huffman) << 7, 7, text.bytes.len());
    out.extend_from_slice(text.bytes);
}

fn put_integer(out: &mut Vec<u8>, pattern: u8, bits: u32, value: usize) {
    let most = (1 << bits) - 1;
    if value < most {
        out.push(pattern | value as u8);
        return;
    }
    out.push(pattern | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn integers_are_those_of_the_rfc_and_no_longer_than_h2_reads() {
        let mut out = Vec::new();
        put_integer(&mut out, 0, 5, 1337);
        assert_eq!(out, [31, 154, 10]);
        assert_eq!(read(&[0xff, 0x80, 0x80, 0x80, 0x80]), Err(CompressionError));
        assert_eq!(read(&[0xff, 0x80, 0x80, 0x80, 0x01]), Ok(Some((Representation::Indexed(127 + (1 << 21)), 5))));
        assert_eq!(read(&[0xff, 0x80]), Ok(None));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_every_part_of_it_is_not_whole(
            index in 1usize..300_000,
            name in "[a-z]{0,200}",
            value in proptest::collection::vec(any::<u8>(), 0..300),
            is_huffman: bool,
            kind in 0..5,
        ) {
            let mut out = Vec::new();
            let value = Text { is_huffman, bytes: &value };
            let plain = Text { is_huffman: false, bytes: name.as_bytes() };
            let wanted = match kind {
                0 => {
                    put_indexed(&mut out, index);
                    Representation::Indexed(index)
                }
                1 => {
                    put_resize(&mut out, index);
                    Representation::Resize(index)
                }
                2 => {
                    put_named(&mut out, Form::Indexing, index, value);
                    Representation::Literal(Literal { form: Form::Indexing, name: Name::Index(index), value })
                }
                3 => {
                    put_named(&mut out, Form::NeverIndexed, index, value);
                    Representation::Literal(Literal { form: Form::NeverIndexed, name: Name::Index(index), value })
                }
                _ => {
                    put_literal(&mut out, Form::WithoutIndexing, name.as_bytes(), value);
                    Representation::Literal(Literal { form: Form::WithoutIndexing, name: Name::Text(plain), value })
                }
            };
            prop_assert_eq!(read(&out), Ok(Some((wanted, out.len()))));
            for length in 0..out.len() {
                prop_assert_eq!(read(&out[..length]), Ok(None));
            }
        }

        #[test]
        fn nothing_from_outside_panics(block: Vec<u8>) {
            let _ = read(&block);
        }
    }
}
