//! Defines reads of a whole range: all its keys at one revision, in pages, and their count.

use std::collections::BTreeMap;

use etcd_client::{Client, GetOptions, GetResponse, ResponseHeader};
use tokio::time::{Instant, timeout};

use super::failure::Failure;
use super::layout::KeyRange;
use super::members::{Connection, Members, TIMEOUT};
use super::mirror::{Listing, Value};
use crate::discovery::supervise::WatchError;

/// Keys asked for at once; halved while the answer is too large.
const PAGE: i64 = 1000;
/// Largest answer that is taken, in bytes; etcd itself limits none.
pub(super) const DECODE_LIMIT: usize = 64 << 20;
/// How often a list is begun anew because its revision was compacted away under it.
const RESTARTS: u32 = 3;

/// A complete list, and when it was asked for.
pub(super) struct Listed {
    /// The keys.
    pub(super) listing: Listing,
    /// When the first page was asked for: the list is at least as new.
    pub(super) asked_at: Instant,
    /// Who answered.
    pub(super) connection: Connection,
}

/// A count of keys.
pub(super) struct Counted {
    /// How many keys the range has.
    pub(super) count: i64,
    /// At which revision.
    pub(super) revision: i64,
    /// Of which etcd cluster.
    pub(super) cluster: u64,
    /// Who answered.
    pub(super) member: usize,
    /// When it was asked for.
    pub(super) asked_at: Instant,
}

impl Members {
    /// Reads all keys of a range from a member, linearizable: as new as anything acknowledged before.
    pub(super) async fn list(&self, member: usize, range: &KeyRange) -> Result<Listed, WatchError> {
        let asked = |client: Client| async move {
            let asked_at = Instant::now();
            Ok((pages(&client, range).await?, asked_at))
        };
        let ((listing, asked_at), connection) = self.call(member, asked).await?;
        Ok(Listed { listing, asked_at, connection })
    }

    /// Counts the keys of a range, linearizable, which also shows that the member has a leader.
    pub(super) async fn count(&self, member: usize, range: &KeyRange) -> Result<Counted, WatchError> {
        let asked = |client: Client| async move {
            let asked_at = Instant::now();
            let answer = count(&client, range, 0).await?;
            let (revision, cluster) = (revision_of(&answer)?, cluster_of(&answer));
            let left_out = match &range.except {
                Some(except) => count(&client, except, revision).await?.count(),
                None => 0,
            };
            Ok(Counted { count: answer.count() - left_out, revision, cluster, member, asked_at })
        };
        Ok(self.call(member, asked).await?.0)
    }
}

/// `revision`: as of then; 0 is now.
async fn count(client: &Client, range: &KeyRange, revision: i64) -> Result<GetResponse, Failure> {
    let options = GetOptions::new().with_range(range.end.clone()).with_count_only().with_revision(revision);
    get(client, range.start.clone(), options).await
}

async fn pages(client: &Client, range: &KeyRange) -> Result<Listing, Failure> {
    let mut limit = PAGE;
    let mut restarts = 0;
    'anew: loop {
        let mut listing = Listing { cluster: 0, revision: 0, entries: BTreeMap::new() };
        let mut from = range.start.clone();
        loop {
            // Revision 0 asks for the newest; the first page tells which that is.
            let options =
                GetOptions::new().with_range(range.end.clone()).with_limit(limit).with_revision(listing.revision);
            let mut answer = match get(client, from.clone(), options).await {
                Err(Failure::TooLarge(_)) if limit > 1 => {
                    limit /= 2;
                    continue;
                }
                Err(Failure::Compacted(_)) if restarts < RESTARTS => {
                    restarts += 1;
                    continue 'anew;
                }
                answer => answer?,
            };
            if listing.revision == 0 {
                (listing.revision, listing.cluster) = (revision_of(&answer)?, cluster_of(&answer));
            }
            let more = answer.more();
            for pair in answer.take_kvs() {
                let (modified, created, version) = (pair.mod_revision(), pair.create_revision(), pair.version());
                let (key, bytes) = pair.into_key_value();
                if more {
                    from.clone_from(&key);
                }
                if range.has(&key) {
                    listing.entries.insert(key, Value { bytes, modified, created, version });
                }
            }
            if !more {
                return Ok(listing);
            }
            from.push(0);
        }
    }
}

pub(super) async fn get(client: &Client, key: Vec<u8>, options: GetOptions) -> Result<GetResponse, Failure> {
    let mut kv = client.kv_client().max_decoding_message_size(DECODE_LIMIT);
    match timeout(TIMEOUT, kv.get(key, Some(options))).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Failure::Lost("no answer in 10 s".to_owned())),
    }
}

/// 0 where the answer does not tell.
fn cluster_of(answer: &GetResponse) -> u64 {
    answer.header().map_or(0, ResponseHeader::cluster_id)
}

fn revision_of(answer: &GetResponse) -> Result<i64, Failure> {
    match answer.header() {
        Some(header) if header.revision() > 0 => Ok(header.revision()),
        _ => Err(Failure::Lost("an answer without a revision".to_owned())),
    }
}
