//! A store's directory: whether there is one, and what makes one, with its reserve of room.

use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rustix::fs::FlockOperation;

use super::locks::{lock_file, open_lock_file};
use crate::error::{Error, IoContext as _, Result};
use crate::{index, nursery};

/// What the store's directory holds.
pub(crate) const DIRECTORIES: [&str; 10] = [
    "content/blobs/sha256",
    "snapshots",
    "mounts",
    "contexts",
    "containers",
    "explain/builds",
    "explain/paths",
    "leases",
    "locks",
    "tmp",
];

/// What the store's root may hold. `lost+found` is the file system's, where the store has one of its own.
pub(crate) const KNOWN: [&str; 19] = [
    "containers",
    "content",
    "contexts",
    "explain",
    "index.db",
    "index.db-shm",
    "index.db-wal",
    "leases",
    "locks",
    "lost+found",
    "mounts",
    "networks",
    "points",
    "quarantine",
    "reserve",
    "snapshots",
    crate::synced::NAME,
    "tmp",
    "volumes",
];

/// The index of a store that is there and whole; `None` where it must be made or finished first.
pub(super) fn existing(root: &Path) -> Result<Option<Connection>> {
    let metadata = match std::fs::metadata(root) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).at("open the store", root),
    };
    let is_open = metadata.mode() & 0o077 != 0;
    let lacks = DIRECTORIES.iter().any(|it| !root.join(it).exists());
    if is_open || lacks {
        require_store(root)?;
    }
    // Files of images with setuid bits lie in there: nobody else may reach them.
    if is_open {
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(root, private).at("close to other users", root)?;
    }
    // Somebody tidied up in here.
    if lacks {
        make_directories(root)?;
    }
    // SQLite would only say that it cannot open its file.
    rustix::fs::access(root, rustix::fs::Access::WRITE_OK).at("write to the store", root)?;
    index::open(root, false)
}

/// Refuses what is there and cannot become a store: no directory, or one with other things in it that would be closed to
/// other users.
fn require_store(root: &Path) -> Result<()> {
    let metadata = match std::fs::metadata(root) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata.at("open the store", root)?,
    };
    let refused = |reason: String| {
        Err(Error::NoStore {
            path: root.to_owned(),
            reason,
        })
    };
    if !metadata.is_dir() {
        return refused("it is no directory".to_owned());
    }
    let is_private = metadata.mode() & 0o077 == 0;
    if is_private || root.join("index.db").exists() || root.join("content/oci-layout").exists() {
        return Ok(());
    }
    for entry in std::fs::read_dir(root).at("list", root)? {
        let name = entry.at("list", root)?.file_name();
        // What a store has that nobody finished to make.
        if !name.to_str().is_some_and(|name| KNOWN.contains(&name)) {
            return refused(format!("there is `{}` in it", name.display()));
        }
    }
    // Of an empty one it is no matter who may write to it: volumes of pods and new file systems are everybody's.
    Ok(())
}

/// Makes a store, or finishes one whose maker died. Says, too, whether the index of a store that has images is gone.
pub(super) fn create(root: &Path) -> Result<(Connection, bool)> {
    require_store(root)?;
    make_directories(root)?;
    let _lock = lock_file(&root.join("locks/setup"), FlockOperation::LockExclusive)?;
    let content = root.join("content");
    let size = std::fs::metadata(root.join("index.db")).map_or(0, |index| index.len());
    let lost = size == 0
        && std::fs::read_to_string(content.join("index.json"))
            .is_ok_and(|text| text != crate::images::EMPTY_INDEX);
    for (name, text) in [
        ("oci-layout", crate::images::LAYOUT),
        ("index.json", crate::images::EMPTY_INDEX),
    ] {
        let path = content.join(name);
        if !path.exists() {
            std::fs::write(&path, text).at("write", &path)?;
        }
    }
    make_reserve(root)?;
    let connection = index::open(root, true)?;
    let connection =
        connection.ok_or_else(|| Error::damaged("the store's index", "it could not be created"))?;
    Ok((connection, lost))
}

pub(crate) fn make_directories(root: &Path) -> Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    for directory in DIRECTORIES {
        let path = root.join(directory);
        if directory == "tmp" {
            // Nearly all is made in there: whoever removes much beside the store is not to slow it down.
            nursery::scatter(root);
        }
        builder.create(&path).at("create", &path)?;
    }
    Ok(())
}

/// Room that collection gives itself where the disk is so full that even taking rows away fails.
const RESERVE_BYTES: u64 = 1 << 20;

fn reserve(root: &Path) -> PathBuf {
    root.join("reserve")
}

pub(crate) fn make_reserve(root: &Path) -> Result<()> {
    let path = reserve(root);
    let file = open_lock_file(&path)?;
    let flags = rustix::fs::FallocateFlags::empty();
    match rustix::fs::fallocate(&file, flags, 0, RESERVE_BYTES) {
        // Then there is no reserve, and a full disk must be given room by other means.
        Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        result => result.at("reserve room in", &path),
    }
}

pub(crate) fn spend_reserve(root: &Path) -> Result<()> {
    let path = reserve(root);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result.at("remove", &path),
    }
}
