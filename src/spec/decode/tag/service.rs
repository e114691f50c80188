//! What the instances of one service ask for, with the last good form of each where its tags are wrong now.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::fabio::{self, Prefix, Tag, Wrong};
use super::native::{self, Native, WrongRoute};
use super::order::{self, Ages};
use super::set::Rules;
use super::{is_usable, tags};
use crate::spec::endpoint::EndpointSpec;
use crate::spec::matching::{MatchSpec, PathMatch};
use crate::spec::overlap::Overlap;
use crate::spec::problem::Problem;
use crate::spec::route::Steps;

/// Most routes of one service: a registration must not eat the gateway's memory.
const MAX_ROUTES: usize = 100;
/// Why a route is closed.
pub(super) const UNKNOWN: &str = "its tags are wrong, and this gateway has no good form of them";

/// A look at the instances of a service.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look<'a> {
    pub(super) service: &'a str,
    pub(super) endpoints: &'a [EndpointSpec],
    pub(super) rules: &'a Rules,
    /// Whether what is not known of the service was not there before.
    pub(super) knows_past: bool,
    /// Instances that may have had a good form all the same, which came and went unseen.
    pub(super) missed: &'a BTreeSet<Arc<str>>,
}

impl Look<'_> {
    pub(super) fn ids(&self) -> BTreeSet<Arc<str>> {
        self.endpoints.iter().map(|endpoint| Arc::clone(&endpoint.id)).collect()
    }

    fn knows_past_of(&self, endpoint: &EndpointSpec) -> bool {
        self.knows_past && !self.missed.contains(&endpoint.id)
    }
}

/// What the instances of a service ask for.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Of ours, by name.
    pub(super) native: BTreeMap<String, Claim>,
    /// Since when routes of ours are asked for.
    pub(super) ages: Ages,
    /// Of fabio's, one a tag.
    pub(super) fabio: Vec<Target>,
    /// Tags of fabio's without a place, each with the id of an instance that has it.
    pub(super) unplaced: BTreeSet<(Arc<str>, Arc<str>)>,
    /// Instances that may have had a place of which no tag is known.
    pub(super) unknown: BTreeSet<Arc<str>>,
    /// The instances.
    pub(super) seen: BTreeSet<Arc<str>>,
    /// What belongs to no route.
    pub(super) problems: Vec<Problem>,
}

/// What instances ask for by the name of a route of ours.
#[derive(Debug, Default)]
pub(super) struct Claim {
    /// The one that most of them ask for goes first.
    pub(super) forms: Vec<Form>,
    /// By the instances' ids.
    pub(super) by_instance: BTreeMap<Arc<str>, LastForm>,
    pub(super) problems: Vec<Problem>,
}

/// What an instance asks for, or asked for last before its tags became wrong.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum LastForm {
    Good(Native),
    /// It may have had a good form, which is not known here; it may have matched this, where that is known.
    Unknown(Vec<MatchSpec>),
}

/// Instances of a service that ask for the same requests.
#[derive(Debug)]
pub(super) struct Form {
    /// What the newest usable one asks for.
    pub(super) native: Native,
    pub(super) parts: Vec<FormPart>,
    /// All instances of the service ask for it, and for the same steps.
    pub(super) everywhere: bool,
    /// When the first of them was registered.
    pub(super) since: u64,
    /// Since when one of them is registered as it is.
    pub(super) modified: u64,
    pub(super) remarks: Vec<String>,
    /// What the newest usable one asks for is not known but for what it matches: nothing is served.
    pub(super) is_blocked: bool,
}

/// Those of them that also say the same otherwise.
#[derive(Debug)]
pub(super) struct FormPart {
    /// By [`ASK_LABEL`](super::ASK_LABEL).
    pub(super) ask: String,
    pub(super) steps: Option<Arc<Steps>>,
    /// The sum of the weights of those that take traffic, or how many are registered where none does.
    pub(super) weight: u32,
}

/// A service's part in a route of fabio's.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) prefix: Prefix,
    pub(super) tag: Arc<str>,
    /// `None`: there never was a good form.
    pub(super) form: Option<TargetForm>,
    pub(super) problem: Option<Problem>,
    /// The instances with this tag.
    pub(super) ids: BTreeSet<Arc<str>>,
    /// How many of them take traffic.
    pub(super) usable: usize,
    /// Every instance of the service has it.
    pub(super) everywhere: bool,
    /// When the first instance with it was registered.
    pub(super) since: u64,
}

