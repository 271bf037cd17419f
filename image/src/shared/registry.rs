//! A cache under a tag of a registry's repository. Mirrors are never asked: what they know of a tag is old.

use std::fmt;
use std::sync::Arc;

use rbuild_cache::{Digest, Store};

use crate::manifest::Descriptor;
use crate::reference::Reference;
use crate::registry::{Client, push};
use crate::source::Progress;
use crate::{Error, Result};

/// More than will write within the time that one write takes.
const NOTES: usize = 8;

/// A tag of a registry that stands for a cache.
#[derive(Debug, Clone)]
pub struct Repository {
    client: Client,
    reference: Reference,
}

impl Repository {
    /// Nothing is asked before it is used.
    pub fn new(client: Client, reference: Reference) -> Self {
        Self { client, reference }
    }

    /// The name of the cache.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    pub(super) async fn document(&self) -> Result<Option<(Descriptor, Vec<u8>)>> {
        match self.client.own_manifest(&self.reference).await {
            Ok(found) => Ok(Some(found)),
            Err(Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Tags beside the cache's own, where writers note what they are about to add.
    fn note_at(&self, number: usize) -> Reference {
        let tag = self.reference.tag_or_default().unwrap_or("latest");
        // No longer than tags may be.
        let tag: String = tag.chars().take(120).collect();
        Reference {
            tag: Some(format!("{tag}-note{number}")),
            digest: None,
            ..self.reference.clone()
        }
    }

    /// Notes what a writer is about to add.
    pub(super) async fn note(
        &self,
        ours: &Digest,
        descriptor: &Descriptor,
        bytes: Vec<u8>,
    ) -> Result<()> {
        let [first, ..] = ours.as_bytes();
        let at = self.note_at(usize::from(*first) % NOTES);
        let put = self.client.put_manifest(&at, descriptor, bytes.into());
        put.await
    }

    /// The last notes of other writers, as far as they can be read.
    pub(super) async fn notes(&self) -> Vec<(Descriptor, Vec<u8>)> {
        let read = (0..NOTES).map(|number| async move {
            let at = self.note_at(number);
            self.client.own_manifest(&at).await.ok()
        });
        let read = futures_util::future::join_all(read).await;
        read.into_iter().flatten().collect()
    }

    pub(super) async fn small(&self, blob: &Descriptor, limit: u64) -> Result<Vec<u8>> {
        self.client
            .own_document(&self.reference, blob, limit)
            .await
            .map_err(|error| self.missing(blob, error))
    }

    pub(super) async fn bring(
        &self,
        store: &Arc<Store>,
        blob: &Descriptor,
        progress: &Progress,
    ) -> Result<()> {
        self.client
            .own_blob(store, &self.reference, blob, progress)
            .await
            .map_err(|error| self.missing(blob, error))
    }

    /// A registry says of a blob that it has no such image.
    fn missing(&self, blob: &Descriptor, error: Error) -> Error {
        match error {
            Error::NotFound(_) => Error::BadDocument {
                document: format!("the cache {self}"),
                reason: format!("its blob {} is gone", blob.digest),
            },
            other => other,
        }
    }

    pub(super) async fn send(
        &self,
        store: &Arc<Store>,
        blob: &Descriptor,
        mounts: &[String],
        progress: &Progress,
    ) -> Result<bool> {
        let progress = Arc::clone(progress);
        let told: push::Progress = Arc::new(move |blob, state| {
            let done = match state {
                push::State::Fetching(done) | push::State::Sending(done) => done,
                push::State::Exists | push::State::Mounted(_) | push::State::Sent => blob.size,
            };
            progress(&blob.digest.to_string(), done, blob.size);
        });
        self.client
            .send_blob(store, &self.reference, blob, mounts, &told)
            .await
    }

    pub(super) async fn put(&self, descriptor: &Descriptor, bytes: Vec<u8>) -> Result<()> {
        self.client
            .put_manifest(&self.reference, descriptor, bytes.into())
            .await
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reference.familiar())
    }
}
