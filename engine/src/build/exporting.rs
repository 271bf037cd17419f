//! From what a build's targets came to, to its outputs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rbuild_cache::{Snapshot, Store};

use super::plan::Plan;
use crate::ahead::Ahead;
use crate::assemble::Solved;
use crate::event::{Event, Sink, StepId, progress};
use crate::evidence::{Capture, Evidence};
use crate::layering;
use crate::lower::LoweredImage;
use crate::output;
use crate::request::{BuildRequest, CompressionChoice, Output, OutputKind};
use crate::shared_cache::carried;
use crate::{BuiltImage, Result, worker};

/// The outputs asked for. None means that the image is kept; and whatever else is made of it, an image with a tag is
/// kept under that, in the form of the first output that has one, unless the tag says where it is to be pushed.
pub(super) fn outputs(request: &BuildRequest) -> Vec<Output> {
    let mut outputs = request.outputs.clone();
    let kept = |output: &Output| matches!(output.kind, OutputKind::Image | OutputKind::Registry);
    if outputs.is_empty() || (!request.tags.is_empty() && !outputs.iter().any(kept)) {
        let like = outputs.iter().find(|output| {
            matches!(
                output.kind,
                OutputKind::Oci { .. } | OutputKind::Docker { .. }
            )
        });
        let docker = like.is_some_and(|like| matches!(like.kind, OutputKind::Docker { .. }));
        let image = Output {
            compression: like.map(|like| {
                like.compression
                    .unwrap_or(CompressionChoice::Gzip { level: None })
            }),
            force_compression: like.is_some_and(|like| like.force_compression),
            oci_media_types: like.map(|like| like.oci_media_types.unwrap_or(!docker)),
            rewrite_timestamp: like.is_some_and(|like| like.rewrite_timestamp),
            annotations: like.map_or_else(Vec::new, |like| like.annotations.clone()),
            ..Output::new(OutputKind::Image)
        };
        outputs.push(image);
    }
    outputs
}

/// What outputs are made with.
pub(super) struct Exporting {
    pub(super) store: Arc<Store>,
    pub(super) publisher: output::Publisher,
    pub(super) request: Arc<BuildRequest>,
    pub(super) outputs: Vec<Output>,
    /// What has begun to make their layers.
    pub(super) ahead: Option<Arc<Ahead>>,
    pub(super) plan: Arc<Plan>,
    pub(super) events: Arc<dyn Sink>,
    /// The records that the images are to carry.
    pub(super) carried: Option<Vec<carried::Made>>,
}

/// An image that is to be, and what it came to.
pub(super) struct Target {
    pub(super) image: LoweredImage,
    pub(super) top: Option<worker::Output>,
    /// The roots that are listed besides.
    pub(super) scanned: Vec<Option<Snapshot>>,
}

impl Target {
    /// With its layers.
    fn solved(&self, store: &Store) -> Result<Solved<'_>> {
        let remote = match &self.top {
            Some(worker::Output::There(there)) => there.remote().unwrap_or_default(),
            _ => Vec::new(),
        };
        let layers = match self.top.clone().and_then(worker::Output::into_snapshot) {
            Some(top) => store.chain(&top.id)?,
            None => Vec::new(),
        };
        Ok(Solved {
            image: &self.image,
            layers,
            remote,
            records: None,
            scanned: &self.scanned,
        })
    }
}

impl Exporting {
    /// Puts the images together and hands the outputs over. Blocking.
    pub(super) fn export(
        &self,
        targets: &[Target],
        capture: &Capture,
    ) -> Result<Option<BuiltImage>> {
        let evidence = Evidence::new(&self.request, &self.outputs, capture);
        let solved = targets.iter().map(|target| target.solved(&self.store));
        let mut solved = solved.collect::<Result<Vec<_>>>()?;
        if let Some(made) = &self.carried {
            self.carry(&mut solved, made);
        }
        let running = Mutex::new(None);
        self.deliver(&solved, evidence.as_ref(), &running)
            .inspect_err(|error| {
                if let Some(step) = *running.lock().unwrap_or_else(PoisonError::into_inner) {
                    self.events.event(Event::Failed {
                        step,
                        message: error.to_string(),
                    });
                }
            })
    }

    /// Has images carry their records, where there is room for them.
    fn carry(&self, solved: &mut [Solved<'_>], made: &[carried::Made]) {
        let limit = self.request.max_layers.unwrap_or(layering::LAYERS_LIMIT);
        for one in solved {
            let written = match one.layers.len() > limit {
                true => Err(format!(
                    "it has more than {limit} layers, and some are merged"
                )),
                false => carried::write(
                    &self.store,
                    made,
                    &one.layers,
                    one.image.base_layers,
                    one.image.epoch,
                )
                .map_err(|problem| problem.to_string()),
            };
            match written {
                Ok(records) => one.records = Some(records),
                Err(reason) => self.events.event(Event::Warning {
                    located: None,
                    message: format!("the image carries no cache records: {reason}"),
                }),
            }
        }
    }

    /// `running` is the step that is at work.
    fn deliver(
        &self,
        solved: &[Solved<'_>],
        evidence: Option<&Evidence<'_>>,
        running: &Mutex<Option<StepId>>,
    ) -> Result<Option<BuiltImage>> {
        let begin = |step: Option<&StepId>| {
            let step = step.copied();
            *running.lock().unwrap_or_else(PoisonError::into_inner) = step;
            if let Some(step) = step {
                self.events.event(Event::Started { step });
            }
            Instant::now()
        };
        // The layers of all outputs are made in the first one's step: nothing may leave before everything is whole.
        let mut began = begin(self.plan.exports.first());
        if let Some(ahead) = &self.ahead {
            ahead.finish();
        }
        let (store, request, outputs) = (&self.store, &self.request, &self.outputs);
        let assembled = output::assemble_all(store, solved, request, outputs, evidence)?;
        for (place, (output, image)) in outputs.iter().zip(&assembled).enumerate() {
            let step = self.plan.exports.get(place);
            if place > 0 {
                began = begin(step);
            }
            let moved = progress(step.copied(), &self.events);
            output::deliver(
                store,
                &self.publisher,
                &moved,
                solved,
                request,
                output,
                image.as_ref(),
                evidence,
            )?;
            if let Some(step) = step {
                self.events.event(Event::Done {
                    step: *step,
                    took: began.elapsed(),
                });
            }
        }
        let image = assembled.into_iter().flatten().next();
        Ok(image.map(|image| BuiltImage {
            id: image.config,
            digest: image.descriptor.digest,
            descriptor: image.descriptor,
        }))
    }
}
