//! Unpacking tar streams, every entry resolved inside the root it goes to.
//!
//! Limits and refusals of the format itself: [`crate::tarfile::reader`]. On top of those:
//! * parents of an entry are resolved beneath the root and through no link ([`layer`]), or inside the destination
//!   as a process in a chroot would ([`archive`]); `..` and absolute names are clamped to the root;
//! * an entry for the root itself must be a directory;
//! * hard links lead to files inside the root, never through links at their end;
//! * a stream that grows more than [`Limits`] allow ends with an error, holes of sparse files counted;
//! * extended attributes of all entries together have a limit;
//! * overlay's own extended attributes and all `trusted.*` are dropped;
//! * character devices 0:0 are refused: overlay takes them for removals.
//!
//! What an ordinary user cannot make, device nodes and with one id only also owners, is written down beside the files
//! ([`rbuild_cache::owners`]).
//! Where things go: `place`; owners, times and attributes: `metadata`; what a layer leaves open until the layers
//! below are known: [`Unpacked`].

mod metadata;
mod place;
mod read_ahead;
mod settle;

use std::borrow::Cow;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use rbuild_cache::ids::Crossing;
use rbuild_cache::tree::Written;
use rbuild_cache::{DiffId, RootDir};

pub use crate::compression::Limits;
use crate::compression::{self, Bounded, Budget};
use crate::error::{Error, Result, shown};
use crate::tarfile::{self, Reader};
use place::{Placer, Rules};
pub(crate) use settle::settle;

/// What is written to a file at once, at most.
const BUFFER_BYTES: usize = 256 << 10;

/// What all extended attributes of an archive may come to. They are part of the listing that is kept of its files, in
/// memory while it is made.
const ATTRIBUTES_LIMIT_BYTES: usize = 64 << 20;

/// A layer that is in its directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Of all that was read.
    pub diff_id: DiffId,
    /// Directories that had to be made for what is in them, but that the layer itself does not speak of: they
    /// have mode 0755 and belong to root, unless a layer below has them. Sorted.
    pub implied_directories: Vec<Vec<u8>>,
    /// Hard links (path, target) to files that only a layer below can have.
    pub links_below: Vec<(Vec<u8>, Vec<u8>)>,
    /// The layer hides all that is below it. Overlay knows no opaque root.
    pub opaque_root: bool,
    /// Files that need not be read again for the snapshot's listing.
    pub written: Written,
}

/// Unpacks a layer (compressed or not) into an empty overlay upper directory, turning `.wh.` entries into overlay
/// whiteouts and opaque marks.
pub fn layer(
    blob: Box<dyn Read + Send + '_>,
    upper: &RootDir,
    limits: Limits,
    what: &str,
) -> Result<Unpacked> {
    let bounded = Bounded::new(blob, limits).map_err(|error| unreadable(what, error))?;
    let budget = bounded.budget();
    std::thread::scope(|scope| {
        let (mut ahead, reading) = read_ahead::start(scope, bounded);
        let mut placer = Placer::new(upper, Rules::Layer, what);
        let mut reader = Reader::new(&mut ahead);
        unpack_entries(&mut reader, &mut placer, &budget, what, Crossing::Not)?;
        // The digest covers what follows the end of the archive too.
        std::io::copy(&mut ahead, &mut std::io::sink()).map_err(|error| unreadable(what, error))?;
        let open = placer.finish()?;
        let digest = reading
            .join()
            .ok()
            .flatten()
            .ok_or_else(|| Error::BadArchive {
                what: what.to_owned(),
                reason: "it could not be read to its end".to_owned(),
            })?;
        Ok(Unpacked {
            diff_id: DiffId(digest),
            implied_directories: open.implied.into_iter().collect(),
            links_below: open.links_below.into_iter().collect(),
            opaque_root: open.opaque_root,
            written: open.written,
        })
    })
}

/// Unpacks the layers of snapshots that are packed: what this program wrote itself may grow as it likes.
#[derive(Debug)]
pub struct OwnLayers;

impl rbuild_cache::packed::Unpack for OwnLayers {
    fn unpack(
        &self,
        blob: std::fs::File,
        upper: &RootDir,
        what: &str,
    ) -> Result<DiffId, Box<dyn std::error::Error + Send + Sync>> {
        let limits = Limits {
            ratio: u64::MAX,
            floor_bytes: u64::MAX,
        };
        Ok(layer(Box::new(blob), upper, limits, what)?.diff_id)
    }
}

/// Unpacks an archive (compressed or not) below `destination` in `root` (made where missing) with ADD's rules: `..`
/// and absolute names are clamped, a directory replaces a link, `owner` overrides the archive's owners, no
/// whiteouts.
pub fn archive(
    file: &mut (dyn Read + Send),
    root: &RootDir,
    destination: &Path,
    owner: Option<(u32, u32)>,
) -> Result<()> {
    archive_with(file, root, destination, owner, Limits::default())
}

