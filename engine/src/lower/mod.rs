//! From a parsed Dockerfile to a graph of operations and the image configs to be. Pure: what must be known of base
//! images is handed in, so that lowering is tested as text in, graph out. The rules are BuildKit's.
//!
//! * `lowering`: what one lowering knows and collects; `file`: instructions grouped into stages; `global`: what holds for
//!   the whole file; `scope`, `words`: variables and expansion;
//! * `base`, `stage`, `state`, `onbuild`, `finish`: a stage from its FROM line to the image; `input`: what `--from`
//!   names; `names`: how steps are called; `scans`: what is listed besides the result; `arguments`: what
//!   a target takes;
//! * instructions by topic: `run` and `mounts`, `transfer` (COPY, ADD, WORKDIR) and `fetched` (ADD of URLs), `config`
//!   (what changes no file);
//! * small languages: `chmod`, `remote`, `gofmt`, `paths`;
//! * [`dump`]: a lowered build as text.

mod arguments;
mod base;
mod chmod;
mod config;
pub mod dump;
mod fetched;
pub(crate) mod file;
mod finish;
mod global;
mod gofmt;
mod input;
mod lowering;
mod mounts;
mod names;
mod onbuild;
mod paths;
pub(crate) mod remote;
mod run;
mod scans;
pub(crate) mod scope;
mod stage;
mod state;
#[cfg(test)]
pub(crate) mod tests;
mod transfer;
pub(crate) mod words;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use rbuild_executor::network::Reach;
use rbuild_image::source::{Location, Resolved};
use rbuild_image::{ImageConfig, Platform};
use rbuild_parser::{Parsed, Source, Span};
use rbuild_solver::{Graph, VertexId};

use crate::error::Located;
use crate::op::{CommandLimits, Environment, NetworkOp, Op};
use crate::request::{Entitlement, NetworkChoice, NoCache};

pub use scans::Scan;

/// What lowering needs to know besides the Dockerfile.
#[derive(Debug, Clone)]
pub struct Options {
    pub target: Option<String>,
    /// Empty where none was asked for: then the build platform is the target, and the result has the platform of
    /// its base image.
    pub platforms: Vec<Platform>,
    pub build_platform: Platform,
    pub build_args: BTreeMap<String, String>,
    pub labels: Vec<(String, String)>,
    pub contexts: HashMap<String, ContextKind>,
    pub no_cache: NoCache,
    /// Of commands that ask for no other.
    pub network: NetworkChoice,
    /// All that may be reached; `None`: everything.
    pub reach: Option<Arc<Reach>>,
    pub hosts: Vec<(String, String)>,
    pub limits: CommandLimits,
    pub allow: Vec<Entitlement>,
    /// `SOURCE_DATE_EPOCH` of the environment.
    pub source_date_epoch: Option<String>,
    /// Also the stages that the target does not need: for a check.
    pub every_stage: bool,
    /// Packages are to be listed.
    pub sbom: bool,
    /// Images are made up: what real ones often bring is not called undefined.
    pub assumed: bool,
}

impl Options {
    /// Nothing is asked for besides the Dockerfile.
    pub fn new(build_platform: Platform) -> Self {
        Self {
            target: None,
            platforms: Vec::new(),
            build_platform,
            build_args: BTreeMap::new(),
            labels: Vec::new(),
            contexts: HashMap::new(),
            no_cache: NoCache::No,
            network: NetworkChoice::Default,
            reach: None,
            hosts: Vec::new(),
            limits: CommandLimits::default(),
            allow: Vec::new(),
            source_date_epoch: None,
            every_stage: false,
            sbom: false,
            assumed: false,
        }
    }
}

/// What a named context is.
#[derive(Debug, Clone)]
pub enum ContextKind {
    Directory,
    Image(Location),
    Stage(String),
}

/// An image that lowering needs resolved: found by [`images_needed`], for one platform.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageNeed {
    /// Key to hand the answer in under: the name as expanded, or the context's.
    pub name: String,
    pub location: Location,
    pub platform: Platform,
}

/// Finds the images that the target's stages are built from or copy from. Called until it returns nothing new:
/// ONBUILD triggers of a base can name further ones. With each need comes what to say if it cannot be found.
///
/// Mistakes that the missing images cannot explain are errors at once.
pub fn images_needed(
    source: &Arc<Source>,
    parsed: &Parsed,
    options: &Options,
    known: &HashMap<ImageNeed, Arc<Resolved>>,
) -> Result<Vec<(ImageNeed, Located)>, Vec<Located>> {
    lowering::Lowering::run(source, parsed, options, known).into_needs()
}

/// The images that FROM lines of the target's stages name, as far as the text alone tells. Where they are at hand,
/// lowering with them at once saves lowering without.
pub(crate) fn bases(source: &Arc<Source>, parsed: &Parsed, options: &Options) -> Vec<ImageNeed> {
    lowering::Lowering::bases_of(source, parsed, options)
}

/// What lowering comes to with the images that are known.
#[derive(Debug)]
pub enum Attempt {
    Lowered(Box<Lowered>),
    /// As [`images_needed`].
    Needs(Vec<(ImageNeed, Located)>),
}

