//! A layer of files that are in no snapshot: a thread reads small files ahead, on all cores and in portions of bounded
//! size, while the tar is written.

use std::collections::HashSet;
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rayon::prelude::*;
use rbuild_cache::snapshot::LayerBlob;
use rbuild_cache::tree::{Entry, Kind, Tree};
use rbuild_cache::{RootDir, Store};

use super::entries::{Archive, Bytes, EntryWriter};
use super::{LayerOptions, write_blob};
use crate::error::{Error, Result, shown};
use crate::tarfile::writer::Writer;

/// Where the bytes of files are that the directory beside the tree does not have.
pub trait Files: Sync {
    /// Whether it knows the bytes of the entry at a place of the tree.
    fn has(&self, place: usize) -> bool;
    fn reader(&self) -> Box<dyn FilesReader + '_>;
}

/// Reads one file after the other.
pub trait FilesReader {
    /// Hands over exactly the bytes of the entry at a place, or fails.
    fn read(&mut self, place: usize, to: &mut dyn FnMut(&[u8]) -> io::Result<()>)
    -> io::Result<()>;
}

/// Larger files are not read ahead.
const SMALL_BYTES: u64 = 256 << 10;
/// What one thread reads at once: so many bytes or entries.
const PORTION_BYTES: u64 = 256 << 10;
const PORTION_ENTRIES: usize = 128;
/// So many portions are read at the same time, and as many wait to be written.
const PORTIONS: usize = 4;

/// Entries that follow each other, and the bytes of the small files among them.
struct Portion {
    entries: Range<usize>,
    bytes: io::Result<Vec<u8>>,
}

/// Writes the layer that a tree lists, of files that are in `directory` or known to `files`, into the store. The same
/// bytes as if all were in a snapshot. Blocking.
pub fn pack(
    store: &Store,
    tree: &Tree,
    directory: &Path,
    files: &dyn Files,
    options: &LayerOptions,
) -> Result<LayerBlob> {
    let root = RootDir::open_ambient(directory).map_err(|source| Error::Io {
        action: "open",
        path: shown(directory.as_os_str().as_encoded_bytes()),
        source,
    })?;
    let packer = Packer {
        tree,
        root: &root,
        files,
        clamp_mtime: options.clamp_mtime,
        carriers: carriers(tree),
    };
    let total = tree.entries.iter().map(|entry| entry.size).sum();
    write_blob(store, "being made", options, total, |output| {
        packer.write(output)
    })
}

struct Packer<'a> {
    tree: &'a Tree,
    root: &'a RootDir,
    files: &'a dyn Files,
    clamp_mtime: Option<i64>,
    /// Which entries come with bytes: of several names of one file the first.
    carriers: Vec<bool>,
}

fn carriers(tree: &Tree) -> Vec<bool> {
    let mut seen = HashSet::new();
    let carries = |entry: &Entry| {
        entry.kind == Kind::File && (entry.hard_link == 0 || seen.insert(entry.hard_link))
    };
    tree.entries.iter().map(carries).collect()
}

impl Packer<'_> {
    fn write(&self, output: &mut dyn Write) -> Result<()> {
        std::thread::scope(|scope| {
            let (sender, receiver) = sync_channel(PORTIONS);
            scope.spawn(move || self.read_ahead(&sender));
            // The reader stops when the receiver is gone.
            self.write_portions(output, receiver)
        })
    }

    fn write_portions(&self, output: &mut dyn Write, portions: Receiver<Portion>) -> Result<()> {
        let mut entries = EntryWriter::new(Writer::new(output), self.clamp_mtime, Archive::Layer);
        let mut reader = self.files.reader();
        for portion in portions {
            let start = self.tree.entries.get(portion.entries.start);
            let path = start.map(|entry| shown(&entry.path)).unwrap_or_default();
            let bytes = portion.bytes.map_err(|source| Error::Io {
                action: "read, at or after",
                path,
                source,
            })?;
            let mut rest = bytes.as_slice();
            for place in portion.entries {
                let Some(entry) = self.tree.entries.get(place) else {
                    break;
                };
                if !self.carries(place) || !self.files.has(place) {
                    entries.write(entry, self.root, 0)?;
                } else if let Some(length) = small(entry) {
                    let (own, others) = rest.split_at_checked(length).unwrap_or((rest, &[]));
                    rest = others;
                    entries.write_bytes(entry, Bytes::Here(own), 0)?;
                } else {
                    let mut read =
                        |to: &mut dyn FnMut(&[u8]) -> io::Result<()>| reader.read(place, to);
                    entries.write_bytes(entry, Bytes::From(&mut read), 0)?;
                }
            }
        }
        entries.finish()
    }

    fn carries(&self, place: usize) -> bool {
        self.carriers.get(place).copied().unwrap_or_default()
    }

    /// Hands all portions over in order, until nobody takes them.
    fn read_ahead(&self, to: &SyncSender<Portion>) {
        let mut start = 0;
        while start < self.tree.entries.len() {
            let mut portions = Vec::with_capacity(PORTIONS);
            while portions.len() < PORTIONS && start < self.tree.entries.len() {
                let portion = self.portion(start);
                start = portion.end;
                portions.push(portion);
            }
            let read = |entries: Range<usize>| Portion {
                bytes: self.read(entries.clone()),
                entries,
            };
            let read: Vec<Portion> = match portions.len() {
                // Nobody is woken for one.
                1 => portions.into_iter().map(read).collect(),
                _ => portions.into_par_iter().map(read).collect(),
            };
            for portion in read {
                if to.send(portion).is_err() {
                    return;
                }
            }
        }
    }

    fn portion(&self, start: usize) -> Range<usize> {
        let mut end = start;
        let mut bytes = 0;
        let rest = self.tree.entries.get(start..).unwrap_or_default();
        for entry in rest.iter().take(PORTION_ENTRIES) {
            end += 1;
            bytes += small(entry).unwrap_or_default() as u64;
            if bytes >= PORTION_BYTES {
                break;
            }
        }
        start..end
    }

    fn read(&self, portion: Range<usize>) -> io::Result<Vec<u8>> {
        let length = |place: usize| {
            let length = self.tree.entries.get(place).and_then(small)?;
            (self.carries(place) && self.files.has(place)).then_some(length)
        };
        let mut bytes = Vec::with_capacity(portion.clone().filter_map(length).sum());
        let mut reader = self.files.reader();
        for place in portion {
            if length(place).is_some() {
                reader.read(place, &mut |piece| {
                    bytes.extend_from_slice(piece);
                    Ok(())
                })?;
            }
        }
        Ok(bytes)
    }
}

fn small(entry: &Entry) -> Option<usize> {
    usize::try_from(entry.size)
        .ok()
        .filter(|_| entry.size <= SMALL_BYTES)
}
