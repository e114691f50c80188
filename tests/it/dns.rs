//! Endpoints from DNS: records, weights, priorities, times to live, and what stays when nobody answers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::json;

use crate::support::consul::Consul;
use crate::support::dns::{DnsServer, Said};
use crate::support::gateway::{Gateway, Setup};
use crate::support::origin::Origin;
use crate::support::place::{free_ports, own_mounts};
use crate::support::wait;

const SOON: Duration = Duration::from_secs(60);

async fn before(server: &DnsServer, source: &str, lines: &str) -> Gateway {
    Gateway::start(&config(&format!("{source}, server = \"{}\"", server.address()), lines)).await
}

fn config(source: &str, lines: &str) -> String {
    format!(
        r#"
        listeners.web.address = "127.0.0.1:0"
        admin.address = "127.0.0.1:0"
        routes.all = {{ match = {{ path = "/" }}, upstream = "app" }}
        [upstreams.app]
        dns = {{ {source} }}
        balance = "round_robin"
        {lines}
        "#
    )
}

/// Waits until the records were read so many times more.
async fn reads(gateway: &Gateway, times: usize) {
    for _ in 0..times {
        let read = async || gateway.api("upstreams").await["items"][0]["verified_at"].clone();
        let before = read().await;
        wait::until(SOON, "another answer", || async { read().await != before }).await;
    }
}

async fn removals(gateway: &Gateway) -> usize {
    let page = gateway.api("events?limit=1000&after=0").await;
    page["items"].as_array().unwrap().iter().filter(|event| event["event"] == "endpoint_removed").count()
}

async fn at(last: u8, port: u16) -> Origin {
    Origin::start_at((Ipv4Addr::new(127, 0, 0, last), port).into(), "app", &format!("v{last}")).await
}

async fn addresses(gateway: &Gateway) -> Vec<String> {
    gateway.endpoints("app").await.into_iter().map(|(address, _)| address).collect()
}

async fn until_addresses(gateway: &Gateway, wanted: &[String]) {
    wait::until_ok(SOON, "these endpoints", || async {
        let now = addresses(gateway).await;
        if now == wanted { Ok(()) } else { Err(format!("{now:?}, not {wanted:?}")) }
    })
    .await;
}

#[tokio::test]
async fn addresses_follow_their_time_to_live_and_outlive_failures() {
    let one = at(1, 0).await;
    let port = one.address().port();
    let other = at(2, port).await;
    let ip = |last| Ipv4Addr::new(127, 0, 0, last);
    let dns = DnsServer::start().await;
    dns.say("app.test", Said::A(1, vec![ip(1)]));
    let gateway = before(&dns, &format!("name = \"app.test\", port = {port}"), "").await;
    until_addresses(&gateway, &[one.address().to_string()]).await;
    assert_eq!(gateway.get("/").await.served_by(), "app/v1");

    dns.say("app.test", Said::A(1, vec![ip(2), ip(1)]));
    let both = [one.address().to_string(), other.address().to_string()];
    until_addresses(&gateway, &both).await;

    // Whatever troubles there are, the last answer stays; three questions later they were noticed for sure.
    for trouble in [Said::Failure, Said::Silence] {
        dns.say("app.test", trouble.clone());
        let asked = dns.asked();
        wait::until(SOON, "three more questions", || async { dns.asked() >= asked + 3 }).await;
        assert_eq!(addresses(&gateway).await, both, "{trouble:?}");
        assert_eq!(gateway.get("/").await.status, 200);
    }

    // An empty answer is believed when it stays, and not at once.
    dns.say("app.test", Said::A(1, vec![ip(2)]));
    until_addresses(&gateway, &both[1..]).await;
    dns.say("app.test", Said::NoSuchName);
    let asked = dns.asked();
    wait::until(SOON, "a question", || async { dns.asked() > asked }).await;
    assert_eq!(addresses(&gateway).await, &both[1..]);
    until_addresses(&gateway, &[]).await;
    assert_eq!(gateway.get("/").await.status, 503);
    dns.say("app.test", Said::A(1, vec![ip(1)]));
    until_addresses(&gateway, &both[..1]).await;
    assert_eq!(gateway.get("/").await.status, 200);
}

