//! The root of a container and the layer on top of it, also while it does not run.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rbuild_cache::{ActiveSnapshot, RootDir, SnapshotId, Store};

use crate::Executor;
use crate::mapped::Mapped;
use crate::merged::{Files, Merged};
use crate::overlay::{self, Below, Durability, Lowers};
use crate::sandbox::prepare::setup;
use crate::sandbox::{ExecError, bare};

/// Where what a command writes ends up.
#[derive(Debug)]
pub enum Top {
    /// In a layer that becomes a snapshot or goes.
    Own(ActiveSnapshot),
    /// In directories that are somebody else's; the work directory must be fresh. What is not `durable` may be
    /// lost in a power cut, whatever the command syncs.
    Kept {
        upper: PathBuf,
        work: PathBuf,
        durable: bool,
    },
}

impl Top {
    pub(in crate::sandbox) fn mount(
        &self,
        store: &Store,
        base: Option<&SnapshotId>,
        below: (Below, Option<&Mapped>),
    ) -> Result<OwnedFd, overlay::Error> {
        match self {
            Self::Own(layer) => {
                let top = (layer.upper(), layer.work());
                overlay::writable_at(store, base, top, Durability::Never, below)
            }
            Self::Kept {
                upper,
                work,
                durable,
            } => {
                let sync = if *durable {
                    Durability::AsAsked
                } else {
                    Durability::Never
                };
                overlay::writable_at(store, base, (upper, work), sync, below)
            }
        }
    }
}

/// The root of a container that does not run.
#[derive(Debug)]
pub struct Standing {
    pub root: RootDir,
    /// Where nothing can be mounted: what is changed in it is kept when that is said.
    merged: Option<Merged>,
}

impl Standing {
    /// What was changed in it is the container's from here on. `top` is what it was opened with. Blocking.
    pub fn keep(self, top: &Top) -> Result<(), ExecError> {
        match (self.merged, top) {
            (Some(merged), Top::Kept { upper, work, .. }) => bare::keep(upper, work, |layer| {
                let made = merged.into_layer(layer);
                made.map_err(|error| setup("keep what was changed", error))
            }),
            _ => Ok(()),
        }
    }
}

impl Executor {
    /// The root of a container that does not run, with its own layer on top, detached from any namespace. To be changed
    /// only where it is `written`, and then [`Standing::keep`] is to be called.
    pub fn open_root(
        &self,
        base: Option<&SnapshotId>,
        top: &Top,
        written: bool,
    ) -> Result<Standing, overlay::Error> {
        let merged = match top {
            Top::Kept { upper, .. } if !self.has_namespaces() => {
                let files = if written {
                    Files::Copied
                } else {
                    Files::Linked
                };
                let lowers = Lowers::of(&self.store, base, false)?;
                Some(lowers.merged_with(&self.store, upper, files)?)
            }
            _ => None,
        };
        let root = match &merged {
            Some(merged) => merged.root()?,
            None => top
                .mount(&self.store, base, (Below::Nothing, None))
                .map(RootDir::from_fd)?,
        };
        Ok(Standing { root, merged })
    }
}
