//! Routes that name a listener which does not exist.

use super::{Place, TYPO, refuses, restart};
use crate::live::{SOON, provider};
use crate::support::consul::Consul;
use crate::support::gateway::{Gateway, Setup};
use crate::support::origin::Origin;
use crate::support::wait;

const ON_WEB: &str = r#"{"match":{"path":"/admin"},"listeners":["web"],"upstream":"app","middlewares":["keys"]}"#;

async fn tells(gateway: &Gateway, name: &str) {
    wait::until_ok(SOON, "the listener to be told", || async {
        let told = provider(gateway, name).await["diagnostics"].to_string();
        if told.contains("there is no listener `wbe`") { Ok(()) } else { Err(told) }
    })
    .await;
}

/// A middleware of the whole listener: whoever balances gateways is told not to use this one.
#[tokio::test]
async fn a_gateway_whose_listener_is_shut_is_not_ready() {
    let Some(consul) = Consul::start().await else { return };
    let origin = Origin::start("a").await;
    let [good, wrong] = ["header", "haeder"].map(|key| format!(r#"{{"api_key":{{"{key}":"x-key"}}}}"#));
    consul.kv_put("fleetgate/middlewares/keys", &good).await;
    consul.kv_put("fleetgate/middlewares/keys", &wrong).await;
    let place = Place::Kv(consul);
    let settings = place.settings(&origin, "state").replace("middlewares.keys.api_key.header = \"x-key\"", "");
    let settings = format!("runtime.ready_timeout = \"1s\"\nlisteners.web.middlewares = [\"keys\"]\n{settings}");
    let mut gateway = Setup::new(&settings).start_listening().await;
    refuses(&gateway, "/", 503).await;
    wait::until_ok(SOON, "the reason", || async {
        let told = gateway.admin_get("/readyz").await;
        if told.0 == 503 && told.1.contains("listener web answers 503 to every request: there is no middleware `keys`")
        {
            Ok(())
        } else {
            Err(told)
        }
    })
    .await;
    let Place::Kv(consul) = &place else { unreachable!("it is Consul's") };
    consul.kv_put("fleetgate/middlewares/keys", &good).await;
    gateway.wait_ready().await;
    refuses(&gateway, "/", 401).await;
}

#[tokio::test]
async fn a_protected_route_of_a_listener_that_does_not_exist_opens_on_no_other() {
    let origin = Origin::start("a").await;
    let wrong = ON_WEB.replace("web", "wbe");
    for place in Place::all().await {
        let name = place.name();
        let mut gateway = place.start_protected(&origin).await;
        place.put(&[&gateway], "admin", ON_WEB).await;
        super::saves(&gateway, &format!("{name}.json"), &["listeners"]).await;
        place.put(&[&gateway], "admin", &wrong).await;
        tells(&gateway, name).await;
        assert_eq!(gateway.get("/admin").await.status, 401, "{name}: a mistake changes nothing");
        for settings in [place.settings(&origin, "state"), place.settings(&origin, "other")] {
            gateway = restart(gateway, &settings).await;
            gateway.wait_ready().await;
            refuses(&gateway, "/admin", if settings.contains("\"other\"") { 503 } else { 401 }).await;
            assert_eq!(gateway.get("/").await.status, 200, "{name}: the rest is served");
            tells(&gateway, name).await;
        }
        // A text that is wrong in another way, too.
        place.put(&[&gateway], "admin", &TYPO.replace("\"upstream\"", "\"listeners\":[\"wbe\"],\"upstream\"")).await;
        super::rejects(&gateway, name, &["timout"]).await;
        refuses(&gateway, "/admin", 503).await;
        place.put(&[&gateway], "admin", ON_WEB).await;
        refuses(&gateway, "/admin", 401).await;
    }
}
