//! `store check`: every blob re-hashed, every record's snapshot present, every tree as its directory says, nothing
//! unaccounted for.
//!
//! What a killed process left (files without a row, entries of `tmp/`) is no damage and no finding: collection
//! takes it. A finding is checked again before it is reported, because others may collect meanwhile.

mod names;
mod rebuild;
mod repair;

pub(crate) use rebuild::recover;

use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::Digest as _;

use crate::digest::Digest;
use crate::error::{IndexContext as _, IoContext as _};
use crate::index;
use crate::key::Key;
use crate::record;
use crate::root_dir::RootDir;
use crate::snapshot::{self, Snapshot, content_key};
use crate::store::{Result, Store};
use crate::tree::Tree;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// `blob sha256:…`, `snapshot …`, `record …`.
    pub what: String,
    pub reason: String,
    /// With `repair`: it was put away (quarantined or forgotten).
    pub repaired: bool,
}

/// What the index is called where it is found to be damaged.
const INDEX: &str = "the index";

/// Something in the store's directories that should not be there, or not like this.
#[derive(Debug)]
struct Foreign {
    /// Below the store's root.
    path: PathBuf,
    /// As people call it.
    what: String,
    reason: String,
}

/// Rows that point at nothing: how they are called, and a query for their names.
const DANGLING: [(&str, &str); 9] = [
    (
        "snapshot",
        "SELECT id, 'its parent is not in the store' FROM snapshots WHERE parent IS NOT NULL
         AND parent NOT IN (SELECT id FROM snapshots)",
    ),
    (
        "unpacked image",
        "SELECT lower(hex(chain)), 'its snapshot is not in the store' FROM chains
         WHERE snapshot NOT IN (SELECT id FROM snapshots)",
    ),
    (
        "layer of snapshot",
        "SELECT snapshot, 'there is no such snapshot' FROM layers
         WHERE snapshot NOT IN (SELECT id FROM snapshots)",
    ),
    (
        "record",
        "SELECT COALESCE((SELECT lower(hex(key)) FROM keys WHERE result = r.id), r.id),
                'its snapshot is not in the store' FROM results AS r
         WHERE snapshot IS NOT NULL AND snapshot NOT IN (SELECT id FROM snapshots)
           OR EXISTS (SELECT 1 FROM json_each(r.extra) AS e
                      WHERE e.value NOT IN (SELECT id FROM snapshots))",
    ),
    (
        "record",
        "SELECT lower(hex(key)), 'its key leads nowhere' FROM keys
         WHERE result NOT IN (SELECT id FROM results)",
    ),
    (
        "record",
        "SELECT id, 'no key leads to it' FROM results WHERE id NOT IN (SELECT result FROM keys)",
    ),
    (
        "image",
        "SELECT name, 'its manifest is not in the store' FROM images
         WHERE manifest NOT IN (SELECT digest FROM blobs)",
    ),
    (
        "image",
        "SELECT name, 'its snapshot is not in the store' FROM images
         WHERE snapshot IS NOT NULL AND snapshot NOT IN (SELECT id FROM snapshots)",
    ),
    (
        "container",
        "SELECT id, 'its snapshot is not in the store' FROM containers
         WHERE snapshot NOT IN (SELECT id FROM snapshots)",
    ),
];

impl Store {
    /// Opens a store and checks it. With `repair`, an index that cannot be read is put away and made anew, of what is
    /// left in it and of what is on the disk.
    ///
    /// Errors: as [`Store::open`]; without `repair`, damage of the index that keeps it from being read is one.
    pub fn look_after(root: &Path, repair: bool) -> Result<Vec<Finding>> {
        let mut findings: Vec<Finding> = names::missing_directories(root)
            .into_iter()
            .map(|name| Finding {
                what: format!("directory `{name}`"),
                reason: "it was gone; it is there again, empty".to_owned(),
                repaired: true,
            })
            .collect();
        let look = || Self::open(root).and_then(|store| store.check(repair));
        let reason = match look() {
            Err(error) if repair && error.is_damage() => match std::error::Error::source(&error) {
                Some(source) => source.to_string(),
                None => error.to_string(),
            },
            Ok(found) if repair => match found.iter().find(|it| it.what == INDEX) {
                Some(damage) => damage.reason.clone(),
                None => {
                    findings.extend(found);
                    return Ok(findings);
                }
            },
            result => {
                findings.extend(result?);
                return Ok(findings);
            }
        };
        let lost = rebuild::rebuild(root)?;
        findings.push(Finding {
            what: INDEX.to_owned(),
            reason: format!("{reason}; it was made anew"),
            repaired: true,
        });
        findings.extend(lost);
        findings.extend(look()?);
        Ok(findings)
    }

