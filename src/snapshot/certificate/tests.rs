use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};

use super::*;
use crate::spec::decode::item::decode_item;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn certificate(name: &str, hosts: &[&str], default: bool) -> Certificate {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["own.example".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2024, 1, 1);
    params.not_after = rcgen::date_time_ymd(2025, 1, 1);
    let cert = params.self_signed(&key).unwrap().pem();
    let mut document = serde_json::json!({ "cert": cert, "key": key.serialize_pem(), "default": default });
    if !hosts.is_empty() {
        document["hosts"] = serde_json::json!(hosts);
    }
    let spec = decode_item(document.to_string().as_bytes(), None, "kv").unwrap();
    Certificate { name: name.parse().unwrap(), provider: ProviderId::File, spec: Arc::new(spec) }
}

#[test]
fn exact_goes_before_wildcard_before_default() {
    let all = vec![
        certificate("default", &["d.example"], true),
        certificate("exact", &["api.example.com"], false),
        certificate("wild", &["*.example.com", "*.deep.example.com"], false),
    ];
    let certificates = Certificates::new(all.clone());
    let chosen = |host: Option<&str>| {
        let chosen = certificates.choose(host)?;
        all.iter().find(|one| Arc::ptr_eq(one.spec.pair.certified(), chosen)).map(|one| one.name.as_str())
    };
    for (host, name) in [
        (Some("api.example.com"), "exact"),
        (Some("other.example.com"), "wild"),
        (Some("a.deep.example.com"), "wild"),
        // A wildcard is one label, as clients have it, and never its own suffix.
        (Some("a.b.example.com"), "default"),
        (Some("example.com"), "default"),
        (Some("com"), "default"),
        (Some(""), "default"),
        (Some("d.example"), "default"),
        (None, "default"),
    ] {
        assert_eq!(chosen(host), Some(name), "{host:?}");
    }
    let without = Certificates::new(all[1..].to_vec());
    assert!(without.choose(None).is_none() && without.choose(Some("example.com")).is_none());
    assert!(without.choose(Some("api.example.com")).is_some());
}

#[test]
fn what_is_claimed_twice_or_expired_is_told() {
    let (one, two) = (certificate("one", &["a.com"], true), certificate("two", &["a.com", "b.com"], true));
    let certificates = Certificates::new(vec![one.clone(), two]);
    assert!(Arc::ptr_eq(certificates.choose(Some("a.com")).unwrap(), one.spec.pair.certified()));
    let expires = one.spec.pair.facts().not_after;
    let told = |at| certificates.remarks(at).iter().map(ToString::to_string).collect::<Vec<_>>();
    let twice = [
        "configuration: certificates.two: `one` is shown for `a.com`, too, and goes first: `two` is not shown there",
        "configuration: certificates.two: `one` is the default, too, and goes first: `two` is not shown there",
    ];
    assert_eq!(told(expires - DAY), twice);
    assert_eq!(told(expires + DAY)[2], "file: certificates.one: the certificate has expired on 2025-01-01T00:00:00Z");
    assert_eq!(
        told(expires - DAY * 1000)[3],
        "file: certificates.two: the certificate is not valid before 2024-01-01T00:00:00Z"
    );
}

#[test]
fn what_is_the_same_stays_the_same_object() {
    let all = [certificate("one", &[], false), certificate("two", &["b.com"], false)];
    let before = Arc::new(Certificates::new(all.to_vec()));
    let copy = all.clone().map(|one| Certificate { spec: Arc::new(CertificateSpec::clone(&one.spec)), ..one });
    assert!(Arc::ptr_eq(&Certificates::next(&copy, &before), &before));
    let exchanged = [all[0].clone(), certificate("two", &["b.com"], false)];
    assert!(!Arc::ptr_eq(&Certificates::next(&exchanged, &before), &before));
    assert!(!Arc::ptr_eq(&Certificates::next(&all[..1], &before), &before));
}
