//! Digests of files: small ones during the walk, large ones after it, each on all cores.

use std::io::{self, Read as _};

const READ_BYTES: usize = 128 << 10;
const LARGE_READ_BYTES: usize = 4 << 20;

/// Hashes the bytes of a file that had this size when it was opened.
pub(super) fn small(
    mut file: &std::fs::File,
    size: u64,
    buffer: &mut Vec<u8>,
) -> io::Result<[u8; 32]> {
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

/// Hashes a large file on all cores, whatever its size is by now.
pub(super) fn large(mut file: std::fs::File) -> io::Result<[u8; 32]> {
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
