//! One entry of a tree as an entry of a tar.

use std::io::Write;

use rbuild_cache::RootDir;
use rbuild_cache::root_dir::{Resolve, path_of};
use rbuild_cache::tree::{Entry, Kind};

use super::FirstNames;
use crate::error::{Error, Result, shown};
use crate::tarfile::writer::{Header, Writer};
use crate::tarfile::{self};

/// Takes pieces of a file.
pub(super) type Take<'a> = dyn FnMut(&[u8]) -> std::io::Result<()> + 'a;
/// Hands a file over.
pub(super) type Give<'a> = dyn for<'t> FnMut(&'t mut Take<'t>) -> std::io::Result<()> + 'a;

/// Where the bytes of a file are.
pub(super) enum Bytes<'a> {
    /// In a directory that has the tree's paths.
    In(&'a RootDir),
    Here(&'a [u8]),
    From(&'a mut Give<'a>),
}

/// What entries are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Archive {
    Layer,
    /// A layer with nothing below it: what it removes or hides is not there.
    BottomLayer,
    /// No layer: any name is a name.
    Files,
}

/// Writes entries in the order given, which is the tree's: a directory before what is in it.
pub(super) struct EntryWriter<W: Write> {
    tar: Writer<W>,
    /// In a layer nothing is later than this; as files all have this time.
    epoch: Option<i64>,
    archive: Archive,
    first_names: FirstNames,
    /// What the tree's root is called in the archive.
    prefix: Option<Vec<u8>>,
}

impl<W: Write> EntryWriter<W> {
    pub(super) fn new(tar: Writer<W>, epoch: Option<i64>, archive: Archive) -> Self {
        Self {
            tar,
            epoch,
            archive,
            first_names: FirstNames::new(),
            prefix: None,
        }
    }

    /// Everything goes below a name, which the tree's own root gets.
    pub(super) fn below(mut self, prefix: Vec<u8>) -> Self {
        self.prefix = Some(prefix);
        self
    }

    /// Begins another tree, with a directory of its own where it has a name.
    pub(super) fn begin(&mut self, name: Option<&str>, epoch: Option<i64>) -> Result<()> {
        self.epoch = epoch;
        self.first_names = FirstNames::new();
        self.prefix = name.map(|name| name.as_bytes().to_vec());
        match name {
            Some(name) => {
                let header = Header::directory(name.as_bytes(), 0o755, epoch.unwrap_or(0));
                let written = self.tar.header(&header);
                written.map_err(unwritable(name.as_bytes()))
            }
            None => Ok(()),
        }
    }

    /// A file that is in no tree.
    pub(super) fn document(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.name_in_archive(name.as_bytes());
        let size = bytes.len() as u64;
        let header = Header {
            mtime: self.epoch.unwrap_or(0),
            ..Header::file(&path, 0o644, size)
        };
        let written = self.tar.header(&header);
        let written = written.and_then(|()| self.tar.piece(bytes));
        let written = written.and_then(|()| self.tar.pad(size));
        written.map_err(unwritable(&path))
    }

    fn name_in_archive(&self, path: &[u8]) -> Vec<u8> {
        match &self.prefix {
            Some(prefix) if path.is_empty() => prefix.clone(),
            Some(prefix) => [prefix, b"/".as_slice(), path].concat(),
            None => path.to_vec(),
        }
    }

    pub(super) fn finish(self) -> Result<()> {
        self.tar.finish().map(drop).map_err(unwritable(b""))
    }

    /// `number` tells apart the snapshots that entries come from.
    pub(super) fn write(&mut self, entry: &Entry, root: &RootDir, number: usize) -> Result<()> {
        self.write_bytes(entry, Bytes::In(root), number)
    }

