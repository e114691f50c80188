//! Defines the middleware that limits how many requests come in a time.

mod account;
mod gcra;
mod own;
mod shared;
mod table;

use std::any::Any;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use hyper::body::Incoming;

use self::gcra::{Decision, Gcra};
use self::own::Own;
use self::shared::Shared;
use super::{Counted, Middleware, Next, Surroundings, Trouble, key};
use crate::exchange::{Payload, ProxyError};
use crate::spec::middleware::limit;

/// Limits how many requests come in a time.
#[derive(Debug)]
pub(super) struct RateLimit {
    gcra: Gcra,
    without: limit::Without,
    state: Arc<State>,
    /// `RateLimit-Policy`, where answers tell.
    policy: Option<HeaderValue>,
}

/// What is kept when a limit's numbers change.
#[derive(Debug)]
struct State {
    keys: Kept,
    /// Requests by who decided, those that passed and those that did not.
    counts: [[AtomicU64; 2]; By::ALL.len()],
}

/// Who keeps the keys.
#[derive(Debug)]
enum Kept {
    Own(Own),
    Fleet(Arc<Shared>),
}

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// The gateway, for itself.
    Gateway,
    /// All gateways, through Redis.
    Redis,
    /// The gateway, for its share.
    Share,
    /// The gateway, as if there were no other.
    Local,
    /// Nobody: all pass.
    Open,
    /// Nobody: none passes.
    Closed,
}

impl By {
    const ALL: [Self; 6] = [Self::Gateway, Self::Redis, Self::Share, Self::Local, Self::Open, Self::Closed];

    fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Redis => "redis",
            Self::Share => "share",
            Self::Local => "local",
            Self::Open => "open",
            Self::Closed => "closed",
        }
    }
}

/// What a request is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    decision: Decision,
    /// How many more would pass now.
    left: u64,
    /// Until the limit is as if nothing had come, in nanoseconds.
    until: u64,
}

/// draft-ietf-httpapi-ratelimit-headers, 3 and 4.
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

const SECOND: u64 = 1_000_000_000;

/// Times are told from here.
static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);

impl RateLimit {
    pub(super) fn new(spec: &limit::RateLimit, around: &Surroundings<'_>) -> Self {
        let gcra = Gcra::new(spec.rate.interval(), spec.burst);
        let before = around.state().and_then(|state| state.downcast::<State>().ok());
        let before = before.filter(|state| state.keys.goes_on(spec, gcra));
        let state = before
            .unwrap_or_else(|| Arc::new(State { keys: Kept::new(spec, gcra, around), counts: Default::default() }));
        let (most, window) = (gcra.most(), gcra.window().div_ceil(SECOND));
        let policy = HeaderValue::try_from(format!("\"{NAME}\";q={most};w={window}"));
        let without = match spec.scope {
            limit::Scope::Gateway => limit::Without::default(),
            limit::Scope::Fleet { without } => without,
        };
        Self { gcra, without, state, policy: policy.ok().filter(|_| spec.headers) }
    }

    /// Says what is left.
    fn tell(&self, headers: &mut HeaderMap, told: Told) {
        let Some(policy) = &self.policy else { return };
        let (left, until) = (told.left, told.until.div_ceil(SECOND));
        // Of several limits each says its own.
        headers.append(RATELIMIT_POLICY, policy.clone());
        if let Ok(value) = HeaderValue::try_from(format!("\"{NAME}\";r={left};t={until}")) {
            headers.append(RATELIMIT, value);
        }
    }
}

impl Kept {
    fn new(spec: &limit::RateLimit, gcra: Gcra, around: &Surroundings<'_>) -> Self {
        match spec.scope {
            limit::Scope::Gateway => Self::Own(Own::new(spec)),
            limit::Scope::Fleet { without } => Self::Fleet(Shared::start(spec, gcra, without, around)),
        }
    }

    /// Whether it serves for this spec, too.
    fn goes_on(&self, spec: &limit::RateLimit, gcra: Gcra) -> bool {
        match (self, spec.scope) {
            (Self::Own(own), limit::Scope::Gateway) => own.parts == spec.key && own.max_keys == spec.max_keys,
            (Self::Fleet(shared), limit::Scope::Fleet { without }) => shared.goes_on(spec, gcra, without),
            (Self::Own(_), limit::Scope::Fleet { .. }) | (Self::Fleet(_), limit::Scope::Gateway) => false,
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
        let (told, by) = match &self.state.keys {
            Kept::Own(own) => (own.take(self.gcra, own.keys.of(&request, &*exchange), now), By::Gateway),
            Kept::Fleet(shared) => shared.take((self.gcra, self.without), &request, &*exchange, now),
        };
        let refused = matches!(told.decision, Decision::TooEarly(_));
        self.state.counts[by as usize][usize::from(refused)].fetch_add(1, Relaxed);
        let mut response = match told.decision {
            Decision::Passes { .. } => next.run(request).await,
            Decision::TooEarly(by) => {
                let seconds = u32::try_from(by.div_ceil(SECOND)).unwrap_or(u32::MAX);
                exchange.refuse(ProxyError::TooMany { seconds })
            }
        };
        self.tell(response.headers_mut(), told);
        Ok(response)
    }

    fn trouble(&self) -> Option<Trouble> {
        match &self.state.keys {
            Kept::Own(_) => None,
            Kept::Fleet(shared) => shared.trouble(),
        }
    }

    fn counted(&self) -> Vec<Counted> {
        let counts = By::ALL.into_iter().zip(&self.state.counts);
        let counts = counts.map(|(by, counts)| (by, [0, 1].map(|index: usize| counts[index].load(Relaxed))));
        counts
            .filter(|(_, counts)| *counts != [0, 0])
            .map(|(by, [passed, refused])| Counted { by: by.as_str(), passed, refused })
            .collect()
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