    /// Reads everything. With `repair`, damaged things are moved to `quarantine/` and what needs them forgotten:
    /// records, names of images whose manifest or config is damaged. Containers are never forgotten.
    pub fn check(&self, repair: bool) -> Result<Vec<Finding>> {
        let mut findings = self.check_index()?;
        let blobs = self.check_blobs()?;
        let snapshots = self.check_snapshots()?;
        let unreadable = self.check_records()?;
        let rows = snapshot::damaged_rows(&self.index())?;
        let dangling = self.check_rows()?;
        let layout = self.check_layout()?;
        let foreign = self.check_names()?;
        let repairable = repair && findings.is_empty();
        if repairable {
            self.forget_records(&unreadable)?;
            snapshot::forget_rows(&self.index(), &rows)?;
            self.repair(&blobs, &snapshots, !dangling.is_empty())?;
            self.mend_layout()?;
        }
        let found = |what: String, reason: String, repaired: bool| Finding {
            what,
            reason,
            repaired,
        };
        for (digest, reason) in blobs {
            findings.push(found(format!("blob {digest}"), reason, repairable));
        }
        for (snapshot, reason) in snapshots {
            let what = format!("snapshot {}", snapshot.id.as_str());
            findings.push(found(what, reason, repairable));
        }
        for (key, reason) in unreadable {
            findings.push(found(format!("record {key}"), reason, repairable));
        }
        for (table, name) in rows {
            let what = match table {
                "chains" => format!("unpacked image {name}"),
                _ => format!("layer of snapshot {name}"),
            };
            let reason = "its row is not what was saved".to_owned();
            findings.push(found(what, reason, repairable));
        }
        for (what, reason) in dangling {
            let repaired = repairable && !what.starts_with("container ");
            findings.push(found(what, reason, repaired));
        }
        for (what, reason) in layout {
            findings.push(found(what.to_owned(), reason, repairable));
        }
        for foreign in foreign {
            let repaired = repairable && self.put_foreign_away(&foreign);
            findings.push(found(foreign.what, foreign.reason, repaired));
        }
        Ok(findings)
    }

    /// SQLite's own check, and whether its tables are ours.
    fn check_index(&self) -> Result<Vec<Finding>> {
        let mut reasons: Vec<String> = self
            .index()
            .prepare("PRAGMA quick_check")
            .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
            .doing("check it")?;
        reasons.extend(index::foreign_tables(&self.index())?);
        Ok(reasons
            .into_iter()
            .filter(|reason| reason != "ok")
            .map(|reason| Finding {
                what: INDEX.to_owned(),
                reason,
                repaired: false,
            })
            .collect())
    }

    fn check_blobs(&self) -> Result<Vec<(Digest, String)>> {
        let rows: Vec<(Digest, u64)> = self
            .index()
            .prepare("SELECT digest, size FROM blobs ORDER BY digest")
            .and_then(|mut statement| {
                statement
                    .query_map([], |row| {
                        let size: i64 = row.get(1)?;
                        Ok((Digest::from_bytes(row.get(0)?), size.cast_unsigned()))
                    })?
                    .collect()
            })
            .doing("list the blobs")?;
        let bad: Vec<(Digest, String)> = rows
            .par_iter()
            .filter_map(|(digest, size)| Some((*digest, self.blob_damage(digest, *size)?)))
            .collect();
        let connection = self.index();
        let mut confirmed = Vec::new();
        for (digest, reason) in bad {
            let there: bool = connection
                .prepare_cached("SELECT 1 FROM blobs WHERE digest = ?1")
                .and_then(|mut statement| statement.exists([digest.as_bytes()]))
                .doing("look up a blob")?;
            if there {
                confirmed.push((digest, reason));
            }
        }
        Ok(confirmed)
    }

