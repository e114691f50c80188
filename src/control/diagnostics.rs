//! What the items of all providers have wrong with each other, for the log and for the feedback keys of their registries.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;

use crate::discovery::state::Diagnostics;
use crate::snapshot::{Diagnostic, DiagnosticKind, Report};
use crate::spec::name::ProviderId;
use crate::spec::problem::Problem;

/// Problems that are logged of one change.
const MAX_LINES: usize = 50;

/// What a report says by provider and feedback key. Registrations are told by their service, static settings nowhere.
pub(super) fn by_key(report: &Report) -> Diagnostics {
    let mut all = Diagnostics::default();
    for Diagnostic { provider, item, problem, .. } in &report.diagnostics {
        let Some((kind, name)) = item else { continue };
        let key = match (provider, problem.place.strip_prefix("consul:")) {
            (ProviderId::ConsulTags, Some(service)) => format!("services/{service}"),
            _ => format!("{}/{name}", kind.as_str()),
        };
        all.add(*provider, key, problem.clone());
    }
    all
}

/// Tells discovery what a report says, unless it has been told the same. Before every document provider was read, nobody
/// knows what is absent.
pub(super) fn send(to: &watch::Sender<Option<Arc<Diagnostics>>>, report: &Report) {
    if !report.unread.is_empty() {
        return;
    }
    let now = by_key(report);
    to.send_if_modified(|told| {
        let changed = told.as_deref() != Some(&now);
        if changed {
            *told = Some(Arc::new(now));
        }
        changed
    });
}

/// Logs what is newly wrong with items, and what no longer is.
pub(super) fn tell(before: &Report, now: &Report) {
    tell_closing(before, now);
    if before.rejected == now.rejected && before.diagnostics == now.diagnostics && before.unread == now.unread {
        return;
    }
    let (rejected_before, rejected) = (before.rejected.iter().collect(), now.rejected.iter().collect::<BTreeSet<_>>());
    let new: Vec<_> = rejected.difference(&rejected_before).collect();
    for rejected in new.iter().take(MAX_LINES) {
        tracing::warn!(provider = %rejected.provider, "rejected: {}", rejected.line());
    }
    if let Some(more) = new.len().checked_sub(MAX_LINES + 1) {
        tracing::warn!("rejected: {} more; /api/v1/providers has them", more + 1);
    }
    let (known, diagnostics) = (confirmed(before), confirmed(now));
    let new: Vec<_> = diagnostics.difference(&known).collect();
    for Diagnostic { kind, provider, problem, effect, .. } in new.iter().take(MAX_LINES) {
        tracing::warn!(%provider, kind = kind.as_str(), "{problem}; {effect}");
    }
    if let Some(more) = new.len().checked_sub(MAX_LINES + 1) {
        tracing::warn!("unresolved or shadowed: {} more; /api/v1/providers has them", more + 1);
    }
    let still: BTreeSet<_> = diagnostics.iter().map(|one| one.subject()).collect();
    let ended: Vec<_> = known.iter().filter(|one| !still.contains(&one.subject())).collect();
    for ended in ended.iter().take(MAX_LINES) {
        tracing::info!(provider = %ended.provider, "{}", end(ended));
    }
    if let Some(more) = ended.len().checked_sub(MAX_LINES + 1) {
        tracing::info!("resolved, no longer shadowed, or gone: {} more", more + 1);
    }
    if rejected.is_empty() && !rejected_before.is_empty() {
        match diagnostics.len() {
            0 => tracing::info!("every document and registration is well-formed and in use again"),
            count => tracing::info!(
                "every document and registration is well-formed again; {count} are unresolved or shadowed, see `fleetgate status`"
            ),
        }
    }
}

/// Logs what keeps the gateway closed from now on, and that nothing does any more.
fn tell_closing(before: &Report, now: &Report) {
    let new: Vec<_> = now.closing.iter().filter(|one| !before.closing.contains(one)).collect();
    for (provider, problem) in new.iter().take(MAX_LINES) {
        tracing::warn!(%provider, "every request gets 503 (NC): {problem}");
    }
    if let Some(more) = new.len().checked_sub(MAX_LINES + 1) {
        tracing::warn!("every request gets 503 (NC): {} more reasons; /readyz has them", more + 1);
    }
    if now.closing.is_empty() && !before.closing.is_empty() {
        tracing::info!("nothing that may protect a route is unknown any more");
    }
}

/// The diagnostics that are certain: what a provider defines that was not read yet looks absent.
fn confirmed(report: &Report) -> BTreeSet<&Diagnostic> {
    report.diagnostics.iter().filter(|_| report.unread.is_empty()).collect()
}

fn end(ended: &Diagnostic) -> String {
    let Problem { place, key, .. } = &ended.problem;
    match ended.kind {
        DiagnosticKind::Unresolved | DiagnosticKind::Kept => format!("{place}: {key}: resolved, or gone"),
        DiagnosticKind::Shadowed => format!("{place}: {key}: no longer shadowed, or gone"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::document::Kind;

    fn diagnostic(provider: ProviderId, place: &str, text: &str) -> Diagnostic {
        Diagnostic {
            kind: DiagnosticKind::Kept,
            provider,
            item: Some((Kind::Route, "shop".parse().expect("a name"))),
            problem: Problem::new(place, "routes.shop", text),
            effect: "its last form that resolved stays in use".into(),
        }
    }

    #[test]
    fn documents_are_told_by_their_key_and_registrations_by_their_service() {
        let settings = Diagnostic { item: None, ..diagnostic(ProviderId::File, "configuration", "no middleware") };
        let diagnostics = vec![
            diagnostic(ProviderId::Etcd, "etcd:/fleetgate/routes/shop", "no upstream"),
            diagnostic(ProviderId::ConsulTags, "consul:web", "no middleware"),
            settings,
        ];
        let report = Report { diagnostics, ..Report::default() };
        let all = by_key(&report);
        let keys = |provider| all.of(provider).map(|(key, _)| key.as_str()).collect::<Vec<_>>();
        assert_eq!(keys(ProviderId::Etcd), ["routes/shop"]);
        assert_eq!(keys(ProviderId::ConsulTags), ["services/web"]);
        assert!(keys(ProviderId::File).is_empty());
    }

    #[test]
    fn nothing_is_told_before_every_provider_was_read() {
        let (to, told) = watch::channel(None);
        let unread = Report { unread: vec![ProviderId::Etcd], ..Report::default() };
        send(&to, &unread);
        assert!(told.borrow().is_none() && confirmed(&unread).is_empty());
        send(&to, &Report::default());
        assert!(told.borrow().is_some());
    }
}
