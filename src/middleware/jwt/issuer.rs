//! Defines how an issuer's keys are had from its URL: read in the background, again every so often and when a token names
//! one that nobody knows, and kept while the issuer is down.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::reread::Reread;
use super::ring::Ring;
use crate::middleware::Trouble;
use crate::spec::cause::describe;
use crate::spec::secret::masked_url;

/// An issuer that does not answer is asked again after this, then less often, up to [`MAX_RETRY`].
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// The longest pause between two tries to read.
const MAX_RETRY: Duration = Duration::from_secs(30);

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The largest set that is read.
const LARGEST: usize = 1 << 20;

/// An issuer whose keys are read from a URL.
#[derive(Debug)]
pub(super) struct Issuer {
    pub(super) url: String,
    /// The URL as logs and views have it.
    shown: String,
    pub(super) refresh: Duration,
    /// `None` before the first answer.
    ring: RwLock<Option<Arc<Ring>>>,
    /// Why the last read gave nothing.
    error: RwLock<Option<String>>,
    /// For keys that are not there.
    reread: Reread,
}

impl Issuer {
    /// Begins to read its keys, for as long as somebody has it.
    pub(super) fn new(url: &str, refresh: Duration) -> Arc<Self> {
        let issuer = Self {
            url: url.to_owned(),
            shown: masked_url(url),
            refresh,
            ring: RwLock::default(),
            error: RwLock::default(),
            reread: Reread::default(),
        };
        let issuer = Arc::new(issuer);
        // Where there is no runtime, nobody serves.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(follow(Arc::downgrade(&issuer)));
        }
        issuer
    }

    /// Its keys; `None` before they were read.
    pub(super) fn ring(&self) -> Option<Arc<Ring>> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is wrong with it.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        let error = self.error.read().unwrap_or_else(PoisonError::into_inner).clone();
        let refuses = self.ring().is_none();
        let text = match error {
            Some(error) if refuses => format!("no token can be checked: {} cannot be read: {error}", self.shown),
            Some(error) => format!("{} cannot be read: {error}; the keys that were read before count", self.shown),
            None if refuses => format!("{} was not read yet", self.shown),
            None => return None,
        };
        Some(Trouble { text, refuses })
    }

    fn failed(&self, error: Option<String>) {
        *self.error.write().unwrap_or_else(PoisonError::into_inner) = error;
    }

    /// A token cannot be checked with the keys that are there, perhaps because they were exchanged: waits for them to be
    /// read again, for a second at most. `None` where they were not. `key` stands for the key that the token needs.
    pub(super) async fn reread(&self, key: u64) -> Option<Arc<Ring>> {
        if self.reread.wait(key).await { self.ring() } else { None }
    }

    /// What was read again did not help.
    pub(super) fn is_unknown(&self, key: u64) {
        self.reread.is_unknown(key);
    }
}

async fn follow(issuer: Weak<Issuer>) {
    let (mut retry, mut failing) = (FIRST_RETRY, false);
    loop {
        let Some(known) = issuer.upgrade() else { return };
        known.reread.begin();
        let outcome = read(&known.url).await;
        let is_good = outcome.is_ok();
        let next = match outcome {
            Ok(ring) => {
                *known.ring.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(ring));
                known.failed(None);
                if std::mem::take(&mut failing) {
                    tracing::info!(url = known.shown, "the issuer's keys can be read again");
                }
                retry = FIRST_RETRY;
                known.refresh
            }
            Err(error) => {
                known.failed(Some(error.clone()));
                if !std::mem::replace(&mut failing, true) {
                    let meanwhile = match known.ring() {
                        Some(_) => "those that were read before count",
                        None => "no token can be checked until then",
                    };
                    tracing::warn!(url = known.shown, "the issuer's keys cannot be read: {error}; {meanwhile}");
                }
                let next = retry;
                retry = (retry * 2).min(MAX_RETRY);
                next
            }
        };
        known.reread.end(is_good);
        let at = Instant::now() + next;
        // Whoever lets go of it ends this.
        loop {
            let is_wanted = timeout(Duration::from_secs(1), known.reread.wanted()).await.is_ok();
            if is_wanted {
                break;
            }
            if Instant::now() >= at {
                break;
            }
            if Arc::strong_count(&known) == 1 {
                return;
            }
        }
    }
}

async fn read(url: &str) -> Result<Ring, String> {
    let mut client = reqwest::Client::builder();
    if !url.starts_with("https://") {
        // A machine may have no certificates at all, which matters only to https.
        client = client.tls_certs_only([]);
    }
    if let Some(address) = reqwest::Url::parse(url).ok().and_then(|url| literal(url.host_str()?)).filter(is_link_local)
    {
        return Err(format!("{address} is a link-local address, where no issuer is"));
    }
    client = client.dns_resolver(Arc::new(Public));
    let client = client.timeout(PATIENCE).redirect(reqwest::redirect::Policy::none()).build();
    let client = client.map_err(|error| format!("no HTTP client: {error}"))?;
    let mut response = client.get(url).send().await.map_err(|error| describe(&error.without_url()))?;
    if !response.status().is_success() {
        return Err(format!("it answers {}", response.status()));
    }
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|error| describe(&error.without_url()))? {
        body.extend_from_slice(&piece);
        if body.len() > LARGEST {
            return Err(format!("its answer is larger than {LARGEST} bytes"));
        }
    }
    Ring::of_set(&body)
}

/// Resolves names, but for link-local addresses: where clouds tell machines their credentials, and no issuer is. Whoever
/// may write a document chooses the URL that is read.
struct Public;

impl reqwest::dns::Resolve for Public {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let found: Vec<SocketAddr> = found.filter(|address| !is_link_local(&address.ip())).collect();
            Ok(Box::new(found.into_iter()) as reqwest::dns::Addrs)
        })
    }
}

fn literal(host: &str) -> Option<IpAddr> {
    host.trim_matches(['[', ']']).parse().ok()
}

fn is_link_local(address: &IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_link_local(),
        // The second is where Amazon's metadata service is.
        IpAddr::V6(address) => address.is_unicast_link_local() || address.segments()[..2] == [0xfd00, 0x0ec2],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keys_are_never_read_from_link_local_addresses() {
        for url in [
            "https://169.254.169.254/latest",
            "https://[fe80::1]/x",
            "https://[::ffff:169.254.1.1]/",
            "https://[fd00:ec2::254]/",
        ] {
            let error = read(url).await.expect_err(url);
            assert!(error.contains("link-local"), "{url}: {error}");
        }
        for (address, wanted) in [("169.254.0.1", true), ("10.0.0.1", false), ("fd00::1", false), ("127.0.0.1", false)]
        {
            assert_eq!(is_link_local(&address.parse().expect("an address")), wanted, "{address}");
        }
    }
}
