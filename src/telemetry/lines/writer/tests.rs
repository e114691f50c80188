//! Whole logs: what is written, what is lost and counted, and that nobody waits.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::Command;

use super::super::tests::line;
use super::*;

const SOON: Duration = Duration::from_secs(20);

fn start(path: PathBuf) -> io::Result<Writer> {
    Writer::start(LogName::Access, &(&LogDestination::File(path)).into(), &Destinations::default())
}

fn finish(writer: &Writer) {
    writer.finish(Instant::now() + SOON);
}

/// Waits for a condition, which nothing wakes us for.
#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < SOON, "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn lines_of_all_workers_are_in_the_file_after_finish() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("access.log");
    fs::write(&path, "earlier\n").expect("to write");
    let writer = start(path.clone()).expect("to open");
    let workers = [writer.handle(), writer.handle()].map(|log| {
        thread::spawn(move || {
            for _ in 0..500 {
                log.add(line);
            }
        })
    });
    for worker in workers {
        worker.join().expect("to end");
    }
    finish(&writer);
    let text = fs::read_to_string(path).expect("the file");
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("earlier"));
    let records: Vec<serde_json::Value> = lines.map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(records.len(), 1000);
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let error = start("/nowhere/access.log".into()).expect_err("no folder");
    assert!(error.to_string().starts_with("access log /nowhere/access.log: "), "{error}");
}

#[test]
fn a_full_disk_is_told_while_it_lasts_and_lines_are_counted() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("access.log");
    std::os::unix::fs::symlink("/dev/full", &path).expect("a link");
    let writer = start(path.clone()).expect("to open");
    let (log, state) = (writer.handle(), writer.state());
    log.add(line);
    log.flush();
    until("the trouble", || state.trouble().is_some_and(|trouble| trouble.text.contains("No space left")));
    fs::remove_file(&path).expect("to remove");
    until("the end of the trouble", || state.trouble().is_none());
    assert_eq!(fs::read_to_string(&path).expect("a file").lines().count(), 1, "it was kept for a better time");

    fs::remove_file(&path).expect("to remove");
    std::os::unix::fs::symlink("/dev/full", &path).expect("a link");
    writer.reopen();
    // After a while only the latest is kept.
    until("lines to be dropped", || {
        log.add(line);
        log.flush();
        state.dropped() > 0
    });
    drop(log);
    finish(&writer);
    assert!(state.dropped() > 1 && state.trouble().is_some());
}

#[test]
fn a_pipe_without_a_reader_keeps_nobody_waiting() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo").success());
    let writer = start(path.clone()).expect("no error");
    let (log, state) = (writer.handle(), writer.state());
    assert!(state.trouble().is_some_and(|trouble| trouble.text.contains("nobody reads")), "{state:?}");
    log.add(line);
    log.flush();
    let mut reader = fs::File::open(&path).expect("the other end");
    let mut text = [0; 10];
    reader.read_exact(&mut text).expect("a line");
    assert!(text.starts_with(b"\"xxx"));
    until("the end of the trouble", || state.trouble().is_none());
    drop(reader);
    until("the trouble", || {
        log.add(line);
        log.flush();
        state.trouble().is_some()
    });
    drop(log);
    finish(&writer);
}

#[test]
fn a_reader_that_stalls_costs_lines_and_no_time() {
    let (mut read, write) = io::pipe().expect("a pipe");
    let sink = Destinations::default().stream(write.as_fd()).expect("a sink");
    let state = Arc::new(LogState::new(LogName::Own, "stderr".to_owned()));
    let writer = Writer::writing(sink, Arc::clone(&state)).expect("a thread");
    let mut stream = writer.stream();
    let text = [b"x".repeat(99), b"\n".to_vec()].concat();
    let sent = 20_000;
    for _ in 0..sent {
        stream.write_all(&text).and_then(|()| stream.flush()).expect("never to fail");
    }
    until("the trouble", || state.trouble().is_some_and(|trouble| trouble.text.contains("nobody reads")));
    assert!(state.dropped() > 0);
    writer.finish(Instant::now() + Duration::from_millis(10));
    let reading = thread::spawn(move || {
        let mut all = Vec::new();
        read.read_to_end(&mut all).map(|_| all)
    });
    until("the thread to end", || {
        finish(&writer);
        state.trouble().is_none()
    });
    drop((writer, stream, write));
    let all = reading.join().expect("to end").expect("a text");
    assert_eq!((all.len() / 100) as u64 + state.dropped(), sent);
    assert!(all.chunks(100).all(|line| line == text), "every line is whole");
}
