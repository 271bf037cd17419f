//! Walking a directory into a tree: getdents and statx by descriptor, files hashed on all cores.
//!
//! Directories are opened from the root by their path, so that few descriptors are open at a time however deep
//! the tree is. Here is the walk; what becomes of one name is in `entry`.

mod attributes;
mod entry;
mod failure;
mod hash;
mod open;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::{Entry, Kind, Tree, Written, path_order};
use crate::error::{IoContext as _, Result};
use crate::owners;
use crate::root_dir::{Metadata, RootDir, path_of, read_dir};
pub use attributes::is_content_xattr;
use attributes::{Marks, xattrs_of};
use entry::{Name, entry_of};
use failure::{During as _, Failure};

/// Files of one directory are handed out in portions of so many.
const BATCH_FILES: usize = 64;
/// So many entries are walked before other threads are asked to help.
const SEQUENTIAL_ENTRIES: usize = 512;

/// Two names with the same pair are one inode.
type Inode = (u64, u64);

struct Found {
    entry: Entry,
    /// Where the file has more than one name.
    inode: Option<Inode>,
    /// Its content is hashed after the walk.
    large: bool,
}

struct Scan<'a> {
    root: RootDir,
    written: &'a Written,
    found: Mutex<Vec<Found>>,
    error: Mutex<Option<crate::Error>>,
}

pub(super) fn scan(directory: BorrowedFd<'_>, written: &Written) -> Result<Tree> {
    let root = directory
        .try_clone_to_owned()
        .at("open", Path::new("the snapshot's directory"))?;
    let scan = Scan {
        root: RootDir::from_fd(root),
        written,
        found: Mutex::new(Vec::new()),
        error: Mutex::new(None),
    };
    scan.run();
    let Scan {
        root, found, error, ..
    } = scan;
    if let Some(error) = error.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    let order = |one: &Found, other: &Found| path_order(&one.entry.path, &other.entry.path);
    if found.len() > SEQUENTIAL_ENTRIES {
        found.par_sort_unstable_by(order);
    } else {
        found.sort_unstable_by(order);
    }
    for file in found.iter_mut().filter(|file| file.large) {
        let path = &file.entry.path;
        let content = open::file_at(&root, path).and_then(hash::large);
        file.entry.content = content.at("read", path_of(path))?;
    }
    let mut entries = number_hard_links(found);
    if owners::devices_recorded() {
        owners::apply(&mut entries, owners::recorded());
    }
    Ok(Tree { entries })
}

/// A part of the walk.
enum Task {
    Directory(Vec<u8>),
    /// Some of the names in a directory.
    Files {
        directory: Vec<u8>,
        names: Vec<Name>,
        marks: Marks,
    },
}

