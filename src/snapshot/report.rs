//! Defines what people have to know about what they wrote: bad, shadowed and dangling items.

use std::borrow::Cow;
use std::path::Path;

use serde::Serialize;

use super::contest::Contest;
use crate::spec::document::{Kind, TextId};
use crate::spec::file;
use crate::spec::hold::HeldPart;
use crate::spec::name::{Name, ProviderId};
use crate::spec::problem::Problem;

/// Everything worth telling about the documents and registrations behind a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Documents and entries that cannot be used as they are written.
    pub rejected: Vec<Rejected>,
    /// What is served though its registry does not list it, and why, by provider.
    pub held: Vec<(ProviderId, Problem)>,
    /// The part of that which operators may accept.
    pub holds: Vec<Hold>,
    /// Items that another provider's item of the same name hides.
    pub shadowed: Vec<Shadowed>,
    /// Items whose own text is sound, but which the items around them leave unused or unresolved.
    pub diagnostics: Vec<Diagnostic>,
    /// Routes that do not get all they match, because others match it, too.
    pub contests: Vec<Contest>,
    /// Settings of the configuration file that take effect at the next start.
    pub pending: Vec<Problem>,
    /// Two registrations of one address, and whatever else is only worth a remark.
    pub remarks: Vec<Problem>,
    /// Document providers in use whose first complete read is still out. The gateway stays closed until then.
    pub unread: Vec<ProviderId>,
    /// The rights that some of them lack to be read.
    pub missing_rights: Vec<(ProviderId, String)>,
    /// Items that may protect a route and cannot be read, found at a start: they keep the gateway closed until they are
    /// mended, deleted or accepted. Empty from the moment the gateway opened.
    pub closing: Vec<(ProviderId, Problem)>,
}

impl Report {
    /// The items of other providers that a route shadows, for people. A route that is shadowed itself is told by its contests.
    pub fn remarks_of(&self, route: &Name, provider: ProviderId) -> Vec<String> {
        let is_hidden = |one: &&Diagnostic| {
            one.kind == DiagnosticKind::Shadowed
                && one.provider != provider
                && one.item.as_ref().is_some_and(|(kind, name)| *kind == Kind::Route && name == route)
        };
        let remark = |one: &Diagnostic| format!("{} is {}", one.problem.place, one.problem.text);
        self.diagnostics.iter().filter(is_hidden).map(remark).collect()
    }

    /// Whether something that may protect a route is still unknown: a gateway that served now could serve it openly.
    pub fn closes(&self) -> bool {
        !self.unread.is_empty() || !self.closing.is_empty()
    }

    /// What keeps the gateway closed, a line each.
    pub fn closed_by(&self) -> impl Iterator<Item = String> {
        let unread = self.unread.iter().map(|provider| {
            let right = self.missing_rights.iter().find(|(of, _)| of == provider);
            let why = right.map(|(_, right)| format!(": {right}")).unwrap_or_default();
            format!("{provider} has not been read yet{why}")
        });
        unread.chain(self.closing.iter().map(|(provider, problem)| {
            // A key's place names its registry.
            match problem.place.strip_prefix(provider.as_str()).is_some_and(|rest| rest.starts_with(':')) {
                true => problem.to_string(),
                false => format!("{provider}: {problem}"),
            }
        }))
    }
}

/// Something that cannot be used as it is written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Rejected {
    /// Who has it.
    #[serde(skip)]
    pub provider: ProviderId,
    /// Where it lies, and what is wrong.
    #[serde(flatten)]
    pub problem: Problem,
    /// What this gateway does meanwhile.
    pub effect: &'static str,
}

impl Rejected {
    /// In one line, for logs and lists.
    pub fn line(&self) -> Problem {
        with_effect(&self.problem, self.effect)
    }
}

fn with_effect(Problem { place, key, text }: &Problem, effect: &str) -> Problem {
    Problem::new(place.clone(), key.clone(), format!("{text}; {effect}"))
}

/// An item hidden by a provider of higher precedence; `NAME@PROVIDER` still reaches it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shadowed {
    /// `routes` or `upstreams`.
    pub kind: &'static str,
    /// Its name.
    pub name: Name,
    /// Who defines the hidden one.
    pub provider: ProviderId,
    /// Who wins.
    pub by: ProviderId,
}

