//! From a lowered build to what its targets came to.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::try_join_all;
use rbuild_cache::{Ingredient, Key};
use rbuild_parser::Span;
use rbuild_solver::{Graph, Observer, SolveError, Solver, Status, VertexId};
use tokio_util::sync::CancellationToken;

use super::debugging::{self, DebugShell};
use super::exporting::Target;
use super::plan::Plan;
use crate::error::StepFailure;
use crate::event::{Event, Sink};
use crate::explain;
use crate::explain::notebook::Notebook;
use crate::explain::report::Ended;
use crate::inputs;
use crate::lint;
use crate::lower::{Lowered, StepInfo};
use crate::op::Op;
use crate::request::BuildRequest;
use crate::shared_cache::export::Exports;
use crate::shared_cache::import::Going;
use crate::worker::failure::Failure;
use crate::worker::{self, VertexInfo, Worker, waited_for};
use crate::{Error, Located, Result};

/// Tells the events what the solver tells of vertices.
struct Steps {
    vertices: HashMap<VertexId, VertexInfo>,
    events: Arc<dyn Sink>,
    cached: AtomicUsize,
    notebook: Arc<Notebook>,
    exports: Option<Arc<Exports>>,
}

impl Observer for Steps {
    fn planned(&self, vertex: VertexId, key: Key, ingredients: &Arc<[Ingredient]>) {
        self.notebook.planned(vertex, key, ingredients);
        if let Some(exports) = &self.exports {
            exports.planned(vertex, key);
        }
    }

    fn vertex(&self, vertex: VertexId, status: Status) {
        self.notebook.status(vertex, status);
        let Some(info) = self.vertices.get(&vertex) else {
            return;
        };
        let step = info.step;
        self.events.event(match status {
            Status::Started => Event::Started { step },
            Status::Cached => {
                self.cached.fetch_add(1, Ordering::Relaxed);
                Event::Cached { step }
            }
            Status::Done { took } => Event::Done { step, took },
            // Told with its reason, which comes with the end of the solve.
            Status::Failed => return,
            Status::Cancelled => Event::Cancelled { step },
        });
    }

    fn found(&self, vertices: &[VertexId]) {
        let mut events = Vec::with_capacity(vertices.len());
        for vertex in vertices {
            self.notebook.status(*vertex, Status::Cached);
            if let Some(info) = self.vertices.get(vertex) {
                events.push(Event::Cached { step: info.step });
            }
        }
        self.cached.fetch_add(events.len(), Ordering::Relaxed);
        self.events.events(events);
    }
}

/// A build that was solved, and what its targets came to, in their order.
pub(super) struct Built {
    pub(super) graph: Arc<Graph<Op>>,
    pub(super) steps: Vec<StepInfo>,
    /// One a platform.
    pub(super) targets: Vec<Target>,
    /// The contents of all roots that the images are made of.
    pub(super) held: HashSet<Key>,
    pub(super) cached: usize,
    /// Warnings of secrets in layers.
    pub(super) leaks: Vec<Located>,
}

/// What a build is solved with.
pub(super) struct Solving<'a> {
    pub(super) worker: &'a Arc<Worker>,
    pub(super) plan: &'a Plan,
    pub(super) events: &'a Arc<dyn Sink>,
    pub(super) cancel: &'a CancellationToken,
    /// Of the targets; a shared cache may have them.
    pub(super) needs_files: bool,
    /// Where the images go that need no files here; `None` where they do.
    pub(super) going: Option<&'a Going>,
}

