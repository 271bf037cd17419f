//! File operations on a base: a list of actions that gives one snapshot. What is copied is already selected
//! (wildcards, excludes and ignore files are the caller's business); where it lands and with which owner and mode
//! is decided here, against the base.

mod actions;
mod attributes;
mod data;
mod destination;
mod direct;
mod mode;
mod packed;
#[cfg(test)]
mod tests;
mod tree;
mod twins;

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rbuild_cache::root_dir::Resolve;
use rbuild_cache::tree::{Entry, Kind, Tree};
use rbuild_cache::{ActiveSnapshot, RootDir, Snapshot, SnapshotId};

use crate::Executor;
use actions::Operation;
use attributes::Attributes;
use data::Cloning;
pub(crate) use data::copy_with_holes;
pub use packed::{Least, Packing, Reader};
use twins::Twins;

use crate::host;
use crate::merged::Files;
use crate::overlay::Lowers;

/// Where sources come from.
#[derive(Debug, Clone)]
pub struct Input {
    /// The directory that `tree` lists: a view of a snapshot, or the build context.
    pub root: Arc<RootDir>,
    pub tree: Arc<Tree>,
    /// Files of a build context can change while they are read; those of a snapshot cannot.
    pub mutable: bool,
}

#[derive(Debug, Clone)]
pub enum Action {
    /// WORKDIR: makes a directory and its missing parents. Existing ones are left as they are.
    Mkdir {
        path: PathBuf,
        mode: u32,
        owner: Owner,
        mtime: Option<i64>,
    },
    /// A heredoc: a file of these bytes. With a destination that is a directory or ends in `/`, `name` goes in it.
    Mkfile {
        destination: PathBuf,
        name: String,
        data: Arc<[u8]>,
        owner: Owner,
        mode: Option<ModeChange>,
        mtime: Option<i64>,
    },
    Copy(Copy),
}

/// Who owns what is made.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The source's own (the entries of a build context say 0:0), an archive's members' own, and 0:0 for what is
    /// made on the way.
    Default,
    /// What `--chown` says, or USER for WORKDIR, names looked up in the base's passwd and group.
    Chown(String),
}

