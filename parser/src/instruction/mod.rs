//! One logical line to one typed instruction, with whatever is wrong in it. The parts of the line come from
//! [`crate::grammar`]. Start at [`Builder::instruction`].
//!
//! FROM is in [`from`], commands (RUN, CMD and others) in [`command`], COPY and ADD in [`transfer`], ONBUILD in
//! [`onbuild`]; flags in [`flags`], heredocs in [`heredocs`], `KEY=VALUE` lists in [`pairs`], other words in [`words`].
//! A line that begins with no instruction: [`unknown`]. Dashes and quotes of word processors: [`typography`].

mod command;
mod flags;
mod from;
mod heredocs;
mod onbuild;
mod pairs;
mod transfer;
mod typography;
mod unknown;
mod words;

use std::ops::Range;

use crate::ast::{Command, Heredoc, Instruction, Text};
use crate::diagnostic::Diagnostic;
use crate::grammar::{self, Arguments, Parts};
use crate::keyword::Keyword;
use crate::lines::{Logical, MOST_DIAGNOSTICS, Reader};
use crate::source::{Span, Spanned};

use flags::Flags;

/// Blanks that part a keyword from its arguments and words from one another.
const BLANKS: [char; 5] = ['\t', '\u{b}', '\u{c}', '\r', ' '];

/// Builds instructions; heredoc bodies are read through the reader, diagnostics go to it.
pub(crate) struct Builder<'r, 's> {
    reader: &'r mut Reader<'s>,
    terminator_searches: usize,
    /// Words, paths and pairs of all lines so far.
    pub(crate) words: usize,
}

/// A logical line, or the trigger within an ONBUILD line.
#[derive(Clone, Copy)]
pub(crate) struct Line<'l> {
    logical: &'l Logical<'l>,
    /// Where `text` begins in the logical line.
    base: usize,
    /// Without blanks at either end.
    text: &'l str,
    /// Whether words are expanded when this line is built; those of triggers are not.
    is_trigger: bool,
}

impl Line<'_> {
    fn span(&self, range: Range<usize>) -> Span {
        self.logical
            .span(self.base + range.start..self.base + range.end)
    }

    fn slice(&self, range: Range<usize>) -> &str {
        self.text.get(range).unwrap_or("")
    }

    fn text(&self, range: Range<usize>) -> Text {
        Spanned::new(self.slice(range.clone()).to_owned(), self.span(range))
    }

    /// The place behind the last character, for what is missing there.
    fn end(&self) -> Range<usize> {
        self.text.len()..self.text.len()
    }
}

/// What the lines of one instruction come to, beyond its first.
struct Tail {
    json_form: bool,
    heredocs: Vec<Heredoc>,
    end: usize,
    end_line: usize,
}

impl<'r, 's> Builder<'r, 's> {
    pub(crate) fn new(reader: &'r mut Reader<'s>) -> Self {
        Self {
            reader,
            terminator_searches: 0,
            words: 0,
        }
    }

    /// Returns the next instruction; `None` at the end of the file, and where so much is wrong that going on is vain.
    pub(crate) fn next(&mut self) -> Option<Instruction> {
        if self.reader.diagnostics.len() >= MOST_DIAGNOSTICS {
            return None;
        }
        let logical = self.reader.next_logical()?;
        Some(self.instruction(&logical))
    }

    fn instruction(&mut self, logical: &Logical<'_>) -> Instruction {
        let text = logical.text.trim_end();
        self.parse_line(Line {
            logical,
            base: 0,
            text,
            is_trigger: false,
        })
    }

