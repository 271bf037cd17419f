//! A stage, from what it is built on to its last instruction; ONBUILD triggers; what `--from` names; and the image
//! that the target becomes.

use std::rc::Rc;
use std::sync::Arc;

use rbuild_executor::file::Owner;
use rbuild_image::config::{ContainerConfig, ImageConfig, RootFs};
use rbuild_image::source::{Location, Resolved};
use rbuild_image::{Platform, Reference};
use rbuild_parser::ast::{Command, Instruction, Text};
use rbuild_parser::expand;
use rbuild_parser::suggest::nearest;
use rbuild_parser::{Diagnostic, Severity, Source};
use rbuild_solver::VertexId;

use super::build::{Lowering, Outcome, Site, Slot, expansion_mistake};
use super::scope::Scope;
use super::{ContextKind, HistoryEntry, ImageNeed, LoweredImage, paths};
use crate::op::{CopyOp, FileAction, FileOp, ImageSource, Op};

/// The PATH of images that set none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Stages that name one another only by variables or triggers nest this deep at most.
const DEPTH_LIMIT: usize = 100;

/// What a stage is built on.
#[derive(Debug, Clone)]
pub(crate) enum Base {
    Empty,
    Stage(usize),
    /// The stage's own name is that of a named context, which replaces it altogether.
    Context(ContextBase),
    Image(ContextBase),
}

/// An image, or a context that stands for one.
#[derive(Debug, Clone)]
pub(crate) struct ContextBase {
    pub(crate) name: String,
    pub(crate) kind: ContextKind,
    pub(crate) platform: Option<Platform>,
}

/// What the instructions so far have made of a stage.
#[derive(Debug, Clone)]
pub(crate) struct State {
    /// `None`: an empty root.
    pub(crate) vertex: Option<VertexId>,
    pub(crate) config: ImageConfig,
    pub(crate) history: Vec<HistoryEntry>,
    pub(crate) base_layers: usize,
    pub(crate) base_created: Option<String>,
    pub(crate) platform: Platform,
    /// ENV and ARG in force, the later one of a name winning.
    pub(crate) scope: Scope,
    /// ARGs declared, in order, with the value they had; those of the parent stages too.
    pub(crate) args: Vec<(String, Option<String>)>,
    /// A CMD of this very stage.
    pub(crate) own_cmd: bool,
    /// An image below is not known yet: what variables say may be wrong.
    pub(crate) tentative: bool,
    /// Steps made and to be made, for their names.
    pub(crate) step: usize,
    pub(crate) steps: usize,
    /// Steps of each instruction so far, for records.
    pub(crate) ordinals: Vec<(String, usize)>,
}

/// What `--from` and mounts read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    Empty,
    Vertex(VertexId),
    /// A directory of the client: owners there mean nothing in the image.
    Context(VertexId),
    /// Not known in this round.
    Unknown,
}

impl State {
    pub(crate) fn cwd(&self) -> &str {
        match self.config.config.working_dir.as_str() {
            "" => "/",
            cwd => cwd,
        }
    }

    pub(crate) fn record(&mut self, created_by: impl Into<String>, layer: bool) {
        self.history.push(HistoryEntry::Own {
            created_by: created_by.into(),
            layer,
        });
    }

    /// Takes over what a base's config says about variables and completes it.
    fn begin(&mut self) {
        let config = &mut self.config.config;
        let env = config.env.get_or_insert_default();
        // A name without a value must not draw one from anywhere.
        env.retain(|variable| variable.contains('='));
        if self.platform.os != "windows"
            && !env.iter().any(|variable| variable.starts_with("PATH="))
        {
            env.push(format!("PATH={DEFAULT_PATH}"));
        }
        for (name, value) in env.iter().filter_map(|variable| variable.split_once('=')) {
            self.scope.set(name, value);
        }
        if !config.working_dir.is_empty() {
            config.working_dir = paths::resolve("/", &config.working_dir);
        }
    }

