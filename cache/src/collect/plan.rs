//! Decides what goes. A pure function of what the index holds.
//!
//! Images' names, containers and whatever a living process may be using hold snapshots and blobs for good; records
//! and unpacked base images hold them until they go themselves, the least valuable first: the time that it took
//! to make a byte is what that byte is worth.

use std::collections::{HashMap, HashSet};

use rusqlite::{Connection, Row};

use super::PruneOptions;
use crate::digest::Digest;
use crate::error::{IndexContext as _, Result};
use crate::snapshot::SnapshotId;

/// What the index holds, as far as it matters here. Times are milliseconds since 1970.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) snapshots: Vec<SnapshotRow>,
    pub(super) blobs: Vec<BlobRow>,
    pub(super) results: Vec<ResultRow>,
    pub(super) chains: Vec<ChainRow>,
    pub(super) images: Vec<ImageRow>,
    pub(super) containers: Vec<SnapshotId>,
    pub(super) layers: Vec<(SnapshotId, Digest)>,
}

#[derive(Debug)]
pub(super) struct SnapshotRow {
    pub(super) id: SnapshotId,
    pub(super) parent: Option<SnapshotId>,
    pub(super) size: u64,
    pub(super) used: i64,
}

#[derive(Debug)]
pub(super) struct BlobRow {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) used: i64,
}

#[derive(Debug)]
pub(super) struct ResultRow {
    pub(super) id: i64,
    pub(super) snapshots: Vec<SnapshotId>,
    pub(super) duration_ms: u64,
    pub(super) used: i64,
}

#[derive(Debug)]
pub(super) struct ChainRow {
    pub(super) chain: [u8; 32],
    pub(super) snapshot: SnapshotId,
    pub(super) used: i64,
}

#[derive(Debug)]
pub(super) struct ImageRow {
    pub(super) named: bool,
    pub(super) manifest: Digest,
    pub(super) snapshot: Option<SnapshotId>,
    /// Manifest, config and the others.
    pub(super) blobs: Vec<Digest>,
    pub(super) used: i64,
}

/// What goes.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) results: Vec<i64>,
    pub(super) chains: Vec<[u8; 32]>,
    /// Manifests of unnamed images.
    pub(super) images: Vec<Digest>,
    pub(super) snapshots: HashSet<SnapshotId>,
    pub(super) blobs: HashSet<Digest>,
    /// Even without all of these, more is left than was to be kept.
    pub(super) still_too_much: bool,
}

/// A base image would have to be pulled again: at so many bytes a millisecond.
const PULL_BYTES_PER_MS: f64 = 10_000.0;

/// Something that may go, and what it holds until then.
enum Candidate<'a> {
    Result(&'a ResultRow),
    Chain(&'a ChainRow),
}

impl Candidate<'_> {
    fn snapshots(&self) -> &[SnapshotId] {
        match self {
            Self::Result(result) => &result.snapshots,
            Self::Chain(chain) => std::slice::from_ref(&chain.snapshot),
        }
    }

    fn used(&self) -> i64 {
        match self {
            Self::Result(result) => result.used,
            Self::Chain(chain) => chain.used,
        }
    }

    /// Milliseconds a byte.
    fn value(&self, bytes: u64) -> f64 {
        match self {
            #[expect(
                clippy::cast_precision_loss,
                reason = "an order of magnitude is all that is asked"
            )]
            Self::Result(result) => result.duration_ms as f64 / bytes.max(1) as f64,
            Self::Chain(_) => 1.0 / PULL_BYTES_PER_MS,
        }
    }
}

