//! Instructions that hold a command line: RUN, CMD, ENTRYPOINT, SHELL and HEALTHCHECK.

use std::ops::Range;

use serde::de::IgnoredAny;

use super::flags::Flags;
use super::words::json_strings;
use super::{Builder, Line};
use crate::ast::{CommandLine, Healthcheck, Heredoc, Run, Text};
use crate::diagnostic::Diagnostic;
use crate::grammar::Arguments;
use crate::heredoc;
use crate::keyword::Keyword;
use crate::source::Spanned;
use crate::{mount, suggest, values};

const NETWORKS: [&str; 3] = ["default", "none", "host"];
const SECURITIES: [&str; 2] = ["sandbox", "insecure"];

impl Builder<'_, '_> {
    pub(super) fn run(
        &mut self,
        line: Line<'_>,
        word: Range<usize>,
        arguments: Arguments,
        flags: &Flags,
        heredocs: &[Heredoc],
    ) -> Option<Run> {
        let mounts = flags.texts("mount");
        for mount in mounts.iter().filter(|_| !line.is_trigger) {
            if let Err(diagnostic) =
                mount::check(&mount.value, mount.span, self.reader.is_extended())
            {
                self.report(*diagnostic);
            }
        }
        let network = flags.text("network");
        self.one_of("network", network.as_ref(), &NETWORKS);
        let security = flags.text("security");
        self.one_of("security", security.as_ref(), &SECURITIES);
        let command = self.command_line(line, word, arguments)?;
        let script = match &command {
            CommandLine::Shell(text) => {
                !heredocs.is_empty() && heredoc::opening(&text.value).is_some()
            }
            CommandLine::Exec(_) => false,
        };
        Some(Run {
            script,
            command,
            mounts,
            network,
            security,
            devices: flags.texts("device"),
        })
    }

    fn one_of(&mut self, flag: &str, value: Option<&Text>, allowed: &[&str]) {
        let Some(value) = value.filter(|value| !allowed.contains(&value.value.as_str())) else {
            return;
        };
        let message = format!("`{}` is no value of `--{flag}`", value.value);
        let diagnostic = Diagnostic::error("bad-flag-value", message, value.span);
        let near = suggest::nearest(&value.value, allowed.iter().copied());
        self.report(diagnostic.help(near.map_or_else(
            || format!("`--{flag}` is one of {}", allowed.join(", ")),
            |near| format!("did you mean `{near}`?"),
        )));
    }

    /// A command in either form. None at all is an empty shell command.
    pub(super) fn command_line(
        &mut self,
        line: Line<'_>,
        word: Range<usize>,
        arguments: Arguments,
    ) -> Option<CommandLine> {
        match arguments {
            Arguments::Exec(strings) => Some(CommandLine::Exec(json_strings(line, &strings))),
            Arguments::Text(range) => {
                self.strings_only(line, range.clone())?;
                Some(CommandLine::Shell(line.text(range)))
            }
            Arguments::None | Arguments::Words(_) => Some(CommandLine::Shell(Spanned::new(
                String::new(),
                line.span(word.end..word.end),
            ))),
        }
    }

    pub(super) fn shell(&mut self, line: Line<'_>, arguments: Arguments) -> Option<Vec<Text>> {
        match arguments {
            Arguments::Exec(strings) if !strings.is_empty() => Some(json_strings(line, &strings)),
            Arguments::Text(range) => {
                self.strings_only(line, range.clone())?;
                let text = line.slice(range.clone());
                let diagnostic = Diagnostic::error(
                    "shell-not-json",
                    "SHELL requires a JSON array",
                    line.span(range.clone()),
                );
                let words: Vec<String> = text
                    .split_whitespace()
                    .map(|word| format!("{word:?}"))
                    .collect();
                self.report(if text.starts_with('[') {
                    diagnostic.help("JSON takes only double quotes, with commas between the strings and none at the end")
                } else {
                    diagnostic.help(format!("write `SHELL [{}]`", words.join(", ")))
                });
                None
            }
            _ => {
                self.missing_arguments(Keyword::Shell, line, "at least one argument");
                None
            }
        }
    }

