//! What operations give to those that use them.

use std::sync::Arc;

use rbuild_cache::tree::Tree;
use rbuild_cache::{Key, KeyWriter, Snapshot, SnapshotId, Store};

use crate::context::Context;
use crate::shared_cache::import::There;

/// What a vertex gives to those that use it.
#[derive(Debug, Clone)]
pub(crate) enum Output {
    /// `None` is an empty root.
    Snapshot(Option<Snapshot>),
    /// Known from a shared cache; its files are elsewhere until they are needed.
    There(Arc<There>),
    Context(Arc<View>),
}

/// A build context, and of it what the build names.
#[derive(Debug)]
pub(crate) struct View {
    pub(super) context: Arc<Context>,
    pub(super) tree: Arc<Tree>,
}

impl Output {
    /// The snapshot, where there is one to stand on.
    pub(crate) fn snapshot(&self) -> Option<&SnapshotId> {
        match self {
            Self::Snapshot(snapshot) => snapshot.as_ref().map(|snapshot| &snapshot.id),
            Self::There(there) => there.known_snapshot().map(|snapshot| &snapshot.id),
            Self::Context(_) => None,
        }
    }

    /// The contents of the roots that this one stands on, and its own.
    pub(crate) fn contents(&self, store: &Store) -> Result<Vec<Key>, rbuild_cache::Error> {
        Ok(match self {
            Self::Snapshot(Some(snapshot)) => {
                let chain = store.chain(&snapshot.id)?;
                chain.iter().map(|snapshot| snapshot.content).collect()
            }
            Self::There(there) => there.contents(),
            Self::Snapshot(None) | Self::Context(_) => Vec::new(),
        })
    }

    pub(crate) fn into_snapshot(self) -> Option<Snapshot> {
        match self {
            Self::Snapshot(snapshot) => snapshot,
            Self::There(there) => there.known_snapshot().cloned(),
            Self::Context(_) => None,
        }
    }
}

/// The content of a root; also of the empty one.
pub(super) fn root_content(snapshot: Option<&Snapshot>) -> Key {
    snapshot.map_or_else(empty_root_content, |snapshot| snapshot.content)
}

pub(crate) fn empty_root_content() -> Key {
    KeyWriter::new("empty-root.v1").finish()
}