/// `spare_since`: what was used since then may be in use by a living process. `other_bytes`: room taken by what is
/// not decided here.
pub(super) fn plan(
    contents: &Contents,
    options: &PruneOptions,
    spare_since: i64,
    other_bytes: u64,
) -> Plan {
    let limit = options.until.map_or(spare_since, |until| {
        until.saturating_mul(1000).min(spare_since)
    });
    let mut plan = Plan::default();
    let mut holders = Holders::new(contents);
    for snapshot in &contents.snapshots {
        if snapshot.used >= spare_since {
            holders.hold(&snapshot.id);
        }
    }
    for blob in &contents.blobs {
        if blob.used >= spare_since {
            holders.hold_blob(&blob.digest);
        }
    }
    for id in &contents.containers {
        holders.hold(id);
    }
    for image in &contents.images {
        if !image.named && image.used < limit {
            plan.images.push(image.manifest);
            continue;
        }
        image.snapshot.iter().for_each(|id| holders.hold(id));
        for digest in &image.blobs {
            holders.hold_blob(digest);
        }
    }
    let held_for_good = holders.reachable();

    let mut candidates = Vec::new();
    let results = contents.results.iter().map(Candidate::Result);
    let chains = contents.chains.iter().map(Candidate::Chain);
    let may_go = options.all || options.until.is_some() || options.keep_storage.is_some();
    for candidate in results.chain(chains) {
        candidate.snapshots().iter().for_each(|id| holders.hold(id));
        let costs_nothing = !candidate.snapshots().is_empty()
            && candidate
                .snapshots()
                .iter()
                .all(|id| held_for_good.contains(id));
        if may_go && candidate.used() < limit && !costs_nothing {
            let bytes = candidate
                .snapshots()
                .iter()
                .map(|id| holders.size(id))
                .sum();
            candidates.push((candidate.value(bytes), candidate));
        }
    }
    candidates.sort_by(|(value, one), (other_value, other)| {
        value
            .total_cmp(other_value)
            .then(one.used().cmp(&other.used()))
    });

    holders.drop_unheld();
    let keep = options.keep_storage;
    let fits = |holders: &Holders<'_>| {
        keep.is_some_and(|keep| holders.bytes.saturating_add(other_bytes) <= keep)
    };
    for (_, candidate) in candidates {
        if fits(&holders) {
            break;
        }
        match candidate {
            Candidate::Result(result) => plan.results.push(result.id),
            Candidate::Chain(chain) => plan.chains.push(chain.chain),
        }
        for id in candidate.snapshots() {
            holders.release(id);
        }
    }
    plan.still_too_much = keep.is_some() && !fits(&holders);
    plan.snapshots = holders.gone();
    plan.blobs = holders.gone_blobs();
    // A chain row of a snapshot that goes would point at nothing.
    for chain in &contents.chains {
        if plan.snapshots.contains(&chain.snapshot) && !plan.chains.contains(&chain.chain) {
            plan.chains.push(chain.chain);
        }
    }
    plan
}

/// Who holds what, counted.
struct Holders<'a> {
    snapshots: HashMap<&'a SnapshotId, Held<'a>>,
    blobs: HashMap<&'a Digest, HeldBlob>,
    /// Of all that is not gone.
    bytes: u64,
}

struct Held<'a> {
    row: &'a SnapshotRow,
    layers: Vec<&'a Digest>,
    /// Children count too.
    holders: u64,
    gone: bool,
}

struct HeldBlob {
    size: u64,
    holders: u64,
    gone: bool,
}

impl<'a> Holders<'a> {
    fn new(contents: &'a Contents) -> Self {
        let mut holders = Self {
            snapshots: HashMap::with_capacity(contents.snapshots.len()),
            blobs: HashMap::with_capacity(contents.blobs.len()),
            bytes: 0,
        };
        for row in &contents.snapshots {
            holders.bytes = holders.bytes.saturating_add(row.size);
            let held = Held {
                row,
                layers: Vec::new(),
                holders: 0,
                gone: false,
            };
            holders.snapshots.insert(&row.id, held);
        }
        for blob in &contents.blobs {
            holders.bytes = holders.bytes.saturating_add(blob.size);
            let held = HeldBlob {
                size: blob.size,
                holders: 0,
                gone: false,
            };
            holders.blobs.insert(&blob.digest, held);
        }
        for row in &contents.snapshots {
            row.parent.iter().for_each(|parent| holders.hold(parent));
        }
        for (id, digest) in &contents.layers {
            if let Some(held) = holders.snapshots.get_mut(id) {
                held.layers.push(digest);
                holders.hold_blob(digest);
            }
        }
        holders
    }

    fn hold(&mut self, id: &SnapshotId) {
        if let Some(held) = self.snapshots.get_mut(id) {
            held.holders += 1;
        }
    }

    fn hold_blob(&mut self, digest: &Digest) {
        if let Some(held) = self.blobs.get_mut(digest) {
            held.holders += 1;
        }
    }

    fn size(&self, id: &SnapshotId) -> u64 {
        self.snapshots.get(id).map_or(0, |held| held.row.size)
    }

