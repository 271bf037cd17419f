//! A Dockerfile's instructions, grouped: what comes before the first FROM, and one group for each stage.

use std::collections::HashMap;
use std::sync::Arc;

use rbuild_parser::ast::{Command, Escape, From, Instruction};
use rbuild_parser::{Parsed, Source};

#[derive(Debug)]
pub(crate) struct File<'a> {
    pub(crate) source: &'a Arc<Source>,
    pub(crate) escape: Escape,
    /// Whether `from` may hold variables.
    pub(crate) extended: bool,
    /// ARG before the first FROM.
    pub(crate) globals: Vec<&'a Instruction>,
    pub(crate) stages: Vec<StageText<'a>>,
    /// Names in lower case, each with the stages of that name in order.
    names: HashMap<String, Vec<usize>>,
}

#[derive(Debug)]
pub(crate) struct StageText<'a> {
    pub(crate) from: &'a From,
    /// The FROM itself.
    pub(crate) instruction: &'a Instruction,
    pub(crate) body: Vec<&'a Instruction>,
}

impl<'a> File<'a> {
    /// Instructions that belong to no stage are left out; the parser has reported them.
    pub(crate) fn new(source: &'a Arc<Source>, parsed: &'a Parsed) -> Self {
        let mut file = Self {
            source,
            escape: parsed.dockerfile.escape,
            extended: parsed.dockerfile.extended,
            globals: Vec::new(),
            stages: Vec::new(),
            names: HashMap::new(),
        };
        for instruction in &parsed.dockerfile.instructions {
            if let Command::From(from) = &instruction.command {
                if let Some(name) = &from.name {
                    let stages = file.names.entry(name.value.to_ascii_lowercase());
                    stages.or_default().push(file.stages.len());
                }
                file.stages.push(StageText {
                    from,
                    instruction,
                    body: Vec::new(),
                });
            } else if let Some(stage) = file.stages.last_mut() {
                stage.body.push(instruction);
            } else if matches!(instruction.command, Command::Arg(_)) {
                file.globals.push(instruction);
            }
        }
        file
    }

    /// Returns the last stage of that name, in any case of letters, among the first `limit`.
    pub(crate) fn stage_named(&self, name: &str, limit: usize) -> Option<usize> {
        self.stage_in_lower_case(&name.to_ascii_lowercase(), limit)
    }

    /// As [`File::stage_named`], where the name has to be written in lower case.
    pub(crate) fn stage_in_lower_case(&self, name: &str, limit: usize) -> Option<usize> {
        let stages = self.names.get(name)?;
        let above = stages.partition_point(|stage| *stage < limit);
        stages.get(above.checked_sub(1)?).copied()
    }

    pub(crate) fn stage_names(&self) -> impl Iterator<Item = &'a str> {
        self.stages.iter().filter_map(StageText::name)
    }
}

impl<'a> StageText<'a> {
    pub(crate) fn name(&self) -> Option<&'a str> {
        self.from.name.as_ref().map(|name| name.value.as_str())
    }
}
