//! Routes that name a listener which does not exist.

use super::{Place, TYPO, refuses, restart};
use crate::live::{SOON, provider};
use crate::support::gateway::Gateway;
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
