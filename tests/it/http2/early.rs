//! Answers that come while the client is still sending (RFC 9113, 8.1).

use std::process::Command;

use tokio::net::TcpListener;

use super::{SOON, literal};
use crate::support::frames::{
    DATA, END_HEADERS, END_STREAM, Frame, Frames, GOAWAY, HEADERS, PING, RST_STREAM, WINDOW_UPDATE,
};
use crate::support::gateway::{Gateway, serving};
use crate::support::multiplexed::{Act, Service};
use crate::support::origin::{Behaviour, Origin};

const NO_ERROR: [u8; 4] = [0; 4];
const FRAME: usize = 16 * 1024;
/// What may be sent before anything of it is taken.
const WINDOW: usize = 256 * 1024;

fn post(stream: u32, path: &str, length: usize) -> Frame {
    let mut block = vec![0x83, 0x86];
    literal(&mut block, true, b":authority", b"a.example");
    literal(&mut block, true, b":path", path.as_bytes());
    literal(&mut block, true, b"content-length", length.to_string().as_bytes());
    Frame::new(HEADERS, END_HEADERS, stream, block)
}

/// Routes whose answers come early, each for its reason, and one to what is served.
async fn gateway(origin: &Origin, service: &Service) -> Gateway {
    origin.on("/early", Behaviour::Early(503));
    service.on("/early2", Act::Early(503));
    // Nobody listens there.
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (app, other) = (origin.address(), service.address());
    let route = "match = { path = \"/\", methods = [\"GET\"] }";
    let more = format!(
        r#"
        [upstreams.closed]
        endpoints = ["{closed}"]
        [upstreams.other]
        endpoints = ["{other}"]
        protocol = "http2"
        [middlewares.never.respond]
        status = 403
        [routes.closed]
        match = {{ path = "/502" }}
        upstream = "closed"
        [routes.early]
        match = {{ path = "/early" }}
        upstream = "app"
        [routes.early2]
        match = {{ path = "/early2" }}
        upstream = "other"
        [routes.never]
        match = {{ path = "/403" }}
        middlewares = ["never"]
        upstream = "app"
        "#
    );
    let text = serving(route, &format!("endpoints = [\"{app}\"]"));
    let text = text.replace("[routes.all]", "listeners.web.max_body_size = \"2MB\"\n[routes.all]");
    Gateway::start(&(text + &more)).await
}

/// What a frame adds to the connection's window.
fn grant(frame: &Frame) -> usize {
    match <[u8; 4]>::try_from(frame.payload.as_slice()) {
        Ok(grant) if (frame.kind, frame.stream) == (WINDOW_UPDATE, 0) => u32::from_be_bytes(grant) as usize,
        Ok(_) | Err(_) => 0,
    }
}

/// The answer to a stream, to its end; nothing else ends but by NO_ERROR.
async fn answer(frames: &mut Frames, stream: u32, window: &mut usize) -> Frame {
    let mut head = None;
    loop {
        let frame = frames.next().await.expect("a frame");
        assert_ne!(frame.kind, GOAWAY, "{frame:?}");
        assert!(frame.kind != RST_STREAM || frame.stream != stream && frame.payload == NO_ERROR, "{frame:?}");
        *window += grant(&frame);
        if frame.stream == stream && frame.kind == HEADERS {
            head = Some(frame.clone());
        }
        if frame.stream == stream && frame.flags & END_STREAM != 0 && frame.kind <= HEADERS {
            return head.unwrap();
        }
    }
}

const EARLY: [(&str, usize); 6] = [
    ("/502", 300_000),
    ("/404", 300_000),
    ("/403", 300_000),
    ("/413", 3_000_000),
    ("/early", 300_000),
    ("/early2", 300_000),
];