impl Solving<'_> {
    pub(super) async fn solve(&self, lowered: Lowered, request: &BuildRequest) -> Result<Built> {
        let targets = lowered.targets();
        let Lowered {
            graph,
            images,
            steps,
            warnings,
            ..
        } = lowered;
        let graph = Arc::new(graph);
        let (outputs, cached) = self.outputs(&graph, &targets, request).await;
        let ended = Ended {
            store: Arc::clone(self.worker.store()),
            build: explain::build_key(&request.context, &request.dockerfile),
            dockerfile: inputs::shown(&request.dockerfile),
            graph: Arc::clone(&graph),
            steps: steps.clone(),
            vertices: self.plan.vertices.clone(),
            notebook: Arc::clone(&self.worker.notebook),
        };
        waited_for(move || ended.write_down()).await;
        let outputs = match outputs {
            Ok(outputs) => outputs,
            Err(error) => {
                self.tell(&error);
                let shell = debugging::at_failure(self, &graph, &steps, request, &error).await;
                return Err(failed(error, &steps, &warnings, shell));
            }
        };
        let mut outputs = outputs.into_iter();
        let targets = images.into_iter().map(|image| {
            let top = image.vertex.and_then(|_| outputs.next());
            let scans = image.scans.iter().map(|scan| {
                let root = scan.vertex.and_then(|_| outputs.next());
                root.and_then(worker::Output::into_snapshot)
            });
            let scanned = scans.collect();
            Target {
                image,
                top,
                scanned,
            }
        });
        let targets: Vec<Target> = targets.collect();
        let mut held = HashSet::from([worker::empty_root_content()]);
        if self.worker.exports.is_some() {
            for top in targets.iter().filter_map(|target| target.top.as_ref()) {
                held.extend(top.contents(self.worker.store())?);
            }
        }
        let leaks = self.worker.leaks.as_ref();
        Ok(Built {
            graph,
            leaks: leaks.map(|leaks| leaks.found(&steps)).unwrap_or_default(),
            steps,
            targets,
            held,
            cached,
        })
    }

    /// Tells which step failed, and why.
    pub(super) fn tell(&self, error: &SolveError<Failure>) {
        if let SolveError::Vertex { vertex, source } = error
            && let Some(info) = self.plan.vertices.get(vertex)
        {
            self.events.event(Event::Failed {
                step: info.step,
                message: source.to_string(),
            });
        }
    }

    /// The outputs of the targets, here if their files are needed, and how many steps were found. What a shared cache
    /// has and turns out to be of no use when it is needed is looked up no more, and everything begins anew: what was
    /// made meanwhile is found.
    pub(super) async fn outputs(
        &self,
        graph: &Arc<Graph<Op>>,
        targets: &[VertexId],
        request: &BuildRequest,
    ) -> (Result<Vec<worker::Output>, SolveError<Failure>>, usize) {
        if let Some(exports) = &self.worker.exports {
            exports.set_targets(graph, targets);
        }
        let jobs = crate::idle::jobs(request.jobs, &self.worker.executor);
        let solver = Solver::new(Arc::clone(self.worker), jobs);
        loop {
            let observer = Arc::new(Steps {
                vertices: self.plan.vertices.clone(),
                events: Arc::clone(self.events),
                cached: AtomicUsize::new(0),
                notebook: Arc::clone(&self.worker.notebook),
                exports: self.worker.exports.clone(),
            });
            let told: Arc<dyn Observer> = observer.clone();
            let solved = solver
                .solve(Arc::clone(graph), targets, told, self.cancel.clone())
                .await;
            let solved = match solved {
                Ok(outputs) if self.needs_files => {
                    tokio::select! {
                        biased;
                        () = self.cancel.cancelled() => Err(SolveError::Cancelled),
                        brought = self.bring(targets, outputs) => brought,
                    }
                }
                other => other,
            };
            match solved {
                Err(SolveError::Vertex { source, .. }) if source.code == worker::UNUSABLE => {}
                other => return (other, observer.cached.load(Ordering::Relaxed)),
            }
        }
    }

    /// Brings what shared caches have of the targets, unless it can stay there.
    async fn bring(
        &self,
        targets: &[VertexId],
        outputs: Vec<worker::Output>,
    ) -> Result<Vec<worker::Output>, SolveError<Failure>> {
        let step = self.plan.exports.first().copied();
        let brought = targets.iter().zip(outputs).map(|(vertex, output)| async {
            match output {
                worker::Output::There(there) => {
                    let failed = |failure| SolveError::Vertex {
                        vertex: *vertex,
                        source: Arc::new(failure),
                    };
                    if let Some(going) = self.going {
                        let left = self.worker.leave_there(step, &there, going).await;
                        if left.map_err(failed)? {
                            return Ok(worker::Output::There(there));
                        }
                    }
                    let here = self.worker.bring(step, &there).await;
                    here.map(worker::Output::Snapshot).map_err(failed)
                }
                other => Ok(other),
            }
        });
        try_join_all(brought).await
    }
}

/// Joins a failure with its place in the Dockerfile, and with a shell on what it left.
pub(super) fn failed(
    error: SolveError<Failure>,
    steps: &[StepInfo],
    warnings: &[Located],
    shell: Option<Box<DebugShell>>,
) -> Error {
    let SolveError::Vertex { vertex, source } = error else {
        return Error::Cancelled;
    };
    let failure = Arc::try_unwrap(source).unwrap_or_else(|shared| (*shared).clone());
    let Some(info) = steps.iter().find(|info| info.vertex == vertex) else {
        return Error::Other(failure.message);
    };
    let place = failure
        .word
        .and_then(|word| place_of(info, &word))
        .unwrap_or(info.span);
    let mut diagnostic = rbuild_parser::Diagnostic::error(failure.code, failure.message, place);
    diagnostic.help = failure.help;
    let mut others = Vec::new();
    for warning in warnings {
        let suspicion = &warning.diagnostic;
        let span = suspicion.primary.span;
        let is_here = info.span.start <= span.start && span.end <= info.span.end;
        // What was suspicious about this very instruction may well be why.
        if is_here
            && lint::rule::tells_causes(suspicion.code)
            && Arc::ptr_eq(&warning.source, &info.source)
        {
            diagnostic.help.push(suspicion.message.clone());
            diagnostic.help.extend(suspicion.help.iter().cloned());
        } else {
            others.push(warning.clone());
        }
    }
    Error::Step(Box::new(StepFailure {
        located: Located {
            source: Arc::clone(&info.source),
            diagnostic,
        },
        name: info.name.clone(),
        exit: failure.exit,
        output: failure.output,
        shell,
        cause: failure.cause,
        warnings: others,
    }))
}

/// Where a word stands in an instruction.
fn place_of(info: &StepInfo, word: &str) -> Option<Span> {
    let text = info.source.slice(info.span);
    let is_edge = |c: Option<char>| c.is_none_or(|c| c.is_whitespace() || "\"'=,[]".contains(c));
    let (at, _) = text.match_indices(word).find(|(at, _)| {
        !word.is_empty()
            && is_edge(text[..*at].chars().next_back())
            && is_edge(text[at + word.len()..].chars().next())
    })?;
    let start = info.span.start + at;
    Some(Span::new(start, start + word.len()))
}
