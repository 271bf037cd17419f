//! What goes, decided again the slow way: everything is worked out anew before each choice. For random stores,
//! [`plan`](super::plan::plan) must come to the same, choice by choice.

use std::collections::HashSet;

use super::contents::*;
use super::item::mount_id;
use super::plan::{Plan, Situation, plan};
use super::*;
use crate::snapshot::SnapshotId;

/// xorshift64*
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let word = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(word).unwrap() % limit
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    /// A time of use, of few different ones: many are alike.
    fn used(&mut self) -> i64 {
        i64::try_from(self.below(12)).unwrap() * 500
    }

    fn bytes(&mut self) -> u64 {
        [0, 1, 10, 100, 100, 1000][self.below(6)]
    }
}

const NOW: i64 = 6000;

fn digest(number: usize) -> Digest {
    Digest::of(&number.to_le_bytes())
}

fn random_contents(random: &mut Random) -> Contents {
    let count = 1 + random.below(12);
    let id = |place: usize| SnapshotId(format!("{place:032x}"));
    let snapshots: Vec<SnapshotRow> = (0..count)
        .map(|place| SnapshotRow {
            id: id(place),
            parent: (place > 0 && !random.one_in(3)).then(|| id(random.below(place))),
            bytes: random.bytes(),
            is_packed: false,
            shared: false,
            created: 0,
            used: random.used(),
        })
        .collect();
    let blobs: Vec<BlobRow> = (0..random.below(8))
        .map(|number| BlobRow {
            digest: digest(number),
            bytes: random.bytes(),
            used: random.used(),
        })
        .collect();
    let results = (0..random.below(12)).map(|number| ResultRow {
        id: i64::try_from(number).unwrap(),
        snapshots: (0..[1, 1, 1, 0, 2][random.below(5)])
            .map(|_| id(random.below(count)))
            .collect(),
        duration_ms: [0, 1, 10, 5000][random.below(4)],
        used: random.used(),
    });
    let results = results.collect();
    let mut chained = HashSet::new();
    let chains = (0..random.below(4)).map(|number| ChainRow {
        chain: *digest(100 + number).as_bytes(),
        snapshot: id(random.below(count)),
        used: random.used(),
    });
    let chains = chains
        .filter(|chain| chained.insert(chain.snapshot.clone()))
        .collect();
    let images = (0..random.below(5)).map(|number| ImageRow {
        name: if random.one_in(2) { "n" } else { "" }.to_owned(),
        manifest: digest(200 + number),
        snapshot: (!random.one_in(3)).then(|| id(random.below(count))),
        blobs: (0..random.below(4))
            .map(|_| digest(random.below(8)))
            .collect(),
        used: random.used(),
    });
    let images = images.collect();
    let containers = (0..random.below(3)).map(|_| id(random.below(count)));
    let containers = containers.collect();
    let layers = (0..random.below(6)).map(|_| (id(random.below(count)), digest(random.below(8))));
    let layers = layers.collect();
    let mounts = (0..random.below(3)).map(|number| MountRow {
        number: number as u64,
        directory: "/m/abc".into(),
        id: "m".to_owned(),
        bytes: random.bytes(),
        used: random.used(),
    });
    let mounts = mounts.collect();
    Contents {
        snapshots,
        blobs,
        results,
        chains,
        images,
        containers,
        layers,
        mounts,
    }
}

