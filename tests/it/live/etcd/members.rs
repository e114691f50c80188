//! Traffic while members of an etcd die, freeze, lose each other or never were there.

use super::super::{fails, live, stops, takes};
use super::{Scene, key};
use crate::etcd::members::Three;
use crate::support::etcd::Etcd;
use crate::support::origin::Origin;
use crate::support::proxy::{Mode, Proxy};
use crate::support::{long_tests, place};

impl Scene {
    async fn on(three: &Three) -> Self {
        let urls: Vec<String> = three.proxies.iter().map(Proxy::url).collect();
        Self::start(&three.members[0], &urls, "").await
    }
}

/// Fault case 36: the member that is watched dies, what is written meanwhile comes from another, and it comes back.
#[tokio::test]
async fn a_member_that_dies_costs_no_request_and_no_change() {
    let Some(mut three) = Three::start().await else { return };
    let scene = Scene::on(&three).await;
    let c = Origin::start("c").await;
    let in_use = three.in_use();
    three.members[in_use].kill();
    three.put_without(in_use, &key("c"), &c.address().to_string()).await;
    takes(&scene.load, "c/v1").await;
    three.members[in_use].start_again().await;
    three.members[in_use].delete(&key("c")).await;
    stops(&scene.load, "c/v1").await;
    live(&scene.gateway, "etcd").await;
    scene.end().await;
}

/// Fault case 37: the member that is watched freezes. Its silence alone gives it away, after 20 s.
#[tokio::test]
async fn a_member_that_freezes_costs_no_request_and_no_change() {
    if !long_tests() {
        return;
    }
    let Some(mut three) = Three::start().await else { return };
    let scene = Scene::on(&three).await;
    let c = Origin::start("c").await;
    let in_use = three.in_use();
    three.members[in_use].freeze();
    three.put_without(in_use, &key("c"), &c.address().to_string()).await;
    takes(&scene.load, "c/v1").await;
    three.members[in_use].thaw();
    three.members[in_use].healthy().await;
    three.members[in_use].delete(&key("c")).await;
    stops(&scene.load, "c/v1").await;
    live(&scene.gateway, "etcd").await;
    scene.end().await;
}

/// Fault case 38: two of three die. The third answers, and has no leader: nothing it shows is a reason to drop anyone.
#[tokio::test]
async fn a_lost_quorum_costs_no_request_and_no_change() {
    let Some(mut three) = Three::start().await else { return };
    let scene = Scene::on(&three).await;
    let c = Origin::start("c").await;
    let in_use = three.in_use();
    let others = [(in_use + 1) % 3, (in_use + 2) % 3];
    for other in others {
        three.members[other].kill();
    }
    fails(&scene.gateway, "etcd", "").await;
    scene.load.more(200).await;
    for other in others {
        three.members[other].run();
    }
    for other in others {
        three.members[other].healthy().await;
    }
    three.put_without(in_use, &key("c"), &c.address().to_string()).await;
    takes(&scene.load, "c/v1").await;
    three.members[in_use].delete(&key("c")).await;
    stops(&scene.load, "c/v1").await;
    live(&scene.gateway, "etcd").await;
    scene.end().await;
}

/// Fault case 39: the member that is watched is cut off from the others, which go on. Its clients still reach it.
#[tokio::test]
async fn a_member_cut_off_from_the_others_costs_no_request_and_no_change() {
    let Some((members, between)) = Etcd::start_three_apart().await else { return };
    let three = Three::of(members).await;
    let scene = Scene::on(&three).await;
    let c = Origin::start("c").await;
    let in_use = three.in_use();
    between.isolate(&three.members[in_use]).await;
    three.put_without(in_use, &key("c"), &c.address().to_string()).await;
    takes(&scene.load, "c/v1").await;
    between.join();
    three.members[(in_use + 1) % 3].delete(&key("c")).await;
    stops(&scene.load, "c/v1").await;
    live(&scene.gateway, "etcd").await;
    scene.end().await;
}

/// Fault case 47: a member that refuses and one that swallows do not keep the gateway from starting, and cost nobody
/// anything once it has.
#[tokio::test]
async fn members_that_were_never_there_cost_no_request_and_no_change() {
    let Some(etcd) = Etcd::start().await else { return };
    let hole = Proxy::start(etcd.client_address()).await;
    hole.set(Mode::Hold);
    let urls = [format!("http://{}", place::refusing()), hole.url(), etcd.url()];
    let scene = Scene::start(&etcd, &urls, "").await;
    let c = Origin::start("c").await;
    super::put(&etcd, &c).await;
    takes(&scene.load, "c/v1").await;
    etcd.delete(&key("c")).await;
    stops(&scene.load, "c/v1").await;
    live(&scene.gateway, "etcd").await;
    scene.end().await;
}
