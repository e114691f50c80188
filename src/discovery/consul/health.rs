//! Defines how an answer of `/v1/health/service/NAME` becomes endpoints. Pure.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

use super::known::Contents;
use super::unreported::{self, Unreported};
use crate::spec::decode::tag::{ASK_LABEL, native_ask, native_weight};
use crate::spec::endpoint::{Address, EndpointSpec, Labels, RegistryStatus};
use crate::spec::problem::Problem;
use crate::spec::source::{ConsulService, Source};

/// An instance of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Instance {
    /// What it means for the gateway.
    pub(super) endpoint: EndpointSpec,
    /// The node it is registered on.
    pub(super) node: Arc<str>,
    /// When Consul made it: another index is another registration.
    pub(super) created: u64,
    /// By status.
    pub(super) weights: Weights,
    /// A check that always tells why it fails has told something.
    pub(super) reported: bool,
    /// It is critical for checks alone that have not run yet.
    pub(super) unreported: Option<Unreported>,
}

/// Reads the body. Instances that cannot be used (no port, an address that is none) are problems.
///
/// # Errors
/// A body that is not what Consul answers: then nothing of it counts.
pub(super) fn instances(service: &ConsulService, body: &[u8]) -> Result<Contents<Instance>, String> {
    let entries: Vec<Entry> =
        serde_json::from_slice(body).map_err(|error| format!("not a list of instances: {error}"))?;
    let mut contents = Contents::default();
    let near = service.near.as_ref().map(|_| entries.len().div_ceil(2));
    for (position, entry) in entries.into_iter().enumerate() {
        let id: Arc<str> = format!("{}/{}", entry.node.name, entry.service.id).into();
        if entry.service.is_proxy_of(&service.name) {
            contents.unusable.insert(id);
            continue;
        }
        match instance(entry, &id, service.tagged_address.as_deref()) {
            Ok(mut instance) => {
                if let Some(near) = near {
                    // Consul lists the nearest one first.
                    set_distance(&mut instance, if position < near { "0" } else { "1" });
                }
                add(&mut contents.entries, id, instance);
            }
            Err(text) => {
                contents.problems.push(Problem::new(format!("consul:{service}"), id.to_string(), text));
                contents.unusable.insert(id);
            }
        }
    }
    contents.problems.sort_unstable();
    Ok(contents)
}

fn set_distance(instance: &mut Instance, priority: &str) {
    let labels = Arc::make_mut(&mut instance.endpoint.labels);
    labels.insert(Source::PRIORITY.to_owned(), priority.to_owned());
}

/// Leaves the halves as they are known while no instance has come or gone: of those that are about as far, Consul lists
/// another first each time.
pub(super) fn keep_distances(known: &BTreeMap<Arc<str>, Instance>, fresh: &mut BTreeMap<Arc<str>, Instance>) {
    if !known.keys().eq(fresh.keys()) {
        return;
    }
    for (known, fresh) in known.values().zip(fresh.values_mut()) {
        let (before, now) = (&known.endpoint.labels, &fresh.endpoint.labels);
        if let Some(before) = before.get(Source::PRIORITY)
            && now.get(Source::PRIORITY) != Some(before)
        {
            set_distance(fresh, before);
        }
    }
}

/// Gives instances the weights that their tags ask for, and marks what they ask for.
pub(super) fn weigh_by_tags(service: &ConsulService, contents: &mut Contents<Instance>) {
    for (id, instance) in &mut contents.entries {
        if let Some(ask) = native_ask(&instance.endpoint.labels) {
            Arc::make_mut(&mut instance.endpoint.labels).insert(ASK_LABEL.to_owned(), ask);
        }
        match native_weight(&instance.endpoint.labels) {
            Ok(None) => {}
            Ok(Some(weight)) => {
                instance.weights = Weights::always(weight);
                instance.endpoint.weight = weight;
            }
            Err(text) => contents.problems.push(Problem::new(format!("consul:{service}"), id.to_string(), text)),
        }
    }
    contents.problems.sort_unstable();
}

