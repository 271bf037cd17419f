//! One build from its request to its outputs. Every stage of it is elsewhere; here is their order, and who is told.
//!
//! `reading` and `bases` and `contexts` find what the build begins with, `plan` says what is going to happen,
//! `solving` has it done, and `exporting` hands the result over.

mod bases;
mod contexts;
pub(crate) mod debugging;
mod exporting;
mod plan;
mod reading;
mod solving;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use rbuild_cache::{Key, Snapshot};
use rbuild_image::source::Resolved;
use rbuild_parser::Source;
use rbuild_solver::VertexId;
use tokio_util::sync::CancellationToken;

use crate::ahead::Ahead;
use crate::context::Context;
use crate::event::{Event, Sink};
use crate::evidence::{Capture, Pins};
use crate::layering;
use crate::lint;
use crate::lower::{self, ImageNeed, Lowered};
use crate::op::Op;
use crate::output;
use crate::packs::Packs;
use crate::remote_context;
use crate::request::{BuildRequest, Output};
use crate::shared_cache::{Caches, give};
use crate::worker::commands::Commands;
use crate::worker::leaks::Leaks;
use crate::worker::{self, Settings, Worker, waited_for};
use crate::{BuildOutcome, Engine, Error, Located, Result};
use exporting::Exporting;
use plan::Plan;
use solving::Solving;

pub(crate) use reading::{further_mistakes, may_be_from, options, options_of_look, require_sound};

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
        let outputs = exporting::outputs(&request);
        let begun = self.begin(request, &outputs, known, &events, &cancel);
        let begun = begun.await?;
        let publisher = output::Publisher {
            client: self.client.clone(),
            runtime: tokio::runtime::Handle::current(),
            cancel: cancel.clone(),
            known: bases::repositories(&begun.images),
        };
        let request = begun.request;
        let going = output::going(&request, &outputs, &publisher.known);
        let solving = Solving {
            worker: &begun.worker,
            plan: &begun.plan,
            events: &events,
            cancel: &cancel,
            needs_files: outputs.iter().any(output::needs_files) || request.attestations.sbom,
            going: going.as_ref(),
        };
        let built = solving.solve(begun.lowered, &request).await?;
        let carried = match &begun.caches.exports {
            Some(exports) => exports.carried(&built.graph).await.map_err(not_carried)?,
            None => None,
        };
        let capture = Capture {
            dockerfile: begun.source,
            graph: built.graph,
            steps: built.steps,
            images: bases::by_digest(&begun.images),
            pins: begun.pins,
            started,
        };
        let exporting = Exporting {
            store: Arc::clone(self.store()),
            publisher,
            request,
            outputs,
            ahead: begun.worker.ahead.clone(),
            plan: Arc::clone(&begun.plan),
            events: Arc::clone(&events),
            carried,
        };
        let targets = built.targets;
        let store = Arc::clone(self.store());
        let exported = waited_for(move || {
            let image = exporting.export(&targets, &capture)?;
            store.sync_published()?;
            Ok::<_, Error>((image, targets, capture))
        });
        let (image, targets, capture) = exported.await?;
        if let Some(exports) = &begun.caches.exports {
            let (graph, given) = (&capture.graph, &begun.plan.caches);
            give(exports, graph, &built.held, given, &events, &cancel).await?;
        }
        let targets = targets.into_iter();
        let (images, tops) = targets
            .map(|target| {
                let top = target.top.and_then(worker::Output::into_snapshot);
                (target.image, top)
            })
            .unzip();
        Ok(Performed {
            outcome: BuildOutcome {
                image,
                steps: capture.steps.len(),
                cached: built.cached,
                warnings: begun.warnings.into_iter().chain(built.leaks).collect(),
            },
            capture,
            images,
            tops,
            keys: begun.worker.notebook.keys(),
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
        let (mut lowered, images) = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Error::Cancelled),
            lowered = self.lower(&request, &source, &parsed, &options, known) => lowered?,
        };
        let mut warnings = lint::look(&source, &parsed, &request, Some(&lowered.seen))?;
        warnings.append(&mut lowered.warnings);
        settings.select(&mut warnings);
        lowered.warnings.clone_from(&warnings);
        if let Some(violation) = settings.violation(&warnings) {
            warnings.push(violation);
            return Err(Error::Dockerfile(warnings));
        }
        output::check(&request, outputs, lowered.images.len())?;
        layering::check(request.squash, &lowered.images)?;
        if runs_commands(&lowered)
            && let Some(why) = rbuild_executor::overlay::foreseen(self.executor.store())
        {
            // Those whose results are cached need none.
            events.event(Event::Warning {
                located: None,
                message: format!("commands will have no root: {why}"),
            });
        }
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
        let mut worker =
            self.worker(&request, &lowered, &plan, contexts, &images, events, &pins)?;
        worker.imports = caches.imports.clone();
        worker.exports = caches.exports.clone();
        let form = output::form_of_layers(&request, outputs);
        // Secrets are looked for in files.
        worker.packs = form
            .filter(|_| worker.leaks.is_none())
            .and_then(|options| Packs::new(&lowered.graph, &lowered.needed(), options));
        if output::makes_layers(&request, outputs) {
            let tops = lowered.images.iter().filter_map(|image| image.vertex);
            worker.layers = layering::spine(&lowered.graph, tops);
            let limit = request.max_layers.unwrap_or(layering::LAYERS_LIMIT);
            let is_usual = |image: &lower::LoweredImage| image.layers() <= limit;
            worker.ahead = form
                .filter(|_| lowered.images.iter().all(is_usual))
                .map(|options| Arc::new(Ahead::new(self.executor.store(), options)));
        }
        if request.reach.is_some() {
            worker.must_hold(&lowered).await?;
        }
        worker.begin_commands();
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
    ) -> Result<Worker> {
        let secrets = request.secrets.iter();
        let access = remote_context::access(request)?;
        Ok(Worker {
            executor: Arc::clone(&self.executor),
            client: self.client.clone(),
            settings: Settings {
                secrets: access.secrets,
                ssh: access.ssh,
                users: request.users,
                dns: request.dns.clone(),
                limits: request.limits.clone(),
                reach: request.reach.clone(),
            },
            images: bases::by_digest(images),
            contexts,
            wanted: worker::wanted(&lowered.graph, &lowered.needed()),
            vertices: plan.vertices.clone(),
            events: Arc::clone(events),
            masked: worker::log::values(secrets.map(|secret| &*secret.data)),
            said_network: Arc::default(),
            networks: Arc::default(),
            commands: if self.executor.has_namespaces() {
                Commands::of(lowered)
            } else {
                Commands::default()
            },
            materialised: Mutex::default(),
            notebook: Arc::default(),
            pins: Arc::clone(pins),
            emptied: Mutex::default(),
            keeps_left: request.keep_failed,
            left: Mutex::default(),
            imports: None,
            exports: None,
            ahead: None,
            packs: None,
            executed: AtomicUsize::new(0),
            seen: Mutex::default(),
            layers: HashSet::new(),
            leaks: Leaks::new(&request.secrets).map(Arc::new),
        })
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
        self.capture.graph.needed(&lower::targets(&self.images))
    }
}

/// Whether there are commands that may have to run.
fn runs_commands(lowered: &Lowered) -> bool {
    let mut needed = lowered.needed().into_iter();
    needed.any(|vertex| matches!(lowered.graph.operation(vertex), Op::Exec(_)))
}

fn not_carried(problem: impl std::fmt::Display) -> Error {
    Error::Other(format!("cannot read the records for the image: {problem}"))
}
