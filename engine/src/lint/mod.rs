//! Looking at a Dockerfile without building it: what is suspicious ([`check`]), what a target takes ([`outline`]),
//! which targets there are ([`targets`]). Needs no store, no namespaces and no network.
//!
//! Rules that the text alone decides have a function here, by topic, in [`CHECKS`]; those about expanded words
//! (`UndefinedVar`, `WorkdirRelativePath`, `Expose…`) are found by `crate::lower`, which a check runs with images
//! that `assume` makes up; slips of typography by the parser. All are named in [`rule::RULES`], and [`Settings`] says
//! which are shown. Drawing them is the command line's business.

mod arrays;
pub(crate) mod assume;
mod casing;
mod comment;
mod description;
mod flags;
mod from;
mod graph;
mod instructions;
mod outline;
pub mod rule;
mod secrets;
mod settings;
mod shell;
mod stages;
#[cfg(test)]
mod tests;
mod transfer;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use rbuild_cache::RootDir;
use rbuild_image::Platform;
use rbuild_parser::ast::{Escape, Instruction, Text};
use rbuild_parser::{Diagnostic, Parsed, Severity, Source, Span, expand};

pub(crate) use secrets::looks_secret;

pub use graph::{Graph, Vertex, VertexKind, graph};
pub use outline::{Argument, CacheMount, Needed, Outline, Target, outline, targets};
pub use settings::Settings;

use crate::context::Ignore;
use crate::error::Located;
use crate::lower::file::{File, StageText};
use crate::lower::{LocalSource, Seen};
use crate::request::{BuildRequest, ContextLocation};
use crate::{Result, build, inputs};

/// Bytes of a file that are enough to know a script's first line.
const HEAD_BYTES: usize = 512;

/// What a check found.
#[derive(Debug)]
pub struct Check {
    pub source: Arc<Source>,
    pub warnings: Vec<Warning>,
    pub errors: Vec<Located>,
    /// There is an error; warnings are one where `error=true` says so.
    pub fails: bool,
}

#[derive(Debug)]
pub struct Warning {
    /// By the count of BuildKit, which names the line where the instruction begins.
    pub line: usize,
    pub located: Located,
}

/// What a rule looks at.
struct Subject<'a> {
    source: &'a Arc<Source>,
    file: &'a File<'a>,
    instructions: &'a [Instruction],
    build_args: &'a BTreeMap<String, String>,
    platform: Option<&'a Platform>,
    context: Option<&'a ContextView>,
    /// What COPY and ADD take from it; nothing where the file was not lowered.
    sources: &'a [LocalSource],
}

/// What rules may know of the build context.
struct ContextView {
    ignore: Option<Ignore>,
    head: Head,
}

/// Reads the beginning of a regular file of the context.
type Head = Box<dyn Fn(&Path) -> Option<Vec<u8>>>;

