//! A scripted Consul: HTTP/1.1 by hand, with blocking queries, that may answer as no healthy one does.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the server answers to reads of the service or the keys.
#[derive(Clone, Debug)]
pub struct Scene {
    pub status: u16,
    /// What a blocking query compares with.
    pub index: u64,
    /// What `X-Consul-Index` says; `None`: there is no such header.
    pub shown_index: Option<String>,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
    pub damage: Damage,
    /// Only what is asked for with this in it is damaged.
    pub damaged: &'static str,
    /// What a `?consistent` read says instead.
    pub consistent: Option<String>,
    /// The index of a `?consistent` read, if it is another.
    pub consistent_index: Option<u64>,
    /// What a read of keys says instead.
    pub keys: Option<String>,
    /// What `/v1/catalog/services` says.
    pub catalog: String,
}

/// How an answer is damaged on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    None,
    /// The connection ends in the middle of the body.
    Truncated,
    /// `Content-Length` is less than the body.
    ShortLength,
    /// It claims to be gzip, and is not.
    NoGzip,
}

/// The server; ends when dropped.
pub struct ScriptedServer {
    address: SocketAddr,
    scene: watch::Sender<Scene>,
    seen: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

/// An answer to `/v1/health/service` with these instances.
pub fn instances(ids: &[&str]) -> String {
    let instances: Vec<_> = ids.iter().map(|id| (*id, SocketAddr::from(([10, 0, 0, 1], 80)))).collect();
    instances_at(&instances)
}

/// As [`instances`], each at its address.
pub fn instances_at(instances: &[(&str, SocketAddr)]) -> String {
    let entries: Vec<_> = instances
        .iter()
        .map(|(id, at)| {
            serde_json::json!({ "Node": { "Node": "n1", "Address": at.ip() },
                "Service": { "ID": id, "Service": "web", "Port": at.port() }, "Checks": [] })
        })
        .collect();
    serde_json::Value::from(entries).to_string()
}

impl Scene {
    /// A sound answer with this index and body.
    pub fn new(index: u64, body: String) -> Self {
        Self {
            status: 200,
            index,
            shown_index: Some(index.to_string()),
            headers: vec![("X-Consul-KnownLeader", "true".to_owned()), ("X-Consul-LastContact", "0".to_owned())],
            body,
            damage: Damage::None,
            damaged: "",
            consistent: None,
            consistent_index: None,
            keys: None,
            catalog: r#"{"consul":[],"web":[]}"#.to_owned(),
        }
    }

    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.to_owned()));
        self
    }
}

impl ScriptedServer {
    pub async fn start(scene: Scene) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (scene, seen) = (watch::Sender::new(scene), Arc::<Mutex<Vec<String>>>::default());
        let (scenes, log) = (scene.clone(), Arc::clone(&seen));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                connections.spawn(serve(stream, scenes.subscribe(), Arc::clone(&log)));
            }
        });
        Self { address, scene, seen, task }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on it answers so.
    pub fn set(&self, scene: Scene) {
        self.scene.send_replace(scene);
    }

    pub fn change(&self, change: impl FnOnce(&mut Scene)) {
        self.scene.send_modify(change);
    }

    /// The paths and queries of all requests that contain `part`, in their order.
    pub fn seen(&self, part: &str) -> Vec<String> {
        self.seen.lock().unwrap().iter().filter(|line| line.contains(part)).cloned().collect()
    }
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, mut scenes: watch::Receiver<Scene>, seen: Arc<Mutex<Vec<String>>>) {
    let mut received = Vec::new();
    loop {
        let Some(target) = request(&mut stream, &mut received).await else { return };
        seen.lock().unwrap().push(target.clone());
        let parameter = |name: &str| {
            let (_, query) = target.split_once('?')?;
            query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
        };
        if let (Some(index), Some(wait)) = (parameter("index"), parameter("wait")) {
            let (index, wait) = (index.parse::<u64>().unwrap(), wait.trim_end_matches("ms").parse().unwrap());
            let moved = scenes.wait_for(|scene| scene.index != index || scene.status != 200);
            let _ = tokio::time::timeout(Duration::from_millis(wait), moved).await;
        }
        let scene = scenes.borrow().clone();
        let (answer, keep) = answer(&scene, &target);
        if stream.write_all(&answer).await.is_err() || !keep {
            return;
        }
    }
}

/// Reads a request to its end, and returns its target.
async fn request(stream: &mut TcpStream, received: &mut Vec<u8>) -> Option<String> {
    loop {
        let text = String::from_utf8_lossy(received).into_owned();
        if let Some(end) = text.find("\r\n\r\n") {
            let head = text[..end].to_ascii_lowercase();
            let length = head
                .split_once("content-length: ")
                .map_or(0, |(_, rest)| rest.split("\r\n").next().unwrap().trim().parse::<usize>().unwrap());
            if received.len() >= end + 4 + length {
                received.drain(..end + 4 + length);
                return text.split_whitespace().nth(1).map(str::to_owned);
            }
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => received.extend_from_slice(&chunk[..read]),
        }
    }
}

fn answer(scene: &Scene, target: &str) -> (Vec<u8>, bool) {
    let plain = |status: u16, body: &str| {
        (format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes(), true)
    };
    if target.starts_with("/v1/status/leader") {
        return plain(200, "\"127.0.0.1:8300\"");
    }
    if target.starts_with("/v1/catalog/services") {
        return plain(200, &scene.catalog);
    }
    let ours = if target.starts_with("/v1/kv/") { "routes" } else { "/v1/health/service/web" };
    let keys = target.starts_with("/v1/kv/") && (target.contains("recurse") || !target.contains(ours));
    if !target.starts_with("/v1/health/service/web") && !keys {
        // A single key, and all that the server does not know (as an old one does not know permissions).
        return plain(404, "");
    }
    let mut head = format!("HTTP/1.1 {} x\r\n", scene.status);
    let is_consistent = target.contains("consistent");
    let consistent_index = scene.consistent_index.filter(|_| is_consistent).map(|index| index.to_string());
    if let Some(index) = consistent_index.as_ref().or(scene.shown_index.as_ref()) {
        head += &format!("X-Consul-Index: {index}\r\n");
    }
    for (name, value) in &scene.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let of_keys = scene.keys.as_ref().filter(|_| keys);
    let consistent = scene.consistent.as_ref().filter(|_| is_consistent);
    let body = of_keys.or(consistent).unwrap_or(&scene.body);
    let damage = if target.contains(scene.damaged) { scene.damage } else { Damage::None };
    let (length, sent) = match damage {
        Damage::Truncated => (body.len(), &body[..body.len() / 2]),
        Damage::ShortLength => (body.len() / 2, body.as_str()),
        Damage::None | Damage::NoGzip => (body.len(), body.as_str()),
    };
    if damage == Damage::NoGzip {
        head += "Content-Encoding: gzip\r\n";
    }
    head += &format!("Content-Length: {length}\r\n\r\n");
    (format!("{head}{sent}").into_bytes(), damage == Damage::None)
}
