//! One build from its request to its outputs. Every stage of it is elsewhere; here is their order, and who is told.

pub(crate) mod debugging;
mod solving;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures_util::future::{join_all, try_join_all};
use rbuild_cache::{Key, Snapshot, Store, TemporaryDirectory};
use rbuild_image::Platform;
use rbuild_image::source::{Location, Resolved};
use rbuild_parser::ast::Command;
use rbuild_parser::suggest::nearest;
use rbuild_parser::{Parsed, Severity, Source};
use rbuild_solver::VertexId;
use tokio_util::sync::CancellationToken;

use crate::assemble::Solved;
use crate::context::Context;
use crate::event::{Event, Sink, Step, StepId};
use crate::evidence::{Capture, Evidence, Pins};
use crate::explain;
use crate::inputs;
use crate::layering;
use crate::lint;
use crate::lower::{self, ContextKind, ImageNeed, Lowered};
use crate::op::{NetworkOp, Op};
use crate::output;
use crate::packs::Packs;
use crate::remote_context::{self, Local};
use crate::request::{
    BuildRequest, CompressionChoice, ContextLocation, NamedContext, NetworkChoice, Output,
    OutputKind,
};
use crate::shared_cache::export::Exports;
use crate::shared_cache::{Caches, carried, give};
use crate::worker::{self, Settings, VertexInfo, Worker, blocking};
use crate::{BuildOutcome, BuiltImage, Engine, Error, Located, Result};
use solving::Solving;

impl Engine {
    /// Builds. On error nothing is exported, and what was built is kept in the cache.
    pub async fn build(
        &self,
        request: BuildRequest,
        events: Arc<dyn Sink>,
        cancel: CancellationToken,
    ) -> Result<BuildOutcome> {
        let performed = self.perform(request, HashMap::new(), events, cancel);
        Ok(performed.await?.outcome)
    }

    /// As [`Engine::build`], with images that are resolved already; tells all of it.
    pub(crate) async fn perform(
        &self,
        request: BuildRequest,
        known: HashMap<ImageNeed, Arc<Resolved>>,
        events: Arc<dyn Sink>,
        cancel: CancellationToken,
    ) -> Result<Performed> {
        let started = worker::now();
        let outputs = outputs(&request);
        let begun = self.begin(request, &outputs, known, &events, &cancel);
        let Begun {
            request,
            source,
            pins,
            lowered,
            warnings,
            plan,
            images,
            caches,
            worker,
        } = begun.await?;
        let publisher = output::Publisher {
            client: self.client.clone(),
            runtime: tokio::runtime::Handle::current(),
            cancel: cancel.clone(),
            known: repositories(&images),
        };
        let notebook = Arc::clone(&worker.notebook);
        let going = output::going(&request, &outputs, &publisher.known);
        let solving = Solving {
            worker: &worker,
            plan: &plan,
            events: &events,
            cancel: &cancel,
            needs_files: outputs.iter().any(output::needs_files) || request.attestations.sbom,
            going: going.as_ref(),
        };
        let built = solving.solve(lowered, &request).await?;
        let (steps, cached) = (built.steps.len(), built.cached);
        let (graph, held) = (Arc::clone(&built.graph), built.held.clone());
        let images = by_digest(&images);
        let store = Arc::clone(self.store());
        let carried = match &caches.exports {
            Some(exports) => exports.carried(&graph).await.map_err(not_carried)?,
            None => None,
        };
        let exporting = {
            let (events, plan) = (Arc::clone(&events), Arc::clone(&plan));
            blocking(move || {
                let capture = Capture {
                    dockerfile: source,
                    graph: built.graph,
                    steps: built.steps,
                    images,
                    pins,
                    started,
                };
                let evidence = Evidence::new(&request, &outputs, &capture);
                let mut solved = chains(&store, &built.images, &built.tops, &built.scanned)?;
                if let Some(made) = carried {
                    carry(&store, &mut solved, &made, &request, &events);
                }
                let image = export(
                    &store,
                    &publisher,
                    &solved,
                    &request,
                    &outputs,
                    &plan,
                    &events,
                    evidence.as_ref(),
                )?;
                drop(solved);
                drop(evidence);
                Ok::<_, Error>((image, capture, built.images, built.tops))
            })
        };
        let (image, capture, images, tops) = exporting.await?;
        if let Some(exports) = &caches.exports {
            give(exports, &graph, &held, &plan.caches, &events, &cancel).await?;
        }
        Ok(Performed {
            outcome: BuildOutcome {
                image,
                steps,
                cached,
                warnings,
            },
            capture,
            images,
            tops: tops
                .into_iter()
                .map(|top| top.and_then(worker::Output::into_snapshot))
                .collect(),
            keys: notebook.keys(),
        })
    }