/// What is served of a target.
#[derive(Clone, Debug)]
pub(super) struct TargetForm {
    pub(super) asked: fabio::Asked,
    /// The good tag that it comes from. `None`: there may have been one, which is not known, or an option of access is
    /// wrong; nothing is served.
    pub(super) tag: Option<Arc<str>>,
}

impl Claims {
    /// What the instances ask for now; what is wrong keeps the form it had before.
    pub(super) fn read(look: Look<'_>, before: Self) -> Self {
        let mut claims = Self { seen: look.ids(), ..Self::default() };
        if look.rules.native {
            claims.native = read_native(look, &before, &mut claims.problems);
            claims.ages = order::ages(&claims.native, &before.ages);
        }
        if look.rules.fabio {
            claims.read_fabio(look, &before);
        }
        claims.limit(look.service);
        claims
    }

    fn limit(&mut self, service: &str) {
        let count =
            |native: &BTreeMap<String, Claim>| native.values().map(|claim| claim.forms.len().max(1)).sum::<usize>();
        let all = count(&self.native) + self.fabio.len();
        if all > MAX_ROUTES {
            let text =
                format!("asks for {all} routes, and {MAX_ROUTES} are the most for one service: the rest is left out");
            self.problems.push(Problem::new(place(service), "", text));
            while count(&self.native) > MAX_ROUTES {
                self.native.pop_last();
            }
            self.fabio.truncate(MAX_ROUTES - count(&self.native));
        }
    }

    fn read_fabio(&mut self, look: Look<'_>, before: &Self) {
        let mut by_tag: BTreeMap<&str, Vec<&EndpointSpec>> = BTreeMap::new();
        for endpoint in look.endpoints {
            for tag in tags(endpoint).filter(|tag| fabio::asks(tag)) {
                by_tag.entry(tag).or_default().push(endpoint);
            }
        }
        let knows_past = |having: &[&EndpointSpec]| {
            having.iter().all(|endpoint| look.knows_past_of(endpoint) && !before.unknown.contains(&endpoint.id))
        };
        let mut unplaced = Vec::new();
        for (tag, having) in &by_tag {
            let problem = |text: &str| {
                let instances = of_instances(&having[0].id, having.len());
                Problem::new(place(look.service), instances, format!("`{tag}`: {text}"))
            };
            let Tag { prefix, asked, ignored } = match fabio::read(tag, &look.rules.bounds) {
                None => continue,
                Some(Err(text)) => {
                    self.problems.push(problem(&text));
                    unplaced.push((*tag, having));
                    continue;
                }
                Some(Ok(tag)) => tag,
            };
            self.problems.extend(ignored.iter().map(|text| problem(text)));
            let wrong = asked.as_ref().err().map(|wrong| problem(&wrong.text));
            let last = last_form(&before.fabio, &prefix, having);
            let form = match (asked, last) {
                (Ok(asked), _) => Some(TargetForm { asked, tag: Some((*tag).into()) }),
                (Err(Wrong { guards: true, .. }), Some(last)) if last.tag.is_some() && last.asked.is_guarded() => {
                    Some(last)
                }
                // What was open before must not stay so now that somebody wants it guarded.
                (Err(Wrong { guards: true, text }), _) => Some(TargetForm::closed(format!("`{tag}`: {text}"))),
                (Err(_), Some(last)) if last.tag.is_some() => Some(last),
                (Err(_), last) if last.is_some() || !knows_past(having) => Some(TargetForm::closed(UNKNOWN.to_owned())),
                (Err(_), _) => None,
            };
            self.fabio.push(Target { form, problem: wrong, ..target(look, prefix, tag, having) });
        }
        for (tag, having) in unplaced {
            let is_new =
                |endpoint: &EndpointSpec| !before.unplaced.contains(&(Arc::clone(&endpoint.id), (*tag).into()));
            self.keep_missing(look, before, tag, having, is_new);
            self.unplaced.extend(having.iter().map(|endpoint| (Arc::clone(&endpoint.id), tag.into())));
            if !knows_past(having) {
                self.unknown.extend(having.iter().map(|endpoint| Arc::clone(&endpoint.id)));
            }
        }
    }

