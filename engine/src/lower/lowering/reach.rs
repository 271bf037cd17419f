//! Which stages a target needs.

use std::collections::HashSet;

use rbuild_parser::ast::{Command, Instruction};

use super::Lowering;
use crate::lower::base::Base;

impl Lowering<'_> {
    /// The stages that `target` needs as far as the text alone tells, in the order of the file. Lowering them in
    /// that order keeps recursion shallow; what variables and triggers name besides is found on the way.
    pub(super) fn reachable(&self, target: usize) -> Vec<usize> {
        let mut found = HashSet::from([target]);
        let mut todo = vec![target];
        while let Some(index) = todo.pop() {
            let mut visit = |next: usize| {
                if found.insert(next) {
                    todo.push(next);
                }
            };
            if let Some(Some(Base::Stage(base))) = self.bases.get(index) {
                visit(*base);
            }
            if matches!(self.bases.get(index), Some(Some(Base::Context(_)))) {
                continue;
            }
            for instruction in &self.file.stages[index].body {
                for name in named_inputs(instruction) {
                    let named = match name.parse::<usize>() {
                        Ok(number) => (number < index).then_some(number),
                        Err(_) => self.file.stage_named(name, index),
                    };
                    named.into_iter().for_each(&mut visit);
                }
            }
        }
        let mut found: Vec<usize> = found.into_iter().collect();
        found.sort_unstable();
        found
    }
}

/// What an instruction reads besides the build context, as written.
fn named_inputs(instruction: &Instruction) -> Vec<&str> {
    match &instruction.command {
        Command::Copy(copy) => copy.from.iter().map(|from| from.value.as_str()).collect(),
        Command::Run(run) => run
            .mounts
            .iter()
            .flat_map(|mount| mount.value.split(','))
            .filter_map(|option| option.strip_prefix("from="))
            .collect(),
        _ => Vec::new(),
    }
}
