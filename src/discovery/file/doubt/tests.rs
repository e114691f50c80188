use proptest::prelude::*;

use super::*;
use crate::spec::decode::{FileSet, FileText, Format};
use crate::spec::document::Documents;

/// Files as they are looked at, one look after the other.
struct Looks {
    set: FileSet,
    doubt: Doubt,
    now: Instant,
    absent: BTreeMap<String, Arc<str>>,
    replaced: BTreeSet<String>,
}

impl Looks {
    fn new() -> Self {
        let (absent, replaced) = Default::default();
        Self { set: FileSet::new(), doubt: Doubt::default(), now: Instant::now(), absent, replaced }
    }

    /// The names of the routes after a look at these files.
    fn at(&mut self, files: &[(&str, &str)]) -> Vec<String> {
        names(&self.documents(files))
    }

    fn documents(&mut self, files: &[(&str, &str)]) -> Documents {
        let text = |(path, text): &(&str, &str)| FileText {
            path: (*path).to_owned(),
            format: Format::Toml,
            main: false,
            writing: None,
            bytes: Ok(text.as_bytes().to_vec()),
        };
        let (doubt, now) = (&mut self.doubt, self.now);
        let judge = |losses: &[Loss]| doubt.judge(losses, &self.absent, &self.replaced, false, now);
        self.set.update_judged(files.iter().map(text).collect(), judge)
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    fn why(&self) -> String {
        self.doubt.holds().iter().map(|(part, held)| format!("{part:?}: {}", held.why)).collect()
    }
}

fn names(documents: &Documents) -> Vec<String> {
    documents.routes.keys().map(ToString::to_string).collect()
}

fn routes(names: &str) -> String {
    names.chars().map(|name| format!("[routes.{name}]\nmatch = {{ path = \"/{name}\" }}\nupstream = \"u\"\n")).collect()
}

const JUST_BEFORE: Duration = Duration::from_millis(1);

#[test]
fn each_way_to_lose_items_has_its_wait() {
    let gone: &[(&str, &str)] = &[("other", "")];
    let (all, most, few) = (routes(""), routes("a"), routes("abxd"));
    for (after, wait) in [
        (&[("f", few.as_str()), ("other", "")][..], MOVE_WAIT),
        (gone, DELETION_WAIT),
        (&[("f", most.as_str()), ("other", "")], REWRITE_WAIT),
        (&[("f", all.as_str()), ("other", "")], REWRITE_WAIT),
    ] {
        let mut looks = Looks::new();
        looks.at(&[("f", &routes("abcd")), ("other", "")]);
        let kept = looks.at(after);
        assert!(["a", "b", "c", "d"].iter().all(|name| kept.iter().any(|kept| kept == name)), "{after:?}: {kept:?}");
        assert_eq!(looks.doubt.due(), Some(looks.now + wait), "{after:?}");
        looks.pass(wait - JUST_BEFORE);
        assert_eq!(looks.at(after), kept, "{after:?}");
        looks.pass(JUST_BEFORE);
        assert_ne!(looks.at(after), kept, "{after:?}");
        assert_eq!((looks.doubt.due(), looks.why()), (None, String::new()), "{after:?}");
    }
}

#[test]
fn additions_and_changes_of_the_same_rewrite_do_not_wait() {
    let mut looks = Looks::new();
    looks.at(&[("f", &routes("abcd"))]);
    let edited = routes("ae").replace("\"/a\"", "\"/new\"");
    let now = looks.documents(&[("f", &edited)]);
    assert_eq!(names(&now), ["a", "b", "c", "d", "e"]);
    let path = now.routes["a"].good.as_ref().map(|route| format!("{:?}", route.matching.path));
    assert!(path.as_ref().is_some_and(|path| path.contains("/new")), "{path:?}");
}

#[test]
fn a_text_that_is_written_piece_by_piece_loses_nothing() {
    let text = routes("abcdef");
    for pieces in [6, 13, 40] {
        let mut looks = Looks::new();
        let all = looks.documents(&[("f", &text)]);
        for piece in 0..=pieces {
            looks.pass(Duration::from_millis(400));
            let written = &text[..text.len() * piece / pieces];
            let now = looks.documents(&[("f", written)]);
            assert_eq!(now.routes.len(), 6, "{written}");
            let same = all.routes.iter().all(|(name, item)| now.routes[name].good == item.good);
            assert!(same, "{written}");
        }
        looks.pass(Duration::from_secs(60));
        assert_eq!(looks.at(&[("f", &text)]).len(), 6);
        assert!(looks.doubt.files.is_empty());
    }
}

#[test]
fn a_middleware_that_a_route_loses_is_a_loss() {
    let open = routes("ab");
    let closed = open.replacen("upstream = \"u\"", "upstream = \"u\"\nmiddlewares = [\"keys\"]", 1);
    let protected =
        |documents: &Documents| documents.routes["a"].good.as_ref().is_some_and(|route| !route.middlewares.is_empty());
    for (after, wait) in [
        (open.clone(), MOVE_WAIT),
        (format!("# edited\n{}", routes("a")), MOVE_WAIT),
        (open[..open.len() / 2].to_owned(), REWRITE_WAIT),
    ] {
        let mut looks = Looks::new();
        let text = if wait == REWRITE_WAIT { format!("{closed}{}", routes("cdef")) } else { closed.clone() };
        looks.at(&[("f", &text)]);
        assert!(protected(&looks.documents(&[("f", &after)])), "{after}");
        looks.pass(wait - JUST_BEFORE);
        assert!(protected(&looks.documents(&[("f", &after)])), "{after}");
        looks.pass(JUST_BEFORE);
        assert!(!protected(&looks.documents(&[("f", &after)])), "{after}");
    }
}

#[test]
fn a_text_cut_at_its_end_is_as_it_was_unless_the_file_was_replaced() {
    let text = routes("abc").replace("upstream = \"u\"\n", "upstream = \"u\"\ntimeout = \"5s\"\n");
    let cut = text.trim_end().strip_suffix("timeout = \"5s\"").expect("it ends so").to_owned();
    let timed = |documents: &Documents| documents.routes["c"].good.as_ref().is_some_and(|it| it.timeout.is_some());
    let mut looks = Looks::new();
    looks.at(&[("f", &text)]);
    assert!(timed(&looks.documents(&[("f", &cut)])));
    looks.pass(REWRITE_WAIT);
    assert!(!timed(&looks.documents(&[("f", &cut)])), "a change that stays");
    let mut looks = Looks::new();
    looks.at(&[("f", &text)]);
    looks.replaced.insert("f".to_owned());
    assert!(!timed(&looks.documents(&[("f", &cut)])), "a change does not wait");
}

#[test]
fn items_move_between_files_at_once() {
    let mut looks = Looks::new();
    looks.at(&[("a", &routes("xyz"))]);
    // Renamed, with all its items.
    let now = looks.documents(&[("b", &routes("xyz"))]);
    assert_eq!((names(&now).len(), now.rejected.len()), (3, 0));
    assert!(now.routes.values().all(|item| item.place.starts_with("b:")));
    // In one go into another file.
    let now = looks.documents(&[("b", &routes("x")), ("c", &routes("yz"))]);
    assert_eq!((names(&now).len(), now.rejected.len(), looks.doubt.due()), (3, 0, None));
    // In two.
    assert_eq!(looks.at(&[("b", &routes("x")), ("c", &routes("y"))]).len(), 3);
    looks.pass(MOVE_WAIT / 2);
    let now = looks.documents(&[("b", &routes("xz")), ("c", &routes("y"))]);
    assert_eq!((names(&now).len(), now.rejected.len(), looks.doubt.due()), (3, 0, None));
}

#[test]
fn what_has_no_place_is_held_until_it_returns_or_is_accepted() {
    let all = [("f", &*routes("ab")), ("g", &routes("c"))].map(|(path, text)| (path, text.to_owned()));
    let all = all.each_ref().map(|(path, text)| (*path, text.as_str()));
    let mut looks = Looks::new();
    looks.at(&all);
    looks.absent.insert("f".to_owned(), "its folder is gone".into());
    for _ in 0..5 {
        assert_eq!(looks.at(&all[1..]), ["a", "b", "c"]);
        looks.pass(Duration::from_secs(3600));
    }
    assert!(looks.why().contains("\"f\"): its folder is gone"), "{}", looks.why());
    // It returns with one of two.
    looks.absent.clear();
    assert_eq!(looks.at(&[("f", &routes("a")), all[1]]), ["a", "b", "c"]);
    looks.pass(REWRITE_WAIT);
    assert_eq!(looks.at(&[("f", &routes("a")), all[1]]), ["a", "c"]);
    // Gone again, and accepted.
    looks.absent.insert("f".to_owned(), "its folder is gone".into());
    assert_eq!(looks.at(&all[1..]), ["a", "c"]);
    assert!(!looks.doubt.accept("g"));
    assert_eq!(looks.at(&all[1..]), ["a", "c"]);
    assert!(looks.doubt.accept("f"));
    assert_eq!(looks.at(&all[1..]), ["c"]);
    assert_eq!(looks.at(&all[1..]), ["c"]);
}

#[test]
fn what_vanished_stays_while_something_in_the_file_belongs_to_no_item() {
    for typo in ["[routes.a]", "[routes.b]"] {
        let text = routes("ab");
        for wrong in [typo.replace("routes", "route"), typo.replace('.', ".\"%\".")] {
            let mut looks = Looks::new();
            looks.at(&[("f", &text)]);
            let edited = text.replace(typo, &wrong);
            for _ in 0..3 {
                let now = looks.documents(&[("f", &edited)]);
                assert_eq!(now.routes.values().filter(|item| item.good.is_some()).count(), 2, "{edited}");
                looks.pass(Duration::from_secs(3600));
            }
            assert!(looks.why().contains("belongs to no item"), "{edited}");
            assert_eq!(looks.at(&[("f", &text)]).len(), 2);
            assert_eq!(looks.doubt.due(), None);
        }
    }
}

#[test]
fn what_vanished_stays_while_it_may_stand_in_another_file() {
    let (all, some, moved) = (routes("ab"), routes("a"), routes("b"));
    for wrong in [format!("{moved}[rout"), moved.replace("routes", "route")] {
        for left in [&[("f", some.as_str())][..], &[]] {
            let mut looks = Looks::new();
            looks.at(&[("f", &all), ("other", "")]);
            let mut files = vec![("g", wrong.as_str()), ("other", "")];
            files.extend(left);
            for _ in 0..3 {
                assert_eq!(looks.at(&files), ["a", "b"], "{files:?}");
                looks.pass(Duration::from_secs(3600));
            }
            assert!(looks.why().contains("not all of g can be read"), "{}", looks.why());
            // What comes and changes does not wait.
            let edited = format!("{some}{}", routes("c"));
            assert_eq!(looks.at(&[("g", &wrong), ("h", &edited), ("other", "")]), ["a", "b", "c"]);
            // It is mended: with what was missed, or without.
            assert_eq!(looks.at(&[("g", &moved), ("h", &edited), ("other", "")]), ["a", "b", "c"]);
            assert_eq!(looks.doubt.due(), None);
        }
        for end in [&[("f", some.as_str()), ("g", "")][..], &[("f", some.as_str())]] {
            let mut looks = Looks::new();
            looks.at(&[("f", &all)]);
            assert_eq!(looks.at(&[("f", &some), ("g", &wrong)]), ["a", "b"]);
            looks.pass(Duration::from_secs(3600));
            assert_eq!(looks.at(end), ["a", "b"]);
            looks.pass(REWRITE_WAIT);
            assert_eq!(looks.at(end), ["a"]);
        }
        let mut looks = Looks::new();
        looks.at(&[("f", &all)]);
        looks.at(&[("f", &some), ("g", &wrong)]);
        assert!(looks.doubt.accept("f"));
        assert_eq!(looks.at(&[("f", &some), ("g", &wrong)]), ["a"]);
    }
}

#[test]
fn a_text_that_cannot_be_parsed_ends_no_wait() {
    let mut looks = Looks::new();
    looks.at(&[("f", &routes("abc"))]);
    assert_eq!(looks.at(&[("f", &routes("a"))]).len(), 3);
    looks.pass(REWRITE_WAIT);
    assert_eq!(looks.at(&[("f", "[routes.a")]).len(), 3);
    looks.pass(REWRITE_WAIT / 2);
    assert_eq!(looks.at(&[("f", &routes("ab"))]).len(), 3);
    assert_eq!(looks.at(&[("f", &routes("abc"))]).len(), 3);
    assert_eq!(looks.doubt.due(), None);
}

/// A look: which of two files have which of five routes, whether a section is wrong, and how long after the last one.
type RandomLook = ([Option<(BTreeSet<char>, bool)>; 2], u64);

fn look() -> impl Strategy<Value = RandomLook> {
    let file = || {
        proptest::option::weighted(
            0.8,
            (
                proptest::collection::btree_set(prop::sample::select(vec!['a', 'b', 'c', 'd', 'e']), 0..6),
                proptest::bool::weighted(0.1),
            ),
        )
    };
    ([file(), file()], 1..4000u64)
}

proptest! {
    #[test]
    fn nothing_goes_before_its_time_and_all_looks_converge(looks_taken in proptest::collection::vec(look(), 1..25)) {
        let mut looks = Looks::new();
        // Since when a route is in no file that could be read.
        let mut missing: BTreeMap<String, Instant> = BTreeMap::new();
        let mut known: BTreeSet<String> = BTreeSet::new();
        let texts = |files: &[Option<(BTreeSet<char>, bool)>; 2]| -> Vec<(String, String)> {
            let text = |(at, file): (usize, &Option<(BTreeSet<char>, bool)>)| {
                let (names, wrong) = file.as_ref()?;
                let wrong = if *wrong { "[route.z]\n" } else { "" };
                Some((format!("f{at}"), format!("{}{wrong}", routes(&names.iter().collect::<String>()))))
            };
            files.iter().enumerate().filter_map(text).collect()
        };
        let mut last = Vec::new();
        for (files, millis) in &looks_taken {
            looks.pass(Duration::from_millis(*millis));
            last = texts(files);
            let borrowed: Vec<_> = last.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
            let now: BTreeSet<String> = looks.at(&borrowed).into_iter().collect();
            let there: BTreeSet<String> = files.iter().flatten().flat_map(|(names, _)| names).map(char::to_string).collect();
            prop_assert!(there.is_subset(&now), "additions do not wait");
            prop_assert!(now.is_subset(&known.union(&there).cloned().collect()), "nothing comes from nowhere");
            missing.retain(|name, _| !there.contains(name));
            for name in known.difference(&there) {
                let since = *missing.entry(name.clone()).or_insert(looks.now);
                prop_assert!(now.contains(name) || looks.now >= since + MOVE_WAIT, "{name} went at once");
            }
            missing.retain(|name, _| now.contains(name));
            known = now;
        }
        // What is right and stays so is what there is, in the end.
        let last: Vec<_> = last.iter().map(|(path, text)| (path.clone(), text.replace("[route.z]\n", ""))).collect();
        let borrowed: Vec<_> = last.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        for _ in 0..10 {
            looks.at(&borrowed);
            looks.pass(Duration::from_secs(6));
        }
        let there = names(&FileSet::new().update(borrowed.iter().map(|(path, text)| FileText {
            path: (*path).to_owned(), format: Format::Toml, main: false, bytes: Ok(text.as_bytes().to_vec()), writing: None,
        }).collect()));
        prop_assert_eq!(looks.at(&borrowed), there);
        prop_assert!(looks.doubt.files.is_empty());
    }

    #[test]
    fn no_wait_is_shorter_than_its_rule(names in proptest::collection::btree_set(prop::sample::select(vec!['a', 'b', 'c', 'd', 'e', 'f']), 1..7), left in proptest::collection::btree_set(prop::sample::select(vec!['a', 'b', 'c', 'd', 'e', 'f']), 0..7), steps in proptest::collection::vec(1..2500u64, 1..20)) {
        let mut looks = Looks::new();
        let (before, after) = (names.iter().collect::<String>(), names.intersection(&left).collect::<String>());
        looks.at(&[("f", &routes(&before))]);
        let lost = before.len() - after.len();
        let most = lost == before.len() || lost >= 2 && lost * 2 > before.len() || before.starts_with(&after) && lost > 0;
        let wait = if most { REWRITE_WAIT } else { MOVE_WAIT };
        let began = looks.now;
        for step in steps {
            let now = looks.at(&[("f", &routes(&after))]).len();
            prop_assert_eq!(now, if looks.now < began + wait { before.len() } else { after.len() });
            looks.pass(Duration::from_millis(step));
        }
    }
}

#[test]
fn a_hold_names_what_would_be_lost() {
    let mut looks = Looks::new();
    looks.at(&[("f", &routes("ab"))]);
    looks.at(&[("f", "")]);
    let lost: Vec<_> = looks.doubt.holds().into_values().flat_map(|held| held.lost).collect();
    assert_eq!(lost, ["routes/a", "routes/b"]);
}