    /// From a request to a build that can be solved: everything that is asked of it is understood, and its steps are
    /// told.
    async fn begin(
        &self,
        request: BuildRequest,
        outputs: &[Output],
        known: HashMap<ImageNeed, Arc<Resolved>>,
        events: &Arc<dyn Sink>,
        cancel: &CancellationToken,
    ) -> Result<Begun> {
        let request = Arc::new(request);
        let main = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Error::Cancelled),
            main = self.main_context(&request) => main?,
        };
        let source = Arc::new(main.dockerfile);
        let pins = Arc::new(Pins::default());
        pins.context("", main.pin);
        let parsed = rbuild_parser::parse(&source);
        let options = options(&request);
        require_sound(&source, &parsed, &options)?;
        let settings = lint::Settings::of(&parsed, &request.build_args).map_err(|mistake| {
            Error::Dockerfile(vec![Located {
                source: Arc::clone(&source),
                diagnostic: *mistake,
            }])
        })?;
        let caches = Caches::new(self, &request, events)?;
        let images = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Error::Cancelled),
            images = self.images_of(&request, &source, &parsed, &options, known) => images?,
        };
        let mut lowered =
            lower::lower(&source, &parsed, &options, &images).map_err(Error::Dockerfile)?;
        let mut warnings = lint::look(&source, &parsed, &request)?;
        warnings.append(&mut lowered.warnings);
        settings.select(&mut warnings);
        lowered.warnings.clone_from(&warnings);
        if let Some(violation) = settings.violation(&warnings) {
            warnings.push(violation);
            return Err(Error::Dockerfile(warnings));
        }
        output::check(&request, outputs, lowered.images.len())?;
        let plan = Arc::new(Plan::new(&lowered, outputs, caches.exports.as_deref()));
        let contexts = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Error::Cancelled),
            contexts = self.contexts(&request, &lowered, main.local.as_ref(), &pins) => contexts?,
        };
        events.event(Event::Plan {
            steps: plan.steps.clone(),
        });

        caches.set_images(&images);
        let mut worker = self.worker(&request, &lowered, &plan, contexts, &images, events, &pins);
        worker.imports = caches.imports.clone();
        worker.exports = caches.exports.clone();
        worker.packs = output::form_of_layers(&request, outputs)
            .and_then(|options| Packs::new(&lowered.graph, &needed(&lowered), options));
        let worker = Arc::new(worker);
        Ok(Begun {
            request,
            source,
            pins,
            lowered,
            warnings,
            plan,
            images,
            caches,
            worker,
        })
    }

    /// Resolves the images that a build would begin with.
    pub(crate) async fn images_needed_by(
        &self,
        request: &BuildRequest,
    ) -> Result<HashMap<ImageNeed, Arc<Resolved>>> {
        let main = self.main_context(request).await?;
        let source = Arc::new(main.dockerfile);
        let parsed = rbuild_parser::parse(&source);
        let options = options(request);
        require_sound(&source, &parsed, &options)?;
        self.images_of(request, &source, &parsed, &options, HashMap::new())
            .await
    }

    /// Resolves every image that the build needs: at once those that are known to be needed, and again for what they
    /// turn out to need themselves.
    pub(crate) async fn images_of(
        &self,
        request: &BuildRequest,
        source: &Arc<Source>,
        parsed: &Parsed,
        options: &lower::Options,
        mut known: HashMap<ImageNeed, Arc<Resolved>>,
    ) -> Result<HashMap<ImageNeed, Arc<Resolved>>> {
        loop {
            let needs =
                lower::images_needed(source, parsed, options, &known).map_err(Error::Dockerfile)?;
            if needs.is_empty() {
                return Ok(known);
            }
            let resolved = join_all(needs.into_iter().map(|(need, place)| async move {
                let resolved = self
                    .resolve(&need.location, &need.platform, request.pull)
                    .await;
                (need, place, resolved)
            }));
            let mut missing = Vec::new();
            for (need, place, resolved) in resolved.await {
                match resolved {
                    Ok(resolved) => {
                        known.insert(need, Arc::new(resolved));
                    }
                    Err(error) => missing.push(not_found(place, &error)),
                }
            }
            if !missing.is_empty() {
                return Err(Error::Dockerfile(missing));
            }
        }
    }

    /// Finds an image: a name means the one in the store, if it has it for the platform, before a registry is asked;
    /// the other way round with `pull`.
    pub(crate) async fn resolve(
        &self,
        location: &Location,
        platform: &Platform,
        pull: bool,
    ) -> rbuild_image::Result<Resolved> {
        let store = self.store();
        if let Location::Registry(reference) = location
            && !pull
            && let Some(image) = store.image_by_name(&reference.canonical())?
        {
            let stored = Location::Stored(image.manifest);
            let found = rbuild_image::source::resolve(store, &self.client, &stored, platform).await;
            // One for another platform, or one that is damaged: the registry may have better.
            if let Ok(found) = found {
                // Where layers are brought from that are not here any more.
                let location = location.clone();
                return Ok(Resolved { location, ..found });
            }
        }
        let resolved =
            rbuild_image::source::resolve(store, &self.client, location, platform).await?;
        if let Location::Registry(reference) = location
            && let Err(error) = self.remember(reference, &resolved).await
        {
            // It is asked for again next time.
            tracing::warn!(%reference, %error, "a base image is not remembered");
        }
        Ok(resolved)
    }

    /// Opens the contexts that something in the graph uses.
    async fn contexts(
        &self,
        request: &BuildRequest,
        lowered: &Lowered,
        main: Option<&Local>,
        pins: &Pins,
    ) -> Result<HashMap<String, Arc<Context>>> {
        let mut used = HashSet::new();
        for &vertex in &needed(lowered) {
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
        ignore: Option<crate::context::Ignore>,
        temporary: Option<Arc<TemporaryDirectory>>,
    ) -> Result<Arc<Context>> {
        let context = Context::open(path, ignore, Arc::clone(self.store()));
        let context = context.map_err(|error| Error::Io {
            message: error.to_string(),
            source: std::io::Error::other(error),
        })?;
        Ok(Arc::new(context.keeping(temporary)))
    }

    #[expect(clippy::too_many_arguments, reason = "a worker knows all of a build")]
    fn worker(
        &self,
        request: &BuildRequest,
        lowered: &Lowered,
        plan: &Plan,
        contexts: HashMap<String, Arc<Context>>,
        images: &HashMap<ImageNeed, Arc<Resolved>>,
        events: &Arc<dyn Sink>,
        pins: &Arc<Pins>,
    ) -> Worker {
        let secrets = request.secrets.iter();
        let access = remote_context::access(request);
        Worker {
            executor: Arc::clone(&self.executor),
            client: self.client.clone(),
            settings: Settings {
                secrets: access.secrets,
                ssh: access.ssh,
                network: request.network,
                users: request.users,
                limits: request.limits.clone(),
            },
            images: by_digest(images),
            contexts,
            wanted: worker::wanted(&lowered.graph, &needed(lowered)),
            vertices: plan.vertices.clone(),
            events: Arc::clone(events),
            masked: worker::log::values(secrets.map(|secret| &*secret.data)),
            said_network: Arc::default(),
            networks: Arc::default(),
            uses_networks: request.network == NetworkChoice::Default && asks_for_network(lowered),
            materialised: Mutex::default(),
            notebook: Arc::default(),
            pins: Arc::clone(pins),
            emptied: Mutex::default(),
            keeps_left: request.keep_failed,
            left: Mutex::default(),
            imports: None,
            exports: None,
            packs: None,
        }
    }
}

