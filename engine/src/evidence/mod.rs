//! What is said of a result, beside it: how it was made (SLSA provenance) and what is in it (an SPDX document), as
//! in-toto statements in the image's index, where and as BuildKit puts them. Nothing is said unless it is asked for.
//!
//! * [`capture`]: what a build notes for this; [`materials`]: what it was made from; [`definition`]: its steps;
//!   [`provenance`]: the predicate of all that; [`sbom`]: the packages in it;
//! * [`statement`]: predicates about subjects; [`files`]: statements about files that are no image;
//! * [`scrub`]: keeps credentials out; [`purl`]: names of packages and images.
//!
//! Where SOURCE_DATE_EPOCH holds, statements are a function of the build's inputs: their times are that, and they
//! have no number of their own.

mod capture;
mod definition;
mod files;
mod materials;
mod provenance;
mod purl;
mod sbom;
mod scrub;
mod statement;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rbuild_cache::snapshot::LayerBlob;
use rbuild_cache::{Digest, SnapshotId, Store};
use rbuild_image::attestation::{self, Attached, Attestation};
use rbuild_image::{Descriptor, Reference};

use crate::Result;
use crate::assemble::Solved;
use crate::request::{BuildRequest, Output};

pub(crate) use capture::{Capture, Pin, Pins};

/// Tells the lists about one image apart.
fn scan_identity(manifest: &Digest, name: &str) -> Digest {
    Digest::of(format!("{manifest}\n{name}").as_bytes())
}

/// Says what was asked to be said of the images of one build.
pub(crate) struct Evidence<'a> {
    request: &'a BuildRequest,
    capture: &'a Capture,
    /// All names that the image gets.
    names: Vec<&'a Reference>,
    scrub: scrub::Scrub,
    invocation: String,
    finished: OnceLock<i64>,
    scanned: Mutex<HashMap<Option<SnapshotId>, Arc<sbom::Found>>>,
}

impl<'a> Evidence<'a> {
    /// `None` where nothing is to be said.
    pub(crate) fn new(
        request: &'a BuildRequest,
        outputs: &'a [Output],
        capture: &'a Capture,
    ) -> Option<Self> {
        if !request.attestations.is_any() {
            return None;
        }
        let mut names: Vec<&Reference> = Vec::new();
        let of_outputs = outputs.iter().flat_map(|output| &output.names);
        for name in request.tags.iter().chain(of_outputs) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Some(Self {
            request,
            capture,
            names,
            scrub: scrub::Scrub::new(request),
            invocation: capture::random_id(),
            finished: OnceLock::new(),
            scanned: Mutex::default(),
        })
    }

    /// Writes the statements about one platform's image. Blocking.
    pub(crate) fn attach(
        &self,
        store: &Store,
        solved: &Solved<'_>,
        manifest: &Descriptor,
        layers: &[LayerBlob],
    ) -> Result<Attached> {
        let platform = &solved.image.platform;
        let subjects = statement::image_subjects(&self.names, platform, &manifest.digest);
        let mut attestations = Vec::new();
        if let Some(wanted) = &self.request.attestations.provenance {
            let predicate = self.provenance(wanted, solved, layers);
            attestations.push(Attestation {
                predicate_type: statement::PROVENANCE.to_owned(),
                statement: statement::encode(statement::PROVENANCE, &subjects, &predicate)?,
            });
        }
        if self.request.attestations.sbom {
            let top = solved.layers.last().map(|top| &top.id);
            let found = self.packages(store, top)?;
            let created = self.created(solved.image.epoch);
            let mut list = |described: &sbom::Described<'_>, found: &sbom::Found| -> Result<()> {
                let predicate = sbom::document(described, found);
                attestations.push(Attestation {
                    predicate_type: statement::SPDX.to_owned(),
                    statement: statement::encode(statement::SPDX, &subjects, &predicate)?,
                });
                Ok(())
            };
            let described = sbom::Described {
                name: subjects.first().map_or("_", statement::Subject::name),
                manifest: Some(&manifest.digest),
                identity: &manifest.digest,
                created: &created,
            };
            list(&described, &found)?;
            for (scan, root) in solved.image.scans.iter().zip(solved.scanned) {
                let found = self.packages(store, root.as_ref().map(|root| &root.id))?;
                let described = sbom::Described {
                    name: &scan.name,
                    manifest: None,
                    identity: &scan_identity(&manifest.digest, &scan.name),
                    created: &created,
                };
                list(&described, &found)?;
            }
        }
        Ok(attestation::write(store, manifest, &attestations)?)
    }

    /// What is in a root; looked for once, however many forms of it are made.
    fn packages(&self, store: &Store, top: Option<&SnapshotId>) -> Result<Arc<sbom::Found>> {
        let mut scanned = self.scanned.lock().unwrap_or_else(PoisonError::into_inner);
        let key = top.cloned();
        if let Some(known) = scanned.get(&key) {
            return Ok(Arc::clone(known));
        }
        let found = Arc::new(sbom::scan(store, top)?);
        scanned.insert(key, Arc::clone(&found));
        Ok(found)
    }

    /// RFC 3339.
    fn created(&self, epoch: Option<i64>) -> String {
        let now = self.finished();
        let seconds = epoch.map_or(now, |epoch| now.min(epoch));
        provenance::time(seconds).unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned())
    }

    fn finished(&self) -> i64 {
        *self.finished.get_or_init(crate::worker::now)
    }
}