type Look = fn(&Subject<'_>, &mut Vec<Diagnostic>);

/// The rules that need the text only, or at most a look into the context.
const CHECKS: &[(&str, Look)] = &[
    ("StageNameCasing", casing::stage_names),
    ("FromAsCasing", casing::from_and_as),
    ("ConsistentInstructionCasing", casing::keywords),
    ("DuplicateStageName", stages::names),
    ("UndefinedArgInFrom", from::undefined),
    ("InvalidDefaultArgInFrom", from::bad_default),
    ("RedundantTargetPlatform", from::platforms),
    ("NoEmptyContinuation", instructions::empty_continuation),
    ("JSONArgsRecommended", instructions::json_arguments),
    ("MultipleInstructionsDisallowed", instructions::used_once),
    ("MaintainerDeprecated", instructions::maintainer),
    ("LegacyKeyValueFormat", instructions::legacy_pairs),
    ("SecretsUsedInArgOrEnv", secrets::names),
    ("SecretValueInArgOrEnv", secrets::values),
    ("InvalidDefinitionDescription", description::form),
    ("AptGetUpdateAlone", shell::apt_update_alone),
    ("HeredocContinuesAfterError", shell::heredoc_without_e),
    ("UseCopyInsteadOfAdd", transfer::add),
    ("CopyIgnoredFile", transfer::ignored),
    ("BackslashInPath", transfer::backslash),
    ("CrlfScriptCopied", transfer::crlf),
    ("InvalidJsonArray", arrays::almost),
    ("CommentAfterInstruction", comment::after_instruction),
    ("FlagAfterArguments", flags::late),
];

/// Lints the Dockerfile of a request. Mistakes in it are part of the answer; an error is what kept it from being read.
pub fn check(request: &BuildRequest) -> Result<Check> {
    let source = Arc::new(inputs::dockerfile(&request.dockerfile, None)?);
    let parsed = rbuild_parser::parse(&source);
    let (settings, mut errors) = match Settings::of(&parsed, &request.build_args) {
        Ok(settings) => (settings, Vec::new()),
        Err(mistake) => (Settings::default(), vec![located(&source, *mistake)]),
    };
    let mut options = build::options_of_look(request);
    options.every_stage = request.target.is_none();
    let is_error = |one: &Diagnostic| one.severity == Severity::Error;
    let mut found = if errors.is_empty() && !parsed.diagnostics.iter().any(is_error) {
        let findings = assume::findings(&source, &parsed, &options);
        errors = findings.mistakes;
        let mut found = look(&source, &parsed, request, Some(&findings.seen))?;
        found.extend(findings.warnings);
        found
    } else {
        errors.extend(build::further_mistakes(&source, &parsed, &options));
        look(&source, &parsed, request, None)?
    };
    errors.extend(found.extract_if(.., |one| is_error(&one.diagnostic)));
    errors.sort_by_key(|one| one.diagnostic.primary.span.start);
    settings.select(&mut found);
    if errors.is_empty() {
        errors.extend(settings.violation(&found));
    }
    let fails = !errors.is_empty();
    let warnings = found
        .into_iter()
        .map(|located| Warning {
            line: line(&source, &parsed, &located.diagnostic),
            located,
        })
        .collect();
    Ok(Check {
        source,
        warnings,
        errors,
        fails,
    })
}

/// What the parser and the rules of the text find, unsorted; errors of the parser among it. Of stages that were not
/// lowered is said what concerns the file as a whole.
pub(crate) fn look(
    source: &Arc<Source>,
    parsed: &Parsed,
    request: &BuildRequest,
    seen: Option<&Seen>,
) -> Result<Vec<Located>> {
    let context = match &request.context {
        ContextLocation::Directory(path) if path.is_dir() => {
            let ignore = inputs::ignore(path, Some(&request.dockerfile))?;
            Some(view(path, ignore))
        }
        _ => None,
    };
    let platform = request.platforms.first();
    let diagnostics = texts(
        source,
        parsed,
        &request.build_args,
        platform,
        context.as_ref(),
        seen,
    );
    Ok(parsed
        .diagnostics
        .iter()
        .cloned()
        .chain(diagnostics)
        .map(|diagnostic| located(source, diagnostic))
        .collect())
}

fn texts(
    source: &Arc<Source>,
    parsed: &Parsed,
    build_args: &BTreeMap<String, String>,
    platform: Option<&Platform>,
    context: Option<&ContextView>,
    seen: Option<&Seen>,
) -> Vec<Diagnostic> {
    let file = File::new(source, parsed);
    let subject = Subject {
        source,
        file: &file,
        instructions: &parsed.dockerfile.instructions,
        build_args,
        platform,
        context,
        sources: seen.map_or(&[], |seen| &seen.sources),
    };
    let mut found = Vec::new();
    for (_, look) in CHECKS {
        look(&subject, &mut found);
    }
    if let Some(seen) = seen {
        found.retain(|one| WHOLE_FILE.contains(&one.code) || !is_idle(&file, seen, one));
    }
    found
}

/// Whether a warning is about an instruction of a stage that was not lowered.
fn is_idle(file: &File<'_>, seen: &Seen, diagnostic: &Diagnostic) -> bool {
    let place = diagnostic.primary.span.start;
    let begun = |stage: &StageText<'_>| stage.instruction.span.start <= place;
    let index = file.stages.partition_point(begun).checked_sub(1);
    index.is_some_and(|index| {
        let is_from = place < file.stages[index].instruction.span.end;
        !is_from && !seen.stages.contains(&index)
    })
}

/// Rules that hold for the stages a build does not need as well.
const WHOLE_FILE: [&str; 4] = [
    "ConsistentInstructionCasing",
    "InvalidDefinitionDescription",
    "MaintainerDeprecated",
    "NoEmptyContinuation",
];

/// What a word is when no variable is set.
fn plain(text: &Text, escape: Escape) -> Option<String> {
    struct Unset;
    impl expand::Variables for Unset {
        fn get(&self, _name: &str) -> Option<String> {
            None
        }
    }
    let expanded = expand::word(&text.value, escape, &Unset).ok()?;
    Some(expanded.text)
}

fn view(path: &Path, ignore: Option<Ignore>) -> ContextView {
    let root = RootDir::open_ambient(path).ok();
    ContextView {
        ignore,
        head: Box::new(move |path| {
            let mut file = root.as_ref()?.open_file(path).ok()?;
            let mut head = vec![0; HEAD_BYTES];
            // A regular file gives all that it has at once.
            let length = file.read(&mut head).ok()?;
            head.truncate(length);
            Some(head)
        }),
    }
}

impl Settings {
    /// Keeps what is to be shown, in the order of the file.
    pub(crate) fn select(&self, found: &mut Vec<Located>) {
        found.retain(|one| self.shows(one.diagnostic.code));
        found.sort_by_key(|one| one.diagnostic.primary.span.start);
    }

    /// The error that warnings are where `error=true` says so.
    pub(crate) fn violation(&self, warnings: &[Located]) -> Option<Located> {
        let first = warnings.first().filter(|_| self.error)?;
        let mut rules: Vec<&str> = warnings.iter().map(|one| one.diagnostic.code).collect();
        rules.sort_unstable();
        rules.dedup();
        let message = format!("lint violation found for rules: {}", rules.join(", "));
        let diagnostic = Diagnostic::error(
            "lint-violation",
            message,
            first.diagnostic.primary.span,
        )
        .help(
            "`check=error=true` makes errors of warnings; `skip=RULE` beside it leaves a rule out",
        );
        Some(located(&first.source, diagnostic))
    }
}

/// The line that BuildKit would name.
fn line(source: &Source, parsed: &Parsed, diagnostic: &Diagnostic) -> usize {
    let place = diagnostic.primary.span.start;
    let exact = source.position(place).line;
    if rule::find(diagnostic.code).is_none_or(|rule| rule.url().is_none()) {
        return exact;
    }
    let instructions = &parsed.dockerfile.instructions;
    let after = instructions.partition_point(|instruction| instruction.span.start <= place);
    let instruction = after
        .checked_sub(1)
        .and_then(|index| instructions.get(index));
    match instruction {
        Some(instruction) if diagnostic.code == "NoEmptyContinuation" => {
            let body = instruction
                .heredocs
                .first()
                .map(|heredoc| heredoc.body_span);
            let is_read = |span: &Span| span.start > 0;
            body.filter(is_read).map_or(instruction.end_line, |span| {
                source.position(span.start).line.saturating_sub(1)
            })
        }
        Some(instruction) => instruction.start_line,
        None => exact,
    }
}

fn located(source: &Arc<Source>, diagnostic: Diagnostic) -> Located {
    Located {
        source: Arc::clone(source),
        diagnostic,
    }
}