fn targets(lowered: &Lowered) -> Vec<VertexId> {
    let images = lowered.images.iter();
    images.flat_map(lower::LoweredImage::targets).collect()
}

fn needed(lowered: &Lowered) -> Vec<VertexId> {
    lowered.graph.needed(&targets(lowered))
}

/// Whether a command that may have to run is to have a network of its own.
fn asks_for_network(lowered: &Lowered) -> bool {
    let mut needed = needed(lowered).into_iter();
    needed.any(|vertex| match lowered.graph.operation(vertex) {
        Op::Exec(exec) => exec.network == NetworkOp::Default,
        _ => false,
    })
}

/// An error that the parser found ends the build.
pub(crate) fn require_sound(
    source: &Arc<Source>,
    parsed: &Parsed,
    options: &lower::Options,
) -> Result<()> {
    let all = &parsed.diagnostics;
    if all.iter().all(|one| one.severity != Severity::Error) {
        return Ok(());
    }
    let located = all.iter().map(|diagnostic| Located {
        source: Arc::clone(source),
        diagnostic: diagnostic.clone(),
    });
    let mut located: Vec<Located> = located.collect();
    located.extend(further_mistakes(source, parsed, options));
    located.sort_by_key(|one| one.diagnostic.primary.span.start);
    Err(Error::Dockerfile(located))
}

