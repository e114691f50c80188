//! Defines the middleware that limits how many requests come in a time.

mod gcra;
mod table;

use std::any::Any;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use hyper::body::Incoming;

use self::gcra::{Decision, Gcra};
use self::table::{Table, Told};
use super::key::Keys;
use super::{Middleware, Next};
use crate::exchange::{Payload, ProxyError};
use crate::spec::middleware::limit;

/// Limits how many requests come in a time.
#[derive(Debug)]
pub(super) struct RateLimit {
    gcra: Gcra,
    state: Arc<State>,
    /// `RateLimit-Policy`, where answers tell.
    policy: Option<HeaderValue>,
}

/// What is kept when a limit's numbers change.
#[derive(Debug)]
struct State {
    table: Table,
    keys: Keys,
    parts: Vec<limit::LimitKey>,
    max_keys: u32,
}

/// draft-ietf-httpapi-ratelimit-headers, 3 and 4.
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

const SECOND: u64 = 1_000_000_000;

/// Times are told from here.
static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);

impl RateLimit {
    /// `before`: the state of the one that this one follows.
    pub(super) fn new(spec: &limit::RateLimit, before: Option<Arc<dyn Any + Send + Sync>>) -> Self {
        let before = before.and_then(|state| state.downcast::<State>().ok());
        let before = before.filter(|state| state.parts == spec.key && state.max_keys == spec.max_keys);
        let state = before.unwrap_or_else(|| {
            let (table, keys) = (Table::new(spec.max_keys), Keys::new(&spec.key));
            Arc::new(State { table, keys, parts: spec.key.clone(), max_keys: spec.max_keys })
        });
        let gcra = Gcra::new(spec.rate.interval(), spec.burst);
        let (most, window) = (gcra.most(), gcra.window().div_ceil(SECOND));
        let policy = HeaderValue::try_from(format!("\"{NAME}\";q={most};w={window}"));
        Self { gcra, state, policy: policy.ok().filter(|_| spec.headers) }
    }

    /// Says what is left.
    fn tell(&self, headers: &mut HeaderMap, arrival: u64, now: u64) {
        let Some(policy) = &self.policy else { return };
        let (left, until) = (self.gcra.left(arrival, now), arrival.saturating_sub(now).div_ceil(SECOND));
        // Of several limits each says its own.
        headers.append(RATELIMIT_POLICY, policy.clone());
        if let Ok(value) = HeaderValue::try_from(format!("\"{NAME}\";r={left};t={until}")) {
            headers.append(RATELIMIT, value);
        }
    }
}

/// What a limit calls itself.
const NAME: &str = "rate";

#[async_trait(?Send)]
impl Middleware for RateLimit {
    async fn handle(&self, request: Request<Incoming>, next: Next) -> Result<Response<Payload>, ProxyError> {
        let exchange = std::rc::Rc::clone(next.exchange());
        let now = nanoseconds();
        let Told { decision, arrival } =
            self.state.table.take(self.gcra, self.state.keys.of(&request, &*exchange), now);
        let mut response = match decision {
            Decision::Passes { .. } => next.run(request).await,
            Decision::TooEarly(by) => {
                let seconds = u32::try_from(by.div_ceil(SECOND)).unwrap_or(u32::MAX);
                exchange.refuse(ProxyError::TooMany { seconds })
            }
        };
        self.tell(response.headers_mut(), arrival, now);
        Ok(response)
    }

    fn state(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(Arc::<State>::clone(&self.state))
    }
}

/// Never 0, which stands for keys that are new.
fn nanoseconds() -> u64 {
    let since = Instant::now().saturating_duration_since(*FIRST);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX / 2).saturating_add(SECOND)
}
