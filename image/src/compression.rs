//! Compressing layers, the same bytes for the same input on any machine; and reading whatever is compressed.

use std::io::Read;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// libdeflate, in independent members of 1 MiB input on all cores.
    Gzip {
        level: u8,
    },
    Zstd {
        level: u8,
    },
    None,
}

/// What a stream is compressed with, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detected {
    Gzip,
    Zstd,
    Xz,
    Bzip2,
    None,
}

pub fn detect(_first_bytes: &[u8]) -> Detected {
    todo!()
}

/// Decompresses by what the first bytes say; several gzip members are one stream.
pub fn reader<'a>(_input: Box<dyn Read + Send + 'a>) -> std::io::Result<Box<dyn Read + Send + 'a>> {
    todo!()
}
