//! A container's files, whether it runs or not.

use std::fs::File;

use rbuild_cache::ids::{Crossing, Ids};
use rbuild_cache::{RootDir, SnapshotId};
use rbuild_executor::sandbox::container::Top;
use rbuild_executor::sandbox::copy;

use super::catalog::Entry;
use super::control::Ask;
use crate::{Engine, Error, Result};

/// The root of a container, as it sees it itself where it runs.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) root: RootDir,
    /// Its ids, where it runs in a user namespace that this process is not in.
    ids: Option<Ids>,
    /// Nobody starts it meanwhile.
    _held: Option<File>,
}

impl Opened {
    /// Of what is copied out of it.
    pub(super) fn out(&self) -> Crossing<'_> {
        self.ids.as_ref().map_or(Crossing::Not, Crossing::Out)
    }

    /// Of what is copied into it.
    pub(super) fn inwards(&self) -> Crossing<'_> {
        self.ids.as_ref().map_or(Crossing::Not, Crossing::In)
    }

    /// Makes files in it.
    pub(super) fn as_its_root<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        match &self.ids {
            None => Ok(work()),
            Some(ids) => copy::as_root_of(ids, work).map_err(|errno| Error::Io {
                message: "cannot become the container's root".to_owned(),
                source: errno.into(),
            }),
        }
    }
}

impl Engine {
    pub(super) fn open_container(&self, entry: &Entry) -> Result<Opened> {
        if let Some(connection) = entry.connect()? {
            let (_, mut descriptors) = connection.request(&Ask::Root)?;
            let root = descriptors
                .pop()
                .ok_or_else(|| Error::Other("the container gave no root".to_owned()))?;
            let ids = self.executor.host().ids_of(entry.state.pid);
            return Ok(Opened {
                root: RootDir::from_fd(root),
                ids: ids.map_err(|source| Error::Io {
                    message: format!("cannot read the ids of `{}`", entry.name),
                    source,
                })?,
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
            ids: None,
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
