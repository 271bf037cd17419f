//! What a target takes (build args, secrets, ssh agents, cache mounts), and which targets a file has.

use std::collections::BTreeSet;
use std::sync::Arc;

use rbuild_parser::ast::{Command, Instruction};
use rbuild_parser::{Diagnostic, Keyword, Parsed, Severity, Source};

use super::{assume, description, is_idle, located};
use crate::lower::{
    self,
    file::{File, StageText},
};
use crate::op::{MountOpKind, Op};
use crate::request::BuildRequest;
use crate::{Error, Result, build, inputs};

/// What a target takes from whoever builds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// `None` for the last stage where it has no name.
    pub name: Option<String>,
    pub description: Option<String>,
    pub args: Vec<Argument>,
    pub secrets: Vec<Needed>,
    pub ssh: Vec<Needed>,
    pub caches: Vec<CacheMount>,
}

/// An ARG that a target takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    pub name: String,
    /// With what the build args say; `None` where it has no value.
    pub value: Option<String>,
    pub description: Option<String>,
    pub line: usize,
}

/// A secret, or an ssh agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needed {
    pub name: String,
    pub required: bool,
    pub line: usize,
}

/// A cache mount that a target uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheMount {
    pub id: String,
    pub target: String,
    pub line: usize,
}

/// A stage that can be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub name: Option<String>,
    /// Built where no target is named.
    pub default: bool,
    pub description: Option<String>,
    /// As written.
    pub base: String,
    pub platform: Option<String>,
    pub line: usize,
}

/// Lists the stages of a request's Dockerfile. What is wrong within one is left to who builds it.
pub fn targets(request: &BuildRequest) -> Result<Vec<Target>> {
    let (source, parsed) = read(request)?;
    let file = File::new(&source, &parsed);
    let last = file.stages.len().saturating_sub(1);
    let list = file.stages.iter().enumerate().map(|(index, stage)| {
        let name = stage.name().map(str::to_lowercase);
        Target {
            default: index == last,
            description: described(&source, stage.instruction, name.as_deref()),
            name,
            base: stage.from.image.value.clone(),
            platform: stage.from.platform.as_ref().map(|text| text.value.clone()),
            line: stage.instruction.start_line,
        }
    });
    Ok(list.collect())
}

/// Says what the target of a request takes. Stages that it does not need may have mistakes.
pub fn outline(request: &BuildRequest) -> Result<Outline> {
    let (source, parsed) = read(request)?;
    let options = build::options_of_look(request);
    let lowered = assume::lower(&source, &parsed, &options);
    let file = File::new(&source, &parsed);
    let matters = |one: &Diagnostic| match &lowered {
        Ok(lowered) => !is_idle(&file, &lowered.seen, one),
        Err(_) => true,
    };
    if errors(&parsed).any(matters) {
        build::require_sound(&source, &parsed, &options)?;
    }
    let lowered = lowered.map_err(Error::Dockerfile)?;
    let stages = file.stages.len();
    let stage = match &request.target {
        Some(name) => file.stage_named(name, stages),
        None => stages.checked_sub(1),
    };
    let stage = stage.and_then(|index| file.stages.get(index));
    let name = stage.and_then(StageText::name).map(str::to_lowercase);
    let description =
        stage.and_then(|stage| described(&source, stage.instruction, name.as_deref()));
    let mut outline = Outline {
        name,
        description,
        args: arguments(&source, &parsed, &lowered.arguments),
        secrets: Vec::new(),
        ssh: Vec::new(),
        caches: Vec::new(),
    };
    let mut known = BTreeSet::new();
    for step in &lowered.steps {
        let Op::Exec(exec) = lowered.graph.operation(step.vertex) else {
            continue;
        };
        for mount in &exec.mounts {
            let needed = |name: &str, required: bool| Needed {
                name: name.to_owned(),
                required,
                line: step.start_line,
            };
            match &mount.kind {
                MountOpKind::Secret { id, required, .. } => {
                    if known.insert(("secret", id.clone())) {
                        outline.secrets.push(needed(id, *required));
                    }
                }
                MountOpKind::Ssh { id, required, .. } => {
                    if known.insert(("ssh", id.clone())) {
                        outline.ssh.push(needed(id, *required));
                    }
                }
                MountOpKind::Cache { id, .. } => {
                    if known.insert(("cache", id.clone())) {
                        outline.caches.push(CacheMount {
                            id: id.clone(),
                            target: mount.target.clone(),
                            line: step.start_line,
                        });
                    }
                }
                MountOpKind::Bind { .. } | MountOpKind::Tmpfs { .. } => {}
            }
        }
    }
    Ok(outline)
}

/// What a target's ARGs are for: the comments above them say so.
fn arguments(source: &Source, parsed: &Parsed, known: &[lower::Argument]) -> Vec<Argument> {
    let instructions = &parsed.dockerfile.instructions;
    known
        .iter()
        .map(|arg| Argument {
            name: arg.name.clone(),
            value: arg.value.clone(),
            description: instructions
                .iter()
                .find(|instruction| instruction.start_line == arg.line)
                .and_then(|instruction| description::of(source, instruction, &arg.name)),
            line: arg.line,
        })
        .collect()
}

fn described(source: &Source, instruction: &Instruction, name: Option<&str>) -> Option<String> {
    description::of(source, instruction, name?)
}

/// Reads the Dockerfile; fails where it is not sure which stages that has.
fn read(request: &BuildRequest) -> Result<(Arc<Source>, Parsed)> {
    let source = Arc::new(inputs::dockerfile(&request.dockerfile, None)?);
    let parsed = rbuild_parser::parse(&source);
    if errors(&parsed).any(|one| hides_stages(&parsed, one)) {
        let all = parsed.diagnostics.into_iter();
        return Err(Error::Dockerfile(
            all.map(|diagnostic| located(&source, diagnostic)).collect(),
        ));
    }
    Ok((source, parsed))
}

fn errors(parsed: &Parsed) -> impl Iterator<Item = &Diagnostic> {
    let all = parsed.diagnostics.iter();
    all.filter(|diagnostic| diagnostic.severity == Severity::Error)
}

/// Whether a stage may be missing, or be another one, for a mistake: in a FROM, in what may be one, in what the file
/// begins with, or where a heredoc has no end.
fn hides_stages(parsed: &Parsed, mistake: &Diagnostic) -> bool {
    if ["no-stage", "unterminated-heredoc"].contains(&mistake.code) {
        return true;
    }
    let place = mistake.primary.span.start;
    let instructions = &parsed.dockerfile.instructions;
    let after = instructions.partition_point(|one| one.span.start <= place);
    let instruction = after.checked_sub(1).and_then(|at| instructions.get(at));
    match instruction.filter(|one| place < one.span.end) {
        None => true,
        Some(one) if Keyword::find(&one.keyword.value) == Some(Keyword::From) => {
            matches!(one.command, Command::Invalid) || mistake.code == "bad-stage-name"
        }
        Some(one) => build::may_be_from(one),
    }
}