/// Only a damaged catalog lists one instance twice; its newer registration counts.
fn add(entries: &mut BTreeMap<Arc<str>, Instance>, id: Arc<str>, instance: Instance) {
    match entries.get(&id) {
        Some(other) if other.endpoint.modified > instance.endpoint.modified => {}
        _ => {
            entries.insert(id, instance);
        }
    }
}

fn instance(entry: Entry, id: &Arc<str>, tagged: Option<&str>) -> Result<Instance, String> {
    let Entry { node, service, checks } = entry;
    if node.name.is_empty() || service.id.is_empty() {
        return Err("it has no node or no id".to_owned());
    }
    let (host, port) =
        located(&node, &service, tagged).ok_or("neither the service nor its node has an address: register one")?;
    let port = u16::try_from(port).map_err(|_| format!("port {port} is out of range: register one of 1 to 65535"))?;
    if port == 0 {
        return Err("it has no port: register the service with one".to_owned());
    }
    let address = Address::new(host, port).map_err(|error| unusable_address(host, &error))?;
    let checks = checks.unwrap_or_default();
    let status = worst(&checks);
    let others = worst(checks.iter().filter(|check| !check.is_silent()));
    let unreported = status == RegistryStatus::Critical && others < RegistryStatus::Critical;
    let weights = service.weights.unwrap_or_default();
    let endpoint = EndpointSpec {
        address,
        weight: weights.of(status),
        labels: Arc::new(labels(service.meta.unwrap_or_default(), service.tags.unwrap_or_default(), service.kind)),
        status,
        id: Arc::clone(id),
        modified: service.modify_index,
        created: service.create_index,
    };
    Ok(Instance {
        endpoint,
        node: node.name.into(),
        created: service.create_index,
        weights,
        reported: checks.iter().any(|check| unreported::tells_why(&check.kind) && check.output.0),
        unreported: unreported.then_some(Unreported { others, kept_since: None }),
    })
}

/// Where an instance is: at its tagged address, its node's, its own, or its node's own, the first of them there is.
fn located<'e>(node: &'e Node, service: &'e Service, tagged: Option<&str>) -> Option<(&'e str, i64)> {
    let of_service = tagged.and_then(|key| service.tagged_addresses.as_ref()?.get(key));
    let of_service = of_service.filter(|tagged| !tagged.address.is_empty());
    if let Some(TaggedAddress { address, port }) = of_service {
        return Some((address, *port));
    }
    let of_node = tagged.and_then(|key| node.tagged_addresses.as_ref()?.get(key));
    let hosts = [of_node, Some(&service.address), Some(&node.address)];
    let host = hosts.into_iter().flatten().find(|host| !host.is_empty())?;
    Some((host, service.port))
}

/// The worst of an instance's checks, its own and its node's; without checks it passes. Maintenance is a
/// check of a reserved name, and beats everything.
fn worst<'c>(checks: impl IntoIterator<Item = &'c Check>) -> RegistryStatus {
    checks
        .into_iter()
        .map(|check| {
            let maintenance = check.id == "_node_maintenance" || check.id.starts_with("_service_maintenance:");
            match check.status.as_str() {
                _ if maintenance => RegistryStatus::Maintenance,
                "passing" => RegistryStatus::Passing,
                "warning" => RegistryStatus::Warning,
                // Also a word that later versions may bring: better no traffic than to what is sick.
                _ => RegistryStatus::Critical,
            }
        })
        .max()
        .unwrap_or(RegistryStatus::Passing)
}

fn labels(meta: HashMap<String, String>, tags: Vec<String>, kind: String) -> Labels {
    let tags = tags.into_iter().map(|tag| (format!("tag.{tag}"), "true".to_owned()));
    // Keys of Consul's metadata have no dot.
    let kind = (!kind.is_empty()).then(|| (Source::KIND.to_owned(), kind));
    meta.into_iter().chain(tags).chain(kind).collect()
}