/// What is wrong besides, with instructions that parse: so that all mistakes are told at once. Not where a stage may
/// be missing for what the parser found.
pub(crate) fn further_mistakes(
    source: &Arc<Source>,
    parsed: &Parsed,
    options: &lower::Options,
) -> Vec<Located> {
    let instructions = &parsed.dockerfile.instructions;
    let is_lost = instructions.iter().any(|instruction| {
        let keyword = instruction.keyword.value.as_str();
        matches!(instruction.command, Command::Invalid)
            && nearest(keyword, ["FROM", "ARG"]).is_some()
    });
    if is_lost {
        return Vec::new();
    }
    let known = HashMap::new();
    let mistakes = lower::images_needed(source, parsed, options, &known).err();
    let is_said = |one: &Located| {
        let place = one.diagnostic.primary.span;
        parsed.diagnostics.iter().any(|said| {
            let said = said.primary.span;
            said.start < place.end && place.start < said.end
        })
    };
    let mistakes = mistakes.unwrap_or_default().into_iter();
    mistakes
        .filter(|one| one.diagnostic.severity == Severity::Error && !is_said(one))
        .collect()
}

fn not_found(mut place: Located, error: &rbuild_image::Error) -> Located {
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let more = error.to_string();
        if !words.contains(&more) {
            words.push_str(": ");
            words.push_str(&more);
        }
        cause = error.source();
    }
    if place.diagnostic.code == "unknown-stage" {
        // Most likely a slip: what a registry says of it matters less.
        place = Located {
            diagnostic: place.diagnostic.help(format!("as an image: {words}")),
            ..place
        };
    } else {
        place.diagnostic.primary.text = words;
    }
    place
}

pub(crate) fn options(request: &BuildRequest) -> lower::Options {
    let contexts = request.contexts.iter().map(|(name, context)| {
        let kind = match context {
            NamedContext::Directory(_) | NamedContext::Remote(_) => ContextKind::Directory,
            NamedContext::Image(location) => ContextKind::Image(location.clone()),
            NamedContext::Stage(stage) => ContextKind::Stage(stage.clone()),
        };
        (name.clone(), kind)
    });
    lower::Options {
        target: request.target.clone(),
        platforms: request.platforms.clone(),
        build_platform: Platform::host(),
        build_args: request.build_args.clone(),
        labels: request.labels.clone(),
        contexts: contexts.collect(),
        no_cache: request.no_cache.clone(),
        hosts: request.hosts.clone(),
        allow: request.allow.clone(),
        source_date_epoch: request.source_date_epoch.clone(),
        every_stage: false,
        sbom: request.attestations.sbom,
        assumed: false,
    }
}

