//! Mistakes in documents that are well-formed: a wrong name in an edit, and the removal of what is in use, in files, Consul and
//! etcd. No request fails, and whoever looks is told; but nothing passes without a middleware that it may need.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde_json::{Value, json};

use super::{SOON, config, live, provider, stops, takes};
use crate::support::client::{Answer, Request};
use crate::support::consul::{Consul, Service};
use crate::support::etcd::Etcd;
use crate::support::gateway::{Gateway, Setup};
use crate::support::load::Load;
use crate::support::origin::Origin;
use crate::support::wait;

mod restarts;

/// Where documents are written.
enum Place {
    Kv(Consul),
    Etcd(Etcd),
    /// A watched file beside the main one.
    File(Mutex<BTreeMap<String, Value>>),
}

impl Place {
    async fn all() -> Vec<Self> {
        let mut all = vec![Self::File(Mutex::default())];
        all.extend(Consul::start().await.map(Self::Kv));
        all.extend(Etcd::start().await.map(Self::Etcd));
        all
    }

    fn provider(&self) -> &'static str {
        match self {
            Self::Kv(_) => "consul-kv",
            Self::Etcd(_) => "etcd",
            Self::File(_) => "file",
        }
    }

    fn settings(&self) -> String {
        match self {
            Self::Kv(consul) => format!("discovery.consul = {{ address = \"{}\", write_status = true }}", consul.url()),
            Self::Etcd(etcd) => format!("discovery.etcd = {{ endpoints = [\"{}\"], write_status = true }}", etcd.url()),
            Self::File(_) => "discovery.file.paths = [\"more/*.json\"]".to_owned(),
        }
    }

    async fn gateway(&self, more: &str) -> Gateway {
        self.gateway_saving("off", more).await
    }

    /// One that saves what it knows in this folder.
    async fn gateway_saving(&self, folder: &str, more: &str) -> Gateway {
        let settings = format!("discovery.state_dir = \"{folder}\"\n{}\n{more}", self.settings());
        let setup = Setup::new(&config(&settings));
        match self {
            Self::Kv(_) | Self::Etcd(_) => setup,
            Self::File(items) => setup.file("more/items.json", &text(&items.lock().unwrap())),
        }
        .start()
        .await
    }

    /// Defines the route `shop` with what it needs, before any gateway is there.
    async fn fill(&self, origin: &Origin) {
        for (item, document) in
            [("upstreams/shop", shop(origin)), ("middlewares/stamp", stamp()), ("routes/shop", route())]
        {
            self.set(None, item, Some(document)).await;
        }
        // In files the loss of most items waits.
        for number in 0..6 {
            self.set(None, &format!("upstreams/other-{number}"), Some(json!({ "endpoints": [] }))).await;
        }
    }

    /// Writes a document, `KIND/NAME`, or deletes it.
    async fn set(&self, gateway: Option<&Gateway>, item: &str, document: Option<Value>) {
        match self {
            Self::Kv(consul) => match document {
                Some(document) => consul.kv_put(&format!("fleetgate/{item}"), &document.to_string()).await,
                None => consul.kv_delete(&format!("fleetgate/{item}")).await,
            },
            Self::Etcd(etcd) => {
                let key = format!("/fleetgate/{item}");
                match document {
                    Some(document) => etcd.put(&key, &document.to_string()).await,
                    None => etcd.delete(&key).await,
                };
            }
            Self::File(items) => {
                let mut items = items.lock().unwrap();
                match document {
                    Some(document) => drop(items.insert(item.to_owned(), document)),
                    None => drop(items.remove(item)),
                }
                if let Some(gateway) = gateway {
                    gateway.write("more/items.json", &text(&items));
                }
            }
        }
    }

    /// What stands in the feedback key of an item; `None`: there is none, or the place has no such keys.
    async fn feedback(&self, item: &str) -> Option<String> {
        let end = format!("status/{item}");
        match self {
            Self::Kv(consul) => {
                let keys = consul.kv_keys("fleetgate").await.unwrap_or_default();
                let key = keys.into_iter().find(|key| key.ends_with(&end))?;
                Some(consul.kv_raw(&key).await)
            }
            Self::Etcd(etcd) => {
                let told = etcd.below("/fleetgate").await;
                told.into_iter().find(|(key, _)| key.ends_with(&end)).map(|(_, text)| text)
            }
            Self::File(_) => None,
        }
    }

    fn has_feedback(&self) -> bool {
        !matches!(self, Self::File(_))
    }
}

