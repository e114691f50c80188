//! Defines how the values of endpoints in etcd are read: in our own form, and as others write theirs. Pure.
//!
//! Our own form is strict, since an unknown key is a misspelt one more often than not. What others write may
//! grow, so that what we do not know in it is passed over.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::spec::endpoint::{Address, Labels};
use crate::spec::source::EtcdFormat;

/// What a value says of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) address: Address,
    pub(super) weight: u16,
    pub(super) labels: Labels,
}

/// Reads the value of the endpoint `id` below `prefix`; `None` when it is none of this source.
///
/// # Errors
/// What is wrong with it.
pub(super) fn decode(format: EtcdFormat, prefix: &str, id: &str, value: &[u8]) -> Result<Option<Written>, String> {
    let text = std::str::from_utf8(value).map_err(|_| "the value is not UTF-8")?.trim();
    match format {
        EtcdFormat::Fleetgate => own(text).map(Some),
        EtcdFormat::Grpc => grpc(text),
        EtcdFormat::Kratos => kratos(prefix, id, text),
        EtcdFormat::GoZero | EtcdFormat::Plain => bare(text).map(Some),
        EtcdFormat::Gateway => gateway(text).map(Some),
    }
}

/// `{"address": "10.0.0.5:8080", "weight": 1, "labels": {"version": "v1"}}`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Own {
    address: String,
    #[serde(default = "one")]
    weight: i64,
    #[serde(default)]
    labels: Labels,
}

fn one() -> i64 {
    1
}

fn own(text: &str) -> Result<Written, String> {
    if text.is_empty() {
        return Err("the value is empty: write `host:port` or `{\"address\": \"host:port\"}`".to_owned());
    }
    if !text.starts_with('{') {
        return bare(text);
    }
    let own: Own = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let weight = u16::try_from(own.weight).map_err(|_| format!("weight: {} is not 0 to 65535", own.weight))?;
    Ok(Written { address: address(&own.address)?, weight, labels: own.labels })
}

/// What `registration` of the provider writes, and later versions of it.
#[derive(Deserialize)]
struct Gateway {
    address: String,
}

fn gateway(text: &str) -> Result<Written, String> {
    let gateway: Gateway = object(text)?;
    Ok(Written { address: address(&gateway.address)?, weight: 1, labels: Labels::new() })
}

fn bare(text: &str) -> Result<Written, String> {
    if text.starts_with('{') {
        return Err("the value is JSON, not `host:port`: see the upstream's `etcd.format`".to_owned());
    }
    Ok(Written { address: address(text)?, weight: 1, labels: Labels::new() })
}

/// `host:port`; nothing that is much longer is repeated in a message.
fn address(text: &str) -> Result<Address, String> {
    const LONGEST: usize = 300;
    if text.len() > LONGEST {
        return Err(format!("{} bytes are no `host:port`", text.len()));
    }
    text.parse()
}

/// What `client/v3/naming/endpoints` writes. Its own readers take a value for an addition whatever `Op` says;
/// older ones wrote a deletion as 1.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Grpc {
    #[serde(default)]
    op: i64,
    addr: String,
    #[serde(default)]
    metadata: Value,
}

fn grpc(text: &str) -> Result<Option<Written>, String> {
    let grpc: Grpc = object(text)?;
    if grpc.op == 1 {
        return Ok(None);
    }
    // Any JSON may be metadata: what an object says plainly are labels.
    let labels = match grpc.metadata {
        Value::Object(members) => members.into_iter().filter_map(|(key, value)| Some((key, scalar(value)?))).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Labels::new(),
    };
    Ok(Some(Written { address: address(&grpc.addr)?, weight: 1, labels }))
}

fn object<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    if !text.starts_with('{') {
        return Err("the value is not a JSON object: see the upstream's `etcd.format`".to_owned());
    }
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn scalar(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// What `kratos/contrib/registry/etcd` writes, as far as it matters.
#[derive(Deserialize)]
struct Kratos {
    name: String,
    version: Option<String>,
    metadata: Option<BTreeMap<String, String>>,
    endpoints: Option<Vec<String>>,
}

fn kratos(prefix: &str, id: &str, text: &str) -> Result<Option<Written>, String> {
    let kratos: Kratos = object(text)?;
    if !is_below(prefix, &kratos.name) {
        // `.../users/admin/ID` belongs to the service `users/admin`.
        return if id.contains('/') {
            Ok(None)
        } else {
            let name: String = kratos.name.chars().take(100).collect();
            Err(format!("`name` is {name:?}: another service's, or the upstream's `etcd.prefix` is wrong"))
        };
    }
    let address = http_address(&kratos.endpoints.unwrap_or_default())?;
    let mut labels = kratos.metadata.unwrap_or_default();
    // As kratos's own balancers read it; anything else is a label alone.
    let weight = labels.get("weight").and_then(|text| text.parse().ok()).unwrap_or(1);
    if let Some(version) = kratos.version.filter(|version| !version.is_empty()) {
        labels.insert("version".to_owned(), version);
    }
    Ok(Some(Written { address, weight, labels }))
}

/// Whether the keys of the service `name` begin with `prefix`.
fn is_below(prefix: &str, name: &str) -> bool {
    let folder = prefix.trim_end_matches('/');
    !name.is_empty() && folder.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('/'))
}

