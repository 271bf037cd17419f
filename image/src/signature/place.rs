//! Where something that is signed lies, and its signatures beside it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use rbuild_cache::{Digest, Store};

use crate::archive::Layout;
use crate::export;
use crate::manifest::{DOCUMENT_LIMIT_BYTES, Descriptor, Document, Manifest, REF_NAME};
use crate::reference::Reference;
use crate::registry::Client;
use crate::source::blocking;
use crate::{Error, Result};

/// An image, or an index over several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Registry(Reference),
    /// The directory of an OCI layout.
    Layout {
        path: PathBuf,
        tag: Option<String>,
        digest: Option<Digest>,
    },
}

impl Place {
    /// What the signature is to say that it is of.
    pub(super) fn identity(&self) -> String {
        match self {
            Self::Registry(reference) => format!("{}/{}", reference.registry, reference.repository),
            Self::Layout { tag, .. } => tag.clone().unwrap_or_default(),
        }
    }

    /// The digest that the name means. What lies there is verified against it.
    pub(super) async fn resolve(&self, client: &Client) -> Result<Digest> {
        match self {
            Self::Registry(reference) => Ok(client.manifest(reference).await?.0.digest),
            Self::Layout { path, tag, digest } => {
                let (path, tag, digest) = (path.clone(), tag.clone(), *digest);
                blocking(move || {
                    let layout = Layout::open_directory(&path)?;
                    let found = layout.pick(tag.as_deref(), digest.as_ref())?;
                    let bytes = layout.small_blob(&found, DOCUMENT_LIMIT_BYTES)?;
                    require(&bytes, &found)?;
                    Ok(found.digest)
                })
                .await
            }
        }
    }

    /// The manifest of the signatures; `None` where there are none.
    pub(super) async fn signatures(
        &self,
        client: &Client,
        signed: &Digest,
    ) -> Result<Option<Manifest>> {
        let (descriptor, bytes) = match self {
            Self::Registry(reference) => {
                match client.own_manifest(&tagged(reference, signed)).await {
                    Ok(found) => found,
                    Err(error) if is_absence(&error) => return Ok(None),
                    Err(error) => return Err(error),
                }
            }
            Self::Layout { path, .. } => {
                let (path, tag) = (path.clone(), tag(signed));
                let found = blocking(move || {
                    let layout = Layout::open_directory(&path)?;
                    let descriptor = match layout.pick(Some(&tag), None) {
                        Ok(descriptor) => descriptor,
                        Err(Error::NotInLayout { .. }) => return Ok(None),
                        Err(error) => return Err(error),
                    };
                    let bytes = layout.small_blob(&descriptor, DOCUMENT_LIMIT_BYTES)?;
                    require(&bytes, &descriptor)?;
                    Ok(Some((descriptor, bytes)))
                });
                match found.await? {
                    Some(found) => found,
                    None => return Ok(None),
                }
            }
        };
        let what = tag(signed);
        match Document::parse(&bytes, &descriptor.media_type, &what)? {
            Document::Manifest(manifest) => Ok(Some(*manifest)),
            Document::Index(_) => Err(Error::BadDocument {
                document: what,
                reason: "it is no manifest of signatures".to_owned(),
            }),
        }
    }

    /// A blob whole, verified.
    pub(super) async fn blob(
        &self,
        client: &Client,
        wanted: &Descriptor,
        limit: u64,
    ) -> Result<Vec<u8>> {
        if wanted.size > limit {
            return Err(Error::BadDocument {
                document: wanted.digest.to_string(),
                reason: format!("it has more than {limit} bytes"),
            });
        }
        let bytes = match self {
            Self::Registry(reference) => client.own_document(reference, wanted, limit).await?,
            Self::Layout { path, .. } => {
                let (path, wanted) = (path.clone(), wanted.clone());
                blocking(move || Layout::open_directory(&path)?.small_blob(&wanted, limit)).await?
            }
        };
        require(&bytes, wanted)?;
        Ok(bytes)
    }

    /// Puts the manifest of the signatures, which is in the store with all it leads to, under its tag.
    pub(super) async fn write(
        &self,
        store: &Arc<Store>,
        client: &Client,
        signed: &Digest,
        mut root: Descriptor,
    ) -> Result<()> {
        match self {
            Self::Registry(reference) => {
                let to = tagged(reference, signed);
                let bytes = store.read_blob(&root.digest, DOCUMENT_LIMIT_BYTES)?;
                let what = root.digest.to_string();
                if let Document::Manifest(manifest) =
                    Document::parse(&bytes, &root.media_type, &what)?
                {
                    let quiet: crate::registry::push::Progress = Arc::new(|_, _| {});
                    for blob in manifest.layers.iter().chain([&manifest.config]) {
                        client.send_blob(store, &to, blob, &[], &quiet).await?;
                    }
                }
                client.put_manifest(&to, &root, Bytes::from(bytes)).await
            }
            Self::Layout { path, .. } => {
                root.annotations = Some(BTreeMap::from([(REF_NAME.to_owned(), tag(signed))]));
                let (store, path) = (Arc::clone(store), path.clone());
                blocking(move || export::oci_directory(&store, &root, &[], &path)).await
            }
        }
    }
}

/// `sha256-HEX.sig`
fn tag(signed: &Digest) -> String {
    format!("sha256-{}.sig", signed.hex())
}

fn tagged(reference: &Reference, signed: &Digest) -> Reference {
    Reference {
        tag: Some(tag(signed)),
        digest: None,
        ..reference.clone()
    }
}

fn is_absence(error: &Error) -> bool {
    matches!(error, Error::NotFound(_))
}

fn require(bytes: &[u8], descriptor: &Descriptor) -> Result<()> {
    let actual = Digest::of(bytes);
    if actual == descriptor.digest {
        return Ok(());
    }
    Err(rbuild_cache::Error::DigestMismatch {
        expected: descriptor.digest,
        actual,
    }
    .into())
}
