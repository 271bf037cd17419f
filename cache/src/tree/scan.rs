//! Walking a directory into a tree: getdents and statx by descriptor, files hashed on all cores.
//!
//! Directories are opened from the root by their path, so that few descriptors are open at a time however deep
//! the tree is.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{Entry, Kind, Tree, Written, path_order};
use crate::error::{IoContext as _, Result};
use crate::owners;
use crate::root_dir::{Metadata, Resolve, RootDir, path_of, read_dir};

/// Files of one directory are handed out in portions of so many.
const BATCH_FILES: usize = 64;
/// So many entries are walked before other threads are asked to help.
const SEQUENTIAL_ENTRIES: usize = 512;
/// Larger files are read after the walk, each on all cores.
const LARGE_BYTES: u64 = 8 << 20;
const READ_BYTES: usize = 128 << 10;
const LARGE_READ_BYTES: usize = 4 << 20;

/// Two names with the same pair are one inode.
type Inode = (u64, u64);

struct Found {
    entry: Entry,
    /// Where the file has more than one name.
    inode: Option<Inode>,
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
        let path = path_of(&file.entry.path);
        file.entry.content = hash_large(&root, path).at("read", path)?;
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
                let result = open_directory(&self.root, &path)
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
        let directory = open_directory(&self.root, path).during("open")?;
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
            let named = |failure| Failure {
                name: Some(child.name.clone()),
                ..failure
            };
            let known = self
                .written(directory, child, &child_path, marks)
                .map_err(named)?;
            found.push(match known {
                Some(file) => file,
                None => file(directory, child, child_path, marks, &mut buffer).map_err(named)?,
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

/// Overlay's marks on a directory.
#[derive(Clone, Copy, Default)]
struct Marks {
    opaque: bool,
    /// Empty files with a `*.overlay.whiteout` attribute in here are whiteouts (`opaque=x`, Linux 6.7).
    xattr_whiteouts: bool,
    /// Of a file: it has that attribute.
    whiteout: bool,
    /// What is made in here gets attributes that nobody gave it.
    inherited: bool,
}

/// A name in a directory that is not a directory's.
struct Name {
    name: OsString,
    /// The listing said so; it may be something else by now.
    is_file: bool,
}

fn file(
    directory: &OwnedFd,
    child: &Name,
    path: Vec<u8>,
    marks: Marks,
    buffer: &mut Vec<u8>,
) -> Result<Found, Failure> {
    let name = child.name.as_os_str();
    // What the listing calls a file is opened without a stat before: one resolved name less a file.
    let open = if child.is_file {
        Some(open_file(directory, name).during("open")?)
    } else {
        None
    };
    let metadata = match &open {
        Some(file) => Metadata::of_fd(file.as_fd()),
        None => Metadata::at(directory.as_fd(), name),
    }
    .during("stat")?;
    let mut found = Found {
        entry: entry_of(path, &metadata),
        inode: (metadata.links > 1).then_some((metadata.file_system, metadata.inode)),
        large: false,
    };
    let entry = &mut found.entry;
    match (metadata.kind, &open) {
        (Kind::CharDevice, _) if metadata.device == 0 => {
            entry.kind = Kind::Whiteout;
            (entry.mode, entry.uid, entry.gid) = (0, 0, 0);
            found.inode = None;
            return Ok(found);
        }
        (Kind::Symlink, _) => {
            let target =
                rustix::fs::readlinkat(directory, name, Vec::new()).during("read the link")?;
            entry.target = target.into_bytes();
            entry.content = *blake3::hash(&entry.target).as_bytes();
        }
        (Kind::File, Some(file)) => {
            if metadata.size >= LARGE_BYTES {
                found.large = true;
            } else {
                entry.content = hash(file, metadata.size, buffer).during("read")?;
            }
            let own = xattrs_of(
                entry,
                |buffer| rustix::fs::flistxattr(file, buffer),
                |name, buffer| rustix::fs::fgetxattr(file, name, buffer),
            )
            .during("read attributes of")?;
            become_whiteout(&mut found, marks, own);
            return Ok(found);
        }
        // The file system tells no kinds in listings, or it was swapped since: the second look is by kind.
        (Kind::File, None) => {
            let child = Name {
                name: name.to_owned(),
                is_file: true,
            };
            return file(directory, &child, found.entry.path, marks, buffer);
        }
        (_, Some(_)) => {
            return Err(Errno::STALE).during("read a file that was replaced meanwhile,");
        }
        _ => {}
    }
    // No descriptor is open: through the directory's, the last name not followed.
    let mut route = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    route.extend_from_slice(name.as_bytes());
    let route = OsString::from_vec(route);
    let own = xattrs_of(
        entry,
        |buffer| rustix::fs::llistxattr(&route, buffer),
        |name, buffer| rustix::fs::lgetxattr(&route, name, buffer),
    )
    .during("read attributes of")?;
    become_whiteout(&mut found, marks, own);
    Ok(found)
}

/// An empty file with overlay's attribute, in a directory that says it holds such, is a whiteout.
fn become_whiteout(found: &mut Found, directory: Marks, own: Marks) {
    let entry = &mut found.entry;
    if directory.xattr_whiteouts && own.whiteout && entry.kind == Kind::File && entry.size == 0 {
        let path = std::mem::take(&mut entry.path);
        *entry = Entry {
            mtime: entry.mtime,
            ..Entry::new(path, Kind::Whiteout)
        };
        found.inode = None;
    }
}

/// Opens a file without touching its access time. Its owner may lack the permission to read it (mode 000), and
/// gives it to himself for the moment.
fn open_file(directory: &OwnedFd, name: &OsStr) -> io::Result<std::fs::File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = |flags| rustix::fs::openat(directory, name, flags, Mode::empty());
    let opened = match open(flags | OFlags::NOATIME) {
        // Only the owner may leave the time alone.
        Err(Errno::PERM) => open(flags),
        result => result,
    };
    if !matches!(opened, Err(Errno::ACCESS)) {
        return Ok(opened?.into());
    }
    let held = open(OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC)?;
    let before = Metadata::of_fd(held.as_fd())?;
    let route = format!("/proc/self/fd/{}", held.as_raw_fd());
    rustix::fs::chmod(&route, Mode::from_raw_mode(before.mode | 0o400))?;
    let opened = rustix::fs::open(&route, flags & !OFlags::NOFOLLOW, Mode::empty());
    rustix::fs::chmod(&route, Mode::from_raw_mode(before.mode))?;
    Ok(opened?.into())
}

fn entry_of(path: Vec<u8>, metadata: &Metadata) -> Entry {
    let is_device = matches!(metadata.kind, Kind::CharDevice | Kind::BlockDevice);
    Entry {
        path,
        kind: metadata.kind,
        mode: if metadata.kind == Kind::Symlink {
            0o777
        } else {
            metadata.mode
        },
        uid: metadata.uid,
        gid: metadata.gid,
        device: if is_device { metadata.device } else { 0 },
        size: if metadata.kind == Kind::File {
            metadata.size
        } else {
            0
        },
        mtime: metadata.mtime,
        opaque: false,
        content: [0; 32],
        target: Vec::new(),
        xattrs: Vec::new(),
        hard_link: 0,
    }
}

/// Fills in the attributes that are content; returns overlay's marks among the others.
fn xattrs_of(
    entry: &mut Entry,
    list: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>,
    mut get: impl FnMut(&[u8], &mut [u8]) -> rustix::io::Result<usize>,
) -> io::Result<Marks> {
    use crate::root_dir::{read_growing, split_names};
    let mut marks = Marks::default();
    let Some(names) = read_growing(list)? else {
        return Ok(marks);
    };
    for name in split_names(&names) {
        match overlay_mark(&name) {
            Some(b"opaque") => match read_growing(|buffer| get(&name, buffer))?.as_deref() {
                Some(b"y") => marks.opaque = true,
                Some(b"x") => marks.xattr_whiteouts = true,
                _ => {}
            },
            Some(b"whiteout") => marks.whiteout = true,
            Some(_) => {}
            None if is_content_xattr(&name) || is_record(&name) => {
                // Gone between list and get: as if never listed.
                if let Some(value) = read_growing(|buffer| get(&name, buffer))? {
                    entry.xattrs.push((name, value));
                }
            }
            None => {}
        }
    }
    entry.xattrs.sort();
    Ok(marks)
}

/// What [`owners::apply`] is to see.
fn is_record(name: &[u8]) -> bool {
    name.starts_with(owners::PREFIX) && owners::devices_recorded()
}

/// What follows `user.overlay.` or `trusted.overlay.`.
fn overlay_mark(name: &[u8]) -> Option<&[u8]> {
    name.strip_prefix(b"user.overlay.")
        .or_else(|| name.strip_prefix(b"trusted.overlay."))
}

/// True for attributes that belong to the file's content and mean the same on any machine: the user's own, ACLs
/// and file capabilities. Not: labels and measurements of the host's security modules, `trusted.*` (which only
/// root sees), overlay's marks, owners that are written down.
pub fn is_content_xattr(name: &[u8]) -> bool {
    if overlay_mark(name).is_some() || name.starts_with(owners::PREFIX) {
        return false;
    }
    name.starts_with(b"user.")
        || name == b"security.capability"
        || name.starts_with(b"system.posix_acl_")
}

/// Hashes the bytes of a file that had this size when it was opened.
fn hash(mut file: &std::fs::File, size: u64, buffer: &mut Vec<u8>) -> io::Result<[u8; 32]> {
    buffer.resize(READ_BYTES, 0);
    let mut hasher = blake3::Hasher::new();
    let mut length = 0;
    while length < size {
        match file.read(buffer) {
            Ok(0) => break,
            Ok(count) => {
                hasher.update(buffer.get(..count).unwrap_or_default());
                length += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if length == size {
        Ok(*hasher.finalize().as_bytes())
    } else {
        Err(io::Error::other("its size changes while it is read"))
    }
}

fn hash_large(root: &RootDir, path: &Path) -> io::Result<[u8; 32]> {
    let bytes = path.as_os_str().as_bytes();
    let cut = bytes.iter().rposition(|byte| *byte == b'/');
    let (parent, name) = match cut {
        None => (&b""[..], bytes),
        Some(cut) => (
            bytes.get(..cut).unwrap_or_default(),
            bytes.get(cut + 1..).unwrap_or_default(),
        ),
    };
    let directory = open_directory(root, parent)?;
    let mut file = open_file(&directory, OsStr::from_bytes(name))?;
    let mut buffer = vec![0; LARGE_READ_BYTES];
    let mut hasher = blake3::Hasher::new();
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read(buffer.get_mut(filled..).unwrap_or_default()) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        hasher.update_rayon(buffer.get(..filled).unwrap_or_default());
        if filled < buffer.len() {
            return Ok(*hasher.finalize().as_bytes());
        }
    }
}

/// Opens a directory below the root for listing.
fn open_directory(root: &RootDir, path: &[u8]) -> io::Result<OwnedFd> {
    let path = path_of(path);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    match root.open(path, flags, 0, Resolve::Beneath) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            // An ordinary owner of a directory without read permission gives it to himself for the moment.
            let node = root.node(path, Resolve::Beneath)?;
            let before = node.metadata()?;
            node.set_mode(before.mode | 0o500)?;
            let opened = root.open(path, flags, 0, Resolve::Beneath);
            node.set_mode(before.mode)?;
            opened
        }
        result => result,
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

/// What was attempted when it failed; the path is added where it is known.
struct Failure {
    action: &'static str,
    name: Option<OsString>,
    source: io::Error,
}

impl Failure {
    fn at_path(self, directory: &[u8]) -> crate::Error {
        let path = match &self.name {
            Some(name) => join(directory, name),
            None => directory.to_vec(),
        };
        crate::Error::Io {
            action: self.action,
            path: path_of(&path).to_owned(),
            source: self.source,
        }
    }
}

trait During<T> {
    fn during(self, action: &'static str) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> During<T> for std::result::Result<T, E> {
    fn during(self, action: &'static str) -> Result<T, Failure> {
        self.map_err(|source| Failure {
            action,
            name: None,
            source: source.into(),
        })
    }
}
