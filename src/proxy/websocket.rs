//! Defines where the frames of a WebSocket begin, and the frames that close one (RFC 6455, 5.2 and 5.5.1).

/// One direction of a WebSocket, as far as its bytes have passed.
#[derive(Clone, Debug, Default)]
pub(super) struct Frames {
    head: [u8; LONGEST_HEAD],
    filled: usize,
    /// Bytes to be passed over before the next head.
    ahead: u64,
    closed: bool,
}

const LONGEST_HEAD: usize = 14;
const MASKED: u8 = 0x80;
const FINAL_CLOSE: u8 = 0x88;
const CLOSE: u8 = 0x8;

/// "Going away": a server going down, or a browser having navigated away (RFC 6455, 7.4.1).
const GOING_AWAY: [u8; 2] = 1001u16.to_be_bytes();

/// What closes a WebSocket, to its client.
pub(super) fn close_for_client() -> Vec<u8> {
    let [high, low] = GOING_AWAY;
    vec![FINAL_CLOSE, 2, high, low]
}

/// What closes a WebSocket, to its server: masked, as all that a client sends.
pub(super) fn close_for_endpoint(mask: [u8; 4]) -> Vec<u8> {
    let [high, low] = GOING_AWAY;
    let mut frame = vec![FINAL_CLOSE, MASKED | 2];
    frame.extend(mask);
    frame.extend([high ^ mask[0], low ^ mask[1]]);
    frame
}

impl Frames {
    /// These bytes pass.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let passed = self.step(bytes);
            bytes = &bytes[passed..];
        }
    }

    /// Whether nothing of a frame has passed whose rest has not.
    pub(super) fn is_between(&self) -> bool {
        self.filled == 0 && self.ahead == 0
    }

    /// How many of these bytes belong to a frame that has begun.
    pub(super) fn rest(&self, bytes: &[u8]) -> usize {
        if self.is_between() || bytes.is_empty() { 0 } else { self.clone().step(bytes) }
    }

    /// Whether a close frame has passed.
    pub(super) fn has_closed(&self) -> bool {
        self.closed && self.is_between()
    }

    /// Whether a close frame has passed or is passing.
    pub(super) fn closes(&self) -> bool {
        self.closed
    }

    /// Passes on to the end of a frame, or of the bytes; how many that took.
    fn step(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while self.ahead == 0 {
            let wanted = self.head_length();
            let more = (wanted - self.filled).min(bytes.len() - at);
            self.head[self.filled..self.filled + more].copy_from_slice(&bytes[at..at + more]);
            self.filled += more;
            at += more;
            if self.filled < wanted {
                return at;
            }
            if wanted == self.head_length() {
                self.ahead = self.payload_length();
                self.filled = 0;
                self.closed |= self.head[0] & 0xf == CLOSE;
                if self.ahead == 0 {
                    return at;
                }
            }
        }
        let left = (bytes.len() - at) as u64;
        let passed = self.ahead.min(left);
        self.ahead -= passed;
        // No more than there are.
        at + passed as usize
    }

    /// As far as is known yet.
    fn head_length(&self) -> usize {
        if self.filled < 2 {
            return 2;
        }
        let extended = match self.head[1] & !MASKED {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.head[1] & MASKED == 0 { 0 } else { 4 };
        2 + extended + mask
    }

    fn payload_length(&self) -> u64 {
        let [_, short, a, b, c, d, e, f, g, h, ..] = self.head;
        match short & !MASKED {
            126 => u16::from_be_bytes([a, b]).into(),
            127 => u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            short => short.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame whose payload looks like heads.
    fn frame(opcode: u8, length: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { MASKED } else { 0 };
        let mut frame = vec![0x80 | opcode];
        match length {
            0..126 => frame.push(mask | length as u8),
            126..65_536 => {
                frame.push(mask | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(std::iter::repeat_n(FINAL_CLOSE, if masked { 4 } else { 0 } + length));
        frame
    }

    fn lengths() -> impl Strategy<Value = usize> {
        prop_oneof![Just(0usize), 1..130usize, 65_530..65_540usize]
    }

    proptest! {
        /// However the bytes come, the ends of frames are known.
        #[test]
        fn frames_are_told_apart(
            frames in proptest::collection::vec((0u8..3, lengths(), any::<bool>()), 1..8),
            cuts in proptest::collection::vec(1usize..700, 1..20),
        ) {
            let mut bytes = Vec::new();
            let mut ends = vec![0];
            for (opcode, length, masked) in frames {
                bytes.extend(frame(opcode, length, masked));
                ends.push(bytes.len());
            }
            let (mut passing, mut at) = (Frames::default(), 0);
            for cut in cuts.iter().cycle() {
                let next = (at + cut).min(bytes.len());
                passing.pass(&bytes[at..next]);
                at = next;
                prop_assert_eq!(passing.is_between(), ends.contains(&at), "at {}", at);
                prop_assert!(!passing.closes());
                let end = ends.iter().find(|end| **end >= at).copied().unwrap_or(at);
                prop_assert_eq!(passing.rest(&bytes[at..]), end - at);
                if at == bytes.len() {
                    break;
                }
            }
        }
    }

    #[test]
    fn closes_are_seen() {
        let mut passing = Frames::default();
        passing.pass(&frame(1, 5, true));
        assert!(!passing.closes());
        let close = close_for_endpoint([1, 2, 3, 4]);
        passing.pass(&close[..3]);
        assert!(!passing.has_closed());
        passing.pass(&close[3..]);
        assert!(passing.closes() && passing.has_closed());
        assert_eq!(close, [0x88, 0x82, 1, 2, 3, 4, 0x03 ^ 1, 0xe9 ^ 2]);
        assert_eq!(close_for_client(), [0x88, 2, 0x03, 0xe9]);
        let mut huge = Frames::default();
        huge.pass(&[0x82, 127, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0]);
        assert_eq!(huge.rest(&[0; 9]), 9, "whatever it says");
    }
}