fn random_options(random: &mut Random, contents: &Contents) -> PruneOptions {
    let total: u64 = contents.snapshots.iter().map(|it| it.bytes).sum();
    let mut kinds = Vec::new();
    if random.one_in(4) {
        kinds.push(Kind::ALL[random.below(3)]);
    }
    let mut ids = Vec::new();
    if random.one_in(6) {
        ids.push(format!("{:032x}", random.below(12)));
    }
    PruneOptions {
        all: random.one_in(3),
        keep_storage: (!random.one_in(3))
            .then(|| u64::try_from(random.below(2000)).unwrap() % (total + 200)),
        until: random.one_in(4).then(|| random.used() / 1000),
        kinds,
        ids,
        unpacked: random.one_in(4),
        dry_run: false,
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Choice {
    Image(usize),
    Result(usize),
    Chain(usize),
    Mount(usize),
}

struct Slow<'a> {
    contents: &'a Contents,
    options: &'a PruneOptions,
    situation: Situation,
    taken: Vec<Choice>,
}

impl Slow<'_> {
    fn limit(&self) -> i64 {
        let spare = self.situation.spare_since;
        self.options
            .until
            .map_or(spare, |until| spare.min(until * 1000))
    }

    /// An image without a name that may go.
    fn image_may_go(&self, image: &ImageRow) -> bool {
        image.name.is_empty()
            && image.used < self.limit()
            && self.options.kinds.is_empty()
            && self.options.names(&image.manifest.hex())
    }

    fn below(&self, roots: impl Iterator<Item = SnapshotId>) -> HashSet<SnapshotId> {
        let mut all = HashSet::new();
        for root in roots {
            let mut next = Some(root);
            while let Some(id) = next {
                let row = self.contents.snapshots.iter().find(|row| row.id == id);
                next = row.and_then(|row| row.parent.clone());
                all.insert(id);
            }
        }
        all
    }

    /// What no candidate holds, but somebody else for good.
    fn held_for_good(&self) -> HashSet<SnapshotId> {
        let spare = self.situation.spare_since;
        let recent = self.contents.snapshots.iter();
        let recent = recent.filter(|row| row.used >= spare).map(|row| &row.id);
        let images = self.contents.images.iter();
        let images = images.filter(|it| !self.image_may_go(it));
        let images = images.filter_map(|image| image.snapshot.as_ref());
        let held = recent.chain(images).chain(&self.contents.containers);
        self.below(held.cloned())
    }

    fn alive(&self) -> HashSet<SnapshotId> {
        let left = |choice: Choice| !self.taken.contains(&choice);
        let mut roots: Vec<SnapshotId> = self.held_for_good().into_iter().collect();
        for (place, image) in self.contents.images.iter().enumerate() {
            if left(Choice::Image(place)) {
                roots.extend(image.snapshot.clone());
            }
        }
        for (place, result) in self.contents.results.iter().enumerate() {
            if left(Choice::Result(place)) {
                roots.extend(result.snapshots.iter().cloned());
            }
        }
        for (place, chain) in self.contents.chains.iter().enumerate() {
            if left(Choice::Chain(place)) {
                roots.push(chain.snapshot.clone());
            }
        }
        self.below(roots.into_iter())
    }

    fn alive_blobs(&self, alive: &HashSet<SnapshotId>) -> HashSet<Digest> {
        let mut blobs = HashSet::new();
        let spare = self.situation.spare_since;
        let recent = self.contents.blobs.iter().filter(|it| it.used >= spare);
        blobs.extend(recent.map(|row| row.digest));
        for (place, image) in self.contents.images.iter().enumerate() {
            if !self.taken.contains(&Choice::Image(place)) {
                blobs.extend(&image.blobs);
            }
        }
        let layers = self.contents.layers.iter();
        blobs.extend(
            layers
                .filter(|(id, _)| alive.contains(id))
                .map(|(_, it)| *it),
        );
        blobs
    }

    fn bytes(&self) -> u64 {
        let alive = self.alive();
        let blobs = self.alive_blobs(&alive);
        let snapshots = self.contents.snapshots.iter();
        let snapshots = snapshots.filter(|row| alive.contains(&row.id));
        let blobs = self
            .contents
            .blobs
            .iter()
            .filter(|row| blobs.contains(&row.digest));
        let mounts = self.contents.mounts.iter().enumerate();
        let mounts = mounts.filter(|(place, _)| !self.taken.contains(&Choice::Mount(*place)));
        snapshots.map(|row| row.bytes).sum::<u64>()
            + blobs.map(|row| row.bytes).sum::<u64>()
            + mounts.map(|(_, row)| row.bytes).sum::<u64>()
            + self.situation.other_bytes
    }

    fn fits(&self) -> bool {
        self.options
            .keep_storage
            .is_some_and(|keep| self.bytes() <= keep)
    }

    fn stood_on(&self, id: &SnapshotId) -> bool {
        let alive = self.alive();
        let mut rows = self.contents.snapshots.iter();
        rows.any(|row| row.parent.as_ref() == Some(id) && alive.contains(&row.id))
    }

    /// Of what may go: what it holds, when it was used, and milliseconds a byte.
    fn candidates(&self) -> Vec<(Choice, Vec<SnapshotId>, i64, f64)> {
        let options = self.options;
        let mut candidates = Vec::new();
        for (place, image) in self.contents.images.iter().enumerate() {
            if self.image_may_go(image) {
                let held = image.snapshot.iter().cloned().collect();
                candidates.push((Choice::Image(place), held, image.used, 0.0));
            }
        }
        let takes_more = options.all
            || options.keep_storage.is_some()
            || options.until.is_some()
            || !options.kinds.is_empty()
            || !options.ids.is_empty();
        if !takes_more {
            return candidates;
        }
        let for_good = self.held_for_good();
        let regular = options.kinds.is_empty() || options.kinds.contains(&Kind::Regular);
        let mut add = |choice, held: Vec<SnapshotId>, used: i64, worth: f64| {
            let named = held.iter().any(|id| options.names(id.as_str()));
            let free = !held.is_empty() && held.iter().all(|id| for_good.contains(id));
            let unpacked = options.unpacked && matches!(choice, Choice::Chain(_));
            let meant = unpacked || (regular && (options.ids.is_empty() || named));
            if meant && used < self.limit() && !free {
                candidates.push((choice, held, used, worth));
            }
        };
        for (place, result) in self.contents.results.iter().enumerate() {
            let rows = |id: &SnapshotId| {
                let row = self.contents.snapshots.iter().find(|row| row.id == *id);
                row.unwrap().bytes
            };
            let bytes: u64 = result.snapshots.iter().map(rows).sum();
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let worth = result.duration_ms as f64 / bytes.max(1) as f64;
            add(
                Choice::Result(place),
                result.snapshots.clone(),
                result.used,
                worth,
            );
        }
        for (place, chain) in self.contents.chains.iter().enumerate() {
            add(
                Choice::Chain(place),
                vec![chain.snapshot.clone()],
                chain.used,
                1e-4,
            );
        }
        let mounts = options.kinds.is_empty() || options.kinds.contains(&Kind::CacheMount);
        for (place, mount) in self.contents.mounts.iter().enumerate() {
            if mounts && mount.used < self.limit() && options.names(&mount_id(mount)) {
                candidates.push((Choice::Mount(place), Vec::new(), mount.used, 1e-4));
            }
        }
        candidates
    }

    /// Takes the least valuable of what nothing stands on, until it fits.
    fn run(&mut self) {
        let candidates = self.candidates();
        let waits: Vec<bool> = candidates
            .iter()
            .map(|(choice, held, _, _)| {
                matches!(choice, Choice::Result(_) | Choice::Chain(_))
                    && !held.is_empty()
                    && held.iter().all(|id| self.stood_on(id))
            })
            .collect();
        let week = 7.0 * 24.0 * 3_600_000.0;
        while !self.fits() {
            let ready = candidates
                .iter()
                .zip(&waits)
                .filter(|((choice, held, ..), waits)| {
                    let is_below = **waits && self.stood_on(&held[0]);
                    !self.taken.contains(choice) && !is_below
                });
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let worth = |used: i64, worth: f64| {
                worth * (-((self.situation.now_ms - used) as f64) / week).exp2()
            };
            let least = ready.min_by(|((_, _, one, first), _), ((_, _, other, second), _)| {
                let by_worth = worth(*one, *first).total_cmp(&worth(*other, *second));
                by_worth.then(one.cmp(other))
            });
            let Some(((choice, ..), _)) = least else {
                return;
            };
            self.taken.push(*choice);
        }
    }
}

