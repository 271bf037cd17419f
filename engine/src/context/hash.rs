//! Content digests of a context's files, on all cores, those that the stat cache knows excepted.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::AsFd as _;

use rayon::prelude::*;
use rbuild_cache::RootDir;
use rbuild_cache::root_dir::{Metadata, Resolve, path_of};
use rbuild_cache::stat_cache::{Stamp, StatCache};
use rbuild_cache::tree::{Entry, Kind};

use super::find::io_error;
use super::{Error, Found};

/// Larger files are read one after the other, each on all cores.
const LARGE_BYTES: u64 = 8 << 20;
const READ_BYTES: usize = 128 << 10;
const LARGE_READ_BYTES: usize = 4 << 20;
/// A file that changes while it is read is read again this often.
const TRIES: usize = 3;

/// Fills in `content` of all files. Returns whether the cache learned something.
pub(super) fn fill_in(
    root: &RootDir,
    found: &mut [Found],
    cache: &mut StatCache,
) -> Result<bool, Error> {
    let mut unknown: Vec<&mut Found> = Vec::new();
    for found in found {
        if found.entry.kind != Kind::File {
            continue;
        }
        match cache.get(&found.entry.path, &stamp(&found.metadata)) {
            Some(content) => found.entry.content = content,
            None => unknown.push(found),
        }
    }
    let (mut large, mut small): (Vec<_>, Vec<_>) = unknown
        .into_iter()
        .partition(|found| found.metadata.size >= LARGE_BYTES);
    small
        .par_iter_mut()
        .try_for_each_init(Vec::new, |buffer, found| fill_in_one(root, found, buffer))?;
    let mut buffer = Vec::new();
    for found in &mut large {
        fill_in_one(root, found, &mut buffer)?;
    }
    for found in small.iter().chain(&large) {
        let path = &found.entry.path;
        cache.put(path, stamp(&found.metadata), found.entry.content);
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
        let after = Metadata::of_fd(file.as_fd()).map_err(at_path)?;
        if stamp(&before) == stamp(&after) {
            found.entry = Entry {
                mode: after.mode,
                size: after.size,
                mtime: after.mtime,
                content,
                ..found.entry.clone()
            };
            found.metadata = after;
            return Ok(());
        }
        before = after;
    }
    let path = String::from_utf8_lossy(&found.entry.path).into_owned();
    Err(Error::Changing(path))
}

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
    }
}
