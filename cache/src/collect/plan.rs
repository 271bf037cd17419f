//! Decides what goes. A pure function of what the store holds.
//!
//! Images' names, containers and whatever a living process may be using hold snapshots and blobs for good; records,
//! unpacked base images, images without a name and cache mounts may go. The least valuable goes first: the time
//! that it took to make a byte is what that byte is worth, half as much with every week that nobody wanted it. What
//! others stand on gives nothing back before them, so it waits for them.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap, HashSet};

use super::contents::{ChainRow, Contents, ImageRow, MountRow, ResultRow};
use super::holders::Holders;
use super::{Kind, PruneOptions, item};
use crate::digest::Digest;
use crate::snapshot::SnapshotId;

/// What goes.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) results: Vec<i64>,
    pub(super) chains: Vec<[u8; 32]>,
    /// Manifests of unnamed images.
    pub(super) images: Vec<Digest>,
    pub(super) snapshots: HashSet<SnapshotId>,
    pub(super) blobs: HashSet<Digest>,
    pub(super) mounts: Vec<MountRow>,
    /// Even without all of these, more is left than was to be kept.
    pub(super) still_too_much: bool,
    /// What is left, in bytes.
    pub(super) left: u64,
}

/// When and beside whom is decided.
#[derive(Debug, Clone, Copy)]
pub(super) struct Situation {
    pub(super) now_ms: i64,
    /// What was used since then may be in use by a living process; milliseconds since 1970.
    pub(super) spare_since: i64,
    /// Room taken by what is not decided here.
    pub(super) other_bytes: u64,
}

/// A base image would have to be pulled again, a cache mount filled again: at so many bytes a millisecond.
const PULL_BYTES_PER_MS: f64 = 10_000.0;

/// What nobody wanted for so long is worth half.
const HALF_LIFE_MS: f64 = 7.0 * 24.0 * 3_600_000.0;

/// Something that may go, and what it holds until then.
#[derive(Clone, Copy)]
enum Candidate<'a> {
    Result(&'a ResultRow),
    Chain(&'a ChainRow),
    Image(&'a ImageRow),
    Mount(&'a MountRow),
}

impl<'a> Candidate<'a> {
    fn snapshots(self) -> &'a [SnapshotId] {
        match self {
            Self::Result(result) => &result.snapshots,
            Self::Chain(chain) => std::slice::from_ref(&chain.snapshot),
            Self::Image(image) => image.snapshot.as_slice(),
            Self::Mount(_) => &[],
        }
    }

    fn blobs(self) -> &'a [Digest] {
        match self {
            Self::Image(image) => &image.blobs,
            Self::Result(_) | Self::Chain(_) | Self::Mount(_) => &[],
        }
    }

    fn used(self) -> i64 {
        match self {
            Self::Result(result) => result.used,
            Self::Chain(chain) => chain.used,
            Self::Image(image) => image.used,
            Self::Mount(mount) => mount.used,
        }
    }

    /// Milliseconds a byte.
    fn value(self, bytes: u64, now_ms: i64) -> f64 {
        #[expect(
            clippy::cast_precision_loss,
            reason = "an order of magnitude is all that is asked"
        )]
        let (worth, age) = {
            let worth = match self {
                Self::Result(result) => result.duration_ms as f64 / bytes.max(1) as f64,
                Self::Chain(_) | Self::Mount(_) => 1.0 / PULL_BYTES_PER_MS,
                // It costs nothing to make again: its steps have records of their own.
                Self::Image(_) => 0.0,
            };
            (worth, now_ms.saturating_sub(self.used()).max(0) as f64)
        };
        worth * (-age / HALF_LIFE_MS).exp2()
    }

    fn is_chosen(self, options: &PruneOptions) -> bool {
        match self {
            Self::Chain(_) if options.unpacked => true,
            Self::Result(_) | Self::Chain(_) => {
                let mut ids = self.snapshots().iter().map(SnapshotId::as_str);
                options.allows(Kind::Regular)
                    && (options.ids.is_empty() || ids.any(|id| options.names(id)))
            }
            Self::Image(image) => {
                options.kinds.is_empty()
                    && (options.ids.is_empty() || options.names(&image.manifest.hex()))
            }
            Self::Mount(mount) => {
                options.allows(Kind::CacheMount) && options.names(&item::mount_id(mount))
            }
        }
    }
}

