//! Content digests and attributes of a context's files, on all cores, those that the stat cache knows excepted.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::AsFd as _;

use rayon::prelude::*;
use rbuild_cache::RootDir;
use rbuild_cache::root_dir::{Metadata, Node, Resolve, path_of};
use rbuild_cache::stat_cache::{Known, Stamp, StatCache};
use rbuild_cache::tree::Kind;
use rustix::io::Errno;

use super::find::io_error;
use super::walk::xattrs;
use super::{Effort, Error, Found};

/// Larger files are read one after the other, each on all cores.
const LARGE_BYTES: u64 = 8 << 20;
/// So few files are not worth waking other threads.
const SEQUENTIAL_FILES: usize = 4;
const READ_BYTES: usize = 128 << 10;
const LARGE_READ_BYTES: usize = 4 << 20;
/// A file that changes while it is read is read again this often.
const TRIES: usize = 3;

/// Fills in `content` and `xattrs` of all files. Returns whether the cache learned something.
pub(super) fn fill_in(
    root: &RootDir,
    effort: Effort,
    found: &mut [Found],
    cache: &mut StatCache,
) -> Result<bool, Error> {
    let mut unknown: Vec<&mut Found> = Vec::new();
    for found in found {
        if found.entry.kind != Kind::File {
            continue;
        }
        match cache.get(&found.entry.path, &stamp(&found.metadata)) {
            Some(known) => {
                found.entry.content = known.content;
                if known.has_xattrs {
                    found.entry.xattrs = root
                        .node(path_of(&found.entry.path), Resolve::Beneath)
                        .and_then(|node| xattrs(&node))
                        .map_err(|source| {
                            io_error("read attributes of", &found.entry.path, source)
                        })?;
                }
            }
            None if effort == Effort::Little => return Err(Error::Long),
            None => unknown.push(found),
        }
    }
    let (mut large, mut small): (Vec<_>, Vec<_>) = unknown
        .into_iter()
        .partition(|found| found.metadata.size >= LARGE_BYTES);
    let mut buffer = Vec::new();
    if small.len() <= SEQUENTIAL_FILES {
        for found in &mut small {
            fill_in_one(root, found, &mut buffer)?;
        }
    } else {
        small
            .par_iter_mut()
            .try_for_each_init(Vec::new, |buffer, found| fill_in_one(root, found, buffer))?;
    }
    for found in &mut large {
        fill_in_one(root, found, &mut buffer)?;
    }
    for found in small.iter().chain(&large) {
        let known = Known {
            content: found.entry.content,
            has_xattrs: !found.entry.xattrs.is_empty(),
        };
        cache.put(&found.entry.path, stamp(&found.metadata), known);
    }
    Ok(!small.is_empty() || !large.is_empty())
}

pub(super) fn stamp(metadata: &Metadata) -> Stamp {
    let nanoseconds =
        |(seconds, rest): (i64, u32)| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    Stamp {
        device: metadata.file_system,
        inode: metadata.inode,
        size: metadata.size,
        mtime_ns: nanoseconds(metadata.mtime),
        ctime_ns: nanoseconds(metadata.ctime),
    }
}

/// Reads the file until its metadata before and after are the same, and takes over both.
fn fill_in_one(root: &RootDir, found: &mut Found, buffer: &mut Vec<u8>) -> Result<(), Error> {
    let path = path_of(&found.entry.path);
    let at_path = |source| io_error("read", &found.entry.path, source);
    let mut file = root
        .open_file_no_follow(path, Resolve::Beneath)
        .map_err(at_path)?;
    let mut before = Metadata::of_fd(file.as_fd()).map_err(at_path)?;
    for attempt in 0..TRIES {
        if attempt > 0 {
            file.rewind().map_err(at_path)?;
        }
        let content = digest(&file, before.size, buffer).map_err(at_path)?;
        // A change of attributes changes the time of change.
        let xattrs = xattrs_of_file(&file).map_err(at_path)?;
        let after = Metadata::of_fd(file.as_fd()).map_err(at_path)?;
        if stamp(&before) == stamp(&after) {
            let entry = &mut found.entry;
            (entry.mode, entry.size, entry.mtime) = (after.mode, after.size, after.mtime);
            (entry.content, entry.xattrs) = (content, xattrs);
            found.metadata = after;
            return Ok(());
        }
        before = after;
    }
    let path = String::from_utf8_lossy(&found.entry.path).into_owned();
    Err(Error::Changing(path))
}

/// One call for nearly all files, which have none.
fn xattrs_of_file(file: &File) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = [0_u8; 256];
    match rustix::fs::flistxattr(file, &mut names) {
        Ok(0) | Err(Errno::OPNOTSUPP) => Ok(Vec::new()),
        Ok(_) | Err(Errno::RANGE) => xattrs(&Node::from_fd(file.try_clone()?.into())),
        Err(error) => Err(error.into()),
    }
}

/// The bytes up to the size that the file had when it was opened; what is beyond shows in its size afterwards.
fn digest(mut file: &File, size: u64, buffer: &mut Vec<u8>) -> io::Result<[u8; 32]> {
    let is_large = size >= LARGE_BYTES;
    buffer.resize(
        if is_large {
            LARGE_READ_BYTES
        } else {
            READ_BYTES
        },
        0,
    );
    let mut hasher = blake3::Hasher::new();
    let mut total = 0;
    loop {
        let length = match file.read(buffer) {
            Ok(0) => return Ok(*hasher.finalize().as_bytes()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let bytes = buffer.get(..length).unwrap_or_default();
        if is_large {
            hasher.update_rayon(bytes);
        } else {
            hasher.update(bytes);
        }
        total += length as u64;
        // Kernel file systems say 0 of files that have bytes.
        if total == size {
            return Ok(*hasher.finalize().as_bytes());
        }
    }
}
