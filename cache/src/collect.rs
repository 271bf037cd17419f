//! Collection: what may go, in which order, and how much space is used.
//!
//! `plan` decides, from what `contents` read and without touching it; `measure` knows how much room things take.
//! Here, under the lock that keeps others from publishing: rows go first, in one durable transaction; then the names
//! move to `tmp/`. After the lock is freed the files are deleted. Dying in between leaves garbage, never a row that
//! points at nothing.

mod contents;
mod holders;
mod item;
mod limit;
mod measure;
mod meter;
mod plan;
mod quarantine;
#[cfg(test)]
mod slow;
#[cfg(test)]
mod tests;
mod usage;

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use rusqlite::Transaction;

use crate::digest::Digest;
use crate::error::{IndexContext as _, IoContext as _};
use crate::index;
use crate::lease;
use crate::record;
use crate::store::{Result, Store, make_reserve, spend_reserve};

pub(crate) use contents::MountRow;
pub use item::{Item, Kind};
pub use limit::Limits;
pub(crate) use measure::forget_one as forget_size;
pub(crate) use meter::allocated;
use meter::{Count, Meter};
use plan::{Plan, Situation};
pub use usage::{Usage, Used};

#[derive(Debug, Clone, Default)]
pub struct PruneOptions {
    /// Also what images' names do not hold but records do: everything not held by a name, a container or a lease.
    /// Without it, and without what follows: only images without a name.
    pub all: bool,
    /// Remove no more than it takes to come down to so many bytes; the least valuable first.
    pub keep_storage: Option<u64>,
    /// Only what was last used before this Unix time.
    pub until: Option<i64>,
    /// Only things of these kinds; of all where there are none.
    pub kinds: Vec<Kind>,
    /// Only things whose ids begin so; all where there are none.
    pub ids: Vec<String>,
    /// Whatever else is meant: also what was unpacked of images, where no name and no container holds it.
    pub unpacked: bool,
    /// Say what would go, and leave it.
    pub dry_run: bool,
}

impl PruneOptions {
    /// More than images without a name may go.
    fn takes_more(&self) -> bool {
        self.all
            || self.keep_storage.is_some()
            || self.until.is_some()
            || !self.kinds.is_empty()
            || !self.ids.is_empty()
    }

    fn allows(&self, kind: Kind) -> bool {
        self.kinds.is_empty() || self.kinds.contains(&kind)
    }

    /// True for things of the kinds, ids and age that are meant, whether or not they may go.
    pub fn matches(&self, item: &Item) -> bool {
        self.allows(item.kind)
            && self.names(&item.id)
            && self.until.is_none_or(|until| item.last_used < until)
    }

    fn names(&self, id: &str) -> bool {
        self.ids.is_empty()
            || self
                .ids
                .iter()
                .any(|prefix| id.starts_with(prefix.as_str()))
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    pub records: u64,
    pub snapshots: u64,
    pub blobs: u64,
    pub cache_mounts: u64,
    pub contexts: u64,
    /// Things that `check` had put away.
    pub quarantined: u64,
    /// Blocks given back, in bytes; with `dry_run`: about so many would be.
    pub bytes: u64,
    /// What went or would go.
    pub items: Vec<Item>,
    /// What is held is more than was to be kept: so many bytes are left.
    pub still_too_much: Option<u64>,
}

impl Pruned {
    /// Both together, this one first.
    fn and(mut self, other: Self) -> Self {
        self.items.extend(other.items);
        Self {
            records: self.records + other.records,
            snapshots: self.snapshots + other.snapshots,
            blobs: self.blobs + other.blobs,
            cache_mounts: self.cache_mounts + other.cache_mounts,
            contexts: self.contexts + other.contexts,
            quarantined: self.quarantined + other.quarantined,
            bytes: self.bytes + other.bytes,
            items: self.items,
            still_too_much: other.still_too_much,
        }
    }
}

impl Store {
    /// Removes what nothing holds. Safe beside running builds. Also works on a full disk.
    pub fn prune(&self, options: &PruneOptions) -> Result<Pruned> {
        match self.prune_once(options) {
            Err(error) if error.is_storage_full() => {
                // Removing needs a little room itself: the reserve is given up, and caches on which nothing depends.
                spend_reserve(self.root())?;
                for context in self.context_items()? {
                    lease::remove(&self.root().join("contexts").join(&context.id))?;
                }
                self.prune_once(options)
            }
            result => result,
        }
        .inspect(|_| {
            if let Err(error) = make_reserve(self.root()) {
                tracing::debug!(%error, "the room for the next collection could not be reserved");
            }
        })
    }

