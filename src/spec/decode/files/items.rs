//! The items of one file, by kind, and what became of those it had before.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::spec::certificate::CertificateSpec;
use crate::spec::consumer::ConsumerSpec;
use crate::spec::decode::format::Format;
use crate::spec::decode::item::DecodeItem;
use crate::spec::decode::saved::SavedItem;
use crate::spec::decode::scope::Reference;
use crate::spec::decode::sections::{SectionItem, Sections};
use crate::spec::document::{Blocked, Documents, Item, Kind, TextId};
use crate::spec::middleware::MiddlewareSpec;
use crate::spec::name::Name;
use crate::spec::problem::Problem;
use crate::spec::route::RouteSpec;
use crate::spec::upstream::UpstreamSpec;

/// An item by its kind and name.
pub type ItemKey = (Kind, Name);

/// The items that stay although their file lost them, by file.
pub type Kept = BTreeMap<String, BTreeSet<ItemKey>>;

/// What a file lost, now or at an earlier update, and has not got back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Its path.
    pub file: String,
    /// The file itself is not there.
    pub gone: bool,
    /// Its text is another than at the last update.
    pub changed: bool,
    /// Its text cannot be read or parsed, so it says nothing about what was lost before.
    pub unparsed: bool,
    /// Something in it belongs to no item, such as an unknown section: what is lost may stand there.
    pub misplaced: bool,
    /// Another file that is there and cannot be read, or not all of it: what is lost may stand there.
    pub unknown: Option<Arc<str>>,
    /// Its text is a beginning of what it was, so its writer may not be done.
    pub cut: bool,
    /// How many items it had: those it has, and those that are lost.
    pub had: usize,
    /// The items it does not define any more, and no other file does.
    pub items: BTreeSet<ItemKey>,
    /// Items that it still defines: routes that lost middlewares, and what changed in a text that is `cut`.
    pub reduced: BTreeSet<ItemKey>,
}

/// An item as its file says it.
#[derive(Clone, Debug)]
struct KnownItem<T> {
    name: Name,
    place: Arc<str>,
    said: Result<Arc<T>, Vec<Problem>>,
    /// What blocks its requests where it may have had a good form.
    stand_in: Option<Arc<T>>,
    /// What it refers to, where it is wrong.
    names: Vec<Reference>,
    /// What blocks the requests of its last good form that was seen, where it may have had another one since.
    outdated: Option<Option<Arc<T>>>,
    /// What its good form was decoded from.
    origin: Option<Arc<Origin>>,
    /// Whether its file had no such item before.
    is_first: bool,
    /// The text of its file.
    text: TextId,
}

/// A file's text that could be parsed.
pub(super) struct Origin {
    pub(super) path: String,
    pub(super) format: Format,
    pub(super) main: bool,
    pub(super) text: Arc<str>,
}

/// What last good forms were decoded from.
pub(super) type Origins = BTreeMap<ItemKey, Arc<Origin>>;

/// It may hold private keys: it is never shown.
impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The items of a file, each kind in the order of the names.
#[derive(Clone, Debug, Default)]
pub(super) struct Items {
    routes: Vec<KnownItem<RouteSpec>>,
    upstreams: Vec<KnownItem<UpstreamSpec>>,
    middlewares: Vec<KnownItem<MiddlewareSpec>>,
    certificates: Vec<KnownItem<CertificateSpec>>,
    consumers: Vec<KnownItem<ConsumerSpec>>,
}

/// What a file had and lost, in its last form.
#[derive(Debug, Default)]
pub(super) struct Lost {
    pub(super) items: Items,
    /// The text that lost it was cut.
    pub(super) cut: bool,
}

/// Does the same to the items of each kind.
macro_rules! each_kind {
    ($apply:ident) => {
        $apply!(routes);
        $apply!(upstreams);
        $apply!(middlewares);
        $apply!(certificates);
        $apply!(consumers);
    };
}

impl Items {
    /// The items of a file's sections, and what belongs to none of them.
    pub(super) fn of(
        sections: Sections,
        origin: Option<&Arc<Origin>>,
        text: &TextId,
        is_first: bool,
    ) -> (Self, Vec<Problem>) {
        let Sections { routes, upstreams, middlewares, certificates, consumers, rejected } = sections;
        let items = Self {
            routes: known(routes, origin, text, is_first),
            upstreams: known(upstreams, origin, text, is_first),
            middlewares: known(middlewares, origin, text, is_first),
            certificates: known(certificates, origin, text, is_first),
            consumers: known(consumers, origin, text, is_first),
        };
        (items, rejected)
    }

