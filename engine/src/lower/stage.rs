//! A stage, from what it is built on to its last instruction.

use std::rc::Rc;

use rbuild_parser::Diagnostic;
use rbuild_parser::ast::Command;

use super::base::Base;
use super::lowering::{Lowering, Outcome, Site, Slot};
use super::names::makes_step;
use super::state::State;

/// Stages that name one another only by variables or triggers nest this deep at most.
const DEPTH_LIMIT: usize = 32;

impl Lowering<'_> {
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
        let mut known = self.named_steps();
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
        self.note_surroundings(known, &state);
        state.stage_line = from.start_line;
        let body = self.file.stages[index].body.clone();
        let base_step = usize::from(matches!(self.bases.get(index), Some(Some(Base::Image(_)))));
        state.step = base_step;
        state.steps = base_step
            + triggers
                .iter()
                .chain(body.iter().copied())
                .filter(|instruction| makes_step(instruction))
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
            state.line = blame.unwrap_or(instruction).start_line;
            known = self.named_steps();
            if let Err(mistake) = self.instruction(&mut state, site) {
                self.mistake_at(site, *mistake, depends_on_base(&state, site));
            }
            self.note_surroundings(known, &state);
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
            Command::Expose(ports) => self.expose(state, site, ports),
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
}

/// Whether a mistake may be owed to a base that is not known yet: by its variables, or its working directory.
pub(crate) fn depends_on_base(state: &State, site: Site<'_>) -> bool {
    let instruction = site.instruction;
    state.tentative
        && (matches!(instruction.command, Command::Run(_))
            || instruction.original.contains('$')
            || instruction
                .heredocs
                .iter()
                .any(|heredoc| heredoc.content.contains('$')))
}