    pub(super) fn healthcheck(
        &mut self,
        line: Line<'_>,
        kind: Option<Range<usize>>,
        arguments: Arguments,
        flags: &Flags,
    ) -> Option<Healthcheck> {
        let Some(kind) = kind else {
            self.missing_arguments(Keyword::Healthcheck, line, "CMD and a command, or NONE");
            return None;
        };
        for name in ["interval", "timeout", "start-period", "start-interval"] {
            if let Some(value) = flags.text(name) {
                self.duration(name, &value);
            }
        }
        if let Some(value) = flags.text("retries") {
            self.retries(&value);
        }
        let written = line.slice(kind.clone());
        if written.eq_ignore_ascii_case("none") {
            return self.no_healthcheck(line, kind, &arguments);
        }
        if !written.eq_ignore_ascii_case("cmd") {
            if flags.lacks_value() {
                return None;
            }
            let message = format!("HEALTHCHECK takes CMD or NONE, not `{written}`");
            self.report(
                Diagnostic::error("bad-healthcheck", message, line.span(kind))
                    .help(format!("write `HEALTHCHECK CMD {written} …`")),
            );
            return None;
        }
        let is_missing = match &arguments {
            Arguments::Text(_) => false,
            Arguments::Exec(strings) => strings.is_empty(),
            Arguments::None | Arguments::Words(_) => true,
        };
        if is_missing {
            let message = "HEALTHCHECK CMD requires a command";
            self.report(
                Diagnostic::error("missing-argument", message, line.span(kind))
                    .label("no command follows"),
            );
            return None;
        }
        Some(Healthcheck::Check {
            command: self.command_line(line, kind, arguments)?,
            interval: flags.text("interval"),
            timeout: flags.text("timeout"),
            start_period: flags.text("start-period"),
            start_interval: flags.text("start-interval"),
            retries: flags.text("retries"),
        })
    }

    fn no_healthcheck(
        &mut self,
        line: Line<'_>,
        kind: Range<usize>,
        arguments: &Arguments,
    ) -> Option<Healthcheck> {
        if matches!(arguments, Arguments::None) {
            return Some(Healthcheck::None);
        }
        let rest = line.slice(kind.end..line.text.len());
        let start = line.text.len() - rest.trim_start().len();
        let message = "HEALTHCHECK NONE takes no arguments";
        self.report(Diagnostic::error(
            "too-many-arguments",
            message,
            line.span(start..line.text.len()),
        ));
        None
    }

    fn duration(&mut self, flag: &str, value: &Text) {
        if let Err(error) = values::parse_check_interval(&value.value) {
            let message = format!("the value of `--{flag}` is wrong: {error}");
            let diagnostic = Diagnostic::error("bad-duration", message, value.span);
            let is_number = value.value.bytes().all(|b| b.is_ascii_digit());
            self.report(if is_number {
                diagnostic.help(format!("a duration has a unit: `{}s`", value.value))
            } else {
                diagnostic.help("durations are written like 30s, 1m30s or 500ms")
            });
        }
    }

    fn retries(&mut self, value: &Text) {
        if value
            .value
            .strip_prefix('+')
            .unwrap_or(&value.value)
            .parse::<u32>()
            .is_ok_and(|n| i32::try_from(n).is_ok())
        {
            return;
        }
        let message = format!(
            "`--retries` takes a number from 0 on, not `{}`",
            value.value
        );
        self.report(Diagnostic::error("bad-flag-value", message, value.span));
    }

    /// Refuses a JSON array that holds something else than strings. What is no JSON at all is a shell's business.
    pub(super) fn strings_only(&mut self, line: Line<'_>, range: Range<usize>) -> Option<()> {
        let text = line.slice(range.clone());
        if !text.starts_with('[') || serde_json::from_str::<Vec<IgnoredAny>>(text).is_err() {
            return Some(());
        }
        let culprit = first_non_string(text).map_or(range.clone(), |culprit| {
            range.start + culprit.start..range.start + culprit.end
        });
        let message = "a JSON array may hold only strings here";
        self.report(
            Diagnostic::error("json-not-strings", message, line.span(culprit))
                .label("not a string")
                .help("put every element into double quotes"),
        );
        None
    }
}

/// Finds the first element of a valid JSON array that is no string.
fn first_non_string(array: &str) -> Option<Range<usize>> {
    let bytes = array.as_bytes();
    let mut at = 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => at = string_end(bytes, at),
            b',' | b' ' | b'\t' | b'\r' | b'\n' | b']' => at += 1,
            _ => return Some(at..element_end(bytes, at)),
        }
    }
    None
}

/// Returns the place behind the string that begins at `at`.
fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn element_end(bytes: &[u8], start: usize) -> usize {
    let mut depth = 0usize;
    let mut at = start;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at = string_end(bytes, at);
                continue;
            }
            b'[' | b'{' => depth += 1,
            b']' | b'}' if depth == 0 => break,
            b']' | b'}' => depth -= 1,
            b',' if depth == 0 => break,
            _ => {}
        }
        at += 1;
    }
    let trimmed = bytes
        .get(start..at)
        .map_or(0, |element| element.trim_ascii_end().len());
    start + trimmed
}