    /// Items without a good form, of which nothing else is known. `is_first`: they never had one.
    pub(super) fn wrong(path: &str, wrong: &[SavedItem], is_first: bool) -> Self {
        fn of<T: DecodeItem>(path: &str, wrong: &[SavedItem], is_first: bool) -> Vec<KnownItem<T>> {
            let of_kind = wrong.iter().filter(|item| item.kind == T::KIND);
            let known = of_kind.map(|item| KnownItem {
                name: item.name.clone(),
                place: path.into(),
                said: Err(Vec::new()),
                stand_in: None,
                names: Vec::new(),
                outdated: None,
                origin: None,
                is_first,
                text: TextId::of(&[], None),
            });
            known.collect()
        }
        Self {
            routes: of(path, wrong, is_first),
            upstreams: of(path, wrong, is_first),
            middlewares: of(path, wrong, is_first),
            certificates: of(path, wrong, is_first),
            consumers: of(path, wrong, is_first),
        }
    }

    /// Takes from what the file said before what is known of items that are wrong now: whether they may have had a good
    /// form, and where they were asked for. `missed`: the file may have been edited since, unseen.
    pub(super) fn recall(&mut self, before: &Self, missed: bool) {
        macro_rules! recall {
            ($kind:ident) => {
                recall(&mut self.$kind, &before.$kind, missed);
            };
        }
        each_kind!(recall);
    }

    /// Adds items that are not here.
    pub(super) fn add(&mut self, more: Self) {
        macro_rules! add {
            ($kind:ident) => {
                self.$kind.extend(more.$kind);
                // Stable: of two with a name the one that is here stays.
                self.$kind.sort_by(|a, b| a.name.cmp(&b.name));
                self.$kind.dedup_by(|second, first| second.name == first.name);
            };
        }
        each_kind!(add);
    }

    /// Some of them.
    pub(super) fn only(mut self, keep: impl Fn(&ItemKey) -> bool) -> Self {
        self.retain(keep);
        self
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = ItemKey> {
        fn of<T: DecodeItem>(items: &[KnownItem<T>]) -> impl Iterator<Item = ItemKey> {
            items.iter().map(|item| (T::KIND, item.name.clone()))
        }
        let kinds = of(&self.routes).chain(of(&self.upstreams)).chain(of(&self.middlewares));
        kinds.chain(of(&self.certificates)).chain(of(&self.consumers))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys().next().is_none()
    }

    pub(super) fn has_good(&self) -> bool {
        fn of<T>(items: &[KnownItem<T>]) -> bool {
            items.iter().any(|item| item.said.is_ok())
        }
        let mut found = false;
        macro_rules! look {
            ($kind:ident) => {
                found |= of(&self.$kind);
            };
        }
        each_kind!(look);
        found
    }

    fn retain(&mut self, keep: impl Fn(&ItemKey) -> bool) {
        macro_rules! retain {
            ($kind:ident) => {
                retain_in(&mut self.$kind, &keep);
            };
        }
        each_kind!(retain);
    }

    /// Adds these to documents, where nothing has their names yet. In place of items that lost something, what is kept of
    /// them is added.
    pub(super) fn merge(&self, instead: Option<&Lost>, last: &Documents, into: &mut Documents, origins: &mut Origins) {
        let instead = instead.map(|lost| &lost.items);
        macro_rules! merge {
            ($kind:ident) => {
                let instead = instead.map_or(&[][..], |items| &items.$kind);
                merge(&self.$kind, instead, &last.$kind, &mut into.$kind, &mut into.rejected, origins);
            };
        }
        each_kind!(merge);
    }
}

impl Lost {
    /// What is lost between two states of a file: items that it does not define any more, and those that lost a part.
    pub(super) fn between(before: Items, now: &Items, cut: bool) -> Self {
        let mut lost = before;
        lost.routes.retain(|item| match find(&now.routes, &item.name) {
            None => true,
            Some(now) => lost_middlewares(item, now) || cut && is_other(item, now),
        });
        macro_rules! lose {
            ($kind:ident) => {
                lost.$kind.retain(|item| match find(&now.$kind, &item.name) {
                    None => true,
                    Some(now) => cut && is_other(item, now),
                });
            };
        }
        lose!(upstreams);
        lose!(middlewares);
        lose!(certificates);
        lose!(consumers);
        Self { items: lost, cut }
    }

    /// All that the file had: what is lost, and of the others their present form.
    pub(super) fn over(self, items: Items) -> Items {
        // Of two with a name the lost one stays, which is the fuller one.
        let mut all = self.items;
        all.add(items);
        all
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&ItemKey) -> bool) {
        self.items.retain(keep);
    }
}

