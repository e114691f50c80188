//! Defines what the gateway would do with a request, and why: found out by the functions that serve.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::middleware::Trouble;
use crate::snapshot::target::{DecidedBy, Odds, odds, sticky_key};
use crate::snapshot::{
    Endpoint, LevelView, RequestView, Route, RouteState, Snapshot, Standing, Target, Upstream, gate, level, middleware,
};
use crate::spec::breaker::Fallback;
use crate::spec::condition::first_unmet;
use crate::spec::encode;
use crate::spec::name::Name;
use crate::spec::percent::Percent;
use crate::spec::route::Choice;
use crate::spec::settings::Listener;

mod answer;
mod question;
mod word;

pub use answer::{
    Answer, Candidate, ExplainedEndpoint, ExplainedMiddleware, ExplainedRoute, ExplainedTarget, ExplainedUpstream,
    Explanation, Fate, RouteHealth, Seen,
};
pub use question::{Question, Wrong};

/// Routes considered that an answer shows; the one taken is always among them.
pub const MOST_ROUTES: usize = 100;
/// Targets of the route taken that an answer shows.
pub const MOST_TARGETS: usize = 100;
/// Upstreams that an answer shows.
pub const MOST_UPSTREAMS: usize = 20;
/// Endpoints of an upstream that an answer shows.
pub const MOST_ENDPOINTS: usize = 200;

/// Explains what a request would meet now.
///
/// # Errors
/// A listener or route that is not there.
pub fn explain(
    question: &Question,
    snapshot: &Snapshot,
    listeners: &BTreeMap<Name, Listener>,
) -> Result<Explanation, Wrong> {
    let (listener, settings) = question.listener(listeners)?;
    let request = &question.request;
    let mut explanation = Explanation::new(snapshot.generation, question, listener);
    let passed = match gate::check(request, true, settings) {
        Ok(passed) => passed,
        Err((error, reason)) => {
            explanation.answer = Some(Answer::new(
                error.status(),
                error.flag().as_str(),
                error.code(),
                format!("the gate refuses it: {reason}"),
            ));
            return Ok(explanation);
        }
    };
    let view = passed.view(request, listener);
    explanation.request.host = Some(view.host.to_owned());
    explanation.request.path = Some(view.path.to_owned());
    if let Some(redirect) = &settings.redirect_to_https {
        explanation.answer = Some(match passed.https_location(request, redirect) {
            Ok(location) => {
                let reason = format!("the listener sends every request to https, this one to {location}");
                Answer::new(redirect.status, "", "", reason)
            }
            Err(error) => {
                let reason = "the listener sends every request to https, and this one has no host or path".to_owned();
                Answer::new(error.status(), error.flag().as_str(), error.code(), reason)
            }
        });
        return Ok(explanation);
    }
    if let Err(error) = snapshot.open() {
        let reasons = snapshot.report.closed_by().collect::<Vec<_>>().join("; ");
        let reason = format!("the gateway serves nothing until everything is read that may protect a route: {reasons}");
        explanation.answer = Some(Answer::new(error.status(), error.flag().as_str(), error.code(), reason));
        return Ok(explanation);
    }
    let taken = snapshot.routes.take(&view);
    explanation.add_candidates(question, snapshot, &view, taken.ok())?;
    let route = taken.ok().map(|position| &snapshot.routes.routes()[position]);
    if let Err(answer) = explanation.add_middlewares(listener, route, snapshot) {
        explanation.answer = Some(answer);
        return Ok(explanation);
    }
    match taken {
        Err(error) => {
            explanation.answer = Some(Answer::new(
                error.status(),
                error.flag().as_str(),
                error.code(),
                "no route's conditions all hold".to_owned(),
            ))
        }
        Ok(position) => explanation.follow(&snapshot.routes.routes()[position], question, snapshot, &view),
    }
    Ok(explanation)
}

