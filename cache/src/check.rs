//! `store check`: every blob re-hashed, every record's snapshot present, every tree as its directory says, nothing
//! unaccounted for.
//!
//! What a killed process left (files without a row, entries of `tmp/`) is no damage and no finding: collection
//! takes it. A finding is checked again before it is reported, because others may collect meanwhile.

use std::io::Read as _;
use std::os::fd::AsFd as _;

use rayon::prelude::*;
use sha2::Digest as _;

use crate::collect::is_hex;
use crate::digest::Digest;
use crate::error::{IndexContext as _, IoContext as _};
use crate::index;
use crate::key::Key;
use crate::lease;
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

/// What the store's directories may hold besides what the index accounts for.
const KNOWN: [&str; 15] = [
    "containers",
    "content",
    "contexts",
    "explain",
    "index.db",
    "index.db-shm",
    "index.db-wal",
    "leases",
    "locks",
    "mounts",
    "quarantine",
    "reserve",
    "snapshots",
    "tmp",
    "volumes",
];

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
    /// Reads everything. With `repair`, damaged things are moved to `quarantine/` and what needs them forgotten:
    /// records, names of images whose manifest or config is damaged. Containers are never forgotten.
    pub fn check(&self, repair: bool) -> Result<Vec<Finding>> {
        let mut findings = self.check_index()?;
        let blobs = self.check_blobs()?;
        let snapshots = self.check_snapshots()?;
        let dangling = self.check_rows()?;
        let unknown = self.check_names()?;
        let repairable = repair && findings.is_empty();
        if repairable {
            self.repair(&blobs, &snapshots, !dangling.is_empty())?;
            self.write_layout_index()?;
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
        for (what, reason) in dangling {
            let repaired = repairable && !what.starts_with("container ");
            findings.push(found(what, reason, repaired));
        }
        for name in unknown {
            let reason = "the store did not make it; it was left as it is".to_owned();
            findings.push(found(name, reason, false));
        }
        Ok(findings)
    }

    /// SQLite's own check.
    fn check_index(&self) -> Result<Vec<Finding>> {
        let reasons: Vec<String> = self
            .index()
            .prepare("PRAGMA quick_check")
            .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
            .doing("check it")?;
        Ok(reasons
            .into_iter()
            .filter(|reason| reason != "ok")
            .map(|reason| Finding {
                what: "the index".to_owned(),
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
        let path = self.blob_path(digest);
        let hash = || -> std::io::Result<(Digest, u64)> {
            let metadata = std::fs::symlink_metadata(&path)?;
            if !metadata.is_file() {
                return Err(std::io::Error::other("it is not a regular file"));
            }
            let mut file = std::fs::File::open(&path)?;
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
        };
        match hash() {
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
                "SELECT s.id, s.parent, s.tree, s.content, s.created, s.size, p.content
                 FROM snapshots AS s LEFT JOIN snapshots AS p ON p.id = s.parent ORDER BY s.id",
            )
            .and_then(|mut statement| {
                statement
                    .query_map([], |row| Ok((snapshot::read(row)?, row.get(6)?)))?
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

    /// Names that nobody of us gives.
    fn check_names(&self) -> Result<Vec<String>> {
        let root = self.root();
        let mut found = Vec::new();
        let mut look = |directory: &str, known: &dyn Fn(&str) -> bool| -> Result<()> {
            for entry in std::fs::read_dir(root.join(directory)).at("list", root)? {
                let name = entry.at("list", root)?.file_name();
                let name = name.to_string_lossy();
                if !known(&name) {
                    found.push(
                        format!("{directory}/{name}")
                            .trim_start_matches('/')
                            .to_owned(),
                    );
                }
            }
            Ok(())
        };
        look("", &|name| KNOWN.contains(&name))?;
        look("content", &|name| {
            ["blobs", "index.json", "oci-layout"].contains(&name)
        })?;
        look("content/blobs", &|name| name == "sha256")?;
        look("content/blobs/sha256", &|name| is_hex(name, 64))?;
        look("snapshots", &|name| is_hex(name, 32))?;
        look("contexts", &|name| is_hex(name, 64))?;
        look("mounts", &|name| is_hex(name, 64))?;
        if root.join("explain").exists() {
            look("explain", &|name| ["builds", "paths"].contains(&name))?;
            look("explain/builds", &|name| is_hex(name, 64))?;
            look("explain/paths", &|name| is_hex(name, 64))?;
        }
        found.sort();
        Ok(found)
    }

    /// Puts away what is damaged and forgets what needs it.
    fn repair(
        &self,
        blobs: &[(Digest, String)],
        snapshots: &[(Snapshot, String)],
        dangling: bool,
    ) -> Result<()> {
        if blobs.is_empty() && snapshots.is_empty() && !dangling {
            return Ok(());
        }
        let action = "forget what is damaged";
        let quarantine = self.root().join("quarantine");
        std::fs::create_dir_all(&quarantine).at("create", &quarantine)?;
        let doomed = self.shared.temporary_path();
        crate::store::make_directory(&doomed)?;
        {
            let _publishing = self.shared.publish_lock(true)?;
            index::durably(&mut self.index(), action, |transaction| {
                for (digest, _) in blobs {
                    for sql in [
                        "DELETE FROM blobs WHERE digest = ?1",
                        "DELETE FROM layers WHERE digest = ?1",
                        "DELETE FROM images WHERE manifest = ?1 OR config = ?1",
                    ] {
                        transaction
                            .execute(sql, [digest.as_bytes()])
                            .doing(action)?;
                    }
                }
                for (snapshot, _) in snapshots {
                    transaction
                        .execute(
                            "DELETE FROM snapshots WHERE id = ?1",
                            [snapshot.id.as_str()],
                        )
                        .doing(action)?;
                }
                index::drop_dangling(transaction)
            })?;
            let blobs = blobs
                .iter()
                .map(|(digest, _)| (self.blob_path(digest), digest.hex()));
            let snapshots = snapshots.iter().map(|(snapshot, _)| {
                let holder = self.shared.snapshot_holder(&snapshot.id);
                (holder, snapshot.id.as_str().to_owned())
            });
            for (from, name) in blobs.chain(snapshots) {
                let to = quarantine.join(format!("{name}-{}", lease::random_word()?));
                match rustix::fs::rename(&from, &to) {
                    Err(rustix::io::Errno::NOENT) => {}
                    result => result.at("put away", &from)?,
                }
            }
            // What stood on them.
            self.move_away(&doomed)?;
        }
        lease::remove(&doomed)
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
