//! A container's files, whether it runs or not.

use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;

use rbuild_cache::ids::{Crossing, Ids};
use rbuild_cache::{RootDir, SnapshotId};
use rbuild_executor::sandbox::container::{self, Top};
use rbuild_executor::sandbox::copy;

use super::catalog::Entry;
use super::control::{Ask, Connection};
use crate::{Engine, Error, Result};

/// The root of a container, as it sees it itself where it runs.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) root: RootDir,
    /// Its ids, where it runs in a user namespace that this process is not in.
    ids: Option<Ids>,
    standing: Option<Standing>,
}

/// One that does not run.
#[derive(Debug)]
struct Standing {
    root: container::Standing,
    top: Top,
    /// Nobody starts it meanwhile.
    _held: File,
}

/// What a container wrote, as a layer.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) path: PathBuf,
    /// A copy that is there for as long as these.
    _copy: Option<(Connection, OwnedFd)>,
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

    /// What was made in it is kept.
    pub(super) fn keep(self) -> Result<()> {
        match self.standing {
            Some(standing) => Ok(standing.root.keep(&standing.top)?),
            None => Ok(()),
        }
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
    /// What it wrote by now.
    pub(super) fn written(&self, entry: &Entry) -> Result<Written> {
        let connection = match self.executor.has_namespaces() {
            true => None,
            false => entry.connect()?,
        };
        let Some(connection) = connection else {
            return Ok(Written {
                path: entry.path("fs")?,
                _copy: None,
            });
        };
        connection.ask(&Ask::Layer, &[])?;
        let (_, mut descriptors) = connection.done()?;
        let copy = descriptors
            .pop()
            .ok_or_else(|| Error::Other("the container gave no layer".to_owned()))?;
        Ok(Written {
            path: format!("/proc/self/fd/{}", copy.as_raw_fd()).into(),
            _copy: Some((connection, copy)),
        })
    }

    /// `written`: files are to be made in it.
    pub(super) fn open_container(&self, entry: &Entry, written: bool) -> Result<Opened> {
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
                standing: None,
            });
        }
        let Some(held) = entry.hold()? else {
            return Err(Error::Other(format!(
                "the container `{}` is being started or removed: try again",
                entry.name
            )));
        };
        let base = entry.definition.snapshot.as_deref();
        let base = base.and_then(SnapshotId::parse);
        let top = top(entry)?;
        let failed = |source: std::io::Error| Error::Io {
            message: format!("cannot mount the root of `{}`", entry.name),
            source,
        };
        let root = self.executor.open_root(base.as_ref(), &top, written);
        let root = root.map_err(|error| failed(std::io::Error::other(error)))?;
        Ok(Opened {
            root: root.root.try_clone().map_err(failed)?,
            ids: None,
            standing: Some(Standing {
                root,
                top,
                _held: held,
            }),
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
