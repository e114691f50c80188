//! A gateway that is its own service in HTTP/2.

use super::{SOON, before, client, get};
use crate::support::multiplexed::Service;
use crate::support::wait;

#[tokio::test]
async fn a_gateway_that_is_its_own_service_says_so_and_lives() {
    let service = Service::start().await;
    let gateway = before(&[&service], "allow_self = true", "retry = { attempts = 3, on = [\"5xx\", \"reset\"] }").await;
    let address = gateway.address().to_string();
    let config = std::fs::read_to_string(gateway.folder().join("fleetgate.toml")).expect("its configuration");
    gateway.write_config(&config.replace(&service.address().to_string(), &address));
    wait::until(SOON, "the circle", || async { gateway.endpoints("app").await[0].0 == address }).await;
    let mut client = client(&gateway).await;
    for _ in 0..10 {
        let old = gateway.get("/around").await;
        assert_eq!((old.status, old.header("x-fleetgate-flag")), (508, Some("NC")), "{}", old.text());
        let new = client.send_request(get("/around")).await.unwrap();
        assert_eq!((new.status().as_u16(), &new.headers()["x-fleetgate-flag"]), (508, &"NC".parse().unwrap()));
    }
    assert_eq!(service.begun(), 0);
    let rounds = gateway.access_log().iter().filter(|line| line["path"] == "/around").count();
    assert!(rounds <= 20 * 9, "{rounds} exchanges of 20");
    // It serves others as soon as the mistake is mended.
    gateway.write_config(&config);
    gateway.until_status("/", 200).await;
}
