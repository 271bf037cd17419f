//! The pipeline: lower a Dockerfile to a graph of operations, solve it, assemble and export the image; run
//! containers. Also the library that others embed: [`Engine::build`].
//!
//! Way of a build: [`request`] → `rbuild_parser` → [`lower`] (pure) → [`op`] graph → `rbuild_solver` with the worker
//! of `worker` → `assemble` → `output`. `shared_cache`: results of other machines. `context` and `select` say what
//! COPY and ADD name; `fetch` and `remote_context` bring what is elsewhere.

mod ahead;
mod assemble;
mod build;
mod cache_mounts;
pub mod compare;
pub mod containers;
pub mod context;
pub mod error;
pub mod event;
pub mod evidence;
pub mod explain;
mod fetch;
mod idle;
pub mod images;
mod inputs;
mod layering;
pub mod lint;
pub mod llb;
pub mod lower;
pub mod op;
mod output;
mod packs;
mod remote_context;
pub mod repro;
pub mod request;
pub mod select;
mod shared_cache;
pub mod ssh_agent;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;

use rbuild_cache::{Digest, Store};
use rbuild_executor::{Executor, Host};

pub use build::debugging::{DebugShell, Point, When};
pub use containers::{Created, RunRequest};
pub use error::{Error, Located, Result};
pub use event::{Event, Sink, Step, StepId};
pub use idle::{cores, processors};
pub use remote_context::list_directory;
pub use request::BuildRequest;
/// What callers need of the rooms below.
pub use {
    rbuild_cache as cache, rbuild_executor as executor, rbuild_image as image,
    rbuild_parser as parser,
};

/// How the engine is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// The store.
    pub root: PathBuf,
    pub registry: rbuild_image::registry::Options,
    /// What the store may take; [`Engine::keep_within_limits`] brings it back to that.
    pub limits: rbuild_cache::collect::Limits,
}

/// Builds and runs images of one store.
#[derive(Debug)]
pub struct Engine {
    pub(crate) executor: Arc<Executor>,
    pub(crate) client: rbuild_image::registry::Client,
    limits: rbuild_cache::collect::Limits,
}

/// A build that succeeded.
#[derive(Debug, Clone)]
pub struct BuildOutcome {
    /// `None` where no output needed an image: files, a tar, or only the cache.
    pub image: Option<BuiltImage>,
    pub steps: usize,
    pub cached: usize,
    pub warnings: Vec<Located>,
}

/// The image that the first output which needs one got.
#[derive(Debug, Clone)]
pub struct BuiltImage {
    /// Digest of the config: Docker's image ID. Of the first platform.
    pub id: Digest,
    /// Of the manifest, or of the index where there are several platforms or attestations.
    pub digest: Digest,
    pub descriptor: rbuild_image::Descriptor,
}

impl Engine {
    /// What this machine has for sandboxes: name, and what there is of it or why there is none. Blocking.
    pub fn features(&self) -> Vec<(&'static str, std::result::Result<String, String>)> {
        self.executor.features()
    }

    /// Opens the store and stands ready. `host` comes from `rbuild_executor::host::init`.
    pub fn open(host: Host, options: Options) -> Result<Self> {
        let store = Arc::new(Store::open(&options.root)?);
        store.set_unpacker(rbuild_image::unpack::OwnLayers);
        Ok(Self {
            executor: Arc::new(Executor::new(host, store)),
            client: rbuild_image::registry::Client::new(options.registry),
            limits: options.limits,
        })
    }

    /// Brings the store back to its limits where this process put something in; says what went, where something
    /// did. To be called when the work is done: what this engine made and used is spared. Blocking.
    pub fn keep_within_limits(&self) -> Result<Option<rbuild_cache::collect::Pruned>> {
        Ok(self.store().keep_within(self.limits)?)
    }

    /// The store that it works in.
    pub fn store(&self) -> &Arc<Store> {
        self.executor.store()
    }
}
