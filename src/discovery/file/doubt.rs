//! When the loss of a file's items is believed. Pure: time comes in.
//!
//! Additions and changes never get here. What is lost waits: how long depends on how it was lost, and each wait ends with
//! another look. A loss that looks like a fault of the place (the main file, a folder) or of the text (a section that
//! nobody knows, another file that cannot be read) is held until that is over, or until an operator accepts it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::spec::decode::{ItemKey, Kept, Loss};
use crate::spec::hold::{Held, HeldPart};

/// How long a few items of a file wait: they may be on their way into another file.
pub(super) const MOVE_WAIT: Duration = Duration::from_millis(500);
/// How long the items of a file wait that is gone from a folder which is there.
pub(super) const DELETION_WAIT: Duration = Duration::from_secs(2);
/// How long most items of a file wait: its writer may not be done. It begins anew with each further change.
pub(super) const REWRITE_WAIT: Duration = Duration::from_secs(5);
/// Further changes of the file do not extend a wait beyond this.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// What files lost and is not believed to be gone.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    files: BTreeMap<String, BTreeMap<ItemKey, Suspect>>,
    /// The main file, while the gateway would not start with it.
    unfit: Option<String>,
}

/// A lost item that stays for now.
#[derive(Clone, Debug)]
struct Suspect {
    cause: Cause,
    /// When that was first seen.
    since: Instant,
    /// When the loss is believed; `None`: not by itself.
    until: Option<Instant>,
    /// An operator accepted it: it goes at the next look.
    accepted: bool,
}

/// Why the loss of an item is suspect; the later ones are the stronger ones.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cause {
    /// A few items of a file that is there.
    Few,
    /// The file is gone from a folder that is there.
    Deleted,
    /// Most items of a file that is there, or the end of its text.
    Most,
    /// Its place was gone, or another file could not be read, and is back without it.
    Returned,
    /// This other file cannot be read, or not all of it.
    Elsewhere(Arc<str>),
    /// Its place is gone: why.
    Absent(Arc<str>),
    /// Something in its file belongs to no item.
    Misplaced,
    /// The gateway would not start with its file.
    Unfit,
}

impl Cause {
    fn wait(&self) -> Option<Duration> {
        match self {
            Self::Few => Some(MOVE_WAIT),
            Self::Deleted => Some(DELETION_WAIT),
            Self::Most | Self::Returned => Some(REWRITE_WAIT),
            Self::Elsewhere(_) | Self::Absent(_) | Self::Misplaced | Self::Unfit => None,
        }
    }

    /// Whether people have to know of it. Waits for an ordinary edit to be complete are nobody's concern.
    fn is_told(&self) -> bool {
        match self {
            Self::Few | Self::Deleted => false,
            Self::Most | Self::Returned => true,
            Self::Elsewhere(_) | Self::Absent(_) | Self::Misplaced | Self::Unfit => true,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = REWRITE_WAIT.as_secs();
        match self {
            Self::Few | Self::Deleted => f.write_str("the loss is looked at once more"),
            Self::Most => write!(f, "the file lost most of its items or its end, and may still be being written: they go unless they are back within {seconds} s"),
            Self::Returned => write!(f, "they are not among what came back: they go unless they are back within {seconds} s"),
            Self::Elsewhere(file) => write!(f, "not all of {file} can be read, and it may define them: they stay until that is right or the file is gone"),
            Self::Absent(why) => write!(f, "{why}: they stay until it is back"),
            Self::Misplaced => f.write_str("something in the file belongs to no item, and may be what they were meant to be: they stay until that is right"),
            Self::Unfit => f.write_str("the gateway would not start with the file as it is: they stay until that is right"),
        }
    }
}

impl Suspect {
    fn new(cause: Cause, now: Instant) -> Self {
        let until = cause.wait().map(|wait| now + wait);
        Self { cause, since: now, until, accepted: false }
    }

    /// Seen once more. `moving`: what it depends on has changed since the last look.
    fn again(self, cause: &Cause, moving: bool, now: Instant) -> Self {
        match (self.cause.wait(), cause.wait()) {
            (None, None) => Self { cause: cause.clone(), ..self },
            (Some(_), None) => Self::new(cause.clone(), now),
            // What held it is over.
            (None, Some(_)) => Self::new(Cause::Returned, now),
            (Some(before), Some(wait)) if wait > before => Self::new(cause.clone(), now),
            (Some(wait), Some(_)) if moving => {
                let until = self.until.max(Some((now + wait).min(self.since + MAX_WAIT)));
                Self { until, ..self }
            }
            (Some(_), Some(_)) => self,
        }
    }
}

impl Doubt {
    /// Notes the file that the gateway would not start with, if it is so now.
    pub(super) fn note_unfit(&mut self, file: Option<&str>) {
        self.unfit = file.map(str::to_owned);
    }

