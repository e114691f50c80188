//! The streams on which a message has begun and not ended, so that a section there is one of trailers.

/// So many are remembered. Peers may leave streams open that were reset; where there are more, sections of the oldest ones
/// are nobody's trailers, and pseudo-header fields in them are dropped by h2.
const MAX_STREAMS: usize = 1024;

/// Streams in ascending order, which is nearly always the order they come in.
#[derive(Debug, Default)]
pub(super) struct OpenStreams(Vec<u32>);

impl OpenStreams {
    pub(super) fn has(&self, stream: u32) -> bool {
        self.0.binary_search(&stream).is_ok()
    }

    pub(super) fn insert(&mut self, stream: u32) {
        let Err(at) = self.0.binary_search(&stream) else { return };
        self.0.insert(at, stream);
        if self.0.len() > MAX_STREAMS {
            self.0.remove(0);
        }
    }

    pub(super) fn remove(&mut self, stream: u32) {
        if let Ok(at) = self.0.binary_search(&stream) {
            self.0.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_known_until_they_end_and_the_oldest_are_forgotten() {
        let mut open = OpenStreams::default();
        for stream in [5, 1, 9, 1] {
            open.insert(stream);
        }
        assert_eq!([1, 3, 5, 7, 9].map(|stream| open.has(stream)), [true, false, true, false, true]);
        open.remove(5);
        open.remove(7);
        assert_eq!(open.0, [1, 9]);
        for stream in (11..).step_by(2).take(MAX_STREAMS) {
            open.insert(stream);
        }
        assert!(open.0.len() == MAX_STREAMS && !open.has(9) && open.has(11));
    }
}
