//! ADD of an http or https URL.

use rbuild_solver::VertexId;

use super::failure::{Failure, Result};
use super::{Output, Worker};
use crate::op::HttpSource;

impl Worker {
    pub(super) async fn http(&self, _vertex: VertexId, source: &HttpSource) -> Result<Output> {
        Err(Failure::new(
            "unsupported",
            format!("ADD of `{}` is not supported yet", source.url),
        ))
    }
}
