//! The tar format itself, read with suspicion and written canonically. Knows no directories and no layers.
//!
//! * [`reader`]: ustar, GNU and PAX headers, one meaning for each archive: where GNU tar and Go's reader would
//!   disagree about what an archive holds, it is refused.
//! * [`writer`]: ustar headers, PAX records only where ustar has no room.

mod number;
mod pax;
pub(crate) mod reader;
mod sparse;
pub(crate) mod writer;

pub(crate) use reader::{Entry, Kind, Reader, is_header};

/// Size of everything in a tar.
pub(crate) const BLOCK: usize = 512;

/// Why an archive cannot be read on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Reading failed, or decompressing did.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Malformed(String),
}

/// What an archive may make this process hold in memory for one entry: long names and extended headers.
pub(crate) const EXTENDED_HEADER_LIMIT_BYTES: u64 = 1 << 20;

/// A name of a tar as a path below its root: without empty parts and dots; `..` does not lead out.
pub(crate) fn clean(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_clamped() {
        let table: &[(&[u8], &[u8])] = &[
            (b"a/b", b"a/b"),
            (b"/a//b/", b"a/b"),
            (b"./c/./d", b"c/d"),
            (b"../up", b"up"),
            (b"a/../../b", b"b"),
            (b"/", b""),
            (b"..", b""),
        ];
        for (path, expected) in table {
            assert_eq!(clean(path), *expected);
        }
    }
}
