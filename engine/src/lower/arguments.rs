//! What a target takes from whoever builds it: its ARGs, and those of what it needs.

use std::collections::HashSet;

use rbuild_parser::ast::{Command, Text};
use rbuild_parser::expand;

use super::Argument;
use super::lowering::{Lowering, Slot};

impl Lowering<'_> {
    /// Notes the ARGs that the target knows: its own, then those of the stages it needs, then those of before FROM
    /// that any of them takes over, names a base with, or that such a one is made of.
    pub(crate) fn note_arguments(&mut self, target: usize) {
        let mut inherited = Vec::new();
        let mut known: HashSet<String> =
            self.arguments.iter().map(|arg| arg.name.clone()).collect();
        let others = (0..self.slots.len()).rev().filter(|index| *index != target);
        for index in std::iter::once(target).chain(others) {
            let Slot::Done(state) = &self.slots[index] else {
                continue;
            };
            let from = self.file.stages[index].from;
            for text in std::iter::once(&from.image).chain(&from.platform) {
                inherited.extend(self.variables_of(text));
            }
            // The last of a name is the one in force.
            let before = self.arguments.len();
            for arg in state.args.iter().rev() {
                let Some(line) = arg.line else {
                    inherited.push(arg.name.clone());
                    continue;
                };
                if known.insert(arg.name.clone()) {
                    self.arguments.push(Argument {
                        name: arg.name.clone(),
                        value: arg.value.clone(),
                        line,
                    });
                }
            }
            self.arguments[before..].reverse();
        }
        while let Some(name) = inherited.pop() {
            let declarations = self.file.globals.iter().flat_map(|instruction| {
                let declarations = match &instruction.command {
                    Command::Arg(declarations) => declarations.as_slice(),
                    _ => &[],
                };
                declarations.iter().map(move |one| (*instruction, one))
            });
            let mut of_name = declarations.filter(|(_, one)| one.name.value == name);
            let Some((instruction, declaration)) = of_name.next_back() else {
                continue;
            };
            if known.insert(name.clone()) {
                self.arguments.push(Argument {
                    value: self.target.globals.value(&name).map(str::to_owned),
                    name,
                    line: instruction.start_line,
                });
                if let Some(default) = &declaration.default {
                    inherited.extend(self.variables_of(default));
                }
            }
        }
        self.arguments.sort_by_key(|arg| arg.line);
    }

    /// The variables that a word from before the first FROM, or of a FROM, uses.
    fn variables_of(&self, text: &Text) -> Vec<String> {
        match expand::word(&text.value, self.file.escape, &self.target.globals) {
            Ok(mut expanded) => {
                expanded.used.append(&mut expanded.undefined);
                expanded.used
            }
            Err(_) => Vec::new(),
        }
    }
}
