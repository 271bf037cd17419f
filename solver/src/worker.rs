//! What the solver asks of whoever executes operations.

use std::future::Future;
use std::hash::Hash;

use rbuild_cache::{Ingredient, Key, KeyWriter};
use tokio_util::sync::CancellationToken;

use crate::graph::VertexId;

/// A vertex's operation: a pure description.
pub trait Operation: std::fmt::Debug + Eq + Hash + Send + Sync + 'static {
    /// Version tag and fields of the key, without inputs: `KeyWriter::new("exec.v1").field(..)`.
    fn describe(&self) -> KeyWriter;

    /// An immediate operation's output is a handle that costs nothing to make (a build context). What uses it is
    /// keyed, also in its definition key, by what it selects of it.
    fn is_immediate(&self) -> bool {
        false
    }

    fn cache_policy(&self) -> CachePolicy {
        CachePolicy::Use
    }
}

/// What becomes of a vertex's results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CachePolicy {
    /// Look up, and save.
    Use,
    /// Run, and save (`--no-cache`).
    Refresh,
    /// Neither: the worker has its own way (image sources).
    Bypass,
}

/// Executes operations, and keeps their results.
pub trait Worker: Send + Sync + 'static {
    type Operation: Operation;
    type Output: Clone + Send + Sync + 'static;
    type Error: std::error::Error + Send + Sync + 'static;
    /// Held while a result is being made, so that other processes wait for it.
    type Guard: Send;

    /// The content of what `operation` uses of its input `index`: the whole output, or the paths it selects.
    fn input_content(
        &self,
        operation: &Self::Operation,
        index: usize,
        input: &Self::Output,
    ) -> impl Future<Output = Result<Key, Self::Error>> + Send;

    /// Looks a key of a vertex up. A result that can no longer be loaded is `None`.
    fn lookup(
        &self,
        vertex: VertexId,
        key: Key,
    ) -> impl Future<Output = Result<Option<Self::Output>, Self::Error>> + Send;

    /// Waits until this process may make the result of `key`.
    fn lock(&self, key: Key) -> impl Future<Output = Result<Self::Guard, Self::Error>> + Send;

    /// Runs the operation.
    fn execute(
        &self,
        vertex: VertexId,
        operation: &Self::Operation,
        inputs: Vec<Self::Output>,
        cancel: CancellationToken,
    ) -> impl Future<Output = Result<Self::Output, Self::Error>> + Send;

    /// Publishes a result under its keys (definition, content), with what the keys were made of.
    fn save(
        &self,
        vertex: VertexId,
        keys: &[Key],
        ingredients: Vec<Ingredient>,
        output: &Self::Output,
        duration: std::time::Duration,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// An error that says no more than that a solve is to begin anew: what was found turned out to be of no use. What
    /// runs beside it ends first, so that its results are found then.
    fn begins_anew(&self, error: &Self::Error) -> bool {
        let _ = error;
        false
    }

    /// Makes `another` lead to what `existing` leads to.
    fn alias(
        &self,
        existing: Key,
        another: Key,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;
}