    fn parse_line(&mut self, line: Line<'_>) -> Instruction {
        let logical = line.logical;
        let word = 0..line.text.find(BLANKS).unwrap_or(line.text.len());
        let keyword = line.text(word.clone());
        let mut tail = Tail {
            json_form: false,
            heredocs: Vec::new(),
            end: line.span(0..line.text.len()).end,
            end_line: logical.end_line,
        };
        let mut flags = Flags::default();
        let command = match Keyword::find(&keyword.value) {
            None => {
                self.unknown_instruction(&keyword, line);
                Command::Invalid
            }
            Some(kind) => match grammar::parse(kind, self.reader.escape(), line.text) {
                Some(parts) => {
                    flags = self.flags(kind, line, &parts.flags);
                    tail.json_form = matches!(parts.arguments, Arguments::Exec(_));
                    self.words += parts.flags.len() + parts.arguments.count();
                    tail.heredocs = self.heredocs(
                        kind,
                        line,
                        &parts.arguments,
                        &mut tail.end,
                        &mut tail.end_line,
                    );
                    self.typography(kind, line, &parts.arguments);
                    self.command(kind, line, word, parts, &flags, &mut tail)
                }
                None => {
                    let message = format!("this {} line cannot be read", kind.name());
                    self.report(Diagnostic::error("unreadable-line", message, keyword.span));
                    Command::Invalid
                }
            },
        };
        Instruction {
            span: Span::new(keyword.span.start, tail.end),
            keyword,
            command,
            flags: flags.list,
            json_form: tail.json_form,
            heredocs: tail.heredocs,
            start_line: logical.start_line,
            end_line: tail.end_line,
            original: if line.base == 0 {
                logical.text.to_string()
            } else {
                line.text.to_owned()
            },
            comments: logical.comments.clone(),
            empty_continuation_line: logical.empty_continuation_line,
        }
    }

    fn command(
        &mut self,
        keyword: Keyword,
        line: Line<'_>,
        word: Range<usize>,
        parts: Parts,
        flags: &Flags,
        tail: &mut Tail,
    ) -> Command {
        let arguments = parts.arguments;
        let command = match keyword {
            Keyword::From => self.from(line, arguments, flags).map(Command::From),
            Keyword::Run => self
                .run(line, word, arguments, flags, &tail.heredocs)
                .map(Command::Run),
            Keyword::Cmd => self.command_line(line, word, arguments).map(Command::Cmd),
            Keyword::Entrypoint => self
                .command_line(line, word, arguments)
                .map(Command::Entrypoint),
            Keyword::Shell => self.shell(line, arguments).map(Command::Shell),
            Keyword::Healthcheck => self
                .healthcheck(line, parts.check_kind, arguments, flags)
                .map(Command::Healthcheck),
            Keyword::Copy => self
                .transfer(keyword, line, &arguments, flags, &tail.heredocs)
                .map(Command::Copy),
            Keyword::Add => self
                .transfer(keyword, line, &arguments, flags, &tail.heredocs)
                .map(Command::Add),
            Keyword::Env => self.pairs(keyword, line, arguments).map(Command::Env),
            Keyword::Label => self.pairs(keyword, line, arguments).map(Command::Label),
            Keyword::Arg => self.declarations(line, arguments).map(Command::Arg),
            Keyword::Expose => self.words(keyword, line, arguments).map(Command::Expose),
            Keyword::Volume => self.volume(line, arguments).map(Command::Volume),
            Keyword::Workdir => self.single(keyword, line, arguments).map(Command::Workdir),
            Keyword::User => self.single(keyword, line, arguments).map(Command::User),
            Keyword::Stopsignal => self
                .single(keyword, line, arguments)
                .map(Command::Stopsignal),
            Keyword::Maintainer => self
                .single(keyword, line, arguments)
                .map(Command::Maintainer),
            Keyword::Onbuild => self
                .onbuild(line, arguments, tail)
                .map(|onbuild| Command::Onbuild(Box::new(onbuild))),
        };
        command.unwrap_or(Command::Invalid)
    }

    fn missing_arguments(&mut self, keyword: Keyword, line: Line<'_>, wanted: &str) {
        let name = keyword.name();
        let message = format!("{name} requires {wanted}");
        let example = match keyword {
            Keyword::Env | Keyword::Label => "name=value",
            Keyword::Arg => "NAME` or `ARG NAME=default",
            Keyword::Expose => "8080",
            Keyword::Volume => "/data",
            Keyword::User => "name` or `USER 1000:1000",
            Keyword::Workdir => "/app",
            Keyword::Stopsignal => "SIGTERM",
            Keyword::Onbuild => "RUN make",
            _ => "",
        };
        let mistake = Diagnostic::error("missing-argument", message, line.span(0..line.text.len()));
        self.report(if example.is_empty() {
            mistake
        } else {
            mistake.help(format!("write `{name} {example}`"))
        });
    }

    /// Whether the last thing said is about this offset or what follows it.
    fn has_reported_since(&self, offset: usize) -> bool {
        self.reader
            .diagnostics
            .last()
            .is_some_and(|last| last.primary.span.end >= offset)
    }

    fn report(&mut self, diagnostic: Diagnostic) {
        self.reader.report(diagnostic);
    }
}
