//! A cache under a tag of an OCI layout directory. Writers take turns by a lock on the directory itself.

use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbuild_cache::whole::WholeFile;
use rbuild_cache::{Digest, Store};

use crate::archive::Layout;
use crate::export;
use crate::manifest::{DOCUMENT_LIMIT_BYTES, Descriptor, REF_NAME};
use crate::source::{Progress, blocking};
use crate::{Error, Result};

/// A tag of a layout directory that stands for a cache.
#[derive(Debug, Clone)]
pub struct Directory {
    path: PathBuf,
    tag: String,
    /// What is read, whatever the tag means.
    digest: Option<Digest>,
}

/// Held while the document is read and replaced.
#[derive(Debug)]
pub(super) struct Turn {
    _directory: File,
}

impl Directory {
    /// The tag is `latest` where none is given. With `digest`, that is what is read.
    pub fn new(path: PathBuf, tag: Option<String>, digest: Option<Digest>) -> Self {
        Self {
            path,
            tag: tag.unwrap_or_else(|| "latest".to_owned()),
            digest,
        }
    }

    /// The layout's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) async fn lock(&self) -> Result<Turn> {
        let path = self.path.clone();
        blocking(move || {
            let failed = |source| Error::Io {
                action: "lock the directory of the cache",
                path: path.display().to_string(),
                source,
            };
            std::fs::create_dir_all(&path).map_err(failed)?;
            let directory = export::lock(&path).map_err(failed)?;
            Ok(Turn {
                _directory: directory,
            })
        })
        .await
    }

    pub(super) async fn document(&self) -> Result<Option<(Descriptor, Vec<u8>)>> {
        let this = self.clone();
        blocking(move || {
            if !this.path.join("index.json").exists() {
                return Ok(None);
            }
            let layout = Layout::open_directory(&this.path)?;
            let tag = this.digest.is_none().then_some(this.tag.as_str());
            let descriptor = match layout.pick(tag, this.digest.as_ref()) {
                Ok(descriptor) => descriptor,
                Err(Error::NotInLayout { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            let bytes = layout.small_blob(&descriptor, DOCUMENT_LIMIT_BYTES)?;
            let actual = Digest::of(&bytes);
            if actual != descriptor.digest {
                let reason = format!("its digest is {actual}");
                return Err(super::bad(&descriptor, reason));
            }
            Ok(Some((descriptor, bytes)))
        })
        .await
    }

    pub(super) async fn small(&self, blob: &Descriptor, limit: u64) -> Result<Vec<u8>> {
        let (this, blob) = (self.clone(), blob.clone());
        blocking(move || {
            let layout = Layout::open_directory(&this.path)?;
            layout
                .small_blob(&blob, limit)
                .map_err(|error| this.missing(&blob, error))
        })
        .await
    }

    pub(super) async fn bring(
        &self,
        store: &Arc<Store>,
        blob: &Descriptor,
        progress: &Progress,
    ) -> Result<()> {
        let (this, blob) = (self.clone(), blob.clone());
        let (store, progress) = (Arc::clone(store), Arc::clone(progress));
        blocking(move || {
            if store.has_blob(&blob.digest) {
                return Ok(());
            }
            let layout = Layout::open_directory(&this.path)?;
            let (mut reader, _) = layout
                .blob(&blob.digest)
                .map_err(|error| this.missing(&blob, error))?;
            let mut ingest = store.ingest_expected(&blob.digest)?;
            ingest.write_from(&mut reader, blob.size)?;
            ingest.commit(Some(&blob.digest), Some(blob.size))?;
            progress(&blob.digest.to_string(), blob.size, blob.size);
            Ok(())
        })
        .await
    }

    fn missing(&self, blob: &Descriptor, error: Error) -> Error {
        match error {
            Error::NotFound(_) => Error::BadDocument {
                document: format!("the cache {self}"),
                reason: format!("its blob {} is gone", blob.digest),
            },
            other => other,
        }
    }

    pub(super) async fn has(&self, blob: &Descriptor) -> Result<bool> {
        let (path, size) = (self.blob_path(&blob.digest), blob.size);
        blocking(move || {
            let there = std::fs::symlink_metadata(path);
            Ok(there.is_ok_and(|metadata| metadata.is_file() && metadata.len() == size))
        })
        .await
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path.join("blobs/sha256").join(digest.hex())
    }

    pub(super) async fn send(
        &self,
        store: &Arc<Store>,
        blob: &Descriptor,
        progress: &Progress,
    ) -> Result<bool> {
        if self.has(blob).await? {
            return Ok(false);
        }
        let (path, store, blob) = (self.path.clone(), Arc::clone(store), blob.clone());
        let progress = Arc::clone(progress);
        blocking(move || {
            export::copy_blob(&store, &blob.digest, &path)?;
            progress(&blob.digest.to_string(), blob.size, blob.size);
            Ok(true)
        })
        .await
    }

    /// Puts a document under the tag. The one that it replaces goes, unless another tag names it.
    pub(super) async fn put(
        &self,
        descriptor: &Descriptor,
        bytes: Vec<u8>,
        before: Option<Digest>,
    ) -> Result<()> {
        let (this, descriptor) = (self.clone(), descriptor.clone());
        blocking(move || {
            let failed = |source| Error::Io {
                action: "write to the cache",
                path: this.path.display().to_string(),
                source,
            };
            let place = this.blob_path(&descriptor.digest);
            let parent = this.path.join("blobs/sha256");
            std::fs::create_dir_all(&parent).map_err(failed)?;
            let mut file = WholeFile::at(&place, 0o666).map_err(failed)?;
            file.write_all(&bytes).map_err(failed)?;
            file.finish().map_err(failed)?;
            let annotations = [(REF_NAME.to_owned(), this.tag.clone())];
            let named = Descriptor {
                annotations: Some(annotations.into()),
                ..descriptor.clone()
            };
            export::add_names(&this.path, vec![named])?;
            if let Some(before) = before.filter(|before| *before != descriptor.digest)
                && !export::is_named(&this.path, &before)?
            {
                // A reader that is about to open it looks again.
                let _ = std::fs::remove_file(this.blob_path(&before));
            }
            Ok(())
        })
        .await
    }
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = crate::error::shown(self.path.as_os_str().as_encoded_bytes());
        match self.digest {
            Some(digest) => write!(f, "{path}@{digest}"),
            None => write!(f, "{path}:{}", crate::error::shown(self.tag.as_bytes())),
        }
    }
}
