//! Executes the operations of a build for the solver: on the executor, the store, registries and build contexts.
//!
//! * [`content`]: what of its inputs an operation uses;
//! * [`exec`]: RUN, with its [`mounts`], on a [`platform`], held to what it may [`reach`];
//!   [`commands`]: what is made before one asks for it;
//! * [`file`]: COPY, ADD, WORKDIR, heredocs; [`http`], [`git`]: ADD of URLs;
//! * [`leaks`]: secrets that a layer would give away;
//! * [`sources`]: images and contexts; [`layers`]: results as layers; [`shared`]: results of shared caches;
//! * [`output`]: what an operation gives to those that use it; [`threads`]: where work runs that blocks;
//! * [`log`]: what commands print on its way to the user; [`failure`], [`scripts`]: why a step failed.
//!
//! Records are looked up and saved here; which keys they have is the solver's business.

pub(crate) mod commands;
mod content;
mod exec;
pub(crate) mod failure;
mod file;
mod git;
mod http;
mod layers;
pub(crate) mod leaks;
pub(crate) mod log;
mod mounts;
mod output;
mod platform;
mod reach;
mod scripts;
mod shared;
mod sources;
mod threads;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rbuild_cache::record::{KeyLock, Record};
use rbuild_cache::{ActiveSnapshot, Digest, Ingredient, Key, Snapshot, Store};
use rbuild_executor::Executor;
use rbuild_executor::network::Reach;
use rbuild_executor::spec::{Dns, Limits};
use rbuild_image::registry::Client;
use rbuild_image::source::Resolved;
use rbuild_solver::VertexId;
use tokio_util::sync::CancellationToken;

use crate::ahead::Ahead;
use crate::build::debugging::Left;
use crate::context::{Context, Wanted};
use crate::event::{self, Sink, StepId};
use crate::evidence::Pins;
use crate::explain::notebook::Notebook;
use crate::fetch::Access;
use crate::op::Op;
use crate::packs::Packs;
use crate::shared_cache::export::Exports;
use crate::shared_cache::import::Imports;
pub(crate) use content::wanted;
use failure::{Failure, Result};
use leaks::Leaks;
use output::root_content;
pub(crate) use output::{Output, View, empty_root_content};
pub(crate) use platform::check_platform;
pub(crate) use shared::UNUSABLE;
pub(crate) use threads::{blocking, brief, waited_for};

/// What the request says about commands.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) secrets: HashMap<String, Arc<[u8]>>,
    pub(crate) ssh: HashMap<String, PathBuf>,
    pub(crate) users: rbuild_executor::spec::Users,
    pub(crate) dns: Dns,
    pub(crate) limits: Limits,
    pub(crate) reach: Option<Arc<Reach>>,
}

impl Settings {
    /// By what right sources are fetched.
    fn access(&self) -> Access {
        Access {
            secrets: self.secrets.clone(),
            ssh: self.ssh.clone(),
            reach: self.reach.clone(),
        }
    }
}

/// What is to be known of a vertex besides its operation.
#[derive(Debug, Clone)]
pub(crate) struct VertexInfo {
    pub(crate) step: StepId,
    /// Groups the records of the same step over time.
    pub(crate) record_step: String,
    /// Kept in its record besides the ingredients of its keys.
    pub(crate) provenance: Vec<Ingredient>,
}

