//! Real registries, the real gateway and real traffic: what is registered takes requests, what leaves takes none,
//! and whatever happens to the registries, no request fails.
//!
//! What needs no traffic to be seen is tested where providers are: [`crate::consul`] and [`crate::etcd`].

mod accept;
mod broken;
mod broken_tags;
mod claims;
mod clock;
mod consul;
mod disk;
mod edits;
mod etcd;
mod faults;
mod feedback;
mod files;
mod flapping;
mod mistakes;
mod moves;
mod permissions;
mod random;
mod saved;
mod soak;
mod start;
mod tags;
mod unusable;
mod wipes;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::support::gateway::Gateway;
use crate::support::load::Load;
use crate::support::wait;

const SOON: Duration = Duration::from_secs(30);

/// The configuration of a gateway with one listener and its admin API, and with this beside them.
fn config(more: &str) -> String {
    format!("listeners.web.address = \"127.0.0.1:0\"\nadmin.address = \"127.0.0.1:0\"\n{more}")
}

/// Waits until this origin, `NAME/VERSION`, answers requests of the load.
async fn takes(load: &Load, who: &str) {
    let before = load.report().served_by(who);
    wait::until(SOON, &format!("{who} to take traffic"), || async { load.report().served_by(who) >= before + 5 }).await;
}

/// Waits until none of a hundred answers in a row comes from this origin.
async fn stops(load: &Load, who: &str) {
    wait::until(SOON, &format!("{who} to get no more traffic"), || async {
        let before = load.report().served_by(who);
        load.more(100).await;
        load.report().served_by(who) == before
    })
    .await;
}

/// What the admin API says of a provider.
async fn provider(gateway: &Gateway, name: &str) -> Value {
    let list = gateway.api("providers").await;
    let found = list["items"].as_array().and_then(|items| items.iter().find(|item| item["name"] == name));
    found.unwrap_or_else(|| panic!("no {name} in {list}")).clone()
}

/// Waits until a provider's rejected items are reported with all of these words.
async fn rejects(gateway: &Gateway, name: &str, words: &[&str]) {
    wait::until_ok(SOON, &format!("a word about {words:?}"), || async {
        let said = provider(gateway, name).await["rejected"].to_string();
        if words.iter().all(|word| said.contains(word)) { Ok(()) } else { Err(said) }
    })
    .await;
}

/// The events that took an endpoint of an upstream out of what is served, by its address.
async fn removals(gateway: &Gateway, upstream: &str) -> BTreeMap<String, Vec<Value>> {
    let (mut removals, mut after): (BTreeMap<String, Vec<Value>>, _) = (BTreeMap::new(), 0);
    loop {
        let page = gateway.api(&format!("events?upstream={upstream}&limit=1000&after={after}")).await;
        assert_eq!(page["dropped"], 0, "the history is too short for this test");
        for event in page["items"].as_array().unwrap().iter().filter(|event| event["event"] == "endpoint_removed") {
            removals.entry(event["endpoint"].as_str().unwrap().to_owned()).or_default().push(event.clone());
        }
        after = page["next"].as_u64().unwrap();
        if page["more"] == false {
            return removals;
        }
    }
}

/// Waits until all watches of a provider are live.
async fn live(gateway: &Gateway, name: &str) {
    wait::until_ok(SOON, &format!("{name} to be live"), || async {
        let provider = provider(gateway, name).await;
        if provider["state"] == "live" { Ok(()) } else { Err(provider) }
    })
    .await;
}

/// Waits until a watch of a provider fails, with this in its error.
async fn fails(gateway: &Gateway, name: &str, part: &str) {
    wait::until_ok(SOON, &format!("{name} to fail with `{part}`"), || async {
        let provider = provider(gateway, name).await;
        let watches = provider["watches"].as_array().cloned().unwrap_or_default();
        let said = |watch: &Value| watch["error"].as_str().is_some_and(|error| error.contains(part));
        if watches.iter().any(|watch| watch["state"] == "failing" && said(watch)) { Ok(()) } else { Err(provider) }
    })
    .await;
}