/// The first address that speaks plain HTTP, as kratos's own HTTP clients pick.
fn http_address(urls: &[String]) -> Result<Address, String> {
    let plain = urls.iter().filter_map(|url| {
        let rest = url.strip_prefix("http://")?;
        let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let secure = rest.split(['?', '&', '#']).any(|pair| pair.eq_ignore_ascii_case("isSecure=true"));
        // Not shown: it may hold a password.
        let without_user =
            || if authority.contains('@') { Err("an address has no user".to_owned()) } else { address(authority) };
        (!secure).then(without_user)
    });
    let mut wrong = None;
    for address in plain {
        match address {
            Ok(address) => return Ok(address),
            Err(error) => _ = wrong.get_or_insert(error),
        }
    }
    Err(match (wrong, urls.len()) {
        (Some(error), _) => format!("endpoints: {error}"),
        (None, 0) => "it has no `endpoints`".to_owned(),
        (None, count) => format!(
            "none of its {count} `endpoints` is plain `http://host:port`, and the format `kratos` reads no others: register \
             one, or write the endpoint in another format to reach it by gRPC or TLS"
        ),
    })
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use proptest::prelude::*;

    use super::*;

    /// One `id value` a line, and what comes of it.
    fn shown(format: EtcdFormat, prefix: &str, lines: &str) -> String {
        let mut text = String::new();
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (id, value) = line.split_once(' ').unwrap_or((line, ""));
            let result = match decode(format, prefix, id, value.as_bytes()) {
                Ok(Some(Written { address, weight, labels })) => format!("{address} *{weight} {labels:?}"),
                Ok(None) => "-".to_owned(),
                Err(error) => format!("! {error}"),
            };
            writeln!(text, "{id}: {result}").expect("a string takes all");
        }
        text
    }

    #[test]
    fn our_own() {
        let lines = r#"
            a 10.0.0.5:8080
            b {"address":"[::1]:80","weight":0,"labels":{"version":"v1"}}
            c {"address":"vm-2.internal:8080"}
            typo {"address":"a:80","wieght":3}
            heavy {"address":"a:80","weight":65536}
            light {"address":"a:80","weight":-1}
            text {"address":"a:80","weight":"3"}
            nowhere {"weight":3}
            no-port {"address":"a"}
            cut {"address":"a:80"
            zero a:0
            empty
            url http://a:80
        "#;
        insta::assert_snapshot!(shown(EtcdFormat::Fleetgate, "/fleetgate/endpoints/users/", lines));
        assert!(decode(EtcdFormat::Fleetgate, "", "a", b"\xff").is_err_and(|error| error.contains("UTF-8")));
        let long = "a".repeat(1 << 20);
        assert!(decode(EtcdFormat::Fleetgate, "", "a", long.as_bytes()).is_err_and(|error| error.len() < 100));
    }

    #[test]
    fn grpc_naming() {
        let lines = r#"
            a {"Op":0,"Addr":"10.0.0.5:8080","Metadata":{"version":"v1","weight":3,"canary":true,"deep":{"a":1},"none":null}}
            b {"Op":0,"Addr":"10.0.0.6:8080","Metadata":null}
            c {"Addr":"vm-3.internal:8080","Metadata":"anything","More":1}
            deleted {"Op":1,"Addr":"10.0.0.7:8080"}
            socket {"Op":0,"Addr":"unix:///run/users.sock"}
            no-port {"Op":0,"Addr":"10.0.0.8"}
            nowhere {"Op":0}
            bare 10.0.0.5:8080
            list ["10.0.0.5:8080"]
        "#;
        insta::assert_snapshot!(shown(EtcdFormat::Grpc, "users/", lines));
    }

    #[test]
    fn kratos_instances() {
        let lines = r#"
            a {"id":"a","name":"users","version":"v1","metadata":{"zone":"a","weight":"20"},"endpoints":["grpc://10.0.0.5:9000?isSecure=false","http://10.0.0.5:8000?isSecure=false","http://10.0.0.5:8001"]}
            b {"id":"b","name":"users","version":"","metadata":null,"endpoints":["http://[::1]:8000/"]}
            unweighted {"name":"users","metadata":{"weight":"much"},"endpoints":["http://vm-3.internal:8000"]}
            second {"name":"users","endpoints":["http://10.0.0.6","http://10.0.0.6:8000"]}
            admin/1 {"name":"users/admin","endpoints":["http://10.0.0.7:8000"]}
            foreign {"name":"orders","endpoints":["http://10.0.0.7:8000"]}
            suffix {"name":"sers","endpoints":["http://10.0.0.7:8000"]}
            nameless {"endpoints":["http://10.0.0.7:8000"]}
            grpc {"name":"users","endpoints":["grpc://10.0.0.5:9000"]}
            secure {"name":"users","endpoints":["https://10.0.0.5:9000","http://10.0.0.5:8000?isSecure=true"]}
            none {"name":"users","endpoints":null}
            user {"name":"users","endpoints":["http://root:secret@10.0.0.5:8000"]}
            bare 10.0.0.5:8080
        "#;
        insta::assert_snapshot!(shown(EtcdFormat::Kratos, "/microservices/users/", lines));
    }

    #[test]
    fn go_zero_and_plain() {
        let lines = r#"
            7587870463543423234 10.0.0.5:8080
            7587870463543423235 vm-3.internal:8080
            zero 10.0.0.5:0
            json {"address":"10.0.0.5:8080"}
            empty
        "#;
        let go_zero = shown(EtcdFormat::GoZero, "users.rpc/", lines);
        assert_eq!(go_zero, shown(EtcdFormat::Plain, "/services/users/", lines));
        insta::assert_snapshot!(go_zero);
    }

    proptest! {
        #[test]
        fn no_value_is_too_strange(value in proptest::collection::vec(any::<u8>(), 0..60), text in "\\PC{0,60}") {
            for format in EtcdFormat::ALL {
                let _ = decode(format, "/a/b/", "c", &value);
                let _ = decode(format, "/a/b/", "c", text.as_bytes());
                let url = serde_json::json!({ "name": "b", "endpoints": [format!("http://{text}")] }).to_string();
                let _ = decode(format, "/a/b/", "c", url.as_bytes());
            }
        }
    }
}