/// What is wrong with the address of a registration, and what to do.
fn unusable_address(host: &str, error: &str) -> String {
    let (shown, fix) = if host.contains("://") {
        ("is a URL", "register the host alone as its address, and the port as its port")
    } else if host.trim() != host {
        ("begins or ends with a blank", "register it without")
    } else if host.contains('%') {
        ("has a zone, which means nothing on another machine", "register an address without one")
    } else if host.parse::<Address>().is_ok() {
        ("has a port in it", "register the host alone as its address, and the port as its port")
    } else {
        return format!("{error}: register one of these as its address");
    };
    format!("the address `{host}` {shown}: {fix}")
}

/// The few fields that count; everything else is skipped without being kept.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "Node")]
    node: Node,
    #[serde(rename = "Service")]
    service: Service,
    #[serde(rename = "Checks", default)]
    checks: Option<Vec<Check>>,
}

#[derive(Deserialize)]
struct Node {
    #[serde(rename = "Node", default)]
    name: String,
    #[serde(rename = "Address", default)]
    address: String,
    #[serde(rename = "TaggedAddresses", default)]
    tagged_addresses: Option<HashMap<String, String>>,
}

/// A service's own tagged address.
#[derive(Deserialize)]
struct TaggedAddress {
    #[serde(rename = "Address", default)]
    address: String,
    #[serde(rename = "Port", default)]
    port: i64,
}

#[derive(Deserialize)]
struct Service {
    #[serde(rename = "ID", default)]
    id: String,
    /// Empty for an ordinary service; what belongs to Consul's mesh has another.
    #[serde(rename = "Kind", default)]
    kind: String,
    #[serde(rename = "Proxy", default)]
    proxy: Option<Proxy>,
    #[serde(rename = "Address", default)]
    address: String,
    #[serde(rename = "Port", default)]
    port: i64,
    #[serde(rename = "TaggedAddresses", default)]
    tagged_addresses: Option<HashMap<String, TaggedAddress>>,
    #[serde(rename = "Tags", default)]
    tags: Option<Vec<String>>,
    #[serde(rename = "Meta", default)]
    meta: Option<HashMap<String, String>>,
    #[serde(rename = "Weights", default)]
    weights: Option<Weights>,
    #[serde(rename = "CreateIndex", default)]
    create_index: u64,
    #[serde(rename = "ModifyIndex", default)]
    modify_index: u64,
}

/// Whom a proxy of the mesh stands for.
#[derive(Deserialize)]
struct Proxy {
    #[serde(rename = "DestinationServiceName", default)]
    service: String,
}

impl Service {
    /// Whether it is a proxy of the mesh for the very service that lists it: requests are for the service, and the proxy
    /// wants TLS of the mesh. A proxy with a name of its own is asked for by that name.
    fn is_proxy_of(&self, service: &str) -> bool {
        let destination = self.proxy.as_ref().map_or("", |proxy| &proxy.service);
        self.kind == "connect-proxy" && destination.eq_ignore_ascii_case(service)
    }
}

/// Consul's `Weights` of an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Weights {
    #[serde(rename = "Passing", default)]
    passing: Option<i64>,
    #[serde(rename = "Warning", default)]
    warning: Option<i64>,
}

impl Weights {
    /// One weight, whatever the status.
    fn always(weight: u16) -> Self {
        Self { passing: Some(weight.into()), warning: Some(weight.into()) }
    }

    /// The weight that goes with a status. Consul's default is 1, and what makes no sense is as good as absent.
    pub(super) fn of(self, status: RegistryStatus) -> u16 {
        let weight = if status == RegistryStatus::Warning { self.warning } else { self.passing };
        weight.filter(|weight| *weight >= 0).map_or(1, |weight| u16::try_from(weight).unwrap_or(u16::MAX))
    }
}

#[derive(Deserialize)]
struct Check {
    #[serde(rename = "CheckID", default)]
    id: String,
    #[serde(rename = "Status", default)]
    status: String,
    #[serde(rename = "Type", default)]
    kind: String,
    #[serde(rename = "Output", default)]
    output: Said,
}

impl Check {
    /// Critical without a word, of a type that always has one.
    fn is_silent(&self) -> bool {
        self.status == "critical" && !self.output.0 && unreported::tells_why(&self.kind)
    }
}