    /// A tag whose place became wrong may be any of those that its instances do not have any more: they stay.
    fn keep_missing(
        &mut self,
        look: Look<'_>,
        before: &Self,
        tag: &str,
        having: &[&EndpointSpec],
        is_new: impl Fn(&EndpointSpec) -> bool,
    ) {
        let formers = || before.fabio.iter().filter(|former| former.form.is_some());
        let prefixes: BTreeSet<&Prefix> = formers().map(|former| &former.prefix).collect();
        for prefix in prefixes {
            let had = |endpoint: &EndpointSpec| {
                let is_kept = |former: &Target| *former.tag == *tag || is_new(endpoint);
                formers().any(|it| it.prefix == *prefix && it.ids.contains(&endpoint.id) && is_kept(it))
            };
            let has = |endpoint: &EndpointSpec| {
                self.fabio.iter().any(|target| target.prefix == *prefix && target.ids.contains(&endpoint.id))
            };
            let missing = having.iter().filter(|endpoint| had(endpoint) && !has(endpoint));
            let missing: Vec<&EndpointSpec> = missing.copied().collect();
            if !missing.is_empty() {
                // The option that closed it may be gone.
                let form = last_form(&before.fabio, prefix, &missing).map(|form| match form.tag {
                    Some(_) => form,
                    None => TargetForm::closed(UNKNOWN.to_owned()),
                });
                self.fabio.push(Target { form, ..target(look, prefix.clone(), tag, &missing) });
            }
        }
    }
}

/// What there was at a place: of the same instances, where these had any, and what is guarded before what is not.
fn last_form(before: &[Target], prefix: &Prefix, having: &[&EndpointSpec]) -> Option<TargetForm> {
    let known: Vec<&Target> =
        before.iter().filter(|target| target.prefix == *prefix && target.form.is_some()).collect();
    let is_own = |target: &&&Target| having.iter().any(|endpoint| target.ids.contains(&endpoint.id));
    let mut forms: Vec<&TargetForm> = known.iter().filter(is_own).filter_map(|target| target.form.as_ref()).collect();
    if forms.is_empty() {
        forms = known.iter().filter_map(|target| target.form.as_ref()).collect();
    }
    let guarded = forms.iter().find(|form| form.asked.is_guarded());
    guarded.or(forms.first()).copied().cloned()
}

/// A target without a form.
pub(super) fn target(look: Look<'_>, prefix: Prefix, tag: &str, having: &[&EndpointSpec]) -> Target {
    Target {
        prefix,
        tag: tag.into(),
        form: None,
        problem: None,
        ids: having.iter().map(|endpoint| Arc::clone(&endpoint.id)).collect(),
        usable: having.iter().filter(|endpoint| is_usable(endpoint)).count(),
        everywhere: having.len() == look.endpoints.len(),
        since: since(having.iter().copied()),
    }
}

impl TargetForm {
    /// Nothing is served.
    pub(super) fn closed(why: String) -> Self {
        Self { asked: fabio::Asked { broken: Some(why), ..fabio::Asked::default() }, tag: None }
    }
}

impl Target {
    pub(super) fn asked(&self) -> Option<&fabio::Asked> {
        self.form.as_ref().map(|form| &form.asked)
    }

    /// Whether it is closed, and no good form of it is known.
    pub(super) fn is_blocked(&self) -> bool {
        self.form.as_ref().is_some_and(|form| form.tag.is_none())
    }
}

