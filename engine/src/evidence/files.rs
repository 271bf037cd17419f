//! Statements about files that are no image: `provenance.json` and `sbom.spdx.json` beside what `type=local` and
//! `type=tar` write.

use std::io::Read as _;

use rayon::prelude::*;
use rbuild_cache::tree::{Entry, Kind};
use rbuild_cache::{Digest, Store};
use rbuild_image::layer::View;
use sha2::Digest as _;

use super::statement::{self, Subject};
use super::{Evidence, sbom};
use crate::assemble::Solved;
use crate::{Error, Result};

impl Evidence<'_> {
    /// What is said of one platform's files: names and contents of the files that say it. `infix` tells platforms apart
    /// that share a directory. Blocking.
    pub(crate) fn of_files(
        &self,
        store: &Store,
        solved: &Solved<'_>,
        infix: &str,
    ) -> Result<Vec<(String, Vec<u8>)>> {
        let wanted = &self.request.attestations;
        let provenance = wanted.provenance.as_ref().filter(|it| !it.inline_only);
        if provenance.is_none() && !wanted.sbom {
            return Ok(Vec::new());
        }
        let mut files = Vec::new();
        let subjects = subjects(store, solved)?;
        if let Some(provenance) = provenance {
            let predicate = self.provenance(provenance, solved, &[]);
            let bytes = statement::encode(statement::PROVENANCE, &subjects, &predicate)?;
            files.push((format!("provenance{infix}.json"), bytes));
        }
        if wanted.sbom {
            let found = self.packages(store, solved.layers.last().map(|top| &top.id))?;
            let names: Vec<&str> = subjects.iter().map(Subject::name).collect();
            let described = sbom::Described {
                name: "files",
                manifest: None,
                identity: &Digest::of(names.join("\n").as_bytes()),
                created: &self.created(solved.image.epoch),
            };
            let predicate = sbom::document(&described, &found);
            let bytes = statement::encode(statement::SPDX, &subjects, &predicate)?;
            files.push((format!("sbom{infix}.spdx.json"), bytes));
            for (scan, root) in solved.image.scans.iter().zip(solved.scanned) {
                let found = self.packages(store, root.as_ref().map(|root| &root.id))?;
                let described = sbom::Described {
                    name: &scan.name,
                    identity: &super::scan_identity(described.identity, &scan.name),
                    ..described
                };
                let predicate = sbom::document(&described, &found);
                let bytes = statement::encode(statement::SPDX, &subjects, &predicate)?;
                files.push((format!("sbom-{}{infix}.spdx.json", scan.name), bytes));
            }
        }
        refuse_names(store, solved, &files)?;
        Ok(files)
    }
}

/// All regular files, by their paths and digests.
fn subjects(store: &Store, solved: &Solved<'_>) -> Result<Vec<Subject>> {
    let Some(top) = solved.layers.last() else {
        return Ok(Vec::new());
    };
    let view = View::open(store, &top.id)?;
    let tree = store.merged_tree(&top.id)?;
    let files: Vec<&Entry> = tree
        .entries
        .iter()
        .filter(|it| it.kind == Kind::File)
        .collect();
    files
        .par_iter()
        .map(|entry| {
            let name = String::from_utf8_lossy(&entry.path).into_owned();
            Ok(Subject::new(name, &hash(&view, entry)?))
        })
        .collect()
}

fn hash(view: &View, entry: &Entry) -> Result<Digest> {
    let mut file = view.open_file(entry)?;
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        let count = file.read(&mut buffer).map_err(|source| Error::Io {
            message: format!("cannot read `{}`", crate::compare::shown(&entry.path)),
            source,
        })?;
        match buffer.get(..count) {
            Some(bytes) if count > 0 => hasher.update(bytes),
            _ => return Ok(Digest::from_bytes(hasher.finalize().into())),
        }
    }
}

/// Fails where the result has a file in the place of one that is said of it.
fn refuse_names(store: &Store, solved: &Solved<'_>, files: &[(String, Vec<u8>)]) -> Result<()> {
    let Some(top) = solved.layers.last() else {
        return Ok(());
    };
    let tree = store.merged_tree(&top.id)?;
    match files
        .iter()
        .find(|(name, _)| tree.get(name.as_bytes()).is_some())
    {
        Some((name, _)) => Err(Error::Other(format!(
            "the result has a file `/{name}`, where the attestation would be written: rename it"
        ))),
        None => Ok(()),
    }
}
