//! Texts into files: what a reader of the file finds.

use super::*;

fn file(path: &Path, max_size: Option<u64>) -> Arc<Mutex<Sink>> {
    let options = FileOptions { path: path.to_owned(), mode: 0o600, max_size };
    Destinations::default().file(options).expect("a sink")
}

fn write(sink: &Mutex<Sink>, text: &str) {
    let written = sink.lock().expect("a lock").write("one", text.as_bytes(), false);
    assert!(written.error.is_none() && written.bytes == text.len(), "{text}: {written:?}");
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).expect("a file")
}

#[test]
fn a_file_that_was_moved_deleted_or_emptied_is_found_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, moved) = (folder.path().join("a.log"), folder.path().join("a.log.1"));
    let sink = file(&path, None);
    write(&sink, "one\n");
    fs::rename(&path, &moved).expect("to move");
    sink.lock().expect("a lock").look(true).expect("to open again");
    assert_eq!(text(&path), "", "it is there at once");
    write(&sink, "two\n");
    assert_eq!((text(&moved), text(&path)), ("one\n".to_owned(), "two\n".to_owned()));
    fs::remove_file(&path).expect("to remove");
    sink.lock().expect("a lock").look(true).expect("to open again");
    write(&sink, "three\n");
    assert_eq!(text(&path), "three\n");
    fs::write(&path, "").expect("to empty");
    write(&sink, "four\n");
    assert_eq!(text(&path), "four\n");

    fs::rename(folder.path(), folder.path().with_extension("gone")).expect("to move");
    let lost = sink.lock().expect("a lock").look(true).expect_err("a lost folder");
    assert_eq!(lost.kind(), io::ErrorKind::NotFound);
    fs::rename(folder.path().with_extension("gone"), folder.path()).expect("to move back");
    write(&sink, "five\n");
    assert_eq!(text(&path), "four\nfive\n");
}

#[test]
fn a_line_that_was_cut_goes_on_where_it_was_and_nowhere_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.log");
    let sink = file(&path, None);
    let put = |writer, text: &str, continues| {
        let written = sink.lock().expect("a lock").write(writer, text.as_bytes(), continues);
        assert!(written.error.is_none() && written.bytes == text.len(), "{written:?}");
        written.lost
    };
    assert_eq!(put("one", "ab", false), 0);
    assert_eq!(put("one", "cd\nef", true), 0);
    assert_eq!(put("two", "other\n", false), 0);
    assert_eq!(put("one", "gh\nnext\nij", true), 1, "another line came between");
    assert_eq!(text(&path), "abcd\nef\nother\nnext\nij");
    fs::write(&path, "").expect("to empty");
    assert_eq!(put("one", "kl\nlast\n", true), 1, "the file was emptied");
    assert_eq!(text(&path), "last\n");
}

#[test]
fn the_file_is_bounded_and_nobody_elses() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("events.jsonl");
    fs::write(&path, "old\n").expect("a file");
    fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("to open it to others");
    let sink = file(&path, Some(40));
    for number in 0..100 {
        write(&sink, &format!("line {number:03}\n"));
    }
    assert_eq!(text(&path), "line 096\nline 097\nline 098\nline 099\n");
    assert_eq!(text(&rotated(&path)), "line 092\nline 093\nline 094\nline 095\n");
    for path in [&path, &rotated(&path)] {
        assert_eq!(fs::metadata(path).expect("a file").mode() & 0o777, 0o600);
    }
    fs::write(&path, "line 099\ntorn").expect("a file");
    write(&file(&path, Some(40)), "line 100\n");
    assert_eq!(text(&path), "line 099\ntorn\nline 100\n", "a line that was cut short spoils no other");
}

#[test]
fn streams_that_are_the_same_pipe_share_a_destination() {
    let destinations = Destinations::default();
    let ((_read, one), (_other_read, other)) = (io::pipe().expect("a pipe"), io::pipe().expect("a pipe"));
    let again = one.try_clone().expect("a descriptor");
    let at = |stream: BorrowedFd<'_>| destinations.stream(stream).expect("a sink");
    assert!(Arc::ptr_eq(&at(one.as_fd()), &at(again.as_fd())));
    assert!(!Arc::ptr_eq(&at(one.as_fd()), &at(other.as_fd())));
}