fn read_native(look: Look<'_>, before: &Claims, ignored: &mut Vec<Problem>) -> BTreeMap<String, Claim> {
    type Asking<'a> = Vec<(&'a EndpointSpec, Result<Native, WrongRoute>)>;
    let mut by_route: BTreeMap<String, Asking<'_>> = BTreeMap::new();
    for endpoint in look.endpoints {
        let native::Asked { mut routes, has_stray } = native::read(endpoint, &look.rules.bounds);
        if has_stray {
            // What is said of no known route may belong to one that it does not ask for any more, or that the others ask for.
            let is_new = !before.seen.contains(&endpoint.id);
            for (name, claim) in &before.native {
                if (is_new || claim.by_instance.contains_key(&endpoint.id)) && !routes.contains_key(name) {
                    routes.insert(name.clone(), Err(WrongRoute::default()));
                }
            }
        }
        for (route, asked) in routes {
            by_route.entry(route).or_default().push((endpoint, asked));
        }
    }
    // What may have been any route may have been this one.
    let stray = before.native.get(native::STRAY).map(|claim| &claim.by_instance);
    let knows_past = |endpoint: &EndpointSpec| {
        look.knows_past_of(endpoint) && !stray.is_some_and(|stray| stray.contains_key(&endpoint.id))
    };
    let mut claims = BTreeMap::new();
    for (route, mut asking) in by_route {
        asking.sort_by_key(|(endpoint, _)| newest_usable_first(endpoint));
        let mut problems: BTreeMap<&str, (&EndpointSpec, usize)> = BTreeMap::new();
        for (endpoint, asked) in &asking {
            for text in asked.as_ref().err().into_iter().flat_map(|wrong| &wrong.problems) {
                problems.entry(text).or_insert((endpoint, 0)).1 += 1;
            }
        }
        let problems = problems.into_iter().map(|(text, (endpoint, count))| {
            Problem::new(place(look.service), of_instances(&endpoint.id, count), text)
        });
        let problems = problems.collect();
        let former = before.native.get(&route);
        let newest_good = asking.iter().find_map(|(_, asked)| asked.clone().ok());
        let forms = asking.into_iter().filter_map(|(endpoint, asked)| {
            let form = match asked {
                Ok(native) => LastForm::Good(native),
                Err(wrong) => {
                    let own = former.and_then(|former| former.by_instance.get(&endpoint.id));
                    last_or_unknown(wrong, own, former, newest_good.as_ref(), knows_past(endpoint))?
                }
            };
            Some((endpoint, form))
        });
        let claim = Claim::of(forms.collect(), look.endpoints.len(), problems);
        for form in claim.forms.iter().filter(|form| !form.is_blocked) {
            if let Some(text) = never_strips(&form.native) {
                ignored.push(Problem::new(place(look.service), "", text));
            }
        }
        claims.insert(route, claim);
    }
    claims
}

/// What stands for the wrong form of an instance; `None`: there never was anything.
fn last_or_unknown(
    wrong: WrongRoute,
    own: Option<&LastForm>,
    former: Option<&Claim>,
    newest_good: Option<&Native>,
    knows_past: bool,
) -> Option<LastForm> {
    let of_route = || former.and_then(Claim::last);
    let last = match own {
        Some(own) => Some(own.clone()),
        // An instance that is new asks for what the others did.
        None if knows_past => of_route().or_else(|| newest_good.cloned().map(LastForm::Good)),
        None => Some(LastForm::Unknown(Vec::new())),
    };
    Some(match last? {
        LastForm::Unknown(known) => {
            let of_others = || match of_route() {
                Some(LastForm::Good(native)) => vec![native.matching],
                Some(LastForm::Unknown(matchings)) => matchings,
                None => newest_good.map(|native| native.matching.clone()).into_iter().collect(),
            };
            let known = if wrong.matchings.is_empty() { known } else { wrong.matchings };
            LastForm::Unknown(if known.is_empty() { of_others() } else { known })
        }
        good @ LastForm::Good(_) => good,
    })
}

/// Where instances differ, the first of them in this order wins.
pub(super) fn newest_usable_first(endpoint: &EndpointSpec) -> Reverse<(bool, u64, Arc<str>)> {
    Reverse((is_usable(endpoint), endpoint.modified, Arc::clone(&endpoint.id)))
}

/// An instance whose match is known.
struct Member<'a> {
    endpoint: &'a EndpointSpec,
    matching: &'a MatchSpec,
    /// `None`: not known.
    native: Option<&'a Native>,
}

impl Claim {
    /// Of instances of a service that has `of` of them, the newest usable one first.
    pub(super) fn of(asking: Vec<(&EndpointSpec, LastForm)>, of: usize, problems: Vec<Problem>) -> Self {
        let mut members = Vec::new();
        for (endpoint, form) in &asking {
            match form {
                LastForm::Good(native) => {
                    members.push(Member { endpoint, matching: &native.matching, native: Some(native) })
                }
                LastForm::Unknown(matchings) => {
                    members.extend(matchings.iter().map(|matching| Member { endpoint, matching, native: None }))
                }
            }
        }
        let forms = forms(&members, of);
        let by_instance = asking.into_iter().map(|(endpoint, form)| (Arc::clone(&endpoint.id), form)).collect();
        Self { forms, by_instance, problems }
    }