/// As [`archive`], into files that a user namespace shows, and so that no tree is lost by it: what is a directory stays
/// one.
pub fn archive_across(
    file: &mut (dyn Read + Send),
    root: &RootDir,
    destination: &Path,
    crossing: Crossing<'_>,
) -> Result<()> {
    let limits = (Limits::default(), crossing);
    unpack(file, root, destination, Rules::Copied, limits)
}

/// As [`archive`], with other limits than the usual.
pub fn archive_with(
    file: &mut (dyn Read + Send),
    root: &RootDir,
    destination: &Path,
    owner: Option<(u32, u32)>,
    limits: Limits,
) -> Result<()> {
    let rules = Rules::Archive { owner };
    unpack(file, root, destination, rules, (limits, Crossing::Not))
}

fn unpack(
    file: &mut (dyn Read + Send),
    root: &RootDir,
    destination: &Path,
    rules: Rules,
    (limits, crossing): (Limits, Crossing<'_>),
) -> Result<()> {
    let what = "the archive";
    let bounded = Bounded::new(Box::new(file), limits).map_err(|error| unreadable(what, error))?;
    let budget = bounded.budget();
    let owner = match rules {
        Rules::Archive { owner } => owner,
        Rules::Layer | Rules::Copied => None,
    };
    let destination = place::destination(root, destination, owner)?;
    let mut placer = Placer::new(&destination, rules, what);
    let mut reader = Reader::new(BufReader::with_capacity(BUFFER_BYTES, bounded));
    unpack_entries(&mut reader, &mut placer, &budget, what, crossing)?;
    // A checksum at the end of a compressed stream is read only if the stream is.
    std::io::copy(&mut reader.into_inner(), &mut std::io::sink())
        .map_err(|error| unreadable(what, error))?;
    placer.finish().map(drop)
}

/// Whether ADD would unpack this: a tar by its first header's checksum, after decompression. The file is at its
/// beginning afterwards.
pub fn is_archive(file: &mut std::fs::File) -> std::io::Result<bool> {
    file.seek(SeekFrom::Start(0))?;
    let found = match Bounded::new(Box::new(&mut *file), Limits::default()) {
        Ok(bounded) => matches!(Reader::new(bounded).next(), Ok(Some(_))),
        Err(_) => false,
    };
    file.seek(SeekFrom::Start(0))?;
    Ok(found)
}

/// Whether a stream that begins so is an archive: compressed, or with the header of a tar. Wants 512 bytes, where
/// there are so many.
pub fn begins_archive(first_bytes: &[u8]) -> bool {
    compression::detect(first_bytes) != compression::Detected::None
        || tarfile::is_header(first_bytes)
}

fn unpack_entries(
    reader: &mut Reader<impl BufRead>,
    placer: &mut Placer<'_>,
    budget: &Budget,
    what: &str,
    crossing: Crossing<'_>,
) -> Result<()> {
    let (mut claimed, mut attributes) = (0_u64, 0_usize);
    while let Some(mut entry) = reader.next().map_err(|error| tar_error(what, error))? {
        if entry.segments.is_some() {
            claimed = claimed.saturating_add(entry.size);
            budget.check(claimed).map_err(|reason| Error::BadArchive {
                what: format!("{what}, `{}`", shown(&entry.path)),
                reason,
            })?;
        }
        let sizes = entry.xattrs.iter();
        attributes += sizes
            .map(|(name, value)| name.len() + value.len())
            .sum::<usize>();
        if attributes > ATTRIBUTES_LIMIT_BYTES {
            return Err(Error::BadArchive {
                what: format!("{what}, `{}`", shown(&entry.path)),
                reason: format!(
                    "the extended attributes up to here come to more than {ATTRIBUTES_LIMIT_BYTES} bytes"
                ),
            });
        }
        cross(&mut entry, crossing, what)?;
        placer.place(&entry, reader)?;
    }
    Ok(())
}

fn cross(entry: &mut tarfile::Entry, crossing: Crossing<'_>, what: &str) -> Result<()> {
    let owner = crossing.owner((entry.uid, entry.gid));
    (entry.uid, entry.gid) = owner.ok_or_else(|| Error::BadArchive {
        what: format!("{what}, `{}`", shown(&entry.path)),
        reason: format!(
            "its owner {}:{} is outside of the container's ids",
            entry.uid, entry.gid
        ),
    })?;
    for (name, value) in &mut entry.xattrs {
        if let Cow::Owned(crossed) = crossing.attribute(name, value) {
            *value = crossed;
        }
    }
    Ok(())
}

/// An error of the format, or of what the archive comes from.
pub(crate) fn tar_error(what: &str, error: tarfile::Error) -> Error {
    match error {
        tarfile::Error::Io(error) => unreadable(what, error),
        tarfile::Error::Malformed(reason) => Error::BadArchive {
            what: what.to_owned(),
            reason,
        },
    }
}

/// A stream that broke: decoders and the tar reader say so with kinds of their own, the kernel with an errno.
fn unreadable(what: &str, error: std::io::Error) -> Error {
    if error.raw_os_error().is_some() {
        return Error::Io {
            action: "read",
            path: what.to_owned(),
            source: error,
        };
    }
    Error::BadArchive {
        what: what.to_owned(),
        reason: error.to_string(),
    }
}
