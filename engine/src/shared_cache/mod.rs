//! Build caches that machines share: `--cache-from` and `--cache-to`.
//!
//! * [`records`]: what is written down of results; * [`import`]: finding them, and bringing their layers where a step
//!   or an output needs the files; * [`export`]: sending results while the build goes on, and their records at its
//!   end; * [`mounts`]: cache mounts that go along; * [`carried`]: records within the image.
//!
//! Where a cache lies, and how writers share a name, is `rbuild_image::shared`. What comes from a cache is believed
//! as far as a local record is: it says which layers a step makes. The bytes are compared with their digests, layers
//! are unpacked as those of any image, and a result that is missing or not what was said of it is no result: its
//! step runs, and a warning tells why.

pub(crate) mod carried;
pub(crate) mod export;
pub(crate) mod import;
mod mounts;
mod records;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use rbuild_cache::Key;
use rbuild_image::registry::Client;
use rbuild_image::shared::redis::Redis;
use rbuild_image::shared::s3::S3;
use rbuild_image::shared::{Directory, Objects, Place, Repository};
use rbuild_image::source::{Progress, Resolved};
use rbuild_solver::Graph;
use tokio_util::sync::CancellationToken;

use crate::error::with_causes;
use crate::event::{Event, Sink, StepId};
use crate::lower::ImageNeed;
use crate::op::Op;
use crate::request::{BuildRequest, CachePlace};
use crate::{Engine, Error, Result, output};
use export::Exports;
use import::Imports;

/// Why something of a cache is of no use.
#[derive(Debug, Clone)]
pub(crate) struct Problem(String);

impl Problem {
    fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }

    /// An error with its causes.
    fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        Self(with_causes(error))
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The shared caches of a build.
pub(crate) struct Caches {
    pub(crate) imports: Option<Arc<Imports>>,
    pub(crate) exports: Option<Arc<Exports>>,
}

impl Caches {
    /// Nothing is made where there are none. What is taken from is read from now on.
    pub(crate) fn new(
        engine: &Engine,
        request: &BuildRequest,
        events: &Arc<dyn Sink>,
    ) -> Result<Self> {
        if request.cache_from.is_empty() && request.cache_to.is_empty() {
            return Ok(Self {
                imports: None,
                exports: None,
            });
        }
        let (store, client) = (engine.store(), &engine.client);
        let lists = Arc::default();
        let imports = (!request.cache_from.is_empty()).then(|| {
            Imports::new(
                Arc::clone(store),
                client.clone(),
                Arc::clone(events),
                &request.cache_from,
                Arc::clone(&lists),
            )
        });
        let imports = imports.transpose()?;
        if let Some(imports) = imports.clone() {
            tokio::spawn(async move { imports.load().await });
        }
        let choice = request.outputs.iter().find_map(|output| output.compression);
        let usual = choice.map_or_else(Default::default, output::compression);
        let exports = (!request.cache_to.is_empty()).then(|| {
            Exports::new(
                store,
                client,
                events,
                &request.cache_to,
                usual,
                imports.clone(),
                lists,
            )
        });
        let exports = exports.transpose()?;
        Ok(Self { imports, exports })
    }

    pub(crate) fn set_images(&self, images: &HashMap<ImageNeed, Arc<Resolved>>) {
        let images = || images.values().map(AsRef::as_ref);
        if let Some(imports) = &self.imports {
            imports.set_images(images());
        }
        if let Some(exports) = &self.exports {
            exports.set_images(images());
        }
    }
}

/// Gives to the caches that were asked for.
pub(crate) async fn give(
    exports: &Arc<Exports>,
    graph: &Arc<Graph<Op>>,
    held: &HashSet<Key>,
    steps: &[StepId],
    events: &Arc<dyn Sink>,
    cancel: &CancellationToken,
) -> Result<()> {
    for (export, step) in exports.each().iter().zip(steps) {
        events.event(Event::Started { step: *step });
        let began = Instant::now();
        let moved: Progress = {
            let (events, step) = (Arc::clone(events), *step);
            Arc::new(move |what, done, total| {
                events.event(Event::Progress {
                    step,
                    what: what.to_owned(),
                    done,
                    total,
                });
            })
        };
        let given = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Error::Cancelled),
            given = exports.finish(export, graph, held, &moved) => given,
        };
        if let Err(problem) = given {
            let message = format!("cannot export the cache to {}: {problem}", export.place());
            if !export.spec.ignore_error {
                events.event(Event::Failed {
                    step: *step,
                    message: message.clone(),
                });
                return Err(Error::Other(format!(
                    "{message}; the image is made, and with `ignore-error=true` the build would succeed"
                )));
            }
            events.event(Event::Warning {
                located: None,
                message,
            });
        }
        events.event(Event::Done {
            step: *step,
            took: began.elapsed(),
        });
    }
    Ok(())
}

fn place(client: &Client, place: &CachePlace) -> Result<Place> {
    Ok(match place {
        CachePlace::Registry(reference) => {
            Place::Registry(Repository::new(client.clone(), reference.clone()))
        }
        CachePlace::Local { path, tag, digest } => {
            Place::Layout(Directory::new(path.clone(), tag.clone(), *digest))
        }
        CachePlace::S3(options) => {
            let s3 = S3::new(client.clone(), options.as_ref().clone())?;
            Place::Objects(Objects::S3(s3))
        }
        CachePlace::Redis { url, prefix, name } => {
            let redis = Redis::new(url.clone(), prefix.clone(), name.clone());
            Place::Objects(Objects::Redis(redis))
        }
    })
}

fn warn(events: &Arc<dyn Sink>, message: String) {
    events.event(Event::Warning {
        located: None,
        message,
    });
}
