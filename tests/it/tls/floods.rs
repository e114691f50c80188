//! Clients that mean no good: each is closed, costs little memory, and the others are served meanwhile.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::setup;
use crate::support::client::Request;
use crate::support::frames::{
    CONTINUATION, DATA, END_HEADERS, Frame, Frames, HEADERS, PING, RST_STREAM, SETTINGS, WINDOW_UPDATE,
};
use crate::support::gateway::Gateway;
use crate::support::load::Load;
use crate::support::origin::{Behaviour, Origin};
use crate::support::pki::Authority;
use crate::support::tls::{Client, empty, http2_over, request};
use crate::support::wait;

const SOON: Duration = Duration::from_secs(30);

/// One worker, so that nobody is served by another one.
async fn gateway(origin: &Origin, authority: &Authority, variables: &[(&str, &str)]) -> Gateway {
    let mut setup = setup(origin, "", &authority.issue("web", &["a.example"])).env("FLEETGATE_RUNTIME__WORKERS", "1");
    for (key, value) in variables {
        setup = setup.env(key, *value);
    }
    setup.start().await
}

/// Resident memory, in bytes.
fn memory(gateway: &mut Gateway) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.process().id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

/// Sends the same frames until the connection is closed; whether it was.
async fn floods(address: SocketAddr, prepare: &[Frame], mut round: impl FnMut(u32) -> Vec<Frame>) -> bool {
    let mut frames = Frames::connect(address, &[]).await;
    for frame in prepare {
        frames.send(frame).await.unwrap();
    }
    let (mut reading, mut writing) = frames.0.into_split();
    let closed = AtomicBool::new(false);
    let read = async {
        let mut dropped = vec![0; 64 * 1024];
        while reading.read(&mut dropped).await.is_ok_and(|length| length > 0) {}
        closed.store(true, Ordering::SeqCst);
    };
    let write = async {
        for number in 0..200_000 {
            let bytes: Vec<u8> = round(number).iter().flat_map(Frame::bytes).collect();
            if writing.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    let both = async { tokio::join!(read, write) };
    tokio::time::timeout(SOON, both).await.is_ok() && closed.load(Ordering::SeqCst)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_frames_end_with_their_connection() {
    let (origin, authority) = (Origin::start("app").await, Authority::new("authority"));
    let mut gateway = gateway(&origin, &authority, &[]).await;
    let address = gateway.listener("plain");
    let load = Load::start(address, 2, |_, _| Request::get("/load"));
    load.more(100).await;
    let before = memory(&mut gateway);
    let stream = |number: u32| 2 * number + 1;
    let open = Frame::new(HEADERS, END_HEADERS, 1, Frame::get(1, "/").payload);
    let huge = |number: u32| vec![b'a' + u8::try_from(number % 26).unwrap(); 8_000];
    type Round<'a> = Box<dyn FnMut(u32) -> Vec<Frame> + 'a>;
    let attacks: Vec<(&str, Vec<Frame>, Round<'_>)> = vec![
        (
            "rapid reset",
            vec![],
            Box::new(|number| {
                vec![Frame::get(stream(number), "/reset"), Frame::new(RST_STREAM, 0, stream(number), [0, 0, 0, 8])]
            }),
        ),
        ("pings", vec![], Box::new(|_| vec![Frame::new(PING, 0, 0, [0; 8])])),
        ("settings", vec![], Box::new(|_| vec![Frame::new(SETTINGS, 0, 0, [])])),
        (
            "settings that change",
            vec![],
            Box::new(|number| {
                let [.., high, low] = number.to_be_bytes();
                vec![Frame::new(SETTINGS, 0, 0, [0, 4, 0, 0, high, low])]
            }),
        ),
        ("window updates", vec![], Box::new(|_| vec![Frame::new(WINDOW_UPDATE, 0, 0, [0, 0, 0, 1])])),
        ("priorities", vec![], Box::new(|number| vec![Frame::new(2, 0, stream(number), [0, 0, 0, 0, 9])])),
        ("empty data", vec![open.clone()], Box::new(|_| vec![Frame::new(DATA, 0, 1, [])])),
        ("unknown frames", vec![], Box::new(|_| vec![Frame::new(99, 0, 0, [])])),
        (
            "small continuations",
            vec![Frame::new(HEADERS, 0, 1, [0x82])],
            Box::new(|_| vec![Frame::new(CONTINUATION, 0, 1, [])]),
        ),
        (
            "large continuations",
            vec![Frame::new(HEADERS, 0, 1, [0x82])],
            Box::new(move |number| {
                let mut block = vec![0x00, 1, b'x', 0x7f, 0xc1, 0x3d];
                block.extend(huge(number));
                vec![Frame::new(CONTINUATION, 0, 1, block)]
            }),
        ),
    ];
    for (name, prepare, round) in attacks {
        assert!(floods(address, &prepare, round).await, "{name}: it was not closed");
        load.more(20).await;
    }
    let report = load.stop().await;
    report.assert_all_ok();
    let after = memory(&mut gateway);
    assert!(after < before + (32 << 20), "from {before} to {after} bytes");
    // Of those who were reset at once few came this far.
    assert!(origin.connections() < 500, "{}", origin.connections());
}

/// Large answers that nobody reads are not read from the service either, and the exchanges that wait for that end.
#[tokio::test]
async fn answers_that_nobody_takes_are_not_kept() {
    let (origin, authority) = (Origin::start("app").await, Authority::new("authority"));
    origin.on("/large", Behaviour::Answer { status: 200, headers: vec![], body: vec![7; 4 << 20] });
    let idle = [("FLEETGATE_LISTENERS__PLAIN__IDLE_TIMEOUT", "2s")];
    let mut gateway = gateway(&origin, &authority, &idle).await;
    let address = gateway.listener("plain");
    let before = memory(&mut gateway);
    let huge = [(4, 0x7fff_ffff), (5, 0xff_ffff)];
    // With windows of any size, and bytes that the client never reads; and with no window at all.
    let mut wide = Frames(connect_narrow(address).await);
    wide.begin(&huge).await;
    wide.send(&Frame::new(WINDOW_UPDATE, 0, 0, [0x7f, 0xff, 0, 0])).await.unwrap();
    let mut shut = Frames::connect(address, &[(4, 0)]).await;
    for number in 0..100 {
        wide.send(&Frame::get(2 * number + 1, "/large")).await.unwrap();
        shut.send(&Frame::get(2 * number + 1, "/large")).await.unwrap();
    }
    wait::until(SOON, "the requests", || async { origin.requests() == 200 }).await;
    assert_eq!(Request::get("/").send(address).await.status, 200);
    let after = memory(&mut gateway);
    assert!(after < before + (64 << 20), "from {before} to {after} bytes");
    // Who takes nothing of one answer, and reads all else, loses that answer and no more.
    assert_eq!(shut.next_of(RST_STREAM).await.unwrap().payload, [0, 0, 0, 8], "CANCEL");
    shut.send(&Frame::get(201, "/small")).await.unwrap();
    while shut.next_of(HEADERS).await.unwrap().stream != 201 {}
    wait::until(SOON, "the end of both", || async {
        gateway.metric("fleetgate_downstream_connections", &[("listener", "plain")]).await == Some(0.0)
    })
    .await;
    while shut.next().await.is_some() {}
}

/// Nor over HTTP/1.1, where each client has a connection of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_that_read_nothing_cost_little() {
    let (origin, authority) = (Origin::start("app").await, Authority::new("authority"));
    origin.on("/large", Behaviour::Answer { status: 200, headers: vec![], body: vec![7; 4 << 20] });
    let idle = [("FLEETGATE_LISTENERS__PLAIN__IDLE_TIMEOUT", "5s")];
    let mut gateway = gateway(&origin, &authority, &idle).await;
    let address = gateway.listener("plain");
    let before = memory(&mut gateway);
    let mut deaf = Vec::new();
    for _ in 0..200 {
        let mut client = connect_narrow(address).await;
        client.write_all(b"GET /large HTTP/1.1\r\nhost: a.example\r\n\r\n").await.unwrap();
        deaf.push(client);
    }
    wait::until(SOON, "the requests", || async { origin.requests() == 200 }).await;
    let mut most = 0;
    let let_go = async {
        while gateway.metric("fleetgate_downstream_connections", &[("listener", "plain")]).await != Some(0.0) {
            most = most.max(memory(&mut gateway));
        }
    };
    tokio::time::timeout(SOON, let_go).await.expect("their end");
    assert!(most < before + (64 << 20), "from {before} to {most} bytes");
    assert_eq!(Request::get("/").send(address).await.status, 200);
    // Their systems know it, too: nothing is left that they could still read in their time.
    for mut client in deaf {
        let mut rest = Vec::new();
        assert!(client.read_to_end(&mut rest).await.is_err(), "an orderly end after {} bytes", rest.len());
    }
}

/// A socket that takes little before it is read.
async fn connect_narrow(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(address).await.unwrap()
}

/// More requests at once than are allowed are refused one by one; more headers than are allowed, too.
#[tokio::test]
async fn limits_are_told_and_kept() {
    let (origin, authority) = (Origin::start("app").await, Authority::new("authority"));
    origin.on("/held", Behaviour::Hold(Box::new(Behaviour::Status(200))));
    let few = [("FLEETGATE_LISTENERS__PLAIN__MAX_CONCURRENT_STREAMS", "3")];
    let gateway = gateway(&origin, &authority, &few).await;
    let mut frames = Frames::connect(gateway.listener("plain"), &[]).await;
    let settings = frames.next_of(SETTINGS).await.unwrap();
    assert!(settings.payload.chunks(6).any(|pair| pair == [0, 3, 0, 0, 0, 3]), "{settings:?}");
    for number in 0..4 {
        frames.send(&Frame::get(2 * number + 1, "/held")).await.unwrap();
    }
    let refused = frames.next_of(RST_STREAM).await.unwrap();
    assert_eq!((refused.stream, refused.payload.as_slice()), (7, &[0, 0, 0, 7][..]), "REFUSED_STREAM");
    wait::until(SOON, "the other three", || async { origin.requests() == 3 }).await;
    origin.release();
    for _ in 0..3 {
        assert!(frames.next_of(HEADERS).await.is_some());
    }
    let mut many = Frame::get(9, "/many");
    for number in 0..101u8 {
        many.payload.extend([0x00, 2, b'x', b'a' + number % 26, 1, b'1']);
    }
    frames.send(&many).await.unwrap();
    assert_eq!(frames.next_of(HEADERS).await.unwrap().stream, 9);
    gateway
        .until_logged("the refusal", |line| line["path"] == "/many" && line["status"] == 431 && line["flag"] == "HL")
        .await;
    let large = format!("http://a.example/{}", "x".repeat(7_000));
    let headers =
        (0..5).fold(request("GET", &large), |sent, number| sent.header(format!("x-{number}"), "y".repeat(6_000)));
    let mut client = http2_over(TcpStream::connect(gateway.listener("plain")).await.unwrap()).await;
    let refused = client.send_request(headers.body(empty()).unwrap()).await.unwrap();
    assert_eq!((refused.status().as_u16(), &refused.headers()["x-fleetgate-flag"]), (431, &"HL".parse().unwrap()));
    let huge =
        (0..5).fold(request("GET", &large), |sent, number| sent.header(format!("x-{number}"), "y".repeat(16_000)));
    assert_eq!(client.send_request(huge.body(empty()).unwrap()).await.unwrap().status(), 431);
    frames.send(&Frame::get(11, "/after")).await.unwrap();
    assert_eq!(frames.next_of(HEADERS).await.unwrap().stream, 11, "the connection goes on");
}

#[tokio::test]
async fn connections_are_counted_by_listener_and_by_client() {
    let (origin, authority) = (Origin::start("app").await, Authority::new("authority"));
    let limits = [
        ("FLEETGATE_LISTENERS__PLAIN__MAX_CONNECTIONS_PER_CLIENT", "3"),
        ("FLEETGATE_LISTENERS__SECURE__MAX_CONNECTIONS", "2"),
    ];
    let gateway = gateway(&origin, &authority, &limits).await;
    let is_open = async |stream: &mut TcpStream| {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.is_ok()
            && stream.read_exact(&mut [0; 9]).await.is_ok()
    };
    let from = async |last: u8| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, last], 0))).unwrap();
        socket.connect(gateway.listener("plain")).await.unwrap()
    };
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut stream = from(2).await;
        assert!(is_open(&mut stream).await);
        open.push(stream);
    }
    assert!(!is_open(&mut from(2).await).await);
    assert!(is_open(&mut from(3).await).await, "another client");
    open.pop();
    wait::until(SOON, "its place", || async { is_open(&mut from(2).await).await }).await;

    let client = Client::trusting(&authority);
    let mut secured = Vec::new();
    for _ in 0..2 {
        secured.push(client.connect(gateway.listener("secure"), "a.example").await.unwrap());
    }
    client.connect(gateway.listener("secure"), "a.example").await.unwrap_err();
    assert!(is_open(&mut from(4).await).await, "another listener has room");
    drop(secured);
    wait::until(SOON, "its place", || async { client.connect(gateway.listener("secure"), "a.example").await.is_ok() })
        .await;
}

/// Handshakes that many begin and none ends keep nobody from being served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_wait_for_each_other_and_not_the_rest() {
    let (origin, authority) = (Origin::start("app").await, Authority::new("authority"));
    let gateway = gateway(&origin, &authority, &[]).await;
    let load = Load::start(gateway.listener("plain"), 2, |_, _| Request::get("/load"));
    let client = Client::trusting(&authority);
    let secure = gateway.listener("secure");
    let many = (0..200).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { client.get(secure, "a.example", "/").await.map(|(status, _)| status) })
    });
    for one in many.collect::<Vec<_>>() {
        assert_eq!(one.await.unwrap().unwrap(), 200);
    }
    load.more(20).await;
    load.stop().await.assert_all_ok();
}
