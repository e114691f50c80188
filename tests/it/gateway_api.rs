//! The routing cases of the Kubernetes Gateway API's conformance suite (Apache-2.0), translated into the tables below
//! `gateway_api/`. They say which pass; one that stops passing, and one that passes though its table says it does not,
//! fails the test.

mod table;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use http_body_util::BodyExt as _;
use table::{Case, Does, Location, Other, Test};

use crate::http::upgrades;
use crate::support::client::{Answer, Connection, Request};
use crate::support::gateway::{Gateway, Setup};
use crate::support::multiplexed::{Act, Arrived, Service};
use crate::support::origin::{Behaviour, Origin, Seen};
use crate::support::pki::{Authority, Issued};
use crate::support::tls::{Client, empty, request};

/// Requests to measure shares with, which are within 5 percent then (six times the deviation): the suite's bound.
const MANY: usize = 3000;

/// What went wrong with a case, or what is missing.
type Verdict = Result<(), String>;

/// Tests of the suite at once: most of them wait for a gateway to start, or for a time to pass.
const AT_ONCE: usize = 4;

#[tokio::test]
async fn routing_cases_pass_or_say_why_not() {
    let (foreign, tests): (Vec<Test>, Vec<Test>) = table::all().into_iter().partition(|test| test.foreign.is_some());
    assert!(foreign.iter().all(|test| test.cases.is_empty()), "cases that nobody runs: {foreign:?}");
    let judged: Vec<(&Test, Vec<Verdict>)> = stream::iter(&tests)
        .map(async |test| {
            let world = World::start(test).await;
            let mut verdicts = Vec::new();
            for case in &test.cases {
                verdicts.push(world.judge(case).await);
            }
            (test, verdicts)
        })
        .buffered(AT_ONCE)
        .collect()
        .await;

    let (mut passing, mut apply) = (0, 0);
    let (mut reasons, mut wrong) = (BTreeMap::<&str, usize>::new(), String::new());
    for (test, verdicts) in &judged {
        apply += verdicts.len();
        if let Some(reason) = &test.later {
            *reasons.entry(reason).or_default() += verdicts.len();
            if verdicts.iter().all(Result::is_ok) {
                writeln!(wrong, "{} passes; delete: `later: {reason}`", test.test).unwrap();
            }
            continue;
        }
        for (case, verdict) in test.cases.iter().zip(verdicts) {
            match (verdict, &case.differs) {
                (Ok(()), None) => passing += 1,
                (Err(_), Some(reason)) => *reasons.entry(reason).or_default() += 1,
                (Err(problem), None) => writeln!(wrong, "{}: {problem}: {case:?}", test.test).unwrap(),
                (Ok(()), Some(_)) => {
                    writeln!(wrong, "{}: passes, and `differs` has to go: {case:?}", test.test).unwrap()
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    let mut told = format!("{passing} of {apply} cases pass; {} tests are about Kubernetes alone\n", foreign.len());
    for (reason, count) in reasons {
        writeln!(told, "{count}: {reason}").unwrap();
    }
    insta::assert_snapshot!(told, @"
    243 of 255 cases pass; 12 tests are about Kubernetes alone
    2: a certificate may be for several hosts: browsers use one connection for all, and routes go by Host alone
    1: a route that refers to something absent answers 503 with the flag NC
    2: a route without a target is told as a mistake of its configuration, and not served
    7: requests are not mirrored
    ");
}

/// A gateway and the services behind it.
struct World {
    services: BTreeMap<String, Origin>,
    /// One more, which speaks HTTP/2 alone.
    multiplexed: Service,
    authority: Authority,
    gateway: Gateway,
}

impl World {
    async fn start(test: &Test) -> Self {
        let authority = Authority::new("authority");
        let Issued { cert, key, .. } = authority.issue("web", &["example.org", "second-example.org"]);
        let mut services = BTreeMap::new();
        for name in ["v1", "v2", "v3"] {
            services.insert(name.to_owned(), Origin::start_version("service", name).await);
        }
        let multiplexed = Service::start().await;
        multiplexed.set(Act::Status(200, vec![("x-served-by", "service/h2")]));
        let mut config = test.config.clone();
        config += r#"
            listeners.web.address = "127.0.0.1:0"
            listeners.secure = { address = "127.0.0.1:0", tls = {} }
            certificates.web = { cert = "web.pem", key = "web-key.pem" }
            admin.address = "127.0.0.1:0"
            discovery.state_dir = "off"
        "#;
        for name in services.keys() {
            writeln!(config, "upstreams.{name}.endpoints = [\"${name}\"]").unwrap();
        }
        writeln!(config, "upstreams.h2 = {{ endpoints = ['{}'], protocol = 'http2' }}", multiplexed.address()).unwrap();
        for (name, origin) in &services {
            config = config.replace(&format!("${name}port"), &origin.address().port().to_string());
            config = config.replace(&format!("${name}"), &origin.address().to_string());
        }
        let gateway = Setup::new(&config).file("web.pem", &cert).file("web-key.pem", &key).start().await;
        Self { services, multiplexed, authority, gateway }
    }

    async fn judge(&self, case: &Case) -> Verdict {
        for (name, origin) in &self.services {
            let sets = case.service_sets.iter().map(|(header, value)| format!("{header}: {value}\r\n"));
            origin.set(match sets.collect::<String>() {
                none if none.is_empty() => Behaviour::Echo,
                sets => Behaviour::RawKept(answer_with(name, &sets)),
            });
            for does in case.service.get(name).into_iter().flatten() {
                origin.then(behaviour(*does));
            }
        }
        if case.websocket {
            self.services.values().for_each(|origin| origin.set(Behaviour::WebSocket));
            let mut client = upgrades::open(self.gateway.listener(&case.at)).await;
            return upgrades::echo(&mut client, "hello").await.map_err(|error| error.to_string());
        }
        if !case.shares.is_empty() {
            return self.shares(case).await;
        }
        let before = self.requests();
        let answer = match &case.tls {
            None => self.request(case).send(self.gateway.listener(&case.at)).await,
            Some(name) => self.over_tls(case, name).await,
        };
        expect(case.status.have(answer.status), || format!("the answer is {}: {}", answer.status, answer.text()))?;
        if let Some(from) = &case.from {
            expect(answer.served_by() == format!("service/{from}"), || format!("it is {}'s", answer.served_by()))?;
            arrives(case, &self.seen(from).ok_or("nothing arrived")?, from)?;
        }
        if let Some(tries) = case.tries {
            let tried = self.requests() - before;
            expect(tried == tries, || format!("{tried} tries"))?;
        }
        for name in &case.mirrored {
            let seen = self.services[name].last_seen().ok_or_else(|| format!("no mirrored request at {name}"))?;
            arrives(case, &seen, name)?;
        }
        comes(case, &answer)?;
        match &case.location {
            Some(location) => leads(case, location, &answer),
            None => Ok(()),
        }
    }

    fn seen(&self, service: &str) -> Option<Seen> {
        match self.services.get(service) {
            Some(origin) => origin.last_seen(),
            None => self.multiplexed.arrived().pop().map(like_http1),
        }
    }

    fn requests(&self) -> usize {
        self.services.values().map(Origin::requests).sum()
    }

    fn request(&self, case: &Case) -> Request {
        let mut request = Request::new(&case.method, &case.path);
        for (name, value) in &case.headers {
            request = request.header(name, value);
        }
        match &case.host {
            Some(host) => request.host(host),
            // The listeners of the suite have the ports 80, 443 and 8080.
            None if case.at == "other" => request.host("gateway.test:8080"),
            None => request.host("gateway.test"),
        }
    }

    async fn over_tls(&self, case: &Case, name: &str) -> Answer {
        let client = Client::trusting(&self.authority);
        let secured = client.connect(self.gateway.listener("secure"), name).await.unwrap();
        let sent = request(&case.method, &case.path).header("host", case.host.as_deref().unwrap_or(name));
        let answer = secured.http1().await.send_request(sent.body(empty()).unwrap()).await.unwrap();
        let (parts, body) = answer.into_parts();
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        Answer {
            status: parts.status.as_u16(),
            headers: parts.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
            body: body.collect().await.unwrap().to_bytes().to_vec(),
            trailers: Vec::new(),
        }
    }

    async fn shares(&self, case: &Case) -> Verdict {
        let mut client = Connection::open(self.gateway.listener(&case.at)).await.unwrap();
        let mut served = BTreeMap::<String, usize>::new();
        for _ in 0..MANY {
            let answer = client.exchange(&self.request(case)).await.unwrap();
            let service = answer.served_by().trim_start_matches("service/").to_owned();
            let seen = self.services.get(&service).and_then(Origin::last_seen).ok_or("an answer of no service")?;
            arrives(case, &seen, &service)?;
            *served.entry(service).or_default() += 1;
        }
        for (name, share) in &case.shares {
            let served = served.get(name).copied().unwrap_or(0) as f64 * 100.0 / MANY as f64;
            let fits = if *share == 0.0 { served == 0.0 } else { (served - share).abs() < 5.0 };
            expect(fits, || format!("{name} gets {served} percent"))?;
        }
        Ok(())
    }
}

fn behaviour(does: Does) -> Behaviour {
    match does {
        Does::Status(status) => Behaviour::Status(status),
        Does::Other(Other::Reset) => Behaviour::Reset,
        Does::Other(Other::Silent) => Behaviour::Hold(Box::new(Behaviour::Echo)),
        Does::Other(Other::Slow) => Behaviour::Delay(Duration::from_millis(1500), Box::new(Behaviour::Echo)),
    }
}

fn answer_with(service: &str, headers: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nx-served-by: service/{service}\r\n{headers}content-length: 0\r\n\r\n").into_bytes()
}

/// A request with `:path` and `:authority` where HTTP/1.1 has them.
fn like_http1(arrived: Arrived) -> Seen {
    let uri: http::Uri = arrived.uri.parse().unwrap();
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let host = uri.authority().map(|authority| ("host".to_owned(), authority.to_string()));
    let others = arrived.headers.iter().map(|(name, value)| (name.to_string(), text(value)));
    Seen {
        method: arrived.method,
        target: uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        version: "HTTP/2".to_owned(),
        headers: host.into_iter().chain(others).collect(),
        body: arrived.body,
        trailers: Vec::new(),
        connection: arrived.connection,
    }
}

/// Checks a request as a service got it.
fn arrives(case: &Case, seen: &Seen, service: &str) -> Verdict {
    let expected = &case.arrives;
    let path = expected.path.as_ref().unwrap_or(&case.path);
    expect(seen.target == *path, || format!("{} arrives", seen.target))?;
    expect(seen.method == case.method, || format!("{} arrives", seen.method))?;
    if let Some(host) = expected.host.as_ref().or(case.host.as_ref()) {
        expect(seen.header("host") == [host], || format!("Host arrives as {:?}", seen.header("host")))?;
    }
    for (name, value) in expected.headers.as_ref().unwrap_or(&case.headers) {
        let came = seen.header(name).join(",");
        let arrives = expected.without.contains(name) || came == value.replace("$service", service);
        expect(arrives, || format!("{name} arrives as {came:?}"))?;
    }
    for name in &expected.without {
        expect(seen.header(name).is_empty(), || format!("{name} arrives"))?;
    }
    Ok(())
}

/// Checks the headers of an answer.
fn comes(case: &Case, answer: &Answer) -> Verdict {
    let squeezed = |text: &str| text.replace(' ', "");
    for (name, values) in &case.comes.headers {
        let came = answer.values(name).join(",");
        let comes = values.iter().any(|value| squeezed(value) == squeezed(&came));
        expect(comes, || format!("{name} comes as {came:?}"))?;
    }
    for name in &case.comes.without {
        expect(answer.values(name).is_empty(), || format!("{name} comes"))?;
    }
    Ok(())
}

/// Checks where a redirect leads: without a host it is on the same one.
fn leads(case: &Case, expected: &Location, answer: &Answer) -> Verdict {
    let text = answer.header("location").ok_or("no location")?;
    let location: http::Uri = text.parse().map_err(|error| format!("{text}: {error}"))?;
    let of_port = |port: http::uri::Port<&str>| port.as_str().to_owned();
    let default = match location.scheme_str() {
        Some("https") => "443",
        _ => "80",
    };
    let port = location.port().map(of_port).filter(|port| port != default);
    let path = expected.path.as_ref().unwrap_or(&case.path);
    let holds = location.path() == path
        && expected.scheme.as_deref().is_none_or(|scheme| location.scheme_str() == Some(scheme))
        && expected.host.as_deref().is_none_or(|host| location.host() == Some(host))
        && (expected.port.is_none() && expected.host.is_none() || port == expected.port);
    expect(holds, || format!("it leads to {text}"))
}

fn expect(holds: bool, otherwise: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(otherwise()) }
}