impl Explanation {
    fn add_candidates(
        &mut self,
        question: &Question,
        snapshot: &Snapshot,
        view: &RequestView<'_>,
        taken: Option<usize>,
    ) -> Result<(), Wrong> {
        let table = &snapshot.routes;
        let candidates = table.candidates(view, MOST_ROUTES);
        let mut passed = false;
        for candidate in &candidates.routes {
            let is_taken = taken == Some(candidate.position);
            passed |= is_taken;
            let (fate, reason) = match candidate.unmet {
                None if is_taken => {
                    let name = &table.routes()[candidate.position].name;
                    (Fate::Taken, format!("all its conditions hold{}", word::won(name, &snapshot.report)))
                }
                None => {
                    let name = &table.routes()[candidate.position].name;
                    let by = taken.map(|taken| &table.routes()[taken].name);
                    (Fate::After, word::behind(name, by, &snapshot.report))
                }
                Some(unmet) => (if passed { Fate::After } else { Fate::Unmet }, word::unmet(unmet, view)),
            };
            self.routes.push(Candidate::new(&table.routes()[candidate.position], fate, reason));
        }
        self.more_routes = candidates.more;
        self.other_routes = candidates.others;
        let Some(name) = &question.route else { return Ok(()) };
        let position = table.routes().iter().position(|route| &*route.label == name.as_str());
        let position = position.ok_or_else(|| Wrong::NoRoute(name.clone()))?;
        let route = &table.routes()[position];
        if !self.routes.iter().any(|shown| shown.name == route.name)
            && let Some(unmet) = table.unmet_of(position, view)
        {
            self.routes.push(Candidate::new(route, Fate::Unmet, word::unmet(unmet, view)));
        }
        Ok(())
    }

    /// What the request passes on its way.
    ///
    /// # Errors
    /// What every client of the listener gets.
    fn add_middlewares(
        &mut self,
        listener: &Name,
        route: Option<&Arc<Route>>,
        snapshot: &Snapshot,
    ) -> Result<(), Answer> {
        let of_listener = snapshot.middlewares.of_listener(listener).map_err(|(error, reasons)| {
            let reason = format!("the listener's middlewares: {}", reasons.join("; "));
            Answer::new(error.status(), error.flag().as_str(), error.code(), reason)
        })?;
        let of_route = route.map_or(&[][..], |route| &route.middlewares);
        self.middlewares = middleware::chain(of_listener, of_route)
            .map(|(named, of, fate)| ExplainedMiddleware {
                name: Arc::clone(&named.label),
                provider: named.provider,
                r#type: named.spec.kind(),
                of,
                runs: matches!(fate, middleware::Fate::Runs),
                reason: match fate {
                    middleware::Fate::Runs => match named.trouble(snapshot) {
                        None => encode::middleware(&named.spec).to_string(),
                        Some(Trouble { text, refuses: true }) => format!("answers 503: {text}"),
                        Some(Trouble { text, .. }) => format!("{}; {text}", encode::middleware(&named.spec)),
                    },
                    middleware::Fate::IsThere => "the listener has it already".to_owned(),
                    middleware::Fate::Replaced(other) => format!("the route has `{}` instead", other.label),
                },
            })
            .collect();
        Ok(())
    }

    /// From the route to the endpoints.
    fn follow(&mut self, route: &Route, question: &Question, snapshot: &Snapshot, view: &RequestView<'_>) {
        let mut explained = ExplainedRoute::new(route);
        explained.reasons = snapshot.report.remarks_of(&route.name, route.provider);
        if let Err(error) = route.open() {
            let reasons = route.state.reasons().to_vec();
            self.answer = Some(Answer::new(error.status(), error.flag().as_str(), error.code(), reasons.join("; ")));
            explained.state = RouteHealth::Unresolved;
            explained.reasons.splice(0..0, reasons);
            self.route = Some(explained);
            return;
        }
        if let RouteState::Kept(reasons) = &route.state {
            explained.state = RouteHealth::Kept;
            explained
                .reasons
                .splice(0..0, reasons.iter().map(|reason| format!("{reason}; its last form that resolved is served")));
        }
        let usable: Vec<usize> =
            route.targets.iter().map(|target| snapshot.usable(target).map_or(0, |(_, usable)| usable.len())).collect();
        let is_usable = |target: &Target| snapshot.usable(target).is_some_and(|(_, usable)| !usable.is_empty());
        let mut buffer = [0; 16];
        let key = route.sticky().and_then(|sticky| sticky_key(sticky, view, question.client, &mut buffer));
        let odds = odds(route, view, key, is_usable);
        explained.decided_by = Some(word::decided(route, &odds, question.client.is_some()));
        for (position, target) in route.targets.iter().enumerate() {
            if target.may_get_traffic() && usable[position] == 0 {
                if explained.state == RouteHealth::Ok {
                    explained.state = RouteHealth::Degraded;
                }
                explained.reasons.push(format!("{} has no usable endpoint", target.label));
            }
            if position >= MOST_TARGETS && odds.drawn[position] == 0.0 && odds.taken[position] == 0.0 {
                explained.more_targets += 1;
                continue;
            }
            explained.targets.push(ExplainedTarget {
                target: Arc::clone(&target.label),
                weight: match &target.spec.choice {
                    Choice::Weight(weight) => Some(*weight),
                    Choice::When(_) => None,
                },
                when: match &target.spec.choice {
                    Choice::Weight(_) => None,
                    Choice::When(conditions) => Some(encode::conditions(conditions).into()),
                },
                drawn: odds.drawn[position],
                probability: odds.taken[position],
                usable: usable[position],
                levels: levels_of(target, snapshot),
                reason: target_reason(target, position, &odds, usable[position], view),
                steps: {
                    let passed = target.middlewares.iter().map(|named| {
                        format!("passes middleware `{}`: {}", named.label, encode::middleware(&named.spec))
                    });
                    let steps = target.spec.steps.as_ref().map(|steps| word::steps(steps)).unwrap_or_default();
                    passed.chain(steps).collect()
                },
            });
        }
        if let Err(error) = odds.taken() {
            let reason = match odds.by {
                DecidedBy::Condition(index) => {
                    format!("{}, which its condition decides for, has no usable endpoint", route.targets[index].label)
                }
                DecidedBy::Key | DecidedBy::Weight => "no target with a weight has a usable endpoint".to_owned(),
            };
            self.answer = Some(Answer::new(error.status(), error.flag().as_str(), error.code(), reason));
        } else {
            let of_steps = answered_by_steps(route, &odds, question.client);
            self.answer = of_steps.or_else(|| answered_by_breakers(route, &odds, snapshot));
        }
        self.route = Some(explained);
        self.add_upstreams(route, snapshot);
    }

