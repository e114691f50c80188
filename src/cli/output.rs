//! Standard output of a command, which remembers that it could not be written.

use std::io::{self, ErrorKind, Write};

use super::{UNANSWERED, say};

/// Writes, and keeps the first error. That a reader has enough (`fleetgate routes | head`) is none.
pub(super) struct Output<W> {
    inner: W,
    failure: Option<io::Error>,
}

impl<W: Write> Output<W> {
    pub(super) fn new(inner: W) -> Self {
        Self { inner, failure: None }
    }

    /// Notes an error of somebody else's writing to the same place.
    pub(super) fn note(&mut self, error: io::Error) {
        if error.kind() != ErrorKind::BrokenPipe {
            self.failure.get_or_insert(error);
        }
    }

    /// The exit code of a command that ends with `code`, whose answer may not have been written.
    pub(super) fn settle(mut self, code: u8, remarks: &mut dyn Write) -> u8 {
        let _ = self.flush();
        let Some(error) = self.failure else { return code };
        say(remarks, &format!("fleetgate: cannot write to standard output: {error}"));
        UNANSWERED
    }

    fn noted<T>(&mut self, outcome: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &outcome
            && error.kind() != ErrorKind::Interrupted
        {
            let copy = error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error);
            self.note(copy);
        }
        outcome
    }
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let outcome = self.inner.write(bytes);
        self.noted(outcome)
    }

    fn flush(&mut self) -> io::Result<()> {
        let outcome = self.inner.flush();
        self.noted(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::super::FINE;
    use super::*;

    /// A file that takes so many bytes, and then fails in its way.
    struct Device(usize, ErrorKind);

    impl Write for Device {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.0);
            self.0 -= taken;
            if taken == 0 && !bytes.is_empty() { Err(self.1.into()) } else { Ok(taken) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_cannot_be_written_is_told_but_for_a_reader_who_has_enough() {
        for (room, kind, wanted) in [
            (100, ErrorKind::StorageFull, FINE),
            (0, ErrorKind::StorageFull, UNANSWERED),
            (3, ErrorKind::StorageFull, UNANSWERED),
            (3, ErrorKind::BrokenPipe, FINE),
        ] {
            let (mut output, mut remarks) = (Output::new(Device(room, kind)), Vec::new());
            say(&mut output, "an answer");
            assert_eq!(output.settle(FINE, &mut remarks), wanted, "{room} {kind}");
            let told = String::from_utf8(remarks).expect("text");
            assert_eq!(told.lines().count(), usize::from(wanted != FINE), "{told}");
            assert!(wanted == FINE || told.contains("cannot write to standard output: no storage space"), "{told}");
        }
    }
}
