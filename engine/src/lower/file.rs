//! A Dockerfile's instructions, grouped: what comes before the first FROM, and one group for each stage.

use std::sync::Arc;

use rbuild_parser::ast::{Command, Escape, From, Instruction};
use rbuild_parser::{Diagnostic, Parsed, Severity, Source, Span};

#[derive(Debug)]
pub(crate) struct File<'a> {
    pub(crate) source: &'a Arc<Source>,
    pub(crate) escape: Escape,
    /// ARG before the first FROM.
    pub(crate) globals: Vec<&'a Instruction>,
    pub(crate) stages: Vec<StageText<'a>>,
}

#[derive(Debug)]
pub(crate) struct StageText<'a> {
    pub(crate) from: &'a From,
    /// The FROM itself.
    pub(crate) instruction: &'a Instruction,
    pub(crate) body: Vec<&'a Instruction>,
}

impl<'a> File<'a> {
    /// Groups, and reports what the grouping cannot take unless the parser has done so.
    pub(crate) fn new(source: &'a Arc<Source>, parsed: &'a Parsed) -> (Self, Vec<Diagnostic>) {
        let mut file = Self {
            source,
            escape: parsed.dockerfile.escape,
            globals: Vec::new(),
            stages: Vec::new(),
        };
        let mut mistakes = Vec::new();
        let reported = |span: Span| {
            parsed.diagnostics.iter().any(|known| {
                known.severity == Severity::Error
                    && known.primary.span.start >= span.start
                    && known.primary.span.start <= span.end
            })
        };
        for instruction in &parsed.dockerfile.instructions {
            if let Command::From(from) = &instruction.command {
                if let Some(mistake) = check_name(from).filter(|_| !reported(instruction.span)) {
                    mistakes.push(mistake);
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
            } else if !matches!(instruction.command, Command::Invalid) && !reported(instruction.span) {
                let keyword = instruction.keyword.value.to_ascii_uppercase();
                mistakes.push(
                    Diagnostic::error(
                        "no-stage-yet",
                        format!("{keyword} before the first FROM"),
                        instruction.keyword.span,
                    )
                    .label("there is no stage for this yet")
                    .help("only ARG may stand before the first FROM"),
                );
            }
        }
        let any_error = parsed
            .diagnostics
            .iter()
            .any(|known| known.severity == Severity::Error);
        if file.stages.is_empty() && mistakes.is_empty() && !any_error {
            let end = source.text().len();
            mistakes.push(
                Diagnostic::error(
                    "no-stages",
                    "the Dockerfile has no FROM instruction, so there is nothing to build",
                    Span::new(end, end),
                )
                .help("begin with `FROM image`, or with `FROM scratch` for an empty image"),
            );
        }
        (file, mistakes)
    }

    /// Returns the last stage of that name, in any case of letters, among the first `limit`.
    pub(crate) fn stage_named(&self, name: &str, limit: usize) -> Option<usize> {
        self.stages.iter().take(limit).rposition(|stage| {
            stage
                .name()
                .is_some_and(|known| known.eq_ignore_ascii_case(name))
        })
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

/// A stage's name begins with a letter and goes on with letters, digits, `-`, `_` and `.`.
fn check_name(from: &From) -> Option<Diagnostic> {
    let name = from.name.as_ref()?;
    let mut chars = name.value.chars();
    let valid = chars.next().is_some_and(|c| c.is_ascii_alphabetic())
        && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    (!valid).then(|| {
        Diagnostic::error(
            "bad-stage-name",
            format!("`{}` is not a name for a stage", name.value),
            name.span,
        )
        .help("a name begins with a letter and goes on with letters, digits, `-`, `_` and `.`")
    })
}