    fn add_upstreams(&mut self, route: &Route, snapshot: &Snapshot) {
        let mut by_slot: BTreeMap<usize, Vec<&Target>> = BTreeMap::new();
        let mut order = Vec::new();
        for target in &route.targets {
            let of_slot = by_slot.entry(target.slot).or_insert_with(|| {
                order.push(target.slot);
                Vec::new()
            });
            if !of_slot.iter().any(|known| known.subset == target.subset) {
                of_slot.push(target);
            }
        }
        for slot in order {
            let Some(upstream) = snapshot.upstream(slot) else { continue };
            if self.upstreams.len() == MOST_UPSTREAMS {
                self.more_upstreams += 1;
                continue;
            }
            self.upstreams.push(explained_upstream(upstream, &by_slot[&slot], snapshot));
        }
    }
}

fn levels_of(target: &Target, snapshot: &Snapshot) -> Vec<LevelView> {
    let levels = || {
        let upstream = snapshot.upstream(target.slot)?;
        Some(level::view(upstream, upstream.selector(target.subset)?))
    };
    levels().unwrap_or_default()
}

fn target_reason(target: &Target, position: usize, odds: &Odds, usable: usize, view: &RequestView<'_>) -> String {
    let empty = usable == 0;
    match (&odds.by, &target.spec.choice) {
        (DecidedBy::Condition(index), _) if *index == position => if empty {
            "its condition holds; no usable endpoint, and no other target answers for it"
        } else {
            "its condition holds"
        }
        .to_owned(),
        (_, Choice::When(conditions)) => match first_unmet(conditions, view.headers, view.query) {
            Some(unmet) => word::unmet(unmet, view),
            None => "its condition holds, but so does that of a target before it".to_owned(),
        },
        (DecidedBy::Condition(_), Choice::Weight(_)) => "a condition decides before shares".to_owned(),
        (_, Choice::Weight(0)) => "weight 0: never drawn".to_owned(),
        (_, Choice::Weight(_)) if empty => "no usable endpoint: its share goes to the others".to_owned(),
        (DecidedBy::Key, Choice::Weight(_)) => if odds.taken[position] > 0.0 {
            "the client's key falls to it"
        } else {
            "the client's key falls to another"
        }
        .to_owned(),
        (DecidedBy::Weight, Choice::Weight(_)) => "its share of the weights".to_owned(),
    }
}