/// Whether a text is there and not empty; outputs are long, and not kept.
#[derive(Clone, Copy, Default)]
struct Said(bool);

impl<'de> Deserialize<'de> for Said {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Said;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or null")
            }

            fn visit_str<E>(self, text: &str) -> Result<Said, E> {
                Ok(Said(!text.is_empty()))
            }

            fn visit_unit<E>(self) -> Result<Said, E> {
                Ok(Said(false))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn read(body: &Value) -> Contents<Instance> {
        instances(&ConsulService::named("web"), body.to_string().as_bytes()).expect("a list")
    }

    fn one(service: Value, checks: Value) -> Result<EndpointSpec, String> {
        let mut service = service;
        let defaults = json!({"ID": "w1", "Service": "web", "Address": "", "Port": 80, "Tags": null, "Meta": null,
            "Weights": {"Passing": 10, "Warning": 3}, "ModifyIndex": 7});
        for (key, value) in defaults.as_object().expect("an object") {
            service.as_object_mut().expect("an object").entry(key).or_insert_with(|| value.clone());
        }
        let contents = read(
            &json!([{"Node": {"ID": "", "Node": "n1", "Address": "10.0.0.1"}, "Service": service, "Checks": checks}]),
        );
        match contents.entries.into_values().next() {
            Some(instance) => Ok(instance.endpoint),
            None => Err(contents.problems[0].to_string()),
        }
    }

    #[test]
    fn what_belongs_to_the_mesh_is_told_by_its_kind_and_a_proxy_is_not_the_service_it_stands_for() {
        let entry = |id: &str, kind: &str, destination: &str| {
            let proxy = json!({"DestinationServiceName": destination});
            json!({"Node": {"Node": "n", "Address": "10.0.0.1"}, "Checks": [],
                "Service": {"ID": id, "Port": 80, "Kind": kind, "Proxy": proxy}})
        };
        let contents = read(&json!([
            entry("plain", "", ""),
            entry("own-proxy", "connect-proxy", "Web"),
            entry("proxy", "connect-proxy", "other"),
            entry("gateway", "api-gateway", ""),
        ]));
        let kind = |(id, instance): (&Arc<str>, &Instance)| {
            (id.to_string(), instance.endpoint.labels.get(Source::KIND).cloned().unwrap_or_default())
        };
        let kinds: Vec<_> = contents.entries.iter().map(kind).collect();
        let kinds: Vec<_> = kinds.iter().map(|(id, kind)| (id.as_str(), kind.as_str())).collect();
        assert_eq!(kinds, [("n/gateway", "api-gateway"), ("n/plain", ""), ("n/proxy", "connect-proxy")]);
        assert_eq!((contents.unusable, contents.problems), (["n/own-proxy".into()].into(), Vec::new()));
    }

    #[test]
    fn the_nearer_half_goes_first_and_stays_while_nobody_comes_or_goes() {
        let service = ConsulService { near: Some("_agent".into()), ..ConsulService::named("web") };
        let read = |nodes: &[&str]| {
            let entry = |node: &&str| json!({"Node": {"Node": node, "Address": "10.0.0.1"}, "Service": {"ID": "w", "Port": 80}});
            let body: Vec<Value> = nodes.iter().map(entry).collect();
            instances(&service, json!(body).to_string().as_bytes()).expect("a list").entries
        };
        let near = |entries: &BTreeMap<Arc<str>, Instance>| -> String {
            let near = entries.values().filter(|instance| instance.endpoint.labels[Source::PRIORITY] == "0");
            near.map(|instance| instance.node.to_string()).collect()
        };
        let first = read(&["c", "a", "d", "b", "e"]);
        assert_eq!(near(&first), "acd");
        let mut other = read(&["e", "d", "c", "b", "a"]);
        assert_eq!(near(&other), "cde");
        keep_distances(&first, &mut other);
        assert_eq!(near(&other), "acd");
        let mut fewer = read(&["e", "d", "c", "b"]);
        keep_distances(&first, &mut fewer);
        assert_eq!(near(&fewer), "de");
    }

    #[test]
    fn a_tagged_address_is_used_where_there_is_one() {
        let at = |tagged: Option<&str>, of_node: Value, of_service: Value| {
            let service = json!({"ID": "w1", "Address": "10.0.0.2", "Port": 80, "TaggedAddresses": of_service});
            let body = json!([{"Node": {"Node": "n1", "Address": "10.0.0.1", "TaggedAddresses": of_node},
                "Service": service, "Checks": []}]);
            let service = ConsulService { tagged_address: tagged.map(Into::into), ..ConsulService::named("web") };
            let contents = instances(&service, body.to_string().as_bytes()).expect("a list");
            let address = contents.entries.into_values().next().map(|instance| instance.endpoint.address.to_string());
            address.unwrap_or_else(|| contents.problems[0].to_string())
        };
        let of_node = || json!({"lan": "10.0.0.1", "wan": "198.51.100.1"});
        let of_service =
            || json!({"lan_ipv6": {"Address": "2001:db8::2", "Port": 8080}, "v": {"Address": "", "Port": 1}});
        for (tagged, of_node, of_service, address) in [
            (None, of_node(), of_service(), "10.0.0.2:80"),
            (Some("wan"), of_node(), of_service(), "198.51.100.1:80"),
            (Some("lan_ipv6"), of_node(), of_service(), "[2001:db8::2]:8080"),
            (Some("virtual"), of_node(), of_service(), "10.0.0.2:80"),
            (Some("v"), Value::Null, of_service(), "10.0.0.2:80"),
            (Some("wan"), Value::Null, Value::Null, "10.0.0.2:80"),
        ] {
            assert_eq!(at(tagged, of_node, of_service), address, "{tagged:?}");
        }
        let without_port = at(Some("wan"), of_node(), json!({"wan": {"Address": "198.51.100.2", "Port": 0}}));
        assert!(without_port.contains("no port"), "{without_port}");
    }

    #[test]
    fn addresses_fall_back_to_the_node_and_may_be_names() {
        for (service, address) in [
            (json!({}), "10.0.0.1:80"),
            (json!({"Address": "10.9.9.9", "Port": 8080}), "10.9.9.9:8080"),
            (json!({"Address": "2001:db8::1"}), "[2001:db8::1]:80"),
            (json!({"Address": "Orders-2.internal"}), "orders-2.internal:80"),
        ] {
            assert_eq!(
                one(service.clone(), json!([])).map(|endpoint| endpoint.address.to_string()),
                Ok(address.into()),
                "{service}"
            );
        }
        for (service, problem) in [
            (json!({"Port": 0}), "consul:web: n1/w1: it has no port"),
            (json!({"Port": 70000}), "port 70000 is out of range"),
            (json!({"Port": -1}), "port -1 is out of range"),
            (json!({"Address": "no host"}), "neither an IP address nor a host name"),
            (json!({"ID": ""}), "no id"),
        ] {
            let error = one(service.clone(), json!([])).expect_err("a problem");
            assert!(error.contains(problem), "{service}: {error}");
        }
    }

    #[test]
    fn the_worst_check_decides_and_the_weight_goes_with_it() {
        use RegistryStatus::{Critical, Maintenance, Passing, Warning};
        let check = |id: &str, status: &str| json!({"CheckID": id, "Status": status, "ServiceID": "", "Output": "x"});
        for (checks, status, weight) in [
            (json!([]), Passing, 10),
            (json!(null), Passing, 10),
            (json!([check("a", "passing"), check("b", "warning")]), Warning, 3),
            (json!([check("serfHealth", "critical"), check("b", "warning")]), Critical, 10),
            (json!([check("a", "unheard-of")]), Critical, 10),
            (json!([check("_node_maintenance", "critical"), check("a", "critical")]), Maintenance, 10),
            (json!([check("_service_maintenance:w1", "critical"), check("a", "passing")]), Maintenance, 10),
        ] {
            let endpoint = one(json!({}), checks.clone()).expect("an endpoint");
            assert_eq!((endpoint.status, endpoint.weight), (status, weight), "{checks}");
        }
        for (weights, weight) in [
            (json!(null), 1),
            (json!({}), 1),
            (json!({"Passing": null}), 1),
            (json!({"Passing": -3}), 1),
            (json!({"Passing": 0}), 0),
            (json!({"Passing": 100_000}), 65_535),
        ] {
            let endpoint = one(json!({"Weights": weights}), json!([])).expect("an endpoint");
            assert_eq!(endpoint.weight, weight);
        }
    }

    #[test]
    fn meta_and_tags_are_labels() {
        let endpoint =
            one(json!({"Meta": {"version": "v2"}, "Tags": ["canary", "a=b"]}), json!([])).expect("an endpoint");
        let labels: Vec<_> = endpoint.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(labels, ["tag.a=b=true", "tag.canary=true", "version=v2"]);
    }

    #[test]
    fn one_id_on_two_nodes_is_two_instances() {
        let entry = |node: &str, modified: u64| json!({"Node": {"Node": node, "Address": "10.0.0.1"}, "Service": {"ID": "dup", "Port": 80, "ModifyIndex": modified}});
        let contents = read(&json!([entry("a", 1), entry("b", 2), entry("a", 5), entry("a", 3)]));
        let ids: Vec<_> = contents.entries.values().map(|i| (i.endpoint.id.to_string(), i.endpoint.modified)).collect();
        assert_eq!(ids, [("a/dup".to_owned(), 5), ("b/dup".to_owned(), 2)]);
    }

    #[test]
    fn what_is_no_list_is_no_answer() {
        for body in ["", "null", "{}", "[", r#"[{"Node":{}}]"#, "<html>", r#"[{"Node":{},"Service":{"Port":"80"}}]"#] {
            assert!(instances(&ConsulService::named("web"), body.as_bytes()).is_err(), "{body}");
        }
    }

    /// JSON that resembles an answer of Consul: right names with any values.
    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            prop_oneof![".{0,8}", "[0-9.:]{0,12}", "passing|warning|critical|_node_maintenance"].prop_map(Value::from),
        ];
        let key = prop_oneof![
            "Node|Service|Checks|ID|Address|Port|Tags|Meta|Weights|Passing|Warning|CheckID|Status|Output|ModifyIndex",
            ".{0,4}"
        ];
        leaf.prop_recursive(5, 64, 6, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::hash_map(key.clone(), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn any_entry() -> impl Strategy<Value = Value> {
        (
            ".{0,5}",
            "[a-z0-9.:-]{0,12}",
            any::<i64>(),
            proptest::option::of(proptest::collection::vec(".{0,4}", 0..3)),
            any::<i64>(),
        )
            .prop_map(|(id, address, port, tags, weight)| {
                json!({"Node": {"Node": "n", "Address": address}, "Checks": [{"CheckID": id, "Status": address}],
                    "Service": {"ID": id, "Address": address, "Port": port.rem_euclid(70_000), "Tags": tags,
                        "Meta": null, "Weights": {"Passing": weight}}})
            })
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(json in any_json(), text in ".{0,64}") {
            let _ = instances(&ConsulService::named("web"), json.to_string().as_bytes());
            let _ = instances(&ConsulService::named("web"), json!([json]).to_string().as_bytes());
            let _ = instances(&ConsulService::named("web"), text.as_bytes());
        }

        #[test]
        fn every_entry_is_an_endpoint_or_a_problem(entries in proptest::collection::vec(any_entry(), 0..6)) {
            let ids: std::collections::BTreeSet<_> = entries.iter().map(|entry| entry["Service"]["ID"].to_string()).collect();
            let contents = read(&Value::from(entries.clone()));
            prop_assert!(contents.entries.len() + contents.problems.len() <= entries.len());
            prop_assert!(contents.entries.len() + contents.problems.len() >= ids.len());
            for instance in contents.entries.values() {
                if let Address::Ip(address) = &instance.endpoint.address {
                    prop_assert_ne!(address.port(), 0);
                }
            }
        }
    }
}