pub(super) fn plan(contents: &Contents, options: &PruneOptions, situation: Situation) -> Plan {
    let Situation {
        now_ms,
        spare_since,
        other_bytes,
    } = situation;
    let limit = options.until.map_or(spare_since, |until| {
        until.saturating_mul(1000).min(spare_since)
    });
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
    contents.containers.iter().for_each(|id| holders.hold(id));
    let candidates = candidates(contents, options, limit, &mut holders);
    holders.drop_unheld();
    let mut plan = Plan::default();
    let fits = |holders: &Holders<'_>| {
        let total = holders.bytes.saturating_add(other_bytes);
        options.keep_storage.is_some_and(|keep| total <= keep)
    };
    let mut queue = Queue::new(candidates, &mut holders, now_ms);
    while !fits(&holders) {
        let Some(candidate) = queue.next(&mut holders) else {
            break;
        };
        match candidate {
            Candidate::Result(result) => plan.results.push(result.id),
            Candidate::Chain(chain) => plan.chains.push(chain.chain),
            Candidate::Image(image) => plan.images.push(image.manifest),
            Candidate::Mount(mount) => {
                plan.mounts.push(mount.clone());
                holders.bytes = holders.bytes.saturating_sub(mount.bytes);
            }
        }
        for id in candidate.snapshots() {
            holders.release(id);
        }
        for digest in candidate.blobs() {
            holders.release_blob(digest);
        }
    }
    plan.still_too_much = options.keep_storage.is_some() && !fits(&holders);
    plan.left = holders.bytes.saturating_add(other_bytes);
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

/// What was not used since `limit` and is chosen. All that anything holds is held by then, also by candidates.
fn candidates<'a>(
    contents: &'a Contents,
    options: &PruneOptions,
    limit: i64,
    holders: &mut Holders<'a>,
) -> Vec<Candidate<'a>> {
    let hold_image = |holders: &mut Holders<'_>, image: &ImageRow| {
        image.snapshot.iter().for_each(|id| holders.hold(id));
        image.blobs.iter().for_each(|it| holders.hold_blob(it));
    };
    let goes = |candidate: Candidate<'_>| candidate.used() < limit && candidate.is_chosen(options);
    let mut candidates = Vec::new();
    for image in &contents.images {
        if !image.name.is_empty() || !goes(Candidate::Image(image)) {
            hold_image(holders, image);
        }
    }
    let held_for_good = holders.reachable();
    for image in &contents.images {
        if image.name.is_empty() && goes(Candidate::Image(image)) {
            hold_image(holders, image);
            candidates.push(Candidate::Image(image));
        }
    }
    let results = contents.results.iter().map(Candidate::Result);
    let chains = contents.chains.iter().map(Candidate::Chain);
    for candidate in results.chain(chains) {
        let snapshots = candidate.snapshots();
        snapshots.iter().for_each(|id| holders.hold(id));
        let costs_nothing =
            !snapshots.is_empty() && snapshots.iter().all(|id| held_for_good.contains(id));
        if options.takes_more() && goes(candidate) && !costs_nothing {
            candidates.push(candidate);
        }
    }
    if options.takes_more() {
        let mounts = contents.mounts.iter().map(Candidate::Mount);
        candidates.extend(mounts.filter(|mount| goes(*mount)));
    }
    candidates
}

/// What may go, the least valuable first. A result on which other snapshots stand comes when they are gone.
struct Queue<'a> {
    ready: BinaryHeap<Ranked<'a>>,
    waiting: HashMap<&'a SnapshotId, Vec<Ranked<'a>>>,
}

struct Ranked<'a> {
    value: f64,
    /// In the order in which they were given.
    place: usize,
    candidate: Candidate<'a>,
}

impl Ord for Ranked<'_> {
    /// The least valuable is the greatest: it comes out of the heap first. Of equals, the longest unused.
    fn cmp(&self, other: &Self) -> Ordering {
        let by_value = other.value.total_cmp(&self.value);
        by_value
            .then(other.candidate.used().cmp(&self.candidate.used()))
            .then(other.place.cmp(&self.place))
    }
}

impl PartialOrd for Ranked<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Ranked<'_> {}

impl<'a> Queue<'a> {
    fn new(candidates: Vec<Candidate<'a>>, holders: &mut Holders<'_>, now_ms: i64) -> Self {
        // From here on, it gets the snapshots on which nothing stands any more.
        holders.childless.clear();
        let mut queue = Self {
            ready: BinaryHeap::new(),
            waiting: HashMap::new(),
        };
        for (place, candidate) in candidates.into_iter().enumerate() {
            let snapshots = candidate.snapshots();
            let bytes = snapshots.iter().map(|id| holders.size(id)).sum();
            let ranked = Ranked {
                value: candidate.value(bytes, now_ms),
                place,
                candidate,
            };
            let waits = match candidate {
                Candidate::Result(_) | Candidate::Chain(_) => {
                    snapshots.iter().all(|id| holders.has_children(id))
                }
                Candidate::Image(_) | Candidate::Mount(_) => false,
            };
            match snapshots.first() {
                Some(id) if waits => queue.waiting.entry(id).or_default().push(ranked),
                _ => queue.ready.push(ranked),
            }
        }
        queue
    }

    fn next(&mut self, holders: &mut Holders<'_>) -> Option<Candidate<'a>> {
        for id in std::mem::take(&mut holders.childless) {
            self.ready
                .extend(self.waiting.remove(&id).unwrap_or_default());
        }
        self.ready.pop().map(|ranked| ranked.candidate)
    }
}