/// An item that is well-formed, and still not in use as it is written: what only a look at all items together shows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Diagnostic {
    /// Its class.
    pub kind: DiagnosticKind,
    /// Who defines the item.
    #[serde(skip)]
    pub provider: ProviderId,
    /// The item; `None` for a reference in the static settings.
    #[serde(skip)]
    pub item: Option<(Kind, Name)>,
    /// Where it lies, the key at fault, what is wrong and how to fix it. Equal on every gateway that knows the same items,
    /// because feedback keys repeat it.
    #[serde(flatten)]
    pub problem: Problem,
    /// What this gateway does meanwhile.
    pub effect: Cow<'static, str>,
}

/// Classes of diagnostics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DiagnosticKind {
    /// Something it refers to does not exist, and no earlier form can stand in.
    Unresolved,
    /// Something it refers to does not exist; its last form that resolved is served.
    Kept,
    /// Another item takes its place.
    Shadowed,
}

impl DiagnosticKind {
    /// Every class.
    pub const ALL: [Self; 3] = [Self::Unresolved, Self::Kept, Self::Shadowed];

    /// As users see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unresolved => "unresolved",
            Self::Kept => "kept",
            Self::Shadowed => "shadowed",
        }
    }
}

impl Diagnostic {
    /// What it is about: two of one subject tell of the same trouble, in other words or with another effect.
    pub fn subject(&self) -> (ProviderId, Option<&(Kind, Name)>, &str, bool) {
        let is_shadowed = self.kind == DiagnosticKind::Shadowed;
        (self.provider, self.item.as_ref(), &self.problem.key, is_shadowed)
    }

    /// In one line, for logs and lists.
    pub fn line(&self) -> Problem {
        with_effect(&self.problem, &self.effect)
    }
}

/// Something that is served although its registry or file no longer has it, as operators see and accept it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hold {
    /// What `fleetgate accept` takes: `upstreams/users`, `routes/shop`, `file:/etc/fleetgate/routes.toml`.
    pub id: String,
    /// The other names that accept it: of further upstreams that read the same source.
    pub also: Vec<String>,
    /// Who holds it.
    pub provider: ProviderId,
    /// The source, the key or the file.
    pub place: String,
    /// Why the loss is not believed.
    pub why: String,
    /// What accepting takes away: addresses of endpoints, names of documents.
    pub lost: Vec<String>,
    /// What follows for requests.
    pub effects: Vec<String>,
    /// Why it can't be accepted now; `None`: it can.
    pub refused: Option<String>,
    /// The part that whoever holds it knows it by.
    #[serde(skip)]
    pub part: HeldPart,
    /// The document, where it is one.
    #[serde(skip)]
    pub item: Option<(Kind, Name)>,
    /// The text of it, where nothing is served of it: its last good form is not known, and what it may have served is
    /// blocked.
    #[serde(skip)]
    pub blocks: Option<TextId>,
}

impl Hold {
    /// Whether `target`, as an operator writes it, names this: by its provider, its id, or its id and provider.
    pub fn is_named(&self, target: &str) -> bool {
        let provider = self.provider.as_str();
        let bare = target.strip_suffix(provider).and_then(|rest| rest.strip_suffix('@'));
        let names =
            |name: &str| self.id == name || self.also.iter().any(|also| also == name) || is_file(&self.id, name);
        target == provider || names(target) || bare.is_some_and(names)
    }
}

/// Whether two ids are of one file, however its path is written.
fn is_file(id: &str, name: &str) -> bool {
    let path = |id: &str| Some(file::without_dots(Path::new(id.strip_prefix("file:")?)));
    path(id).is_some_and(|own| path(name) == Some(own))
}

/// What a set of holds is known by: another set, or another loss, has another digest.
pub fn digest_of<'h>(holds: impl IntoIterator<Item = &'h Hold>) -> String {
    let line = |hold: &Hold| {
        let Hold { provider, id, refused, lost, blocks, .. } = hold;
        format!("{provider} {id} {} {} {blocks:?}\n", refused.is_some(), lost.join(" "))
    };
    let mut lines: Vec<String> = holds.into_iter().map(line).collect();
    lines.sort_unstable();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, lines.concat().as_bytes());
    digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