    fn prune_once(&self, options: &PruneOptions) -> Result<Pruned> {
        let action = "collect";
        let mut pruned = Pruned::default();
        if !options.dry_run {
            pruned.bytes = lease::sweep(self.root(), self.shared.lease.name(), usize::MAX)?;
            self.remove_stale_locks()?;
        }
        self.measure_snapshots()?;
        let mounts = self.measured_mounts()?;
        let old = self.quarantine_to_go(options, false)?;
        let old: u64 = old.iter().map(|item| item.bytes).sum();
        let other_bytes = self.other_bytes()?.saturating_sub(old);
        let decide = |contents: &mut contents::Contents| -> Result<Plan> {
            contents.mounts.clone_from(&mounts);
            Ok(plan::plan(contents, options, self.situation(other_bytes)?))
        };
        if options.dry_run {
            let mut contents = contents::read(&self.index())?;
            let plan = decide(&mut contents)?;
            pruned.tell(&contents, &plan, contents::instructions(&self.index())?);
            pruned.cache_mounts = plan.mounts.len() as u64;
            let contexts = self.contexts_to_go(options, &plan)?;
            pruned.contexts = contexts.len() as u64;
            let quarantined = self.quarantine_to_go(options, plan.still_too_much)?;
            pruned.quarantined = quarantined.len() as u64;
            pruned.tell_what_is_left(options, old, contexts.iter().chain(&quarantined));
            pruned.items.extend(contexts);
            pruned.items.extend(quarantined);
            pruned.bytes = pruned.items.iter().map(|item| item.bytes).sum();
            return Ok(pruned);
        }
        let doomed = self.shared.temporary_path();
        crate::store::make_directory(&doomed)?;
        let plan = {
            let _publishing = self.shared.publish_lock(true)?;
            let (contents, plan, names) =
                index::durably(&mut self.index(), action, |transaction| {
                    let names = contents::instructions(transaction)?;
                    let mut contents = contents::read(transaction)?;
                    let plan = decide(&mut contents)?;
                    apply(transaction, &plan)?;
                    Ok((contents, plan, names))
                })?;
            self.move_away(&doomed)?;
            pruned.tell(&contents, &plan, names);
            plan
        };
        // Also mends what a process left that died between naming an image and writing it down for others.
        self.write_layout_index()?;
        pruned.bytes += Meter::new(Count::WhenAllNamesAreSeen).tree(&doomed);
        // Giving blocks back may wait for the disk, file by file.
        lease::names(&doomed)?
            .par_iter()
            .try_for_each(|name| lease::remove(&doomed.join(name)))?;
        lease::remove(&doomed)?;

        let contexts = self.contexts_to_go(options, &plan)?;
        for context in &contexts {
            lease::remove(&self.root().join("contexts").join(&context.id))?;
        }
        let quarantined = self.quarantine_to_go(options, plan.still_too_much)?;
        for item in &quarantined {
            self.remove_quarantined(item)?;
        }
        pruned.contexts = contexts.len() as u64;
        pruned.quarantined = quarantined.len() as u64;
        pruned.tell_what_is_left(options, old, contexts.iter().chain(&quarantined));
        for item in contexts.into_iter().chain(quarantined) {
            pruned.bytes += item.bytes;
            pruned.items.push(item);
        }
        let (count, bytes) = self.collect_cache_mounts(&plan.mounts)?;
        pruned.cache_mounts = count;
        pruned.bytes += bytes;
        Ok(pruned)
    }

