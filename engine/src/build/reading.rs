//! From a request and a Dockerfile's text to what can be lowered, or to all mistakes at once.

use std::collections::HashMap;
use std::sync::Arc;

use rbuild_image::Platform;
use rbuild_parser::ast::{Command, Instruction};
use rbuild_parser::suggest::nearest;
use rbuild_parser::{Keyword, Parsed, Severity, Source};

use crate::lower::{self, ContextKind};
use crate::request::{BuildRequest, Entitlement, NamedContext};
use crate::{Error, Located, Result};

/// What lowering needs to know of a request.
pub(crate) fn options(request: &BuildRequest) -> lower::Options {
    let contexts = request.contexts.iter().map(|(name, context)| {
        let kind = match context {
            NamedContext::Directory(_) | NamedContext::Remote(_) => ContextKind::Directory,
            NamedContext::Image(location) => ContextKind::Image(location.clone()),
            NamedContext::Stage(stage) => ContextKind::Stage(stage.clone()),
        };
        (name.clone(), kind)
    });
    lower::Options {
        target: request.target.clone(),
        platforms: request.platforms.clone(),
        build_args: request.build_args.clone(),
        labels: request.labels.clone(),
        contexts: contexts.collect(),
        no_cache: request.no_cache.clone(),
        network: request.network,
        reach: request.reach.clone(),
        hosts: request.hosts.clone(),
        limits: (&request.limits).into(),
        allow: request.allow.clone(),
        source_date_epoch: request.source_date_epoch.clone(),
        sbom: request.attestations.sbom,
        ..lower::Options::new(Platform::host())
    }
}

/// As [`options`], for a look at a Dockerfile that builds nothing: images are made up, and all is allowed.
pub(crate) fn options_of_look(request: &BuildRequest) -> lower::Options {
    lower::Options {
        assumed: true,
        reach: None,
        allow: vec![Entitlement::NetworkHost, Entitlement::SecurityInsecure],
        ..options(request)
    }
}

/// An error that the parser found ends the build.
pub(crate) fn require_sound(
    source: &Arc<Source>,
    parsed: &Parsed,
    options: &lower::Options,
) -> Result<()> {
    let all = &parsed.diagnostics;
    if all.iter().all(|one| one.severity != Severity::Error) {
        return Ok(());
    }
    let located = all.iter().map(|diagnostic| Located {
        source: Arc::clone(source),
        diagnostic: diagnostic.clone(),
    });
    let mut located: Vec<Located> = located.collect();
    located.extend(further_mistakes(source, parsed, options));
    located.sort_by_key(|one| one.diagnostic.primary.span.start);
    Err(Error::Dockerfile(located))
}

/// Whether a line that does not read as an instruction may be meant for a FROM.
pub(crate) fn may_be_from(instruction: &Instruction) -> bool {
    may_be(instruction, Keyword::From)
}

fn may_be(instruction: &Instruction, keyword: Keyword) -> bool {
    matches!(instruction.command, Command::Invalid)
        && nearest(&instruction.keyword.value, [keyword.name()]).is_some()
}

/// What is wrong besides, with instructions that parse: so that all mistakes are told at once. Not where a stage may
/// be missing for what the parser found.
pub(crate) fn further_mistakes(
    source: &Arc<Source>,
    parsed: &Parsed,
    options: &lower::Options,
) -> Vec<Located> {
    let instructions = &parsed.dockerfile.instructions;
    let may_be_arg = |one: &Instruction| may_be(one, Keyword::Arg);
    let mut instructions = instructions.iter();
    if instructions.any(|one| may_be_from(one) || may_be_arg(one)) {
        return Vec::new();
    }
    let known = HashMap::new();
    let mistakes = lower::images_needed(source, parsed, options, &known).err();
    let is_said = |one: &Located| {
        let place = one.diagnostic.primary.span;
        parsed.diagnostics.iter().any(|said| {
            let said = said.primary.span;
            said.start < place.end && place.start < said.end
        })
    };
    let mistakes = mistakes.unwrap_or_default().into_iter();
    mistakes
        .filter(|one| one.diagnostic.severity == Severity::Error && !is_said(one))
        .collect()
}
