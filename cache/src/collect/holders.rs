//! Who holds what, counted: what goes when a holder lets go.

use std::collections::{HashMap, HashSet};

use super::contents::{Contents, SnapshotRow};
use crate::digest::Digest;
use crate::snapshot::SnapshotId;

/// Who holds what, counted.
pub(super) struct Holders<'a> {
    snapshots: HashMap<&'a SnapshotId, Held<'a>>,
    blobs: HashMap<&'a Digest, HeldBlob>,
    /// Of all that is not gone.
    pub(super) bytes: u64,
    /// Snapshots whose last child went.
    pub(super) childless: Vec<SnapshotId>,
}

struct Held<'a> {
    row: &'a SnapshotRow,
    layers: Vec<&'a Digest>,
    /// Children count too.
    holders: u64,
    children: u64,
    gone: bool,
}

struct HeldBlob {
    bytes: u64,
    holders: u64,
    gone: bool,
}

impl<'a> Holders<'a> {
    pub(super) fn new(contents: &'a Contents) -> Self {
        let mut holders = Self {
            snapshots: HashMap::with_capacity(contents.snapshots.len()),
            blobs: HashMap::with_capacity(contents.blobs.len()),
            bytes: 0,
            childless: Vec::new(),
        };
        for row in &contents.snapshots {
            holders.bytes = holders.bytes.saturating_add(row.bytes);
            let held = Held {
                row,
                layers: Vec::new(),
                holders: 0,
                children: 0,
                gone: false,
            };
            holders.snapshots.insert(&row.id, held);
        }
        for blob in &contents.blobs {
            holders.bytes = holders.bytes.saturating_add(blob.bytes);
            let held = HeldBlob {
                bytes: blob.bytes,
                holders: 0,
                gone: false,
            };
            holders.blobs.insert(&blob.digest, held);
        }
        for row in &contents.snapshots {
            if let Some(parent) = row
                .parent
                .as_ref()
                .and_then(|id| holders.snapshots.get_mut(id))
            {
                parent.holders += 1;
                parent.children += 1;
            }
        }
        for mount in &contents.mounts {
            holders.bytes = holders.bytes.saturating_add(mount.bytes);
        }
        for (id, digest) in &contents.layers {
            if let Some(held) = holders.snapshots.get_mut(id) {
                held.layers.push(digest);
                holders.hold_blob(digest);
            }
        }
        holders
    }

    pub(super) fn hold(&mut self, id: &SnapshotId) {
        if let Some(held) = self.snapshots.get_mut(id) {
            held.holders += 1;
        }
    }

    pub(super) fn hold_blob(&mut self, digest: &Digest) {
        if let Some(held) = self.blobs.get_mut(digest) {
            held.holders += 1;
        }
    }

    /// What a snapshot takes, wherever its files are.
    pub(super) fn size(&self, id: &SnapshotId) -> u64 {
        let Some(held) = self.snapshots.get(id) else {
            return 0;
        };
        let layers = held.layers.iter().filter(|_| held.row.is_packed);
        let blobs = layers.filter_map(|digest| self.blobs.get(digest));
        blobs.fold(held.row.bytes, |sum, blob| sum.saturating_add(blob.bytes))
    }

    pub(super) fn has_children(&self, id: &SnapshotId) -> bool {
        self.snapshots.get(id).is_some_and(|held| held.children > 0)
    }

    /// Snapshots that are held by more than their children, and all below them.
    pub(super) fn reachable(&self) -> HashSet<&'a SnapshotId> {
        let mut reached = HashSet::new();
        for (id, held) in &self.snapshots {
            if held.holders <= held.children {
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
    pub(super) fn drop_unheld(&mut self) {
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
                self.bytes = self.bytes.saturating_sub(held.bytes);
            }
        }
    }

    pub(super) fn release(&mut self, id: &SnapshotId) {
        if let Some(held) = self.snapshots.get_mut(id) {
            held.holders = held.holders.saturating_sub(1);
            if held.holders == 0 {
                self.let_go(id);
            }
        }
    }

    pub(super) fn release_blob(&mut self, digest: &Digest) {
        if let Some(blob) = self.blobs.get_mut(digest) {
            blob.holders = blob.holders.saturating_sub(1);
            if blob.holders == 0 && !blob.gone {
                blob.gone = true;
                self.bytes = self.bytes.saturating_sub(blob.bytes);
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
            self.bytes = self.bytes.saturating_sub(held.row.bytes);
            next = held.row.parent.as_ref();
            for digest in std::mem::take(&mut held.layers) {
                self.release_blob(digest);
            }
            if let Some(parent) = next.and_then(|parent| self.snapshots.get_mut(parent)) {
                parent.holders = parent.holders.saturating_sub(1);
                parent.children = parent.children.saturating_sub(1);
                if parent.children == 0 {
                    self.childless.push(parent.row.id.clone());
                }
            }
        }
    }

    pub(super) fn gone(&self) -> HashSet<SnapshotId> {
        let gone = self.snapshots.values().filter(|held| held.gone);
        gone.map(|held| held.row.id.clone()).collect()
    }

    pub(super) fn gone_blobs(&self) -> HashSet<Digest> {
        let gone = self.blobs.iter().filter(|(_, held)| held.gone);
        gone.map(|(digest, _)| **digest).collect()
    }
}
