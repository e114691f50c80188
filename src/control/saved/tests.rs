//! Files in a folder: what was noted comes back, and what is wrong with a file is told apart.

use std::fs;
use std::time::UNIX_EPOCH;

use super::super::fixture::{World, consul};
use super::*;
use crate::spec::decode::resolved::{Extent, FormText, ResolvedItem};
use crate::spec::decode::{DocumentSet, Past, Stored};
use crate::spec::document::Kind;

fn identity(id: ProviderId, registry: &str) -> Identity {
    let documents = Some(("kv:fleetgate/".to_owned(), "fleetgate/".to_owned()));
    let documents = documents.filter(|_| id == ProviderId::ConsulKv);
    Identity { id, registry: registry.to_owned(), documents }
}

fn open(folder: &Path, registry: &str) -> (Store, Loaded) {
    let identities = [ProviderId::Consul, ProviderId::ConsulKv].map(|id| identity(id, registry));
    Store::open(&StateDir::At(folder.to_path_buf()), identities.into())
}

fn counts(store: &Store) -> [u64; 4] {
    let errors = store.errors();
    [&errors.unreadable, &errors.corrupt, &errors.foreign, &errors.unwritable].map(|count| count.load(Relaxed))
}

fn note(book: &mut Book, world: &World, wanted: &[&str]) {
    let wanted = Arc::new(wanted.iter().map(|service| consul(service)).collect());
    let overlay = Arc::clone(&book.overlay);
    let text = FormText {
        place: "consul-kv:fleetgate/routes/b".into(),
        format: None,
        extent: Extent::Item,
        text: r#"{"match":{"path":"/b"},"upstream":"u"}"#.into(),
    };
    let item = ResolvedItem {
        kind: Kind::Route,
        name: "b".parse().expect("a name"),
        has_name: false,
        subsets: BTreeMap::new(),
        created: Some(7),
        may_be_outdated: true,
        unresolved: false,
    };
    let resolved = Arc::new([(ProviderId::ConsulKv, ResolvedForms::of([(text, item)]))].into());
    book.note(&Shown { states: world.states.clone(), wanted, settled: true, overlay, resolved });
}

/// A book as control keeps it: a service, and a document whose present text is bad.
fn book() -> (Book, SystemTime) {
    let mut world = World::new();
    world.source(&consul("web"), "10.0.0.1:80 id=n/web weight=3 modified=7 version=v1\nweb.internal:81 warning");
    let mut state = ProviderState::default();
    let mut set = DocumentSet::new(ProviderId::ConsulKv, "fleetgate/");
    let mut book = Book::default();
    for text in [r#"{"match":{"path":"/a"},"upstream":"u"}"#, "{ bad"] {
        let stored = Stored { bytes: text.as_bytes(), past: Past::default() };
        state.documents = Some(Arc::new(set.update([("fleetgate/routes/a", stored)])));
        state.forms = Arc::new(set.forms());
        world.states.insert(ProviderId::ConsulKv, Arc::new(state.clone()));
        note(&mut book, &world, &["web"]);
    }
    let mut overlay = Overlay::default();
    overlay.drain("users", "10.0.0.1:80".parse().expect("an address"));
    book.overlay = Arc::new(overlay);
    (book, UNIX_EPOCH + Duration::from_millis(1_795_437_296_007))
}

fn save(store: &Store, book: &Book, at: SystemTime) {
    let verified = |_| Verified::from(["consul:web", "kv:fleetgate/"].map(|name| (name.to_owned(), (at, 42))));
    let folder = store.folder.clone().expect("a folder");
    for (name, text) in store.files(book, true, &Book::default(), &verified) {
        write(&folder, &name, &text).expect("to write");
    }
}

