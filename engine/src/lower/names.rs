//! How steps are called, and what groups their records.

use rbuild_image::Platform;
use rbuild_parser::ast::{Command, Instruction};

use super::lowering::{Lowering, Site};
use super::scope::Scope;
use super::state::State;

impl Lowering<'_> {
    /// `[linux/amd64 build 2/4] `
    pub(crate) fn stage_prefix(
        &self,
        index: usize,
        platform: &Platform,
        variables: &Scope,
        step: usize,
        steps: usize,
    ) -> String {
        let mut prefix = "[".to_owned();
        if self.options.platforms.len() > 1 {
            prefix.push_str(&format!("{platform}{} ", made_for(platform, variables)));
        }
        if self.file.stages.len() > 1 {
            match self.file.stages[index].name() {
                Some(name) => prefix.push_str(name),
                None => prefix.push_str(&format!("stage-{index}")),
            }
            prefix.push(' ');
        }
        let width = steps.to_string().len();
        prefix.push_str(&format!("{step:>width$}/{steps}] "));
        prefix
    }

    /// How many steps a stage built on an image has, its FROM and the image's triggers among them.
    pub(crate) fn steps_of(&self, index: usize, triggers: &[String]) -> usize {
        let is_step = |trigger: &&String| {
            let keyword = trigger.split_whitespace().next().unwrap_or_default();
            ["RUN", "COPY", "ADD", "WORKDIR"]
                .iter()
                .any(|step| step.eq_ignore_ascii_case(keyword))
        };
        let own = self.file.stages[index]
            .body
            .iter()
            .filter(|instruction| makes_step(instruction));
        1 + triggers.iter().filter(is_step).count() + own.count()
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
            &state.scope,
            state.step,
            state.steps.max(state.step),
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

    pub(crate) fn record_step(&self, index: usize, keyword: &str, ordinal: usize) -> String {
        let stage = match self.file.stages[index].name() {
            Some(name) => name.to_ascii_lowercase(),
            None => format!("stage-{index}"),
        };
        format!("{}/{stage}/{keyword}/{ordinal}", self.target.platform)
    }
}

/// `->arm64`, where a stage that runs on one platform makes something for another.
fn made_for(platform: &Platform, variables: &Scope) -> String {
    let target = match variables.value("TARGETPLATFORM").map(Platform::parse) {
        Some(Ok(target)) => target,
        _ => {
            let part = |name: &str, other: &str| {
                let value = variables.value(name).filter(|value| !value.is_empty());
                value.unwrap_or(other).to_owned()
            };
            let mut target = part("TARGETOS", &platform.os);
            target.push('/');
            target.push_str(&part("TARGETARCH", &platform.architecture));
            if let Some(variant) = variables.value("TARGETVARIANT").filter(|it| !it.is_empty()) {
                target.push('/');
                target.push_str(variant);
            }
            match Platform::parse(&target) {
                Ok(target) => target,
                Err(_) => return String::new(),
            }
        }
    };
    if target.os != platform.os {
        format!("->{target}")
    } else if target.architecture != platform.architecture {
        let text = target.to_string();
        let name = text.split_once('/').map_or(text.as_str(), |(_, name)| name);
        format!("->{name}")
    } else {
        String::new()
    }
}

/// Whether an instruction is counted as a step.
pub(crate) fn makes_step(instruction: &Instruction) -> bool {
    matches!(
        instruction.command,
        Command::Run(_) | Command::Copy(_) | Command::Add(_) | Command::Workdir(_)
    )
}
