//! The flat file format of trees.
//!
//! ```text
//! "rbtree" 0 VERSION   8 bytes
//! count                varint
//! entries              see `put_entry`; paths share a prefix with the entry before
//! checksum             blake3 of all before, 32 bytes
//! ```
//! Varints are LEB128. Whoever changes a field raises the version.

use std::cmp::Ordering;

use super::{Entry, Kind, Tree, path_order};
use crate::store::{Error, Result};

const MAGIC: &[u8; 8] = b"rbtree\0\x01";
const CHECKSUM_BYTES: usize = 32;
/// The fewest bytes that an entry takes; bounds what a count makes us allocate.
const ENTRY_BYTES_MIN: usize = 10;
/// Longer paths do not occur: the walk that makes them ends earlier.
const PATH_BYTES_MAX: usize = 1 << 20;

const HAS_CONTENT: u8 = 1;
const IS_OPAQUE: u8 = 2;

pub(super) fn encode(tree: &Tree) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + tree.entries.len() * 80);
    out.extend_from_slice(MAGIC);
    put(&mut out, tree.entries.len() as u64);
    let mut before: &[u8] = b"";
    for entry in &tree.entries {
        put_entry(&mut out, before, entry);
        before = &entry.path;
    }
    let checksum = blake3::hash(&out);
    out.extend_from_slice(checksum.as_bytes());
    out
}

fn put_entry(out: &mut Vec<u8>, before: &[u8], entry: &Entry) {
    let shared = before
        .iter()
        .zip(&entry.path)
        .take_while(|(a, b)| a == b)
        .count();
    put(out, shared as u64);
    put_bytes(out, entry.path.get(shared..).unwrap_or_default());
    out.push(entry.kind.code());
    let has_content = entry.content != [0; 32];
    out.push(if has_content { HAS_CONTENT } else { 0 } | if entry.opaque { IS_OPAQUE } else { 0 });
    put(out, entry.mode.into());
    put(out, entry.uid.into());
    put(out, entry.gid.into());
    put(out, entry.device);
    put(out, entry.size);
    let (seconds, nanoseconds) = entry.mtime;
    // Zigzag: small numbers of either sign are short.
    put(out, ((seconds << 1) ^ (seconds >> 63)) as u64);
    put(out, nanoseconds.into());
    put(out, entry.hard_link.into());
    if has_content {
        out.extend_from_slice(&entry.content);
    }
    put_bytes(out, &entry.target);
    put(out, entry.xattrs.len() as u64);
    for (name, value) in &entry.xattrs {
        put_bytes(out, name);
        put_bytes(out, value);
    }
}

pub(super) fn decode(bytes: &[u8]) -> Result<Tree> {
    let damaged = |reason: &str| Error::damaged("a snapshot's listing", reason);
    let (body, checksum) = bytes
        .len()
        .checked_sub(CHECKSUM_BYTES)
        .and_then(|length| bytes.split_at_checked(length))
        .ok_or_else(|| damaged("it is cut short"))?;
    if blake3::hash(body).as_bytes() != checksum {
        return Err(damaged("its checksum does not fit"));
    }
    let rest = body
        .strip_prefix(MAGIC)
        .ok_or_else(|| damaged("it has another format"))?;
    let mut reader = Reader(rest);
    let tree = read_tree(&mut reader).ok_or_else(|| damaged("an entry is malformed"))?;
    if !reader.0.is_empty() {
        return Err(damaged("bytes follow the last entry"));
    }
    Ok(tree)
}

fn read_tree(reader: &mut Reader<'_>) -> Option<Tree> {
    let count = usize::try_from(reader.number()?).ok()?;
    if count > reader.0.len() / ENTRY_BYTES_MIN {
        return None;
    }
    let mut entries: Vec<Entry> = Vec::with_capacity(count);
    for _ in 0..count {
        let before = entries.last().map_or(&b""[..], |entry| &entry.path);
        let entry = reader.entry(before)?;
        let first = entries.is_empty();
        let before = entries.last().map_or(&b""[..], |entry| &entry.path);
        if !first && path_order(before, &entry.path) != Ordering::Less {
            return None;
        }
        entries.push(entry);
    }
    Some(Tree { entries })
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn entry(&mut self, before: &[u8]) -> Option<Entry> {
        let shared = before.get(..usize::try_from(self.number()?).ok()?)?;
        let own = self.bytes()?;
        if shared.len() + own.len() > PATH_BYTES_MAX {
            return None;
        }
        let mut path = Vec::with_capacity(shared.len() + own.len());
        path.extend_from_slice(shared);
        path.extend_from_slice(own);
        let kind = Kind::of_code(self.byte()?)?;
        let flags = self.byte()?;
        let mut entry = Entry {
            path,
            kind,
            mode: self.small()?,
            uid: self.small()?,
            gid: self.small()?,
            device: self.number()?,
            size: self.number()?,
            mtime: {
                let zigzag = self.number()?;
                (
                    (zigzag >> 1).cast_signed() ^ -((zigzag & 1).cast_signed()),
                    self.small()?,
                )
            },
            opaque: flags & IS_OPAQUE != 0,
            content: [0; 32],
            target: Vec::new(),
            xattrs: Vec::new(),
            hard_link: self.small()?,
        };
        if flags & HAS_CONTENT != 0 {
            entry.content = self.take(32)?.try_into().ok()?;
        }
        entry.target = self.bytes()?.to_vec();
        let count = self.number()?;
        for _ in 0..count {
            let name = self.bytes()?.to_vec();
            let value = self.bytes()?.to_vec();
            entry.xattrs.push((name, value));
        }
        Some(entry)
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                return None;
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn small(&mut self) -> Option<u32> {
        self.number()?.try_into().ok()
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        self.take(length)
    }
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}
