//! Tags of registrations: whatever they say, no route leaves the hosts and paths that tags may claim.
#![no_main]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fleetgate::spec::decode::tag::{Bounds, Rules, TagSet};
use fleetgate::spec::endpoint::{EndpointSpec, RegistryStatus};
use fleetgate::spec::matching::PathMatch;
use libfuzzer_sys::fuzz_target;

const HOST: &str = "apps.example.com";
const PATH: &str = "/apps";

/// An instance whose lines are tags, or `KEY=VALUE` of its metadata behind a `=`.
fn instance(index: u16, text: &str) -> EndpointSpec {
    let label = |line: &str| match line.strip_prefix('=').and_then(|line| line.split_once('=')) {
        Some((key, value)) => (key.to_owned(), value.to_owned()),
        None => (format!("tag.{line}"), "true".to_owned()),
    };
    EndpointSpec {
        address: format!("10.0.0.1:{}", 1000 + index).parse().expect("an address"),
        weight: 1,
        labels: Arc::new(text.lines().map(label).collect()),
        status: RegistryStatus::Passing,
        id: index.to_string().into(),
        modified: index.into(),
        created: index.into(),
    }
}

// Blank lines stand between instances.
fuzz_target!(|input: (bool, &str)| {
    let (is_bounded, text) = input;
    let mut bounds = Bounds::default();
    if is_bounded {
        bounds.add_host(&format!("*.{HOST}")).expect("a host");
        bounds.add_host(HOST).expect("a host");
        bounds.add_path(PATH).expect("a path");
    }
    let rules = Rules { native: true, fabio: true, bounds, ttl: Duration::from_secs(60) };
    let mut set = TagSet::new(rules);
    let mut instances = Vec::new();
    for (index, text) in (0u16..4).zip(text.split("\n\n")) {
        instances.push(instance(index, text));
        let services: BTreeMap<Arc<str>, Option<Arc<[EndpointSpec]>>> =
            [("service".into(), Some(instances.as_slice().into()))].into();
        let documents = set.update(&services, Instant::now());
        for (name, item) in &documents.routes {
            let Some(route) = &item.good else { continue };
            assert!(!route.matching.hosts.is_empty() || !is_bounded, "{name} takes every host");
            for host in &route.matching.hosts {
                let host = host.to_string();
                let is_inside = host == HOST || host.ends_with(&format!(".{HOST}"));
                assert!(is_inside || !is_bounded, "{name} takes {host}");
            }
            let path = match &route.matching.path {
                PathMatch::Prefix(path) | PathMatch::Start(path) | PathMatch::Exact(path) => path.as_str(),
                PathMatch::Regex(pattern) => panic!("{name} has a pattern: {}", pattern.source()),
            };
            let is_inside = path == PATH || path.starts_with(&format!("{PATH}/"));
            assert!(is_inside || !is_bounded, "{name} takes {path}");
        }
    }
});
