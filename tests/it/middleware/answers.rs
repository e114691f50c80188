//! Middlewares that change answers on their way: CORS and compression.

use std::io::Read as _;
use std::process::{Command, Stdio};

use crate::support::browser;
use crate::support::client::{Answer, Connection, Request};
use crate::support::gateway::Gateway;
use crate::support::origin::{Behaviour, Origin};

use super::around;

#[tokio::test]
async fn a_service_answers_its_own_options_and_no_origin_is_told_twice() {
    let origin = Origin::start("a").await;
    let cors = r#"middlewares.cors.cors = { origins = ["https://a.test"], methods = ["PUT"], max_age = "10m" }"#;
    let gateway = Gateway::start(&around(&origin, &["cors"], cors)).await;
    let from = |method: &str, origin: &str| Request::new(method, "/").header("origin", origin);
    // A question of a browser reaches nobody.
    let asked = from("OPTIONS", "https://a.test").header("access-control-request-method", "PUT");
    let answer = gateway.send(asked).await;
    assert_eq!((answer.status, answer.header("access-control-max-age")), (204, Some("600")));
    assert_eq!(answer.header("access-control-allow-methods"), Some("PUT"));
    assert!(answer.header("x-request-id").is_some() && answer.header("content-type").is_none());
    assert_eq!(origin.requests(), 0);
    // An OPTIONS that is no such question does.
    for (sender, allowed) in [("https://a.test", Some("https://a.test")), ("https://b.test", None)] {
        let answer = gateway.send(from("OPTIONS", sender)).await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, allowed), "{sender}");
        assert_eq!(origin.last_seen().unwrap().method, "OPTIONS");
    }
    assert_eq!(gateway.send(Request::new("OPTIONS", "*")).await.status, 404, "it is for no path");
    // The gateway's word goes before the service's.
    let own = [("access-control-allow-origin", "*".to_owned()), ("vary", "accept".to_owned())];
    origin.set(Behaviour::Answer { status: 200, headers: own.to_vec(), body: Vec::new() });
    let answer = gateway.send(from("GET", "https://a.test")).await;
    assert_eq!(answer.values("access-control-allow-origin"), ["https://a.test"]);
    let vary = answer.values("vary").join(", ").to_ascii_lowercase();
    assert!(vary.contains("accept") && vary.contains("origin"), "{vary}");
    // What goes wrong can be read by the page, too.
    origin.set(Behaviour::Reset);
    let answer = gateway.send(from("POST", "https://a.test")).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (502, Some("https://a.test")));
}

fn text(of: usize) -> Vec<u8> {
    (0..of).flat_map(|line| format!("{{\"line\": {line}, \"text\": \"all the same\"}}\n").into_bytes()).collect()
}

