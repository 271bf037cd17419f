//! Goes through a result's files once, in their order, and reads those that tell of packages.

use std::fs::File;
use std::io::Read as _;

use rayon::prelude::*;
use rbuild_cache::tree::{Entry, Kind};
use rbuild_cache::{SnapshotId, Store};
use rbuild_image::layer::View;

use super::elf::Elf;
use super::{Distribution, Found, Package};
use super::{alpine, debian, go, node, python, rpm, rust};
use crate::Result;

const MIB: u64 = 1 << 20;
/// Of a whole database of packages.
const DATABASE_BYTES_MAX: u64 = 512 * MIB;
/// Of a lock file.
const LOCK_BYTES_MAX: u64 = 64 * MIB;
/// Of what describes one package.
const METADATA_BYTES_MAX: u64 = 4 * MIB;
/// Of a section of a program.
const SECTION_BYTES_MAX: u64 = 16 * MIB;
/// Of all that is found; more is no image.
const PACKAGES_MAX: usize = 500_000;
/// A program is at least this long.
const PROGRAM_BYTES_MIN: u64 = 64;

/// What a path tells of packages.
enum Source {
    Debian,
    DebianOne,
    Alpine,
    Rpm,
    Python,
    Node,
    NodeLock,
    CargoLock,
    Program,
}

/// Lists the packages of the root that ends at `top`.
pub(in crate::evidence) fn scan(store: &Store, top: Option<&SnapshotId>) -> Result<Found> {
    let mut found = Found::default();
    let Some(top) = top else {
        return Ok(found);
    };
    let view = View::open(store, top)?;
    let tree = store.merged_tree(top)?;
    let root = Root { view: &view };
    let distribution = ["etc/os-release", "usr/lib/os-release"]
        .iter()
        .find_map(|path| {
            let entry = tree.get(path.as_bytes())?;
            root.text(entry, METADATA_BYTES_MAX).ok()
        })
        .map(|text| Distribution::read(&text))
        .unwrap_or_default();
    let interesting = tree.entries.iter().filter_map(|entry| {
        let path = std::str::from_utf8(&entry.path).ok()?;
        Some((entry, path, source_of(entry, path)?))
    });
    let interesting: Vec<(&Entry, &str, Source)> = interesting.collect();
    // Programs are many, and nearly all of them tell nothing.
    let read: Vec<Result<Vec<Package>, String>> = interesting
        .par_iter()
        .map(|(entry, path, source)| root.packages(entry, path, source, &distribution))
        .collect();
    for ((_, path, _), packages) in interesting.iter().zip(read) {
        match packages {
            Ok(packages) => found.add(path, packages),
            Err(reason) => found.note(path, reason),
        }
        if found.packages.len() > PACKAGES_MAX {
            found.note("what comes after it", "there are too many packages");
            break;
        }
    }
    for (_, path, source) in &interesting {
        let log = [path.as_bytes(), b"-wal"].concat();
        if matches!(source, Source::Rpm) && tree.get(&log).is_some_and(|log| log.size > 0) {
            found.note(
                &format!("{path}-wal"),
                "changes that are not yet in the database",
            );
        }
    }
    for (package, _) in found.packages.values_mut() {
        if package.purl.starts_with("pkg:deb/") {
            let path = format!("usr/share/doc/{}/copyright", package.name);
            let copyright = tree.get(path.as_bytes());
            let text = copyright.and_then(|entry| root.text(entry, METADATA_BYTES_MAX).ok());
            package.license = text.map(|text| debian::licenses(&text)).unwrap_or_default();
        }
    }
    Ok(found)
}

fn source_of(entry: &Entry, path: &str) -> Option<Source> {
    if entry.kind != Kind::File {
        return None;
    }
    if path == "var/lib/dpkg/status" {
        return Some(Source::Debian);
    }
    if let Some(name) = path.strip_prefix("var/lib/dpkg/status.d/") {
        return (!name.ends_with(".md5sums")).then_some(Source::DebianOne);
    }
    if matches!(path, "lib/apk/db/installed" | "usr/lib/apk/db/installed") {
        return Some(Source::Alpine);
    }
    if rpm::is_database(path) {
        return Some(Source::Rpm);
    }
    if python::is_metadata(path) {
        return Some(Source::Python);
    }
    if node::is_installed(path) {
        return Some(Source::Node);
    }
    if node::is_lock(path) {
        return Some(Source::NodeLock);
    }
    if path == rust::LOCK || path.ends_with("/Cargo.lock") {
        return Some(Source::CargoLock);
    }
    let is_program = entry.mode & 0o111 != 0 || path.contains(".so");
    (is_program && entry.size >= PROGRAM_BYTES_MIN).then_some(Source::Program)
}

/// Reads files of the merged view.
struct Root<'a> {
    view: &'a View,
}

impl Root<'_> {
    fn packages(
        &self,
        entry: &Entry,
        path: &str,
        source: &Source,
        distribution: &Distribution,
    ) -> Result<Vec<Package>, String> {
        let text = |limit| self.text(entry, limit);
        let bytes = |limit| self.bytes(entry, limit);
        Ok(match source {
            Source::Debian => debian::packages(&text(DATABASE_BYTES_MAX)?, distribution),
            Source::DebianOne => debian::packages(&text(METADATA_BYTES_MAX)?, distribution),
            Source::Alpine => alpine::packages(&text(DATABASE_BYTES_MAX)?, distribution),
            Source::Rpm => rpm::packages(path, &bytes(DATABASE_BYTES_MAX)?, distribution)?,
            Source::Python => python::package(&text(METADATA_BYTES_MAX)?)
                .into_iter()
                .collect(),
            Source::Node => node::installed(&bytes(METADATA_BYTES_MAX)?)
                .into_iter()
                .collect(),
            Source::NodeLock => {
                node::locked(&bytes(LOCK_BYTES_MAX)?).map_err(|error| error.to_string())?
            }
            Source::CargoLock => rust::locked(&text(LOCK_BYTES_MAX)?)?,
            Source::Program => self.program(entry)?,
        })
    }

    fn program(&self, entry: &Entry) -> Result<Vec<Package>, String> {
        let file = self.open(entry)?;
        let Some(elf) = Elf::open(&file) else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        if let Some(section) = elf.section(&file, go::SECTION, SECTION_BYTES_MAX) {
            found.extend(go::packages(&section)?);
        }
        if let Some(section) = elf.section(&file, rust::SECTION, SECTION_BYTES_MAX) {
            found.extend(rust::compiled(&section)?);
        }
        Ok(found)
    }

    fn open(&self, entry: &Entry) -> Result<File, String> {
        self.view
            .open_file(entry)
            .map_err(|error| error.to_string())
    }

    fn bytes(&self, entry: &Entry, limit: u64) -> Result<Vec<u8>, String> {
        if entry.size > limit {
            return Err(format!("it has more than {} MiB", limit / MIB));
        }
        let mut bytes = Vec::new();
        let file = self.open(entry)?;
        file.take(limit)
            .read_to_end(&mut bytes)
            .map_err(|error| error.to_string())?;
        Ok(bytes)
    }

    /// Where it is no UTF-8, it was Latin-1 that nobody needs here.
    fn text(&self, entry: &Entry, limit: u64) -> Result<String, String> {
        let bytes = self.bytes(entry, limit)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}