/// Lowers, or says which images that takes.
pub fn attempt(
    source: &Arc<Source>,
    parsed: &Parsed,
    options: &Options,
    known: &HashMap<ImageNeed, Arc<Resolved>>,
) -> Result<Attempt, Vec<Located>> {
    lowering::Lowering::run(source, parsed, options, known).into_attempt()
}

/// The whole build.
#[derive(Debug)]
pub struct Lowered {
    pub graph: Graph<Op>,
    /// One for each platform, in the order asked for.
    pub images: Vec<LoweredImage>,
    /// Of every vertex that the targets need, in the order of the Dockerfile.
    pub steps: Vec<StepInfo>,
    pub warnings: Vec<Located>,
    /// What the target takes, in the order of the file.
    pub arguments: Vec<Argument>,
    pub(crate) seen: Seen,
}

/// An ARG whose value the target knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    pub name: String,
    pub value: Option<String>,
    /// Of the ARG that gave the value.
    pub line: usize,
}

/// What there was to look at, for lints.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The stages that were lowered.
    pub stages: BTreeSet<usize>,
    pub sources: Vec<LocalSource>,
}

/// A path within the build context that COPY or ADD names.
#[derive(Debug)]
pub(crate) struct LocalSource {
    pub path: String,
    pub span: Span,
    pub add: bool,
}

/// What is wrong or suspicious in a Dockerfile.
#[derive(Debug)]
pub(crate) struct Findings {
    pub warnings: Vec<Located>,
    pub mistakes: Vec<Located>,
    pub seen: Seen,
}

impl Lowered {
    /// What has to be solved for the images, one after the other.
    pub fn targets(&self) -> Vec<VertexId> {
        targets(&self.images)
    }

    /// All vertices that the images need, inputs before what uses them.
    pub fn needed(&self) -> Vec<VertexId> {
        self.graph.needed(&self.targets())
    }
}

/// What has to be solved for images.
pub fn targets(images: &[LoweredImage]) -> Vec<VertexId> {
    images.iter().flat_map(LoweredImage::targets).collect()
}

#[derive(Debug)]
pub struct LoweredImage {
    pub platform: Platform,
    /// `None`: an empty root.
    pub vertex: Option<VertexId>,
    /// With everything but `rootfs`, `history` and `created`.
    pub config: ImageConfig,
    /// The base's history, then one entry for each instruction.
    pub history: Vec<HistoryEntry>,
    /// How many of the layers are the base image's.
    pub base_layers: usize,
    pub base_created: Option<String>,
    /// Where the last stage begins.
    pub stage_line: usize,
    /// Value of SOURCE_DATE_EPOCH where one holds.
    pub epoch: Option<i64>,
    /// What is listed besides the result.
    pub scans: Vec<Scan>,
}

impl LoweredImage {
    /// How many layers it has if none are merged.
    pub fn layers(&self) -> usize {
        let is_layer =
            |entry: &&HistoryEntry| matches!(entry, HistoryEntry::Own { layer: true, .. });
        self.base_layers + self.history.iter().filter(is_layer).count()
    }

    /// What has to be solved for it: the root, then those that are listed besides.
    pub fn targets(&self) -> impl Iterator<Item = VertexId> {
        let scans = self.scans.iter().filter_map(|scan| scan.vertex);
        self.vertex.into_iter().chain(scans)
    }
}

#[derive(Debug, Clone)]
pub enum HistoryEntry {
    /// As the base image has it.
    Inherited(rbuild_image::config::History),
    /// `created_by`, whether the instruction made a layer, and its line.
    Own {
        created_by: String,
        layer: bool,
        line: usize,
    },
}

/// What to say of a vertex.
#[derive(Debug, Clone)]
pub struct StepInfo {
    pub vertex: VertexId,
    /// `[build 2/4] RUN make`
    pub name: String,
    /// Groups the records of the same step over time: stage and instruction, without arguments.
    pub record_step: String,
    pub source: Arc<Source>,
    pub span: Span,
    pub start_line: usize,
    pub end_line: usize,
    /// What a command after this step is given, as far as the stage says; `None` of what is in no stage.
    pub surroundings: Option<Arc<Surroundings>>,
}

/// What the instructions of a stage make commands run with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    pub env: Environment,
    pub cwd: String,
    /// Raw value of USER; empty for root.
    pub user: String,
    /// SHELL, or what it is without.
    pub shell: Vec<String>,
    pub platform: Platform,
    pub hosts: Vec<(String, String)>,
    pub limits: CommandLimits,
    pub network: NetworkOp,
}

/// Lowers the whole Dockerfile. `images` holds an answer for everything that [`images_needed`] asked for; an image
/// that is missing there is an error.
pub fn lower(
    source: &Arc<Source>,
    parsed: &Parsed,
    options: &Options,
    images: &HashMap<ImageNeed, Arc<Resolved>>,
) -> Result<Lowered, Vec<Located>> {
    lowering::Lowering::run(source, parsed, options, images).into_lowered()
}

/// Lowers for what there is to say only. Mistakes that missing images may explain are left out.
pub(crate) fn findings(
    source: &Arc<Source>,
    parsed: &Parsed,
    options: &Options,
    images: &HashMap<ImageNeed, Arc<Resolved>>,
) -> Findings {
    lowering::Lowering::run(source, parsed, options, images).into_findings()
}