/// `--chmod`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ModeChange {
    Set(u32),
    /// Clauses in order.
    Symbolic(Vec<ModeClause>),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ModeClause {
    /// Of 0o700, 0o070, 0o007.
    pub who: u32,
    pub operator: ModeOperator,
    /// rwx as 0..7.
    pub permissions: u32,
    /// `X`: execute only for directories and what already has it.
    pub conditional_execute: bool,
    pub setid: bool,
    pub sticky: bool,
    /// `g=u`: permissions copied from this mask instead.
    pub copy_from: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModeOperator {
    Add,
    Remove,
    Set,
}

/// Copies selected sources to a destination with COPY's rules.
#[derive(Debug, Clone)]
pub struct Copy {
    pub input: usize,
    pub sources: Vec<Source>,
    /// Absolute. Links in it are followed inside the root.
    pub destination: PathBuf,
    /// Written with a trailing `/`, or as `.`. Several sources alone do not make it one: the last one wins.
    pub destination_is_directory: bool,
    pub owner: Owner,
    pub mode: Option<ModeChange>,
    pub mtime: Option<i64>,
    /// ADD: a source that is an archive is unpacked into the destination instead; nothing but `owner` applies to it.
    pub unpack: bool,
}

/// One source after wildcards: a file, or a directory whose contents are copied. With `--parents` it is the
/// directory that the kept paths start in.
#[derive(Debug, Clone)]
pub struct Source {
    /// In the input's tree; a link at the end is already followed.
    pub path: Vec<u8>,
    /// What it is called inside a destination directory, where it is not a directory itself.
    pub name: Vec<u8>,
    /// The source's own entry first (where it is a directory: then what is selected below it), as the tree has them.
    pub entries: Vec<Entry>,
    /// Places in `entries` of directories that are there only because something below them is, in order: they are
    /// made where missing, and an existing one keeps its owner.
    pub implied: Vec<usize>,
}

/// Unpacks archives; given by the caller, because archives are not this crate's business.
pub trait Unpacker: Send + Sync {
    /// Whether the file is an archive that ADD unpacks (by content; truncated headers are not).
    fn is_archive(&self, file: &mut std::fs::File) -> std::io::Result<bool>;
    /// Unpacks `archive` below `destination` (a path in `root`, made where missing), every path resolved in `root`.
    fn unpack(
        &self,
        archive: std::fs::File,
        root: &RootDir,
        destination: &std::path::Path,
        owner: Option<(u32, u32)>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

/// What went wrong, and on which path.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} `{path}`")]
    Io {
        action: &'static str,
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    User(#[from] crate::users::Error),
    #[error("cannot unpack `{path}`")]
    Unpack {
        path: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("`{0}` changed while it was being copied")]
    Changed(String),
    #[error(transparent)]
    Overlay(#[from] crate::overlay::Error),
    #[error(transparent)]
    Store(#[from] rbuild_cache::store::Error),
}

/// What a file operation came to.
#[derive(Debug)]
pub enum Made {
    Snapshot(Snapshot),
    /// All but the bytes of files that are to be in its layer.
    Packing(Box<Packing>),
}

/// What an operation stands on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Base<'a> {
    /// `None`: nothing.
    pub id: Option<&'a SnapshotId>,
    /// The time of the snapshot that is made, in Unix seconds.
    pub created: i64,
    /// A result that is likely to have many of the same files: they are shared with it. It may be gone.
    pub like: Option<&'a SnapshotId>,
}

impl Action {
    /// Whether nothing of the base matters but which directories and links there are, and [`Action::owner`].
    fn needs_no_files(&self) -> bool {
        match self {
            Self::Mkdir { .. } | Self::Mkfile { .. } => true,
            Self::Copy(copy) => !copy.unpack,
        }
    }

    /// How many files and directories it makes, where that is known.
    fn entries(&self) -> usize {
        match self {
            Self::Mkdir { .. } | Self::Mkfile { .. } => 1,
            Self::Copy(copy) => copy.sources.iter().map(|it| it.entries.len()).sum(),
        }
    }

    fn owner(&self) -> &Owner {
        match self {
            Self::Mkdir { owner, .. } | Self::Mkfile { owner, .. } => owner,
            Self::Copy(copy) => &copy.owner,
        }
    }
}

/// Whether names are looked up in files that are there, whatever a base's outline leaves out.
fn has_names(root: &RootDir, lowers: &Lowers) -> bool {
    ["etc", "etc/passwd", "etc/group"].iter().all(|path| {
        let there = root.metadata(Path::new(path), Resolve::Beneath);
        let is_link = there.is_ok_and(|there| there.kind == Kind::Symlink);
        !is_link && !lowers.hides_file(path.as_bytes())
    })
}

impl Executor {
    /// Does the actions in order on `base` and commits one snapshot. Blocking.
    pub fn file(
        &self,
        base: Base<'_>,
        actions: &[Action],
        inputs: &[Input],
        unpacker: &dyn Unpacker,
    ) -> Result<Snapshot, Error> {
        match self.make(base, actions, inputs, unpacker, None)? {
            Made::Snapshot(snapshot) => Ok(snapshot),
            Made::Packing(_) => Err(Error::Refused("there is no layer to write to".to_owned())),
        }
    }

    /// As [`Executor::file`], but where many or large files come last, they are not written: they are the caller's to
    /// write into a layer. Blocking.
    pub fn file_to_pack(
        &self,
        base: Base<'_>,
        actions: &Arc<[Action]>,
        inputs: &[Input],
        unpacker: &dyn Unpacker,
        least: Least,
    ) -> Result<Made, Error> {
        self.make(base, actions, inputs, unpacker, Some((actions, least)))
    }

    fn make(
        &self,
        base: Base<'_>,
        actions: &[Action],
        inputs: &[Input],
        unpacker: &dyn Unpacker,
        pack: Option<(&Arc<[Action]>, Least)>,
    ) -> Result<Made, Error> {
        let in_outline = actions.iter().all(Action::needs_no_files);
        let lowers = Lowers::of(&self.store, base.id, in_outline)?;
        for pack in [pack, None] {
            let made = self.make_on(&lowers, base, actions, inputs, unpacker, pack);
            match made {
                Ok(Some(made)) => return Ok(made),
                Ok(None) if pack.is_some() => {}
                // What is wrong, if anything is, shows with all files there.
                Ok(None) | Err(_) if lowers.has_outlines() => break,
                Ok(None) => return Err(Error::Refused("nothing was made".to_owned())),
                Err(error) => return Err(error),
            }
        }
        let lowers = Lowers::of(&self.store, base.id, false)?;
        let made = self.make_on(&lowers, base, actions, inputs, unpacker, None)?;
        made.ok_or_else(|| Error::Refused("nothing was made".to_owned()))
    }

    /// `None`: not in this way.
    fn make_on(
        &self,
        lowers: &Lowers,
        base: Base<'_>,
        actions: &[Action],
        inputs: &[Input],
        unpacker: &dyn Unpacker,
        pack: Option<(&Arc<[Action]>, Least)>,
    ) -> Result<Option<Made>, Error> {
        let Base { id, created, like } = base;
        let files = match pack {
            Some(_) => 0,
            None => actions.iter().map(Action::entries).sum(),
        };
        let active = self.store.prepare_for(files)?;
        let cloning = Cloning::default();
        // What is unpacked may change files that are there.
        let files = if actions.iter().all(Action::needs_no_files) {
            Files::Linked
        } else {
            Files::Copied
        };
        let merged = (id.is_some() && host::without_namespaces())
            .then(|| lowers.merged(&self.store, files))
            .transpose()?;
        let root = if let Some(merged) = &merged {
            merged.root()?
        } else if id.is_some() {
            RootDir::from_fd(lowers.writable(&self.store, &active)?)
        } else {
            self.writable(None, &active)?
        };
        let operation = Operation {
            root: &root,
            is_scratch: id.is_none(),
            inputs,
            unpacker,
            cloning: &cloning,
        };
        let looks_up = |action: &Action| *action.owner() != Owner::Default;
        if lowers.has_outlines() && actions.iter().any(looks_up) && !has_names(&root, lowers) {
            return Ok(None);
        }
        // A directory over a file that the outline leaves out: the file is in the way.
        let is_blocked = |tree: &Tree| {
            let is_directory = |entry: &&Entry| entry.kind == Kind::Directory;
            let mut directories = tree.entries.iter().filter(is_directory);
            directories.any(|entry| lowers.hides_file(&entry.path))
        };
        if let Some((all, least)) = pack {
            let Some(pending) = packed::prepare(&operation, actions, inputs, least)? else {
                return Ok(None);
            };
            drop(root);
            if let Some(merged) = merged {
                merged.into_layer(active.upper())?;
            }
            let Some(whole) = pending.complete(active.upper())? else {
                return Ok(None);
            };
            if lowers.has_outlines() && is_blocked(&whole.0) {
                return Ok(None);
            }
            let from = (all, pending.input.clone());
            let packing = Packing::new(from, active, whole, id, created);
            return Ok(Some(Made::Packing(Box::new(packing))));
        }
        let direct = match merged {
            None => direct::prepare(&operation, actions, inputs, &cloning, active.upper())?,
            Some(_) => None,
        };
        if direct.is_none() {
            for action in actions {
                operation.action(action)?;
            }
        }
        // Takes the overlay away.
        drop(root);
        if let Some(merged) = merged {
            merged.into_layer(active.upper())?;
        }
        let twins = match (&direct, like) {
            (Some(direct), Some(like)) => Twins::of(&self.store, like, direct.at()),
            _ => None,
        };
        let written = direct.map(|direct| direct.copy(twins.as_ref()));
        let written = written.transpose()?;
        let written = written.unwrap_or_default();
        if !lowers.has_outlines() {
            let made = active.commit_written(id, created, &written)?;
            return Ok(Some(Made::Snapshot(made)));
        }
        let upper = RootDir::open_ambient(active.upper())
            .map_err(|error| io_error("open", active.upper(), error))?;
        let tree = Tree::scan_written(upper.as_fd(), &written)?;
        if is_blocked(&tree) {
            return Ok(None);
        }
        let made = active.commit_with_tree(id, created, tree)?;
        Ok(Some(Made::Snapshot(made)))
    }

    /// Makes a snapshot on nothing that holds what the input's tree lists: a part of a build context that commands
    /// are to see. Blocking.
    pub fn materialise(&self, input: &Input, created: i64) -> Result<Snapshot, Error> {
        let active = self.store.prepare_for(input.tree.entries.len())?;
        let written = Mutex::default();
        {
            let root = self.writable(None, &active)?;
            let (top, entries) = match input.tree.entries.split_first() {
                Some((top, entries)) if top.path.is_empty() => (Some(top), entries),
                _ => (None, input.tree.entries.as_slice()),
            };
            let attributes = Attributes {
                owner: None,
                mode: None,
                mtime: None,
            };
            tree::copy(&tree::Request {
                written: Some(&written),
                input,
                from: b"",
                entries,
                implied: &[],
                to: &root,
                shown: Path::new("/"),
                attributes,
                cloning: &Cloning::default(),
                twins: None,
            })?;
            if let Some(top) = top {
                root.node(Path::new(""), rbuild_cache::root_dir::Resolve::Beneath)
                    .and_then(|node| attributes.set_on_node(&node, top))
                    .map_err(|error| io_error("set the attributes of", Path::new("/"), error))?;
            }
        }
        let written = written.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(active.commit_written(None, created, &written)?)
    }

    /// On nothing, the upper directory is the root: no mount is needed.
    fn writable(
        &self,
        base: Option<&SnapshotId>,
        active: &ActiveSnapshot,
    ) -> Result<RootDir, Error> {
        if base.is_none() {
            return RootDir::open_ambient(active.upper())
                .map_err(|error| io_error("open", active.upper(), error));
        }
        let mount = crate::overlay::writable(&self.store, base, active)?;
        Ok(RootDir::from_fd(mount))
    }
}

fn io_error(action: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::Io {
        action,
        path: path.display().to_string(),
        source,
    }
}
