//! ADD of a git repository.

use rbuild_solver::VertexId;

use super::failure::Result;
use super::{Output, Worker};
use crate::evidence::Pin;
use crate::fetch;
use crate::op::GitSource;

impl Worker {
    pub(super) async fn git(&self, vertex: VertexId, source: &GitSource) -> Result<Output> {
        let access = self.settings.access();
        let (snapshot, commit) = fetch::git::checkout(self.store(), source, &access).await?;
        self.pins.vertex(vertex, Pin::Commit(commit));
        Ok(Output::Snapshot(Some(snapshot)))
    }
}
