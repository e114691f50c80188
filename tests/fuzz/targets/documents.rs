//! Documents of a registry: no text panics, each mistake names its place, a wrong text keeps the last good form.
#![no_main]

use fleetgate::spec::decode::documents::{DocumentSet, Past, Stored};
use fleetgate::spec::decode::format::Format;
use fleetgate::spec::decode::item::decode_item;
use fleetgate::spec::encode;
use fleetgate::spec::name::ProviderId;
use fleetgate::spec::route::RouteSpec;
use libfuzzer_sys::fuzz_target;

/// A good document of each kind, under the key that the fuzzed text replaces.
const GOOD: [(&str, &str); 4] = [
    ("fleetgate/routes/a", r#"{"match": {"path": "/a"}, "upstream": "a", "middlewares": ["a"]}"#),
    ("fleetgate/upstreams/a", r#"{"endpoints": ["127.0.0.1:9"]}"#),
    ("fleetgate/middlewares/a", r#"{"ip": {"allow": ["10.0.0.0/8"]}}"#),
    ("fleetgate/consumers/a", r#"{"keys": ["sha256:8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4"]}"#),
];

fn read(set: &mut DocumentSet, changed: Option<(usize, &[u8])>) -> [Option<String>; 4] {
    let texts = GOOD.iter().enumerate().map(|(index, (key, good))| {
        let bytes = match changed {
            Some((of, bytes)) if of == index => bytes,
            _ => good.as_bytes(),
        };
        (*key, Stored { bytes, past: Past::default() })
    });
    let documents = set.update(texts);
    for problem in &documents.rejected {
        assert!(!problem.to_string().is_empty());
    }
    macro_rules! good {
        ($kind:ident) => {
            documents.$kind.values().next().and_then(|item| {
                assert!(item.good.is_some() || !item.problems.is_empty(), "neither a form nor a reason");
                let problems = item.problems.iter().map(ToString::to_string);
                problems.for_each(|text| assert!(text.starts_with("consul-kv:fleetgate/"), "no place: {text}"));
                item.good.as_ref().map(|good| format!("{good:?}"))
            })
        };
    }
    [good!(routes), good!(upstreams), good!(middlewares), good!(consumers)]
}

fuzz_target!(|input: (u8, &[u8])| {
    let (kind, bytes) = input;
    let index = usize::from(kind % 4);
    let mut set = DocumentSet::new(ProviderId::ConsulKv, "fleetgate/");
    let before = read(&mut set, None);
    assert!(before.iter().all(Option::is_some), "the good documents are good: {before:?}");
    let after = read(&mut set, Some((index, bytes)));
    assert!(after.iter().all(Option::is_some), "a good form was lost: {after:?}");
    let others = |forms: &[Option<String>; 4]| {
        let forms = forms.iter().enumerate().filter(|(of, _)| *of != index);
        forms.map(|(_, form)| form.clone()).collect::<Vec<_>>()
    };
    assert_eq!(others(&before), others(&after), "a text changed another document");

    let format = [None, Some(Format::Toml), Some(Format::Yaml), Some(Format::Json)][usize::from(kind / 4 % 4)];
    if let Ok(route) = decode_item::<RouteSpec>(bytes, format, "here") {
        let written = encode::route(&route).to_string();
        let again = decode_item::<RouteSpec>(written.as_bytes(), Some(Format::Json), "here");
        let again = again.unwrap_or_else(|problems| panic!("what is shown cannot be read: {written}: {problems:?}"));
        assert_eq!(written, encode::route(&again).to_string());
    }
});
