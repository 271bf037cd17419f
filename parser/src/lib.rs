//! Dockerfile text to syntax tree and diagnostics. Pure: text in, values out; opens no file, reads no environment.
//!
//! The way of a line: `lines` applies the parser directives, joins continuations and collects heredocs into
//! logical lines; `grammar` (pest) splits one logical line into its parts, and `instruction` makes a typed
//! [`ast::Instruction`] of them; words stay raw, with their quotes and variables, until [`expand`] is asked to expand
//! them. [`ignore`] and [`glob`] are Docker's pattern rules; [`mount`] reads the value of `RUN --mount`, [`values`]
//! what else has a form of its own. Start at [`parse`].

// What pest's grammars without `std` are made of.
extern crate alloc;

pub mod ast;
pub mod diagnostic;
mod directive;
pub mod expand;
pub mod format;
pub mod glob;
mod grammar;
mod heredoc;
pub mod ignore;
mod instruction;
pub mod json;
pub mod keyword;
mod lines;
pub mod mount;
pub mod print;
pub mod source;
pub mod suggest;
pub mod values;

pub use diagnostic::{Diagnostic, Severity};
pub use keyword::Keyword;
pub use source::{Position, Source, Span, Spanned};

/// What [`parse`] yields: always a tree, with whatever is wrong beside it.
#[derive(Debug, Clone)]
pub struct Parsed {
    pub dockerfile: ast::Dockerfile,
    /// Everything wrong with the file, in the order of its lines. A build must not start if one is an error.
    pub diagnostics: Vec<Diagnostic>,
}

/// The largest file that is read, in bytes.
const LARGEST_FILE: usize = 16 * 1024 * 1024;

/// The most instructions that a file may have: far more than any build could run.
const MOST_INSTRUCTIONS: usize = 250_000;

/// The most words that a file may have; bounds the memory that its tree takes.
const MOST_WORDS: usize = 2_000_000;

/// Parses a whole Dockerfile. Never fails and never panics; wrong lines become [`ast::Command::Invalid`].
pub fn parse(source: &Source) -> Parsed {
    let mut parsed = parse_lines(source);
    check_stages(source, &mut parsed);
    parsed.sort();
    parsed
}

/// Parses one instruction that stands alone, as the triggers of an image config's `OnBuild` do.
/// Spans are offsets into `source`.
pub fn parse_trigger(source: &Source) -> Parsed {
    let mut parsed = parse_lines(source);
    let instructions = &parsed.dockerfile.instructions;
    if instructions.len() != 1 && parsed.diagnostics.is_empty() {
        let span = instructions
            .get(1)
            .map_or(Span::default(), |second| second.span);
        let message = format!(
            "an ONBUILD trigger is one instruction, not {}",
            instructions.len()
        );
        parsed
            .diagnostics
            .push(Diagnostic::error("bad-trigger", message, span));
    } else if let Some(from) = instructions
        .iter()
        .find(|one| Keyword::find(&one.keyword.value) == Some(Keyword::From))
    {
        let message = "FROM cannot be the trigger of an ONBUILD";
        parsed
            .diagnostics
            .push(Diagnostic::error("bad-trigger", message, from.keyword.span));
    }
    parsed.sort();
    parsed
}

fn parse_lines(source: &Source) -> Parsed {
    let mut dockerfile = ast::Dockerfile::default();
    if source.text().len() > LARGEST_FILE {
        let message = format!("the file is larger than {} MiB", LARGEST_FILE / 1024 / 1024);
        let diagnostics = vec![Diagnostic::error(
            "file-too-large",
            message,
            Span::default(),
        )];
        return Parsed {
            dockerfile,
            diagnostics,
        };
    }
    let mut reader = lines::Reader::new(source);
    let mut builder = instruction::Builder::new(&mut reader);
    let mut excess = None;
    while let Some(instruction) = builder.next() {
        if dockerfile.instructions.len() == MOST_INSTRUCTIONS {
            excess = Some((
                format!("{MOST_INSTRUCTIONS} instructions"),
                instruction.span,
            ));
        } else if builder.words > MOST_WORDS {
            excess = Some((format!("{MOST_WORDS} words"), instruction.span));
        }
        if excess.is_some() {
            break;
        }
        dockerfile.instructions.push(instruction);
    }
    if let Some((limit, span)) = excess {
        let message = format!("the file has more than {limit}");
        reader
            .diagnostics
            .push(Diagnostic::error("file-too-large", message, span));
    }
    let mut diagnostics = std::mem::take(&mut reader.diagnostics);
    if diagnostics.len() >= lines::MOST_DIAGNOSTICS {
        let end = Span::new(source.text().len(), source.text().len());
        let message = format!(
            "more than {} mistakes; the rest of the file was not looked at",
            lines::MOST_DIAGNOSTICS
        );
        diagnostics.push(Diagnostic::error("too-many-mistakes", message, end));
    }
    dockerfile.escape = reader.escape();
    dockerfile.extended = reader.is_extended();
    dockerfile.directives = reader.into_directives();
    Parsed {
        dockerfile,
        diagnostics,
    }
}

/// A file needs a stage, and nothing but ARG may stand before the first.
fn check_stages(source: &Source, parsed: &mut Parsed) {
    let instructions = &parsed.dockerfile.instructions;
    let keyword = |instruction: &ast::Instruction| Keyword::find(&instruction.keyword.value);
    let first_from = instructions
        .iter()
        .position(|one| keyword(one) == Some(Keyword::From));
    let stray = instructions
        .iter()
        .take(first_from.unwrap_or(instructions.len()))
        .find_map(|one| {
            keyword(one)
                .filter(|keyword| *keyword != Keyword::Arg)
                .map(|keyword| (keyword, one))
        });
    let end = source.text().trim_end().len();
    let end = Span::new(end, end);
    // A first line that is a slip of FROM has been reported; what follows belongs to the stage that was meant.
    let slip = instructions
        .iter()
        .find(|one| keyword(one).is_none())
        .map(|one| one.span.start);
    let stray = stray.filter(|(_, one)| slip.is_none_or(|slip| slip > one.span.start));
    if let Some((keyword, instruction)) = stray {
        let message = format!("{} stands before the first FROM", keyword.name());
        parsed.diagnostics.push(
            Diagnostic::error("no-stage", message, instruction.keyword.span)
                .label("belongs to no stage")
                .help("begin with `FROM image`; only ARG may come earlier"),
        );
    } else if instructions.is_empty() && parsed.diagnostics.is_empty() {
        parsed.diagnostics.push(
            Diagnostic::error("no-instructions", "the file has no instructions", end)
                .help("a Dockerfile begins with `FROM image`"),
        );
    } else if first_from.is_none() && parsed.diagnostics.is_empty() {
        parsed.diagnostics.push(
            Diagnostic::error(
                "no-stage",
                "the file has no FROM, so there is no stage to build",
                end,
            )
            .help("a Dockerfile begins with `FROM image`"),
        );
    }
}

impl Parsed {
    fn sort(&mut self) {
        self.diagnostics
            .sort_by_key(|diagnostic| diagnostic.primary.span.start);
    }
}