/// The outputs asked for. None means that the image is kept; and whatever else is made of it, an image with a tag is
/// kept under that, in the form of the first output that has one, unless the tag says where it is to be pushed.
fn outputs(request: &BuildRequest) -> Vec<Output> {
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

/// The steps of a build, by number and by vertex.
struct Plan {
    steps: Vec<Step>,
    vertices: HashMap<VertexId, VertexInfo>,
    /// One for each output, in their order.
    exports: Vec<StepId>,
    /// One for each cache that is given to.
    caches: Vec<StepId>,
}

impl Plan {
    fn new(lowered: &Lowered, outputs: &[Output], caches: Option<&Exports>) -> Self {
        let mut steps = Vec::new();
        let mut vertices = HashMap::new();
        let mut id = 0;
        let mut next = || {
            let this = StepId(id);
            id += 1;
            this
        };
        for info in &lowered.steps {
            let step = next();
            steps.push(Step {
                id: step,
                name: info.name.clone(),
                line: Some(info.start_line),
            });
            let info = VertexInfo {
                step,
                record_step: info.record_step.clone(),
                provenance: explain::report::besides(&lowered.graph, info),
            };
            vertices.insert(lowered.steps[steps.len() - 1].vertex, info);
        }
        let mut exports = Vec::new();
        for output in outputs {
            let step = next();
            steps.push(Step {
                id: step,
                name: output::describe(output).to_owned(),
                line: None,
            });
            exports.push(step);
        }
        let mut given = Vec::new();
        for export in caches.into_iter().flat_map(Exports::each) {
            let step = next();
            steps.push(Step {
                id: step,
                name: export.describe(),
                line: None,
            });
            given.push(step);
        }
        Self {
            steps,
            vertices,
            exports,
            caches: given,
        }
    }
}

/// A build that is ready to be solved.
struct Begun {
    request: Arc<BuildRequest>,
    source: Arc<Source>,
    pins: Arc<Pins>,
    lowered: Lowered,
    warnings: Vec<Located>,
    plan: Arc<Plan>,
    images: HashMap<ImageNeed, Arc<Resolved>>,
    caches: Caches,
    worker: Arc<Worker>,
}

/// A build that is done, and what is known of it then.
pub(crate) struct Performed {
    pub(crate) outcome: BuildOutcome,
    pub(crate) capture: Capture,
    /// One a platform.
    pub(crate) images: Vec<lower::LoweredImage>,
    pub(crate) tops: Vec<Option<Snapshot>>,
    /// Definition keys, under which the results of steps are found.
    pub(crate) keys: HashMap<VertexId, Key>,
}

impl Performed {
    /// All vertices that the images needed, inputs before what uses them.
    pub(crate) fn needed(&self) -> Vec<VertexId> {
        let targets: Vec<VertexId> = self
            .images
            .iter()
            .flat_map(lower::LoweredImage::targets)
            .collect();
        self.capture.graph.needed(&targets)
    }
}

/// Tells of the bytes that a step moves.
fn moved(step: Option<StepId>, events: &Arc<dyn Sink>) -> output::Moved {
    let events = Arc::clone(events);
    Arc::new(move |what, done, total| {
        if let Some(step) = step {
            events.event(Event::Progress {
                step,
                what: what.to_owned(),
                done,
                total,
            });
        }
    })
}

/// Which repositories have the layers of the images that a build begins with.
fn repositories(
    images: &HashMap<ImageNeed, Arc<Resolved>>,
) -> HashMap<rbuild_cache::Digest, Vec<rbuild_image::Reference>> {
    let mut known: HashMap<_, Vec<_>> = HashMap::new();
    for image in images.values() {
        if let Location::Registry(reference) = &image.location {
            for layer in &image.manifest.layers {
                known
                    .entry(layer.digest)
                    .or_default()
                    .push(reference.clone());
            }
        }
    }
    known
}

fn by_digest(
    images: &HashMap<ImageNeed, Arc<Resolved>>,
) -> HashMap<rbuild_cache::Digest, Arc<Resolved>> {
    images
        .values()
        .map(|image| (image.digest, Arc::clone(image)))
        .collect()
}

/// The targets with the layers that they came to.
fn chains<'a>(
    store: &Store,
    images: &'a [lower::LoweredImage],
    tops: &[Option<worker::Output>],
    scanned: &'a [Vec<Option<Snapshot>>],
) -> Result<Vec<Solved<'a>>> {
    let chain = |((image, top), scanned): (
        (&'a lower::LoweredImage, &Option<worker::Output>),
        &'a Vec<Option<Snapshot>>,
    )| {
        let remote = match top {
            Some(worker::Output::There(there)) => there.remote().unwrap_or_default(),
            _ => Vec::new(),
        };
        let layers = match top.clone().and_then(worker::Output::into_snapshot) {
            Some(top) => store.chain(&top.id)?,
            None => Vec::new(),
        };
        Ok(Solved {
            image,
            layers,
            remote,
            records: None,
            scanned,
        })
    };
    images.iter().zip(tops).zip(scanned).map(chain).collect()
}