#[test]
fn random_stores_are_emptied_as_the_slow_way_empties_them() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut taken, mut kept_back, mut too_much) = (0, 0, 0);
    for round in 0..5000 {
        let contents = random_contents(&mut random);
        let options = random_options(&mut random, &contents);
        let situation = Situation {
            now_ms: NOW,
            spare_since: i64::try_from(random.below(13)).unwrap() * 500,
            other_bytes: random.bytes() / 10,
        };
        let fast: Plan = plan(&contents, &options, situation);
        let mut slow = Slow {
            contents: &contents,
            options: &options,
            situation,
            taken: Vec::new(),
        };
        slow.run();
        let what = || format!("round {round}: {contents:#?}\n{options:#?}\n{situation:?}");
        let alive = slow.alive();
        let chosen = |wanted: fn(&Choice) -> Option<usize>| -> Vec<usize> {
            slow.taken.iter().filter_map(wanted).collect()
        };
        let results = chosen(|it| match it {
            Choice::Result(place) => Some(*place),
            _ => None,
        });
        let results: Vec<i64> = results.iter().map(|it| contents.results[*it].id).collect();
        assert_eq!(fast.results, results, "{}", what());
        let images = chosen(|it| match it {
            Choice::Image(place) => Some(*place),
            _ => None,
        });
        let images: Vec<Digest> = images
            .iter()
            .map(|it| contents.images[*it].manifest)
            .collect();
        assert_eq!(fast.images, images, "{}", what());
        let mounts = chosen(|it| match it {
            Choice::Mount(place) => Some(*place),
            _ => None,
        });
        let numbers: Vec<usize> = fast.mounts.iter().map(|it| it.number as usize).collect();
        assert_eq!(numbers, mounts, "{}", what());
        let gone: HashSet<SnapshotId> = contents
            .snapshots
            .iter()
            .filter(|row| !alive.contains(&row.id))
            .map(|row| row.id.clone())
            .collect();
        assert_eq!(fast.snapshots, gone, "{}", what());
        let blobs = slow.alive_blobs(&alive);
        let gone_blobs: HashSet<Digest> = contents
            .blobs
            .iter()
            .filter(|row| !blobs.contains(&row.digest))
            .map(|row| row.digest)
            .collect();
        assert_eq!(fast.blobs, gone_blobs, "{}", what());
        assert_eq!(fast.left, slow.bytes(), "{}", what());
        let over = options.keep_storage.is_some() && !slow.fits();
        assert_eq!(fast.still_too_much, over, "{}", what());
        // What stays points at nothing that went.
        for chain in &contents.chains {
            assert!(
                fast.chains.contains(&chain.chain) || alive.contains(&chain.snapshot),
                "{}",
                what()
            );
        }
        taken += slow.taken.len();
        kept_back += usize::from(options.keep_storage.is_some() && !slow.taken.is_empty() && !over);
        too_much += usize::from(over);
    }
    // All sorts of stores were met.
    assert!(
        taken > 4000 && kept_back > 100 && too_much > 1000,
        "{taken} {kept_back} {too_much}"
    );
}
