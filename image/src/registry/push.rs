//! Pushing an image: its blobs, several at once, then its manifests, then the index over them. A registry never has
//! a document before all that it leads to. What is there already, from another push or one that broke off, is not
//! sent again.
//!
//! One blob: `upload`.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use rbuild_cache::{Digest, Store};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Response};

use tokio::sync::Semaphore;

use super::Client;
use super::answer::header;
use super::auth::Access;
use super::transport::{Call, TRIES, failed};
use crate::error::{Error, Result, shown};
use crate::manifest::{DOCUMENT_LIMIT_BYTES, Descriptor, Document, INDEX_DEPTH_LIMIT};
use crate::reference::Reference;
use crate::source::blocking;

/// Blobs that are asked for at once, and those that are sent.
const CONCURRENT_QUESTIONS: usize = 12;
const CONCURRENT_BLOBS: usize = 4;
/// Repositories that one push asks leave to read from. Addresses do not grow without end.
const MOUNT_SOURCES_LIMIT: usize = 8;

/// What registries say of a document where they do not know yet, or not for the moment, what they have.
const DOUBTS: [&str; 3] = ["DIGEST_INVALID", "MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN"];

/// What became of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// The registry has it.
    Exists,
    /// The registry has it in this repository, and took it from there.
    Mounted(String),
    /// So many bytes of it are here, from where it is sent on.
    Fetching(u64),
    /// So many bytes are there; less than before where the registry lost some.
    Sending(u64),
    Sent,
}

/// Called from many threads.
pub type Progress = Arc<dyn Fn(&Descriptor, State) + Send + Sync>;

/// What goes where.
#[derive(Debug, Clone)]
pub struct Push {
    /// A manifest or an index; all that it leads to is in the store.
    pub root: Descriptor,
    pub to: Reference,
    /// Repositories of the same registry that may have a blob.
    pub mounts: HashMap<Digest, Vec<String>>,
    /// Where the blobs are that are not in the store. Those that the registry cannot take from there itself come
    /// through the store.
    pub from: Option<Reference>,
    /// Blobs that [`Client::offer`] found to be there: they need not be in the store.
    pub there: HashSet<Digest>,
}

/// Where to, and with what leave.
pub(super) struct Target<'a> {
    pub(super) reference: &'a Reference,
    pub(super) access: Access,
    pub(super) mounts: HashMap<Digest, Vec<String>>,
    pub(super) from: Option<&'a Reference>,
    /// Held while a blob is sent.
    pub(super) sending: Semaphore,
}

struct Plan {
    /// Each once, those of the first image first.
    blobs: Vec<Descriptor>,
    /// Children first.
    documents: Vec<(Descriptor, Bytes)>,
    /// Blobs may be elsewhere.
    elsewhere: bool,
    /// These are.
    there: HashSet<Digest>,
}

impl Client {
    /// Sends an image. What breaks off is tried again; after an error, the next push sends only the rest.
    pub async fn push(&self, store: &Arc<Store>, push: &Push, progress: &Progress) -> Result<()> {
        if let Some(digest) = push.to.digest
            && digest != push.root.digest
        {
            return Err(Error::BadReference(
                push.to.familiar(),
                format!("the image that is to be pushed is {}", push.root.digest),
            ));
        }
        let plan = {
            let (store, root) = (Arc::clone(store), push.root.clone());
            let (elsewhere, there) = (push.from.is_some(), push.there.clone());
            blocking(move || Plan::of(&store, &root, elsewhere, there)).await?
        };
        let target = Target::of(push, &plan);
        let mut sending = futures_util::stream::iter(&plan.blobs)
            .map(|blob| self.upload(store, &target, blob, progress))
            .buffer_unordered(CONCURRENT_QUESTIONS);
        while let Some(sent) = sending.next().await {
            sent?;
        }
        drop(sending);
        for (descriptor, bytes) in plan.documents {
            let is_root = descriptor.digest == push.root.digest;
            let tag = push.to.tag_or_default().filter(|_| is_root);
            let name = tag.map_or_else(|| descriptor.digest.to_string(), str::to_owned);
            self.put_document(&target, &descriptor, bytes, &name)
                .await?;
        }
        Ok(())
    }

    /// Sends one blob, unless it is there or can be mounted. Returns whether bytes went.
    pub(crate) async fn send_blob(
        &self,
        store: &Arc<Store>,
        to: &Reference,
        blob: &Descriptor,
        mounts: &[String],
        progress: &Progress,
    ) -> Result<bool> {
        let target = Target::of_blob(to, blob, mounts);
        self.upload(store, &target, blob, progress).await
    }

    /// Whether a repository has a blob, or took it from one of `mounts`, repositories of the same registry: then its
    /// bytes are not needed here.
    pub async fn offer(
        &self,
        to: &Reference,
        blob: &Descriptor,
        mounts: &[String],
    ) -> Result<bool> {
        let target = Target::of_blob(to, blob, mounts);
        self.has_or_mounts(&target, blob).await
    }

    /// Puts a document whose blobs are there under a tag.
    pub async fn put_manifest(
        &self,
        to: &Reference,
        descriptor: &Descriptor,
        bytes: Bytes,
    ) -> Result<()> {
        let target = Target {
            reference: to,
            access: Access::Push { from: Vec::new() },
            mounts: HashMap::new(),
            from: None,
            sending: Semaphore::new(CONCURRENT_BLOBS),
        };
        let tag = to.tag_or_default();
        let name = tag.map_or_else(|| descriptor.digest.to_string(), str::to_owned);
        self.put_document(&target, descriptor, bytes, &name).await
    }

