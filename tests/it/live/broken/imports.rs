//! Documents that are wrong when they are imported into a registry that was wiped: the registry takes them for new ones.

use super::{PROTECTED, Place, TYPO, refuses};
use crate::support::client::Request;
use crate::support::load::Load;
use crate::support::origin::Origin;
use crate::support::wait;

use super::super::SOON;

const OPEN: &str = r#"{"match":{"path":"/other"},"upstream":"app"}"#;

impl Place {
    /// It loses everything.
    async fn wipe(&mut self) {
        match self {
            Self::Kv(consul) => {
                consul.kill();
                consul.start_empty().await;
            }
            Self::Etcd(etcd) => {
                etcd.kill();
                etcd.start_empty().await;
            }
            Self::File => unreachable!("files are no registry"),
        }
    }
}

#[tokio::test]
async fn a_protected_route_that_is_imported_with_a_typo_stays_protected() {
    let origin = Origin::start("a").await;
    for mut place in Place::all().await {
        let name = place.name();
        if name == "file" {
            continue;
        }
        for was_wrong in [false, true] {
            place.put(&[], "other", OPEN).await;
            let mut gateway = place.start_protected(&origin).await;
            let settings = place.settings(&origin, "state");
            let state_dir = "discovery.state_dir = \"state\"";
            assert!(settings.contains(state_dir));
            gateway.write_config(&settings.replace(state_dir, &format!("{state_dir}\ndiscovery.wipe_hold = \"2s\"")));
            gateway.terminate().await;
            let mut gateway = gateway.restart().await;
            refuses(&gateway, "/admin", 401).await;
            if was_wrong {
                place.put(&[], "admin", TYPO).await;
                place.saves_broken(&gateway, "timout").await;
            }
            let load = Load::start(gateway.address(), 2, |_, _| Request::get("/admin"));
            place.wipe().await;
            wait::until(SOON, "the wipe to be told", || async { gateway.stderr().contains("looks wiped") }).await;
            place.put(&[], "admin", TYPO).await;
            place.put(&[], "other", OPEN).await;
            // What the registry has not got has had its time.
            wait::until(SOON, "the registry to be believed", || async {
                gateway.stderr().contains("lists again all that was held") || gateway.stderr().contains("it goes")
            })
            .await;
            load.more(50).await;
            let statuses = load.stop().await.statuses;
            assert!(statuses.keys().all(|status| *status == 401), "{name}: {statuses:?}");
            for orderly in [true, false, true] {
                gateway = if orderly { gateway.restart_in_order().await } else { gateway.restart_unready().await };
                gateway.wait_ready().await;
                refuses(&gateway, "/admin", 401).await;
            }
            place.put(&[], "admin", PROTECTED).await;
            refuses(&gateway, "/admin", 401).await;
        }
    }
}