fn answer(kind: &str, more: &[(&'static str, &str)], body: Vec<u8>) -> Behaviour {
    let mut headers = vec![("content-type", kind.to_owned())];
    headers.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
    Behaviour::Answer { status: 200, headers, body }
}

/// What the command makes of compressed bytes.
fn decoded(command: &[&str], bytes: &[u8]) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let mut process = Command::new(command[0])
        .args(&command[1..])
        .stdin(std::fs::File::open(file.path()).unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = Vec::new();
    process.stdout.take().unwrap().read_to_end(&mut out).unwrap();
    assert!(process.wait().unwrap().success(), "{command:?}");
    out
}

const COMPRESS: &str = "middlewares.small.compression = {}";

#[tokio::test]
async fn answers_are_compressed_as_their_clients_take_them() {
    let origin = Origin::start("a").await;
    let gateway = Gateway::start(&around(&origin, &["small"], COMPRESS)).await;
    let body = text(2_000);
    origin.set(answer("application/json", &[("etag", "\"v1\""), ("vary", "accept")], body.clone()));
    let python = |code: &'static str| ["python3", "-c", code];
    for (accepts, encoding) in [
        ("gzip", Some("gzip")),
        ("gzip;q=0.5, br", Some("br")),
        ("zstd;q=1.0, gzip;q=0.8", Some("zstd")),
        ("gzip;q=0, identity", None),
        ("compress", None),
    ] {
        let got = gateway.send(Request::get("/").header("accept-encoding", accepts)).await;
        assert_eq!((got.status, got.header("content-encoding")), (200, encoding), "{accepts}");
        assert!(got.values("vary").join(",").to_ascii_lowercase().contains("accept-encoding"), "{accepts}");
        let etag = if encoding.is_some() { "W/\"v1\"" } else { "\"v1\"" };
        assert_eq!(got.header("etag"), Some(etag), "{accepts}");
        match encoding {
            None => assert!(got.body == body && got.header("content-length").is_some()),
            Some(encoding) => {
                assert!(got.body.len() < body.len() / 10, "{encoding}: {} of {}", got.body.len(), body.len());
                if encoding == "gzip" {
                    let code = "import gzip,sys; sys.stdout.buffer.write(gzip.decompress(sys.stdin.buffer.read()))";
                    assert!(decoded(&python(code), &got.body) == body);
                }
            }
        }
    }
}

/// HEAD and 304 say what the GET says (RFC 9110, 9.3.2 and 15.4.5), and no digest is of other bytes than those sent.
#[tokio::test]
async fn validators_and_digests_are_those_of_what_is_sent() {
    let origin = Origin::start("a").await;
    let gateway = Gateway::start(&around(&origin, &["small"], COMPRESS)).await;
    let body = text(2_000);
    let digests = ["content-md5", "digest", "content-digest", "repr-digest"];
    let headers: Vec<_> = [("etag", "\"v1\"")].into_iter().chain(digests.map(|name| (name, "sha-256=:abc:"))).collect();
    origin.set(answer("application/json", &headers, body));
    let asked = |method: &str, accepts: &str| Request::new(method, "/").header("accept-encoding", accepts);
    let said = |answer: &Answer| {
        let names = ["etag", "content-encoding", "accept-ranges"].into_iter().chain(digests);
        let vary = answer.values("vary").join(",").to_ascii_lowercase();
        (answer.status, vary, names.map(|name| answer.header(name).map(str::to_owned)).collect::<Vec<_>>())
    };
    for accepts in ["gzip", "br, zstd", "identity"] {
        let (get, head) = (gateway.send(asked("GET", accepts)).await, gateway.send(asked("HEAD", accepts)).await);
        assert_eq!(said(&get), said(&head), "{accepts}");
        let is_compressed = accepts != "identity";
        assert_eq!(get.header("etag"), Some(if is_compressed { "W/\"v1\"" } else { "\"v1\"" }));
        for name in digests {
            assert_eq!(get.header(name).is_none(), is_compressed, "{name}");
        }
        assert_eq!(head.header("content-length").is_some(), !is_compressed, "nobody knows how long it would be");
        assert!(head.body.is_empty());
    }
    let not_modified =
        Behaviour::Answer { status: 304, headers: vec![("etag", "\"v1\"".to_owned())], body: Vec::new() };
    origin.set(not_modified);
    for (held, etag) in [("W/\"v1\"", "W/\"v1\""), ("\"v0\", W/\"v1\"", "W/\"v1\""), ("\"v1\"", "\"v1\"")] {
        let answer = gateway.send(asked("GET", "gzip").header("if-none-match", held)).await;
        assert_eq!((answer.status, answer.header("etag")), (304, Some(etag)), "{held}");
        assert_eq!(answer.header("vary"), Some("accept-encoding"), "{held}");
    }
    // What is short is not compressed, whoever asks how.
    origin.set(answer("application/json", &headers, b"{}".to_vec()));
    let (get, head) = (gateway.send(asked("GET", "gzip")).await, gateway.send(asked("HEAD", "gzip")).await);
    assert_eq!(said(&get), said(&head));
    assert_eq!((head.header("content-length"), head.header("etag")), (Some("2"), Some("\"v1\"")));
}

/// curl decodes what it asked for, as browsers do.
#[tokio::test]
async fn curl_reads_what_is_compressed() {
    let origin = Origin::start("a").await;
    let gateway = Gateway::start(&around(&origin, &["small"], COMPRESS)).await;
    let body = text(2_000);
    origin.set(answer("text/plain", &[], body.clone()));
    let url = format!("http://{}/", gateway.address());
    let features = String::from_utf8(Command::new("curl").arg("-V").output().unwrap().stdout).unwrap();
    for (encoding, feature) in [("gzip", "libz"), ("br", "brotli"), ("zstd", "zstd")] {
        if !features.contains(feature) {
            continue;
        }
        let header = format!("accept-encoding: {encoding}");
        let run = tokio::process::Command::new("curl")
            .args(["-sS", "--compressed", "-H", &header, "-w", "%{size_download}", &url])
            .output()
            .await
            .unwrap();
        let (got, size) = run.stdout.split_at(body.len());
        assert!(got == body, "{encoding}: {}", String::from_utf8_lossy(&run.stderr));
        let size: usize = std::str::from_utf8(size).unwrap().parse().unwrap();
        assert!(size < body.len() / 10, "{encoding}: {size} bytes came");
    }
}

#[tokio::test]
async fn what_must_not_be_compressed_stays_as_it_is() {
    let origin = Origin::start("a").await;
    let gateway = Gateway::start(&around(&origin, &["small"], COMPRESS)).await;
    let get = async || -> Answer { gateway.send(Request::get("/").header("accept-encoding", "gzip, br")).await };
    let long = text(200);
    for (what, behaviour, body) in [
        ("short", answer("text/plain", &[], b"short".to_vec()), b"short".to_vec()),
        ("an image", answer("image/png", &[], long.clone()), long.clone()),
        ("compressed before", answer("text/plain", &[("content-encoding", "x")], long.clone()), long.clone()),
        ("a part", answer("text/plain", &[("content-range", "bytes 0-9/90")], long.clone()), long.clone()),
        ("as it is", answer("text/plain", &[("cache-control", "public, No-Transform")], long.clone()), long.clone()),
        ("events", answer("text/event-stream", &[], long.clone()), long.clone()),
    ] {
        origin.set(behaviour);
        let got = get().await;
        let encoding = got.header("content-encoding").filter(|encoding| *encoding != "x");
        assert_eq!((got.body == body, encoding), (true, None), "{what}");
        assert_eq!(got.header("content-length"), Some(body.len().to_string().as_str()), "{what}");
    }
}

/// What a service sends a piece at a time arrives a piece at a time, and a broken answer is seen to be broken.
#[tokio::test]
async fn pieces_are_not_held_back_and_breaks_are_seen() {
    let origin = Origin::start("a").await;
    let gateway = Gateway::start(&around(&origin, &["small"], COMPRESS)).await;
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n";
    origin.set(Behaviour::RawKept(format!("{head}9\r\n{{\"a\": 1}}\n\r\n").into_bytes()));
    let mut client = Connection::open(gateway.address()).await.unwrap();
    let asked = Request::get("/").header("accept-encoding", "gzip");
    client.send(&asked.bytes(gateway.address())).await.unwrap();
    client.head().await.unwrap();
    let mut came = Vec::new();
    let code = "import sys,zlib; sys.stdout.buffer.write(zlib.decompressobj(31).decompress(sys.stdin.buffer.read()))";
    while decoded(&["python3", "-c", code], &came) != b"{\"a\": 1}\n" {
        came.extend(client.chunk().await.unwrap());
    }
    drop(client);
    let chunk = String::from_utf8(text(100)).unwrap();
    let chunks = format!("{:x}\r\n{chunk}\r\n", chunk.len()).repeat(3);
    let head = head.replace("\r\n\r\n", "\r\ntrailer: x-sum\r\n\r\n");
    origin.set(Behaviour::RawKept(format!("{head}{chunks}0\r\nx-sum: 7\r\n\r\n").into_bytes()));
    let whole = gateway.send(Request::get("/").header("accept-encoding", "gzip").header("te", "trailers")).await;
    assert_eq!(decoded(&["python3", "-c", code], &whole.body), text(100).repeat(3));
    assert_eq!(whole.trailers, [("x-sum".to_owned(), "7".to_owned())]);
    origin.set(Behaviour::Raw(format!("{head}9\r\n{{\"a\": 1}}\n\r\n").into_bytes()));
    let mut client = Connection::open(gateway.address()).await.unwrap();
    client.send(&Request::get("/cut").header("accept-encoding", "gzip").bytes(gateway.address())).await.unwrap();
    let rest = client.read_to_end().await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "the end that was never sent");
    let line = gateway.until_logged("it", |line| line["path"] == "/cut").await;
    assert_eq!(line["flag"], "UC", "{line}");
}

/// A browser's own decoders make the page of it that the service gave.
#[tokio::test]
async fn a_browser_reads_what_is_compressed() {
    let origin = Origin::start("a").await;
    let route = |name: &str| {
        format!(
            "middlewares.{name}.compression.encodings = [\"{name}\"]\n\
             routes.{name} = {{ match = {{ path = \"/{name}\" }}, upstream = \"app\", middlewares = [\"{name}\"] }}\n"
        )
    };
    let encodings = ["gzip", "br", "zstd"];
    let gateway = Gateway::start(&around(&origin, &[], &encodings.map(route).concat())).await;
    let lines: String = (0..3_000).map(|line| format!("<p>line {line} is like the others</p>")).collect();
    // The page itself tells how many bytes came, and how many they were.
    let script = "<script>addEventListener('load', () => setTimeout(() => { \
                  const page = performance.getEntriesByType('navigation')[0]; \
                  document.title = `${page.encodedBodySize} of ${page.decodedBodySize}` }))</script>";
    let body = format!("<!doctype html><html><head><title></title>{script}</head><body>{lines}</body></html>");
    origin.set(answer("text/html", &[], body.clone().into_bytes()));
    for encoding in encodings {
        let url = format!("http://127.0.0.1:{}/{encoding}", gateway.address().port());
        let page = tokio::task::spawn_blocking(move || browser::page(&url)).await.unwrap();
        let Some(page) = page else { return };
        assert!(page.contains(&lines), "{encoding}: another page than the service's, {} bytes", page.len());
        let title = page.split_once("<title>").unwrap().1.split_once("</title>").unwrap().0;
        let (came, of) = title.split_once(" of ").unwrap_or_else(|| panic!("{encoding}: {title}"));
        let (came, of): (usize, usize) = (came.parse().unwrap(), of.parse().unwrap());
        assert_eq!(of, body.len(), "{encoding}");
        assert!(came > 100 && came < of / 4, "{encoding}: {came} of {of} bytes came");
        let seen = origin.last_seen().unwrap();
        assert!(seen.header("accept-encoding")[0].contains(encoding), "{:?}", seen.header("accept-encoding"));
    }
}
