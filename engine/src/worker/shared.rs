//! Results that shared caches have: brought here where they are worked on, left there where they are only pushed.

use futures_util::future::try_join_all;
use rbuild_cache::Snapshot;
use rbuild_solver::VertexId;

use super::failure::{Failure, Result};
use super::{Output, Worker};
use crate::event::StepId;
use crate::shared_cache::import::{Going, There};

/// A failure that means: look again, without what turned out to be of no use.
pub(crate) const UNUSABLE: &str = "shared-cache";

impl Worker {
    /// Brings what a vertex works on here, where a shared cache has it.
    pub(super) async fn brought(
        &self,
        vertex: VertexId,
        inputs: Vec<Output>,
    ) -> Result<Vec<Output>> {
        let is_there = |input: &Output| matches!(input, Output::There(_));
        if !inputs.iter().any(is_there) {
            return Ok(inputs);
        }
        let step = self.step(vertex);
        try_join_all(inputs.into_iter().map(|input| async move {
            match input {
                Output::There(there) => self.bring(step, &there).await.map(Output::Snapshot),
                other => Ok(other),
            }
        }))
        .await
    }

    /// Brings a result of a shared cache here. The failure is [`UNUSABLE`]: then it is found no more.
    pub(crate) async fn bring(
        &self,
        step: Option<StepId>,
        there: &There,
    ) -> Result<Option<Snapshot>> {
        let unusable = |reason: String| Failure::new(UNUSABLE, reason);
        let Some(imports) = &self.imports else {
            return Err(unusable("there is no shared cache".to_owned()));
        };
        let brought = imports.bring(there, self.progress(step)).await;
        brought.map_err(|problem| unusable(problem.to_string()))
    }

    /// Leaves a result of a shared cache where it is, if what is to be pushed of it can be had there. False where its
    /// files are needed; the failure as of [`Worker::bring`].
    pub(crate) async fn leave_there(
        &self,
        step: Option<StepId>,
        there: &There,
        going: &Going,
    ) -> Result<bool> {
        let Some(imports) = &self.imports else {
            return Ok(false);
        };
        let left = imports.leave(there, going, &self.progress(step)).await;
        left.map_err(|problem| Failure::new(UNUSABLE, problem.to_string()))
    }
}
