//! What becomes of the items of files, edit by edit and over restarts.

use super::*;
use crate::spec::document::Blocked;
use crate::spec::route::RouteSpec;

const GOOD: &str = "[routes.a]\nmatch = { path = \"/a\" }\nupstream = \"u\"\n[upstreams.u]\nendpoints = [\"h:80\"]\n";

fn file(path: &str, text: &str) -> FileText {
    FileText { path: path.into(), format: Format::Toml, main: false, bytes: Ok(text.into()), writing: None }
}

fn route(documents: &Documents, name: &str) -> Option<Arc<RouteSpec>> {
    documents.routes.get(name).and_then(|item| item.good.clone())
}

#[test]
fn a_broken_file_keeps_all_its_items() {
    let mut set = FileSet::new();
    let before = set.update(vec![file("a.toml", GOOD)]);
    assert_eq!((before.routes.len(), before.upstreams.len(), before.rejected.len()), (1, 1, 0));
    let broken = set.update(vec![file("a.toml", "[routes.a")]);
    assert_eq!((broken.routes, broken.upstreams), (before.routes.clone(), before.upstreams.clone()));
    assert_eq!(broken.rejected.first().map(|problem| problem.place.as_str()), Some("a.toml:1:10"));
    let unreadable = FileText { bytes: Err("permission denied".into()), ..file("a.toml", "") };
    let unread = set.update(vec![unreadable]);
    assert_eq!(unread.routes, before.routes);
    assert!(unread.rejected[0].to_string().contains("permission denied"), "{:?}", unread.rejected);
    let gone = set.update(vec![]);
    assert_eq!(gone, Documents::default());
}

#[test]
fn a_wrong_item_keeps_its_last_good_form_and_the_others_change() {
    let mut set = FileSet::new();
    let before = set.update(vec![file("a.toml", GOOD)]);
    let edited = GOOD.replace("\"/a\"", "5").replace("h:80", "h:81");
    let after = set.update(vec![file("a.toml", &edited)]);
    assert_eq!(route(&after, "a"), route(&before, "a"));
    let problem = after.routes["a"].problems[0].to_string();
    assert_eq!(problem, "a.toml:2:18: routes.a.match.path: expected a text or a table, found a number");
    assert_ne!(after.upstreams["u"].good, before.upstreams["u"].good);
    let healed = set.update(vec![file("a.toml", &GOOD.replace("\"/a\"", "\"/b\""))]);
    assert!(healed.routes["a"].problems.is_empty());
    assert_ne!(route(&healed, "a"), route(&before, "a"));
}

#[test]
fn what_says_the_same_is_the_same() {
    let mut set = FileSet::new();
    let before = set.update(vec![file("a.toml", GOOD)]);
    let after = set.update(vec![file("a.toml", &format!("# moved\n\n{GOOD}"))]);
    let (before, after) = (route(&before, "a").expect("a route"), route(&after, "a").expect("a route"));
    assert!(Arc::ptr_eq(&before, &after));
}

#[test]
fn the_first_file_wins_a_name() {
    let mut set = FileSet::new();
    let other = "[routes.a]\nmatch = { path = \"/other\" }\nupstream = \"u\"\n";
    let both = set.update(vec![file("a.toml", GOOD), file("b.toml", other)]);
    assert_eq!(&*both.routes["a"].place, "a.toml:1:9");
    let problem = both.rejected[0].to_string();
    assert_eq!(problem, "b.toml:1:9: routes.a: `a` is defined at a.toml:1:9 already: remove one of them");
    let one = set.update(vec![file("b.toml", other)]);
    assert_eq!(&*one.routes["a"].place, "b.toml:1:9");
    assert!(one.rejected.is_empty() && one.upstreams.is_empty());
}