#[tokio::test]
async fn srv_records_tell_ports_weights_and_priorities() {
    let (heavy, light, spare) = (at(1, 0).await, at(2, 0).await, at(3, 0).await);
    let dns = DnsServer::start().await;
    for (host, last) in [("heavy.test", 1), ("light.test", 2), ("spare.test", 3)] {
        dns.say(host, Said::A(60, vec![Ipv4Addr::new(127, 0, 0, last)]));
    }
    let port = |origin: &Origin| origin.address().port();
    let record = |priority, weight, origin, host| (priority, weight, port(origin), host);
    let spare_record = record(20, 1, &spare, "spare.test");
    let all = vec![record(10, 3, &heavy, "heavy.test"), record(10, 1, &light, "light.test"), spare_record];
    dns.say("_app._tcp.test", Said::Srv(1, all));
    let gateway = before(&dns, "name = \"_app._tcp.test\", type = \"SRV\"", "").await;
    wait::until(SOON, "three endpoints", || async { gateway.endpoints("app").await.len() == 3 }).await;
    for _ in 0..80 {
        assert_eq!(gateway.get("/").await.status, 200);
    }
    assert_eq!(spare.requests(), 0, "the first priority can take all");
    let light_share = light.requests();
    assert!((14..=26).contains(&light_share), "{light_share} of 80 by weight 1 of 4");

    dns.say("_app._tcp.test", Said::Srv(1, vec![spare_record]));
    until_addresses(&gateway, &[spare.address().to_string()]).await;
    assert_eq!(gateway.get("/").await.served_by(), "app/v3");
}

#[tokio::test]
async fn a_name_that_nobody_knows_keeps_no_gateway_from_starting() {
    let dns = DnsServer::start().await;
    let gateway = before(&dns, "name = \"none.test\", port = 80", "").await;
    let answer = gateway.get("/").await;
    assert_eq!((answer.status, answer.header("x-fleetgate-flag")), (503, Some("UH")));
    let told = gateway.api("status").await.to_string();
    assert!(told.contains("none.test"), "{told}");
}

#[tokio::test]
async fn what_is_too_long_for_one_packet_comes_over_tcp() {
    let one = at(1, 0).await;
    let dns = DnsServer::start().await;
    // An address takes 16 bytes, and 512 is the most.
    let all: Vec<Ipv4Addr> = (1..=200).map(|last| Ipv4Addr::new(127, 0, 0, last)).collect();
    let port = one.address().port();
    dns.say("app.test", Said::A(1, all.clone()));
    let gateway = before(&dns, &format!("name = \"app.test\", port = {port}"), "").await;
    let wanted: Vec<String> = all.iter().map(|ip| format!("{ip}:{port}")).collect();
    until_addresses(&gateway, &wanted).await;
    assert!(dns.asked_over_tcp() > 0);
    // Short again, it comes as before.
    dns.say("app.test", Said::A(1, all[..1].to_vec()));
    until_addresses(&gateway, &wanted[..1]).await;
    assert_eq!(gateway.get("/").await.served_by(), "app/v1");
}

/// A Consul that cuts what it answers over UDP without a word, as it does by default.
#[tokio::test]
async fn all_of_a_large_service_comes_from_consul_and_stays() {
    let mut port = 0;
    let consul = Consul::start_with(|address| {
        [port] = free_ports(address);
        json!({ "ports": { "dns": port } })
    });
    let Some(consul) = consul.await else { return };
    let server = SocketAddr::new(consul.address, port);
    let four = |last: u16| IpAddr::from([127, 0, 1, last as u8]);
    let six = |last: u16| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last]);
    for last in 1..=40 {
        for (name, address) in [("many", four(last)), ("six", six(last))] {
            let service = json!({ "ID": last.to_string(), "Service": name, "Port": 20_000 + last });
            let node = format!("{name}-{last}");
            consul.catalog_register(json!({ "Node": node, "Address": address, "Service": service })).await;
        }
    }
    let address = |kind: &str, last: u16| match kind {
        "SRV" => SocketAddr::new(four(last), 20_000 + last),
        "A" => SocketAddr::new(four(last), 80),
        _ => SocketAddr::new(six(last), 80),
    };
    for (kind, name) in [("SRV", "many"), ("A", "many"), ("AAAA", "six")] {
        let own_port = if kind == "SRV" { "" } else { "port = 80, " };
        let source = format!("name = \"{name}.service.consul\", type = \"{kind}\", {own_port}server = \"{server}\"");
        let gateway = Gateway::start(&config(&source, "")).await;
        let mut wanted: Vec<_> = (1..=40).map(|last| address(kind, last)).collect();
        wanted.sort_unstable();
        let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
        until_addresses(&gateway, &wanted).await;
        reads(&gateway, 3).await;
        assert_eq!(addresses(&gateway).await, wanted, "{kind}");
        assert_eq!(removals(&gateway).await, 0, "{kind}");
        if kind == "SRV" {
            // What is gone goes.
            consul.catalog_deregister(json!({ "Node": "many-7" })).await;
            let left: Vec<_> = wanted.into_iter().filter(|it| *it != address(kind, 7).to_string()).collect();
            until_addresses(&gateway, &left).await;
            assert_eq!(removals(&gateway).await, 1);
            let service = json!({ "ID": "7", "Service": "many", "Port": 20_007 });
            consul.catalog_register(json!({ "Node": "many-7", "Address": four(7), "Service": service })).await;
        }
    }
}

