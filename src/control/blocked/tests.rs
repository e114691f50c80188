//! What is broken never opens: random documents in three providers, broken at random, as gateways see them that know
//! everything, that were started this moment, that were started again, and that saw only some of it.

use std::collections::BTreeMap;

use http::{HeaderMap, Method};
use proptest::prelude::*;
use tokio::time::Instant;

use super::super::build::Builder;
use super::super::fixture::World;
use super::super::merge::Affected;
use super::*;
use crate::snapshot::{RequestView, RouteState, Snapshot};
use crate::spec::decode::{DocumentSet, FileSet, FileText, Format, Past, SavedForms, Stored};
use crate::spec::middleware::MiddlewareSpec;

/// What a request meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// It is served to anybody.
    Open,
    /// It is served to those who have a key.
    Guarded,
    /// 503 `NC`, or 404.
    Refused,
}

const ITEMS: [(&str, &str, &str); 4] = [
    ("routes", "admin", r#"{"match":{"path":"/admin"},"upstream":"app","middlewares":["keys"]}"#),
    ("routes", "open", r#"{"match":{"path":"/"},"upstream":"app"}"#),
    ("middlewares", "keys", r#"{"api_key":{"header":"x-key"}}"#),
    ("upstreams", "app", r#"{"endpoints":["10.0.0.1:80"]}"#),
];
/// In another provider, the same name may be harmless.
const HARMLESS: &str = r#"{"headers":{"response":{"set":{"x":"y"}}}}"#;

#[derive(Clone, Copy, Debug)]
enum Text {
    Good,
    /// Good as well, and different.
    Other,
    UnknownKey,
    Truncated,
    Empty,
    WrongType,
    Null,
    Gone,
}

impl Text {
    fn of(self, item: usize, place: usize) -> Option<String> {
        let (kind, _, good) = ITEMS[item];
        let good = if place > 0 && kind == "middlewares" { HARMLESS } else { good };
        // Consul has the route elsewhere. The files agree: a name keeps its last good form when it moves between them.
        let good = &*if place == 2 { good.replace("/admin", "/office") } else { good.to_owned() };
        let beside = |more: &str| format!("{}{more}}}", &good[..good.len() - 1]);
        Some(match (self, kind) {
            (Self::Good, _) => good.to_owned(),
            (Self::Other, "routes") => beside(r#","timeout":"3s""#),
            (Self::Other, _) => format!(" {good}"),
            (Self::UnknownKey, _) => beside(r#","unknwon":1"#),
            (Self::Truncated, _) => good[..good.len() / 2].to_owned(),
            (Self::Empty, _) => String::new(),
            (Self::WrongType, "routes") => good.replace(r#"{"path""#, r#"{"paht""#),
            (Self::WrongType, _) => "[1]".to_owned(),
            (Self::Null, _) => "null".to_owned(),
            (Self::Gone, _) => return None,
        })
    }
}

/// A step: somebody writes an item somewhere.
#[derive(Clone, Copy, Debug)]
struct Step {
    /// 0 and 1: files; 2: Consul's KV store; 3: etcd.
    place: usize,
    item: usize,
    text: Text,
    /// Whether the gateway that sees some of it sees this.
    seen: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let text = prop_oneof![
        4 => Just(Text::Good),
        1 => Just(Text::Other),
        2 => Just(Text::UnknownKey),
        1 => Just(Text::Truncated),
        1 => Just(Text::Empty),
        1 => Just(Text::WrongType),
        1 => Just(Text::Null),
        1 => Just(Text::Gone),
    ];
    (0..4_usize, 0..ITEMS.len(), text, any::<bool>()).prop_map(|(place, item, text, seen)| Step {
        place,
        item,
        text,
        seen,
    })
}

/// What lies where.
#[derive(Clone, Debug, Default)]
struct Store {
    /// By file, each item's text.
    files: [BTreeMap<usize, String>; 2],
    /// Of Consul and etcd: each item's text with its past.
    keys: [BTreeMap<usize, (String, Past)>; 2],
    index: u64,
}

impl Store {
    fn write(&mut self, step: Step) {
        self.index += 1;
        let text = step.text.of(step.item, step.place);
        match (step.place.checked_sub(2), text) {
            (None, Some(text)) => drop(self.files[step.place].insert(step.item, text)),
            (None, None) => drop(self.files[step.place].remove(&step.item)),
            (Some(registry), None) => drop(self.keys[registry].remove(&step.item)),
            (Some(registry), Some(text)) => {
                let before = self.keys[registry].get(&step.item).map(|(_, past)| *past);
                let created = before.and_then(|past| past.created).unwrap_or(self.index);
                let count = before.and_then(|past| past.version).map_or(1, |version| version + 1);
                // Consul tells the first text from later ones, etcd counts them.
                let first = before.is_none().then_some(1);
                let version = if registry == 0 { first } else { Some(count) };
                let past = Past { created: Some(created), modified: Some(self.index), version };
                self.keys[registry].insert(step.item, (text, past));
            }
        }
    }

    fn files(&self) -> Vec<FileText> {
        let section = |items: &BTreeMap<usize, String>, kind: &str| {
            let of_kind = items.iter().filter(|(item, _)| ITEMS[**item].0 == kind);
            let items: Vec<String> = of_kind.map(|(item, text)| format!(r#""{}":{text}"#, ITEMS[*item].1)).collect();
            format!(r#""{kind}":{{{}}}"#, items.join(","))
        };
        let file = |(number, items): (usize, &BTreeMap<usize, String>)| {
            let sections = ["routes", "middlewares", "upstreams"].map(|kind| section(items, kind)).join(",");
            let bytes = Ok(format!("{{{sections}}}").into());
            FileText { path: format!("{number}.json"), format: Format::Json, main: false, bytes, writing: None }
        };
        self.files.iter().enumerate().map(file).collect()
    }
}

/// Whether what each route matches can be read.
fn matches_are_known(keys: &BTreeMap<usize, (String, Past)>) -> bool {
    let mut routes = keys.iter().filter(|(item, _)| ITEMS[**item].0 == "routes");
    routes.all(|(_, (text, _))| text.contains(r#"{"path""#) && text.ends_with('}'))
}

/// The decoders of a gateway.
struct Gateway {
    files: FileSet,
    keys: [DocumentSet; 2],
    /// Once open, it closes no more.
    is_open: bool,
}

impl Gateway {
    fn new() -> Self {
        let of = |id| DocumentSet::new(id, "");
        Self { files: FileSet::new(), keys: [of(ProviderId::ConsulKv), of(ProviderId::Etcd)], is_open: false }
    }

    /// What a process knows that starts with what this one saved.
    fn restarted(&self) -> Self {
        let saved = |forms: SavedForms| {
            serde_json::from_str::<SavedForms>(&serde_json::to_string(&forms).expect("JSON")).expect("forms")
        };
        let fresh = Self::new();
        let [kv, etcd] = fresh.keys;
        let keys = [kv.remembering(&saved(self.keys[0].forms())), etcd.remembering(&saved(self.keys[1].forms()))];
        Self { files: fresh.files.remembering(&saved(self.files.forms())), keys, is_open: false }
    }

    /// Reads everything, and serves it, unless it has not been open yet and something closes it.
    fn answer(&mut self, store: &Store) -> [Answer; 2] {
        let mut world = World::new();
        let mut state = |id, documents: Documents| {
            let state = ProviderState { documents: Some(Arc::new(documents)), ..ProviderState::default() };
            world.states.insert(id, Arc::new(state));
        };
        state(ProviderId::File, self.files.update(store.files()));
        for (set, (keys, id)) in
            self.keys.iter_mut().zip(store.keys.iter().zip([ProviderId::ConsulKv, ProviderId::Etcd]))
        {
            let keys: Vec<(String, &(String, Past))> =
                keys.iter().map(|(item, text)| (format!("{}/{}", ITEMS[*item].0, ITEMS[*item].1), text)).collect();
            let entries =
                keys.iter().map(|(key, (text, past))| (key.as_str(), Stored { bytes: text.as_bytes(), past: *past }));
            state(id, set.update(entries));
        }
        let now = Instant::now();
        let snapshot = Builder::new(now).build(&world.merge(), &Affected::All, &Snapshot::empty(), now);
        let snapshot = snapshot.expect("a first snapshot");
        self.is_open |= !snapshot.is_closed();
        if !self.is_open {
            return [Answer::Refused; 2];
        }
        ["/admin", "/office"].map(|path| Self::answer_at(&snapshot, path))
    }

    fn answer_at(snapshot: &Snapshot, path: &str) -> Answer {
        let (listener, headers) = ("web".parse().expect("a name"), HeaderMap::new());
        let request = RequestView {
            listener: &listener,
            host: "a.test",
            path,
            method: &Method::GET,
            headers: &headers,
            query: None,
        };
        let Some(route) = snapshot.routes.take(&request).ok().map(|at| &snapshot.routes.routes()[at]) else {
            return Answer::Refused;
        };
        let asks_for_key = route.middlewares.iter().any(|it| matches!(&*it.spec, MiddlewareSpec::ApiKey(_)));
        match (&route.state, asks_for_key) {
            (RouteState::Unresolved(_), _) => Answer::Refused,
            (RouteState::Resolved | RouteState::Kept(_), true) => Answer::Guarded,
            (RouteState::Resolved | RouteState::Kept(_), false) => Answer::Open,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// The gateway that sees every text tells what is protected; none serves that openly.
    #[test]
    fn what_is_broken_never_opens(steps in prop::collection::vec(step(), 1..10)) {
        // Files are not seen at random: what appears in them broken is new to whoever looked before.
        let (mut store, mut seen) = (Store::default(), Store::default());
        let (mut whole, mut partial) = (Gateway::new(), Gateway::new());
        whole.answer(&store);
        partial.answer(&store);
        let mut late: Option<Gateway> = None;
        for (number, step) in steps.iter().enumerate() {
            store.write(*step);
            let truth = whole.answer(&store);
            let mut again = whole.restarted();
            let mut twice = again.restarted();
            let mut others = vec![
                ("started", Gateway::new().answer(&store)),
                ("started again", again.answer(&store)),
                ("started twice", twice.answer(&store)),
                ("started again, later", again.restarted().answer(&store)),
            ];
            // Of a route whose match it cannot read, and of which it saw nothing good, a gateway that is open only tells.
            if step.seen && store.keys.iter().all(matches_are_known) {
                seen.keys.clone_from(&store.keys);
            }
            seen.files.clone_from(&store.files);
            let answer = partial.answer(&seen);
            if seen.keys == store.keys {
                others.push(("with gaps", answer));
            }
            partial = if number % 3 == 0 { partial.restarted() } else { partial };
            if step.seen && number % 3 == 1 {
                late = Some(Gateway::new());
            }
            others.extend(late.as_mut().map(|late| ("late", late.answer(&store))));
            for (who, answers) in others {
                prop_assert!(
                    answers.iter().zip(&truth).all(|(answer, truth)| *answer != Answer::Open || *truth == Answer::Open),
                    "after step {number} of {steps:?}, who {who} serves openly what others answer with {truth:?}: {answers:?}"
                );
            }
            if steps[..=number].iter().all(|step| matches!(step.text, Text::Good | Text::Other | Text::Gone)) {
                prop_assert_eq!(Gateway::new().answer(&store), truth, "nothing is broken: {:?}", steps);
            }
        }
    }
}