    /// What an instance asks for that is new and wrong.
    fn last(&self) -> Option<LastForm> {
        match self.forms.first() {
            Some(form) if form.is_blocked => Some(LastForm::Unknown(vec![form.native.matching.clone()])),
            Some(form) => Some(LastForm::Good(form.native.clone())),
            None => self.by_instance.values().next().cloned(),
        }
    }
}

/// Parts instances, the newest usable one first, by what they ask for.
fn forms(members: &[Member<'_>], of: usize) -> Vec<Form> {
    let mut groups: Vec<Vec<&Member<'_>>> = Vec::new();
    for member in members {
        match groups.iter_mut().find(|group| group[0].matching == member.matching) {
            Some(group) => group.push(member),
            None => groups.push(vec![member]),
        }
    }
    // Stable: of two that as many ask for, the newer one goes first.
    groups.sort_by_key(|group| Reverse(group.len()));
    let several = groups.len() > 1;
    groups.into_iter().map(|group| form(&group, several, of)).collect()
}

fn form(group: &[&Member<'_>], several: bool, of: usize) -> Form {
    let newest = group[0];
    let only_match = || Native { matching: newest.matching.clone(), steps: None, middlewares: Vec::new() };
    let native = newest.native.cloned().unwrap_or_else(only_match);
    let mut remarks = Vec::new();
    if several {
        remarks.push(format!(
            "conflict: instances ask for different hosts or paths; {} of {of} ask for this, and get its requests",
            group.len()
        ));
    }
    let differs = |member: &&&Member<'_>| {
        newest.native.zip(member.native).is_some_and(|(newest, other)| newest.middlewares != other.middlewares)
    };
    if let Some(other) = group.iter().find(differs) {
        remarks.push(format!(
            "conflict: instances ask for different middlewares; `{}` is the newest and wins over `{}`",
            newest.endpoint.id, other.endpoint.id
        ));
    }
    let steps = |member: &Member<'_>| member.native.map_or(&native.steps, |native| &native.steps).clone();
    let mut parts: BTreeMap<String, (Option<Arc<Steps>>, u64, u64)> = BTreeMap::new();
    for member in group {
        // What never had a good form of its own says nothing by which it could be selected.
        let ask = super::native_ask(&member.endpoint.labels).unwrap_or_default();
        let (_, usable, registered) = parts.entry(ask).or_insert_with(|| (steps(member), 0, 0));
        *registered += 1;
        *usable += if is_usable(member.endpoint) { u64::from(member.endpoint.weight) } else { 0 };
    }
    let any_usable = parts.values().any(|(_, usable, _)| *usable > 0);
    let weight = |usable: u64, registered: u64| {
        let weight = if any_usable { usable } else { registered };
        u32::try_from(weight.min(1_000_000)).unwrap_or(1_000_000)
    };
    let everywhere = group.len() == of && group.iter().all(|member| steps(member) == native.steps);
    let parts = parts.into_iter();
    let parts = parts
        .map(|(ask, (steps, usable, registered))| FormPart { ask, steps, weight: weight(usable, registered) })
        .collect();
    let since = since(group.iter().map(|member| member.endpoint));
    let modified = group.iter().map(|member| member.endpoint.modified).min().unwrap_or_default();
    Form { native, parts, everywhere, since, modified, remarks, is_blocked: newest.native.is_none() }
}

/// When the first of these was registered.
fn since<'e>(endpoints: impl Iterator<Item = &'e EndpointSpec>) -> u64 {
    endpoints.map(|endpoint| endpoint.created).filter(|created| *created > 0).min().unwrap_or(u64::MAX)
}

/// That no path which a route matches begins with what it strips.
fn never_strips(native: &Native) -> Option<String> {
    let strip = native.steps.as_ref()?.strip_prefix.as_ref()?.as_str();
    let PathMatch::Prefix(path) = &native.matching.path else { return None };
    let meets = PathMatch::Prefix(strip.to_owned()).overlap(&native.matching.path) > Overlap::None;
    (!meets).then(|| format!("`strip_prefix={strip}` never applies: no path below `{path}` begins with `{strip}`"))
}

pub(super) fn place(service: &str) -> String {
    format!("consul:{service}")
}

fn of_instances(first: &str, count: usize) -> String {
    if count > 1 { format!("{first} and {} more", count - 1) } else { first.to_owned() }
}
