//! Unpacking tar streams, every entry resolved inside the root it goes to. Hardened: see the list of limits here.

use std::io::Read;
use std::path::Path;

use rbuild_cache::{DiffId, RootDir};

use crate::Result;

/// Unpacks a layer (uncompressed tar) into an empty overlay upper directory, turning `.wh.` entries into overlay
/// whiteouts and opaque marks. Returns the digest of what was read.
pub fn layer(_tar: &mut dyn Read, _upper: &RootDir) -> Result<DiffId> {
    todo!()
}

/// Unpacks an archive (compressed or not) below `destination` in `root` with ADD's rules: `..` and absolute names
/// are clamped, a directory replaces a link, `owner` overrides the archive's owners, no whiteouts.
pub fn archive(
    _file: &mut dyn Read,
    _root: &RootDir,
    _destination: &Path,
    _owner: Option<(u32, u32)>,
) -> Result<()> {
    todo!()
}

/// Whether ADD would unpack this: a tar by its header checksum, after decompression.
pub fn is_archive(_file: &mut std::fs::File) -> std::io::Result<bool> {
    todo!()
}
