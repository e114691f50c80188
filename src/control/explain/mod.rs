//! Defines what the gateway would do with a request, and why: found out by the functions that serve.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use http::Request;

use crate::exchange::{ClientAddress, ProxyError, hop};
use crate::middleware::Trouble;
use crate::snapshot::preflight::{asked_method, take as preflight_route};
use crate::snapshot::target::{DecidedBy, Odds, odds, sticky_key};
use crate::snapshot::{
    Endpoint, LevelView, NamedMiddleware, RequestView, Route, RouteJudge, Snapshot, Standing, Target, Upstream, gate,
    level, middleware,
};
use crate::spec::breaker::Fallback;
use crate::spec::condition::first_unmet;
use crate::spec::encode;
use crate::spec::name::Name;
use crate::spec::percent::Percent;
use crate::spec::route::{Access, Choice};
use crate::spec::settings::Listener;

mod answer;
mod arrival;
mod question;
mod rehearsal;
mod word;

pub use answer::{
    Answer, Candidate, Effect, ExplainedEndpoint, ExplainedMiddleware, ExplainedRoute, ExplainedTarget,
    ExplainedUpstream, Explanation, Fate, Seen, Unless,
};
pub use question::{Question, Wrong};

use arrival::{Arrival, settled};
use rehearsal::{Ending, Facts, Known, Rehearsed, rehearse};

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
pub async fn explain(
    question: &Question,
    snapshot: &Arc<Snapshot>,
    listeners: &BTreeMap<Name, Listener>,
) -> Result<Explanation, Wrong> {
    let (listener, settings) = question.listener(listeners)?;
    let about = question.route_in(&snapshot.routes)?;
    let arrival = Arrival::new(question, settings);
    let request = &arrival.request;
    let mut explanation = Explanation::new(snapshot.generation, question, &arrival, listener);
    let passed = match gate::check(request, true, settings) {
        Ok(passed) => passed,
        Err((error, reason)) => {
            explanation.answer = Some(Answer::refusal(error, request, format!("the gate refuses it: {reason}")));
            return Ok(explanation);
        }
    };
    let view = passed.view(request, listener);
    explanation.request.host = Some(view.host.to_owned());
    explanation.request.path = Some(view.path.to_owned());
    if let Some(redirect) = settings.redirect_to_https.as_ref().filter(|_| !arrival.is_secure) {
        explanation.answer = Some(match passed.https_location(request, redirect) {
            Ok(location) => {
                let reason = format!("the listener sends every request to https, this one to {location}");
                Answer::own(redirect.status, "", reason)
            }
            Err(error) => {
                let reason = "the listener sends every request to https, and this one has no host or path".to_owned();
                Answer::refusal(error, request, reason)
            }
        });
        return Ok(explanation);
    }
    if let Err(error) = snapshot.open() {
        let reasons = snapshot.report.closed_by().collect::<Vec<_>>().join("; ");
        let reason = format!("the gateway serves nothing until everything is read that may protect a route: {reasons}");
        explanation.answer = Some(Answer::refusal(error, request, reason));
        return Ok(explanation);
    }
    let asked = asked_method(request.method(), request.headers());
    let (taken, is_preflight) = match &asked {
        None => (snapshot.routes.take(&view), false),
        Some(asked) => match preflight_route(&snapshot.routes, &snapshot.middlewares, &view, asked) {
            Ok((position, is_preflight)) => (Ok(position), is_preflight),
            Err(error) => (Err(error), false),
        },
    };
    // A preflight is matched as the request that it asks about, where the route of that has the middleware `cors`.
    let view = match &asked {
        Some(asked) if is_preflight => RequestView { method: asked, ..view },
        Some(_) | None => view,
    };
    explanation.add_candidates(about, snapshot, &view, taken.ok());
    let route = taken.ok().map(|position| &snapshot.routes.routes()[position]);
    let of_listener = match snapshot.middlewares.of_listener(listener) {
        Ok(of_listener) => of_listener,
        Err((error, reasons)) => {
            let reason = format!("the listener's middlewares: {}", reasons.join("; "));
            explanation.answer = Some(Answer::refusal(error, request, reason));
            return Ok(explanation);
        }
    };
    if let Some(route) = route
        && let Err(error) = route.open()
    {
        explanation.route = Some(explained_route(route, snapshot).0);
        let reason = route.state.reasons().join("; ");
        explanation.answer = Some(Answer::refusal(error, request, reason));
        explanation.add_middlewares(of_listener, &route.middlewares, None, snapshot);
        return Ok(explanation);
    }
    if hop::goes_in_circles(request.headers()) {
        explanation.route = route.map(|route| explained_route(route, snapshot).0);
        let reason = "it came through too many gateways like this one: a route leads back to the gateway".to_owned();
        explanation.answer = Some(Answer::refusal(ProxyError::Loop, request, reason));
        return Ok(explanation);
    }
    let facts = Facts {
        snapshot: Arc::clone(snapshot),
        route: taken.ok(),
        client: arrival.client,
        host: view.host.to_owned(),
        is_secure: arrival.is_secure,
        may_have_certificate: settings.tls.as_ref().is_some_and(|tls| tls.clients.is_some()),
    };
    let of_route = route.map_or(&[][..], |route| &route.middlewares);
    let mut arrived = passed.arrived(request);
    // Without any, targets are drawn by all headers that came.
    if !of_listener.is_empty() || !of_route.is_empty() {
        hop::settle_nominated(arrived.headers_mut());
    }
    let running = middleware::chain(of_listener, of_route).filter(|(.., fate)| matches!(fate, middleware::Fate::Runs));
    let running: Vec<_> = running.map(|(named, ..)| named).collect();
    let rehearsed = rehearse(&running, &arrived, &facts, &Known::default()).await;
    explanation.add_middlewares(of_listener, of_route, Some(&rehearsed), snapshot);
    for (position, why) in &rehearsed.open {
        let named = running.get(*position).map_or("", |named| &*named.label);
        explanation.unless.push(Unless { who: format!("middleware `{named}`"), reason: (*why).to_owned() });
    }
    let (sent, known) = match rehearsed.ending {
        // Its targets are shown as if it had passed.
        Ending::Answered(_, answer) => {
            if let Some(route) = route {
                explanation.follow(route, &arrived, Known::default(), &facts, listener).await;
                explanation.unless.retain(|unless| !unless.is_of_target());
            }
            explanation.answer = Some(answer);
            return Ok(explanation);
        }
        Ending::Forwarded(sent, known) => (sent, known),
    };
    match taken {
        Err(error) => {
            let reason = match error {
                ProxyError::NoRoute => "no route's conditions all hold".to_owned(),
                _ => format!(
                    "a regular expression searches {}, and a route that may match it asks for more",
                    word::SEARCHED
                ),
            };
            explanation.answer = Some(Answer::refusal(error, request, reason));
        }
        Ok(_) if is_preflight => {
            let reason = "no middleware answers the preflight, and its route need not take OPTIONS".to_owned();
            explanation.answer = Some(Answer::refusal(ProxyError::NoRoute, request, reason));
        }
        Ok(position) => {
            let route = &snapshot.routes.routes()[position];
            explanation.follow(route, &sent, known, &facts, listener).await;
        }
    }
    Ok(explanation)
}

