//! Where the files of a tar are.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rbuild_cache::Store;

use crate::compression::{Bounded, Detected, Limits, MAGIC_LENGTH, detect};
use crate::error::{Error, Result, shown};
use crate::tarfile::{self, Kind, Reader, clean};
use crate::unpack::tar_error;

/// How many files an image's archive may have.
const FILE_LIMIT: usize = 100_000;

#[derive(Debug)]
pub(crate) struct TarIndex {
    file: Arc<File>,
    what: String,
    files: HashMap<Vec<u8>, Place>,
}

#[derive(Debug, Clone)]
enum Place {
    File {
        offset: u64,
        size: u64,
    },
    /// Old `docker save` links equal layers; the target is another name in the archive.
    Link(Vec<u8>),
}

impl TarIndex {
    pub(crate) fn open(store: &Store, path: &Path) -> Result<Self> {
        let what = shown(path.as_os_str().as_bytes());
        let unreadable = |source| Error::Io {
            action: "read the archive",
            path: what.clone(),
            source,
        };
        let mut file = open_regular(path).map_err(unreadable)?;
        let mut start = [0; MAGIC_LENGTH];
        let length = file.read_at(&mut start, 0).map_err(unreadable)?;
        if detect(start.get(..length).unwrap_or_default()) != Detected::None {
            file = decompressed(store, file, &what)?;
        }
        file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        let mut index = Self {
            file: Arc::new(file),
            what,
            files: HashMap::new(),
        };
        index.scan(length)?;
        Ok(index)
    }

    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    fn scan(&mut self, length: u64) -> Result<()> {
        let malformed = |what: &str, reason: String| Error::BadArchive {
            what: what.to_owned(),
            reason,
        };
        let mut reader = Reader::new(Skipping {
            file: Arc::clone(&self.file),
            position: 0,
        });
        let mut is_first = true;
        loop {
            let entry = match reader.next() {
                Ok(Some(entry)) => entry,
                Ok(None) => break,
                Err(tarfile::Error::Malformed(reason)) if is_first => {
                    let reason = format!("it is no tar archive: {reason}");
                    return Err(malformed(&self.what, reason));
                }
                Err(error) => return Err(tar_error(&self.what, error)),
            };
            is_first = false;
            let name = clean(&entry.path);
            let place = match entry.kind {
                Kind::File if entry.segments.is_none() => {
                    let offset = reader.offset();
                    if offset.saturating_add(entry.size) > length {
                        return Err(malformed(&self.what, "it ends within an entry".to_owned()));
                    }
                    reader.skip_stored(entry.size, |file| file.skip(entry.size));
                    Place::File {
                        offset,
                        size: entry.size,
                    }
                }
                Kind::Symlink => Place::Link(beside(&name, &entry.link)),
                Kind::HardLink => self.linked(clean(&entry.link)),
                _ => continue,
            };
            if self.files.len() >= FILE_LIMIT {
                let reason = format!("it has more than {FILE_LIMIT} files");
                return Err(malformed(&self.what, reason));
            }
            // As whoever unpacks it has it: the last of a name is there in the end.
            self.files.insert(name, place);
        }
        if length == 0 {
            return Err(malformed(&self.what, "it is empty".to_owned()));
        }
        if !reader.end_is_marked() {
            let reason = "it ends without the mark of an archive's end: it may have been cut off";
            return Err(malformed(&self.what, reason.to_owned()));
        }
        Ok(())
    }

