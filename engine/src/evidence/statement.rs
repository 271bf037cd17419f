//! in-toto statements (in-toto attestation framework, statement v1): a predicate about subjects.

use std::collections::BTreeMap;

use rbuild_cache::Digest;
use rbuild_image::{Platform, Reference};
use serde::Serialize;

use super::purl;
use crate::{Error, Result};

pub(super) const PROVENANCE: &str = "https://slsa.dev/provenance/v1";
pub(super) const SPDX: &str = "https://spdx.dev/Document";
const STATEMENT: &str = "https://in-toto.io/Statement/v1";

/// What images without a name are called.
const UNNAMED: &str = "_";

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Statement<'a, P> {
    #[serde(rename = "_type")]
    kind: &'static str,
    subject: &'a [Subject],
    predicate_type: &'a str,
    predicate: &'a P,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Subject {
    name: String,
    digest: BTreeMap<&'static str, String>,
}

impl Subject {
    pub(super) fn new(name: String, digest: &Digest) -> Self {
        let digest = BTreeMap::from([("sha256", digest.hex())]);
        Self { name, digest }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

/// The image under each of its names.
pub(super) fn image_subjects(
    names: &[&Reference],
    platform: &Platform,
    manifest: &Digest,
) -> Vec<Subject> {
    let digest = BTreeMap::from([("sha256", manifest.hex())]);
    if names.is_empty() {
        let name = UNNAMED.to_owned();
        return vec![Subject { name, digest }];
    }
    let named = names.iter().map(|name| Subject {
        name: purl::image(name, Some(platform)),
        digest: digest.clone(),
    });
    named.collect()
}

pub(super) fn encode(
    predicate_type: &str,
    subject: &[Subject],
    predicate: &impl Serialize,
) -> Result<Vec<u8>> {
    let statement = Statement {
        kind: STATEMENT,
        subject,
        predicate_type,
        predicate,
    };
    serde_json::to_vec(&statement)
        .map_err(|error| Error::Other(format!("cannot write a statement: {error}")))
}
