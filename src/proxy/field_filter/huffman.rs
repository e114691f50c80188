//! The Huffman code of HPACK (RFC 7541, appendix B), decoded four bits at a step.

use super::hpack::CompressionError;

/// EOS ends no string: a text that contains it is an error.
const EOS: usize = 256;

/// The length in bits of each symbol's code, EOS last. The code is canonical, so the lengths determine it.
#[rustfmt::skip]
const LENGTHS: [u8; EOS + 1] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

/// What four more bits lead to.
#[derive(Clone, Copy)]
struct Step {
    next: u8,
    symbol: u8,
    result: Result,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Result {
    /// No symbol ends within these bits; none can end twice, because the shortest code has five bits.
    None,
    Symbol,
    Eos,
}

/// Inner nodes of the code's tree: one fewer than its leaves.
const NODES: usize = EOS;

/// A child that is a leaf, plus its symbol.
const LEAF: u16 = 1 << 9;

const TREE: [[u16; 2]; NODES] = tree();
static STEPS: [[Step; 16]; NODES] = steps();
/// The nodes at which a text may end: its last bits are padding, which is a prefix of EOS shorter than a byte.
const ENDS: [bool; NODES] = ends();

const fn tree() -> [[u16; 2]; NODES] {
    let mut tree = [[0; 2]; NODES];
    let (mut nodes, mut code, mut length) = (1, 0u32, 1);
    while length <= 30 {
        let mut symbol = 0;
        while symbol <= EOS {
            if LENGTHS[symbol] == length {
                let (mut node, mut bit) = (0, length - 1);
                while bit > 0 {
                    let side = (code >> bit & 1) as usize;
                    if tree[node][side] == 0 {
                        tree[node][side] = nodes;
                        nodes += 1;
                    }
                    node = tree[node][side] as usize;
                    bit -= 1;
                }
                tree[node][(code & 1) as usize] = LEAF + symbol as u16;
                code += 1;
            }
            symbol += 1;
        }
        code <<= 1;
        length += 1;
    }
    tree
}

const fn steps() -> [[Step; 16]; NODES] {
    let mut steps = [[Step { next: 0, symbol: 0, result: Result::None }; 16]; NODES];
    let mut node = 0;
    while node < NODES {
        let mut nibble = 0;
        while nibble < 16 {
            let (mut at, mut bit) = (node, 4);
            let mut step = Step { next: 0, symbol: 0, result: Result::None };
            while bit > 0 {
                bit -= 1;
                let child = TREE[at][nibble >> bit & 1];
                at = child as usize;
                if child >= LEAF {
                    at = 0;
                    if child - LEAF == EOS as u16 {
                        step.result = Result::Eos;
                        bit = 0;
                    } else {
                        step.symbol = (child - LEAF) as u8;
                        step.result = Result::Symbol;
                    }
                }
            }
            step.next = at as u8;
            steps[node][nibble] = step;
            nibble += 1;
        }
        node += 1;
    }
    steps
}

const fn ends() -> [bool; NODES] {
    let mut ends = [false; NODES];
    let (mut node, mut bits) = (0, 0);
    while bits < 8 {
        ends[node] = true;
        node = TREE[node][1] as usize;
        bits += 1;
    }
    ends
}

/// Appends what a text stands for.
///
/// # Errors
/// It contains EOS, or its padding is not what RFC 7541, 5.2, says.
pub(super) fn decode(text: &[u8], out: &mut Vec<u8>) -> std::result::Result<(), CompressionError> {
    let mut node = 0;
    for byte in text {
        for nibble in [byte >> 4, byte & 15] {
            let step = STEPS[node][usize::from(nibble)];
            match step.result {
                Result::None => {}
                Result::Symbol => out.push(step.symbol),
                Result::Eos => return Err(CompressionError),
            }
            node = usize::from(step.next);
        }
    }
    if ENDS[node] { Ok(()) } else { Err(CompressionError) }
}

/// Appends the code of a text; for tests.
#[cfg(test)]
pub(super) fn encode(text: &[u8], out: &mut Vec<u8>) {
    let (mut pending, mut bits) = (0u64, 0);
    let codes = codes();
    for byte in text {
        let length = LENGTHS[usize::from(*byte)];
        pending = pending << length | u64::from(codes[usize::from(*byte)]);
        bits += length;
        while bits >= 8 {
            bits -= 8;
            out.push((pending >> bits) as u8);
        }
    }
    if bits > 0 {
        out.push((pending << (8 - bits)) as u8 | 0xff >> bits);
    }
}

#[cfg(test)]
fn codes() -> [u32; EOS + 1] {
    let (mut codes, mut code) = ([0; EOS + 1], 0);
    for length in 1..=30 {
        for symbol in 0..=EOS {
            if LENGTHS[symbol] == length {
                codes[symbol] = code;
                code += 1;
            }
        }
        code <<= 1;
    }
    codes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(text: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        decode(text, &mut out).ok().map(|()| out)
    }

    /// Examples of RFC 7541, C.4 and C.6, and some codes of its appendix B.
    #[test]
    fn the_code_is_that_of_the_rfc() {
        for (text, code) in [
            (&b"www.example.com"[..], &[0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff][..]),
            (b"no-cache", &[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]),
            (b"302", &[0x64, 0x02]),
            (b"private", &[0xae, 0xc3, 0x77, 0x1a, 0x4b]),
            (b"", &[]),
        ] {
            let mut encoded = Vec::new();
            encode(text, &mut encoded);
            assert_eq!((encoded.as_slice(), decoded(code).as_deref()), (code, Some(text)));
        }
        let codes = codes();
        for (symbol, code) in [(0, 0x1ff8), (10, 0x3fff_fffc), (b'*', 0xf9), (b'{', 0x7ffe), (255, 0x3ff_ffee)] {
            assert_eq!(codes[usize::from(symbol)], code, "{symbol}");
        }
        assert_eq!(codes[EOS], 0x3fff_ffff);
    }

    #[test]
    fn padding_is_a_short_prefix_of_eos() {
        // `0` has five bits, all zero.
        assert_eq!(decoded(&[0b0000_0111]).as_deref(), Some(&b"0"[..]));
        for bad in [&[0b0000_0000][..], &[0b0000_0110], &[0b0000_0111, 0xff], &[0xff], &[0xff, 0xff, 0xff, 0xff]] {
            assert_eq!(decoded(bad), None, "{bad:x?}");
        }
    }

    proptest! {
        #[test]
        fn every_text_comes_back(text: Vec<u8>) {
            let mut encoded = Vec::new();
            encode(&text, &mut encoded);
            prop_assert_eq!(decoded(&encoded), Some(text));
        }

        #[test]
        fn nothing_from_outside_panics(text: Vec<u8>) {
            decoded(&text);
        }
    }
}
