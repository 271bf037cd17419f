//! One solve: every wanted vertex is a task that waits for its inputs' tasks, so neither a deep chain nor a wide
//! graph needs stack. Memoised per vertex, single-flight per key.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use futures_util::future::try_join_all;
use rbuild_cache::Key;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::graph::{Graph, VertexId};
use crate::key::{self, InputKey, Keyed};
use crate::places::{Jobs, Places};
use crate::plan::{Plan, Planned};
use crate::progress::Wanted;
use crate::solve::{Observer, SolveError, Status};
use crate::worker::{CachePolicy, Worker};

/// This solve ends early; why is in [`Run::failure`], or somebody cancelled it.
struct Stopped;

/// A result that is there or will be.
type Promise<T> = watch::Receiver<Option<T>>;

pub(crate) struct Run<W: Worker> {
    worker: Arc<W>,
    graph: Arc<Graph<W::Operation>>,
    plan: Plan,
    observer: Arc<dyn Observer>,
    /// Ends what runs.
    cancel: CancellationToken,
    /// Nothing more is begun; cancelled together with `cancel`, or before it.
    stop: CancellationToken,
    /// Held around execution only: who waits for inputs, locks or look-ups takes no place.
    places: OnceLock<Places>,
    jobs: Jobs,
    outputs: Vec<watch::Sender<Option<W::Output>>>,
    /// What is being made in this process, by key: vertices that turn out to be equal are made once.
    flights: Mutex<HashMap<Key, Promise<W::Output>>>,
    wanted: Mutex<Wanted>,
    demands: mpsc::UnboundedSender<VertexId>,
    failure: Mutex<Option<(VertexId, Arc<W::Error>)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // The state is whole after every statement, so a panic elsewhere does not spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<W: Worker> Run<W> {
    pub(crate) fn new(
        worker: Arc<W>,
        graph: Arc<Graph<W::Operation>>,
        plan: Plan,
        handles: Vec<Option<W::Output>>,
        observer: Arc<dyn Observer>,
        cancel: CancellationToken,
        jobs: Jobs,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<VertexId>) {
        let (demands, demanded) = mpsc::unbounded_channel();
        let run = Self {
            worker,
            graph,
            observer,
            stop: cancel.child_token(),
            cancel,
            places: OnceLock::new(),
            jobs,
            outputs: handles.into_iter().map(watch::Sender::new).collect(),
            flights: Mutex::default(),
            wanted: Mutex::new(Wanted::new(&plan)),
            plan,
            demands,
            failure: Mutex::default(),
        };
        (Arc::new(run), demanded)
    }

    /// Starts a task for whatever is wanted until nothing is left to do.
    pub(crate) async fn drive(
        self: Arc<Self>,
        targets: &[VertexId],
        mut demanded: mpsc::UnboundedReceiver<VertexId>,
    ) -> Result<Vec<W::Output>, SolveError<W::Error>> {
        for &target in targets {
            self.want(target);
        }
        let mut tasks = JoinSet::new();
        // What is found at once needs no task: waking another thread would take longer.
        while let Ok(vertex) = demanded.try_recv() {
            let mut settling = Box::pin(Arc::clone(&self).settle(vertex));
            if futures_util::poll!(settling.as_mut()).is_pending() {
                tasks.spawn(settling);
                break;
            }
        }
        let mut panicked = None;
        loop {
            while let Ok(vertex) = demanded.try_recv() {
                tasks.spawn(Arc::clone(&self).settle(vertex));
            }
            if tasks.is_empty() {
                break;
            }
            tokio::select! {
                Some(vertex) = demanded.recv() => {
                    tasks.spawn(Arc::clone(&self).settle(vertex));
                }
                Some(ended) = tasks.join_next() => {
                    if let Some(Ok(panic)) = ended.err().map(tokio::task::JoinError::try_into_panic) {
                        self.cancel.cancel();
                        panicked.get_or_insert(panic);
                    }
                }
            }
        }
        if let Some(panic) = panicked {
            std::panic::resume_unwind(panic);
        }
        if let Some((vertex, source)) = lock(&self.failure).take() {
            return Err(SolveError::Vertex { vertex, source });
        }
        targets
            .iter()
            .map(|target| self.outputs[target.index()].borrow().clone())
            .collect::<Option<_>>()
            .ok_or(SolveError::Cancelled)
    }