/// A file of these items.
fn text(items: &BTreeMap<String, Value>) -> String {
    let mut sections = json!({});
    for (item, document) in items {
        let (kind, name) = item.split_once('/').unwrap();
        sections[kind][name] = document.clone();
    }
    sections.to_string()
}

fn shop(a: &Origin) -> Value {
    json!({
        "endpoints": [{ "address": a.address().to_string(), "labels": { "version": "v1" } }],
        "subsets": { "stable": { "version": "v1" } },
    })
}

fn stamp() -> Value {
    json!({ "headers": { "response": { "set": { "x-stamp": "yes" } } } })
}

fn route() -> Value {
    json!({
        "match": { "path": "/shop" },
        "targets": [{ "upstream": "shop", "subset": "stable" }],
        "middlewares": ["stamp"],
    })
}

/// The route of this name, once it is in this state; with what it says then.
async fn until_state(gateway: &Gateway, name: &str, state: &str) -> Value {
    wait::until_ok(SOON, &format!("{name} to be {state}"), || async {
        let routes = gateway.api("routes").await;
        let route = routes["items"].as_array().unwrap().iter().find(|route| route["name"] == name).cloned();
        match route {
            Some(route) if route["state"] == state => Ok(route),
            _ => Err(routes),
        }
    })
    .await
}

async fn until_said(gateway: &Gateway, words: &str) {
    wait::until_ok(SOON, &format!("{words:?} in the log"), || async {
        let said = gateway.stderr().text();
        if said.contains(words) { Ok(()) } else { Err(said) }
    })
    .await;
}

/// Waits until the problems that `status` has of a provider say all of this, or none of it.
async fn until_status_says(gateway: &Gateway, provider: &str, words: &str, says: bool) {
    wait::until_ok(SOON, &format!("{words:?} in the status: {says}"), || async {
        let status = gateway.api("status").await;
        let summary = status["providers"].as_array().unwrap().iter().find(|one| one["name"] == provider).cloned();
        if summary.unwrap_or_default()["problems"].to_string().contains(words) == says { Ok(()) } else { Err(status) }
    })
    .await;
}

async fn until_feedback(place: &Place, item: &str, words: Option<&str>) {
    if !place.has_feedback() {
        return;
    }
    wait::until_ok(SOON, &format!("feedback of {item}: {words:?}"), || async {
        let told = place.feedback(item).await;
        let fits = match (&told, words) {
            (Some(told), Some(words)) => told.contains(words),
            (told, words) => told.is_none() && words.is_none(),
        };
        if fits { Ok(()) } else { Err(told) }
    })
    .await;
}

fn stamped(answer: &Answer) -> bool {
    answer.status == 200 && answer.header("x-stamp") == Some("yes")
}

