//! One logical line to one typed instruction, with whatever is wrong in it. The parts of the line come from
//! [`crate::grammar`]; FROM is in [`from`], flags in [`flags`], heredocs in [`heredocs`], `KEY=VALUE` lists in [`pairs`], commands in [`command`], `COPY` and
//! `ADD` in [`transfer`]. Start at [`Builder::instruction`].

mod command;
mod flags;
mod from;
mod heredocs;
mod pairs;
mod transfer;
mod typography;

use std::ops::Range;

use crate::ast::{Command, Heredoc, Instruction, OnBuild, Text};
use crate::diagnostic::Diagnostic;
use crate::expand;
use crate::grammar::{self, Arguments, Parts};
use crate::keyword::Keyword;
use crate::lines::{Logical, MOST_DIAGNOSTICS, Reader};
use crate::source::{Span, Spanned};
use crate::suggest;

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

    /// The rest of the line as one argument.
    fn single(&mut self, keyword: Keyword, line: Line<'_>, arguments: Arguments) -> Option<Text> {
        let Arguments::Text(range) = arguments else {
            self.missing_arguments(keyword, line, "exactly one argument");
            return None;
        };
        if keyword != Keyword::Maintainer {
            self.check_word(line, range.clone());
        }
        Some(line.text(range))
    }

    fn words(
        &mut self,
        keyword: Keyword,
        line: Line<'_>,
        arguments: Arguments,
    ) -> Option<Vec<Text>> {
        let words = self.some_words(keyword, line, arguments)?;
        self.check_words(keyword, line, &words);
        Some(words.into_iter().map(|word| line.text(word)).collect())
    }

    fn volume(&mut self, line: Line<'_>, arguments: Arguments) -> Option<Vec<Text>> {
        let paths = match &arguments {
            Arguments::Exec(strings) => self.checked_strings(line, strings),
            _ => self.words_or_array(Keyword::Volume, line, arguments)?,
        };
        if paths.is_empty() {
            self.missing_arguments(Keyword::Volume, line, "at least one path");
            return None;
        }
        let mut is_good = true;
        for path in paths.iter().filter(|path| path.value.trim().is_empty()) {
            is_good = false;
            let message = "VOLUME cannot take an empty path";
            self.report(Diagnostic::error("empty-volume", message, path.span).label("empty"));
        }
        let trimmed = |path: Text| Spanned::new(path.value.trim().to_owned(), path.span);
        is_good.then(|| paths.into_iter().map(trimmed).collect())
    }

    /// Words, in an instruction that also takes an array: an array of something else than strings is refused.
    fn words_or_array(
        &mut self,
        keyword: Keyword,
        line: Line<'_>,
        arguments: Arguments,
    ) -> Option<Vec<Text>> {
        if let Arguments::Words(words) = &arguments {
            let start = words.first().map_or(0, |first| first.start);
            self.strings_only(line, start..line.text.len())?;
        }
        self.words(keyword, line, arguments)
    }

    fn some_words(
        &mut self,
        keyword: Keyword,
        line: Line<'_>,
        arguments: Arguments,
    ) -> Option<Vec<Range<usize>>> {
        match arguments {
            Arguments::Words(words) if !words.is_empty() => Some(words),
            _ => {
                self.missing_arguments(keyword, line, "at least one argument");
                None
            }
        }
    }

    fn onbuild(
        &mut self,
        line: Line<'_>,
        arguments: Arguments,
        tail: &mut Tail,
    ) -> Option<OnBuild> {
        let Arguments::Text(range) = arguments else {
            self.missing_arguments(Keyword::Onbuild, line, "an instruction");
            return None;
        };
        let logical = line.logical;
        let text = line.slice(range.clone()).trim_end();
        let word = range.start..range.start + text.find(BLANKS).unwrap_or(text.len());
        let refused = Keyword::find(line.slice(word.clone())).filter(|keyword| {
            matches!(
                keyword,
                Keyword::Onbuild | Keyword::From | Keyword::Maintainer
            )
        });
        if let Some(keyword) = refused {
            let message = format!("{} cannot be the trigger of an ONBUILD", keyword.name());
            let mut diagnostic = Diagnostic::error("bad-trigger", message, line.span(word));
            if keyword == Keyword::Onbuild {
                diagnostic = diagnostic.help("one ONBUILD before the instruction is enough");
            }
            self.report(diagnostic);
            return None;
        }
        let inner = Line {
            logical,
            base: line.base + range.start,
            text,
            is_trigger: true,
        };
        let instruction = self.parse_line(inner);
        tail.end = instruction.span.end;
        tail.end_line = instruction.end_line;
        tail.json_form = instruction.json_form;
        // As BuildKit records it: blanks at the line's end stay, and the bodies of heredocs follow.
        let mut trigger = logical.text.get(inner.base..).unwrap_or(text).to_owned();
        for heredoc in &instruction.heredocs {
            trigger.push('\n');
            trigger.push_str(self.reader.raw(heredoc.body_span));
            trigger.push_str(&heredoc.name);
        }
        Some(OnBuild {
            trigger: Spanned::new(trigger, line.span(range)),
            instruction,
        })
    }

    fn unknown_instruction(&mut self, keyword: &Text, line: Line<'_>) {
        let name = &keyword.value;
        let shown: String = name.chars().take(60).collect();
        let mut diagnostic = Diagnostic::error(
            "unknown-instruction",
            format!("unknown instruction `{shown}`"),
            keyword.span,
        );
        let odd_blank = name
            .find(|c: char| c.is_whitespace() || matches!(c, '\u{200b}' | '\u{feff}' | '\u{2060}'));
        let keyword_part = name.split(['=', ':']).next().and_then(Keyword::find);
        if let Some(at) = odd_blank {
            let c = name[at..].chars().next().map_or(0, u32::from);
            diagnostic = diagnostic.help(format!(
                "it holds a blank that is no plain one (U+{c:04X}); write a space"
            ));
        } else if let Some(keyword) = keyword_part {
            diagnostic = diagnostic.help(format!("a space must follow {}", keyword.name()));
        } else if let Some(near) =
            suggest::nearest(name, Keyword::ALL.iter().map(|keyword| keyword.name()))
        {
            diagnostic = diagnostic.help(format!("did you mean `{near}`?"));
        } else if ["<<<<<<<", "=======", ">>>>>>>"].contains(&name.as_str()) {
            diagnostic = diagnostic
                .help("a merge left its marks here; decide for one side and take them out");
        } else if name.starts_with("```") {
            diagnostic =
                diagnostic.help("this fences code in Markdown and is no part of the Dockerfile");
        } else if looks_continued(name, line) {
            diagnostic = diagnostic.help(format!(
                "if this belongs to the line above, end that one with `{}`",
                self.reader.escape().character()
            ));
            if name.starts_with(|c: char| c.is_ascii_alphabetic()) {
                diagnostic = diagnostic.help(format!(
                    "a command of its own begins with RUN: `RUN {shown} …`"
                ));
            }
        } else if name.ends_with(':') || name == "---" {
            diagnostic = diagnostic.help("this looks like YAML, not like a Dockerfile");
        }
        self.report(diagnostic);
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

    /// As [`Self::check_word`], of words that were split at blanks whatever quotes stood around those.
    fn check_words(&mut self, keyword: Keyword, line: Line<'_>, words: &[Range<usize>]) {
        let mut rest = words;
        while let Some((word, after)) = rest.split_first() {
            rest = after;
            let text = line.slice(word.clone());
            let opened = expand::check(text, self.reader.escape())
                .err()
                .and_then(|error| {
                    let quote = text.get(error.offset..)?.chars().next()?;
                    matches!(quote, '"' | '\'').then_some((error.offset, quote))
                });
            let closing = opened.and_then(|(offset, quote)| {
                let place = after
                    .iter()
                    .position(|word| line.slice(word.clone()).contains(quote))?;
                Some((offset, quote, place))
            });
            let Some((offset, quote, place)) = closing.filter(|_| !line.is_trigger) else {
                self.check_word(line, word.clone());
                continue;
            };
            let Some(last) = after.get(place) else {
                continue;
            };
            let within = line.slice(last.clone()).find(quote).unwrap_or(0);
            let quoted = word.start + offset..last.start + within + 1;
            let mistake = Diagnostic::error(
                "quoted-blank",
                format!(
                    "quotes hold no words together here: {} splits at blanks first",
                    keyword.name()
                ),
                line.span(quoted),
            )
            .label("this is not one word");
            self.report(match keyword {
                Keyword::Copy | Keyword::Add | Keyword::Volume => mistake.help(format!(
                    "paths with blanks are written as an array: `{}`",
                    as_array(keyword, line, words)
                )),
                _ => mistake.help("write the words without the quotes"),
            });
            rest = after.get(place + 1..).unwrap_or_default();
        }
    }

    /// Looks for mistakes in a word that no value of a variable can mend.
    fn check_word(&mut self, line: Line<'_>, range: Range<usize>) {
        // A trigger's words are looked at when it runs.
        if line.is_trigger {
            return;
        }
        if let Err(error) = expand::check(line.slice(range.clone()), self.reader.escape()) {
            let at = (range.start + error.offset).min(range.end);
            let span = line.span(at..range.end);
            self.report(error.diagnostic(span));
        }
    }

    /// JSON strings that are expanded later, with what is wrong in them.
    fn checked_strings(&mut self, line: Line<'_>, strings: &[Range<usize>]) -> Vec<Text> {
        let texts = json_strings(line, strings);
        for text in texts.iter().filter(|_| !line.is_trigger) {
            if let Err(error) = expand::check(&text.value, self.reader.escape()) {
                self.report(error.diagnostic(text.span));
            }
        }
        texts
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

/// Whether a line reads like the rest of a command whose continuation was forgotten.
fn looks_continued(word: &str, line: Line<'_>) -> bool {
    let is_command =
        word.starts_with(|c: char| c.is_ascii_lowercase() || "-&|;./$(\"'".contains(c));
    is_command && !word.ends_with(':') && line.logical.start_line > 1
}

/// The array that words with quotes around blanks are meant to be.
fn as_array(keyword: Keyword, line: Line<'_>, words: &[Range<usize>]) -> String {
    let mut strings: Vec<String> = Vec::new();
    let mut open: Option<char> = None;
    for word in words {
        let text = line.slice(word.clone());
        let bare = text.replace(['"', '\''], "");
        match (open, strings.last_mut()) {
            (Some(_), Some(last)) => {
                last.push(' ');
                last.push_str(&bare);
            }
            _ => strings.push(bare),
        }
        for c in text.chars().filter(|c| matches!(c, '"' | '\'')) {
            open = match open {
                None => Some(c),
                Some(quote) if quote == c => None,
                open => open,
            };
        }
    }
    let strings: Vec<String> = strings
        .into_iter()
        .map(|string| serde_json::Value::from(string).to_string())
        .collect();
    format!("{} [{}]", keyword.name(), strings.join(", "))
}

/// JSON strings as what they stand for.
fn json_strings(line: Line<'_>, strings: &[Range<usize>]) -> Vec<Text> {
    let text = |range: &Range<usize>| {
        Spanned::new(
            grammar::unquote_json(line.slice(range.clone())),
            line.span(range.clone()),
        )
    };
    strings.iter().map(text).collect()
}