/// What a client gets of the targets it may meet without an endpoint's word: if they all say the same.
fn answered_by_steps(route: &Route, odds: &Odds, client: Option<IpAddr>) -> Option<Answer> {
    let met = route.targets.iter().zip(&odds.taken).filter(|(_, taken)| **taken > 0.0);
    let mut answers = met.map(|(target, _)| {
        if let Some(Err(error)) = client.map(|client| target.admits(Some(client))) {
            let reason = "the client's address may not come".to_owned();
            return Some(Answer::new(error.status(), error.flag().as_str(), error.code(), reason));
        }
        let redirect = target.spec.steps.as_ref()?.redirect.as_ref()?;
        Some(Answer::new(redirect.status, "", "", word::redirect(redirect)))
    });
    let first = answers.next()??;
    answers.all(|other| other.as_ref() == Some(&first)).then_some(first)
}

/// What a client gets of the breakers of the upstreams it may meet: if each of them refuses it, and with the same
/// status.
fn answered_by_breakers(route: &Route, odds: &Odds, snapshot: &Snapshot) -> Option<Answer> {
    let met = route.targets.iter().zip(&odds.taken).filter(|(_, taken)| **taken > 0.0);
    let mut answers = met.map(|(target, _)| {
        let upstream = snapshot.upstream(target.slot)?;
        let refusal = upstream.refuses(Instant::now())?;
        let error = refusal.error();
        let (status, code) = match &upstream.settings.breaker.as_ref()?.fallback {
            // Its answer, or its breaker's.
            Some(Fallback::Upstream(_)) if upstream.fallback.is_some() => return None,
            Some(Fallback::Upstream(_)) | None => (error.status(), error.code()),
            Some(Fallback::Answer(canned)) => (canned.status, ""),
        };
        let reason = format!("the breaker of {} refuses it: {refusal}", upstream.label);
        Some(Answer::new(status, error.flag().as_str(), code, reason))
    });
    let first = answers.next()??;
    answers.all(|other| other.is_some_and(|other| other.status == first.status)).then_some(first)
}

fn explained_upstream(upstream: &Upstream, targets: &[&Target], snapshot: &Snapshot) -> ExplainedUpstream {
    // Who is usable for which target; a target's list may leave endpoints out that are well.
    let usable: Vec<(&Target, Vec<u32>)> = targets
        .iter()
        .filter_map(|target| Some((*target, snapshot.usable(target).map(|(_, usable)| usable)?)))
        .collect();
    let endpoint = |(index, endpoint): (u32, &Endpoint)| {
        let serves = usable.iter().filter(|(_, list)| list.binary_search(&index).is_ok());
        let targets: Vec<Arc<str>> = serves.map(|(target, _)| Arc::clone(&target.label)).collect();
        let mut reasons = endpoint.reasons(&upstream.settings);
        if !targets.is_empty() {
            let (most, few) = (upstream.settings.passive_health.max_ejected, upstream.settings.panic_threshold);
            match endpoint.standing(&upstream.settings) {
                Standing::Ejected if few == Percent::NONE => {
                    reasons.push(format!("used all the same: all look bad, or no more than {most} may be out of use"));
                }
                Standing::Ejected => reasons.push(format!(
                    "used all the same: less than {few} are well, or no more than {most} may be out of use"
                )),
                Standing::Unhealthy => reasons.push(format!("used all the same: less than {few} are well")),
                Standing::Healthy
                | Standing::Untested
                | Standing::Damped
                | Standing::Draining
                | Standing::Maintenance => {}
            }
        }
        if targets.is_empty() {
            match endpoint.standing(&upstream.settings) {
                Standing::Healthy => reasons.push("no target's subset has its labels".to_owned()),
                Standing::Untested => {
                    reasons.push("others passed theirs, or no target's subset has its labels".to_owned())
                }
                Standing::Unhealthy
                | Standing::Damped
                | Standing::Ejected
                | Standing::Draining
                | Standing::Maintenance => {}
            }
        }
        ExplainedEndpoint {
            address: endpoint.address,
            state: endpoint.state_name(&upstream.settings),
            weight: endpoint.weight,
            labels: Arc::clone(&endpoint.labels),
            usable: !targets.is_empty(),
            targets,
            reasons,
        }
    };
    ExplainedUpstream {
        name: Arc::clone(&upstream.label),
        provider: upstream.provider,
        source: upstream.source_text(),
        known: upstream.known,
        breaker: upstream.breaker(Instant::now()),
        host: encode::host(&upstream.settings.host),
        endpoints: (0u32..).zip(upstream.endpoints.iter()).take(MOST_ENDPOINTS).map(endpoint).collect(),
        more_endpoints: upstream.endpoints.len().saturating_sub(MOST_ENDPOINTS),
    }
}

#[cfg(test)]
mod tests;