    /// Stat caches that go: all that are meant, or where what was to be kept is too much.
    fn contexts_to_go(&self, options: &PruneOptions, plan: &Plan) -> Result<Vec<Item>> {
        let asked = options.takes_more() && options.keep_storage.is_none();
        if !options.allows(Kind::Context) || !(asked || plan.still_too_much) {
            return Ok(Vec::new());
        }
        let spare_since = self.spare_since()? / 1000;
        let until = options.until.unwrap_or(i64::MAX).min(spare_since);
        let mut contexts = self.context_items()?;
        contexts.retain(|context| context.last_used < until && options.names(&context.id));
        Ok(contexts)
    }

    fn situation(&self, other_bytes: u64) -> Result<Situation> {
        Ok(Situation {
            now_ms: lease::now_ms(),
            spare_since: self.spare_since()?,
            other_bytes,
        })
    }

    /// What a limit counts besides what the index knows and cache mounts: small things.
    fn other_bytes(&self) -> Result<u64> {
        let contexts: u64 = self.context_items()?.iter().map(|it| it.bytes).sum();
        let index = ["index.db", "index.db-wal"];
        let index: u64 = index
            .iter()
            .map(|it| allocated(&self.root().join(it)))
            .sum();
        let rest = ["explain", "quarantine", "reserve"];
        let rest: u64 = rest.iter().map(|it| allocated(&self.root().join(it))).sum();
        Ok(contexts + index + rest)
    }

    /// What limits count: everything but containers and volumes.
    fn collectable_bytes(&self) -> Result<u64> {
        self.measure_snapshots()?;
        let mounts: u64 = self.measured_mounts()?.iter().map(|it| it.bytes).sum();
        let contents = contents::read(&self.index())?;
        let snapshots: u64 = contents.snapshots.iter().map(|it| it.bytes).sum();
        let blobs: u64 = contents.blobs.iter().map(|it| it.bytes).sum();
        Ok(snapshots + blobs + mounts + self.other_bytes()?)
    }

    /// Milliseconds since 1970: what was used since then may be in use by a living process.
    fn spare_since(&self) -> Result<i64> {
        let own = self.shared.lease.start_ms();
        Ok(lease::oldest_living(self.root())?.map_or(own, |oldest| oldest.min(own)))
    }

    /// Moves every snapshot and blob without a row into `doomed`. Nobody publishes meanwhile.
    pub(crate) fn move_away(&self, doomed: &Path) -> Result<()> {
        let mut moved = 0_u64;
        for (path, _) in self.unaccounted()? {
            moved += 1;
            let to = doomed.join(moved.to_string());
            rustix::fs::rename(&path, &to).at("remove", &path)?;
        }
        Ok(())
    }

    /// Files and directories that look like blobs and snapshots but have no row: what dying processes left, and
    /// what collection takes. The publish lock must be held.
    pub(crate) fn unaccounted(&self) -> Result<Vec<(PathBuf, String)>> {
        let action = "look for what is not in it";
        let mut found = Vec::new();
        let connection = self.index();
        let mut blobs = connection
            .prepare_cached("SELECT 1 FROM blobs WHERE digest = ?1")
            .doing(action)?;
        let directory = self.root().join("content/blobs/sha256");
        for name in lease::names(&directory)? {
            let Ok(digest) = format!("sha256:{name}").parse::<Digest>() else {
                continue;
            };
            if !blobs.exists([digest.as_bytes()]).doing(action)? {
                found.push((directory.join(&name), format!("blob {digest}")));
            }
        }
        let mut snapshots = connection
            .prepare_cached("SELECT 1 FROM snapshots WHERE id = ?1")
            .doing(action)?;
        let directory = self.root().join("snapshots");
        for name in lease::names(&directory)? {
            // Other names are not the store's; `check` reports them.
            if is_hex(&name, 32) && !snapshots.exists([&name]).doing(action)? {
                found.push((directory.join(&name), format!("snapshot {name}")));
            }
        }
        Ok(found)
    }

