//! Where a shared build cache lies: a registry, a layout directory, an object store.
//!
//! All of them hold the same: blobs by digest, and under one name a document that lists those that the cache needs.
//!
//! ```text
//! NAME → an OCI manifest       config: CONFIG_TYPE, so that nobody takes it for an image
//!          layers[]            lists of records (RECORDS_TYPE; what is in them only the engine knows), each written
//!                              once by one writer and never changed; and the blobs that they speak of
//! ```
//! Writers add to what is there and take nothing away that others added ([`Place::publish`]), so any number of them
//! may share a name. What comes from here is compared with the digest and size that led to it before it is used.
//!
//! One place each: `registry`, `layout`, [`s3`], [`redis`]. `carried`: records that an image has in its config.

mod carried;
mod layout;
mod objects;
pub mod redis;
mod registry;
pub mod s3;

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rbuild_cache::{Digest, Store};

use crate::manifest::{Descriptor, Document, Manifest, OCI_MANIFEST};
use crate::source::Progress;
use crate::{Error, Result};
use objects::Written;

pub use carried::{CARRIED, Carried};
pub use layout::Directory;
pub use objects::Objects;
pub use registry::Repository;

/// The config of a cache's manifest.
pub const CONFIG_TYPE: &str = "application/vnd.rbuild.cache.config.v1+json";
/// A list of records.
pub const RECORDS_TYPE: &str = "application/vnd.rbuild.cache.records.v1.json+zstd";
/// The listing of a layer's files.
pub const LISTING_TYPE: &str = "application/vnd.rbuild.cache.tree.v1+zstd";
/// What a cache mount holds.
pub const MOUNT_TYPE: &str = "application/vnd.rbuild.cache.mount.v1.tar+zstd";
/// On a list of records: the lists whose records it took over, by digest.
pub const FOLDS: &str = "dev.rbuild.cache.folds";

const CONFIG: &[u8] = br#"{"cache":"rbuild"}"#;
/// BuildKit's cache.
const BUILDKIT_CONFIG_TYPE: &str = "application/vnd.buildkit.cacheconfig.v0";

/// How often a writer begins anew because others were faster.
const ROUNDS: u32 = 40;
/// A registry cannot compare before it sets a tag. Who takes longer than this from reading to having written may have
/// written over what came in between, and looks for it in the notes that every writer leaves first; who is faster is
/// done before others look for the last time whether what they wrote is still there.
const SLOW: Duration = Duration::from_millis(200);
const SETTLE: Duration = Duration::from_millis(450);

/// Where a cache is.
#[derive(Debug, Clone)]
pub enum Place {
    Registry(Repository),
    Layout(Directory),
    Objects(Objects),
}

/// What is under a name.
#[derive(Debug, Clone)]
pub enum Found {
    Nothing,
    Cache(State),
    /// An image, or several; what it carries, [`Place::carried`] reads.
    Image(Document),
    /// Somebody else's cache; the words say whose.
    Foreign(&'static str),
}

/// A cache's document as it was read.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// What the cache needs, in its order.
    pub blobs: Vec<Descriptor>,
    /// Of the document; `None` where there was none.
    version: Option<Digest>,
    /// Its bytes, by which a Redis knows whether it is still the same.
    bytes: Option<Vec<u8>>,
    /// The parts that it was put together from, where it has some.
    parts: Vec<String>,
}

/// What a writer makes of what is there.
pub trait Merge: Sync {
    /// Returns all blobs that the cache is to have: those there, and the writer's.
    fn merge(&self, there: &[Descriptor]) -> impl Future<Output = Result<Vec<Descriptor>>> + Send;
}

impl State {
    /// Whether the cache lists a blob.
    pub fn has(&self, digest: &Digest) -> bool {
        self.blobs.iter().any(|blob| blob.digest == *digest)
    }

    /// The lists of records.
    pub fn records(&self) -> impl Iterator<Item = &Descriptor> {
        self.blobs
            .iter()
            .filter(|blob| blob.media_type == RECORDS_TYPE)
    }

