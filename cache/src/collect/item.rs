//! What the store holds, thing by thing, as people look at it: for `du -v`, for filters, and to say what goes.

use std::collections::{HashMap, HashSet};

use super::contents::{Contents, MountRow};
use super::plan::Plan;
use crate::digest::Digest;
use crate::snapshot::SnapshotId;

/// What sort of thing; the names are BuildKit's where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The result of a step, or a layer of an image.
    Regular,
    /// A directory of `RUN --mount=type=cache`.
    CacheMount,
    /// What is remembered of a build context.
    Context,
    /// A blob in `content/`.
    Blob,
    /// What `check` put away.
    Quarantine,
}

impl Kind {
    /// All kinds, in the order in which they are shown.
    pub const ALL: [Self; 5] = [
        Self::Regular,
        Self::CacheMount,
        Self::Context,
        Self::Blob,
        Self::Quarantine,
    ];

    /// As filters and listings call it: BuildKit's names where it has them.
    pub fn name(self) -> &'static str {
        match self {
            Self::Regular => "regular",
            Self::CacheMount => "exec.cachemount",
            Self::Context => "source.local",
            Self::Blob => "blob",
            Self::Quarantine => "quarantine",
        }
    }
}

/// One thing that takes room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub id: String,
    pub kind: Kind,
    /// What it stands on.
    pub parent: Option<String>,
    pub description: String,
    /// Blocks on disk; of files that it shares with others, its part.
    pub bytes: u64,
    /// Some of its files are others' too.
    pub shared: bool,
    /// `prune --all` would take it.
    pub reclaimable: bool,
    /// Unix seconds; `None` where that is not known.
    pub created: Option<i64>,
    pub last_used: i64,
}

/// A cache mount's directory as people may name it.
pub(super) fn mount_id(mount: &MountRow) -> String {
    let hash = mount.directory.file_name().unwrap_or_default();
    let hash: String = hash.to_string_lossy().chars().take(32).collect();
    format!("{hash}-{}", mount.number)
}

/// All that the index holds, and the cache mounts, the largest first. `plan` says what may go.
pub(super) fn list(
    contents: &Contents,
    plan: &Plan,
    instructions: Vec<(i64, String)>,
) -> Vec<Item> {
    let described = descriptions(contents, instructions.into_iter().collect());
    let last_used = last_used_with_what_stands_on_it(contents);
    let snapshots = contents.snapshots.iter().map(|row| Item {
        id: row.id.as_str().to_owned(),
        kind: Kind::Regular,
        parent: row.parent.as_ref().map(|parent| parent.as_str().to_owned()),
        description: described.get(&row.id).cloned().unwrap_or_default(),
        bytes: row.bytes,
        shared: row.shared,
        reclaimable: plan.snapshots.contains(&row.id),
        created: (row.created > 0).then_some(row.created),
        last_used: last_used.get(&row.id).copied().unwrap_or(row.used) / 1000,
    });
    let needed = blob_descriptions(contents);
    let blobs = contents.blobs.iter().map(|row| Item {
        id: row.digest.hex(),
        kind: Kind::Blob,
        parent: None,
        description: needed
            .get(&row.digest)
            .cloned()
            .unwrap_or_else(|| "nothing needs it".to_owned()),
        bytes: row.bytes,
        shared: false,
        reclaimable: plan.blobs.contains(&row.digest),
        created: None,
        last_used: row.used / 1000,
    });
    let going: HashSet<(&std::path::Path, u64)> = plan
        .mounts
        .iter()
        .map(|mount| (mount.directory.as_path(), mount.number))
        .collect();
    let mounts = contents.mounts.iter().map(|row| Item {
        id: mount_id(row),
        kind: Kind::CacheMount,
        parent: None,
        description: format!("cache mount {}", row.id),
        bytes: row.bytes,
        shared: false,
        reclaimable: going.contains(&(row.directory.as_path(), row.number)),
        created: None,
        last_used: row.used / 1000,
    });
    let mut items: Vec<Item> = snapshots.chain(blobs).chain(mounts).collect();
    items.sort_by(|one, other| other.bytes.cmp(&one.bytes).then(one.id.cmp(&other.id)));
    items
}

/// When snapshots were last used, in milliseconds: a build marks the one that it comes to, and with it uses all below.
fn last_used_with_what_stands_on_it(contents: &Contents) -> HashMap<&SnapshotId, i64> {
    let rows: HashMap<_, _> = contents.snapshots.iter().map(|it| (&it.id, it)).collect();
    let mut latest_first: Vec<_> = contents.snapshots.iter().collect();
    latest_first.sort_by_key(|row| std::cmp::Reverse(row.used));
    let mut last_used = HashMap::with_capacity(rows.len());
    for row in latest_first {
        let mut next = Some(row);
        while let Some(below) = next {
            if last_used.contains_key(&below.id) {
                break;
            }
            last_used.insert(&below.id, row.used);
            next = below.parent.as_ref().and_then(|id| rows.get(id)).copied();
        }
    }
    last_used
}

/// The step that made a snapshot; else the image that it is of.
fn descriptions(
    contents: &Contents,
    mut instructions: HashMap<i64, String>,
) -> HashMap<&SnapshotId, String> {
    let mut described = HashMap::new();
    let parents: HashMap<&SnapshotId, &SnapshotId> = contents
        .snapshots
        .iter()
        .filter_map(|row| Some((&row.id, row.parent.as_ref()?)))
        .collect();
    for result in &contents.results {
        let instruction = instructions.remove(&result.id).unwrap_or_default();
        for id in &result.snapshots {
            described.insert(id, instruction.clone());
        }
    }
    for image in contents
        .images
        .iter()
        .filter(|image| !image.name.is_empty())
    {
        let mut next = image.snapshot.as_ref();
        while let Some(id) = next {
            described
                .entry(id)
                .or_insert_with(|| format!("layer of {}", image.name));
            next = parents
                .get(id)
                .copied()
                .filter(|id| !described.contains_key(id));
        }
    }
    for chain in &contents.chains {
        described
            .entry(&chain.snapshot)
            .or_insert_with(|| "layer of a base image".to_owned());
    }
    described
}

fn blob_descriptions(contents: &Contents) -> HashMap<&Digest, String> {
    let mut described = HashMap::new();
    for image in &contents.images {
        let name = match image.name.as_str() {
            "" => "an image without a name",
            name => name,
        };
        for (place, digest) in image.blobs.iter().enumerate() {
            let what = match place {
                0 => "manifest",
                1 => "config",
                _ => "blob",
            };
            described.insert(digest, format!("{what} of {name}"));
        }
    }
    for (id, digest) in &contents.layers {
        described
            .entry(digest)
            .or_insert_with(|| format!("layer of snapshot {}", id.as_str()));
    }
    described
}