    /// Lock files of keys whose holders were killed.
    fn remove_stale_locks(&self) -> Result<()> {
        let directory = self.root().join("locks");
        for name in lease::names(&directory)? {
            if name.len() != 64 {
                continue;
            }
            // It lets go of it as any holder does: who waits finds the name gone and begins anew.
            drop(record::try_lock(&directory.join(&name))?);
        }
        Ok(())
    }
}

impl Pruned {
    /// Fills in what a plan says.
    fn tell(
        &mut self,
        contents: &contents::Contents,
        plan: &Plan,
        instructions: Vec<(i64, String)>,
    ) {
        self.records = plan.results.len() as u64;
        self.snapshots = plan.snapshots.len() as u64;
        self.blobs = plan.blobs.len() as u64;
        self.still_too_much = plan.still_too_much.then_some(plan.left);
        self.items = item::list(contents, plan, instructions);
        self.items.retain(|item| item.reclaimable);
    }

    /// Takes off what the plan left the things that it knows nothing of; `known` bytes of them it was told of.
    fn tell_what_is_left<'a>(
        &mut self,
        options: &PruneOptions,
        known: u64,
        also: impl Iterator<Item = &'a Item>,
    ) {
        let also: u64 = also.map(|item| item.bytes).sum();
        let left = self
            .still_too_much
            .map(|left| left.saturating_sub(also.saturating_sub(known)));
        self.still_too_much = left.filter(|left| options.keep_storage.is_some_and(|k| *left > k));
    }
}

/// A name as the store gives them to blobs (64 digits) and snapshots (32).
pub(crate) fn is_hex(name: &str, length: usize) -> bool {
    name.len() == length && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Takes the rows away.
fn apply(transaction: &Transaction<'_>, plan: &Plan) -> Result<()> {
    let action = "take away what is collected";
    let delete =
        |sql: &str, each: &mut dyn FnMut(&mut rusqlite::Statement<'_>) -> rusqlite::Result<()>| {
            let mut statement = transaction.prepare_cached(sql).doing(action)?;
            each(&mut statement).doing(action)
        };
    for sql in [
        "DELETE FROM keys WHERE result = ?1",
        "DELETE FROM results WHERE id = ?1",
    ] {
        delete(sql, &mut |statement| {
            plan.results
                .iter()
                .try_for_each(|id| statement.execute([id]).map(drop))
        })?;
    }
    delete("DELETE FROM chains WHERE chain = ?1", &mut |statement| {
        plan.chains
            .iter()
            .try_for_each(|chain| statement.execute([chain]).map(drop))
    })?;
    delete(
        "DELETE FROM images WHERE name = '' AND manifest = ?1",
        &mut |statement| {
            plan.images
                .iter()
                .try_for_each(|manifest| statement.execute([manifest.as_bytes()]).map(drop))
        },
    )?;
    for sql in [
        "DELETE FROM layers WHERE snapshot = ?1",
        "DELETE FROM snapshots WHERE id = ?1",
    ] {
        delete(sql, &mut |statement| {
            plan.snapshots
                .iter()
                .try_for_each(|id| statement.execute([id.as_str()]).map(drop))
        })?;
    }
    delete("DELETE FROM blobs WHERE digest = ?1", &mut |statement| {
        plan.blobs
            .iter()
            .try_for_each(|digest| statement.execute([digest.as_bytes()]).map(drop))
    })?;
    if plan.snapshots.is_empty() {
        return Ok(());
    }
    measure::forget(transaction)
}