    /// Whether a list is here, or another that took it over.
    fn holds(&self, list: &Digest) -> bool {
        let name = list.to_string();
        self.records().any(|blob| {
            let folded = blob.annotation(FOLDS).unwrap_or_default();
            blob.digest == *list || folded.split(',').any(|one| one == name)
        })
    }
}

impl Place {
    /// Reads what is under the name.
    pub async fn read(&self) -> Result<Found> {
        let document = match self {
            Self::Registry(repository) => repository.document().await?,
            Self::Layout(directory) => directory.document().await?,
            Self::Objects(Objects::Redis(redis)) => {
                let bytes = redis.document().await?;
                bytes.map(|bytes| (described(&bytes), bytes))
            }
            Self::Objects(Objects::S3(s3)) => {
                let mut whole = State::default();
                for (name, bytes) in s3.parts().await? {
                    // What is no part of a cache does not keep the others from being read.
                    if let Ok(Found::Cache(state)) = understand(&described(&bytes), &bytes) {
                        whole.blobs.extend(state.blobs);
                        whole.parts.push(name);
                    }
                }
                let mut seen = HashSet::new();
                whole.blobs.retain(|blob| seen.insert(blob.digest));
                return Ok(match whole.parts.is_empty() {
                    true => Found::Nothing,
                    false => Found::Cache(whole),
                });
            }
        };
        match document {
            None => Ok(Found::Nothing),
            Some((descriptor, bytes)) => understand(&descriptor, &bytes),
        }
    }

    /// A small blob whole, verified.
    pub async fn small(&self, blob: &Descriptor, limit: u64) -> Result<Vec<u8>> {
        if blob.size > limit {
            return Err(bad(blob, format!("it has more than {limit} bytes")));
        }
        let bytes = match self {
            Self::Registry(repository) => repository.small(blob, limit).await?,
            Self::Layout(directory) => directory.small(blob, limit).await?,
            Self::Objects(objects) => objects.small(blob, limit).await?,
        };
        if bytes.len() as u64 != blob.size {
            let (size, said) = (bytes.len(), blob.size);
            return Err(bad(blob, format!("it has {size} bytes instead of {said}")));
        }
        let actual = Digest::of(&bytes);
        if actual != blob.digest {
            return Err(bad(blob, format!("its digest is {actual}")));
        }
        Ok(bytes)
    }

    /// Brings a blob into the content store, verified.
    pub async fn bring(
        &self,
        store: &Arc<Store>,
        blob: &Descriptor,
        progress: &Progress,
    ) -> Result<()> {
        match self {
            Self::Registry(repository) => repository.bring(store, blob, progress).await,
            Self::Layout(directory) => directory.bring(store, blob, progress).await,
            Self::Objects(objects) => objects.bring(store, blob, progress).await,
        }
    }

    /// Whether a blob that the document lists is there, as far as one can tell without reading it.
    pub async fn has(&self, blob: &Descriptor) -> Result<bool> {
        match self {
            // A registry takes no document before the blobs that it lists, and keeps them with it.
            Self::Registry(_) => Ok(true),
            Self::Layout(directory) => directory.has(blob).await,
            Self::Objects(objects) => objects.has(blob).await,
        }
    }

    /// Sends a blob of the content store, unless it is there. `mounts`: repositories of the same registry that may
    /// have it. Returns whether bytes went.
    pub async fn send(
        &self,
        store: &Arc<Store>,
        blob: &Descriptor,
        mounts: &[String],
        progress: &Progress,
    ) -> Result<bool> {
        match self {
            Self::Registry(repository) => repository.send(store, blob, mounts, progress).await,
            Self::Layout(directory) => directory.send(store, blob, progress).await,
            Self::Objects(objects) => objects.send(store, blob, progress).await,
        }
    }

