//! ADD of a git repository.

use super::failure::Result;
use super::{Output, Worker};
use crate::fetch;
use crate::op::GitSource;

impl Worker {
    pub(super) async fn git(&self, source: &GitSource) -> Result<Output> {
        let access = self.settings.access();
        let snapshot = fetch::git::checkout(self.store(), source, &access).await?;
        Ok(Output::Snapshot(Some(snapshot)))
    }
}