    /// Asks for a vertex; the first who asks starts its task.
    fn want(&self, vertex: VertexId) {
        if lock(&self.wanted).want(vertex) {
            // The receiver lives as long as any task; when it is gone, so is everybody who would wait.
            let _ = self.demands.send(vertex);
        }
    }

    async fn settle(self: Arc<Self>, vertex: VertexId) {
        if let Ok(output) = self.output_of(vertex).await {
            self.outputs[vertex.index()].send_replace(Some(output));
        }
    }

    async fn output_of(&self, vertex: VertexId) -> Result<W::Output, Stopped> {
        let planned = self.plan.of(vertex);
        if planned.policy == CachePolicy::Use
            && planned.definition_holds
            && let Some(output) = self.lookup(vertex, planned.definition.key).await?
        {
            self.found_at_once(vertex);
            return Ok(output);
        }
        let inputs = self.inputs(planned).await?;
        if planned.policy == CachePolicy::Bypass {
            let key = planned.definition.key;
            return self
                .once(vertex, key, async {
                    let (output, _) = self.execute(vertex, inputs).await?;
                    Ok(output)
                })
                .await;
        }
        let content = self.content_key(vertex, planned, &inputs).await?;
        let output = self
            .once(
                vertex,
                content.key,
                self.find_or_make(vertex, planned, &content, inputs),
            )
            .await?;
        Ok(output)
    }

    /// The inputs' outputs, in their order.
    async fn inputs(&self, planned: &Planned) -> Result<Vec<W::Output>, Stopped> {
        for &input in &planned.inputs {
            self.want(input);
        }
        let mut outputs = Vec::with_capacity(planned.inputs.len());
        for input in &planned.inputs {
            let promise = self.outputs[input.index()].subscribe();
            outputs.push(self.promised(promise).await?);
        }
        Ok(outputs)
    }

