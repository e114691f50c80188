//! Endpoints from DNS: records, weights, priorities, times to live, and what stays when nobody answers.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::support::dns::{DnsServer, Said};
use crate::support::gateway::Gateway;
use crate::support::origin::Origin;
use crate::support::wait;

const SOON: Duration = Duration::from_secs(60);

async fn before(server: &DnsServer, source: &str, lines: &str) -> Gateway {
    Gateway::start(&format!(
        r#"
        listeners.web.address = "127.0.0.1:0"
        admin.address = "127.0.0.1:0"
        routes.all = {{ match = {{ path = "/" }}, upstream = "app" }}
        [upstreams.app]
        dns = {{ {source}, server = "{}" }}
        balance = "round_robin"
        {lines}
        "#,
        server.address()
    ))
    .await
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
    assert!(dns.asked() > 0 && dns.asked_over_tcp() > 0);
    // Short again, it comes as before.
    dns.say("app.test", Said::A(1, all[..1].to_vec()));
    until_addresses(&gateway, &wanted[..1]).await;
    assert_eq!(gateway.get("/").await.served_by(), "app/v1");
}