impl Explanation {
    fn add_candidates(
        &mut self,
        about: Option<usize>,
        snapshot: &Snapshot,
        view: &RequestView<'_>,
        taken: Option<usize>,
    ) {
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
        let Some(position) = about else { return };
        let route = &table.routes()[position];
        if !self.routes.iter().any(|shown| shown.name == route.name)
            && let Some(unmet) = table.unmet_of(position, view)
        {
            self.routes.push(Candidate::new(route, Fate::Unmet, word::unmet(unmet, view)));
        }
    }

    /// What the request passes on its way; `rehearsed`: what becomes of it there, if it comes so far.
    fn add_middlewares(
        &mut self,
        of_listener: &[Arc<NamedMiddleware>],
        of_route: &[Arc<NamedMiddleware>],
        rehearsed: Option<&Rehearsed>,
        snapshot: &Snapshot,
    ) {
        let mut running = 0..;
        self.middlewares = middleware::chain(of_listener, of_route)
            .map(|(named, of, fate)| {
                let (effect, reason) = match fate {
                    middleware::Fate::Runs => {
                        let (effect, what) = effect(running.next().unwrap_or_default(), rehearsed);
                        (effect, format!("{what}{}", described(named, snapshot)))
                    }
                    middleware::Fate::IsThere => (Effect::Unreached, "the listener has it already".to_owned()),
                    middleware::Fate::Replaced(other) => {
                        (Effect::Unreached, format!("the route has `{}` instead", other.label))
                    }
                };
                ExplainedMiddleware {
                    name: Arc::clone(&named.label),
                    provider: named.provider,
                    r#type: named.spec.kind(),
                    of,
                    runs: matches!(fate, middleware::Fate::Runs),
                    effect,
                    reason,
                }
            })
            .collect();
    }

