//! What one lowering knows and collects: the graph, the steps' names (`steps`), directories that are handed over
//! (`contexts`), the images it lacks, and every mistake (`mistakes`). Which stages are lowered: `reach`.

mod contexts;
mod mistakes;
mod reach;
mod steps;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use rbuild_image::Platform;
use rbuild_image::source::Resolved;
use rbuild_parser::ast::Instruction;
use rbuild_parser::{Diagnostic, Parsed, Source, Span};
use rbuild_solver::{Graph, VertexId};

use super::base::Base;
use super::file::File;
use super::scope::{self, Scope};
use super::state::State;
use super::{
    Argument, Attempt, ContextKind, Findings, ImageNeed, LocalSource, Lowered, LoweredImage,
    Options, Seen, StepInfo, targets,
};
use crate::error::Located;
use crate::op::Op;
use contexts::context_key;
use mistakes::{Mistake, place};

/// The value or the one mistake that stood in its way.
pub(crate) type Outcome<T> = Result<T, Box<Diagnostic>>;

pub(crate) struct Lowering<'a> {
    pub(crate) file: File<'a>,
    pub(crate) options: &'a Options,
    pub(crate) images: &'a HashMap<ImageNeed, Arc<Resolved>>,
    pub(crate) build_args: BTreeMap<String, String>,
    /// Keys of [`Options::contexts`] in their normal form.
    pub(crate) contexts: HashMap<String, (String, ContextKind)>,
    pub(crate) epoch: Option<i64>,
    pub(crate) graph: Graph<Op>,
    /// Of the platform that is being lowered.
    pub(crate) target: Target,
    pub(crate) bases: Vec<Option<Base>>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) depth: usize,
    steps: Vec<((usize, usize), StepInfo)>,
    named: HashSet<VertexId>,
    results: Vec<LoweredImage>,
    needs: Vec<(ImageNeed, Located)>,
    needed: HashSet<ImageNeed>,
    mistakes: Vec<Mistake>,
    pub(crate) warnings: Vec<Located>,
    /// Code, place and words of what was said already: platforms and stages repeat one another.
    said: HashSet<(&'static str, Span, String)>,
    /// Names that an ARG declares, somewhere in the file or in a trigger.
    pub(crate) declared: HashSet<String>,
    pub(crate) arguments: Vec<Argument>,
    seen: Seen,
}

/// For what is built, and with which variables FROM lines are read.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) platform: Platform,
    /// Nobody asked for it.
    pub(crate) implicit: bool,
    /// Predefined variables and ARGs before the first FROM.
    pub(crate) globals: Scope,
    /// Names of the ARGs before the first FROM, also those without a value.
    pub(crate) global_names: HashSet<String>,
}

/// How far a stage is.
#[derive(Debug, Clone)]
pub(crate) enum Slot {
    Todo,
    Running,
    Failed,
    Done(Rc<State>),
}

/// Where an instruction stands, and where its errors are shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Site<'s> {
    pub(crate) instruction: &'s Instruction,
    /// Of a trigger: the FROM line that runs it takes the blame.
    pub(crate) blame: Option<&'s Instruction>,
    pub(crate) stage: usize,
    /// Place among the stage's instructions, triggers first.
    pub(crate) ordinal: usize,
}

impl Site<'_> {
    /// What stands in the Dockerfile: the instruction itself, or the FROM that triggers it.
    pub(crate) fn shown(&self) -> &Instruction {
        self.blame.unwrap_or(self.instruction)
    }
}

impl<'a> Lowering<'a> {
    /// Lowers for every platform. What went wrong is collected, nothing stops early.
    pub(crate) fn run(
        source: &'a Arc<Source>,
        parsed: &'a Parsed,
        options: &'a Options,
        images: &'a HashMap<ImageNeed, Arc<Resolved>>,
    ) -> Self {
        let mut lowering = Self::new(source, parsed, options, images);
        if lowering.file.stages.is_empty() {
            return lowering;
        }
        for (platform, implicit) in lowering.platforms() {
            lowering.platform(platform, implicit);
        }
        lowering.warn_of_unknown_build_args();
        lowering
    }

    /// The images that the target's stages begin with, for every platform.
    pub(crate) fn bases_of(
        source: &'a Arc<Source>,
        parsed: &'a Parsed,
        options: &'a Options,
    ) -> Vec<ImageNeed> {
        let images = HashMap::new();
        let mut lowering = Lowering::new(source, parsed, options, &images);
        let mut needs = Vec::new();
        for (platform, implicit) in lowering.platforms() {
            lowering.begin(platform, implicit);
            let Some(target) = lowering.target_stage() else {
                continue;
            };
            for index in lowering.reachable(target) {
                if let Some(Some(Base::Image(base) | Base::Context(base))) =
                    lowering.bases.get(index)
                    && let Some(need) = base.need(&lowering.target.platform)
                {
                    needs.push(need);
                }
            }
        }
        needs
    }

