//! Where an archive goes: a file that appears whole, or a stream.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

use rbuild_cache::whole::WholeFile;
use rbuild_cache::{Digest, Store};
use sha2::Digest as _;

use crate::error::{Error, Result, shown};
use crate::tarfile::Kind;
use crate::tarfile::writer::{Header, Writer};

/// Where archive bytes go.
pub enum Sink<'a> {
    File(&'a Path),
    Stream(&'a mut dyn Write),
}

impl std::fmt::Debug for Sink<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// Has `write` fill an archive, and puts it in its place if that went well.
pub(super) fn with(
    sink: Sink<'_>,
    write: impl FnOnce(&mut Archive<'_>) -> Result<()>,
) -> Result<()> {
    match sink {
        Sink::Stream(stream) => fill(stream, None, "the output", write),
        Sink::File(path) => to_file(path, |file, what| {
            // The same position in the same file.
            let same = file.try_clone().map_err(unwritable(what))?;
            fill(file, Some(same), what, write)
        }),
    }
}

/// `file` is what `output` writes to, where it is a file.
fn fill(
    output: &mut dyn Write,
    file: Option<File>,
    what: &str,
    write: impl FnOnce(&mut Archive<'_>) -> Result<()>,
) -> Result<()> {
    let mut archive = Archive {
        tar: Writer::new(BufWriter::with_capacity(256 << 10, output)),
        file,
        what: what.to_owned(),
    };
    write(&mut archive)?;
    let what = archive.what;
    archive
        .tar
        .finish()
        .and_then(|mut output| output.flush())
        .map_err(unwritable(&what))
}

fn to_file(path: &Path, write: impl FnOnce(&mut File, &str) -> Result<()>) -> Result<()> {
    let what = shown(path.as_os_str().as_encoded_bytes());
    let mut incoming = WholeFile::at(path, 0o666).map_err(unwritable(&what))?;
    write(incoming.file(), &what)?;
    incoming.finish().map_err(unwritable(&what))
}

pub(super) fn unwritable(what: &str) -> impl FnOnce(std::io::Error) -> Error {
    let path = what.to_owned();
    move |source| Error::Io {
        action: "write",
        path,
        source,
    }
}

/// An archive that is being written.
pub(super) struct Archive<'a> {
    tar: Writer<BufWriter<&'a mut dyn Write>>,
    file: Option<File>,
    what: String,
}

impl Archive<'_> {
    pub(super) fn small(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let header = Header::file(name.as_bytes(), 0o644, bytes.len() as u64);
        self.tar
            .header(&header)
            .and_then(|()| self.tar.data(&mut &*bytes, bytes.len() as u64))
            .map_err(unwritable(&self.what))
    }

    /// Copies blobs, sorted by digest, verifying each that this process has not made itself.
    pub(super) fn blobs(&mut self, store: &Store, digests: &[Digest]) -> Result<()> {
        for directory in ["blobs", "blobs/sha256"] {
            let header = Header {
                kind: Kind::Directory,
                ..Header::file(directory.as_bytes(), 0o755, 0)
            };
            self.tar.header(&header).map_err(unwritable(&self.what))?;
        }
        for digest in digests {
            let mut blob = Verifying::open(store, digest)?;
            let size = blob.size;
            let name = format!("blobs/sha256/{}", digest.hex());
            let header = Header::file(name.as_bytes(), 0o644, size);
            self.tar.header(&header).map_err(unwritable(&self.what))?;
            match &mut self.file {
                // Inside the kernel.
                Some(file) if store.is_own_blob(digest) => {
                    let input = &mut blob.file;
                    self.tar
                        .flush()
                        .and_then(|()| copy_all(input, file, size))
                        .and_then(|()| self.tar.pad(size))
                        .map_err(unwritable(&self.what))?;
                }
                _ => {
                    self.tar
                        .data(&mut blob, size)
                        .map_err(unwritable(&self.what))?;
                    blob.verify()?;
                }
            }
        }
        Ok(())
    }
}

/// Copies exactly `size` bytes, by `copy_file_range` where the file systems can.
fn copy_all(input: &mut File, output: &mut File, size: u64) -> std::io::Result<()> {
    let copied = std::io::copy(&mut input.take(size), output)?;
    if copied == size {
        Ok(())
    } else {
        Err(std::io::ErrorKind::UnexpectedEof.into())
    }
}

/// A blob that is hashed while it is read.
pub(super) struct Verifying {
    pub(super) file: File,
    hasher: sha2::Sha256,
    digest: Digest,
    pub(super) size: u64,
}

impl Verifying {
    pub(super) fn open(store: &Store, digest: &Digest) -> Result<Self> {
        let size = store.blob_size(digest)?;
        Ok(Self {
            file: store.open_blob(digest)?,
            hasher: sha2::Sha256::new(),
            digest: *digest,
            size,
        })
    }

    /// Errors: `Damaged` if what was read is not the blob.
    pub(super) fn verify(self) -> Result<()> {
        let actual = Digest::from_bytes(self.hasher.finalize().into());
        if actual == self.digest {
            return Ok(());
        }
        Err(rbuild_cache::Error::Damaged {
            what: format!("blob {}", self.digest),
            reason: "its bytes have another digest".to_owned(),
        }
        .into())
    }
}

impl Read for Verifying {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.hasher.update(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}
