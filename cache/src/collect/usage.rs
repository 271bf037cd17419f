//! How much room the store takes: by kind, and thing by thing.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;

use super::item::{self, Item, Kind};
use super::meter::{Count, Meter, allocated};
use super::{PruneOptions, contents, plan};
use crate::lease;
use crate::snapshot::SnapshotId;
use crate::store::{Result, Store};

/// Real blocks by kind, in bytes; what is shared is counted once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    pub blobs: Used,
    pub snapshots: Used,
    pub cache_mounts: Used,
    /// What is remembered of build contexts, and notes that explain builds.
    pub contexts: Used,
    /// Containers and volumes: nobody's to collect.
    pub containers: Used,
    /// What `check` put away.
    pub quarantine: Used,
    /// The index, what is in the making.
    pub other: Used,
}

/// What one kind of things takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// How many things.
    pub count: u64,
    /// How many of them something holds: a name, a container, a living process.
    pub active: u64,
    pub bytes: u64,
    /// What `prune --all` would give back.
    pub reclaimable: u64,
}

impl Usage {
    /// Each kind by its name, in the order in which they are shown.
    pub fn kinds(&self) -> [(&'static str, Used); 7] {
        [
            ("Blobs", self.blobs),
            ("Snapshots", self.snapshots),
            ("Cache mounts", self.cache_mounts),
            ("Contexts", self.contexts),
            ("Containers", self.containers),
            ("Quarantine", self.quarantine),
            ("Other", self.other),
        ]
    }

    /// Of all kinds together.
    pub fn bytes(&self) -> u64 {
        self.kinds().iter().map(|(_, used)| used.bytes).sum()
    }

    /// What `prune --all` would give back of all kinds together, in bytes.
    pub fn reclaimable(&self) -> u64 {
        self.kinds().iter().map(|(_, used)| used.reclaimable).sum()
    }
}

impl Store {
    /// Measures everything.
    pub fn usage(&self) -> Result<Usage> {
        let mounts = self.measured_mounts()?;
        let (contents, plan) = self.plan_of_all(mounts)?;
        let mut meter = Meter::new(Count::Once);
        let mut usage = Usage::default();
        // What stays first: a file that it shares with what may go is not given back.
        let mut going = Vec::new();
        for name in lease::names(&self.root().join("snapshots"))? {
            let id = SnapshotId(name);
            let path = self.shared.snapshot_holder(&id);
            usage.snapshots.count += 1;
            if plan.snapshots.contains(&id) {
                going.push(path);
            } else {
                usage.snapshots.active += 1;
                usage.snapshots.bytes += meter.tree(&path);
            }
        }
        for path in going {
            let bytes = meter.tree(&path);
            usage.snapshots.bytes += bytes;
            usage.snapshots.reclaimable += bytes;
        }
        usage.blobs.bytes = meter.tree(&self.root().join("content"));
        usage.blobs.count = contents.blobs.len() as u64;
        usage.blobs.active = usage.blobs.count - plan.blobs.len() as u64;
        for digest in &plan.blobs {
            usage.blobs.reclaimable += allocated(&self.blob_path(digest));
        }
        usage.cache_mounts.count = contents.mounts.len() as u64;
        usage.cache_mounts.active = usage.cache_mounts.count - plan.mounts.len() as u64;
        usage.cache_mounts.bytes = meter.tree(&self.root().join("mounts"));
        usage.cache_mounts.reclaimable = plan.mounts.iter().map(|mount| mount.bytes).sum();
        let contexts = lease::names(&self.root().join("contexts"))?;
        usage.contexts.count = contexts.len() as u64;
        usage.contexts.bytes =
            meter.tree(&self.root().join("contexts")) + meter.tree(&self.root().join("explain"));
        usage.contexts.reclaimable = self
            .context_items()?
            .iter()
            .map(|context| context.bytes)
            .sum();
        let ids: HashSet<String> = self.containers()?.into_iter().map(|(id, _)| id).collect();
        usage.containers.count = ids.len() as u64;
        usage.containers.active = usage.containers.count;
        for name in ["containers", "networks", "volumes"] {
            usage.containers.bytes += meter.tree(&self.root().join(name));
        }
        let quarantined = self.quarantine_items()?;
        usage.quarantine.count = quarantined.len() as u64;
        usage.quarantine.bytes = meter.tree(&self.root().join("quarantine"));
        usage.quarantine.reclaimable = quarantined
            .iter()
            .filter(|item| item.reclaimable)
            .map(|item| item.bytes)
            .sum();
        for name in [
            "index.db",
            "index.db-wal",
            "index.db-shm",
            "reserve",
            crate::synced::NAME,
            "tmp",
            "leases",
            "locks",
        ] {
            usage.other.bytes += meter.tree(&self.root().join(name));
        }
        Ok(usage)
    }

    /// Everything that takes room, the largest first.
    pub fn items(&self) -> Result<Vec<Item>> {
        self.measure_snapshots()?;
        let mounts = self.measured_mounts()?;
        let (contents, plan) = self.plan_of_all(mounts)?;
        let instructions = contents::instructions(&self.index())?;
        let mut items = item::list(&contents, &plan, instructions);
        items.extend(self.context_items()?);
        items.extend(self.quarantine_items()?);
        items.sort_by(|one, other| other.bytes.cmp(&one.bytes).then(one.id.cmp(&other.id)));
        Ok(items)
    }

    /// What there is, and what `prune --all` would take.
    fn plan_of_all(
        &self,
        mounts: Vec<contents::MountRow>,
    ) -> Result<(contents::Contents, plan::Plan)> {
        let all = PruneOptions {
            all: true,
            ..PruneOptions::default()
        };
        let situation = self.situation(0)?;
        let mut contents = contents::read(&self.index())?;
        contents.mounts = mounts;
        let plan = plan::plan(&contents, &all, situation);
        Ok((contents, plan))
    }

    /// Stat caches of build contexts.
    pub(super) fn context_items(&self) -> Result<Vec<Item>> {
        let directory = self.root().join("contexts");
        let mut items = Vec::new();
        for name in lease::names(&directory)? {
            let Ok(metadata) = std::fs::symlink_metadata(directory.join(&name)) else {
                continue;
            };
            items.push(Item {
                id: name,
                kind: Kind::Context,
                parent: None,
                description: "what is remembered of a build context".to_owned(),
                bytes: metadata.blocks() * 512,
                shared: false,
                reclaimable: true,
                created: None,
                last_used: metadata.mtime(),
            });
        }
        Ok(items)
    }
}
