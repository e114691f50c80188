//! Defines what a document provider holds: items by name, each with its last good form and its problem.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::certificate::CertificateSpec;
use super::consumer::ConsumerSpec;
use super::middleware::MiddlewareSpec;
use super::name::Name;
use super::problem::Problem;
use super::route::RouteSpec;
use super::upstream::UpstreamSpec;

/// The kinds of documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// `routes`
    Route,
    /// `upstreams`
    Upstream,
    /// `middlewares`
    Middleware,
    /// `certificates`
    Certificate,
    /// `consumers`
    Consumer,
}

impl Kind {
    /// Every kind, in the order lists show them.
    pub const ALL: [Self; 5] = [Self::Route, Self::Upstream, Self::Middleware, Self::Certificate, Self::Consumer];

    /// The section's and the folder's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Route => "routes",
            Self::Upstream => "upstreams",
            Self::Middleware => "middlewares",
            Self::Certificate => "certificates",
            Self::Consumer => "consumers",
        }
    }

    /// One of them, in a message.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Upstream => "upstream",
            Self::Middleware => "middleware",
            Self::Certificate => "certificate",
            Self::Consumer => "consumer",
        }
    }
}

/// One named item of a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item<T> {
    /// Its newest valid form; `None` when there never was one.
    pub good: Option<Arc<T>>,
    /// What is wrong with its present text; `None` when `good` is its present form.
    pub problems: Vec<Problem>,
    /// Where it lies: `file.toml:12:1`, `consul-kv:fleetgate/routes/users`, `etcd:/fleetgate/routes/users`.
    pub place: Arc<str>,
    /// The registry's index at which its key was created: Consul's `CreateIndex`, etcd's `create_revision`. `None`
    /// where a document has none.
    pub created: Option<u64>,
    /// Set while it has no good form but may have had one, which other gateways may still serve.
    pub blocked: Option<Blocked<T>>,
}

/// An item that may have had a good form which is not known here. It keeps its name, and nothing takes its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked<T> {
    /// Of a route whose `match`, `priority` and `listeners` can be read: a route that answers 503 there. `None`: what it
    /// matches is not known, or it is no route.
    pub stand_in: Option<Arc<T>>,
    /// What answers 503 in place of the items of the same provider that this one keeps from having its name: a gateway that
    /// knows that this one never had a good form serves the first of them. `None`: what it matches is not known.
    pub hides: Vec<Option<Arc<T>>>,
    /// The text that is wrong.
    pub text: TextId,
}

/// What tells a text of an item or a file from others, and from the same text written again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TextId(Arc<str>);

impl TextId {
    /// Of a text, and of the registry's index at which it was written, where there is one.
    pub fn of(text: &[u8], written_at: Option<u64>) -> Self {
        let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        context.update(&written_at.unwrap_or_default().to_be_bytes());
        context.update(text);
        Self(context.finish().as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>().into())
    }
}

/// A file or folder that could not be read, and of which nothing is known: it may define anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Where it lies, and why.
    pub problem: Problem,
    /// What it has now.
    pub text: TextId,
}

impl<T> Item<T> {
    /// An item whose present form is good.
    pub fn good(spec: Arc<T>, place: Arc<str>) -> Self {
        Self { good: Some(spec), problems: Vec::new(), place, created: None, blocked: None }
    }
}

/// All documents of a provider.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Documents {
    /// Routes by name.
    pub routes: BTreeMap<Name, Item<RouteSpec>>,
    /// Upstreams by name.
    pub upstreams: BTreeMap<Name, Item<UpstreamSpec>>,
    /// Middlewares by name.
    pub middlewares: BTreeMap<Name, Item<MiddlewareSpec>>,
    /// Certificates by name.
    pub certificates: BTreeMap<Name, Item<CertificateSpec>>,
    /// Consumers by name.
    pub consumers: BTreeMap<Name, Item<ConsumerSpec>>,
    /// Problems that belong to no item: an unknown kind, a bad name, a second key for one name.
    pub rejected: Vec<Problem>,
    /// What people should know of all of them.
    pub remarks: Vec<Problem>,
    /// Files and folders that could not be read and of which nothing is known.
    pub unreadable: Vec<Unreadable>,
}

