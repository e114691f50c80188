//! Defines the middleware that knows consumers by their certificates.

use std::sync::Arc;

use async_trait::async_trait;
use http::{Request, Response};
use hyper::body::Incoming;

use super::who::{Door, Proof, Shown};
use super::{Middleware, Next};
use crate::exchange::{Consumer, Credential, Exchange, Payload, ProxyError};
use crate::spec::middleware::access::{self, CertificatePart};

/// Knows consumers by their certificates.
#[derive(Debug)]
pub(super) struct ClientCertificate {
    consumer: Option<CertificatePart>,
    door: Door,
}

impl ClientCertificate {
    pub(super) fn new(spec: &access::ClientCertificate) -> Self {
        let door = Door {
            by: "client_certificate",
            challenge: None,
            wrong: None,
            optional: spec.optional,
            groups: spec.groups.clone(),
        };
        Self { consumer: spec.consumer, door }
    }

    fn shown(&self, exchange: &dyn Exchange) -> Shown {
        let Some(certificate) = exchange.certificate() else { return Shown::Nothing };
        let listed = exchange.consumer(Credential::Certificate(certificate));
        let named = || {
            let name = match self.consumer? {
                CertificatePart::Uri => certificate.uris.first()?,
                CertificatePart::Dns => certificate.dns.first()?,
                CertificatePart::Subject => &certificate.subject,
            };
            let known = exchange.consumer(Credential::Name(name));
            (!name.is_empty()).then(|| known.unwrap_or_else(|| Arc::new(Consumer::named(name))))
        };
        listed.or_else(named).map_or(Shown::Wrong("unknown certificate"), |consumer| Shown::Proof(Proof::of(consumer)))
    }
}

#[async_trait(?Send)]
impl Middleware for ClientCertificate {
    async fn handle(&self, request: Request<Incoming>, next: Next) -> Result<Response<Payload>, ProxyError> {
        let shown = self.shown(&**next.exchange());
        self.door.pass(request, next, shown).await
    }
}
