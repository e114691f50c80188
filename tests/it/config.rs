//! What a user meets when writing a configuration: the problems told, the layers, the reference and examples.

mod reference;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fleetgate::config::{Finding, check, load};
use fleetgate::spec::name::ProviderId;
use fleetgate::spec::settings::{EventsFile, LogDestination, LogFormat, Settings};
use proptest::prelude::*;

fn env(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    variables.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

/// A directory with files; the first one is the configuration.
struct Files {
    directory: tempfile::TempDir,
    main: PathBuf,
}

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let main = directory.path().join(files[0].0);
        Self { directory, main }
    }

    /// Each finding a line, with paths relative to the directory.
    fn check(&self, variables: &[(&str, &str)]) -> String {
        let lines: Vec<String> = check(Some(&self.main), env(variables)).iter().map(Finding::to_string).collect();
        lines.join("\n").replace(&format!("{}/", self.directory.path().display()), "")
    }

    fn load(&self, variables: &[(&str, &str)]) -> Settings {
        match load(Some(&self.main), env(variables)) {
            Ok(settings) => settings,
            Err(problems) => panic!("{problems:#?}"),
        }
    }
}

const LISTENER: &str = "[listeners.web]\naddress = \"127.0.0.1:0\"\n";

#[test]
fn all_mistakes_of_a_toml_file_come_out_at_once() {
    let text = r#"
[runtime]
workers = -1
shutdown_grace = 30
state_dir = "x"

[listeners.Web]
address = "0.0.0.0:8080"

[listeners.a]
adress = "0.0.0.0:8080"

[listeners.b]
address = "localhost:80"
trusted_proxies = ["10.0.0.0/8", "10.0.0.1", "ten"]
upgrades = ["WebSocket", "h2c"]
max_header_size = "1KiB"
max_body_size = 5
header_timeout = "0s"

[listeners.c]
address = "127.0.0.1:9000"

[listeners.d]
address = "127.0.0.1:9000"

[admin]
address = "0.0.0.0:9901"

[discovery]
precedence = ["file", "consul", "file"]
state_dir = ""

[discovery.file]
paths = ["routes.d/*.toml", "routes.d/[", "routes.d/*"]

[discovery.consul]
address = "127.0.0.1:8500"
token = "top secret"
kv_prefix = "/fleetgate"
wait = "1h"

[discovery.etcd]
endpoints = []
user = "fleetgate"
prefix = "/"
tls = { ca = "missing.pem", certificate = "cert.pem" }

[telemetry]
log = "inof"
log_format = "xml"
access_log = ""
events_max_size = "1KiB"

[plugins.m]

[route.a]

[routes.users]
match = { path = "users", host = ["a"] }
upstream = "user"

[routes.orders]
match = { path = "/orders" }
targets = [{ upstream = "users", subset = "canry" }, { upstream = "users@file", weight = "5" }]
listeners = ["e"]
timeout = "fast"

[upstreams.users]
consul = { service = "users" }
subsets = { canary = { version = "v2" } }
health_check = { path = "/", interval = "5s", thresholds = 3 }
"#;
    let files = Files::new(&[
        ("fleetgate.toml", text),
        ("routes.d/more.toml", "[routes.users]\nmatch = {}\nupstream = \"nobody\"\n"),
    ]);
    insta::assert_snapshot!(files.check(&[]), @r#"
fleetgate.toml:3:11: runtime.workers: -1 is not from 0 to 1024
fleetgate.toml:4:18: runtime.shutdown_grace: a duration needs a unit: write "30s" or "30ms"
fleetgate.toml:5:1: runtime.state_dir: unknown key; known are workers, shutdown_grace, shutdown_delay, ready_timeout, labels
fleetgate.toml:7:12: listeners.Web: `Web` is not a name: 1 to 63 of a-z, 0-9, `.`, `_` and `-`, beginning with a letter or digit
fleetgate.toml:10:12: listeners.a: `address` is missing, such as "0.0.0.0:8080"
fleetgate.toml:11:1: listeners.a.adress: unknown key; did you mean `address`?
fleetgate.toml:14:11: listeners.b.address: `localhost:80` is not an IP address and port, such as `127.0.0.1:8080` or `[::]:8080`
fleetgate.toml:15:46: listeners.b.trusted_proxies[2]: `ten` is not a network such as `10.0.0.0/8`
fleetgate.toml:16:26: listeners.b.upgrades[1]: `h2c` is never forwarded: it would lead around every check
fleetgate.toml:17:19: listeners.b.max_header_size: must be from 8KiB to 1MiB
fleetgate.toml:18:17: listeners.b.max_body_size: a size needs a unit: write "5B" or "5KiB"
fleetgate.toml:19:18: listeners.b.header_timeout: `0s`: must be more than 0
fleetgate.toml:25:11: listeners.d.address: `127.0.0.1:9000` is the address of `listeners.c`, too
fleetgate.toml:28:11: admin.address: without a token the admin API binds only to loopback: give `token_file`, or bind to 127.0.0.1
fleetgate.toml:31:23: discovery.precedence[1]: `consul` is no provider of documents; known are file, etcd, consul-kv, consul-tags
fleetgate.toml:31:33: discovery.precedence[2]: `file` is there already
fleetgate.toml:32:13: discovery.state_dir: the path is empty
fleetgate.toml:35:29: discovery.file.paths[1]: `routes.d/[` is not a pattern: invalid range pattern
fleetgate.toml:35:43: discovery.file.paths[2]: `routes.d/*`: must end in .toml, .yaml, .yml or .json, which tells the format
fleetgate.toml:38:11: discovery.consul.address: `127.0.0.1:8500` is not an address: write `http://host:8500` or `https://host:8500`
fleetgate.toml:39:9: discovery.consul.token: the secret is empty or has other than visible ASCII characters
fleetgate.toml:40:13: discovery.consul.kv_prefix: keys in Consul's KV store do not begin with `/`: remove it
fleetgate.toml:41:8: discovery.consul.wait: must be from 1s to 10m
fleetgate.toml:44:13: discovery.etcd.endpoints: at least one endpoint is needed, such as "http://127.0.0.1:2379"
fleetgate.toml:45:8: discovery.etcd.user: `password_file` (or `password`) is missing
fleetgate.toml:46:10: discovery.etcd.prefix: the prefix must have a name, such as `fleetgate/`: without one, all keys would be ours
fleetgate.toml:47:1: discovery.etcd.tls: `certificate` and `key` go together: give both or none
fleetgate.toml:47:14: discovery.etcd.tls.ca: `missing.pem` cannot be read: No such file or directory (os error 2)
fleetgate.toml:47:43: discovery.etcd.tls.certificate: `cert.pem` cannot be read: No such file or directory (os error 2)
fleetgate.toml:50:7: telemetry.log: `inof` is not a log filter such as `info` or `info,fleetgate=debug`: `inof` is no level, perhaps `info`
fleetgate.toml:51:14: telemetry.log_format: `xml` is not one of its values; known are text, json
fleetgate.toml:52:14: telemetry.access_log: the path is empty
fleetgate.toml:53:19: telemetry.events_max_size: is below 64KiB
fleetgate.toml:55:2: plugins: unknown key; known are routes, upstreams, middlewares, certificates, consumers, runtime, listeners, admin, discovery, redis, telemetry
fleetgate.toml:57:2: route: unknown key; did you mean `routes`?
fleetgate.toml:60:18: routes.users.match.path: `users`: a path begins with `/`
fleetgate.toml:60:27: routes.users.match.host: unknown key; did you mean `hosts`?
fleetgate.toml:61:12: routes.users.upstream: warning: no file defines the upstream `user`; `etcd` or `consul-kv` may
fleetgate.toml:65:43: routes.orders.targets[0].subset: there is no subset of `users` named `canry`; did you mean `canary`?
fleetgate.toml:65:90: routes.orders.targets[1].weight: expected a whole number, found a text
fleetgate.toml:66:14: routes.orders.listeners[0]: there is no listener `e`; known are Web, a, b, c, d
fleetgate.toml:67:11: routes.orders.timeout: `fast` is not a duration: write numbers with units, such as `250ms`, `5s` or `1m 30s`
fleetgate.toml:72:47: upstreams.users.health_check.thresholds: unknown key; known are path, host, tcp, grpc, interval, timeout, healthy_threshold, unhealthy_threshold
routes.d/more.toml:1:9: routes.users: is defined at fleetgate.toml:59:9 already: remove one of them
routes.d/more.toml:3:12: routes.users.upstream: warning: no file defines the upstream `nobody`; `etcd` or `consul-kv` may
"#);
}

#[test]
fn registrations_are_checked() {
    let listeners = "[listeners.web]\naddress = \"0.0.0.0:8080\"\n[listeners.inside]\naddress = \"127.0.0.1:8081\"\n";
    let check = |rest: &str| Files::new(&[("fleetgate.toml", &format!("{listeners}{rest}"))]).check(&[]);
    let good = "[discovery.consul.register]\nlistener = \"web\"\n[discovery.etcd.register]\nlistener = \"inside\"\n";
    assert_eq!(check(good), "");
    insta::assert_snapshot!(check(r#"
[discovery.consul.register]
service = "a/b"
tags = ["", "edge"]
id = "gw 1"
[discovery.etcd.register]
listener = "wep"
ttl = "5s"
"#), @r#"
fleetgate.toml:6:19: discovery.consul.register: there are several listeners: name the one that others reach, as `listener`
fleetgate.toml:7:11: discovery.consul.register.service: "a/b" is not a service's name: letters, digits, `.`, `_` and `-`
fleetgate.toml:8:9: discovery.consul.register.tags[0]: "" is not a tag
fleetgate.toml:9:6: discovery.consul.register.id: "gw 1" is not an id: letters, digits, `.`, `_` and `-`
fleetgate.toml:11:12: discovery.etcd.register.listener: there is no listener `wep`; did you mean `web`?
fleetgate.toml:12:7: discovery.etcd.register.ttl: must be from 10s to 1h
"#);
    insta::assert_snapshot!(check(r#"
[discovery.consul.register]
listener = "web"
address = "10.0.0.1:80"
[discovery.etcd.register]
listener = "web"
adress = "10.0.0.1:80"
"#), @r"
fleetgate.toml:6:19: discovery.consul.register: `address` and `listener` exclude each other
fleetgate.toml:9:17: discovery.etcd.register: `web` listens on every address: give the `address` where others reach this gateway
fleetgate.toml:11:1: discovery.etcd.register.adress: unknown key; did you mean `address`?
");
}

#[test]
fn sources_in_etcd_are_checked() {
    let text = r#"
[listeners.web]
address = "127.0.0.1:0"
[discovery.etcd]
[upstreams.a]
etcd = { prefix = "/microservices/a", format = "kratos" }
[upstreams.b]
etcd = { prefix = "/", format = "krato" }
[upstreams.c]
etcd = { prefix = "a\nb", format = "thrift" }
[upstreams.d]
etcd = { prefx = "/d/", format = 3 }
"#;
    insta::assert_snapshot!(Files::new(&[("fleetgate.toml", text)]).check(&[]), @r#"
fleetgate.toml:8:19: upstreams.b.etcd.prefix: the prefix must have a name, such as `/services/users/`
fleetgate.toml:8:33: upstreams.b.etcd.format: unknown format `krato`; did you mean `kratos`?
fleetgate.toml:10:19: upstreams.c.etcd.prefix: the prefix must have a name, such as `/services/users/`
fleetgate.toml:10:36: upstreams.c.etcd.format: unknown format `thrift`; known are fleetgate, grpc, kratos, go-zero, plain
fleetgate.toml:12:10: upstreams.d.etcd.prefx: unknown key; did you mean `prefix`?
fleetgate.toml:12:34: upstreams.d.etcd.format: expected a text, found a number: put it in quotes
"#);
}

#[test]
fn all_mistakes_of_a_yaml_file_come_out_at_once() {
    let text = "
listeners:
  web:
    address: 127.0.0.1:0
    max_connections: many
admin:
  metrics_public: yes
  address:
routes:
  a:
    match: { path: /a, methods: GET }
    upstream: u
    priority: high
  b: nothing
upstreams:
  u:
    endpoints: [10.0.0.1, { weigth: 2 }]
    subsets: { new: { version: 2 } }
";
    insta::assert_snapshot!(Files::new(&[("fleetgate.yaml", text)]).check(&[]), @"
fleetgate.yaml:5:22: listeners.web.max_connections: expected a whole number, found a text
fleetgate.yaml:7:19: admin.metrics_public: expected true or false, found a text
fleetgate.yaml:8:10: admin.address: has no value: give it one or remove the key
fleetgate.yaml:11:33: routes.a.match.methods: expected a list, found a text
fleetgate.yaml:13:15: routes.a.priority: expected a whole number, found a text
fleetgate.yaml:14:6: routes.b: expected a table, found a text
fleetgate.yaml:17:17: upstreams.u.endpoints[0]: `10.0.0.1` is not `host:port`: its port is missing, as in `10.0.0.1:8080`
fleetgate.yaml:17:27: upstreams.u.endpoints[1]: `address` is missing
fleetgate.yaml:17:29: upstreams.u.endpoints[1].weigth: unknown key; did you mean `weight`?
fleetgate.yaml:18:32: upstreams.u.subsets.new.version: expected a text, found a number: put it in quotes
");
}

#[test]
fn all_mistakes_of_a_json_file_come_out_at_once() {
    let text = r#"{
  "listeners": [],
  "runtime": { "workers": 99999999999999999999, "shutdown_grace": "30" },
  "routes": {
    "a": { "match": { "headers": { "x a": "1", "b": { "regex": "[" } } }, "targets": [] },
    "b": { "match": {}, "targets": [{ "upstream": "x", "when": {}, "weight": 1 }, { "when": { "cookie": {} } }] }
  }
}"#;
    insta::assert_snapshot!(Files::new(&[("fleetgate.json", text)]).check(&[]), @"
fleetgate.json:2:16: listeners: expected a table, found a list
fleetgate.json:3:27: runtime.workers: the number is too large
fleetgate.json:3:67: runtime.shutdown_grace: `30` is not a duration: write numbers with units, such as `250ms`, `5s` or `1m 30s`
fleetgate.json:5:43: routes.a.match.headers.x a: `x a` is not a header name
fleetgate.json:5:64: routes.a.match.headers.b.regex: `[` is not a regular expression: unclosed character class
fleetgate.json:5:86: routes.a.targets: at least one target is needed
fleetgate.json:6:51: routes.b.targets[0].upstream: there is no upstream `x`
fleetgate.json:6:78: routes.b.targets[0].weight: `when` and `weight` exclude each other: a target is taken by one of them
fleetgate.json:6:83: routes.b.targets[1]: `upstream` is missing
fleetgate.json:6:85: routes.b.targets[1].when: no condition: give headers, query or cookies, or remove it
fleetgate.json:6:95: routes.b.targets[1].when.cookie: unknown key; did you mean `cookies`?
");
}

#[test]
fn all_mistakes_of_the_environment_come_out_at_once() {
    let variables = [
        ("FLEETGATE_ADMIN__ADRESS", "127.0.0.1:1"),
        ("FLEETGATE_ADMN__ADDRESS", "127.0.0.1:1"),
        ("FLEETGATE_ADMIN__METRICS_PUBLIC", "yes"),
        ("FLEETGATE_ADMIN__TOKEN", "not printed"),
        ("FLEETGATE_RUNTIME__WORKERS", "four"),
        ("FLEETGATE_RUNTIME__SHUTDOWN_GRACE", "30"),
        ("FLEETGATE_LISTENERS__WEB__TRUSTED_PROXIES", "10.0.0.0/8"),
        ("FLEETGATE_LISTENERS__WEB__UPGRADES", "[\"h2c\"]"),
        ("FLEETGATE_DISCOVERY__ETCD", "{ endpoint = [\"http://a\"] }"),
        ("FLEETGATE_DISCOVERY__ETCD__PREFIX", "/a/"),
        ("FLEETGATE_DISCOVERY__ETCD__USER", "u"),
        ("FLEETGATE_ROUTES__A__UPSTREAM", "u"),
        ("FLEETGATE_ADMIN__", "x"),
        ("FLEETGATE_HOME", "not ours to judge"),
        ("OTHER__THING", "x"),
    ];
    let files = Files::new(&[("fleetgate.toml", LISTENER)]);
    insta::assert_snapshot!(files.check(&variables), @r#"
env:FLEETGATE_ADMIN__: admin.: the name has an empty part: sections and keys are joined by two underscores
env:FLEETGATE_ADMIN__ADRESS: admin.adress: unknown key; did you mean `address`?
env:FLEETGATE_ADMIN__METRICS_PUBLIC: admin.metrics_public: expected true or false, found a text
env:FLEETGATE_ADMIN__TOKEN: admin.token: the secret is empty or has other than visible ASCII characters
env:FLEETGATE_ADMN__ADDRESS: admn.address: unknown key; did you mean `admin`?
env:FLEETGATE_DISCOVERY__ETCD: discovery.etcd.endpoint: unknown key; did you mean `endpoints`?
env:FLEETGATE_DISCOVERY__ETCD__PREFIX: discovery.etcd.prefix: FLEETGATE_DISCOVERY__ETCD sets all of `discovery.etcd` already
env:FLEETGATE_DISCOVERY__ETCD__USER: discovery.etcd.user: FLEETGATE_DISCOVERY__ETCD sets all of `discovery.etcd` already
env:FLEETGATE_LISTENERS__WEB__TRUSTED_PROXIES: listeners.web.trusted_proxies: expected a list as in TOML, such as `["a", "b"]`
env:FLEETGATE_LISTENERS__WEB__UPGRADES: listeners.web.upgrades[0]: `h2c` is never forwarded: it would lead around every check
env:FLEETGATE_ROUTES__A__UPSTREAM: routes.a.upstream: `routes` have no environment form: write them into a file or a registry
env:FLEETGATE_RUNTIME__SHUTDOWN_GRACE: runtime.shutdown_grace: `30` is not a duration: write numbers with units, such as `250ms`, `5s` or `1m 30s`
env:FLEETGATE_RUNTIME__WORKERS: runtime.workers: expected a whole number, found a text
"#);
}

#[test]
fn variables_that_are_ignored_or_make_something_beside_are_told() {
    let files = Files::new(&[("fleetgate.toml", "[listeners.my-web]\naddress = \"127.0.0.1:0\"\n")]);
    insta::assert_snapshot!(files.check(&[
        ("FLEETGATE_ADMIN_ADDRESS", "127.0.0.1:1"),
        ("FLEETGATE_DISCOVERY_CONSUL_ADRESS", "x"),
        ("FLEETGATE_LISTENERS_OTHER_ADDRESS", "x"),
        ("fleetgate_admin__address", "x"),
        ("FLEETGATE_HOME", "not ours to judge"),
        ("FLEETGATE_REGISTRIES", "not ours to judge"),
        ("FLEETGATE_SERVICE_PORT", "a container's"),
    ]), @"
env:FLEETGATE_ADMIN_ADDRESS: warning: is ignored: did you mean `FLEETGATE_ADMIN__ADDRESS`? Sections and keys are joined by two underscores
env:FLEETGATE_DISCOVERY_CONSUL_ADRESS: warning: is ignored: did you mean `FLEETGATE_DISCOVERY__CONSUL__ADDRESS`? Sections and keys are joined by two underscores
env:FLEETGATE_LISTENERS_OTHER_ADDRESS: warning: is ignored: did you mean `FLEETGATE_LISTENERS__OTHER__ADDRESS`? Sections and keys are joined by two underscores
env:fleetgate_admin__address: warning: is ignored: write its name in capitals, `FLEETGATE_ADMIN__ADDRESS`
");
    insta::assert_snapshot!(files.check(&[("FLEETGATE_LISTENERS__MY_WEB__ADDRESS", "127.0.0.1:0")]), @"
env:FLEETGATE_LISTENERS__MY_WEB__ADDRESS: listeners.my_web.address: there is no `my_web`, but `my-web`; did you mean `FLEETGATE_LISTENERS__MY-WEB__ADDRESS`? Where such a name cannot be written, call it `my_web` in the file, too
");
    assert_eq!(files.check(&[("FLEETGATE_LISTENERS__MY-WEB__ADDRESS", "127.0.0.1:0")]), "");
}

#[test]
fn a_slip_in_a_value_is_answered_with_the_nearest_one() {
    let files = Files::new(&[(
        "f.toml",
        &format!("{LISTENER}[upstreams.u]\nendpoints = [\"a:1\"]\nbalance = \"roundrobin\"\n"),
    )]);
    let told = files.check(&[]);
    assert_eq!(
        told,
        "f.toml:5:11: upstreams.u.balance: `roundrobin` is not one of its values; did you mean `round_robin`?"
    );
}

#[test]
fn a_token_file_of_no_use_is_a_warning() {
    let text = format!("{LISTENER}[discovery.consul]\ntoken_file = \"token\"\n");
    let told = |token: Option<&str>| {
        let files = match token {
            Some(token) => Files::new(&[("fleetgate.toml", &text), ("token", token)]),
            None => Files::new(&[("fleetgate.toml", &text)]),
        };
        files.load(&[]);
        files.check(&[])
    };
    assert_eq!(told(Some("one\n")), "");
    for (token, word) in [(None, "No such file"), (Some("a\nb\n"), "holds several lines"), (Some("\n"), "is empty")] {
        let told = told(token);
        assert!(told.starts_with("fleetgate.toml:4:14: discovery.consul.token_file: warning: `token`"), "{told}");
        assert!(told.contains(word), "{told}");
    }
}

#[test]
fn files_that_would_hang_or_fill_the_memory_are_told() {
    let files = Files::new(&[
        ("fleetgate.toml", &format!("{LISTENER}[discovery.file]\npaths = [\"d/*.toml\"]\n")),
        ("d/a.toml", ""),
    ]);
    let folder = files.directory.path().join("d");
    assert!(std::process::Command::new("mkfifo").arg(folder.join("pipe.toml")).status().unwrap().success());
    std::os::unix::fs::symlink("/dev/zero", folder.join("zero.toml")).unwrap();
    fs::File::create(folder.join("huge.toml")).unwrap().set_len(1 << 40).unwrap();
    insta::assert_snapshot!(files.check(&[]), @"
d/huge.toml: cannot be read: it is larger than 16 MiB
d/pipe.toml: cannot be read: it is a named pipe, not a file
d/zero.toml: cannot be read: it is a device, not a file
");
}

#[test]
fn a_pattern_that_leads_nowhere_is_a_warning() {
    let text = format!("{LISTENER}[discovery.file]\npaths = [\"d/*.toml\", \"e.toml\", \"f/*.toml\"]\n");
    let files = Files::new(&[("fleetgate.toml", &text), ("f/a.toml", "")]);
    insta::assert_snapshot!(files.check(&[]), @"
d: discovery.file.paths: warning: there is no such folder
e.toml: discovery.file.paths: warning: there is no such file
");
}

#[test]
fn a_file_that_cannot_be_read_or_parsed_says_so() {
    let files = Files::new(&[("a.toml", "[listeners.web\naddress = 1\n"), ("b.ini", ""), ("c.toml", LISTENER)]);
    let told = |name: &str| {
        let findings = check(Some(&files.directory.path().join(name)), env(&[]));
        findings.iter().map(|finding| finding.problem().clone()).collect::<Vec<_>>()
    };
    assert!(told("a.toml")[0].place.ends_with("a.toml:1:15"), "{:?}", told("a.toml"));
    assert!(told("b.ini")[0].text.contains(".toml, .yaml, .yml or .json"), "{:?}", told("b.ini"));
    assert!(told("none.toml")[0].text.contains("No such file"), "{:?}", told("none.toml"));
    assert_eq!(told("c.toml"), []);
}

#[test]
fn a_name_that_a_registry_may_define_is_a_warning() {
    let text = format!(
        "{LISTENER}[routes.a]\nmatch = {{ path = \"/\" }}\nupstream = \"elsewhere\"\n\
         [routes.b]\nmatch = {{ path = \"/b\" }}\ntargets = [{{ upstream = \"x@etcd\" }}, {{ upstream = \"x@consul-kv\" }}, {{ upstream = \"x@dns\" }}]\n"
    );
    let files = Files::new(&[("fleetgate.toml", &text)]);
    insta::assert_snapshot!(files.check(&[]), @"
fleetgate.toml:5:12: routes.a.upstream: there is no upstream `elsewhere`
fleetgate.toml:8:25: routes.b.targets[0].upstream: `etcd` is off, or provides no documents
fleetgate.toml:8:50: routes.b.targets[1].upstream: `consul-kv` is off, or provides no documents
fleetgate.toml:8:80: routes.b.targets[2].upstream: `dns` is off, or provides no documents
");
    insta::assert_snapshot!(files.check(&[("FLEETGATE_DISCOVERY__ETCD__PREFIX", "/x/")]), @"
fleetgate.toml:5:12: routes.a.upstream: warning: no file defines the upstream `elsewhere`; `etcd` may
fleetgate.toml:8:25: routes.b.targets[0].upstream: warning: no file defines the upstream `x`; `etcd` may
fleetgate.toml:8:50: routes.b.targets[1].upstream: `consul-kv` is off, or provides no documents
fleetgate.toml:8:80: routes.b.targets[2].upstream: `dns` is off, or provides no documents
");
}

#[test]
fn the_environment_wins_over_the_file_and_the_file_over_defaults() {
    let text =
        format!("{LISTENER}max_headers = 50\nmax_connections = 7\n[runtime]\nworkers = 3\n[admin]\ntoken = \"a\"\n");
    let settings = Files::new(&[("fleetgate.toml", &text)]).load(&[
        ("FLEETGATE_LISTENERS__WEB__MAX_HEADERS", "60"),
        ("FLEETGATE_LISTENERS__WEB__TRUSTED_PROXIES", "[\"10.0.0.0/8\", \"::1\"]"),
        ("FLEETGATE_LISTENERS__WEB__ALLOW_ENCODED_SLASHES", "true"),
        ("FLEETGATE_LISTENERS__MORE", "{ address = \"127.0.0.1:0\", max_body_size = \"1MiB\" }"),
        // A text stays what it is, whatever it looks like.
        ("FLEETGATE_ADMIN__TOKEN", "1234"),
        ("FLEETGATE_RUNTIME__SHUTDOWN_GRACE", "1m"),
    ]);
    let web = &settings.listeners["web"];
    assert_eq!((web.max_headers, web.max_connections, web.max_header_size), (60, 7, 32 << 10));
    assert_eq!(web.trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.0/8", "::1/128"]);
    assert!(web.allow_encoded_slashes);
    assert_eq!(settings.listeners["more"].max_body_size, Some(1 << 20));
    assert_eq!(settings.admin.token.as_ref().unwrap().expose(), "1234");
    assert_eq!((settings.runtime.workers, settings.runtime.shutdown_grace), (3, Duration::from_secs(60)));
}

#[test]
fn what_gateways_write_lies_apart_from_documents() {
    let told = |consul: &str, etcd: &str| {
        let text = format!("{LISTENER}\n[discovery.consul]\n{consul}\n[discovery.etcd]\n{etcd}\n");
        Files::new(&[("fleetgate.toml", &text)]).check(&[])
    };
    assert_eq!(told("fleet_prefix = \"fleet\"", "fleet_prefix = \"/fleet\""), "");
    for (consul, etcd) in [
        ("fleet_prefix = \"fleetgate/\"", ""),
        ("fleet_prefix = \"fleetgate/fleet/\"", ""),
        ("kv_prefix = \"gate/documents\"\nfleet_prefix = \"gate\"", ""),
        ("", "fleet_prefix = \"/fleetgate/fleet\""),
        ("", "prefix = \"/a/b\"\nfleet_prefix = \"/a\""),
    ] {
        let told = told(consul, etcd);
        assert!(told.contains(".fleet_prefix: `") && told.contains("overlap"), "{consul} {etcd}: {told}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
    assert!(told("fleet_prefix = \"/fleet\"", "").contains("do not begin with `/`"));
    assert!(told("", "fleet_prefix = \"/\"").contains("must have a name"));
}

#[test]
fn a_provider_is_on_when_its_section_or_a_variable_of_ours_is_set() {
    let files = Files::new(&[("fleetgate.toml", LISTENER)]);
    let usual = [
        ("CONSUL_HTTP_ADDR", "consul.internal:8501"),
        ("CONSUL_HTTP_SSL", "true"),
        ("CONSUL_HTTP_TOKEN", "consul-secret"),
        ("CONSUL_NAMESPACE", "team"),
        ("CONSUL_CACERT", "/etc/ca.pem"),
        ("CONSUL_TLS_SERVER_NAME", "server.dc1.consul"),
        ("ETCDCTL_ENDPOINTS", "10.0.0.1:2379, https://10.0.0.2:2379"),
        ("ETCDCTL_USER", "root:etcd:secret"),
    ];
    let off = files.load(&usual);
    assert_eq!((off.discovery.consul, off.discovery.etcd), (None, None));

    let mut on = usual.to_vec();
    on.extend([("FLEETGATE_DISCOVERY__CONSUL__KV_PREFIX", "gate"), ("FLEETGATE_DISCOVERY__ETCD__PREFIX", "/gate")]);
    let on = files.load(&on).discovery;
    let (consul, etcd) = (on.consul.unwrap(), on.etcd.unwrap());
    assert_eq!((consul.address.as_str(), consul.kv_prefix.as_str()), ("https://consul.internal:8501", "gate/"));
    assert_eq!(consul.token.as_ref().unwrap().expose(), "consul-secret");
    assert_eq!(
        (consul.namespace.as_deref(), consul.tls.server_name.as_deref()),
        (Some("team"), Some("server.dc1.consul"))
    );
    assert_eq!(consul.tls.ca.as_deref(), Some(Path::new("/etc/ca.pem")));
    assert_eq!(etcd.endpoints, ["http://10.0.0.1:2379", "https://10.0.0.2:2379"]);
    let (user, password) = etcd.user.unwrap();
    assert_eq!((user.as_str(), password.expose(), etcd.prefix.as_str()), ("root", "etcd:secret", "/gate/"));
    assert_eq!((consul.fleet_prefix.as_str(), etcd.fleet_prefix.as_str()), ("gate-fleet/", "/gate-fleet/"));

    let ours = "[discovery.consul]\naddress = \"http://10.0.0.9:8500\"\ntoken_file = \"t\"\n[discovery.etcd]\nuser = \"a\"\npassword = \"b\"\n";
    let files = Files::new(&[("fleetgate.toml", &format!("{LISTENER}{ours}"))]);
    let ours = files.load(&usual).discovery;
    let (consul, etcd) = (ours.consul.unwrap(), ours.etcd.unwrap());
    assert_eq!((consul.address.as_str(), consul.token), ("http://10.0.0.9:8500", None));
    assert_eq!(consul.token_file.unwrap(), files.directory.path().join("t"));
    assert_eq!(etcd.user.unwrap().0, "a");
}

#[test]
fn secrets_come_from_files_and_are_never_told() {
    let text = format!(
        "{LISTENER}[admin]\ntoken_file = \"secrets/admin\"\naddress = \"0.0.0.0:0\"\n[discovery.etcd]\nuser = \"u\"\npassword_file = \"secrets/etcd\"\n"
    );
    let files =
        Files::new(&[("fleetgate.toml", &text), ("secrets/admin", "swordfish\n"), ("secrets/etcd", "swordfish")]);
    let settings = files.load(&[]);
    assert_eq!(settings.admin.token.as_ref().unwrap().expose(), "swordfish");
    assert!(!format!("{settings:?}").contains("swordfish"));

    // The environment names another token: it counts, and the file is not even read.
    let other = files.load(&[("FLEETGATE_ADMIN__TOKEN", "other")]);
    assert_eq!(other.admin.token.unwrap().expose(), "other");

    fs::write(files.directory.path().join("secrets/admin"), "sword fish").unwrap();
    let bad = [
        ("FLEETGATE_DISCOVERY__CONSUL__TOKEN", "sword fish"),
        ("FLEETGATE_DISCOVERY__CONSUL__ADDRESS", "http://u:swordfish@a"),
        ("FLEETGATE_DISCOVERY__ETCD__PASSWORD", "swordfish\u{1}"),
        ("ETCDCTL_USER", "swordfish"),
    ];
    let told = files.check(&bad);
    assert_eq!(told.lines().count(), 4, "{told}");
    assert!(!told.contains("fish"), "{told}");
}

#[test]
fn paths_are_relative_to_the_file_that_names_them() {
    let text = format!(
        "{LISTENER}[discovery.file]\npaths = [\"routes.d/*.toml\", \"/etc/x.toml\"]\n[telemetry]\naccess_log = \"access.log\"\nlog_format = \"json\"\nevents = \"events.jsonl\"\n"
    );
    let files = Files::new(&[("etc/fleetgate.toml", &text)]);
    let directory = files.directory.path().join("etc");
    let settings = files.load(&[("RUST_LOG", "debug")]);
    assert_eq!(settings.discovery.file.patterns, [directory.join("routes.d/*.toml"), PathBuf::from("/etc/x.toml")]);
    assert_eq!(settings.discovery.file.main, Some(directory.join("fleetgate.toml")));
    assert_eq!(settings.telemetry.access_log, LogDestination::File(directory.join("access.log")));
    assert_eq!((settings.telemetry.log.as_str(), settings.telemetry.log_format), ("debug", LogFormat::Json));
    let events = EventsFile { path: directory.join("events.jsonl"), max_size: 16 << 20 };
    assert_eq!(settings.telemetry.events, Some(events));
    let settings = files.load(&[("FLEETGATE_TELEMETRY__ACCESS_LOG", "a.log"), ("FLEETGATE_TELEMETRY__EVENTS", "off")]);
    assert_eq!(settings.telemetry.events, None);
    assert_eq!(settings.telemetry.access_log, LogDestination::File(std::env::current_dir().unwrap().join("a.log")));
}

#[test]
fn bounds_of_tags_are_hosts_and_paths() {
    let text = format!(
        "{LISTENER}[discovery.consul]\ntags = true\ntag_hosts = [\"*\", \"a.*.com\"]\ntag_paths = []\nroute_ttl = \"5\"\n"
    );
    let found = Files::new(&[("fleetgate.toml", &text)]).check(&[]);
    for part in [
        "discovery.consul.tag_hosts[1]: `a.*.com`",
        "discovery.consul.tag_paths: allows nothing",
        "discovery.consul.route_ttl: `5` is not a duration",
    ] {
        assert!(found.contains(part), "{part} in {found}");
    }
}

#[test]
fn the_precedence_is_filled_up() {
    let files = Files::new(&[("fleetgate.toml", &format!("{LISTENER}[discovery]\nprecedence = [\"consul-kv\"]\n"))]);
    let wanted = [ProviderId::ConsulKv, ProviderId::File, ProviderId::Etcd, ProviderId::ConsulTags];
    assert_eq!(files.load(&[]).discovery.precedence, wanted);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever a file and the environment hold, there is an answer, and each line of it names a place.
    #[test]
    fn hostile_configurations_are_answered(
        text in "(\\[{0,2}(listeners|admin|discovery|routes|upstreams)(\\.[a-z]{1,8}){0,2}\\]{0,2}\n([a-z_]{1,12} = (\"[^\"\n]{0,9}\"|[0-9]{1,20}|\\{\\}|\\[\\]|true)\n){0,3}){0,4}",
        name in "FLEETGATE_[A-Z_]{1,20}",
        value in "\\PC{0,20}",
        extension in "toml|yaml|json",
    ) {
        let files = Files::new(&[(&format!("a.{extension}"), &text)]);
        let told = files.check(&[(&name, &value)]);
        for line in told.lines() {
            prop_assert!(line.starts_with("a.") || line.starts_with("env:"), "{}", line);
        }
    }
}

#[test]
fn balancers_that_hash_say_what_they_need() {
    let check = |keys: &str| {
        let listeners = "[listeners.web]\naddress = \"127.0.0.1:0\"\n";
        let text = format!("{listeners}[upstreams.u]\nendpoints = [\"127.0.0.1:80\"]\n{keys}\n");
        Files::new(&[("fleetgate.toml", &text)]).check(&[])
    };
    for good in [
        "balance = \"p2c_ewma\"\nmax_requests_per_endpoint = 10\nqueue = { size = 5, timeout = \"200ms\" }",
        "balance = \"random\"\nsession = { cookie = \"at\" }\nslow_start = \"30s\"",
        "balance = \"ring_hash\"\nhash = { header = \"x-user-id\" }",
        "balance = \"maglev\"\nhash = { cookie = \"user\", balance_factor = 0 }",
        "balance = \"maglev\"\nhash = { path = true, balance_factor = 150 }",
        "balance = \"ring_hash\"\nhash = { client_ip = true }",
    ] {
        assert_eq!(check(good), "", "{good}");
    }
    for (bad, said) in [
        ("balance = \"maglev\"", "fleetgate.toml:5:11: upstreams.u.balance: `maglev` needs to know what to hash"),
        (
            "hash = { path = true }",
            "fleetgate.toml:5:1: upstreams.u.hash: only `ring_hash` and `maglev` hash, and `balance` is `least_requests`",
        ),
        ("balance = \"ring_hash\"\nhash = {}", "upstreams.u.hash: give one of `header`, `cookie`"),
        ("balance = \"maglev\"\nhash = { path = true, cookie = \"a\" }", "they exclude each other"),
        ("balance = \"maglev\"\nhash = { path = false }", "upstreams.u.hash.path: only `true` means something"),
        ("balance = \"maglev\"\nhash = { path = true, balance_factor = 80 }", "hash.balance_factor: must be above 100"),
        ("balance = \"maglev\"\nhash = { header = \"a b\" }", "`a b` is not a header name"),
        ("balance = \"ringhash\"", "ring_hash"),
        ("balance = \"maglev\"\nhash = { path = true }\nslow_start = \"5s\"", "slow_start: `maglev` has none"),
        ("priorities = []", "upstreams.u.priorities: give 1 to 16 of them"),
        ("priorities = [{ zone = \"a\" }, {}]", "upstreams.u.priorities[1]: needs at least one label"),
        ("nearest = [\"zone\"]\npriorities = [{ zone = \"a\" }]", "`priorities` and `nearest` exclude each other"),
        ("queue = { size = 5 }", "upstreams.u.queue: nobody would ever wait"),
        ("max_requests_per_endpoint = 0", "max_requests_per_endpoint: 0 is not from 1 to 1000000"),
        ("session = {}", "upstreams.u.session: `cookie` is missing"),
        ("session = { cookie = \"a;b\" }", "upstreams.u.session.cookie: `a;b` is not a cookie name"),
    ] {
        let found = check(bad);
        assert!(found.contains(said) && found.lines().count() == 1, "{bad}: {found}");
    }
}