/// The stream is reset when nothing comes of it, without an error, and well behind the answer.
#[tokio::test]
async fn a_client_that_is_still_sending_gets_its_answer_and_then_a_reset_without_error() {
    let (origin, service) = (Origin::start("app").await, Service::start().await);
    let gateway = gateway(&origin, &service).await;
    // An endpoint of HTTP/1.1 may get the rest of what it has answered.
    for (path, length) in EARLY.into_iter().filter(|(path, _)| *path != "/early") {
        let mut frames = Frames::connect(gateway.address(), &[]).await;
        frames.send(&post(1, path, length)).await.unwrap();
        let head = answer(&mut frames, 1, &mut 0).await;
        assert_ne!(head.payload[0], 0x88, "{path}");
        // What was in flight, as much as could be.
        for _ in 0..3 {
            frames.send(&Frame::new(DATA, 0, 1, vec![0; FRAME])).await.unwrap();
        }
        frames.send(&Frame::get(3, "/fine")).await.unwrap();
        assert_eq!(answer(&mut frames, 3, &mut 0).await.payload[0], 0x88, "{path}");
        let reset = loop {
            let frame = frames.next().await.expect("a frame");
            assert_ne!(frame.kind, GOAWAY, "{path}");
            if frame.kind == RST_STREAM {
                break frame;
            }
        };
        assert_eq!((reset.stream, reset.payload.as_slice()), (1, &NO_ERROR[..]), "{path}");
    }
}

/// What a client sends on is dropped, and the connection's window is as before.
#[tokio::test]
async fn what_is_sent_behind_an_answer_is_dropped_and_takes_nothing_from_others() {
    let (origin, service) = (Origin::start("app").await, Service::start().await);
    let gateway = gateway(&origin, &service).await;
    for (path, _) in EARLY.iter().filter(|(path, _)| *path != "/413") {
        let mut frames = Frames::connect(gateway.address(), &[]).await;
        // The connection's window at first is 64 KiB; ten times a stream's window is more than there ever is.
        let (mut window, mut stream) = (65_535, 1);
        for _ in 0..10 {
            frames.send(&post(stream, path, WINDOW)).await.unwrap();
            answer(&mut frames, stream, &mut window).await;
            let (mut left, mut is_reset) = (WINDOW, false);
            while left > 0 && !is_reset {
                frames.send(&Frame::new(PING, 0, 0, *b"window? ")).await.unwrap();
                loop {
                    let frame = frames.next().await.expect("a frame");
                    assert_ne!(frame.kind, GOAWAY, "{path}: {frame:?}");
                    window += grant(&frame);
                    if frame.kind == RST_STREAM {
                        assert_eq!(frame.payload, NO_ERROR, "{path}");
                        // This test was slower than a client should be.
                        is_reset |= frame.stream == stream;
                    }
                    if frame.kind == PING {
                        break;
                    }
                }
                let length = left.min(FRAME).min(window);
                if length == 0 {
                    continue;
                }
                (window, left) = (window - length, left - length);
                let flags = if left == 0 { END_STREAM } else { 0 };
                frames.send(&Frame::new(DATA, flags, stream, vec![0; length])).await.unwrap();
            }
            stream += 2;
        }
        frames.send(&Frame::get(stream, "/fine")).await.unwrap();
        assert_eq!(answer(&mut frames, stream, &mut window).await.payload[0], 0x88, "{path}");
    }
}

/// curl, which takes a reset in the midst of its sending for an error, shows the answer.
#[tokio::test]
async fn curl_shows_an_early_answer() {
    let version = Command::new("curl").arg("--version").output();
    if !version.is_ok_and(|version| String::from_utf8_lossy(&version.stdout).contains("HTTP2")) {
        println!("no curl that speaks HTTP/2: nothing to see");
        return;
    }
    let (origin, service) = (Origin::start("app").await, Service::start().await);
    let gateway = gateway(&origin, &service).await;
    let file = gateway.write("upload", &"x".repeat(1_900_000));
    for (path, status) in [("/502", "502"), ("/404", "404"), ("/403", "403"), ("/early", "503"), ("/early2", "503")] {
        for turn in 0..6 {
            let mut command = Command::new("curl");
            command.args([
                "-sS",
                "--http2-prior-knowledge",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                "-X",
                "POST",
                "-T",
            ]);
            command.arg(&file).arg(format!("http://{}{path}", gateway.address()));
            let run = tokio::task::spawn_blocking(move || command.output().unwrap());
            let output = tokio::time::timeout(SOON, run).await.unwrap().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert_eq!(String::from_utf8_lossy(&output.stdout), status, "{path}, {turn}: {errors}");
            assert!(output.status.success(), "{path}, {turn}: {errors}");
        }
    }
}