    /// Snapshots that are held by more than their children, and all below them.
    fn reachable(&self) -> HashSet<&'a SnapshotId> {
        let mut children: HashMap<&SnapshotId, u64> = HashMap::new();
        for held in self.snapshots.values() {
            if let Some(parent) = &held.row.parent {
                *children.entry(parent).or_default() += 1;
            }
        }
        let mut reached = HashSet::new();
        for (id, held) in &self.snapshots {
            if held.holders <= children.get(id).copied().unwrap_or(0) {
                continue;
            }
            let mut next = Some(*id);
            while let Some(held) = next.and_then(|id| self.snapshots.get(id)) {
                if !reached.insert(&held.row.id) {
                    break;
                }
                next = held.row.parent.as_ref();
            }
        }
        reached
    }

    /// Lets go what nobody holds, before anything is released.
    fn drop_unheld(&mut self) {
        let unheld: Vec<&SnapshotId> = self
            .snapshots
            .iter()
            .filter(|(_, held)| held.holders == 0)
            .map(|(id, _)| *id)
            .collect();
        for id in unheld {
            self.let_go(id);
        }
        for held in self.blobs.values_mut() {
            if held.holders == 0 && !held.gone {
                held.gone = true;
                self.bytes = self.bytes.saturating_sub(held.size);
            }
        }
    }

    fn release(&mut self, id: &SnapshotId) {
        if let Some(held) = self.snapshots.get_mut(id) {
            held.holders = held.holders.saturating_sub(1);
            if held.holders == 0 {
                self.let_go(id);
            }
        }
    }

    /// A snapshot goes, and with it what only it held: its layers' blobs, its parent.
    fn let_go(&mut self, id: &SnapshotId) {
        let mut next = self.snapshots.get(id).map(|held| &held.row.id);
        while let Some(id) = next {
            let Some(held) = self.snapshots.get_mut(id) else {
                return;
            };
            if held.holders > 0 || held.gone {
                return;
            }
            held.gone = true;
            self.bytes = self.bytes.saturating_sub(held.row.size);
            next = held.row.parent.as_ref();
            for digest in std::mem::take(&mut held.layers) {
                if let Some(blob) = self.blobs.get_mut(digest) {
                    blob.holders = blob.holders.saturating_sub(1);
                    if blob.holders == 0 && !blob.gone {
                        blob.gone = true;
                        self.bytes = self.bytes.saturating_sub(blob.size);
                    }
                }
            }
            if let Some(parent) = next.and_then(|parent| self.snapshots.get_mut(parent)) {
                parent.holders = parent.holders.saturating_sub(1);
            }
        }
    }

    fn gone(&self) -> HashSet<SnapshotId> {
        let gone = self.snapshots.values().filter(|held| held.gone);
        gone.map(|held| held.row.id.clone()).collect()
    }

    fn gone_blobs(&self) -> HashSet<Digest> {
        let gone = self.blobs.iter().filter(|(_, held)| held.gone);
        gone.map(|(digest, _)| **digest).collect()
    }
}

/// Reads all of it.
pub(super) fn read(connection: &Connection) -> Result<Contents> {
    Ok(Contents {
        snapshots: rows(
            connection,
            "SELECT id, parent, size, used FROM snapshots",
            |row| {
                Ok(SnapshotRow {
                    id: SnapshotId(row.get(0)?),
                    parent: row.get::<_, Option<String>>(1)?.map(SnapshotId),
                    size: row.get::<_, i64>(2)?.cast_unsigned(),
                    used: row.get(3)?,
                })
            },
        )?,
        blobs: rows(connection, "SELECT digest, size, used FROM blobs", |row| {
            Ok(BlobRow {
                digest: Digest::from_bytes(row.get(0)?),
                size: row.get::<_, i64>(1)?.cast_unsigned(),
                used: row.get(2)?,
            })
        })?,
        results: rows(
            connection,
            "SELECT id, snapshot, extra, duration_ms, used FROM results",
            |row| {
                let first: Option<String> = row.get(1)?;
                let extra: Vec<String> = crate::record::from_json(row, 2)?;
                Ok(ResultRow {
                    id: row.get(0)?,
                    snapshots: first.into_iter().chain(extra).map(SnapshotId).collect(),
                    duration_ms: row.get::<_, i64>(3)?.cast_unsigned(),
                    used: row.get(4)?,
                })
            },
        )?,
        chains: rows(
            connection,
            "SELECT chain, snapshot, used FROM chains",
            |row| {
                Ok(ChainRow {
                    chain: row.get(0)?,
                    snapshot: SnapshotId(row.get(1)?),
                    used: row.get(2)?,
                })
            },
        )?,
        images: rows(
            connection,
            "SELECT name <> '', manifest, config, snapshot, blobs, used FROM images",
            |row| {
                let manifest = Digest::from_bytes(row.get(1)?);
                let others: Vec<u8> = row.get(4)?;
                let (others, _) = others.as_chunks::<32>();
                let mut blobs = vec![manifest, Digest::from_bytes(row.get(2)?)];
                blobs.extend(others.iter().copied().map(Digest::from_bytes));
                Ok(ImageRow {
                    named: row.get(0)?,
                    manifest,
                    snapshot: row.get::<_, Option<String>>(3)?.map(SnapshotId),
                    blobs,
                    used: row.get(5)?,
                })
            },
        )?,
        containers: rows(connection, "SELECT snapshot FROM containers", |row| {
            Ok(SnapshotId(row.get(0)?))
        })?,
        layers: rows(connection, "SELECT snapshot, digest FROM layers", |row| {
            Ok((SnapshotId(row.get(0)?), Digest::from_bytes(row.get(1)?)))
        })?,
    })
}

fn rows<T>(
    connection: &Connection,
    sql: &str,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>> {
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.query_map([], read)?.collect())
        .doing("read what there is to collect")
}
