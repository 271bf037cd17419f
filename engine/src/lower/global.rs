//! What holds for the whole file: ARGs before the first FROM, SOURCE_DATE_EPOCH, the target.

use std::sync::Arc;

use rbuild_parser::ast::Command;
use rbuild_parser::expand;
use rbuild_parser::suggest::nearest;
use rbuild_parser::{Diagnostic, Span};

use super::lowering::Lowering;
use super::scope;
use super::words::expansion_mistake;
use crate::error::Located;

impl Lowering<'_> {
    /// ARG before the first FROM: each sees the ones before it.
    pub(crate) fn globals(&mut self) {
        for instruction in self.file.globals.clone() {
            let Command::Arg(declarations) = &instruction.command else {
                continue;
            };
            for declaration in declarations {
                let name = &declaration.name.value;
                self.target.global_names.insert(name.clone());
                if let Some(given) = self.build_args.get(name) {
                    self.target.globals.set(name, given.clone());
                } else if let Some(default) = &declaration.default {
                    match expand::word(&default.value, self.file.escape, &self.target.globals) {
                        Ok(value) => self.target.globals.set(name, value.text),
                        Err(error) => {
                            let mistake = expansion_mistake(default, &error);
                            self.mistake(mistake, false);
                        }
                    }
                }
            }
        }
    }

    pub(crate) fn read_epoch(&mut self) {
        const NAME: &str = "SOURCE_DATE_EPOCH";
        let value = self
            .build_args
            .get(NAME)
            .map(String::as_str)
            .or_else(|| self.target.globals.value(NAME))
            .unwrap_or("");
        if value.is_empty() {
            self.epoch = None;
            return;
        }
        if let Ok(epoch) = value.parse() {
            self.epoch = Some(epoch);
            return;
        }
        let place = self
            .file
            .globals
            .iter()
            .flat_map(|instruction| match &instruction.command {
                Command::Arg(declarations) => declarations.as_slice(),
                _ => &[],
            })
            .find(|declaration| declaration.name.value == NAME)
            .map_or(Span::new(0, 0), |declaration| declaration.name.span);
        let mistake = Diagnostic::error(
            "bad-epoch",
            format!("SOURCE_DATE_EPOCH is `{value}`, which is no number of seconds"),
            place,
        )
        .help("give it as seconds since 1970-01-01 00:00 UTC, for instance the output of `git log -1 --format=%ct`");
        self.mistake(mistake, false);
    }

    pub(crate) fn target_stage(&mut self) -> Option<usize> {
        let Some(name) = &self.options.target else {
            return self.file.stages.len().checked_sub(1);
        };
        let found = self.file.stage_named(name, self.file.stages.len());
        if found.is_none() {
            let last = self.file.stages.last()?.instruction.span;
            let mut mistake = Diagnostic::error(
                "unknown-target",
                format!("no stage is called `{name}`, which --target asks for"),
                last,
            );
            mistake.primary.text = "the last stage".to_owned();
            if name.parse::<usize>().is_ok() {
                mistake = mistake.help("--target takes the name of a stage, not its number");
            }
            if let Some(near) = nearest(name, self.file.stage_names()) {
                mistake = mistake.help(format!("there is a stage `{near}`"));
            } else {
                let names: Vec<String> = self
                    .file
                    .stage_names()
                    .map(|name| format!("`{name}`"))
                    .collect();
                mistake = mistake.help(if names.is_empty() {
                    "no stage has a name: give it one with `FROM image AS name`".to_owned()
                } else {
                    format!("there are the stages {}", names.join(", "))
                });
            }
            self.mistake(mistake, false);
        }
        found
    }

    /// BuildKit keeps silent about them, and a typo in a flag goes unnoticed.
    pub(crate) fn warn_of_unknown_build_args(&mut self) {
        let stages = self.file.stages.iter();
        let instructions = self
            .file
            .globals
            .iter()
            .chain(stages.flat_map(|stage| stage.body.iter()));
        for instruction in instructions {
            let instruction = match &instruction.command {
                Command::Onbuild(onbuild) => &onbuild.instruction,
                _ => instruction,
            };
            if let Command::Arg(declarations) = &instruction.command {
                let names = declarations
                    .iter()
                    .map(|declaration| declaration.name.value.clone());
                self.declared.extend(names);
            }
        }
        for name in self.options.build_args.keys() {
            if self.declared.contains(name) || scope::is_predefined(name) {
                continue;
            }
            let mut warning = Diagnostic::warning(
                "UnusedBuildArg",
                format!("no ARG declares `{name}`, which --build-arg gives"),
                Span::new(0, 0),
            );
            if let Some(near) = nearest(name, self.declared.iter().map(String::as_str)) {
                warning = warning.help(format!("there is an ARG `{near}`"));
            }
            self.warnings.push(Located {
                source: Arc::clone(self.file.source),
                diagnostic: warning,
            });
        }
    }
}
