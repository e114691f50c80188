//! Defines the middleware that limits how many requests are in flight.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use http::{Request, Response};
use hyper::body::Incoming;

use super::key::Keys;
use super::{Middleware, Next};
use crate::exchange::{Payload, ProxyError};
use crate::spec::middleware::limit;

/// Limits how many requests are in flight.
#[derive(Debug)]
pub(super) struct Concurrency {
    limit: u32,
    keys: Keys,
    in_flight: Arc<InFlight>,
}

/// By key; one without any is not here, so that there are no more than requests.
type InFlight = Mutex<HashMap<u64, u32>>;

impl Concurrency {
    pub(super) fn new(spec: &limit::Concurrency) -> Self {
        Self { limit: spec.limit, keys: Keys::new(&spec.key), in_flight: Arc::default() }
    }

    fn enter(&self, key: u64) -> Option<Stay> {
        let mut in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        let count = in_flight.entry(key).or_default();
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(Stay { key, in_flight: Arc::clone(&self.in_flight) })
    }
}

/// A request in flight.
#[derive(Debug)]
struct Stay {
    key: u64,
    in_flight: Arc<InFlight>,
}

impl Drop for Stay {
    fn drop(&mut self) {
        let mut in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = in_flight.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                in_flight.remove(&self.key);
            }
        }
    }
}

#[async_trait(?Send)]
impl Middleware for Concurrency {
    async fn handle(&self, request: Request<Incoming>, next: Next) -> Result<Response<Payload>, ProxyError> {
        let exchange = next.exchange();
        let stay = self.enter(self.keys.of(&request, &**exchange)).ok_or(ProxyError::TooMany { seconds: 1 })?;
        exchange.hold(Box::new(stay));
        Ok(next.run(request).await)
    }
}