    /// Which of the lost items stay. `absent` says of files that are gone why that is suspect, where it is; `replaced`
    /// are files that were exchanged as a whole, so that a text which ends early is meant so; `arrived`: files came
    /// that were not there at the last look.
    pub(super) fn judge(
        &mut self,
        losses: &[Loss],
        absent: &BTreeMap<String, Arc<str>>,
        replaced: &BTreeSet<String>,
        arrived: bool,
        now: Instant,
    ) -> Kept {
        let mut before = std::mem::take(&mut self.files);
        let mut kept = Kept::new();
        for loss in losses {
            let mut known = before.remove(&loss.file).unwrap_or_default();
            let cut = loss.cut && !replaced.contains(&loss.file);
            let cause = match cause(loss, cut, absent) {
                cause @ (Cause::Absent(_) | Cause::Misplaced) => cause,
                _ if self.unfit.as_ref() == Some(&loss.file) => Cause::Unfit,
                cause => cause,
            };
            // What the file lost while most of it is in doubt is so by the same edit.
            let of_parts = if cut || cause == Cause::Most || known.values().any(|it| it.cause == Cause::Most) {
                Some(Cause::Most)
            } else {
                Some(Cause::Few).filter(|_| !loss.cut)
            };
            let items = loss.items.iter().map(|key| (key, Some(&cause)));
            let reduced = loss.reduced.iter().map(|key| (key, of_parts.as_ref()));
            let mut suspects = BTreeMap::new();
            for (key, cause) in items.chain(reduced) {
                let Some(cause) = cause else { continue };
                let suspect = match known.remove(key) {
                    None => Suspect::new(cause.clone(), now),
                    Some(suspect) if suspect.accepted => continue,
                    // A text that cannot be read says nothing.
                    Some(suspect) if loss.unparsed => {
                        let until = suspect.until.max(suspect.cause.wait().map(|wait| now + wait));
                        Suspect { until, ..suspect }
                    }
                    Some(suspect) => {
                        let moving = loss.changed || arrived && suspect.cause == Cause::Returned;
                        suspect.again(cause, moving, now)
                    }
                };
                if suspect.until.is_none_or(|until| until > now) {
                    suspects.insert(key.clone(), suspect);
                }
            }
            if !suspects.is_empty() {
                kept.insert(loss.file.clone(), suspects.keys().cloned().collect());
                self.files.insert(loss.file.clone(), suspects);
            }
        }
        kept
    }

    /// An operator accepts what a file lost: at the next look it is gone. Tells whether there is any.
    pub(super) fn accept(&mut self, file: &str) -> bool {
        let mut any = false;
        for suspect in self.files.get_mut(file).into_iter().flat_map(BTreeMap::values_mut) {
            suspect.accepted = true;
            any = true;
        }
        any
    }

    /// When to look again because a wait is over.
    pub(super) fn due(&self) -> Option<Instant> {
        self.files.values().flat_map(BTreeMap::values).filter_map(|suspect| suspect.until).min()
    }

    /// What people have to know of, a hold a file.
    pub(super) fn holds(&self) -> BTreeMap<HeldPart, Held> {
        let of_file = |(file, suspects): (&String, &BTreeMap<ItemKey, Suspect>)| {
            let told = suspects.iter().filter(|(_, suspect)| suspect.cause.is_told());
            let lost = told.clone().map(|((kind, name), _)| format!("{}/{name}", kind.as_str())).collect();
            let cause = told.map(|(_, suspect)| &suspect.cause).max()?;
            let held = Held { lost, why: cause.to_string().into(), missing_right: None };
            Some((HeldPart::File(file.as_str().into()), held))
        };
        self.files.iter().filter_map(of_file).collect()
    }
}

fn cause(loss: &Loss, cut: bool, absent: &BTreeMap<String, Arc<str>>) -> Cause {
    let lost = loss.items.len();
    match (absent.get(&loss.file), &loss.unknown) {
        (Some(why), _) if loss.gone => Cause::Absent(Arc::clone(why)),
        _ if loss.misplaced => Cause::Misplaced,
        (_, Some(other)) => Cause::Elsewhere(Arc::clone(other)),
        _ if loss.gone => Cause::Deleted,
        _ if cut || lost == loss.had || lost >= 2 && lost * 2 > loss.had => Cause::Most,
        _ => Cause::Few,
    }
}

#[cfg(test)]
mod tests;
