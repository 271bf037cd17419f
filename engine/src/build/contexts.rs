//! The contexts that a build reads from, opened: only those that something in the graph uses.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use futures_util::future::try_join_all;
use rbuild_cache::TemporaryDirectory;

use crate::context::{Context, Ignore};
use crate::evidence::Pins;
use crate::inputs;
use crate::lower::Lowered;
use crate::op::Op;
use crate::remote_context::Local;
use crate::request::{BuildRequest, ContextLocation, NamedContext};
use crate::{Engine, Error, Result};

impl Engine {
    /// Opens the contexts that something in the graph uses.
    pub(super) async fn contexts(
        &self,
        request: &BuildRequest,
        lowered: &Lowered,
        main: Option<&Local>,
        pins: &Pins,
    ) -> Result<HashMap<String, Arc<Context>>> {
        let mut used = HashSet::new();
        for &vertex in &lowered.needed() {
            if let Op::Context(context) = lowered.graph.operation(vertex) {
                used.insert(context.name.clone());
            }
        }
        let mut contexts = HashMap::new();
        if let ContextLocation::Directory(path) = &request.context {
            inputs::require_directory(path)?;
            if used.contains("") {
                let ignore = inputs::ignore(path, Some(&request.dockerfile))?;
                contexts.insert(String::new(), self.open_context(path, ignore, None)?);
            }
        }
        if let Some(local) = main
            && used.contains("")
        {
            let ignore = inputs::ignore(&local.directory, Some(&request.dockerfile))?;
            let temporary = local.temporary.clone();
            let context = self.open_context(&local.directory, ignore, temporary)?;
            contexts.insert(String::new(), context);
        }
        let named = request
            .contexts
            .iter()
            .filter(|(name, _)| used.contains(name));
        let named = named.map(|(name, context)| async move {
            let (directory, temporary) = match context {
                NamedContext::Directory(path) => {
                    inputs::require_directory(path)?;
                    (path.clone(), None)
                }
                NamedContext::Remote(remote) => {
                    let local = self.named_context(name, remote, request).await?;
                    pins.context(name, local.pin);
                    (local.directory, local.temporary)
                }
                NamedContext::Image(_) | NamedContext::Stage(_) => return Ok(None),
            };
            let ignore = inputs::ignore(&directory, None)?;
            let context = self.open_context(&directory, ignore, temporary)?;
            Ok::<_, Error>(Some((name.clone(), context)))
        });
        contexts.extend(try_join_all(named).await?.into_iter().flatten());
        Ok(contexts)
    }

    fn open_context(
        &self,
        path: &Path,
        ignore: Option<Ignore>,
        temporary: Option<Arc<TemporaryDirectory>>,
    ) -> Result<Arc<Context>> {
        let context = Context::open(path, ignore, Arc::clone(self.store()));
        let context = context.map_err(|error| Error::Io {
            message: error.to_string(),
            source: std::io::Error::other(error),
        })?;
        Ok(Arc::new(context.keeping(temporary)))
    }
}
