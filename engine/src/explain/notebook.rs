//! What a build says of its steps while it runs: definition keys, how each ended, what the ones that ran were made
//! of, and which records of them there were before.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rbuild_cache::{Ingredient, Key, Store};
use rbuild_solver::{Status, VertexId};

use super::StepOutcome;

#[derive(Debug, Default)]
pub(crate) struct Notebook {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) planned: HashMap<VertexId, Planned>,
    pub(super) outcomes: HashMap<VertexId, StepOutcome>,
    pub(super) made: HashMap<VertexId, Made>,
}

#[derive(Debug)]
pub(super) struct Planned {
    pub(super) key: Key,
    pub(super) ingredients: Arc<[Ingredient]>,
}

/// A step that ran.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) ingredients: Vec<Ingredient>,
    /// Of the records that there were before.
    pub(super) earlier: Vec<Vec<Ingredient>>,
}

/// How many records of a step are looked at.
const RECORDS_MAX: usize = 32;

impl Notebook {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // The state is whole after every statement.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn planned(&self, vertex: VertexId, key: Key, ingredients: &Arc<[Ingredient]>) {
        let planned = Planned {
            key,
            ingredients: Arc::clone(ingredients),
        };
        self.state().planned.insert(vertex, planned);
    }

    /// Definition keys of all vertices that were planned.
    pub(crate) fn keys(&self) -> HashMap<VertexId, Key> {
        let state = self.state();
        let planned = state.planned.iter();
        planned.map(|(vertex, it)| (*vertex, it.key)).collect()
    }

    pub(crate) fn status(&self, vertex: VertexId, status: Status) {
        let outcome = match status {
            Status::Started | Status::Cancelled => StepOutcome::NotReached,
            Status::Cached => StepOutcome::Cached,
            Status::Done { .. } => StepOutcome::Ran,
            Status::Failed => StepOutcome::Failed,
        };
        self.state().outcomes.insert(vertex, outcome);
    }

    /// Call before the step's record is saved: it may replace one. `elsewhere`: of records in shared caches.
    pub(crate) fn made(
        &self,
        store: &Store,
        vertex: VertexId,
        record_step: &str,
        ingredients: &[Ingredient],
        elsewhere: Vec<Vec<Ingredient>>,
    ) {
        let earlier = store.records_of_step(record_step, RECORDS_MAX);
        let earlier = earlier.unwrap_or_default().into_iter();
        let earlier = earlier.map(|record| record.ingredients);
        // What an image carried does not tell.
        let earlier = earlier.filter(|ingredients| !ingredients.is_empty());
        let made = Made {
            ingredients: ingredients.to_vec(),
            earlier: earlier.chain(elsewhere).collect(),
        };
        self.state().made.insert(vertex, made);
    }
}