pub(crate) struct Worker {
    pub(crate) executor: Arc<Executor>,
    pub(crate) client: Client,
    pub(crate) settings: Settings,
    /// By manifest digest.
    pub(crate) images: HashMap<Digest, Arc<Resolved>>,
    /// The main one has the empty name.
    pub(crate) contexts: HashMap<String, Arc<Context>>,
    /// What the whole build names of each context, so that each is walked once.
    pub(crate) wanted: HashMap<String, Vec<Wanted>>,
    pub(crate) vertices: HashMap<VertexId, VertexInfo>,
    pub(crate) events: Arc<dyn Sink>,
    /// Values that no output may show.
    pub(crate) masked: Arc<[Vec<u8>]>,
    pub(crate) said_network: Arc<AtomicBool>,
    pub(crate) networks: Arc<rbuild_executor::network::Pool>,
    pub(crate) commands: commands::Commands,
    /// Parts of contexts that commands see, by selection. With the view that each is of: while it is held, no other view
    /// has its address, by which parts are told apart.
    pub(crate) materialised: Mutex<HashMap<Key, (Arc<View>, Snapshot)>>,
    pub(crate) notebook: Arc<Notebook>,
    /// What fetched sources turned out to be.
    pub(crate) pins: Arc<Pins>,
    /// Cache mounts that this build emptied, by their ids.
    pub(crate) emptied: Mutex<HashSet<String>>,
    /// What a step that fails leaves is kept, for a shell to be opened on it.
    pub(crate) keeps_left: bool,
    /// Of the first step that failed.
    pub(crate) left: Mutex<Option<Left>>,
    /// `--cache-from`; `None` where nothing is taken from elsewhere.
    pub(crate) imports: Option<Arc<Imports>>,
    /// `--cache-to`.
    pub(crate) exports: Option<Arc<Exports>>,
    /// How many operations are executed now.
    pub(crate) executed: AtomicUsize,
    /// Layers of packed snapshots that were seen to be there.
    pub(crate) seen: Mutex<HashSet<Digest>>,
    /// The vertices whose own layers are in an image that is made.
    pub(crate) layers: HashSet<VertexId>,
    /// What is looked for in them; `None` where the build has no secrets.
    pub(crate) leaks: Option<Arc<Leaks>>,
    /// Makes them as soon as they can be.
    pub(crate) ahead: Option<Arc<Ahead>>,
    /// Which results are needed as layers only.
    pub(crate) packs: Option<Packs>,
}

/// An operation that is executed, while this is there.
struct Executed<'a>(&'a AtomicUsize);

impl<'a> Executed<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Executed<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Unix seconds.
pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

impl Worker {
    pub(crate) fn store(&self) -> &Arc<Store> {
        self.executor.store()
    }

    /// Whether no more than one operation is executed now.
    fn is_alone(&self) -> bool {
        self.executed.load(Ordering::Relaxed) <= 1
    }

    /// As [`brief`]; at once, too, where no other operation is executed, which would wait for it.
    async fn brief<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match self.is_alone() {
            true => work(),
            false => brief(work).await,
        }
    }

    fn step(&self, vertex: VertexId) -> Option<StepId> {
        self.vertices.get(&vertex).map(|info| info.step)
    }

    /// Keeps what a step that failed leaves, where that is asked for. Those that fail after it are not told of.
    fn leave(&self, vertex: VertexId, inputs: &[Output], layer: Option<ActiveSnapshot>) {
        if !self.keeps_left {
            return;
        }
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.get_or_insert_with(|| Left {
            vertex,
            inputs: inputs.to_vec(),
            layer,
        });
    }

    /// What a step left, once.
    pub(crate) fn take_left(&self, vertex: VertexId) -> Option<Left> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.take_if(|left| left.vertex == vertex)
    }

    /// Tells of the bytes that a step moves.
    fn progress(&self, step: Option<StepId>) -> rbuild_image::source::Progress {
        event::progress(step, &self.events)
    }
}

impl rbuild_solver::Worker for Worker {
    type Operation = Op;
    type Output = Output;
    type Error = Failure;
    type Guard = KeyLock;

    async fn input_content(&self, operation: &Op, index: usize, input: &Output) -> Result<Key> {
        if let Output::There(there) = input
            && content::looks_inside(operation, index)
            && let Some(imports) = &self.imports
            && imports.tree(there).await.is_none()
        {
            let here = Output::Snapshot(self.bring(None, there).await?);
            return content::of(self.store(), operation, index, &here);
        }
        content::of(self.store(), operation, index, input)
    }