/// O6: each mistake leaves the last form that resolved in use, with its middleware; it is told in the log, in `status`, in
/// `routes`, by a metric and in the feedback key; and all of that ends with it.
#[tokio::test]
async fn a_wrong_name_or_a_removal_in_use_fails_no_request() {
    let a = Origin::start("a").await;
    for place in Place::all().await {
        place.fill(&a).await;
        let gateway = place.gateway("").await;
        gateway.until_status("/shop", 200).await;
        let load = Load::start_judging(gateway.address(), 2, |_, _| Request::get("/shop"), stamped);
        let (mut wrong_upstream, mut wrong_subset, mut no_subset) = (route(), route(), shop(&a));
        wrong_upstream["targets"][0]["upstream"] = json!("shpo");
        wrong_subset["targets"][0]["subset"] = json!("stabel");
        no_subset["subsets"] = json!({});
        let mistakes = [
            ("routes/shop", Some(wrong_upstream), "there is no upstream `shpo`"),
            ("routes/shop", Some(wrong_subset), "upstream `shop` has no subset `stabel`"),
            ("upstreams/shop", None, "there is no upstream `shop`"),
            ("upstreams/shop", Some(no_subset), "upstream `shop` has no subset `stable`"),
            ("middlewares/stamp", None, "there is no middleware `stamp`"),
        ];
        for (item, document, reason) in mistakes {
            place.set(Some(&gateway), item, document).await;
            let kept = until_state(&gateway, "shop", "kept").await;
            assert!(kept["reasons"].to_string().contains(reason), "{kept}");
            load.more(20).await;
            let told = format!(
                "routes.shop: {reason}: correct the name, or define it; the last form that resolved stays in use"
            );
            until_said(&gateway, &told).await;
            until_status_says(&gateway, place.provider(), reason, true).await;
            let metric = gateway.metric("fleetgate_discovery_kept_items", &[("provider", place.provider())]).await;
            assert_eq!(metric, Some(1.0), "{reason}");
            until_feedback(&place, "routes/shop", Some(reason)).await;

            let good = match item {
                "routes/shop" => route(),
                "upstreams/shop" => shop(&a),
                _ => stamp(),
            };
            place.set(Some(&gateway), item, Some(good)).await;
            until_state(&gateway, "shop", "ok").await;
            until_said(&gateway, "routes.shop: resolved, or gone").await;
            until_status_says(&gateway, place.provider(), reason, false).await;
            until_feedback(&place, "routes/shop", None).await;
        }
        load.stop().await.assert_all_ok();
        let events = gateway.api("events?route=shop&limit=1000").await["items"].to_string();
        assert!(events.contains("item_unresolved") && events.contains("item_accepted"), "{events}");

        // A middleware that the last form did not have may protect the route.
        let mut wrong = route();
        wrong["middlewares"] = json!(["stamp", "lgoin"]);
        place.set(Some(&gateway), "routes/shop", Some(wrong.clone())).await;
        let refused = gateway.until_status("/shop", 503).await;
        assert_eq!(refused.header("x-fleetgate-flag"), Some("NC"));
        let unresolved = until_state(&gateway, "shop", "unresolved").await;
        assert!(unresolved["reasons"].to_string().contains("there is no middleware `lgoin`"), "{unresolved}");
        until_said(&gateway, "routes.shop: there is no middleware `lgoin`").await;
        until_feedback(&place, "routes/shop", Some("there is no middleware `lgoin`")).await;
        place.set(Some(&gateway), "middlewares/lgoin", Some(stamp())).await;
        gateway.until_status("/shop", 200).await;

        // What is deleted is deleted, and what only it needed goes with it.
        place.set(Some(&gateway), "routes/shop", Some(route())).await;
        place.set(Some(&gateway), "upstreams/shop", None).await;
        until_state(&gateway, "shop", "kept").await;
        place.set(Some(&gateway), "routes/shop", None).await;
        gateway.until_status("/shop", 404).await;
        wait::until(SOON, "the upstream to go", || async {
            !gateway.api("upstreams").await["items"].to_string().contains("\"shop\"")
        })
        .await;
        // Nothing of it is remembered.
        place.set(Some(&gateway), "routes/shop", Some(route())).await;
        gateway.until_status("/shop", 503).await;
        live(&gateway, place.provider()).await;
    }
}