    fn empty(platform: &Platform) -> Self {
        let config = ImageConfig {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            variant: Some(platform.variant.clone()).filter(|variant| !variant.is_empty()),
            config: ContainerConfig {
                env: Some(vec![format!("PATH={DEFAULT_PATH}")]),
                working_dir: "/".to_owned(),
                ..ContainerConfig::default()
            },
            rootfs: RootFs {
                kind: "layers".to_owned(),
                diff_ids: None,
            },
            ..ImageConfig::default()
        };
        Self {
            vertex: None,
            config,
            history: Vec::new(),
            base_layers: 0,
            base_created: None,
            platform: platform.clone(),
            scope: Scope::default(),
            args: Vec::new(),
            own_cmd: false,
            tentative: false,
            step: 0,
            steps: 0,
            ordinals: Vec::new(),
        }
    }

    fn of_image(vertex: Option<VertexId>, resolved: &Resolved, platform: &Platform) -> Self {
        let mut state = Self::empty(platform);
        let mut config = resolved.config.clone();
        state.base_created = config.created.take();
        state.history = std::mem::take(&mut config.history)
            .into_iter()
            .map(HistoryEntry::Inherited)
            .collect();
        config.rootfs = RootFs {
            kind: "layers".to_owned(),
            diff_ids: None,
        };
        state.config = config;
        state.vertex = vertex;
        state.base_layers = layers(resolved);
        state
    }
}

fn layers(resolved: &Resolved) -> usize {
    resolved.config.rootfs.diff_ids.as_ref().map_or(0, Vec::len)
}