    /// From the route to the endpoints. `request`: as its middlewares made it, which found out `known`.
    async fn follow(&mut self, route: &Route, request: &Request<()>, known: Known, facts: &Facts, listener: &Name) {
        let snapshot = &facts.snapshot;
        let view = RequestView {
            listener,
            host: &facts.host,
            path: request.uri().path(),
            method: request.method(),
            headers: request.headers(),
            query: request.uri().query(),
        };
        let (mut explained, usable) = explained_route(route, snapshot);
        let is_usable = |target: &Target| snapshot.usable(target).is_some_and(|(_, usable)| !usable.is_empty());
        let (mut buffer, client) = ([0; 16], facts.client);
        let key = route
            .sticky()
            .and_then(|sticky| sticky_key(sticky, &view, client.and_then(ClientAddress::known), &mut buffer));
        let odds = odds(route, &view, key, is_usable);
        explained.decided_by = Some(word::decided(route, &odds, client));
        let mut met = Vec::new();
        let settled = settled(request);
        for (position, target) in route.targets.iter().enumerate() {
            if position >= MOST_TARGETS && odds.drawn[position] == 0.0 && odds.taken[position] == 0.0 {
                explained.more_targets += 1;
                continue;
            }
            let mut steps = Vec::new();
            if odds.taken[position] > 0.0 {
                let chain: Vec<_> = target.middlewares.iter().collect();
                let rehearsed = rehearse(&chain, &settled, facts, &known).await;
                steps.extend(passed_steps(target, Some(&rehearsed), snapshot));
                met.push((target, odds.taken[position], rehearsed));
            } else {
                steps.extend(passed_steps(target, None, snapshot));
            }
            steps.extend(target.spec.steps.as_ref().map(|steps| word::steps(steps)).unwrap_or_default());
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
                reason: target_reason(target, position, &odds, usable[position], &view),
                steps,
            });
        }
        if let Err(error) = odds.taken() {
            let reason = match odds.by {
                DecidedBy::Condition(index) => {
                    format!("{}, which its condition decides for, has no usable endpoint", route.targets[index].label)
                }
                DecidedBy::Nobody(index, _) => format!(
                    "a regular expression searches {}, and the condition of {} asks for more",
                    word::SEARCHED,
                    route.targets[index].label
                ),
                DecidedBy::Key | DecidedBy::Weight => "no target with a weight has a usable endpoint".to_owned(),
            };
            self.answer = Some(Answer::refusal(error, request, reason));
        } else {
            self.add_answers(met, request, facts);
        }
        self.route = Some(explained);
        self.add_upstreams(route, snapshot);
    }

    /// What the client gets of the targets that it may meet: their answer if they all say the same, and else what each says.
    fn add_answers(&mut self, met: Vec<(&Target, f64, Rehearsed)>, request: &Request<()>, facts: &Facts) {
        let mut answers = Vec::new();
        for (target, share, rehearsed) in met {
            for (position, why) in &rehearsed.open {
                let named = target.middlewares.get(*position).map_or("", |named| &*named.label);
                self.unless.push(Unless { who: format!("middleware `{named}`"), reason: (*why).to_owned() });
            }
            let answer = match rehearsed.ending {
                Ending::Answered(_, answer) => Some(answer),
                Ending::Forwarded(..) => {
                    if facts.client.is_none()
                        && target.spec.steps.as_ref().is_some_and(|it| it.access != Access::Anybody)
                    {
                        let reason = "it takes some addresses alone, and the question gives none (--client)";
                        self.unless
                            .push(Unless { who: format!("target `{}`", target.label), reason: reason.to_owned() });
                    }
                    let of_steps = answered_by_steps(target, request, facts.client);
                    of_steps.or_else(|| answered_by_breaker(target, request, &facts.snapshot))
                }
            };
            answers.push((target, share, answer));
        }
        let first = answers.first().and_then(|(.., answer)| answer.clone());
        match first {
            Some(first)
                if answers.iter().all(|(.., other)| other.as_ref().is_some_and(|other| other.is_like(&first))) =>
            {
                self.answer = Some(first);
            }
            _ => self.unless.extend(answers.into_iter().filter_map(|(target, share, answer)| {
                let answer = answer?;
                let reason =
                    format!("with a probability of {share:.2} it answers {}: {}", answer.status, answer.reason);
                Some(Unless { who: format!("target `{}`", target.label), reason })
            })),
        }
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
        (DecidedBy::Nobody(..), Choice::Weight(_)) => "a condition that may hold decides before shares".to_owned(),
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

/// A route and its state as lists show it, and the usable endpoints of each target.
fn explained_route(route: &Route, snapshot: &Snapshot) -> (ExplainedRoute, Vec<usize>) {
    let (state, mut reasons, usable) = RouteJudge::new(snapshot).judge(route);
    reasons.extend(snapshot.report.remarks_of(&route.name, route.provider));
    (ExplainedRoute { state, reasons, ..ExplainedRoute::new(route) }, usable)
}

/// What the middleware at this position does, and how its reason begins.
fn effect(position: usize, rehearsed: Option<&Rehearsed>) -> (Effect, String) {
    let Some(rehearsed) = rehearsed else { return (Effect::Unreached, "not reached; ".to_owned()) };
    match &rehearsed.ending {
        Ending::Answered(at, answer) if *at == position => {
            let word = if answer.error.is_empty() { "" } else { " " };
            return (Effect::Answers, format!("answers {}{word}{}; ", answer.status, answer.error));
        }
        Ending::Answered(at, _) if *at < position => return (Effect::Unreached, "not reached; ".to_owned()),
        Ending::Answered(..) | Ending::Forwarded(..) => {}
    }
    match rehearsed.open.get(&position) {
        Some(why) => (Effect::Open, format!("may answer: {why}; ")),
        None => (Effect::Passes, String::new()),
    }
}

/// What a middleware is, and what is wrong with it.
fn described(named: &NamedMiddleware, snapshot: &Snapshot) -> String {
    let spec = encode::middleware(&named.spec);
    match named.trouble(snapshot) {
        None => spec.to_string(),
        Some(Trouble { text, .. }) => format!("{spec}; {text}"),
    }
}

/// What the middlewares of a target do.
fn passed_steps(target: &Target, rehearsed: Option<&Rehearsed>, snapshot: &Snapshot) -> Vec<String> {
    let step = |(position, named): (usize, &Arc<NamedMiddleware>)| {
        let what = rehearsed.map(|rehearsed| effect(position, Some(rehearsed)).1).unwrap_or_default();
        format!("passes middleware `{}`: {what}{}", named.label, described(named, snapshot))
    };
    target.middlewares.iter().enumerate().map(step).collect()
}

/// What a client gets of a target that answers without an endpoint.
fn answered_by_steps(target: &Target, request: &Request<()>, client: Option<ClientAddress>) -> Option<Answer> {
    if let Some(Err(error)) = client.map(|client| target.admits(client.known())) {
        return Some(Answer::refusal(error, request, "the client's address may not come".to_owned()));
    }
    let redirect = target.spec.steps.as_ref()?.redirect.as_ref()?;
    Some(Answer::own(redirect.status, "", word::redirect(redirect)))
}

/// What a client gets of the breaker of a target's upstream, if that refuses it.
fn answered_by_breaker(target: &Target, request: &Request<()>, snapshot: &Snapshot) -> Option<Answer> {
    let upstream = snapshot.upstream(target.slot)?;
    let refusal = upstream.refuses(Instant::now())?;
    let error = refusal.error();
    let reason = format!("the breaker of {} refuses it: {refusal}", upstream.label);
    match &upstream.settings.breaker.as_ref()?.fallback {
        // Its answer, or its breaker's.
        Some(Fallback::Upstream(_)) if upstream.fallback.is_some() => None,
        Some(Fallback::Upstream(_)) | None => Some(Answer::refusal(error, request, reason)),
        Some(Fallback::Answer(canned)) => Some(Answer::own(canned.status, error.flag().as_str(), reason)),
    }
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
                | Standing::Prohibited
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
                | Standing::Prohibited
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
