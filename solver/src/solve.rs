//! Solving: `key_of` and `output_of` as memoised async queries.
//!
//! 1. definition key of the target → a record → done: no input is touched;
//! 2. else the inputs (each the same way), the content key → a record → done, and the definition key leads to it too;
//! 3. else, under the key's lock and the limit, look up once more, execute, save under both keys.
//!
//! Handles of immediate operations come first, because what is selected of them is part of the definition keys. The
//! queries themselves are in `run`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use rbuild_cache::{Ingredient, Key};
use tokio_util::sync::CancellationToken;

use crate::at_once::try_all;
use crate::graph::{Graph, VertexId};
use crate::places::Jobs;
use crate::plan::Plan;
use crate::run::Run;
use crate::worker::{Operation as _, Worker};

/// Hears what happens; called from many tasks.
pub trait Observer: Send + Sync {
    /// `status` of a vertex changed.
    fn vertex(&self, vertex: VertexId, status: Status);

    /// Vertices that were found together: [`Status::Cached`] of one after the other.
    fn found(&self, vertices: &[VertexId]) {
        for vertex in vertices {
            self.vertex(*vertex, Status::Cached);
        }
    }

    /// The definition key of a needed vertex and what it is made of; told of each before anything runs, handles
    /// excepted.
    fn planned(&self, vertex: VertexId, key: Key, ingredients: &Arc<[Ingredient]>) {
        let _ = (vertex, key, ingredients);
    }
}

/// What is told of a vertex.
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

/// Why a graph was not solved.
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
    jobs: Jobs,
}

impl<W: Worker> std::fmt::Debug for Solver<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Solver")
            .field("jobs", &self.jobs)
            .finish_non_exhaustive()
    }
}

impl<W: Worker> Solver<W> {
    /// `jobs`: how many operations execute at once.
    pub fn new(worker: Arc<W>, jobs: Jobs) -> Self {
        Self { worker, jobs }
    }

    /// Who executes the operations.
    pub fn worker(&self) -> &Arc<W> {
        &self.worker
    }

    /// Returns the outputs of `targets`, in their order. The first error cancels everything else, unless all that it
    /// says is to begin anew ([`Worker::begins_anew`]). Returns only when
    /// nothing of it runs any more; dropping the future ends it too.
    pub async fn solve(
        &self,
        graph: Arc<Graph<W::Operation>>,
        targets: &[VertexId],
        observer: Arc<dyn Observer>,
        cancel: CancellationToken,
    ) -> Result<Vec<W::Output>, SolveError<W::Error>> {
        // A token of its own, so that the first error does not cancel what the caller does besides.
        let cancel = cancel.child_token();
        let _cancel_on_drop = cancel.clone().drop_guard();
        let handles = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(SolveError::Cancelled),
            handles = self.handles(&graph, targets, observer.as_ref(), &cancel) => handles?,
        };
        let plan = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(SolveError::Cancelled),
            plan = Plan::make(&graph, graph.needed(targets), self.worker.as_ref(), &handles) => plan,
        };
        let plan = plan.map_err(|(vertex, error)| {
            observer.vertex(vertex, Status::Failed);
            SolveError::Vertex {
                vertex,
                source: Arc::new(error),
            }
        })?;
        for &vertex in &plan.needed {
            let definition = &plan.of(vertex).definition;
            observer.planned(vertex, definition.key, &definition.ingredients);
        }
        let (run, demands) = Run::new(
            Arc::clone(&self.worker),
            graph,
            plan,
            handles,
            observer,
            cancel,
            self.jobs.clone(),
        );
        run.drive(targets, demands).await
    }

    /// Makes the handles of the immediate operations that are needed, by vertex index.
    async fn handles(
        &self,
        graph: &Graph<W::Operation>,
        targets: &[VertexId],
        observer: &dyn Observer,
        cancel: &CancellationToken,
    ) -> Result<Vec<Option<W::Output>>, SolveError<W::Error>> {
        let needed = graph.needed(targets);
        let immediate = needed
            .into_iter()
            .filter(|vertex| graph.operation(*vertex).is_immediate());
        let made = immediate.map(|vertex| {
            let making = async move {
                observer.vertex(vertex, Status::Started);
                let began = Instant::now();
                let operation = graph.operation(vertex);
                let made = self
                    .worker
                    .execute(vertex, operation, Vec::new(), cancel.clone())
                    .await;
                match made {
                    Ok(output) => {
                        observer.vertex(
                            vertex,
                            Status::Done {
                                took: began.elapsed(),
                            },
                        );
                        Ok((vertex, output))
                    }
                    Err(_) if cancel.is_cancelled() => {
                        observer.vertex(vertex, Status::Cancelled);
                        Err(SolveError::Cancelled)
                    }
                    Err(error) => {
                        observer.vertex(vertex, Status::Failed);
                        Err(SolveError::Vertex {
                            vertex,
                            source: Arc::new(error),
                        })
                    }
                }
            };
            making.boxed()
        });
        let made = try_all(made).await?;
        let mut handles: Vec<Option<W::Output>> = (0..graph.len()).map(|_| None).collect();
        for (vertex, output) in made {
            handles[vertex.index()] = Some(output);
        }
        Ok(handles)
    }
}