    /// Adds a writer's list of records, `ours`, and what it speaks of, all of which were sent. Returns when it is
    /// there and those who wrote at the same time could not have missed it.
    pub async fn publish(
        &self,
        store: &Arc<Store>,
        ours: &Digest,
        merge: &impl Merge,
    ) -> Result<()> {
        if let Self::Objects(Objects::S3(s3)) = self {
            return self.publish_part(s3, ours, merge).await;
        }
        // Held to the end.
        let turn = match self {
            Self::Layout(directory) => Some(directory.lock().await?),
            Self::Registry(_) | Self::Objects(_) => None,
        };
        if let Self::Registry(repository) = self {
            self.send_config(store).await?;
            let (descriptor, bytes) = self.written(merge.merge(&[]).await?)?;
            repository.note(ours, &descriptor, bytes).await?;
        }
        let mut overwritten: Vec<State> = Vec::new();
        for round in 0..ROUNDS {
            let began = Instant::now();
            let mut state = self.state().await?;
            overwritten.retain(|note| note.records().any(|list| !state.holds(&list.digest)));
            if state.holds(ours) && overwritten.is_empty() {
                return Ok(());
            }
            for note in &overwritten {
                state.blobs.extend(note.blobs.iter().cloned());
            }
            let blobs = match state.holds(ours) {
                true => state.blobs.clone(),
                false => merge.merge(&state.blobs).await?,
            };
            // What took long was a merge of lists: others may have written meanwhile.
            if began.elapsed() > SLOW && self.state().await?.version != state.version {
                pause(ours, round).await;
                continue;
            }
            let (version, written) = self.write(store, &state, blobs).await?;
            match written {
                Written::Surely => return Ok(()),
                _ if turn.is_some() => return Ok(()),
                Written::TooLate => {
                    pause(ours, round).await;
                    continue;
                }
                Written::Perhaps => {}
            }
            if let Self::Registry(repository) = self
                && began.elapsed() > SLOW
            {
                tokio::time::sleep(SETTLE).await;
                overwritten = noted(repository).await;
                continue;
            }
            if self.state().await?.version == Some(version) {
                tokio::time::sleep(SETTLE).await;
            }
            if self.state().await?.holds(ours) {
                return Ok(());
            }
            pause(ours, round).await;
        }
        Err(Error::Io {
            action: "add to the cache",
            path: self.to_string(),
            source: std::io::Error::other("others write to it all the time; try again later"),
        })
    }

    async fn state(&self) -> Result<State> {
        match self.read().await? {
            Found::Cache(state) => Ok(state),
            // Another tool's cache under this name gives way, as it does the other way round.
            Found::Nothing | Found::Foreign(_) => Ok(State::default()),
            Found::Image(_) => Err(Error::BadDocument {
                document: self.to_string(),
                reason: "it is an image: a cache needs a name of its own, for instance another tag"
                    .to_owned(),
            }),
        }
    }

    async fn write(
        &self,
        store: &Arc<Store>,
        before: &State,
        blobs: Vec<Descriptor>,
    ) -> Result<(Digest, Written)> {
        if before.version.is_none() {
            self.send_config(store).await?;
        }
        let (descriptor, bytes) = self.written(blobs)?;
        let digest = descriptor.digest;
        let written = match self {
            Self::Registry(repository) => {
                repository.put(&descriptor, bytes).await?;
                Written::Perhaps
            }
            Self::Layout(directory) => {
                directory.put(&descriptor, bytes, before.version).await?;
                Written::Perhaps
            }
            Self::Objects(Objects::Redis(redis)) => {
                redis.replace(bytes, before.bytes.as_deref()).await?
            }
            // It has no single document to replace.
            Self::Objects(Objects::S3(_)) => Written::TooLate,
        };
        Ok((digest, written))
    }

    async fn send_config(&self, store: &Arc<Store>) -> Result<()> {
        let config = Descriptor::new(CONFIG_TYPE, Digest::of(CONFIG), CONFIG.len() as u64);
        let local = Arc::clone(store);
        crate::source::blocking(move || Ok(local.put_blob(CONFIG)?)).await?;
        let quiet: Progress = Arc::new(|_, _, _| {});
        self.send(store, &config, &[], &quiet).await?;
        Ok(())
    }