fn not_carried(problem: impl std::fmt::Display) -> Error {
    Error::Other(format!("cannot read the records for the image: {problem}"))
}

/// Has images carry their records, where there is room for them. Blocking.
fn carry(
    store: &Store,
    solved: &mut [Solved<'_>],
    made: &[carried::Made],
    request: &BuildRequest,
    events: &Arc<dyn Sink>,
) {
    let limit = request.max_layers.unwrap_or(layering::LAYERS_LIMIT);
    for one in solved {
        let written = match one.layers.len() > limit {
            true => Err(format!(
                "it has more than {limit} layers, and some are merged"
            )),
            false => carried::write(
                store,
                made,
                &one.layers,
                one.image.base_layers,
                one.image.epoch,
            )
            .map_err(|problem| problem.to_string()),
        };
        match written {
            Ok(records) => one.records = Some(records),
            Err(reason) => events.event(Event::Warning {
                located: None,
                message: format!("the image carries no cache records: {reason}"),
            }),
        }
    }
}

/// Puts the images together and hands the outputs over. Blocking.
#[expect(
    clippy::too_many_arguments,
    reason = "all of a build comes together here"
)]
fn export(
    store: &Arc<Store>,
    publisher: &output::Publisher,
    solved: &[Solved<'_>],
    request: &BuildRequest,
    outputs: &[Output],
    plan: &Plan,
    events: &Arc<dyn Sink>,
    evidence: Option<&Evidence<'_>>,
) -> Result<Option<BuiltImage>> {
    let running = Mutex::new(None);
    let run = || -> Result<Option<BuiltImage>> {
        let begin = |step: Option<&StepId>| {
            let step = step.copied();
            *running.lock().unwrap_or_else(PoisonError::into_inner) = step;
            if let Some(step) = step {
                events.event(Event::Started { step });
            }
            Instant::now()
        };
        // The layers of all outputs are made in the first one's step: nothing may leave before everything is whole.
        let mut began = begin(plan.exports.first());
        let assembled = output::assemble_all(store, solved, request, outputs, evidence)?;
        for (place, (output, image)) in outputs.iter().zip(&assembled).enumerate() {
            let step = plan.exports.get(place);
            if place > 0 {
                began = begin(step);
            }
            let moved = moved(step.copied(), events);
            output::deliver(
                store,
                publisher,
                &moved,
                solved,
                request,
                output,
                image.as_ref(),
                evidence,
            )?;
            if let Some(step) = step {
                events.event(Event::Done {
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
    };
    let image = run().inspect_err(|error| {
        if let Some(step) = *running.lock().unwrap_or_else(PoisonError::into_inner) {
            events.event(Event::Failed {
                step,
                message: error.to_string(),
            });
        }
    })?;
    store.sync()?;
    Ok(image)
}