/// A removed upstream of a service is followed for as long as a route needs it, and the edit that mends it fails no request.
#[tokio::test]
async fn an_upstream_that_is_removed_while_in_use_is_still_followed() {
    let Some(consul) = Consul::start().await else { return };
    let (a, b, c) = (Origin::start("a").await, Origin::start("b").await, Origin::start("c").await);
    consul.register(&Service::new("web", "a", a.address())).await;
    consul.register(&Service::new("later", "c", c.address())).await;
    consul.kv_put("fleetgate/upstreams/web", r#"{"consul":{"service":"web"}}"#).await;
    consul.kv_put("fleetgate/routes/web", r#"{"match":{"path":"/"},"upstream":"web"}"#).await;
    let place = Place::Kv(consul);
    let gateway = place.gateway("").await;
    let Place::Kv(consul) = &place else { unreachable!() };
    let load = Load::start(gateway.address(), 2, |_, _| Request::get("/"));
    takes(&load, "a/v1").await;
    consul.kv_delete("fleetgate/upstreams/web").await;
    until_state(&gateway, "web", "kept").await;
    consul.register(&Service::new("web", "b", b.address())).await;
    takes(&load, "b/v1").await;
    consul.deregister("a").await;
    stops(&load, "a/v1").await;
    // Elsewhere, to a source that nobody has read yet.
    consul.kv_put("fleetgate/upstreams/later", r#"{"consul":{"service":"later"}}"#).await;
    consul.kv_put("fleetgate/routes/web", r#"{"match":{"path":"/"},"upstream":"later"}"#).await;
    takes(&load, "c/v1").await;
    stops(&load, "b/v1").await;
    load.stop().await.assert_all_ok();
    until_state(&gateway, "web", "ok").await;
}

/// A gateway that starts beside one that keeps a route has no earlier form of it, and serves it not at all.
#[tokio::test]
async fn without_an_earlier_form_an_unresolved_route_is_never_open() {
    let a = Origin::start("a").await;
    for place in Place::all().await {
        for (item, document) in [("upstreams/shop", shop(&a)), ("middlewares/stamp", stamp()), ("routes/shop", route())]
        {
            place.set(None, item, Some(document)).await;
        }
        let gateway = place
            .gateway("[upstreams.all]\nendpoints = []\n[routes.all]\nmatch = { path = \"/\" }\nupstream = \"all\"")
            .await;
        gateway.until_status("/shop", 200).await;
        place.set(Some(&gateway), "middlewares/stamp", None).await;
        until_state(&gateway, "shop", "kept").await;
        let again = gateway.restart().await;
        let refused = again.until_status("/shop", 503).await;
        assert_eq!(refused.header("x-fleetgate-flag"), Some("NC"));
        until_said(&again, "routes.shop: there is no middleware `stamp`").await;
        place.set(Some(&again), "middlewares/stamp", Some(stamp())).await;
        assert!(stamped(&again.until_status("/shop", 200).await));
    }
}

/// O9: what the file defines, too, is told wherever people look.
#[tokio::test]
async fn a_document_that_another_provider_hides_is_told() {
    let (a, b) = (Origin::start("a").await, Origin::start("b").await);
    for place in Place::all().await.into_iter().filter(Place::has_feedback) {
        let items = format!(
            "[upstreams.users]\nendpoints = [\"{}\"]\n[routes.users]\nmatch = {{ path = \"/users\" }}\nupstream = \"users\"",
            a.address()
        );
        let gateway = place.gateway(&items).await;
        gateway.until_status("/users", 200).await;
        place.set(None, "upstreams/canary", Some(json!({ "endpoints": [b.address().to_string()] }))).await;
        let hidden = json!({ "match": { "path": "/users" }, "upstream": "canary" });
        place.set(None, "routes/users", Some(hidden)).await;

        let words = "goes before";
        until_said(&gateway, "routes.users: shadowed by").await;
        until_status_says(&gateway, place.provider(), words, true).await;
        until_feedback(&place, "routes/users", Some(words)).await;
        let route = until_state(&gateway, "users", "ok").await;
        assert!(route["reasons"].to_string().contains("fleetgate/routes/users is shadowed by"), "{route}");
        let explained = gateway.api("explain?url=http://x/users").await;
        assert!(explained["route"]["reasons"].to_string().contains("is shadowed by"), "{explained}");
        let events = gateway.api("events?route=users").await["items"].to_string();
        assert!(events.contains("item_shadowed"), "{events}");
        let labels = [("provider", place.provider())];
        assert_eq!(gateway.metric("fleetgate_discovery_shadowed_items", &labels).await, Some(1.0));
        assert_eq!(provider(&gateway, place.provider()).await["diagnostics"][0]["kind"], "shadowed");

        place.set(None, "routes/users", None).await;
        until_said(&gateway, "routes.users: no longer shadowed, or gone").await;
        until_status_says(&gateway, place.provider(), words, false).await;
        until_feedback(&place, "routes/users", None).await;
    }
}