#[test]
fn what_was_noted_comes_back() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().expect("a folder");
    let (book, at) = book();
    let (store, loaded) = open(folder.path(), "http://consul:8500");
    assert!(loaded.states.is_empty() && loaded.overlay == Overlay::default());
    save(&store, &book, at);
    drop(store);
    for file in ["consul.json", "consul-kv.json", "overlay.json"] {
        let mode = fs::metadata(folder.path().join(file)).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }

    let (store, loaded) = open(folder.path(), "http://consul:8500");
    let (endpoints, verified_at) = &loaded.states[&ProviderId::Consul].sources["consul:web"];
    let page = &book.providers[&ProviderId::Consul];
    assert_eq!((endpoints, *verified_at), (&page.sources["consul:web"], at));
    let (documents, _) = loaded.states[&ProviderId::ConsulKv].documents.as_ref().expect("documents");
    let route = &documents.routes["a"];
    assert!(route.good.is_some() && !route.problems.is_empty(), "the last good form of a bad text: {route:?}");
    let resolved = &loaded.states[&ProviderId::ConsulKv].resolved;
    assert_eq!(resolved, &book.providers[&ProviderId::ConsulKv].resolved);
    assert!(!resolved.is_empty() && !format!("{resolved:?}").contains("upstream"), "{resolved:?}");
    assert_eq!(loaded.verified[&ProviderId::Consul]["consul:web"], (at, 42));
    assert!(loaded.overlay.is_drained("users", "10.0.0.1:80".parse().expect("an address")));
    assert!(loaded.book.providers.values().zip(book.providers.values()).all(|(one, other)| one.reads_alike(other)));
    assert_eq!(counts(&store), [0; 4]);
}

/// What is held goes on being held in the next process, which learns of the loss from nobody else.
#[test]
fn why_a_registry_was_not_believed_comes_back_until_it_has_answered_otherwise() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut book, at) = book();
    let why: Option<Arc<str>> = Some("its counter went back".into());
    let mut world = World::new();
    world.source_of(&consul("web"), "10.0.0.1:80", Origin::Held, &[]);
    let held = |world: &mut World, why: &Option<Arc<str>>| {
        let state = world.states.get_mut(&ProviderId::Consul).expect("Consul's");
        Arc::make_mut(state).kept.why.clone_from(why);
    };
    held(&mut world, &why);
    note(&mut book, &world, &["web"]);
    let (store, _) = open(folder.path(), "here");
    save(&store, &book, at);
    drop(store);
    let (_store, loaded) = open(folder.path(), "here");
    assert_eq!(loaded.states[&ProviderId::Consul].disbelieved, why);
    assert_eq!(loaded.states[&ProviderId::ConsulKv].disbelieved, None);
    // Until it has answered nobody knows better.
    let mut book = loaded.book;
    for unanswered in [World::new(), {
        let mut world = World::new();
        world.source_of(&consul("web"), "10.0.0.1:80", Origin::Saved(at), &[]);
        world
    }] {
        note(&mut book, &unanswered, &["web"]);
        assert_eq!(book.providers[&ProviderId::Consul].disbelieved, why);
    }
    // Nor does it matter whether control or the watch holds on to it.
    world.source_of(&consul("web"), "10.0.0.1:80", Origin::Held, &[]);
    Arc::make_mut(world.states.get_mut(&ProviderId::Consul).expect("Consul's")).regressions = 1;
    held(&mut world, &None);
    note(&mut book, &world, &["web"]);
    assert!(book.providers[&ProviderId::Consul].disbelieved.is_some());
    // What was read before looks live until it is read again, and is no word of the present registry.
    world.source(&consul("web"), "10.0.0.1:80");
    held(&mut world, &None);
    note(&mut book, &world, &["web"]);
    assert!(book.providers[&ProviderId::Consul].disbelieved.is_some());
    let state = Arc::make_mut(world.states.get_mut(&ProviderId::Consul).expect("Consul's"));
    state.listed.insert(Some(consul("web")), 1);
    note(&mut book, &world, &["web"]);
    assert_eq!(book.providers[&ProviderId::Consul].disbelieved, None);
    // Once more, and its documents, too.
    let state = Arc::make_mut(world.states.get_mut(&ProviderId::Consul).expect("Consul's"));
    (state.regressions, state.documents) = (2, Some(Arc::default()));
    state.listed.insert(Some(consul("web")), 2);
    note(&mut book, &world, &["web"]);
    assert!(book.providers[&ProviderId::Consul].disbelieved.is_some());
    let state = Arc::make_mut(world.states.get_mut(&ProviderId::Consul).expect("Consul's"));
    state.listed.insert(None, 2);
    note(&mut book, &world, &["web"]);
    assert_eq!(book.providers[&ProviderId::Consul].disbelieved, None);
}

