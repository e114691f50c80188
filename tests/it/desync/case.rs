//! The cases: read where cargo has put the package, and written out as requests.

use std::path::PathBuf;
use std::process::Command;

use serde::Deserialize;
use serde_json::Value;

/// How dangerous a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum Tier {
    Compliant,
    Acceptable,
    Ambiguous,
    Severe,
}

/// A request, and what it was judged to be.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) tier: Tier,
    pub(super) method: Vec<u8>,
    pub(super) uri: Vec<u8>,
    version: Vec<u8>,
    pub(super) headers: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Where a `Host` stands, which most cases lack.
#[derive(Clone, Copy, Debug)]
pub(super) enum HostAt {
    Own,
    First,
    Last,
}

/// A body as it may be meant.
pub(super) struct Body {
    pub(super) name: &'static str,
    pub(super) bytes: Vec<u8>,
    /// What it holds, less its framing.
    pub(super) content: Vec<u8>,
}

/// Cases as files of the package have them.
#[derive(Deserialize)]
struct Written {
    name: String,
    uri: String,
    method: String,
    version: String,
    headers: Option<Vec<WrittenHeader>>,
    expected: Expected,
}

#[derive(Deserialize)]
struct WrittenHeader {
    name: String,
    value: String,
}

#[derive(Deserialize)]
struct Expected {
    tier: Tier,
}

/// All cases of the package.
pub(super) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "yaml")) {
        let text = std::fs::read_to_string(file).unwrap();
        let written: Vec<Written> =
            serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let file = file.file_stem().unwrap().to_string_lossy();
        cases.extend(written.into_iter().map(|written| Case::new(&file, written)));
    }
    assert_eq!(cases.len(), 159, "cases of http_desync_guardian 0.1.3");
    cases
}

/// Where the package lies.
fn folder() -> PathBuf {
    let version = String::from_utf8(cargo(&["-vV"])).unwrap();
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    // Packages of other platforms need not be there.
    let arguments = ["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", host];
    let metadata: Value = serde_json::from_slice(&cargo(&arguments)).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages.iter().find(|package| package["name"] == "http_desync_guardian").unwrap();
    PathBuf::from(package["manifest_path"].as_str().unwrap()).with_file_name("tests")
}

/// What cargo says.
fn cargo(arguments: &[&str]) -> Vec<u8> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let output = command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

impl Case {
    fn new(file: &str, written: Written) -> Self {
        let headers = written.headers.unwrap_or_default();
        Self {
            name: format!("{file}: {} ({})", written.name.escape_debug(), written.method.escape_debug()),
            tier: written.expected.tier,
            method: bytes(&written.method),
            uri: bytes(&written.uri),
            version: bytes(&written.version),
            headers: headers.iter().map(|header| (bytes(&header.name), bytes(&header.value))).collect(),
        }
    }

    pub(super) fn text(&self, bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    pub(super) fn has_host(&self) -> bool {
        self.values("host").next().is_some()
    }

    /// The values of the headers with exactly this name, less the white space around them.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = String> {
        let named = self.headers.iter().filter(move |(other, _)| other.eq_ignore_ascii_case(name.as_bytes()));
        named.map(|(_, value)| self.text(value.trim_ascii()))
    }

    /// The head, with a `Host` if the case has none.
    pub(super) fn head(&self, host: HostAt) -> Vec<u8> {
        let mut head = self.method.clone();
        for part in [&self.uri, &self.version].into_iter().filter(|part| !(part.is_empty() && self.version.is_empty()))
        {
            head.push(b' ');
            head.extend_from_slice(part);
        }
        head.extend_from_slice(b"\r\n");
        let mut lines: Vec<Vec<u8>> =
            self.headers.iter().map(|(name, value)| [name, &b":"[..], value].concat()).collect();
        match host {
            HostAt::Own => {}
            HostAt::First => lines.insert(0, b"host: a".to_vec()),
            HostAt::Last => lines.push(b"host: a".to_vec()),
        }
        for line in lines {
            head.extend_from_slice(&line);
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        head
    }

    /// A body for each way in which somebody could read its length, all of them with `smuggled` inside where it fits.
    pub(super) fn bodies(&self, smuggled: &[u8]) -> Vec<Body> {
        let chunked = self.somehow("transferencoding").next().is_some();
        let length = self.somehow("contentlength").find_map(|value| {
            let digits: String = value.chars().filter(char::is_ascii_digit).take(7).collect();
            digits.parse::<usize>().ok()
        });
        let mut bodies = Vec::new();
        if chunked {
            let bytes = [format!("{:x}\r\n", smuggled.len()).as_bytes(), smuggled, b"\r\n0\r\n\r\n"].concat();
            bodies.push(Body { name: "in a chunk", bytes, content: smuggled.to_vec() });
        }
        if let Some(length) = length {
            let mut bytes = if chunked { b"0\r\n\r\n".to_vec() } else { Vec::new() };
            if bytes.len() + smuggled.len() <= length {
                bytes.extend_from_slice(smuggled);
            }
            let fits = bytes.len() <= length;
            bytes.resize(length, b'x');
            if !chunked {
                bodies.push(Body { name: "of a length", content: bytes.clone(), bytes });
            } else if fits {
                // Whoever reads chunks finds their end at once, and then a request.
                bodies.push(Body { name: "of a length, behind a last chunk", bytes, content: Vec::new() });
            }
        }
        if bodies.is_empty() {
            bodies.push(Body { name: "none", bytes: Vec::new(), content: Vec::new() });
        }
        bodies
    }

    /// The values of the headers whose names are this one to somebody who reads letters alone.
    fn somehow(&self, letters: &'static str) -> impl Iterator<Item = String> {
        let of = |name: &[u8]| {
            self.text(name)
                .chars()
                .map(|c| match c {
                    'ſ' => 's',
                    'ı' => 'i',
                    c => c,
                })
                .filter(char::is_ascii_alphabetic)
                .collect::<String>()
        };
        let named = self.headers.iter().filter(move |(name, _)| of(name).eq_ignore_ascii_case(letters));
        named.map(|(_, value)| self.text(value))
    }
}

/// The bytes that a text of the files stands for: they escape a second time what YAML has not, and mean bytes by the
/// characters up to U+00FF.
fn bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut push = |c: char| match u8::try_from(c) {
        Ok(byte) => bytes.push(byte),
        Err(_) => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
    };
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        push(if c != '\\' {
            c
        } else {
            match chars.next().expect("what is escaped") {
                'x' => {
                    let digits: String = chars.by_ref().take(2).collect();
                    char::from(u8::from_str_radix(&digits, 16).unwrap())
                }
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                other => other,
            }
        });
    }
    bytes
}