    fn new(
        source: &'a Arc<Source>,
        parsed: &'a Parsed,
        options: &'a Options,
        images: &'a HashMap<ImageNeed, Arc<Resolved>>,
    ) -> Self {
        let file = File::new(source, parsed);
        let mut build_args = options.build_args.clone();
        if let Some(epoch) = &options.source_date_epoch {
            build_args
                .entry("SOURCE_DATE_EPOCH".to_owned())
                .or_insert_with(|| epoch.clone());
        }
        let contexts = options
            .contexts
            .iter()
            .map(|(name, kind)| (context_key(name), (name.clone(), kind.clone())))
            .collect();
        Self {
            file,
            options,
            images,
            build_args,
            contexts,
            epoch: None,
            graph: Graph::new(),
            target: Target {
                platform: options.build_platform.clone(),
                implicit: true,
                globals: Scope::default(),
                global_names: HashSet::new(),
            },
            bases: Vec::new(),
            slots: Vec::new(),
            depth: 0,
            steps: Vec::new(),
            named: HashSet::new(),
            results: Vec::new(),
            needs: Vec::new(),
            needed: HashSet::new(),
            mistakes: Vec::new(),
            warnings: Vec::new(),
            said: HashSet::new(),
            declared: HashSet::new(),
            arguments: Vec::new(),
            seen: Seen::default(),
        }
    }

    /// For which platforms it is built, and whether nobody asked for that.
    fn platforms(&self) -> Vec<(Platform, bool)> {
        match self.options.platforms.as_slice() {
            [] => vec![(self.options.build_platform.clone(), true)],
            platforms => platforms.iter().map(|it| (it.clone(), false)).collect(),
        }
    }

    pub(crate) fn into_needs(mut self) -> Result<Vec<(ImageNeed, Located)>, Vec<Located>> {
        let firm = self.firm_mistakes();
        if firm.is_empty() {
            Ok(self.needs)
        } else {
            Err(firm)
        }
    }

    pub(crate) fn into_attempt(mut self) -> Result<Attempt, Vec<Located>> {
        let firm = self.firm_mistakes();
        if !firm.is_empty() {
            return Err(firm);
        }
        if !self.needs.is_empty() {
            return Ok(Attempt::Needs(self.needs));
        }
        self.into_lowered()
            .map(|lowered| Attempt::Lowered(Box::new(lowered)))
    }

    pub(crate) fn into_findings(mut self) -> Findings {
        let mistakes = self.firm_mistakes();
        Findings {
            warnings: self.warnings,
            mistakes,
            seen: self.seen,
        }
    }

    pub(crate) fn into_lowered(self) -> Result<Lowered, Vec<Located>> {
        let mut mistakes: Vec<Located> = self
            .mistakes
            .into_iter()
            .map(|mistake| mistake.located)
            .collect();
        mistakes.extend(self.needs.into_iter().map(|(_, missing)| missing));
        if !mistakes.is_empty() {
            mistakes.sort_by_key(place);
            return Err(mistakes);
        }
        let needed = self.graph.needed(&targets(&self.results));
        let needed: HashSet<VertexId> = needed.into_iter().collect();
        let mut steps = self.steps;
        steps.retain(|(_, step)| needed.contains(&step.vertex));
        steps.sort_by_key(|(place, _)| *place);
        Ok(Lowered {
            graph: self.graph,
            images: self.results,
            steps: steps.into_iter().map(|(_, step)| step).collect(),
            warnings: self.warnings,
            arguments: self.arguments,
            seen: self.seen,
        })
    }

    /// Reads what is before the stages, and their FROM lines.
    fn begin(&mut self, platform: Platform, implicit: bool) {
        let target_name = self
            .options
            .target
            .clone()
            .or_else(|| {
                let last = self.file.stages.last()?;
                last.name().map(str::to_owned)
            })
            .unwrap_or_else(|| "default".to_owned());
        self.target = Target {
            globals: scope::predefined(
                &self.options.build_platform,
                &platform,
                &target_name,
                &self.build_args,
            ),
            platform,
            implicit,
            global_names: HashSet::new(),
        };
        self.globals();
        self.read_epoch();
        self.slots = vec![Slot::Todo; self.file.stages.len()];
        self.bases = Vec::new();
        for index in 0..self.file.stages.len() {
            let base = match self.base(index) {
                Ok(base) => Some(base),
                Err(mistake) => {
                    self.mistake(*mistake, false);
                    None
                }
            };
            self.bases.push(base);
        }
    }

    fn platform(&mut self, platform: Platform, implicit: bool) {
        self.begin(platform, implicit);
        self.check_numbers();
        let Some(target) = self.target_stage() else {
            return;
        };
        let needed = if self.options.every_stage {
            (0..self.file.stages.len()).collect()
        } else {
            self.reachable(target)
        };
        for index in needed {
            self.stage(index);
        }
        self.note_arguments(target);
        let lowered = self.slots.iter().enumerate();
        let lowered = lowered.filter(|(_, slot)| !matches!(slot, Slot::Todo));
        self.seen.stages.extend(lowered.map(|(index, _)| index));
        if let Slot::Done(state) = &self.slots[target] {
            let state = Rc::clone(state);
            let mut image = self.finish(&state);
            image.scans = self.scans(target);
            self.results.push(image);
        }
    }

    /// Notes a path that COPY or ADD takes from the build context.
    pub(crate) fn note_source(&mut self, path: &str, span: Span, add: bool) {
        self.seen.sources.push(LocalSource {
            path: path.to_owned(),
            span,
            add,
        });
    }
}