#[tokio::test]
async fn a_server_without_tcp_works_and_parts_of_its_answers_are_added_up() {
    let one = at(1, 0).await;
    let dns = DnsServer::start_without_tcp().await;
    let all: Vec<Ipv4Addr> = (1..=40).map(|last| Ipv4Addr::new(127, 0, 0, last)).collect();
    let port = one.address().port();
    dns.say("app.test", Said::A(1, all.clone()));
    let gateway = before(&dns, &format!("name = \"app.test\", port = {port}"), "").await;
    let wanted: Vec<String> = all.iter().map(|ip| format!("{ip}:{port}")).collect();
    until_addresses(&gateway, &wanted).await;
    reads(&gateway, 4).await;
    assert_eq!(addresses(&gateway).await, wanted);
    assert_eq!((removals(&gateway).await, dns.asked_over_tcp()), (0, 0));
    // A short answer is whole.
    dns.say("app.test", Said::A(1, all[..2].to_vec()));
    until_addresses(&gateway, &wanted[..2]).await;
}

#[tokio::test]
async fn srv_records_that_make_no_endpoint_are_named() {
    let good = at(1, 0).await;
    let dns = DnsServer::start().await;
    dns.say("a.test", Said::A(60, vec![Ipv4Addr::new(127, 0, 0, 1)]));
    let portless = (10, 1, 0, "a.test");
    dns.say("_app._tcp.test", Said::Srv(1, vec![portless]));
    let gateway = before(&dns, "name = \"_app._tcp.test\", type = \"SRV\"", "").await;
    assert_eq!(gateway.get("/").await.status, 503);
    let tells = async |text: &str| {
        wait::until_ok(SOON, text, || async {
            let status = gateway.api("status").await.to_string();
            if status.contains(text) { Ok(()) } else { Err(status) }
        })
        .await;
    };
    tells("its SRV record for `a.test.` has port 0").await;
    let nowhere = (10, 1, 80, "nowhere.test");
    dns.say("_app._tcp.test", Said::Srv(1, vec![portless, nowhere, (10, 1, good.address().port(), "a.test")]));
    until_addresses(&gateway, &[good.address().to_string()]).await;
    tells("its SRV record for `a.test.` has port 0").await;
    tells("`nowhere.test.`, which an SRV record of it names, has no address").await;
}

#[tokio::test]
async fn names_of_the_hosts_file_are_found_where_the_system_is_asked() {
    let origin = at(1, 0).await;
    let port = origin.address().port();
    let local = Gateway::start(&config(&format!("name = \"localhost\", port = {port}"), "")).await;
    assert_eq!(local.until_status("/", 200).await.served_by(), "app/v1");
    if own_mounts().is_none() {
        return;
    }
    let setup = Setup::new(&config(&format!("name = \"vm-7.test\", port = {port}"), ""));
    let setup = setup.file("hosts", "127.0.0.1 localhost\n127.0.0.1 vm-7.test\n");
    let hosts = setup.folder().join("hosts");
    let gateway = setup.mounts(&format!("mount --bind {} /etc/hosts", hosts.display())).start().await;
    assert_eq!(gateway.until_status("/", 200).await.served_by(), "app/v1");
}
