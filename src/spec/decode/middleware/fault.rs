//! Defines how faults on purpose are written.

use http::StatusCode;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::spec::decode::condition::RawWhen;
use crate::spec::decode::scalar::RawDuration;
use crate::spec::decode::scope::Scope;
use crate::spec::matching::Conditions;
use crate::spec::middleware::transform::{Fault, Share};

/// What goes wrong on purpose, to see what clients and services make of it.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Fault", deny_unknown_fields)]
pub(super) struct RawFault {
    /// Requests wait.
    delay: Option<RawDelay>,
    /// Requests get an error, and reach no service. A delay comes first.
    abort: Option<RawAbort>,
    /// Only requests whose headers, query or cookies are like this; default all.
    when: Option<RawWhen>,
}

/// How long, and how many.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Delay", deny_unknown_fields)]
pub(super) struct RawDelay {
    /// How long.
    time: Option<RawDuration>,
    /// How many of the requests, such as `0.5%`; default `100%`.
    percent: Option<String>,
}

/// Which error, and how many.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Abort", deny_unknown_fields)]
pub(super) struct RawAbort {
    /// The status; default 503.
    #[schemars(range(min = 400, max = 599))]
    status: Option<i64>,
    /// How many of the requests, such as `0.5%`; default `100%`.
    percent: Option<String>,
}

impl RawFault {
    pub(super) fn resolve(self, scope: &Scope<'_>) -> Option<Fault> {
        if self.delay.is_none() && self.abort.is_none() {
            scope.missing("nothing goes wrong: give `delay` or `abort`");
        }
        let delay_scope = scope.key("delay");
        let delay = self.delay.and_then(|delay| {
            let Some(RawDuration(time)) = delay.time else {
                delay_scope.missing("say how long, by `time`");
                return None;
            };
            Some((time, share(delay.percent, &delay_scope)?))
        });
        let abort_scope = scope.key("abort");
        let abort = self.abort.and_then(|abort| {
            let status = abort_scope.key("status").number(abort.status, 503u16, 400..=599);
            Some((StatusCode::from_u16(status).ok()?, share(abort.percent, &abort_scope)?))
        });
        let when = self.when.map_or_else(Conditions::default, |when| when.resolve(&scope.key("when")));
        Some(Fault { delay, abort, when })
    }
}

fn share(raw: Option<String>, scope: &Scope<'_>) -> Option<Share> {
    match raw {
        None => Some(Share::ALL),
        Some(text) => scope.key("percent").check(Share::of_percent(&text)),
    }
}