impl Scan<'_> {
    /// Walks it all: what is small on this thread, because others would have to be woken; the rest on all cores.
    fn run(&self) {
        let mut tasks = vec![Task::Directory(Vec::new())];
        while self.lock().len() < SEQUENTIAL_ENTRIES {
            let Some(task) = tasks.pop() else {
                return;
            };
            self.task(task, &mut tasks);
        }
        rayon::scope(|scope| {
            for task in tasks {
                scope.spawn(|scope| self.spread(scope, task));
            }
        });
    }

    fn spread<'scope>(&'scope self, scope: &rayon::Scope<'scope>, task: Task) {
        let mut more = Vec::new();
        self.task(task, &mut more);
        for task in more {
            scope.spawn(|scope| self.spread(scope, task));
        }
    }

    /// Does one task; what it leaves to be done is added to `more`.
    fn task(&self, task: Task, more: &mut Vec<Task>) {
        if self.failed() {
            return;
        }
        let (path, result) = match task {
            Task::Directory(path) => {
                let result = self.directory(&path, more);
                (path, result)
            }
            Task::Files {
                directory: path,
                names,
                marks,
            } => {
                let result = open::directory(&self.root, &path)
                    .during("open")
                    .and_then(|directory| self.files(&directory, &path, &names, marks));
                (path, result)
            }
        };
        if let Err(error) = result {
            self.fail(error.at_path(&path));
        }
    }

    /// Lists a directory, records it and the first of its files.
    fn directory(&self, path: &[u8], more: &mut Vec<Task>) -> Result<(), Failure> {
        let directory = open::directory(&self.root, path).during("open")?;
        let metadata = Metadata::of_fd(directory.as_fd()).during("stat")?;
        let mut entry = entry_of(path.to_vec(), &metadata);
        let mut marks = xattrs_of(
            &mut entry,
            |buffer| rustix::fs::flistxattr(&directory, buffer),
            |name, buffer| rustix::fs::fgetxattr(&directory, name, buffer),
        )
        .during("read attributes of")?;
        entry.opaque = marks.opaque;
        // Files in here were given access lists when they were made.
        marks.inherited |= entry
            .xattrs
            .iter()
            .any(|(name, _)| name == b"system.posix_acl_default");
        let mut names: Vec<Name> = Vec::new();
        for child in read_dir(directory.as_fd()).during("list")? {
            // What the listing calls a directory needs no stat here; it has a task of its own.
            let is_directory = match child.file_type {
                rustix::fs::FileType::Directory => true,
                rustix::fs::FileType::Unknown => {
                    let metadata = Metadata::at(directory.as_fd(), &child.name).during("stat")?;
                    metadata.kind == Kind::Directory
                }
                _ => false,
            };
            if is_directory {
                more.push(Task::Directory(join(path, &child.name)));
            } else {
                names.push(Name {
                    name: child.name,
                    is_file: child.file_type == rustix::fs::FileType::RegularFile,
                });
            }
        }
        self.lock().push(Found {
            entry,
            inode: None,
            large: false,
        });
        // Portions are added after the sub-directories, so that they are taken before them: what is listed is
        // finished before more is listed.
        while names.len() > BATCH_FILES {
            let batch = names.split_off(names.len() - BATCH_FILES);
            more.push(Task::Files {
                directory: path.to_vec(),
                names: batch,
                marks,
            });
        }
        self.files(&directory, path, &names, marks)
    }

    /// Stats, hashes and records what is not a directory.
    fn files(
        &self,
        directory: &OwnedFd,
        path: &[u8],
        names: &[Name],
        marks: Marks,
    ) -> Result<(), Failure> {
        let mut found = Vec::with_capacity(names.len());
        let mut buffer = Vec::new();
        for child in names {
            let child_path = join(path, &child.name);
            let named = |failure: Failure| failure.of(&child.name);
            let known = self
                .written(directory, child, &child_path, marks)
                .map_err(named)?;
            found.push(match known {
                Some(file) => file,
                None => {
                    entry::read(directory, child, child_path, marks, &mut buffer).map_err(named)?
                }
            });
        }
        self.lock().append(&mut found);
        Ok(())
    }

    /// A file whose bytes are known: looked up, not opened.
    fn written(
        &self,
        directory: &OwnedFd,
        child: &Name,
        path: &[u8],
        marks: Marks,
    ) -> Result<Option<Found>, Failure> {
        if self.written.files.is_empty() || !child.is_file || marks.inherited {
            return Ok(None);
        }
        let metadata = Metadata::at(directory.as_fd(), &child.name).during("stat")?;
        Ok(self.written.content(&metadata).map(|content| Found {
            entry: Entry {
                content,
                ..entry_of(path.to_vec(), &metadata)
            },
            inode: (metadata.links > 1).then_some((metadata.file_system, metadata.inode)),
            large: false,
        }))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Found>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self) -> bool {
        self.error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }

    fn fail(&self, error: crate::Error) {
        self.error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(error);
    }
}

fn join(parent: &[u8], name: &OsStr) -> Vec<u8> {
    let name = name.as_bytes();
    let mut path = Vec::with_capacity(parent.len() + 1 + name.len());
    path.extend_from_slice(parent);
    if !parent.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// Numbers the inodes that have more than one name in the tree, in order of their first names.
fn number_hard_links(found: Vec<Found>) -> Vec<Entry> {
    let mut names: HashMap<Inode, u32> = HashMap::new();
    for inode in found.iter().filter_map(|file| file.inode) {
        *names.entry(inode).or_default() += 1;
    }
    let mut numbers: HashMap<Inode, u32> = HashMap::new();
    found
        .into_iter()
        .map(|file| {
            let mut entry = file.entry;
            if let Some(inode) = file.inode
                && names.get(&inode).is_some_and(|names| *names > 1)
            {
                let next = u32::try_from(numbers.len() + 1).unwrap_or(u32::MAX);
                entry.hard_link = *numbers.entry(inode).or_insert(next);
            }
            entry
        })
        .collect()
}
