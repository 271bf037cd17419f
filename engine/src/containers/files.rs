//! A container's files, whether it runs or not.

use std::fs::File;

use rbuild_cache::{RootDir, SnapshotId};
use rbuild_executor::sandbox::container::Top;

use super::catalog::Entry;
use super::control::Ask;
use crate::{Engine, Error, Result};

/// The root of a container, as it sees it itself where it runs.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) root: RootDir,
    /// Nobody starts it meanwhile.
    _held: Option<File>,
}

impl Engine {
    pub(super) fn open_container(&self, entry: &Entry) -> Result<Opened> {
        if let Some(connection) = entry.connect()? {
            let (_, mut descriptors) = connection.request(&Ask::Root)?;
            let root = descriptors
                .pop()
                .ok_or_else(|| Error::Other("the container gave no root".to_owned()))?;
            return Ok(Opened {
                root: RootDir::from_fd(root),
                _held: None,
            });
        }
        let Some(held) = entry.catalog.files.hold(entry.id())? else {
            return Err(Error::Other(format!(
                "the container `{}` is being started or removed: try again",
                entry.name
            )));
        };
        let base = entry.definition.snapshot.as_deref();
        let base = base.and_then(SnapshotId::parse);
        let top = top(entry)?;
        let root = self.executor.open_root(base.as_ref(), &top);
        let root = root.map_err(|error| Error::Io {
            message: format!("cannot mount the root of `{}`", entry.name),
            source: std::io::Error::other(error),
        })?;
        Ok(Opened {
            root,
            _held: Some(held),
        })
    }
}

/// The container's own directories. Overlay wants a fresh one to work in: what was used is made anew.
pub(super) fn top(entry: &Entry) -> Result<Top> {
    let work = entry.path("work")?;
    let failed = |source: std::io::Error| Error::Io {
        message: format!("cannot make `{}`", work.display()),
        source,
    };
    let used = std::fs::read_dir(&work).map_or(true, |mut entries| entries.next().is_some());
    if used {
        let directory = RootDir::open_ambient(&entry.path("")?).map_err(failed)?;
        directory
            .remove_tree("work".as_ref(), rbuild_cache::root_dir::Resolve::Beneath)
            .map_err(failed)?;
        std::fs::create_dir(&work).map_err(failed)?;
    }
    Ok(Top::Kept {
        upper: entry.path("fs")?,
        work,
        durable: !entry.definition.request.remove,
    })
}