impl Lowering<'_> {
    /// Reads a FROM line: what it names, after expansion.
    pub(crate) fn base(&self, index: usize) -> Outcome<Base> {
        let stage = &self.file.stages[index];
        let name = self.from_word(&stage.from.image)?;
        if name.is_empty() {
            return Err(Box::new(
                Diagnostic::error(
                    "empty-base",
                    format!(
                        "the base image `{}` is empty after expansion",
                        stage.from.image.value
                    ),
                    stage.from.image.span,
                )
                .help(self.why_empty(&stage.from.image)),
            ));
        }
        let platform = match &stage.from.platform {
            None => None,
            Some(text) => Some(self.from_platform(text)?),
        };
        if let Some((name, kind)) = stage.name().and_then(|name| self.named_context(name)) {
            return Ok(Base::Context(ContextBase {
                name,
                kind,
                platform,
            }));
        }
        // Exactly: `FROM Name` does not find a stage, because stages are known by their names in lower case.
        let earlier = (0..index).rev().find(|earlier| {
            self.file.stages[*earlier]
                .name()
                .is_some_and(|known| known.to_ascii_lowercase() == name)
        });
        if let Some(earlier) = earlier {
            return Ok(Base::Stage(earlier));
        }
        if name == "scratch" {
            return Ok(Base::Empty);
        }
        if let Some((name, kind)) = self.named_context(&name) {
            return Ok(Base::Image(ContextBase {
                name,
                kind,
                platform,
            }));
        }
        let kind = ContextKind::Image(self.reference(&name, &stage.from.image, index)?);
        Ok(Base::Image(ContextBase {
            name,
            kind,
            platform,
        }))
    }

    fn from_word(&self, text: &Text) -> Outcome<String> {
        expand::word(&text.value, self.file.escape, &self.target.globals)
            .map(|expanded| expanded.text)
            .map_err(|error| Box::new(expansion_mistake(text, &error)))
    }

    fn from_platform(&self, text: &Text) -> Outcome<Platform> {
        let value = self.from_word(text)?;
        if value.is_empty() {
            return Err(Box::new(
                Diagnostic::error(
                    "empty-platform",
                    format!("the platform `{}` is empty after expansion", text.value),
                    text.span,
                )
                .help(self.why_empty(text)),
            ));
        }
        Platform::parse(&value).map_err(|error| {
            Box::new(
                Diagnostic::error("bad-platform", format!("bad platform: {error}"), text.span)
                    .help("write os/architecture or os/architecture/variant, for instance linux/arm64"),
            )
        })
    }

    /// What to do about a word of a FROM line that came out empty.
    fn why_empty(&self, text: &Text) -> String {
        let undefined = expand::word(&text.value, self.file.escape, &self.target.globals)
            .map(|expanded| expanded.undefined)
            .unwrap_or_default();
        match undefined.first() {
            Some(name) if self.target.global_names.contains(name) => {
                format!("ARG {name} has no value: give it a default, or --build-arg {name}=…")
            }
            Some(name) => match nearest(name, self.target.globals.names()) {
                Some(near) => {
                    format!("no ARG before the first FROM declares `{name}`; there is `{near}`")
                }
                None => format!("declare `ARG {name}=…` before the first FROM"),
            },
            None => "give the variable a value with --build-arg or a default".to_owned(),
        }
    }

    /// Reads an image's name; `before` limits the stages that may be meant instead.
    fn reference(&self, name: &str, text: &Text, before: usize) -> Outcome<Location> {
        name.parse::<Reference>()
            .map(Location::Registry)
            .map_err(|error| {
                let mut mistake = Diagnostic::error("bad-image-name", error.to_string(), text.span);
                if let Some(stage) = self.file.stage_named(name, before) {
                    let stage = self.file.stages[stage].name().unwrap_or_default();
                    mistake = mistake.help(format!(
                        "FROM finds stages by their names in lower case: write `{}`",
                        stage.to_ascii_lowercase()
                    ));
                } else if let Some(near) = nearest(name, self.file.stage_names()) {
                    mistake = mistake.help(format!("there is a stage `{near}`"));
                }
                Box::new(mistake)
            })
    }

    /// Lowers a stage, once.
    pub(crate) fn stage(&mut self, index: usize) -> Option<Rc<State>> {
        match &self.slots[index] {
            Slot::Done(state) => return Some(Rc::clone(state)),
            Slot::Failed => return None,
            Slot::Running => {
                let stage = &self.file.stages[index];
                let name = stage
                    .name()
                    .map_or_else(|| index.to_string(), str::to_owned);
                let mistake = Diagnostic::error(
                    "circular-stages",
                    format!("stage `{name}` needs itself"),
                    stage.instruction.span,
                );
                self.mistake(mistake, false);
                return None;
            }
            Slot::Todo => {}
        }
        if self.depth >= DEPTH_LIMIT {
            let span = self.file.stages[index].instruction.span;
            self.mistake(
                Diagnostic::error(
                    "stages-too-deep",
                    "stages nest too deeply through variables",
                    span,
                ),
                false,
            );
            return None;
        }
        self.slots[index] = Slot::Running;
        self.depth += 1;
        let state = self.lower_stage(index).map(Rc::new);
        self.depth -= 1;
        self.slots[index] = match &state {
            Some(state) => Slot::Done(Rc::clone(state)),
            None => Slot::Failed,
        };
        state
    }

    fn lower_stage(&mut self, index: usize) -> Option<State> {
        let base = self.bases.get(index).cloned().flatten()?;
        let from = self.file.stages[index].instruction;
        let mut triggers = Vec::new();
        let mut state = match base {
            Base::Context(context) => {
                let text = self.file.stages[index].from.image.clone();
                let mut state = self.image_state(&context, &text, from, index)?;
                state.config.config.on_build = None;
                return Some(state);
            }
            Base::Empty => State::empty(&self.target.platform),
            Base::Stage(earlier) => {
                let mut state = State::clone(&*self.stage(earlier)?);
                state.config.config.on_build = None;
                state.own_cmd = false;
                state.ordinals.clear();
                if !matches!(self.bases.get(earlier), Some(Some(Base::Context(_)))) {
                    triggers = self.file.stages[earlier]
                        .body
                        .iter()
                        .filter_map(|instruction| match &instruction.command {
                            Command::Onbuild(onbuild) => Some(onbuild.instruction.clone()),
                            _ => None,
                        })
                        .collect();
                }
                state
            }
            Base::Image(context) => {
                let text = self.file.stages[index].from.image.clone();
                let mut state = self.image_state(&context, &text, from, index)?;
                let recorded = state.config.config.on_build.take().unwrap_or_default();
                triggers = self.read_triggers(&recorded, from);
                state
            }
        };
        state.begin();
        let body = self.file.stages[index].body.clone();
        let makes_step = |instruction: &&Instruction| {
            matches!(
                instruction.command,
                Command::Run(_) | Command::Copy(_) | Command::Add(_) | Command::Workdir(_)
            )
        };
        let base_step = usize::from(matches!(self.bases.get(index), Some(Some(Base::Image(_)))));
        state.step = base_step;
        state.steps = base_step
            + triggers
                .iter()
                .chain(body.iter().copied())
                .filter(makes_step)
                .count();
        let sites = triggers
            .iter()
            .map(|trigger| (trigger, Some(from)))
            .chain(body.iter().map(|instruction| (*instruction, None)));
        for (ordinal, (instruction, blame)) in sites.enumerate() {
            let site = Site {
                instruction,
                blame,
                stage: index,
                ordinal: ordinal + 1,
            };
            if let Err(mistake) = self.instruction(&mut state, site) {
                self.mistake_at(site, *mistake, state.tentative);
            }
        }
        Some(state)
    }

    fn instruction(&mut self, state: &mut State, site: Site<'_>) -> Outcome<()> {
        match &site.instruction.command {
            Command::Run(run) => self.run_command(state, site, run),
            Command::Copy(copy) => self.transfer(state, site, copy, false),
            Command::Add(add) => self.transfer(state, site, add, true),
            Command::Workdir(path) => self.workdir(state, site, path),
            Command::Arg(declarations) => self.arg(state, site, declarations),
            Command::Env(pairs) => self.env(state, site, pairs),
            Command::Label(pairs) => self.label(state, site, pairs),
            Command::Cmd(command) => {
                self.cmd(state, command);
                Ok(())
            }
            Command::Entrypoint(command) => {
                self.entrypoint(state, command);
                Ok(())
            }
            Command::Maintainer(author) => {
                state.config.author = Some(author.value.clone());
                state.record(format!("MAINTAINER {}", author.value), false);
                Ok(())
            }
            Command::Expose(ports) => self.expose(state, ports),
            Command::Volume(volumes) => self.volume(state, site, volumes),
            Command::User(user) => self.user(state, site, user),
            Command::Stopsignal(signal) => self.stop_signal(state, site, signal),
            Command::Healthcheck(check) => self.healthcheck(state, check),
            Command::Shell(shell) => {
                self.shell(state, shell);
                Ok(())
            }
            Command::Onbuild(onbuild) => {
                let triggers = state.config.config.on_build.get_or_insert_default();
                triggers.push(onbuild.trigger.value.clone());
                Ok(())
            }
            // The parser has said what is wrong.
            Command::Invalid | Command::From(_) => Ok(()),
        }
    }

    /// Reads the triggers of an image's config. What is wrong with one is shown at the FROM line.
    fn read_triggers(&mut self, recorded: &[String], from: &Instruction) -> Vec<Instruction> {
        let mut triggers = Vec::new();
        for text in recorded {
            let parsed = rbuild_parser::parse_trigger(&Source::new("ONBUILD", text.as_bytes()));
            let refused = |what: String| {
                Diagnostic::error("bad-trigger", what, from.span)
                    .label(format!("runs `ONBUILD {}`", text.trim()))
                    .help("the trigger is in the base image: it is the base image that must be mended")
            };
            let mut broken = false;
            for diagnostic in parsed.diagnostics {
                if diagnostic.severity == Severity::Error {
                    broken = true;
                    self.mistake(refused(diagnostic.message), false);
                }
            }
            for instruction in parsed.dockerfile.instructions {
                match &instruction.command {
                    Command::From(_) | Command::Onbuild(_) | Command::Maintainer(_) => {
                        let keyword = instruction.keyword.value.to_ascii_uppercase();
                        self.mistake(
                            refused(format!("{keyword} is not allowed as an ONBUILD trigger")),
                            false,
                        );
                    }
                    Command::Invalid if !broken => {
                        self.mistake(
                            refused("this ONBUILD trigger cannot be understood".to_owned()),
                            false,
                        );
                    }
                    Command::Invalid => {}
                    _ => triggers.push(instruction),
                }
            }
        }
        triggers
    }

    /// The state that an image, or a context in its place, begins with.
    fn image_state(
        &mut self,
        base: &ContextBase,
        text: &Text,
        at: &Instruction,
        index: usize,
    ) -> Option<State> {
        let platform = base
            .platform
            .clone()
            .unwrap_or_else(|| self.target.platform.clone());
        match &base.kind {
            ContextKind::Stage(name) => {
                let Some(stage) = self.file.stage_named(name, self.file.stages.len()) else {
                    self.mistake(unknown_context_stage(&base.name, name, text), false);
                    return None;
                };
                self.stage(stage).map(|state| {
                    let mut state = State::clone(&*state);
                    state.own_cmd = false;
                    state.ordinals.clear();
                    state
                })
            }
            ContextKind::Directory => {
                let input = self.context(&base.name, at);
                let vertex = self.graph.add(copy_of_directory(), &[input]);
                let name =
                    self.stage_prefix(index, &platform, 1, None) + &format!("FROM {}", base.name);
                let record = self.record_step(index, "FROM", 1);
                self.name_step(vertex, (index, 0), name, record, at);
                let mut state = State::empty(&platform);
                state.vertex = Some(vertex);
                state.record(format!("FROM {}", base.name), true);
                Some(state)
            }
            ContextKind::Image(location) => {
                let need = ImageNeed {
                    name: base.name.clone(),
                    location: location.clone(),
                    platform: platform.clone(),
                };
                let Some(resolved) = self.images.get(&need).cloned() else {
                    self.need(need, self.missing_image(&base.name, text));
                    let mut state = State::empty(&platform);
                    state.tentative = true;
                    return Some(state);
                };
                let prefix = self.stage_prefix(index, &platform, 1, None);
                let vertex = self.image_vertex(&need, &resolved, prefix, (index, 0), at);
                Some(State::of_image(vertex, &resolved, &platform))
            }
        }
    }

    /// `None` for an image without layers.
    fn image_vertex(
        &mut self,
        need: &ImageNeed,
        resolved: &Arc<Resolved>,
        prefix: String,
        place: (usize, usize),
        at: &Instruction,
    ) -> Option<VertexId> {
        if layers(resolved) == 0 {
            return None;
        }
        let vertex = self.graph.add(
            Op::Image(ImageSource {
                name: need.name.clone(),
                location: resolved.location.clone(),
                digest: resolved.digest,
                platform: need.platform.clone(),
            }),
            &[],
        );
        let shown = match &need.location {
            Location::Registry(reference) => reference.canonical(),
            _ => need.name.clone(),
        };
        let record = format!("image/{}", need.name);
        self.name_step(vertex, place, format!("{prefix}FROM {shown}"), record, at);
        Some(vertex)
    }

    /// Says that an image is nowhere, which may be a stage's name mistyped.
    fn missing_image(&self, name: &str, text: &Text) -> Diagnostic {
        let near = nearest(name, self.file.stage_names());
        let plain = !name.contains(['/', ':', '.', '@']);
        match near {
            Some(near) if plain => {
                let stage = self.file.stage_named(near, self.file.stages.len());
                let line = stage.map_or(1, |stage| self.file.stages[stage].instruction.start_line);
                Diagnostic::error(
                    "unknown-stage",
                    format!("no stage or image named `{name}`"),
                    text.span,
                )
                .label("not a stage, a named context or an image that could be found")
                .help(format!("there is a stage `{near}`, line {line}"))
            }
            _ => Diagnostic::error(
                "image-not-found",
                format!("image `{name}` could not be found"),
                text.span,
            ),
        }
    }

    /// What `--from`, or `from=` of a mount, names.
    pub(crate) fn input(&mut self, state: &State, site: Site<'_>, text: &Text) -> Outcome<Input> {
        if state.tentative && text.value.contains('$') {
            return Ok(Input::Unknown);
        }
        let name = self.word(state, site, text)?;
        if name.is_empty() {
            return Err(Box::new(
                Diagnostic::error(
                    "empty-from",
                    format!("`from` is empty: `{}` expands to nothing", text.value),
                    text.span,
                )
                .help("name a stage, a named context or an image"),
            ));
        }
        if let Ok(number) = name.parse::<i64>() {
            return self.input_by_number(state, site, text, number);
        }
        if let Some((name, kind)) = self.named_context(&name) {
            return self.input_of(state, site, text, name, &kind);
        }
        if let Some(stage) = self.file.stage_named(&name, site.stage) {
            return Ok(self.input_of_stage(stage));
        }
        if let Some(later) = self.file.stage_named(&name, self.file.stages.len()) {
            return Err(Box::new(self.too_late(later, site, &name, text)));
        }
        if name == "scratch" {
            return Ok(Input::Empty);
        }
        let location = self.reference(&name, text, site.stage)?;
        self.input_of(state, site, text, name, &ContextKind::Image(location))
    }

    fn input_by_number(
        &mut self,
        _state: &State,
        site: Site<'_>,
        text: &Text,
        number: i64,
    ) -> Outcome<Input> {
        let stages = self.file.stages.len();
        match usize::try_from(number) {
            Ok(index) if index < site.stage => Ok(self.input_of_stage(index)),
            Ok(index) if index < stages => Err(Box::new(self.too_late(
                index,
                site,
                &number.to_string(),
                text,
            ))),
            _ => Err(Box::new(
                Diagnostic::error(
                    "unknown-stage",
                    format!("there is no stage number {number}"),
                    text.span,
                )
                .help(format!(
                    "stages are counted from 0; the last one is {}",
                    stages.saturating_sub(1)
                )),
            )),
        }
    }

    fn too_late(&self, stage: usize, site: Site<'_>, name: &str, text: &Text) -> Diagnostic {
        let place = &self.file.stages[stage].instruction;
        if stage == site.stage {
            return Diagnostic::error(
                "circular-stages",
                format!("stage `{name}` copies from itself"),
                text.span,
            )
            .secondary(place.keyword.span, "the stage begins here");
        }
        Diagnostic::error(
            "stage-comes-later",
            format!("stage `{name}` comes later, in line {}", place.start_line),
            text.span,
        )
        .secondary(place.keyword.span, "it begins here")
        .help("a stage can only use stages above it: move it up")
    }

    fn input_of_stage(&mut self, stage: usize) -> Input {
        match self.stage(stage) {
            // Its mistakes are reported where they are.
            None => Input::Unknown,
            Some(state) if state.tentative => Input::Unknown,
            Some(state) => state.vertex.map_or(Input::Empty, Input::Vertex),
        }
    }

    fn input_of(
        &mut self,
        _state: &State,
        site: Site<'_>,
        text: &Text,
        name: String,
        kind: &ContextKind,
    ) -> Outcome<Input> {
        match kind {
            ContextKind::Directory => {
                let vertex = self.context(&name, site.shown());
                Ok(Input::Context(vertex))
            }
            ContextKind::Stage(stage) => match self.file.stage_named(stage, self.file.stages.len())
            {
                Some(index) => Ok(self.input_of_stage(index)),
                None => Err(Box::new(unknown_context_stage(&name, stage, text))),
            },
            ContextKind::Image(location) => {
                let need = ImageNeed {
                    name,
                    location: location.clone(),
                    platform: self.target.platform.clone(),
                };
                let Some(resolved) = self.images.get(&need).cloned() else {
                    let mut missing = self.missing_image(&need.name, text);
                    if let Some(from) = site.blame {
                        missing.primary.span = from.span;
                    }
                    self.need(need, missing);
                    return Ok(Input::Unknown);
                };
                let place = (site.stage, site.ordinal);
                let vertex =
                    self.image_vertex(&need, &resolved, String::new(), place, site.shown());
                Ok(vertex.map_or(Input::Empty, Input::Vertex))
            }
        }
    }

    /// A vertex for an input; an empty root becomes one that can be copied from.
    pub(crate) fn vertex_of(&mut self, input: Input, site: Site<'_>) -> VertexId {
        match input {
            Input::Vertex(vertex) | Input::Context(vertex) => vertex,
            Input::Empty | Input::Unknown => {
                let vertex = self.graph.add(
                    Op::File(FileOp {
                        base: false,
                        actions: Vec::new(),
                        refresh: false,
                        epoch: None,
                    }),
                    &[],
                );
                let name = "[internal] empty root".to_owned();
                self.name_step(vertex, (0, 0), name, "empty".to_owned(), site.shown());
                vertex
            }
        }
    }

    /// `[linux/amd64 build 2/4] `
    fn stage_prefix(
        &self,
        index: usize,
        platform: &Platform,
        step: usize,
        steps: Option<usize>,
    ) -> String {
        let mut prefix = "[".to_owned();
        if self.options.platforms.len() > 1 {
            prefix.push_str(&format!("{platform} "));
        }
        if self.file.stages.len() > 1 {
            match self.file.stages[index].name() {
                Some(name) => prefix.push_str(name),
                None => prefix.push_str(&format!("stage-{index}")),
            }
            prefix.push(' ');
        }
        // Before the base is known, what it triggers is not either: the file's own steps are counted.
        let steps = steps.unwrap_or_else(|| {
            1 + self.file.stages[index]
                .body
                .iter()
                .filter(|instruction| {
                    matches!(
                        instruction.command,
                        Command::Run(_) | Command::Copy(_) | Command::Add(_) | Command::Workdir(_)
                    )
                })
                .count()
        });
        let width = steps.to_string().len();
        prefix.push_str(&format!("{step:>width$}/{steps}] "));
        prefix
    }

    /// Counts a step of the stage and returns how it is called and what groups its records.
    pub(crate) fn next_step(
        &self,
        state: &mut State,
        site: Site<'_>,
        text: &str,
    ) -> (String, String) {
        state.step += 1;
        let mut name = self.stage_prefix(
            site.stage,
            &state.platform,
            state.step,
            Some(state.steps.max(state.step)),
        );
        if site.blame.is_some() {
            name.push_str("ONBUILD ");
        }
        name.push_str(text);
        let keyword = site.instruction.keyword.value.to_ascii_uppercase();
        let ordinal = match state
            .ordinals
            .iter_mut()
            .find(|(known, _)| *known == keyword)
        {
            Some((_, count)) => {
                *count += 1;
                *count
            }
            None => {
                state.ordinals.push((keyword.clone(), 1));
                1
            }
        };
        let record = self.record_step(site.stage, &keyword, ordinal);
        (name, record)
    }

    fn record_step(&self, index: usize, keyword: &str, ordinal: usize) -> String {
        let stage = match self.file.stages[index].name() {
            Some(name) => name.to_ascii_lowercase(),
            None => format!("stage-{index}"),
        };
        format!("{}/{stage}/{keyword}/{ordinal}", self.target.platform)
    }

    /// The image that the target becomes.
    pub(crate) fn finish(&self, state: &State) -> LoweredImage {
        let mut config = state.config.clone();
        if !self.options.labels.is_empty() {
            let labels = config.config.labels.get_or_insert_default();
            for (name, value) in &self.options.labels {
                labels.insert(name.clone(), value.clone());
            }
        }
        if !self.target.implicit {
            let platform = &self.target.platform;
            let same = config.os == platform.os && config.architecture == platform.architecture;
            config.os.clone_from(&platform.os);
            config.architecture.clone_from(&platform.architecture);
            if !platform.variant.is_empty() || !same {
                config.variant =
                    Some(platform.variant.clone()).filter(|variant| !variant.is_empty());
            }
            if !same {
                config.os_version = None;
            }
        }
        let written = Platform {
            os: config.os.clone(),
            architecture: config.architecture.clone(),
            variant: config.variant.clone().unwrap_or_default(),
        };
        let platform = Platform::parse(&written.to_string()).unwrap_or(written);
        config.architecture.clone_from(&platform.architecture);
        config.variant = Some(platform.variant.clone()).filter(|variant| !variant.is_empty());
        LoweredImage {
            platform,
            vertex: state.vertex,
            config,
            history: state.history.clone(),
            base_layers: state.base_layers,
            base_created: state.base_created.clone(),
            epoch: self.epoch,
        }
    }
}

fn unknown_context_stage(context: &str, stage: &str, text: &Text) -> Diagnostic {
    Diagnostic::error(
        "unknown-stage",
        format!(
            "the named context `{context}` is `target:{stage}`, but there is no stage `{stage}`"
        ),
        text.span,
    )
}

/// A whole directory as a root file system.
fn copy_of_directory() -> Op {
    Op::File(FileOp {
        base: false,
        actions: vec![FileAction::Copy(CopyOp {
            input: 0,
            sources: vec!["/".to_owned()],
            destination: "/".to_owned(),
            destination_is_directory: true,
            excludes: Vec::new(),
            parents: false,
            owner: Owner::Default,
            mode: None,
            unpack: None,
        })],
        refresh: false,
        epoch: None,
    })
}
