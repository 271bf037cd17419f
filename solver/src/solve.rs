//! Solving: `key_of` and `output_of` as memoised async queries.
//!
//! 1. definition key of the target → a record → done: no input is touched;
//! 2. else the inputs (each the same way), the content key → a record → done, and the definition key leads to it too;
//! 3. else, under the key's lock and the limit, look up once more, execute, save under both keys.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::graph::{Graph, VertexId};
use crate::worker::Worker;

/// Hears what happens; called from many tasks.
pub trait Observer: Send + Sync {
    /// `status` of a vertex changed.
    fn vertex(&self, vertex: VertexId, status: Status);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Runs now (after having waited for a place).
    Started,
    /// Its result was found; also told of every input that therefore need not be looked at.
    Cached,
    Done {
        took: Duration,
    },
    Failed,
    Cancelled,
}

#[derive(Debug, thiserror::Error)]
pub enum SolveError<E: std::error::Error + 'static> {
    /// The first error, and the vertex it came from.
    #[error("vertex {vertex:?} failed")]
    Vertex {
        vertex: VertexId,
        #[source]
        source: Arc<E>,
    },
    #[error("cancelled")]
    Cancelled,
}

/// Solves graphs with one worker.
pub struct Solver<W: Worker> {
    worker: Arc<W>,
    /// How many operations execute at once.
    jobs: usize,
}

impl<W: Worker> std::fmt::Debug for Solver<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Solver")
            .field("jobs", &self.jobs)
            .finish_non_exhaustive()
    }
}

impl<W: Worker> Solver<W> {
    pub fn new(worker: Arc<W>, jobs: usize) -> Self {
        Self { worker, jobs }
    }

    pub fn worker(&self) -> &Arc<W> {
        &self.worker
    }

    /// Returns the outputs of `targets`, in their order. The first error cancels everything else.
    pub async fn solve(
        &self,
        _graph: Arc<Graph<W::Operation>>,
        _targets: &[VertexId],
        _observer: Arc<dyn Observer>,
        _cancel: CancellationToken,
    ) -> Result<Vec<W::Output>, SolveError<W::Error>> {
        todo!()
    }
}
