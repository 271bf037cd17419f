//! What `--from` of COPY and `from=` of a mount name: a stage above, a named context or an image.

use rbuild_parser::ast::{Command, Text};
use rbuild_parser::expand;
use rbuild_parser::mount::{has_variable, variable_in_from};
use rbuild_parser::suggest::nearest;
use rbuild_parser::{Diagnostic, Span};
use rbuild_solver::VertexId;

use super::lowering::{Lowering, Outcome, Site};
use super::state::State;
use super::words::expansion_mistake;
use super::{ContextKind, ImageNeed};
use crate::op::{FileOp, Op};

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

impl Lowering<'_> {
    /// What `--from`, or `from=` of a mount, names.
    pub(crate) fn input(&mut self, state: &State, site: Site<'_>, text: &Text) -> Outcome<Input> {
        if state.tentative && text.value.contains('$') {
            return Ok(Input::Unknown);
        }
        if has_variable(&text.value) {
            if !self.file.extended {
                return Err(Box::new(variable_in_from("`--from`", text.span)));
            }
            let expanded = expand::word(&text.value, self.file.escape, &state.scope)
                .map_err(|error| Box::new(expansion_mistake(text, &error)))?;
            if !expanded.undefined.is_empty() {
                let mistake = self.unset_in_from(state, site, &expanded.undefined, text.span);
                return Err(Box::new(mistake));
            }
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
            return self.input_by_number(site, text, number);
        }
        if let Some((name, kind)) = self.named_context(&name) {
            return self.input_of(site, text, name, &kind);
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
        self.input_of(site, text, name, &ContextKind::Image(location))
    }

    /// Says that a variable in `from` is not set, and what there is.
    pub(crate) fn unset_in_from(
        &self,
        state: &State,
        site: Site<'_>,
        unset: &[String],
        span: Span,
    ) -> Diagnostic {
        let name = unset.first().map_or("", String::as_str);
        let message = format!("`from` uses the variable `{name}`, which is not set");
        let mut mistake = Diagnostic::error("unset-in-from", message, span);
        let set: Vec<String> = state
            .args
            .iter()
            .filter_map(|arg| Some(format!("`{}={}`", arg.name, arg.value.as_ref()?)))
            .collect();
        if let Some(near) = nearest(name, state.scope.names()) {
            mistake = mistake.help(format!("there is a variable `{near}`"));
        } else if self.target.global_names.contains(name) {
            mistake = mistake.help(format!(
                "`{name}` is declared before FROM; declare it again in this stage with `ARG {name}`"
            ));
        }
        if !set.is_empty() {
            mistake = mistake.help(format!("set are {}", set.join(", ")));
        }
        let stages: Vec<String> = self
            .file
            .stages
            .iter()
            .take(site.stage)
            .filter_map(|stage| Some(format!("`{}`", stage.name()?)))
            .collect();
        if stages.is_empty() {
            mistake
        } else {
            mistake.help(format!("the stages above are {}", stages.join(", ")))
        }
    }

    fn input_by_number(&mut self, site: Site<'_>, text: &Text, number: i64) -> Outcome<Input> {
        let stages = self.file.stages.len();
        match usize::try_from(number) {
            Ok(index) if index < site.stage => Ok(self.input_of_stage(index)),
            Ok(index) if index < stages => Err(Box::new(self.too_late(
                index,
                site,
                &number.to_string(),
                text,
            ))),
            _ => Err(Box::new(no_such_number(number, stages, text))),
        }
    }

    /// Numbers past the last stage are wrong also in stages that are not needed.
    pub(crate) fn check_numbers(&mut self) {
        let stages = self.file.stages.len();
        let mut mistakes = Vec::new();
        for instruction in self.file.stages.iter().flat_map(|stage| stage.body.iter()) {
            let Command::Copy(copy) = &instruction.command else {
                continue;
            };
            if let Some(from) = &copy.from
                && let Ok(number) = from.value.parse::<i64>()
                && usize::try_from(number).map_or(true, |number| number >= stages)
            {
                mistakes.push(no_such_number(number, stages, from));
            }
        }
        for mistake in mistakes {
            self.mistake(mistake, false);
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
                    self.need(need, text, site.blame);
                    return Ok(Input::Unknown);
                };
                let place = (site.stage, site.ordinal);
                let vertex = self.image_vertex(&need, &resolved, "", place, site.shown());
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

    /// Says that an image is nowhere, which may be a stage's name mistyped.
    pub(crate) fn missing_image(&self, name: &str, text: &Text) -> Diagnostic {
        if let Some(later) = self.file.stage_named(name, self.file.stages.len()) {
            let place = self.file.stages[later].instruction;
            return Diagnostic::error(
                "image-not-found",
                format!("image `{name}` could not be found"),
                text.span,
            )
            .secondary(place.keyword.span, "a stage of that name begins here")
            .help("a stage can only be used below its end: move it up if it is meant");
        }
        if self.undefined_in(text).is_some() {
            return Diagnostic::error(
                "image-not-found",
                format!("image `{name}` could not be found"),
                text.span,
            )
            .help(self.why_empty(text));
        }
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
}

fn no_such_number(number: i64, stages: usize, text: &Text) -> Diagnostic {
    Diagnostic::error(
        "unknown-stage",
        format!("there is no stage number {number}"),
        text.span,
    )
    .help(format!(
        "stages are counted from 0; the last one is {}",
        stages.saturating_sub(1)
    ))
}

pub(crate) fn unknown_context_stage(context: &str, stage: &str, text: &Text) -> Diagnostic {
    Diagnostic::error(
        "unknown-stage",
        format!(
            "the named context `{context}` is `target:{stage}`, but there is no stage `{stage}`"
        ),
        text.span,
    )
}