fn known<T>(
    items: Vec<SectionItem<T>>,
    origin: Option<&Arc<Origin>>,
    text: &TextId,
    is_first: bool,
) -> Vec<KnownItem<T>> {
    let known = |item: SectionItem<T>| KnownItem {
        name: item.name,
        place: item.place.into(),
        origin: origin.filter(|_| item.decoded.item.is_ok()).cloned(),
        names: item.decoded.references,
        outdated: None,
        said: item.decoded.item.map(Arc::new),
        stand_in: item.decoded.stand_in.map(Arc::new),
        is_first,
        text: text.clone(),
    };
    items.into_iter().map(known).collect()
}

fn recall<T: DecodeItem>(items: &mut [KnownItem<T>], before: &[KnownItem<T>], missed: bool) {
    for item in items.iter_mut().filter(|item| item.said.is_err()) {
        let Some(former) = find(before, &item.name) else { continue };
        item.is_first = former.is_first && former.said.is_err() && !missed;
        item.outdated = match &former.said {
            // What asks for more may be a mistake made in one that was more protected already.
            Ok(spec) => (missed && spec.has_less_than(&item.names)).then(|| spec.blocking().map(Arc::new)),
            Err(_) => former.outdated.clone(),
        };
        if item.stand_in.is_none() {
            item.stand_in = match &former.said {
                Ok(spec) => spec.blocking().map(Arc::new),
                Err(_) => former.stand_in.clone(),
            };
        }
    }
}

fn retain_in<T: DecodeItem>(items: &mut Vec<KnownItem<T>>, keep: &impl Fn(&ItemKey) -> bool) {
    items.retain(|item| keep(&(T::KIND, item.name.clone())));
}

/// The item of this name; items are in the order of their names.
fn find<'i, T>(items: &'i [KnownItem<T>], name: &Name) -> Option<&'i KnownItem<T>> {
    items.binary_search_by(|item| item.name.cmp(name)).ok().and_then(|at| items.get(at))
}

fn lost_middlewares(before: &KnownItem<RouteSpec>, now: &KnownItem<RouteSpec>) -> bool {
    let (Ok(before), Ok(now)) = (&before.said, &now.said) else { return false };
    before.middlewares.iter().any(|middleware| !now.middlewares.contains(middleware))
}

fn is_other<T: PartialEq>(before: &KnownItem<T>, now: &KnownItem<T>) -> bool {
    before.said != now.said
}

fn merge<T: DecodeItem>(
    items: &[KnownItem<T>],
    instead: &[KnownItem<T>],
    last: &BTreeMap<Name, Item<T>>,
    merged: &mut BTreeMap<Name, Item<T>>,
    rejected: &mut Vec<Problem>,
    origins: &mut Origins,
) {
    for item in items {
        let KnownItem { name, place, said, stand_in, outdated, origin, is_first, text, .. } =
            find(instead, &item.name).unwrap_or(item);
        // What never was any good takes a name from nobody.
        let taken = merged.get_mut(name).filter(|winner| winner.good.is_some() || winner.blocked.is_some());
        if let Some(winner) = taken {
            if let Some(blocked) = &mut winner.blocked {
                match said {
                    Ok(spec) => blocked.hides.push(spec.blocking().map(Arc::new)),
                    Err(_) if !is_first => blocked.hides.push(stand_in.clone()),
                    Err(_) => {}
                }
            }
            let told = format!("`{name}` is defined at {} already: remove one of them", winner.place);
            rejected.push(Problem::new(&**place, format!("{}.{name}", T::KIND.as_str()), told));
            continue;
        }
        let last = last.get(name);
        let last_good = last.and_then(|item| item.good.clone()).filter(|_| outdated.is_none());
        let (good, problems) = match (said, last_good) {
            // What says the same must not look changed.
            (Ok(spec), Some(last)) if *last == **spec => (Some(last), Vec::new()),
            (Ok(spec), _) => (Some(Arc::clone(spec)), Vec::new()),
            (Err(problems), last_good) => (last_good, problems.clone()),
        };
        let was_new = *is_first && last.is_none_or(|last| last.good.is_none() && last.blocked.is_none());
        let blocked = (good.is_none() && !was_new).then(|| Blocked {
            stand_in: stand_in.clone(),
            hides: outdated.iter().flatten().cloned().map(Some).collect(),
            text: text.clone(),
        });
        if let Some(origin) = origin {
            origins.insert((T::KIND, name.clone()), Arc::clone(origin));
        }
        let item = Item { good, problems, place: Arc::clone(place), created: None, blocked };
        if let Some(never_good) = merged.insert(name.clone(), item) {
            rejected.extend(never_good.problems);
        }
    }
}
