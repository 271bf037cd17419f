//! Manifests, indexes and descriptors (OCI manifest.md, image-index.md, descriptor.md; Docker's v2 schema 2).
//! A [`Document`] is one of them read from bytes, and never both.

use std::collections::BTreeMap;

use rbuild_cache::Digest;
use serde::{Deserialize, Serialize};

use crate::attestation::REFERENCE_TYPE;
use crate::config::ImageConfig;
use crate::platform::Platform;
use crate::{Error, Result};

// Media types of what an image is made of, in OCI's family and in Docker's.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// What a manifest or an index may have, in bytes (the limit of the distribution specification).
pub const DOCUMENT_LIMIT_BYTES: u64 = 4 << 20;
/// What an image config may have, in bytes.
pub const CONFIG_LIMIT_BYTES: u64 = 8 << 20;
/// Indexes above a manifest that are followed; nobody nests more than twice.
pub const INDEX_DEPTH_LIMIT: usize = 8;

/// The annotation that says an image's tag in a layout.
pub const REF_NAME: &str = oci_spec::image::ANNOTATION_REF_NAME;
/// The annotation that says an image's whole name in a layout.
pub const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Points to a blob: its type, digest and size in bytes (OCI descriptor.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<DescriptorPlatform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// Of a blob, without platform and annotations.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            platform: None,
            annotations: None,
            artifact_type: None,
        }
    }

    /// Whether it points to an index, OCI's or Docker's.
    pub fn is_index(&self) -> bool {
        matches!(self.media_type.as_str(), OCI_INDEX | DOCKER_INDEX)
    }

    /// Whether it points to a manifest of one image, OCI's or Docker's.
    pub fn is_manifest(&self) -> bool {
        matches!(self.media_type.as_str(), OCI_MANIFEST | DOCKER_MANIFEST)
    }

    /// The value of an annotation.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(name).map(String::as_str)
    }

    /// Layers that may not be distributed are in no registry.
    pub fn is_foreign(&self) -> bool {
        self.media_type.contains(".nondistributable.") || self.media_type.contains(".foreign.")
    }

    /// BuildKit's provenance and SBOM manifests lie in the same index as the images they speak of.
    pub fn is_attestation(&self) -> bool {
        self.annotation(REFERENCE_TYPE).is_some()
            || self
                .platform
                .as_ref()
                .is_some_and(|platform| platform.os == "unknown")
    }
}

/// For which platform an index says that an image is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescriptorPlatform {
    pub architecture: String,
    pub os: String,
    #[serde(
        rename = "os.version",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub os_version: Option<String>,
    #[serde(
        rename = "os.features",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub os_features: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl DescriptorPlatform {
    /// What a config says.
    pub fn of(config: &ImageConfig) -> Self {
        Self {
            architecture: config.architecture.clone(),
            os: config.os.clone(),
            os_version: config.os_version.clone(),
            os_features: config.os_features.clone(),
            variant: config.variant.clone().filter(|variant| !variant.is_empty()),
        }
    }

    /// As platforms are compared.
    pub fn normalised(&self) -> Platform {
        let variant = self.variant.as_deref().unwrap_or_default();
        Platform::normalised(&self.os, &self.architecture, variant)
    }
}

/// One image: its config and layers, bottom first (OCI manifest.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    pub config: Descriptor,
    #[serde(deserialize_with = "null_as_empty")]
    pub layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// Several images under one name (OCI image-index.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    #[serde(deserialize_with = "null_as_empty")]
    pub manifests: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// A manifest or an index, by what it says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    Manifest(Box<Manifest>),
    Index(Index),
}

impl Document {
    /// Reads a document whose descriptor (or registry) calls it `media_type`. One that could be read in two ways,
    /// or that calls itself something else, is refused.
    pub fn parse(bytes: &[u8], media_type: &str, what: &str) -> Result<Self> {
        let bad = |reason: String| Error::BadDocument {
            document: what.to_owned(),
            reason,
        };
        let keys: Keys = serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
        let as_manifest = keys.config.is_some() || keys.layers.is_some();
        let as_index = keys.manifests.is_some();
        if as_manifest && as_index {
            return Err(bad(
                "it could be read as a manifest and as an index".to_owned()
            ));
        }
        if keys.schema_version != Some(2) {
            return Err(bad("its schema version is not 2".to_owned()));
        }
        if let Some(own) = &keys.media_type
            && own != media_type
        {
            let own = crate::error::shown(own.as_bytes());
            let media_type = crate::error::shown(media_type.as_bytes());
            return Err(bad(format!(
                "it calls itself {own}, its descriptor says {media_type}"
            )));
        }
        let parsed = match media_type {
            OCI_MANIFEST | DOCKER_MANIFEST if as_manifest => {
                serde_json::from_slice(bytes).map(|manifest| Self::Manifest(Box::new(manifest)))
            }
            OCI_INDEX | DOCKER_INDEX if as_index => serde_json::from_slice(bytes).map(Self::Index),
            OCI_MANIFEST | DOCKER_MANIFEST => return Err(bad("it is not a manifest".to_owned())),
            OCI_INDEX | DOCKER_INDEX => return Err(bad("it is not an index".to_owned())),
            other => {
                let other = crate::error::shown(other.as_bytes());
                return Err(bad(format!("`{other}` is not the media type of an image")));
            }
        };
        parsed.map_err(|error| bad(error.to_string()))
    }
}

/// What a manifest or index says that it is; an OCI document that does not say it is known by its keys.
pub(crate) fn own_media_type(bytes: &[u8], what: &str) -> Result<String> {
    let keys: Keys = serde_json::from_slice(bytes).map_err(|error| Error::BadDocument {
        document: what.to_owned(),
        reason: error.to_string(),
    })?;
    let usual = match keys.manifests {
        Some(_) => OCI_INDEX,
        None => OCI_MANIFEST,
    };
    Ok(keys.media_type.unwrap_or_else(|| usual.to_owned()))
}

/// What tells the documents apart; their values are not looked at here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Keys {
    schema_version: Option<u32>,
    media_type: Option<String>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    manifests: Option<serde::de::IgnoredAny>,
}

fn null_as_empty<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(extra: &str) -> String {
        let digest = Digest::of(b"");
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{OCI_CONFIG}","digest":"{digest}","size":2}},"layers":null{extra}}}"#
        )
    }

    #[test]
    fn one_meaning_each() {
        let parse = |text: &str, media_type| Document::parse(text.as_bytes(), media_type, "it");
        assert!(matches!(
            parse(&manifest(""), OCI_MANIFEST),
            Ok(Document::Manifest(_))
        ));
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        assert!(matches!(parse(index, DOCKER_INDEX), Ok(Document::Index(_))));
        for (text, media_type) in [
            (manifest(r#","manifests":[]"#), OCI_MANIFEST),
            (manifest(r#","manifests":[]"#), OCI_INDEX),
            (
                manifest(&format!(r#","mediaType":"{OCI_INDEX}""#)),
                OCI_MANIFEST,
            ),
            (manifest(""), OCI_INDEX),
            (manifest(""), "text/plain"),
            (index.to_owned(), OCI_MANIFEST),
            (index.replace('2', "1"), OCI_INDEX),
            ("[".repeat(100_000), OCI_MANIFEST),
            (String::new(), OCI_MANIFEST),
        ] {
            assert!(parse(&text, media_type).is_err(), "{media_type}");
        }
    }
}