    async fn lookup(&self, vertex: VertexId, key: Key) -> Result<Option<Output>> {
        let Some(record) = self.store().lookup(key)? else {
            self.expect_commands(vertex);
            let Some(imports) = &self.imports else {
                return Ok(None);
            };
            return Ok(imports.lookup(key).await.map(Output::There));
        };
        let Some(id) = record.snapshot else {
            return Ok(Some(Output::Snapshot(None)));
        };
        match self.store().chain(&id) {
            Ok(chain) if !self.are_there(&chain) => {
                tracing::warn!(
                    id = id.as_str(),
                    "a layer that a cached result needs is gone, so its step runs again"
                );
                Ok(None)
            }
            Ok(chain) => Ok(Some(Output::Snapshot(chain.last().cloned()))),
            Err(error) => {
                tracing::warn!(%error, "a cached result cannot be used, so its step runs again");
                Ok(None)
            }
        }
    }

    async fn lock(&self, key: Key) -> Result<KeyLock> {
        // Asked again and again rather than waited for on a thread, so that a cancelled build does not hang on
        // another process's step.
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(lock) = self.store().try_lock_key(key)? {
                return Ok(lock);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    async fn execute(
        &self,
        vertex: VertexId,
        operation: &Op,
        inputs: Vec<Output>,
        cancel: CancellationToken,
    ) -> Result<Output> {
        let _executed = Executed::begin(&self.executed);
        let inputs = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Failure::cancelled()),
            inputs = self.brought(vertex, inputs) => inputs?,
        };
        if inputs.iter().any(|it| matches!(it, Output::Context(_))) {
            let (store, operation) = (Arc::clone(self.store()), operation.clone());
            let inputs = inputs.clone();
            blocking(move || content::remember(&store, &operation, &inputs)).await?;
        }
        match operation {
            Op::Image(image) => tokio::select! {
                biased;
                () = cancel.cancelled() => Err(Failure::cancelled()),
                output = self.image(vertex, image) => output,
            },
            Op::Context(context) => self.context(&context.name).await,
            Op::Http(source) => tokio::select! {
                biased;
                () = cancel.cancelled() => Err(Failure::cancelled()),
                output = self.http(vertex, source) => output,
            },
            Op::Git(source) => tokio::select! {
                biased;
                () = cancel.cancelled() => Err(Failure::cancelled()),
                output = self.git(vertex, source) => output,
            },
            Op::Exec(exec) => {
                let made = self.exec(vertex, exec, inputs, cancel.clone()).await?;
                self.to_layer(vertex, made, &cancel).await
            }
            Op::File(file) => {
                let before = if self.keeps_left {
                    inputs.clone()
                } else {
                    Vec::new()
                };
                let made = match self.file(vertex, file, inputs, cancel.clone()).await {
                    Ok(made) => self.to_layer(vertex, made, &cancel).await,
                    failed => failed,
                };
                if made.is_err() && file.base {
                    self.leave(vertex, &before, None);
                }
                made
            }
            Op::Merge => self.merge(inputs).await,
        }
    }

    async fn save(
        &self,
        vertex: VertexId,
        keys: &[Key],
        mut ingredients: Vec<Ingredient>,
        output: &Output,
        duration: Duration,
    ) -> Result<()> {
        let Some(key) = keys.first() else {
            return Ok(());
        };
        let info = self.vertices.get(&vertex);
        let record_step = info
            .map(|info| info.record_step.clone())
            .unwrap_or_default();
        ingredients.extend(info.into_iter().flat_map(|info| info.provenance.clone()));
        let elsewhere = self.imports.as_ref();
        let elsewhere = elsewhere.map(|imports| imports.ingredients_of_step(&record_step));
        self.notebook.made(
            self.store(),
            vertex,
            &record_step,
            &ingredients,
            elsewhere.unwrap_or_default(),
        );
        let record = Record {
            key: *key,
            snapshot: output.snapshot().cloned(),
            extra: Vec::new(),
            step: record_step,
            ingredients,
            created: now(),
            duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        };
        self.store().save(keys, &record)?;
        if let (Some(exports), Output::Snapshot(Some(snapshot))) = (&self.exports, output) {
            exports.made(vertex, snapshot);
        }
        Ok(())
    }

    fn begins_anew(&self, error: &Failure) -> bool {
        error.code == UNUSABLE
    }

    async fn alias(&self, existing: Key, another: Key) -> Result<()> {
        if let Some(imports) = &self.imports
            && imports.alias(existing, another)
        {
            return Ok(());
        }
        Ok(self.store().alias(existing, another)?)
    }
}