/// What there is to say of an item of any kind.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'d> {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: &'d Name,
    /// Where it lies.
    pub place: &'d Arc<str>,
    /// What is wrong with its present text.
    pub problems: &'d [Problem],
    /// Whether it has a valid form, of now or before.
    pub serves: bool,
    /// The text that is wrong, where it has none, but may have had one.
    pub blocks: Option<&'d TextId>,
}

impl Documents {
    /// All items.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        fn of<T>(kind: Kind, items: &BTreeMap<Name, Item<T>>) -> impl Iterator<Item = Entry<'_>> {
            items.iter().map(move |(name, item)| Entry {
                kind,
                name,
                place: &item.place,
                problems: &item.problems,
                serves: item.good.is_some(),
                blocks: item.blocked.as_ref().filter(|_| item.good.is_none()).map(|blocked| &blocked.text),
            })
        }
        of(Kind::Route, &self.routes)
            .chain(of(Kind::Upstream, &self.upstreams))
            .chain(of(Kind::Middleware, &self.middlewares))
            .chain(of(Kind::Certificate, &self.certificates))
            .chain(of(Kind::Consumer, &self.consumers))
    }

    /// How many items there are.
    pub fn count(&self) -> usize {
        self.routes.len()
            + self.upstreams.len()
            + self.middlewares.len()
            + self.certificates.len()
            + self.consumers.len()
    }

    /// Where an item lies.
    pub fn place(&self, kind: Kind, name: &str) -> Option<&Arc<str>> {
        match kind {
            Kind::Route => self.routes.get(name).map(|item| &item.place),
            Kind::Upstream => self.upstreams.get(name).map(|item| &item.place),
            Kind::Middleware => self.middlewares.get(name).map(|item| &item.place),
            Kind::Certificate => self.certificates.get(name).map(|item| &item.place),
            Kind::Consumer => self.consumers.get(name).map(|item| &item.place),
        }
    }

    /// Removes an item, if it is there.
    pub fn remove(&mut self, kind: Kind, name: &str) {
        match kind {
            Kind::Route => drop(self.routes.remove(name)),
            Kind::Upstream => drop(self.upstreams.remove(name)),
            Kind::Middleware => drop(self.middlewares.remove(name)),
            Kind::Certificate => drop(self.certificates.remove(name)),
            Kind::Consumer => drop(self.consumers.remove(name)),
        }
    }

    /// The items that `other` lacks, or of which it has no good form.
    pub fn without(&self, other: &Self) -> Self {
        fn left<T: Clone>(one: &BTreeMap<Name, Item<T>>, other: &BTreeMap<Name, Item<T>>) -> BTreeMap<Name, Item<T>> {
            let is_left = |name: &Name, item: &Item<T>| match other.get(name) {
                Some(theirs) => item.good.is_some() && theirs.good.is_none(),
                None => true,
            };
            let left = one.iter().filter(|(name, item)| is_left(name, item));
            left.map(|(name, item)| (name.clone(), item.clone())).collect()
        }
        Self {
            routes: left(&self.routes, &other.routes),
            upstreams: left(&self.upstreams, &other.upstreams),
            middlewares: left(&self.middlewares, &other.middlewares),
            certificates: left(&self.certificates, &other.certificates),
            consumers: left(&self.consumers, &other.consumers),
            rejected: Vec::new(),
            remarks: Vec::new(),
            unreadable: Vec::new(),
        }
    }

    /// These and those of `more`, which wins where both have an item.
    pub fn with(mut self, more: Self) -> Self {
        self.routes.extend(more.routes);
        self.upstreams.extend(more.upstreams);
        self.middlewares.extend(more.middlewares);
        self.certificates.extend(more.certificates);
        self.consumers.extend(more.consumers);
        self
    }
}