    /// What is wrong with a blob's file.
    fn blob_damage(&self, digest: &Digest, size: u64) -> Option<String> {
        match hash(&self.blob_path(digest)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Some("its file is gone".to_owned())
            }
            Err(error) => Some(format!("it cannot be read: {error}")),
            Ok((_, length)) if length != size => {
                Some(format!("it has {length} bytes instead of {size}"))
            }
            Ok((actual, _)) if actual != *digest => {
                Some(format!("its bytes have the digest {actual}"))
            }
            Ok(_) => None,
        }
    }

    fn check_snapshots(&self) -> Result<Vec<(Snapshot, String)>> {
        let rows: Vec<(Snapshot, Option<[u8; 32]>)> = self
            .index()
            .prepare(
                "SELECT s.id, s.parent, s.tree, s.content, s.created, s.size, s.packed, p.content
                 FROM snapshots AS s LEFT JOIN snapshots AS p ON p.id = s.parent ORDER BY s.id",
            )
            .and_then(|mut statement| {
                statement
                    .query_map([], |row| Ok((snapshot::read(row)?, row.get(7)?)))?
                    .collect()
            })
            .doing("list the snapshots")?;
        let mut confirmed = Vec::new();
        for (snapshot, below) in rows {
            let below = below.map(Key);
            if let Some(reason) = self.snapshot_damage(&snapshot, below)
                && snapshot::find(&self.index(), &snapshot.id)?.is_some()
            {
                confirmed.push((snapshot, reason));
            }
        }
        Ok(confirmed)
    }

    /// What is wrong with a snapshot's directory, listing or row.
    fn snapshot_damage(&self, snapshot: &Snapshot, below: Option<Key>) -> Option<String> {
        let holder = self.shared.snapshot_holder(&snapshot.id);
        let listing = match std::fs::read(holder.join("tree")) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Some("its listing is gone".to_owned());
            }
            Err(error) => return Some(format!("its listing cannot be read: {error}")),
        };
        let listed = match Tree::decode(&listing) {
            Ok(tree) => tree,
            Err(error) => return Some(error.to_string()),
        };
        if listed.digest() != snapshot.tree {
            return Some("its listing is not the one that the index names".to_owned());
        }
        // Without its parent it is reported as such.
        if (snapshot.parent.is_none() || below.is_some())
            && content_key(below, snapshot.tree) != snapshot.content
        {
            return Some("its identity is not that of its parent and its listing".to_owned());
        }
        // Its files are in a blob, which is read as all blobs are.
        if snapshot.packed.is_some() {
            return match self.packed_layer(snapshot) {
                Err(error) => Some(error.to_string()),
                Ok(Some((_, blob))) if !self.has_blob(&blob.digest) => Some(format!(
                    "its files are in the layer {}, which is gone",
                    blob.digest
                )),
                Ok(_) => None,
            };
        }
        let scanned = RootDir::open_ambient(&holder.join("fs"))
            .at("open", &holder)
            .and_then(|root| Tree::scan(root.as_fd()));
        match scanned {
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                Some(format!("{error}: {}", cause.unwrap_or_default()))
            }
            Ok(scanned) if scanned.digest() != snapshot.tree => Some(difference(&listed, &scanned)),
            Ok(_) => None,
        }
    }

    /// Records that are not what was saved.
    fn check_records(&self) -> Result<Vec<(Key, String)>> {
        let keys: Vec<Vec<u8>> = self
            .index()
            .prepare("SELECT key FROM keys ORDER BY key")
            .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
            .doing("list the keys of records")?;
        let mut found = Vec::new();
        for key in keys {
            let Ok(key) = <[u8; 32]>::try_from(key.as_slice()) else {
                continue;
            };
            if let Some(reason) = record::damage(&self.index(), Key(key))? {
                found.push((Key(key), reason));
            }
        }
        Ok(found)
    }

    fn forget_records(&self, unreadable: &[(Key, String)]) -> Result<()> {
        let action = "forget damaged records";
        if unreadable.is_empty() {
            return Ok(());
        }
        index::durably(&mut self.index(), action, |transaction| {
            for (key, _) in unreadable {
                transaction
                    .execute("DELETE FROM keys WHERE key = ?1", [&key.0])
                    .doing(action)?;
            }
            index::drop_dangling(transaction)
        })
    }

    fn check_rows(&self) -> Result<Vec<(String, String)>> {
        let connection = self.index();
        let mut found = Vec::new();
        for (what, sql) in DANGLING {
            let rows: Vec<(String, String)> = connection
                .prepare(sql)
                .and_then(|mut statement| {
                    statement
                        .query_map([], |row| {
                            let name = match row.get_ref(0)? {
                                rusqlite::types::ValueRef::Integer(number) => number.to_string(),
                                other => other.as_str()?.to_owned(),
                            };
                            Ok((format!("{what} {name}"), row.get(1)?))
                        })?
                        .collect()
                })
                .doing("look for rows that point at nothing")?;
            found.extend(rows);
        }
        Ok(found)
    }
}

/// The digest and the length of a regular file.
fn hash(path: &Path) -> std::io::Result<(Digest, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    if !metadata.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    let mut file = std::fs::File::open(path)?;
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    let mut length = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok((Digest::from_bytes(hasher.finalize().into()), length));
        }
        length += count as u64;
        hasher.update(buffer.get(..count).unwrap_or_default());
    }
}

/// The first path at which a directory is not what its listing says.
fn difference(listed: &Tree, scanned: &Tree) -> String {
    let name = |path: &[u8]| String::from_utf8_lossy(path).escape_default().to_string();
    let same = |one: &crate::tree::Entry, other: &crate::tree::Entry| {
        let digest = |entry| crate::tree::digest_entries([(&b""[..], entry)]);
        digest(one) == digest(other)
    };
    for entry in &listed.entries {
        match scanned.get(&entry.path) {
            None => return format!("`/{}` is gone", name(&entry.path)),
            Some(now) if !same(entry, now) => {
                return format!("`/{}` is not what it was", name(&entry.path));
            }
            Some(_) => {}
        }
    }
    let more = scanned
        .entries
        .iter()
        .find(|entry| listed.get(&entry.path).is_none());
    match more {
        Some(entry) => format!("`/{}` was not there", name(&entry.path)),
        None => "its directory is not what its listing says".to_owned(),
    }
}
