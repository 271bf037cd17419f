//! FROM lines: what a stage is built on, after expansion, and the state that an image gives it.

use std::sync::Arc;

use rbuild_executor::file::Owner;
use rbuild_image::source::{Location, Resolved};
use rbuild_image::{Platform, Reference};
use rbuild_parser::Diagnostic;
use rbuild_parser::ast::{Instruction, Text};
use rbuild_parser::expand;
use rbuild_parser::suggest::nearest;
use rbuild_solver::VertexId;

use super::input::unknown_context_stage;
use super::lowering::{Lowering, Outcome};
use super::scope::Scope;
use super::state::{State, layers};
use super::words::expansion_mistake;
use super::{ContextKind, ImageNeed};
use crate::error::Located;
use crate::op::{CopyOp, FileAction, FileOp, ImageSource, Op};

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

impl ContextBase {
    /// What to resolve for it if it is an image, for the platform of its FROM or else this one.
    pub(crate) fn need(&self, platform: &Platform) -> Option<ImageNeed> {
        let ContextKind::Image(location) = &self.kind else {
            return None;
        };
        Some(self.need_at(location, self.platform.as_ref().unwrap_or(platform)))
    }

    fn need_at(&self, location: &Location, platform: &Platform) -> ImageNeed {
        ImageNeed {
            name: self.name.clone(),
            location: location.clone(),
            platform: platform.clone(),
        }
    }
}

impl Lowering<'_> {
    /// Reads a FROM line: what it names, after expansion.
    pub(crate) fn base(&self, index: usize) -> Outcome<Base> {
        let stage = &self.file.stages[index];
        let name = self.word_of_from(&stage.from.image)?;
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
            Some(text) => Some(self.platform_of_from(text)?),
        };
        if let Some((name, kind)) = stage.name().and_then(|name| self.named_context(name)) {
            return Ok(Base::Context(ContextBase {
                name,
                kind,
                platform,
            }));
        }
        // Exactly: `FROM Name` does not find a stage, because stages are known by their names in lower case.
        let earlier = self.file.stage_in_lower_case(&name, index);
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

    fn word_of_from(&self, text: &Text) -> Outcome<String> {
        expand::word(&text.value, self.file.escape, &self.target.globals)
            .map(|expanded| expanded.text)
            .map_err(|error| Box::new(expansion_mistake(text, &error)))
    }

    fn platform_of_from(&self, text: &Text) -> Outcome<Platform> {
        let value = self.word_of_from(text)?;
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
            let mistake =
                Diagnostic::error("bad-platform", format!("bad platform: {error}"), text.span);
            Box::new(match self.undefined_in(text) {
                Some(_) => mistake.help(self.why_empty(text)),
                None => mistake,
            })
        })
    }

    /// The first variable of a word of FROM that has no value.
    pub(crate) fn undefined_in(&self, text: &Text) -> Option<String> {
        expand::word(&text.value, self.file.escape, &self.target.globals)
            .ok()
            .and_then(|expanded| expanded.undefined.into_iter().next())
    }

    /// What to do about a word of a FROM line that came out empty.
    pub(crate) fn why_empty(&self, text: &Text) -> String {
        match &self.undefined_in(text) {
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
    pub(crate) fn reference(&self, name: &str, text: &Text, before: usize) -> Outcome<Location> {
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
                } else if self.undefined_in(text).is_some() {
                    mistake = mistake.help(self.why_empty(text));
                } else if name.ends_with(':') {
                    mistake = mistake.help("take the `:` away, or write a tag after it");
                }
                Box::new(mistake)
            })
    }
}

impl Lowering<'_> {
    /// The state that an image, or a context in its place, begins with.
    pub(crate) fn image_state(
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
                let name = self.stage_prefix(
                    index,
                    &platform,
                    &Scope::default(),
                    1,
                    self.steps_of(index, &[]),
                ) + &format!("FROM {}", base.name);
                let record = self.record_step(index, "FROM", 1);
                self.name_step(vertex, (index, 0), name, record, at);
                let mut state = State::empty(&platform);
                state.vertex = Some(vertex);
                state.record(format!("FROM {}", base.name), true);
                Some(state)
            }
            ContextKind::Image(location) => {
                let need = base.need_at(location, &platform);
                let Some(resolved) = self.images.get(&need).cloned() else {
                    self.need(need, text, None);
                    let mut state = State::empty(&platform);
                    state.tentative = true;
                    return Some(state);
                };
                self.warn_of_platform(base, &resolved, &platform, text);
                let triggers = resolved
                    .config
                    .config
                    .on_build
                    .as_deref()
                    .unwrap_or_default();
                let steps = self.steps_of(index, triggers);
                let prefix = self.stage_prefix(index, &platform, &Scope::default(), 1, steps);
                let vertex = self.image_vertex(&need, &resolved, &prefix, (index, 0), at);
                Some(State::of_image(vertex, &resolved, &platform))
            }
        }
    }

    fn warn_of_platform(
        &mut self,
        base: &ContextBase,
        resolved: &Resolved,
        expected: &Platform,
        text: &Text,
    ) {
        let actual = &resolved.platform;
        if (&actual.os, &actual.architecture) == (&expected.os, &expected.architecture) {
            return;
        }
        let message = format!(
            "Base image {} was pulled with platform \"{actual}\", expected \"{expected}\" for current build",
            base.name
        );
        let warning = Diagnostic::warning("InvalidBaseImagePlatform", message, text.span)
            .help("its programs may not run here; name one for the platform, or say `--platform`");
        if self.is_new(&warning) {
            self.warnings.push(Located {
                source: Arc::clone(self.file.source),
                diagnostic: warning,
            });
        }
    }

    /// `None` for an image without layers.
    pub(crate) fn image_vertex(
        &mut self,
        need: &ImageNeed,
        resolved: &Arc<Resolved>,
        prefix: &str,
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
}

/// A whole directory as a root file system.
pub(super) fn copy_of_directory() -> Op {
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
