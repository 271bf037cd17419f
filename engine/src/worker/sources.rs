//! Base images and build contexts, which operations begin with.

use std::sync::Arc;

use rbuild_solver::VertexId;

use super::failure::{Failure, Result};
use super::{Output, View, Worker, blocking};
use crate::op::ImageSource;

impl Worker {
    pub(super) async fn image(&self, vertex: VertexId, image: &ImageSource) -> Result<Output> {
        let resolved = self.images.get(&image.digest).ok_or_else(|| {
            Failure::new(
                "image",
                format!("the image `{}` was not resolved", image.name),
            )
        })?;
        let progress = self.progress(self.step(vertex));
        let snapshots =
            rbuild_image::source::snapshots(self.store(), &self.client, resolved, progress).await?;
        Ok(Output::Snapshot(snapshots.last().cloned()))
    }

    pub(super) async fn context(&self, name: &str) -> Result<Output> {
        let Some(context) = self.contexts.get(name) else {
            let message = if name.is_empty() {
                "this build has no context: there are no files to copy from".to_owned()
            } else {
                format!("there is no build context named `{name}`")
            };
            return Err(Failure::new("no-context", message));
        };
        let context = Arc::clone(context);
        let wanted = self.wanted.get(name).cloned().unwrap_or_default();
        let tree = match context.tree_at_once(&wanted) {
            Some(tree) => tree,
            None => {
                let context = Arc::clone(&context);
                blocking(move || context.tree(&wanted)).await
            }
        };
        let tree = tree.map_err(|error| Failure::of("build-context", error))?;
        Ok(Output::Context(Arc::new(View {
            tree: Arc::new(tree),
            context,
        })))
    }
}