    /// The document that lists some blobs.
    fn written(&self, blobs: Vec<Descriptor>) -> Result<(Descriptor, Vec<u8>)> {
        let config = Descriptor::new(CONFIG_TYPE, Digest::of(CONFIG), CONFIG.len() as u64);
        let mut seen = HashSet::new();
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(OCI_MANIFEST.to_owned()),
            config,
            layers: blobs
                .into_iter()
                .filter(|blob| seen.insert(blob.digest))
                .collect(),
            annotations: None,
        };
        let bytes = serde_json::to_vec(&manifest).map_err(|error| Error::BadDocument {
            document: self.to_string(),
            reason: error.to_string(),
        })?;
        Ok((described(&bytes), bytes))
    }

    /// Adds what a writer adds as a part of its own; takes away the parts that it took over.
    async fn publish_part(&self, s3: &s3::S3, ours: &Digest, merge: &impl Merge) -> Result<()> {
        let state = self.state().await?;
        if state.holds(ours) {
            return Ok(());
        }
        let merged = merge.merge(&state.blobs).await?;
        let kept: HashSet<Digest> = merged.iter().map(|blob| blob.digest).collect();
        let takes_over = state.records().any(|list| !kept.contains(&list.digest));
        let blobs = match takes_over {
            true => merged,
            false => {
                let new = |blob: &Descriptor| !state.has(&blob.digest);
                merged.into_iter().filter(new).collect()
            }
        };
        let (descriptor, bytes) = self.written(blobs)?;
        s3.add_part(&descriptor.digest, bytes).await?;
        if takes_over {
            for part in &state.parts {
                s3.remove_part(part).await?;
            }
        }
        Ok(())
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Registry(repository) => write!(f, "{repository}"),
            Self::Layout(directory) => write!(f, "{directory}"),
            Self::Objects(objects) => write!(f, "{objects}"),
        }
    }
}

/// What other writers noted.
async fn noted(repository: &Repository) -> Vec<State> {
    let mut states = Vec::new();
    for (descriptor, bytes) in repository.notes().await {
        if let Ok(Found::Cache(state)) = understand(&descriptor, &bytes) {
            states.push(state);
        }
    }
    states
}

/// Not all at once again.
async fn pause(ours: &Digest, round: u32) {
    let spread = ours.as_bytes().get(round as usize % 32).copied();
    let spread = u64::from(spread.unwrap_or_default());
    tokio::time::sleep(Duration::from_millis(spread * u64::from(round.min(8)) / 4)).await;
}

fn described(bytes: &[u8]) -> Descriptor {
    Descriptor::new(OCI_MANIFEST, Digest::of(bytes), bytes.len() as u64)
}

fn understand(descriptor: &Descriptor, bytes: &[u8]) -> Result<Found> {
    let name = descriptor.digest.to_string();
    let buildkit = "BuildKit";
    Ok(
        match Document::parse(bytes, &descriptor.media_type, &name)? {
            Document::Manifest(manifest) => match manifest.config.media_type.clone().as_str() {
                CONFIG_TYPE => Found::Cache(State {
                    blobs: manifest.layers,
                    version: Some(descriptor.digest),
                    bytes: Some(bytes.to_vec()),
                    parts: Vec::new(),
                }),
                BUILDKIT_CONFIG_TYPE => Found::Foreign(buildkit),
                _ => Found::Image(Document::Manifest(manifest)),
            },
            Document::Index(index) => {
                let config = |blob: &Descriptor| blob.media_type == BUILDKIT_CONFIG_TYPE;
                match index.manifests.iter().any(config) {
                    true => Found::Foreign(buildkit),
                    false => Found::Image(Document::Index(index)),
                }
            }
        },
    )
}

fn bad(blob: &Descriptor, reason: String) -> Error {
    Error::BadDocument {
        document: blob.digest.to_string(),
        reason,
    }
}