#[test]
fn sections_are_told_apart() {
    let mut set = FileSet::new();
    let text = "[route.a]\n[admin]\naddress = 5\n[routes.A]\n[upstreams]\nu = 5\n";
    let other = set.update(vec![file("a.toml", text)]);
    let main = set.update(vec![FileText { main: true, ..file("main.toml", text) }]);
    let shown = |documents: &Documents| {
        let items = documents.upstreams.values().flat_map(|item| &item.problems);
        documents.rejected.iter().chain(items).map(|problem| format!("{problem}\n")).collect::<String>()
    };
    insta::assert_snapshot!(shown(&other), @"
a.toml:1:2: route: unknown key; did you mean `routes`?
a.toml:2:2: admin: this section belongs into the main configuration file: here stand routes, upstreams, middlewares, certificates and consumers
a.toml:4:9: routes.A: `A` is not a name: 1 to 63 of a-z, 0-9, `.`, `_` and `-`, beginning with a letter or digit
a.toml:6:5: upstreams.u: expected a table, found a number
");
    insta::assert_snapshot!(shown(&main), @"
main.toml:1:2: route: unknown key; did you mean `routes`?
main.toml:4:9: routes.A: `A` is not a name: 1 to 63 of a-z, 0-9, `.`, `_` and `-`, beginning with a letter or digit
main.toml:6:5: upstreams.u: expected a table, found a number
");
}

/// What a route is: `good`, `last good`, `new` (it never had a good form), `blocked` or `blocked there`.
fn form(documents: &Documents, name: &str) -> &'static str {
    let Some(item) = documents.routes.get(name) else { return "gone" };
    match (&item.good, &item.blocked) {
        (Some(_), _) if item.problems.is_empty() => "good",
        (Some(_), _) => "last good",
        (None, None) => "new",
        (None, Some(Blocked { stand_in: None, .. })) => "blocked",
        (None, Some(Blocked { stand_in: Some(_), .. })) => "blocked there",
    }
}

/// What the next process knows of what this one knew.
fn restarted(set: &FileSet) -> FileSet {
    let text = serde_json::to_string(&set.forms()).expect("JSON");
    FileSet::new().remembering(&serde_json::from_str(&text).expect("forms"))
}

fn bad() -> String {
    GOOD.replace("upstream = \"u\"", "upstream = \"u\"\ntimout = \"3s\"")
}

fn unreadable(path: &str) -> FileText {
    FileText { bytes: Err("permission denied".into()), ..file(path, "") }
}

#[test]
fn at_a_first_look_what_is_broken_may_have_been_good() {
    let look = |files: Vec<FileText>| {
        let documents = FileSet::new().update(files);
        (form(&documents, "a"), documents.unreadable.len())
    };
    assert_eq!(look(vec![file("a.toml", &bad())]), ("blocked there", 0));
    assert_eq!(look(vec![file("a.toml", &GOOD.replace("\"/a\"", "5"))]), ("blocked", 0));
    assert_eq!(look(vec![file("a.toml", "[routes.a")]), ("gone", 1));
    assert_eq!(look(vec![unreadable("a.toml")]), ("gone", 1));
    assert_eq!(look(vec![file("a.toml", &GOOD.replace("routes.a", "route.a"))]), ("gone", 1));
    assert_eq!(look(vec![file("a.toml", "")]), ("gone", 0));
    // Another file's good form does not take the name.
    let both = vec![file("a.toml", &bad()), file("b.toml", GOOD)];
    assert_eq!(look(both).0, "blocked there");
}

#[test]
fn what_appears_broken_after_a_look_is_new() {
    let mut set = FileSet::new();
    set.update(vec![file("a.toml", "")]);
    let documents = set.update(vec![file("a.toml", &bad()), file("b.toml", "[routes.b"), unreadable("c.toml")]);
    assert_eq!((form(&documents, "a"), documents.unreadable.len()), ("new", 0));
    let documents = set.update(vec![file("a.toml", &bad().replace("timout", "tim")), file("b.toml", GOOD)]);
    assert_eq!((form(&documents, "a"), &*documents.routes["a"].place), ("good", "b.toml:1:9"));
    let mut set = FileSet::new();
    let folder = Problem::new("d", "", "cannot be read: permission denied");
    let documents = set.update_beside(vec![], std::slice::from_ref(&folder), |_| BTreeMap::new());
    assert_eq!(documents.unreadable.iter().map(|it| &it.problem).collect::<Vec<_>>(), [&folder]);
    assert_eq!(form(&set.update(vec![file("d/a.toml", &bad())]), "a"), "blocked there");
}

#[test]
fn an_earlier_process_tells_of_last_good_forms_and_of_what_was_never_good() {
    let mut set = FileSet::new();
    set.update(vec![file("a.toml", GOOD), file("b.toml", "[routes.b]\nmatch = 5")]);
    for broken in
        [file("a.toml", &bad()), file("a.toml", "[routes.a"), unreadable("a.toml"), file("a.toml", "route = 5")]
    {
        let other = file("b.toml", "[routes.b]\nmatch = 6\n[routes.c]\nmatch = 7");
        let mut next = restarted(&set);
        let documents = next.update(vec![broken.clone(), other.clone()]);
        // A mistake of the file as a whole is none of its items', and an unknown section none of the item that is gone.
        let of_a = match &broken.bytes {
            Ok(bytes) if **bytes == *b"route = 5" => "gone",
            Ok(bytes) if **bytes == *bad().as_bytes() => "last good",
            Ok(_) | Err(_) => "good",
        };
        let shown = ["a", "b", "c"].map(|name| form(&documents, name));
        // What appeared since may have been good, whoever looked then.
        assert_eq!(shown, [of_a, "blocked", "blocked"], "{broken:?}");
        assert!(documents.unreadable.is_empty());
        // And so at the start after that.
        let documents = restarted(&next).update(vec![broken.clone(), other]);
        assert_eq!(["a", "b", "c"].map(|name| form(&documents, name)), shown, "{broken:?}");
        let healed = restarted(&next).update(vec![file("a.toml", GOOD)]);
        assert_eq!([form(&healed, "a"), form(&healed, "b")], ["good", "gone"]);
    }
    // Where the file asks for more protection than the saved form has, that may have been in it meanwhile.
    let wider =
        |upstream: &str| GOOD.replace("upstream = \"u\"", &format!("upstream = {upstream}\nmiddlewares = [\"keys\"]"));
    let missed = restarted(&set).update(vec![file("a.toml", &wider("5"))]);
    assert_eq!(form(&missed, "a"), "blocked there");
    let mut seen = restarted(&set);
    seen.update(vec![file("a.toml", GOOD)]);
    assert_eq!(form(&seen.update(vec![file("a.toml", &wider("5"))]), "a"), "last good");
    // What was live stays.
    assert_eq!(form(&restarted(&seen).update(vec![file("a.toml", &wider("5"))]), "a"), "last good");
    assert_eq!(form(&restarted(&seen).update(vec![file("a.toml", &wider("6"))]), "a"), "blocked there");
    seen.update(vec![file("a.toml", &wider("\"u\""))]);
    assert_eq!(form(&restarted(&seen).update(vec![file("a.toml", &wider("7"))]), "a"), "last good");
    // What never was good may have been, where the file was written since, whatever it says now.
    for broken in ["[routes.a]\nmatch = { path = \"/a\" }\nupstrem = \"u\"\n", "[routes.a"] {
        let written = |at: &str| FileText { writing: Some(at.into()), ..file("a.toml", broken) };
        let mut set = FileSet::new();
        set.update(vec![]);
        let shown = |documents: &Documents| (form(documents, "a"), documents.unreadable.len());
        let new = if broken.ends_with('a') { "gone" } else { "new" };
        assert_eq!(shown(&set.update(vec![written("1")])), (new, 0));
        assert_eq!(shown(&restarted(&set).update(vec![written("1")])), (new, 0));
        let mut next = restarted(&set);
        let closed = if broken.ends_with('a') { ("gone", 1) } else { ("blocked there", 0) };
        assert_eq!(shown(&next.update(vec![written("2")])), closed);
        assert_eq!(shown(&restarted(&next).update(vec![written("2")])), closed);
    }
    // A file that never could be read is still not known, and neither is one that came meanwhile.
    let mut unknown = FileSet::new();
    unknown.update(vec![file("a.toml", "[routes.a")]);
    assert_eq!(restarted(&unknown).update(vec![file("a.toml", "[routes.a")]).unreadable.len(), 1);
    assert_eq!(restarted(&unknown).update(vec![file("b.toml", "[routes.a")]).unreadable.len(), 1);
}
