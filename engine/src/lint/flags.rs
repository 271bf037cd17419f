//! Flags that come too late. Only right after the keyword `--from=x` is a flag; behind the first argument it is a path,
//! or the command's own.

use rbuild_parser::ast::{Command, CommandLine, Healthcheck, Instruction, Text, TransferSource};
use rbuild_parser::{Diagnostic, Keyword, Span, values};

use super::Subject;

/// Programs that take `--mount=type=…` themselves.
const OTHERS: [&str; 6] = ["docker", "podman", "buildah", "nerdctl", "rbuild", "ctr"];

pub(super) fn late(subject: &Subject<'_>, found: &mut Vec<Diagnostic>) {
    for instruction in subject.instructions {
        let instruction = match &instruction.command {
            Command::Onbuild(onbuild) => &onbuild.instruction,
            _ => instruction,
        };
        let Some(keyword) = Keyword::find(&instruction.keyword.value) else {
            continue;
        };
        let (flags, taken) = match &instruction.command {
            Command::Copy(transfer) | Command::Add(transfer) => {
                let sources = transfer.sources.iter().filter_map(|source| match source {
                    TransferSource::Path(path) => Some(path),
                    TransferSource::Heredoc(_) => None,
                });
                let words = sources.chain([&transfer.destination]);
                (paths(subject, instruction, words), "is taken for a path")
            }
            Command::Run(run) => (
                options(subject, &run.command, is_flag_of_run),
                "goes to the command",
            ),
            Command::Healthcheck(Healthcheck::Check { command, .. }) => (
                options(subject, command, is_flag_of_check),
                "goes to the command",
            ),
            _ => continue,
        };
        let Some(first) = flags.first() else { continue };
        let flag = subject.source.slice(*first).trim_matches('"');
        let name = keyword.name();
        found.push(
            Diagnostic::warning("FlagAfterArguments", format!("`{flag}` {taken}"), *first).help(
                format!("flags stand right after the keyword: `{name} {flag} …`"),
            ),
        );
    }
}

/// Of the words of COPY and ADD.
fn paths<'t>(
    subject: &Subject<'_>,
    instruction: &Instruction,
    words: impl Iterator<Item = &'t Text>,
) -> Vec<Span> {
    let is_flag = |word: &&Text| {
        let name = word.value.strip_prefix("--");
        name.is_some_and(|name| name.starts_with(|c: char| c.is_ascii_lowercase()))
    };
    let places: Vec<Span> = words.filter(is_flag).map(|word| word.span).collect();
    // `--` says that what follows are paths.
    let before = |place: &Span| Span::new(instruction.span.start, place.start);
    let ended = places.first().is_some_and(|first| {
        let mut words = subject.source.slice(before(first)).split_whitespace();
        words.any(|word| word == "--")
    });
    if ended { Vec::new() } else { places }
}

/// Of the words of a shell's command, outside of quotes and comments.
fn options(
    subject: &Subject<'_>,
    command: &CommandLine,
    is_flag: fn(&str, bool) -> bool,
) -> Vec<Span> {
    let CommandLine::Shell(text) = command else {
        return Vec::new();
    };
    let raw = subject.source.slice(text.span);
    let mut places = Vec::new();
    let mut quote = None;
    let mut at = text.span.start;
    let mut is_first = true;
    for line in raw.split_inclusive('\n') {
        let is_comment = line.trim_start().starts_with('#');
        for piece in line.split_inclusive(char::is_whitespace) {
            let word = piece.trim_end();
            if !is_comment && !word.is_empty() {
                let program = word.rsplit('/').next().unwrap_or(word);
                if OTHERS.contains(&program) {
                    return places;
                }
                if quote.is_none() && is_flag(word, is_first) {
                    places.push(Span::new(at, at + word.len()));
                }
                is_first = false;
                for c in word.chars().filter(|c| matches!(c, '"' | '\'')) {
                    quote = match quote {
                        None => Some(c),
                        Some(open) if open == c => None,
                        open => open,
                    };
                }
            }
            at += piece.len();
        }
    }
    places
}

fn is_flag_of_run(word: &str, _is_first: bool) -> bool {
    const TYPES: [&str; 5] = ["bind", "cache", "tmpfs", "secret", "ssh"];
    let kind = word.strip_prefix("--mount=type=");
    let kind = kind.map(|kind| kind.split(',').next().unwrap_or(kind));
    kind.is_some_and(|kind| TYPES.contains(&kind)) || word == "--security=insecure"
}

/// Other programs have a `--timeout`; what the command begins with, however, is none of them.
fn is_flag_of_check(word: &str, is_first: bool) -> bool {
    let Some((name, value)) = word
        .strip_prefix("--")
        .and_then(|flag| flag.split_once('='))
    else {
        return false;
    };
    let is_known = Keyword::Healthcheck.flags().any(|(known, _)| known == name);
    let is_own = ["interval", "start-period", "start-interval"].contains(&name);
    let is_meant = match name {
        "retries" => value.parse::<u32>().is_ok(),
        _ => values::parse_check_interval(value).is_ok(),
    };
    is_known && is_meant && (is_first || is_own)
}
