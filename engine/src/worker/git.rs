//! ADD of a git repository.

use rbuild_solver::VertexId;
use tokio_util::sync::CancellationToken;

use super::failure::{Failure, Result};
use super::{Output, Worker};
use crate::op::GitSource;

impl Worker {
    pub(super) async fn git(
        &self,
        _vertex: VertexId,
        source: &GitSource,
        _cancel: CancellationToken,
    ) -> Result<Output> {
        Err(Failure::new(
            "unsupported",
            format!("ADD of `{}` is not supported yet", source.url),
        ))
    }
}