#[test]
fn good_texts_that_an_earlier_version_saved_are_read() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(open(folder.path(), "here"));
    let texts = serde_json::json!({ "fleetgate/routes/a": r#"{"match":{"path":"/a"},"upstream":"u"}"# });
    let watches = serde_json::json!({ "kv:fleetgate/": { "verified_at_ms": 1_795_437_296_007_u64, "index": 42 } });
    let content = serde_json::json!({ "watches": watches, "sources": {}, "documents": texts });
    write(folder.path(), "consul-kv", &enveloped(&content, &digest(b"here"))).expect("to write");
    let (store, loaded) = open(folder.path(), "here");
    let saved = &loaded.states[&ProviderId::ConsulKv];
    assert!(saved.documents.as_ref().is_some_and(|(documents, _)| documents.routes["a"].good.is_some()));
    assert!(saved.forms().is_some_and(|forms| forms.keys.len() == 1));
    assert!(saved.resolved.is_empty());
    assert_eq!(counts(&store), [0; 4]);
}

/// Fault case 54: cut, a byte flipped, another registry's, another version's, no file at all.
#[test]
fn a_file_that_is_no_use_is_counted_and_not_used() {
    let folder = tempfile::tempdir().expect("a folder");
    let (book, at) = book();
    let (store, _) = open(folder.path(), "here");
    save(&store, &book, at);
    let path = folder.path().join("consul.json");
    let good = fs::read(&path).expect("a file");
    drop(store);

    let with = |bytes: &[u8]| {
        fs::write(&path, bytes).expect("to write");
        let (store, loaded) = open(folder.path(), "here");
        assert!(loaded.states.contains_key(&ProviderId::ConsulKv), "the others are used");
        (counts(&store), loaded.states.contains_key(&ProviderId::Consul))
    };
    assert_eq!(with(&good), ([0; 4], true));
    for length in [0, 1, good.len() / 2, good.len() - 1] {
        assert_eq!(with(&good[..length]), ([0, 1, 0, 0], false), "cut at {length}");
    }
    for at in (0..good.len()).step_by(7) {
        let mut flipped = good.clone();
        flipped[at] ^= 4;
        assert_eq!(with(&flipped), ([0, 1, 0, 0], false), "byte {at}");
    }
    let newer = String::from_utf8(good.clone()).expect("text").replace("\"schema\":1", "\"schema\":2");
    let line = newer.lines().next().expect("a line");
    assert_eq!(with(format!("{line}\nsha256:{}\n", digest(line.as_bytes())).as_bytes()), ([0, 0, 1, 0], false));
    fs::remove_file(&path).expect("to remove");
    fs::create_dir(&path).expect("to make");
    let (store, _) = open(folder.path(), "here");
    assert_eq!(counts(&store)[0], 1, "unreadable");
    drop(store);
    fs::remove_dir(&path).expect("to remove");
    fs::write(&path, &good).expect("to write");
    let (store, loaded) = open(folder.path(), "elsewhere");
    assert!(loaded.states.is_empty(), "another registry's");
    assert_eq!(counts(&store)[2], 2);
}

#[test]
fn two_gateways_do_not_share_a_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let (first, _) = open(folder.path(), "here");
    let (second, _) = open(folder.path(), "here");
    assert!(first.folder.is_some() && second.folder.is_none());
    assert_eq!(counts(&second), [0; 4]);
}

#[test]
fn a_folder_that_cannot_be_made_keeps_nobody_from_starting() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    fs::write(&file, "").expect("to write");
    let (store, loaded) = open(&file.join("below"), "here");
    assert!(loaded.states.is_empty());
    assert_eq!(counts(&store)[3], 1);
}

#[test]
fn what_is_held_or_was_loaded_replaces_nothing() {
    let (mut book, _) = book();
    let before = book.clone();
    let mut world = World::new();
    for origin in [Origin::Held, Origin::Saved(UNIX_EPOCH)] {
        world.source_of(&consul("web"), "10.0.0.9:80", origin, &[]);
        note(&mut book, &world, &["web"]);
        assert_eq!(book, before);
    }
    world.source(&consul("web"), "10.0.0.9:80");
    note(&mut book, &world, &["web"]);
    assert_ne!(book, before);
    note(&mut book, &world, &[]);
    assert!(book.providers[&ProviderId::Consul].sources.is_empty(), "nobody wants it any more");
}
