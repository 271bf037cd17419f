//! Notes that explain builds; nothing is built from them, so losing one costs an explanation and no more.
//!
//! ```text
//! explain/builds/KEY   what the steps of a build were made of, the last one of each sort
//! explain/paths/KEY    the entries that a selection had, by the selection's content key
//! ```
//! What is in a note is its writer's business. They outlive collection on purpose: that a record was collected is
//! itself something to explain. Each sort keeps to a size, the least recently written go first.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::error::IoContext as _;
use crate::key::Key;
use crate::lease;
use crate::store::{Result, Store, make_directories};

/// A note ends with the hash of what is before it.
const CHECKSUM_BYTES: usize = 32;

/// True for the file of a note that is as it was written.
pub(crate) fn is_whole(file: &[u8]) -> bool {
    content(file).is_some()
}

fn content(file: &[u8]) -> Option<&[u8]> {
    let (content, checksum) = file.split_at_checked(file.len().checked_sub(CHECKSUM_BYTES)?)?;
    (blake3::hash(content).as_bytes() == checksum).then_some(content)
}

/// What a note is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    Build,
    Paths,
}

/// All notes of a sort together, in bytes; one alone may have half of it.
const LIMIT_BYTES: u64 = 64 << 20;
/// A small one counts for so much, which also keeps their number down.
const LEAST_BYTES: u64 = 16 << 10;

impl Note {
    fn directory(self) -> &'static str {
        match self {
            Self::Build => "explain/builds",
            Self::Paths => "explain/paths",
        }
    }
}

impl Store {
    /// Reads a note; `None` where there is none, or none that is whole.
    pub fn note(&self, note: Note, key: Key) -> Result<Option<Vec<u8>>> {
        let path = self.note_path(note, key);
        let file = match std::fs::File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            result => result.at("open", &path)?,
        };
        let length = file.metadata().at("stat", &path)?.len().min(LIMIT_BYTES);
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1);
        file.take(LIMIT_BYTES)
            .read_to_end(&mut bytes)
            .at("read", &path)?;
        let length = content(&bytes).map(<[u8]>::len);
        Ok(length.map(|length| {
            bytes.truncate(length);
            bytes
        }))
    }

    /// When each note of a sort was written last, newest first.
    pub fn notes(&self, note: Note) -> Result<Vec<(Key, SystemTime)>> {
        let mut found: Vec<(Key, SystemTime)> = self
            .listed(note)?
            .into_iter()
            .filter_map(|listed| {
                let mut key = [0; 32];
                hex::decode_to_slice(&listed.name, &mut key).ok()?;
                Some((Key(key), listed.modified))
            })
            .collect();
        found.sort_by_key(|(key, modified)| (std::cmp::Reverse(*modified), *key));
        Ok(found)
    }

    /// Whether there is a note, whole or not.
    pub fn has_note(&self, note: Note, key: Key) -> bool {
        self.note_path(note, key).exists()
    }

    /// Writes a note, in place of the one that was there. One that is too large is not kept.
    pub fn put_note(&self, note: Note, key: Key, bytes: &[u8]) -> Result<()> {
        if bytes.len() as u64 > LIMIT_BYTES / 2 {
            return Ok(());
        }
        let path = self.note_path(note, key);
        let bytes = &[bytes, blake3::hash(bytes).as_bytes()].concat();
        match self.shared.write_atomically(&path, bytes) {
            Err(crate::Error::Io { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                // A store of an earlier version has no such directories.
                make_directories(self.root())?;
                self.shared.write_atomically(&path, bytes)?;
            }
            result => result?,
        }
        Ok(())
    }

    /// Makes a note the newest of its sort.
    pub fn touch_note(&self, note: Note, key: Key) -> Result<()> {
        let path = self.note_path(note, key);
        std::fs::File::open(&path)
            .and_then(|file| file.set_modified(SystemTime::now()))
            .at("mark", &path)
    }

    fn note_path(&self, note: Note, key: Key) -> PathBuf {
        let mut path = self.root().join(note.directory());
        path.push(key.to_string());
        path
    }

    /// Removes the oldest notes of a sort where they have become too many. Call once a build.
    pub fn trim_notes(&self, note: Note) -> Result<()> {
        let mut listed = self.listed(note)?;
        let mut total: u64 = listed.iter().map(|listed| listed.size).sum();
        if total <= LIMIT_BYTES {
            return Ok(());
        }
        listed.sort_by_key(|listed| listed.modified);
        for listed in listed {
            if total <= LIMIT_BYTES / 4 * 3 {
                break;
            }
            lease::remove(&self.root().join(note.directory()).join(&listed.name))?;
            total -= listed.size;
        }
        Ok(())
    }

    fn listed(&self, note: Note) -> Result<Vec<Listed>> {
        let directory = self.root().join(note.directory());
        if !directory.exists() {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for name in lease::names(&directory)? {
            // Another process may trim at the same time.
            let Ok(metadata) = std::fs::symlink_metadata(directory.join(&name)) else {
                continue;
            };
            found.push(Listed {
                name,
                size: metadata.len().max(LEAST_BYTES),
                modified: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            });
        }
        Ok(found)
    }
}

struct Listed {
    name: String,
    size: u64,
    modified: SystemTime,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyWriter;

    #[test]
    fn notes_are_replaced_and_listed() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let key = KeyWriter::new("test.v1").finish();
        assert_eq!(store.note(Note::Build, key).unwrap(), None);
        store.put_note(Note::Build, key, b"one").unwrap();
        store.put_note(Note::Build, key, b"two").unwrap();
        assert_eq!(store.note(Note::Build, key).unwrap().unwrap(), b"two");
        assert!(!store.has_note(Note::Paths, key));
        assert_eq!(store.notes(Note::Build).unwrap()[0].0, key);
        assert_eq!(store.check(false).unwrap(), []);
        store.trim_notes(Note::Build).unwrap();
        assert!(store.has_note(Note::Build, key));
    }

    #[test]
    fn the_oldest_notes_go_first() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let key = |number: u8| KeyWriter::new("test.v1").field("n", [number]).finish();
        let large = vec![0; usize::try_from(LIMIT_BYTES / 4).unwrap() - CHECKSUM_BYTES];
        for number in 0..6 {
            store.put_note(Note::Paths, key(number), &large).unwrap();
            let path = store.note_path(Note::Paths, key(number));
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(number.into());
            let file = std::fs::File::open(path).unwrap();
            file.set_modified(time).unwrap();
        }
        store.trim_notes(Note::Paths).unwrap();
        let left: Vec<bool> = (0..6)
            .map(|n| store.has_note(Note::Paths, key(n)))
            .collect();
        assert_eq!(left, [false, false, false, true, true, true]);
        let larger = vec![0; usize::try_from(LIMIT_BYTES / 2 + 1).unwrap()];
        store.put_note(Note::Paths, key(9), &larger).unwrap();
        assert!(!store.has_note(Note::Paths, key(9)));
    }
}