    async fn promised(&self, mut promise: Promise<W::Output>) -> Result<W::Output, Stopped> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Stopped),
            output = promise.wait_for(Option::is_some) => {
                output.ok().and_then(|output| output.clone()).ok_or(Stopped)
            }
        }
    }

    async fn content_key(
        &self,
        vertex: VertexId,
        planned: &Planned,
        inputs: &[W::Output],
    ) -> Result<Keyed, Stopped> {
        let immediate = |input: &VertexId| self.plan.of(*input).immediate;
        if planned.inputs.iter().all(immediate) {
            return Ok(planned.definition.clone());
        }
        let operation = self.graph.operation(vertex);
        let contents = inputs.iter().enumerate().map(|(place, input)| async move {
            let content = self.worker.input_content(operation, place, input).await;
            content.map(InputKey::Content)
        });
        let contents = self.checked(vertex, try_join_all(contents).await)?;
        Ok(key::of(operation, &contents))
    }

    /// Runs `make` unless a vertex with the same key does or did so in this solve; then its result is taken.
    async fn once(
        &self,
        vertex: VertexId,
        key: Key,
        make: impl Future<Output = Result<W::Output, Stopped>>,
    ) -> Result<W::Output, Stopped> {
        let (sender, receiver) = watch::channel(None);
        let other = match lock(&self.flights).entry(key) {
            Entry::Occupied(flight) => Some(flight.get().clone()),
            Entry::Vacant(place) => {
                place.insert(receiver);
                None
            }
        };
        if let Some(flight) = other {
            let output = self.promised(flight).await?;
            let planned = self.plan.of(vertex);
            if planned.policy != CachePolicy::Bypass && planned.definition.key != key {
                let aliased = self.worker.alias(key, planned.definition.key).await;
                self.checked(vertex, aliased)?;
            }
            self.observer.vertex(vertex, Status::Cached);
            return Ok(output);
        }
        let output = make.await?;
        sender.send_replace(Some(output.clone()));
        Ok(output)
    }

    async fn find_or_make(
        &self,
        vertex: VertexId,
        planned: &Planned,
        content: &Keyed,
        inputs: Vec<W::Output>,
    ) -> Result<W::Output, Stopped> {
        let definition = &planned.definition;
        let mut keys = vec![definition.key, content.key];
        keys.dedup();
        let guard = if planned.policy == CachePolicy::Use {
            // A look-up under the definition key failed already if that is the only one.
            let known = planned.definition_holds && keys.len() == 1;
            if !known && let Some(output) = self.find_by_content(vertex, planned, content).await? {
                return Ok(output);
            }
            let guard = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(Stopped),
                guard = self.worker.lock(content.key) => self.checked(vertex, guard)?,
            };
            // Whoever held the lock may have made it.
            if let Some(output) = self.find_by_content(vertex, planned, content).await? {
                return Ok(output);
            }
            Some(guard)
        } else {
            // Whatever another process finds, this one is to run it: there is nothing to wait for.
            None
        };
        let (output, took) = self.execute(vertex, inputs).await?;
        let ingredients = key::join(definition, content);
        let saved = self
            .worker
            .save(vertex, &keys, ingredients, &output, took)
            .await;
        drop(guard);
        if let Err(error) = saved {
            self.observer.vertex(vertex, Status::Failed);
            return Err(self.fail(vertex, error));
        }
        self.observer.vertex(vertex, Status::Done { took });
        Ok(output)
    }

    async fn find_by_content(
        &self,
        vertex: VertexId,
        planned: &Planned,
        content: &Keyed,
    ) -> Result<Option<W::Output>, Stopped> {
        let found = self.lookup(vertex, content.key).await?;
        if found.is_some() {
            if planned.definition.key != content.key {
                let aliased = self.worker.alias(content.key, planned.definition.key).await;
                self.checked(vertex, aliased)?;
            }
            self.observer.vertex(vertex, Status::Cached);
        }
        Ok(found)
    }

    async fn lookup(&self, vertex: VertexId, key: Key) -> Result<Option<W::Output>, Stopped> {
        if self.stop.is_cancelled() {
            return Err(Stopped);
        }
        let found = self.worker.lookup(vertex, key).await;
        self.checked(vertex, found)
    }

    /// Executes at a place of its own, and says so. `Done` of what is saved is told after that.
    async fn execute(
        &self,
        vertex: VertexId,
        inputs: Vec<W::Output>,
    ) -> Result<(W::Output, std::time::Duration), Stopped> {
        let bypass = self.plan.of(vertex).policy == CachePolicy::Bypass;
        // What bypasses the cache waits for networks rather than computes: it takes no place.
        let _place = if bypass {
            None
        } else {
            let places = self.places.get_or_init(|| Places::new(&self.jobs));
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(Stopped),
                place = places.take() => Some(place.ok_or(Stopped)?),
            }
        };
        if self.stop.is_cancelled() {
            return Err(Stopped);
        }
        self.observer.vertex(vertex, Status::Started);
        let began = Instant::now();
        let operation = self.graph.operation(vertex);
        // Not raced against the token: the worker ends what it began, and nothing is left behind.
        let made = self
            .worker
            .execute(vertex, operation, inputs, self.cancel.clone())
            .await;
        let took = began.elapsed();
        match made {
            Ok(output) => {
                if bypass {
                    self.observer.vertex(vertex, Status::Done { took });
                }
                Ok((output, took))
            }
            Err(_) if self.cancel.is_cancelled() => {
                self.observer.vertex(vertex, Status::Cancelled);
                Err(Stopped)
            }
            Err(error) => {
                self.observer.vertex(vertex, Status::Failed);
                Err(self.fail(vertex, error))
            }
        }
    }

    fn found_at_once(&self, vertex: VertexId) {
        let mut found = lock(&self.wanted).found(&self.plan, vertex);
        found.push(vertex);
        // In the order of the graph, which is that of what it was made from: inputs before their users.
        found.sort_unstable();
        self.observer.found(&found);
    }

    fn checked<T>(&self, vertex: VertexId, result: Result<T, W::Error>) -> Result<T, Stopped> {
        result.map_err(|error| {
            if !self.cancel.is_cancelled() {
                self.observer.vertex(vertex, Status::Failed);
            }
            self.fail(vertex, error)
        })
    }

    /// Keeps the first error and cancels everything else. After one that begins anew, what runs goes on; an error of
    /// that is the one to tell.
    fn fail(&self, vertex: VertexId, error: W::Error) -> Stopped {
        if self.cancel.is_cancelled() {
            return Stopped;
        }
        let begins_anew = self.worker.begins_anew(&error);
        let mut failure = lock(&self.failure);
        let is_told = failure
            .as_ref()
            .is_some_and(|(_, known)| begins_anew || !self.worker.begins_anew(known));
        if !is_told {
            *failure = Some((vertex, Arc::new(error)));
        }
        drop(failure);
        match begins_anew {
            true => self.stop.cancel(),
            false => self.cancel.cancel(),
        }
        Stopped
    }
}
