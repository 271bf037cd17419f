//! Arithmetic as operations, and a worker that counts what it is asked. No container is needed to test a solver.

#![allow(dead_code, reason = "each test file uses its part of the kit")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rbuild_cache::{Ingredient, Key, KeyWriter};
use rbuild_solver::{
    CachePolicy, Graph, Jobs, Observer, Operation, SolveError, Solver, Status, VertexId, Worker,
};
use tokio_util::sync::CancellationToken;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Toy {
    Constant(i64),
    /// A handle, like a build context.
    Context(i64),
    Sum,
    Product,
    /// The last decimal digit of its input: uses (selects) nothing else of it.
    LastDigit,
    /// The sum, some milliseconds later.
    Slow(u64),
    /// "again" a little later, so that the solve is to begin anew, and "late" later than that.
    Fail(&'static str),
    /// Runs until it is cancelled.
    Forever,
    /// The sum, with another cache policy.
    With(CachePolicyName),
    /// The sum; `.1` is in no key, like a proxy variable.
    Unkeyed(i64, u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum CachePolicyName {
    Refresh,
    Bypass,
}

impl Operation for Toy {
    fn describe(&self) -> KeyWriter {
        match self {
            Self::Constant(value) => {
                KeyWriter::new("constant.v1").field("value", value.to_string())
            }
            Self::Context(_) => KeyWriter::new("context.v1"),
            Self::Sum | Self::With(_) => KeyWriter::new("sum.v1"),
            Self::Product => KeyWriter::new("product.v1"),
            Self::LastDigit => KeyWriter::new("last-digit.v1"),
            Self::Slow(_) => KeyWriter::new("slow.v1"),
            Self::Fail(name) => KeyWriter::new("fail.v1").field("name", name),
            Self::Forever => KeyWriter::new("forever.v1"),
            Self::Unkeyed(value, _) => {
                KeyWriter::new("unkeyed.v1").field("value", value.to_string())
            }
        }
    }

    fn is_immediate(&self) -> bool {
        matches!(self, Self::Context(_))
    }

    fn cache_policy(&self) -> CachePolicy {
        match self {
            Self::With(CachePolicyName::Refresh) => CachePolicy::Refresh,
            Self::With(CachePolicyName::Bypass) => CachePolicy::Bypass,
            _ => CachePolicy::Use,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ToyError(pub(crate) String);

#[derive(Debug, Default)]
pub(crate) struct ToyWorker {
    pub(crate) records: Mutex<HashMap<Key, i64>>,
    pub(crate) ingredients: Mutex<Vec<Vec<Ingredient>>>,
    pub(crate) executed: Mutex<Vec<Toy>>,
    pub(crate) running: AtomicUsize,
    pub(crate) most_running: AtomicUsize,
    pub(crate) lookups: AtomicUsize,
    pub(crate) cancelled: AtomicUsize,
    /// Added to every execution, to simulate another world.
    pub(crate) offset: Mutex<i64>,
    locks: Mutex<HashMap<Key, Arc<tokio::sync::Mutex<()>>>>,
}

impl Worker for ToyWorker {
    type Operation = Toy;
    type Output = i64;
    type Error = ToyError;
    type Guard = tokio::sync::OwnedMutexGuard<()>;

    async fn input_content(
        &self,
        operation: &Toy,
        _index: usize,
        input: &i64,
    ) -> Result<Key, ToyError> {
        let used = match operation {
            Toy::LastDigit => input % 10,
            Toy::Fail("selection") => return Err(ToyError("nothing selected".into())),
            _ => *input,
        };
        Ok(KeyWriter::new("value.v1")
            .field("value", used.to_string())
            .finish())
    }

    async fn lookup(&self, _vertex: VertexId, key: Key) -> Result<Option<i64>, ToyError> {
        self.lookups.fetch_add(1, Ordering::SeqCst);
        Ok(self.records.lock().unwrap().get(&key).copied())
    }

    async fn lock(&self, key: Key) -> Result<Self::Guard, ToyError> {
        let lock = Arc::clone(self.locks.lock().unwrap().entry(key).or_default());
        Ok(lock.lock_owned().await)
    }

    async fn execute(
        &self,
        _vertex: VertexId,
        operation: &Toy,
        inputs: Vec<i64>,
        cancel: CancellationToken,
    ) -> Result<i64, ToyError> {
        self.executed.lock().unwrap().push(operation.clone());
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_running.fetch_max(running, Ordering::SeqCst);
        let sum = inputs.iter().fold(0_i64, |a, b| a.wrapping_add(*b));
        let result = match operation {
            Toy::Constant(value) | Toy::Context(value) => Ok(*value),
            Toy::Sum | Toy::With(_) => Ok(sum),
            Toy::Unkeyed(value, _) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Ok(*value)
            }
            Toy::Product => Ok(inputs.iter().fold(1_i64, |a, b| a.wrapping_mul(*b))),
            Toy::LastDigit => Ok(sum % 10),
            Toy::Slow(millis) => {
                tokio::time::sleep(Duration::from_millis(*millis)).await;
                Ok(sum)
            }
            Toy::Fail(name) => {
                let millis = match *name {
                    "late" => 200,
                    "again" => 50,
                    _ => 0,
                };
                tokio::time::sleep(Duration::from_millis(millis)).await;
                Err(ToyError((*name).to_owned()))
            }
            Toy::Forever => {
                cancel.cancelled().await;
                self.cancelled.fetch_add(1, Ordering::SeqCst);
                Err(ToyError("cancelled".into()))
            }
        };
        self.running.fetch_sub(1, Ordering::SeqCst);
        let offset = *self.offset.lock().unwrap();
        result.map(|value| value + offset)
    }

    async fn save(
        &self,
        _vertex: VertexId,
        keys: &[Key],
        ingredients: Vec<Ingredient>,
        output: &i64,
        _duration: Duration,
    ) -> Result<(), ToyError> {
        let mut records = self.records.lock().unwrap();
        for key in keys {
            records.insert(*key, *output);
        }
        self.ingredients.lock().unwrap().push(ingredients);
        Ok(())
    }

    fn begins_anew(&self, error: &ToyError) -> bool {
        error.0.starts_with("again")
    }

    async fn alias(&self, existing: Key, another: Key) -> Result<(), ToyError> {
        let mut records = self.records.lock().unwrap();
        if let Some(value) = records.get(&existing).copied() {
            records.insert(another, value);
        }
        Ok(())
    }
}

/// What was told of which vertex, in order.
#[derive(Debug, Default)]
pub(crate) struct Told(pub(crate) Mutex<Vec<(VertexId, Status)>>);

impl Observer for Told {
    fn vertex(&self, vertex: VertexId, status: Status) {
        self.0.lock().unwrap().push((vertex, status));
    }
}

impl Told {
    pub(crate) fn of(&self, vertex: VertexId) -> Vec<Status> {
        let told = self.0.lock().unwrap();
        told.iter()
            .filter(|(of, _)| *of == vertex)
            .map(|(_, status)| *status)
            .collect()
    }
}

/// A graph in the making and the machine that solves it.
pub(crate) struct Bench {
    pub(crate) worker: Arc<ToyWorker>,
    pub(crate) jobs: usize,
}

impl Default for Bench {
    fn default() -> Self {
        Self {
            worker: Arc::default(),
            jobs: 4,
        }
    }
}

pub(crate) struct Solved {
    pub(crate) outputs: Result<Vec<i64>, SolveError<ToyError>>,
    /// What was executed in this solve.
    pub(crate) executed: Vec<Toy>,
    pub(crate) told: Arc<Told>,
}

impl Bench {
    pub(crate) async fn solve(&self, graph: Graph<Toy>, targets: &[VertexId]) -> Solved {
        self.solve_until(graph, targets, CancellationToken::new())
            .await
    }

    pub(crate) async fn solve_until(
        &self,
        graph: Graph<Toy>,
        targets: &[VertexId],
        cancel: CancellationToken,
    ) -> Solved {
        let before = self.worker.executed.lock().unwrap().len();
        let solver = Solver::new(Arc::clone(&self.worker), Jobs::Fixed(self.jobs));
        let told = Arc::new(Told::default());
        let observer = Arc::clone(&told);
        let outputs = solver
            .solve(Arc::new(graph), targets, observer, cancel)
            .await;
        let executed = self.worker.executed.lock().unwrap()[before..].to_vec();
        Solved {
            outputs,
            executed,
            told,
        }
    }
}

impl Solved {
    pub(crate) fn values(&self) -> &[i64] {
        self.outputs.as_ref().expect("the solve succeeds")
    }
}