    async fn put_document(
        &self,
        target: &Target<'_>,
        descriptor: &Descriptor,
        bytes: Bytes,
        name: &str,
    ) -> Result<()> {
        let actual = Digest::of(&bytes);
        if actual != descriptor.digest {
            return Err(rbuild_cache::Error::DigestMismatch {
                expected: descriptor.digest,
                actual,
            }
            .into());
        }
        let path = format!("manifests/{name}");
        let mut headers = HeaderMap::new();
        headers.extend(
            HeaderValue::from_str(&descriptor.media_type)
                .ok()
                .map(|value| (CONTENT_TYPE, value)),
        );
        let call = Call {
            method: Method::PUT,
            reference: target.reference,
            access: &target.access,
            url: self.address(target.reference, &path).await?,
            headers,
            body: Some(bytes),
            tries: TRIES,
        };
        let response = self.put_again(&call).await?;
        let theirs = header(&response, "docker-content-digest");
        if let Some(theirs) = theirs
            && theirs.parse::<Digest>().ok() != Some(descriptor.digest)
        {
            let theirs = shown(theirs.as_bytes());
            let reason = format!("it took {} for {theirs}", descriptor.digest);
            return Err(failed(&call.url, reason));
        }
        Ok(())
    }

    /// Puts a document, again where the registry doubts what has been verified: its blobs are there, and its bytes have
    /// the digest that they are said to have. The `distribution` registry on a file system (before version 3) writes
    /// over a blob's link in place when somebody else brings the same blob, and answers `DIGEST_INVALID` to a document
    /// that it checks in that moment. Registries that keep their blobs in several places know of one a little later.
    async fn put_again(&self, call: &Call<'_>) -> Result<Response> {
        let mut tries = 0;
        loop {
            let failure = match self.send(call).await {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            tries += 1;
            if !DOUBTS.contains(&&*failure.code) || tries >= TRIES {
                return Err(failure.error);
            }
            tracing::debug!(error = %failure.error, tries, "putting a document again");
            failure.pause(tries).await;
        }
    }
}

impl<'a> Target<'a> {
    fn of_blob(to: &'a Reference, blob: &Descriptor, mounts: &[String]) -> Self {
        let from: Vec<String> = mounts
            .iter()
            .filter(|repository| **repository != to.repository)
            .take(MOUNT_SOURCES_LIMIT)
            .cloned()
            .collect();
        Self {
            reference: to,
            access: Access::Push { from: from.clone() },
            mounts: HashMap::from([(blob.digest, from)]),
            from: None,
            sending: Semaphore::new(CONCURRENT_BLOBS),
        }
    }

    fn of(push: &'a Push, plan: &Plan) -> Self {
        let own = &push.to.repository;
        let mut from = BTreeSet::new();
        let mut mounts: HashMap<Digest, Vec<String>> = HashMap::new();
        for blob in &plan.blobs {
            let source = push.from.as_ref();
            let source = source.filter(|source| source.registry == push.to.registry);
            let source = source.map(|source| &source.repository);
            let known = push.mounts.get(&blob.digest).into_iter().flatten();
            for repository in source
                .into_iter()
                .chain(known)
                .filter(|repository| *repository != own)
            {
                if from.len() < MOUNT_SOURCES_LIMIT || from.contains(repository) {
                    from.insert(repository.clone());
                    mounts
                        .entry(blob.digest)
                        .or_default()
                        .push(repository.clone());
                }
            }
        }
        Self {
            reference: &push.to,
            access: Access::Push {
                from: from.into_iter().collect(),
            },
            mounts,
            from: push.from.as_ref(),
            sending: Semaphore::new(CONCURRENT_BLOBS),
        }
    }
}

impl Plan {
    fn of(
        store: &Store,
        root: &Descriptor,
        elsewhere: bool,
        there: HashSet<Digest>,
    ) -> Result<Self> {
        let mut plan = Self {
            blobs: Vec::new(),
            documents: Vec::new(),
            elsewhere,
            there,
        };
        plan.add(store, root, &mut HashSet::new(), 0)?;
        Ok(plan)
    }

    fn add(
        &mut self,
        store: &Store,
        descriptor: &Descriptor,
        seen: &mut HashSet<Digest>,
        depth: usize,
    ) -> Result<()> {
        if !seen.insert(descriptor.digest) {
            return Ok(());
        }
        let bytes = store.read_blob(&descriptor.digest, DOCUMENT_LIMIT_BYTES)?;
        let name = descriptor.digest.to_string();
        match Document::parse(&bytes, &descriptor.media_type, &name)? {
            Document::Index(index) => {
                if depth >= INDEX_DEPTH_LIMIT {
                    return Err(Error::BadDocument {
                        document: name,
                        reason: "indexes are nested too deep".to_owned(),
                    });
                }
                for child in &index.manifests {
                    self.add(store, child, seen, depth + 1)?;
                }
            }
            Document::Manifest(manifest) => {
                for blob in manifest.layers.iter().chain([&manifest.config]) {
                    if seen.insert(blob.digest) {
                        self.add_blob(store, blob)?;
                    }
                }
            }
        }
        self.documents.push((descriptor.clone(), bytes.into()));
        Ok(())
    }

    fn add_blob(&mut self, store: &Store, blob: &Descriptor) -> Result<()> {
        let size = match store.blob_size(&blob.digest) {
            Ok(size) => size,
            // Layers that may not be distributed are not in the store, and in no registry.
            Err(_) if blob.is_foreign() => return Ok(()),
            Err(_) if self.elsewhere || self.there.contains(&blob.digest) => blob.size,
            Err(error) => return Err(error.into()),
        };
        if size != blob.size {
            return Err(rbuild_cache::Error::SizeMismatch {
                digest: blob.digest,
                expected: blob.size,
                actual: size,
            }
            .into());
        }
        self.blobs.push(blob.clone());
        Ok(())
    }
}