    /// As [`EntryWriter::write`]. The bytes are not asked for where the file has another name that came before.
    pub(super) fn write_bytes(
        &mut self,
        entry: &Entry,
        bytes: Bytes<'_>,
        number: usize,
    ) -> Result<()> {
        let kind = match entry.kind {
            Kind::File => tarfile::Kind::File,
            Kind::Directory => tarfile::Kind::Directory,
            Kind::Symlink => tarfile::Kind::Symlink,
            Kind::CharDevice => tarfile::Kind::CharDevice,
            Kind::BlockDevice => tarfile::Kind::BlockDevice,
            Kind::Fifo => tarfile::Kind::Fifo,
            Kind::Socket => return Ok(()),
            Kind::Whiteout => return self.mark(&entry.path, |name| [b".wh.", name].concat()),
        };
        if entry.path.is_empty() && self.prefix.is_none() {
            return self.opaque(entry);
        }
        let name = self.name_in_archive(&entry.path);
        if self.archive != Archive::Files {
            require_name(entry)?;
        }
        let mut header = Header {
            path: &name,
            kind,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: match (self.epoch, self.archive) {
                (None, _) => entry.mtime.0,
                (Some(epoch), Archive::Files) => epoch,
                (Some(epoch), _) => entry.mtime.0.min(epoch),
            },
            link: b"",
            device: (
                rustix::fs::major(entry.device),
                rustix::fs::minor(entry.device),
            ),
            size: 0,
            xattrs: &entry.xattrs,
        };
        if entry.hard_link != 0 && kind != tarfile::Kind::Directory {
            let key = (number, entry.hard_link);
            if let Some(first) = self.first_names.get(&key).cloned() {
                let link = Header {
                    kind: tarfile::Kind::HardLink,
                    link: &first,
                    xattrs: &[],
                    ..header
                };
                return self.tar.header(&link).map_err(unwritable(&entry.path));
            }
            self.first_names.insert(key, name.clone());
        }
        match kind {
            tarfile::Kind::File => {
                header.size = entry.size;
                match bytes {
                    Bytes::In(root) => self.file(entry, &header, root),
                    Bytes::Here(bytes) => self.pieces(entry, &header, &mut |to| to(bytes)),
                    Bytes::From(read) => self.pieces(entry, &header, read),
                }
            }
            tarfile::Kind::Symlink => {
                header.link = &entry.target;
                header.mode = 0o777;
                self.tar.header(&header).map_err(unwritable(&entry.path))
            }
            _ => {
                self.tar.header(&header).map_err(unwritable(&entry.path))?;
                self.opaque(entry)
            }
        }
    }

    fn file(&mut self, entry: &Entry, header: &Header<'_>, root: &RootDir) -> Result<()> {
        let mut file = root
            .open_file_no_follow(path_of(&entry.path), Resolve::Beneath)
            .map_err(unreadable(&entry.path))?;
        let length = file.metadata().map_err(unreadable(&entry.path))?.len();
        if length != entry.size {
            return Err(Error::BadArchive {
                what: format!("`{}`", shown(&entry.path)),
                reason: format!(
                    "it has {length} bytes, {} when its snapshot was made; run `rbuild store check`",
                    entry.size
                ),
            });
        }
        self.tar.header(header).map_err(unwritable(&entry.path))?;
        self.tar
            .data(&mut file, entry.size)
            .map_err(unwritable(&entry.path))
    }

    fn pieces(&mut self, entry: &Entry, header: &Header<'_>, read: &mut Give<'_>) -> Result<()> {
        self.tar.header(header).map_err(unwritable(&entry.path))?;
        let mut length = 0_u64;
        let tar = &mut self.tar;
        read(&mut |bytes| {
            length = length.saturating_add(bytes.len() as u64);
            tar.piece(bytes)
        })
        .map_err(unreadable(&entry.path))?;
        if length != entry.size {
            let error = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
            return Err(unreadable(&entry.path)(error));
        }
        self.tar.pad(entry.size).map_err(unwritable(&entry.path))
    }

    /// An opaque directory's mark comes right after it, before anything that is in it.
    fn opaque(&mut self, entry: &Entry) -> Result<()> {
        if self.archive == Archive::Layer && entry.opaque && entry.kind == Kind::Directory {
            let inside = [entry.path.as_slice(), b"/x"].concat();
            return self.mark(&inside, |_| b".wh..wh..opq".to_vec());
        }
        Ok(())
    }

    fn mark(&mut self, path: &[u8], name: impl FnOnce(&[u8]) -> Vec<u8>) -> Result<()> {
        let (parent, last) = name_of(path);
        let path = match parent {
            b"" => name(last),
            _ => [parent, b"/", name(last).as_slice()].concat(),
        };
        self.tar
            .header(&Header::file(&path, 0, 0))
            .map_err(unwritable(&path))
    }
}

/// Fails where an entry's own name would mean the removal of another.
pub(super) fn require_name(entry: &Entry) -> Result<()> {
    if entry.kind != Kind::Whiteout && name_of(&entry.path).1.starts_with(b".wh.") {
        return Err(Error::RemovalName {
            path: shown(&entry.path),
        });
    }
    Ok(())
}

fn name_of(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (
            path.get(..slash).unwrap_or_default(),
            path.get(slash + 1..).unwrap_or_default(),
        ),
        None => (b"", path),
    }
}

fn unreadable(path: &[u8]) -> impl FnOnce(std::io::Error) -> Error {
    let path = shown(path);
    move |source| Error::Io {
        action: "read",
        path,
        source,
    }
}

fn unwritable(path: &[u8]) -> impl FnOnce(std::io::Error) -> Error {
    let path = shown(path);
    move |source| Error::Io {
        action: "write to the layer",
        path,
        source,
    }
}
