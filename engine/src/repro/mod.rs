//! `repro`: builds twice from nothing, under different circumstances, and says what came out differently, and of
//! which step. Each build has a store of its own that goes with it; only the base images come from the caller's, so
//! that nothing is pulled twice. How the two are held against each other: [`compare`].
//!
//! What differs between the builds: the time, the number of steps at once, the umask, the place of the store. Times
//! of files later than SOURCE_DATE_EPOCH count as that, which is what `rewrite-timestamp` makes of them.

mod compare;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rbuild_cache::{Digest, Store};
use rbuild_executor::Executor;
use rbuild_image::source::{self, Location, Resolved};
use rustix::fs::Mode;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::build::Performed;
use crate::compare::Difference;
use crate::event::Sink;
use crate::images::ConfigDifference;
use crate::lower::ImageNeed;
use crate::request::{BuildRequest, CompressionChoice, ContextLocation, Output, OutputKind};
use crate::worker::{blocking, now};
use crate::{Engine, Error, Result};

/// Whether two builds came to the same, and what not.
#[derive(Debug, Clone, Serialize)]
pub struct Reproduction {
    pub reproducible: bool,
    /// Of what each build made: the manifest, or the index over several.
    pub digests: [Digest; 2],
    /// What SOURCE_DATE_EPOCH was in both.
    pub source_date_epoch: String,
    /// It was said, and not just the time at which this began.
    pub epoch_is_given: bool,
    /// Steps whose results differ, in their order.
    pub steps: Vec<DifferingStep>,
    /// Fields of the images' configs.
    pub config: Vec<ConfigDifference>,
    /// What else differs.
    pub notes: Vec<String>,
}

/// A step that came to something else the second time.
#[derive(Debug, Clone, Serialize)]
pub struct DifferingStep {
    /// `[build 2/4] RUN make`
    pub name: String,
    pub file: String,
    pub line: usize,
    pub end_line: usize,
    /// Place of its layer in the image, from 1 at the bottom; `None` where it is in none.
    pub layer: Option<usize>,
    /// Where the difference came from, as in `Dockerfile:4`, where it was not made here: files that were copied, or a
    /// command that saw them.
    pub follows: Option<String>,
    pub differences: Vec<Difference>,
}

/// Circumstances of a build.
struct Circumstances {
    jobs: usize,
    umask: u32,
}

impl Engine {
    /// Builds twice and compares. The outputs of the request are not written. `sink` is asked at the beginning of
    /// each build who hears of it.
    pub async fn repro(
        &self,
        request: BuildRequest,
        mut sink: impl FnMut() -> Arc<dyn Sink> + Send,
        cancel: CancellationToken,
    ) -> Result<Reproduction> {
        if let ContextLocation::Archive(archive) = &request.context {
            return Err(Error::Usage(format!(
                "the build context from {} can be read only once: unpack it into a directory first",
                archive.name
            )));
        }
        let given = request.build_args.get("SOURCE_DATE_EPOCH").cloned();
        let given = given.or_else(|| request.source_date_epoch.clone());
        let epoch = given.clone().unwrap_or_else(|| now().to_string());
        let mut request = BuildRequest {
            outputs: vec![result()],
            cache_from: Vec::new(),
            cache_to: Vec::new(),
            ..request
        };
        request
            .source_date_epoch
            .get_or_insert_with(|| epoch.clone());
        let images = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Error::Cancelled),
            images = self.images_here(&request) => images?,
        };
        let place = {
            let store = Arc::clone(self.store());
            blocking(move || store.temporary_directory()).await?
        };
        let most = request.jobs.unwrap_or_else(|| crate::cores().max(2));
        let first = Circumstances {
            jobs: 1,
            umask: 0o022,
        };
        let second = Circumstances {
            jobs: most,
            umask: 0o077,
        };
        let path = place.path().join("1");
        let one = self
            .once(&request, &images, &path, &first, &sink(), &cancel)
            .await?;
        wait_for_another_time().await;
        let path = place.path().join("2");
        let two = self
            .once(&request, &images, &path, &second, &sink(), &cancel)
            .await?;
        blocking(move || {
            let compared = compare::compare(&one, &two);
            // Before the directory that they are in.
            drop((one, two));
            drop(place);
            Ok(Reproduction {
                source_date_epoch: epoch,
                epoch_is_given: given.is_some(),
                ..compared?
            })
        })
        .await
    }

    /// One of the builds, in a store of its own.
    async fn once(
        &self,
        request: &BuildRequest,
        images: &HashMap<ImageNeed, Arc<Resolved>>,
        place: &Path,
        circumstances: &Circumstances,
        events: &Arc<dyn Sink>,
        cancel: &CancellationToken,
    ) -> Result<Once> {
        let store = Arc::new(Store::open(place)?);
        store.set_unpacker(rbuild_image::unpack::OwnLayers);
        let engine = Engine {
            executor: Arc::new(Executor::new(
                self.executor.host().clone(),
                Arc::clone(&store),
            )),
            client: self.client.clone(),
            limits: self.limits,
        };
        let request = BuildRequest {
            jobs: Some(circumstances.jobs),
            ..request.clone()
        };
        let before = rustix::process::umask(Mode::from_raw_mode(circumstances.umask));
        let performed = engine
            .perform(request, images.clone(), Arc::clone(events), cancel.clone())
            .await;
        rustix::process::umask(before);
        Ok(Once {
            store,
            performed: performed?,
        })
    }

    /// Finds the base images, with their layers in this store: both builds take them from here.
    async fn images_here(
        &self,
        request: &BuildRequest,
    ) -> Result<HashMap<ImageNeed, Arc<Resolved>>> {
        let mut images = self.images_needed_by(request).await?;
        let content = self.store().content_directory();
        for (need, resolved) in &mut images {
            match &resolved.location {
                Location::Registry(_) | Location::Stored(_) => {}
                Location::OciLayout { .. }
                | Location::OciArchive { .. }
                | Location::DockerArchive { .. } => continue,
            }
            // Of an image that is unpacked, the blobs may be gone.
            let layers = resolved.manifest.layers.iter();
            let missing: Vec<_> = layers
                .filter(|layer| !self.store().has_blob(&layer.digest))
                .cloned()
                .collect();
            if !missing.is_empty() {
                let progress = Arc::new(|_: &str, _, _| {});
                let from = &need.location;
                source::fetch(self.store(), &self.client, from, missing, progress).await?;
            }
            *resolved = Arc::new(Resolved {
                location: Location::OciLayout {
                    path: content.clone(),
                    tag: None,
                    digest: Some(resolved.digest),
                },
                ..(**resolved).clone()
            });
        }
        Ok(images)
    }
}

/// A build that is done, and its store.
struct Once {
    store: Arc<Store>,
    performed: Performed,
}

/// The image as it would be pushed.
fn result() -> Output {
    Output {
        compression: Some(CompressionChoice::Gzip { level: None }),
        rewrite_timestamp: true,
        ..Output::new(OutputKind::Image)
    }
}

/// Every time that a step of the second build sees is another one, to the second.
async fn wait_for_another_time() {
    let begin = now();
    while now() <= begin {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
