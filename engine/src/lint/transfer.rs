//! COPY and ADD: which of the two, and what the build context says of their sources.

use std::path::Path;

use rbuild_image::unpack::begins_archive;
use rbuild_parser::Diagnostic;
use rbuild_parser::ast::{Command, Escape, Instruction, Text, Transfer, TransferSource};
use rbuild_parser::ignore::Verdict;

use super::{Subject, plain};

/// Endings of what ADD unpacks.
const ARCHIVES: [&str; 12] = [
    ".tar",
    ".tar.gz",
    ".tgz",
    ".tar.bz2",
    ".tbz2",
    ".tbz",
    ".tar.xz",
    ".txz",
    ".tar.zst",
    ".tzst",
    ".tar.lzma",
    ".gz",
];

pub(super) fn add(subject: &Subject<'_>, found: &mut Vec<Diagnostic>) {
    for instruction in subject.instructions {
        let Command::Add(add) = &instruction.command else {
            continue;
        };
        let is_special =
            add.checksum.is_some() || add.unpack.is_some() || add.keep_git_dir.is_some();
        let is_plain = add.sources.iter().all(|source| match source {
            TransferSource::Heredoc(_) => true,
            TransferSource::Path(path) => {
                is_plain(&path.value)
                    && !head(subject, path).is_some_and(|head| begins_archive(&head))
            }
        });
        if !is_special && is_plain {
            found.push(
                Diagnostic::warning(
                    "UseCopyInsteadOfAdd",
                    "nothing here needs ADD: no archive to unpack, no URL to fetch",
                    instruction.keyword.span,
                )
                .help("write `COPY`"),
            );
        }
    }
}

/// `src\main.c`, as paths are written on Windows.
pub(super) fn backslash(subject: &Subject<'_>, found: &mut Vec<Diagnostic>) {
    if subject.file.escape != Escape::Backslash {
        return;
    }
    for instruction in subject.instructions.iter().filter(|one| !one.json_form) {
        let (Command::Copy(transfer) | Command::Add(transfer)) = &instruction.command else {
            continue;
        };
        let sources = transfer.sources.iter().filter_map(|source| match source {
            TransferSource::Path(path) => Some(path),
            TransferSource::Heredoc(_) => None,
        });
        for path in sources.chain([&transfer.destination]) {
            let text = &path.value;
            let is_separator = text.match_indices('\\').any(|(at, _)| {
                let next = text[at + 1..].chars().next();
                next.is_some_and(|c| c.is_alphanumeric() || c == '.' || c == '_')
            });
            if is_separator && !text.contains(['\'', '"']) {
                let message = format!(
                    "`\\` escapes here: `{text}` is `{}`",
                    text.replace('\\', "")
                );
                found.push(
                    Diagnostic::warning("BackslashInPath", message, path.span)
                        .help(format!("write `{}`", text.replace('\\', "/"))),
                );
            }
        }
    }
}

/// Surely neither an archive nor remote.
fn is_plain(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    let lower = lower.trim_matches(['"', '\'']);
    !lower.contains(":/")
        && !lower.starts_with("git@")
        && !lower.contains(".git")
        && !lower.contains(['$', '*', '?', '['])
        && !ARCHIVES.iter().any(|ending| lower.ends_with(ending))
}

/// Names the sources that an ignore file takes out of the context. As in BuildKit a pattern is looked for as if it
/// were a name.
pub(super) fn ignored(subject: &Subject<'_>, found: &mut Vec<Diagnostic>) {
    let Some(ignore) = subject.context.and_then(|context| context.ignore.as_ref()) else {
        return;
    };
    // Where something is taken back in, the text alone cannot tell.
    if ignore.patterns.has_exceptions() {
        return;
    }
    for source in subject.sources {
        if source.path.contains("://") || source.path.contains('\0') {
            continue;
        }
        let clean = clean(&source.path);
        if let Verdict::Excluded { line } = ignore.patterns.verdict(clean.as_bytes()) {
            let verb = if source.add { "Add" } else { "Copy" };
            let message =
                format!("Attempting to {verb} file \"{clean}\" that is excluded by .dockerignore");
            found.push(
                Diagnostic::warning("CopyIgnoredFile", message, source.span)
                    .help(format!("line {line} of `{}` excludes it", ignore.file)),
            );
        }
    }
}

/// Scripts whose first line ends in CR LF: the kernel looks for an interpreter `sh\r`.
pub(super) fn crlf(subject: &Subject<'_>, found: &mut Vec<Diagnostic>) {
    const MESSAGE: &str = "has Windows line ends: Linux will look for an interpreter whose name ends in a carriage return";
    for (instruction, transfer) in local(subject) {
        for source in &transfer.sources {
            let (name, span, head) = match source {
                TransferSource::Heredoc(index) => {
                    let Some(heredoc) = instruction.heredocs.get(*index) else {
                        continue;
                    };
                    let head = heredoc.content.clone().into_bytes();
                    (format!("<<{}", heredoc.name), heredoc.span, head)
                }
                TransferSource::Path(path) => {
                    let Some(head) = head(subject, path) else {
                        continue;
                    };
                    (path.value.clone(), path.span, head)
                }
            };
            if is_crlf_script(&head) {
                found.push(
                    Diagnostic::warning(
                        "CrlfScriptCopied",
                        format!("the script `{name}` {MESSAGE}"),
                        span,
                    )
                    .help("save it with LF; with git, `* text=auto eol=lf` in .gitattributes keeps it so"),
                );
            }
        }
    }
    for instruction in subject.instructions {
        if let (Command::Run(run), Some(heredoc)) =
            (&instruction.command, instruction.heredocs.first())
            && run.script
            && heredoc.content.contains("\r\n")
        {
            found.push(
                Diagnostic::warning(
                    "CrlfScriptCopied",
                    "the script has Windows line ends: the shell takes each carriage return for a part of the command",
                    heredoc.span,
                )
                .help("save the Dockerfile with LF"),
            );
        }
    }
}

fn is_crlf_script(head: &[u8]) -> bool {
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    head.starts_with(b"#!") && line.len() < head.len() && line.ends_with(b"\r")
}

/// COPY and ADD that take from the build context.
fn local<'a>(subject: &Subject<'a>) -> impl Iterator<Item = (&'a Instruction, &'a Transfer)> {
    subject
        .instructions
        .iter()
        .filter_map(|instruction| match &instruction.command {
            Command::Copy(transfer) | Command::Add(transfer) if transfer.from.is_none() => {
                Some((instruction, transfer))
            }
            _ => None,
        })
}

/// The beginning of a file of the context.
fn head(subject: &Subject<'_>, path: &Text) -> Option<Vec<u8>> {
    let clean = plain_path(subject, path)?;
    (subject.context?.head)(Path::new(&clean))
}

/// A source within the context as a relative path; `None` where it is a pattern, a URL or holds variables.
fn plain_path(subject: &Subject<'_>, path: &Text) -> Option<String> {
    if path.value.contains('$') || path.value.contains("://") {
        return None;
    }
    let clean = clean(&plain(path, subject.file.escape)?);
    (clean != "." && !clean.contains(['*', '?', '[', '\0'])).then_some(clean)
}

/// Below the context, whose root `..` does not leave; the context itself is `.`.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    if parts.is_empty() {
        ".".to_owned()
    } else {
        parts.join("/")
    }
}