    /// What a hard link means: the file that has the name by then, whatever gets it later.
    fn linked(&self, target: Vec<u8>) -> Place {
        match self.files.get(&target) {
            Some(known) => known.clone(),
            None => Place::Link(target),
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.files.contains_key(name.as_bytes())
    }

    /// Opens a file by its name in the archive.
    pub(crate) fn file(&self, name: &[u8]) -> Result<(Box<dyn Read + Send>, u64)> {
        let missing = || Error::NotFound(format!("{}/{}", self.what, shown(name)));
        let mut name = clean(name);
        // A link may lead to a file, and not to another link: nobody writes such archives.
        for _ in 0..2 {
            match self.files.get(&name).ok_or_else(missing)? {
                Place::Link(target) => name.clone_from(target),
                Place::File { offset, size } => {
                    let part = Part {
                        file: Arc::clone(&self.file),
                        position: *offset,
                        end: offset + size,
                    };
                    return Ok((Box::new(part), *size));
                }
            }
        }
        Err(missing())
    }
}

/// Opens what the user named; never blocks on a pipe.
fn open_regular(path: &Path) -> std::io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(std::io::Error::new(
        std::io::ErrorKind::InvalidInput,
        "not a regular file",
    ))
}

fn decompressed(store: &Store, file: File, what: &str) -> Result<File> {
    let directory = store.temporary_directory()?;
    let unwritable = |source| Error::Io {
        action: "decompress the archive",
        path: what.to_owned(),
        source,
    };
    let mut output = tempfile::tempfile_in(directory.path()).map_err(unwritable)?;
    let mut input = Bounded::new(Box::new(file), Limits::default()).map_err(unwritable)?;
    std::io::copy(&mut input, &mut output).map_err(unwritable)?;
    Ok(output)
}

/// A link's target as a name in the archive; `..` does not lead out of it.
fn beside(name: &[u8], target: &[u8]) -> Vec<u8> {
    if target.starts_with(b"/") {
        return clean(target);
    }
    let directory = name.iter().rposition(|byte| *byte == b'/');
    let directory = directory.and_then(|end| name.get(..end)).unwrap_or(b"");
    clean(&[directory, target].join(&b'/'))
}

/// Reads a file from the start and can leave parts out.
#[derive(Debug)]
pub(crate) struct Skipping {
    file: Arc<File>,
    position: u64,
}

impl Skipping {
    pub(crate) fn skip(&mut self, bytes: u64) {
        self.position = self.position.saturating_add(bytes);
    }
}

impl Read for Skipping {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read_at(buffer, self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

/// A part of a file.
struct Part {
    file: Arc<File>,
    position: u64,
    end: u64,
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let buffer = buffer.get_mut(..length).unwrap_or_default();
        let count = self.file.read_at(buffer, self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_name_that_is_there_twice_the_last_counts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.tar");
        let mut tar = tar::Builder::new(File::create(&path).unwrap());
        let file = |tar: &mut tar::Builder<File>, name: &str, content: &str| {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, name, content.as_bytes())
                .unwrap();
        };
        let link = |tar: &mut tar::Builder<File>, name: &str, target: &str| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Link);
            header.set_size(0);
            tar.append_link(&mut header, name, target).unwrap();
        };
        file(&mut tar, "a", "first");
        link(&mut tar, "b", "a");
        link(&mut tar, "c", "d");
        file(&mut tar, "a", "second");
        link(&mut tar, "a", "a");
        file(&mut tar, "d", "late");
        tar.finish().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let index = TarIndex::open(&store, &path).unwrap();
        for (name, content) in [("a", "second"), ("b", "first"), ("c", "late")] {
            let mut found = String::new();
            let (mut file, _) = index.file(name.as_bytes()).unwrap();
            file.read_to_string(&mut found).unwrap();
            assert_eq!(found, content, "{name}");
        }
    }

    #[test]
    fn links_lead_from_where_they_are_and_never_out() {
        for (name, target, expected) in [
            ("a/b", "c", "a/c"),
            ("a", "c", "c"),
            ("a/b", "./d//e/", "a/d/e"),
            ("a/b", ".", "a"),
            ("a/b", "/x/../y", "y"),
            ("a/b", "../../../z", "z"),
            ("a/b", "..", ""),
        ] {
            let found = beside(name.as_bytes(), target.as_bytes());
            assert_eq!(found, expected.as_bytes(), "{name} -> {target}");
        }
    }
}
