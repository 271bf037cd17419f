//! Results as layers: whether those are there, what begins to be made into one, what is stacked.

use std::sync::{Arc, PoisonError};

use rbuild_cache::Snapshot;
use rbuild_image::layer;
use rbuild_solver::VertexId;
use tokio_util::sync::CancellationToken;

use super::failure::{Failure, Result};
use super::{Output, Worker, blocking};

impl Worker {
    /// Whether the layers are there that hold the files of a chain. Each is looked for once.
    pub(super) fn are_there(&self, chain: &[Snapshot]) -> bool {
        chain.iter().all(|snapshot| {
            let Some(digest) = snapshot.packed else {
                return true;
            };
            let seen = || self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let is_there = seen().contains(&digest) || self.store().has_layer(snapshot);
            if is_there {
                seen().insert(digest);
            }
            is_there
        })
    }

    /// What is to be a layer is begun to be made one, beside what follows. Fails where it has names that no layer can
    /// hold.
    pub(super) async fn to_layer(
        &self,
        vertex: VertexId,
        made: Output,
        cancel: &CancellationToken,
    ) -> Result<Output> {
        let snapshot = match &made {
            // What is packed is a layer already.
            Output::Snapshot(Some(snapshot))
                if snapshot.packed.is_none() && self.layers.contains(&vertex) =>
            {
                snapshot
            }
            _ => return Ok(made),
        };
        let (store, id) = (Arc::clone(self.store()), snapshot.id.clone());
        let checked = self.brief(move || Ok(layer::require_names(&*store.tree(&id)?)?));
        let help = "a stage that is only copied from may have it, and an output that is no image (`type=local`, `type=tar`); what is copied can leave it out by `--exclude` or .dockerignore";
        checked
            .await
            .map_err(|failure: Failure| failure.help(help))?;
        if let Some(leaks) = &self.leaks {
            let (leaks, store) = (Arc::clone(leaks), Arc::clone(self.store()));
            let (id, cancel) = (snapshot.id.clone(), cancel.clone());
            // Of gigabytes it takes seconds.
            blocking(move || leaks.look(vertex, &store, &id, &cancel)).await?;
        }
        if let Some(ahead) = &self.ahead {
            ahead.begin(snapshot);
        }
        Ok(made)
    }

    pub(super) async fn merge(&self, inputs: Vec<Output>) -> Result<Output> {
        let mut inputs = inputs.into_iter();
        let base = inputs.next().and_then(Output::into_snapshot);
        let layer = inputs.next().and_then(Output::into_snapshot);
        let (Some(base), Some(layer)) = (base.clone(), layer.clone()) else {
            // One of them is empty: the other is the result.
            return Ok(Output::Snapshot(layer.or(base)));
        };
        let store = Arc::clone(self.store());
        let stacked = blocking(move || store.stack(&layer.id, Some(&base.id), layer.created));
        Ok(Output::Snapshot(Some(stacked.await?)))
    }
}
