//! What RUN hands to the shell, read roughly: words and separators, no more.

use rbuild_parser::ast::{Command, CommandLine, Instruction};
use rbuild_parser::{Diagnostic, Span};

use super::Subject;

/// Beside them `apt-get update` still stands alone.
const TRIVIAL: [&str; 8] = ["set", "echo", "export", "true", ":", "rm", "sleep", "exit"];

/// Subcommands of apt that use the list which `update` fetched.
const USES: [&str; 9] = [
    "install",
    "upgrade",
    "dist-upgrade",
    "full-upgrade",
    "build-dep",
    "satisfy",
    "download",
    "source",
    "reinstall",
];

/// Of these a script need not stop.
const HARMLESS: [&str; 8] = [
    "echo", "printf", "export", "unset", "umask", "alias", "true", ":",
];

const SHELLS: [&str; 6] = ["sh", "bash", "dash", "ash", "ksh", "zsh"];

pub(super) fn apt_update_alone(subject: &Subject<'_>, found: &mut Vec<Diagnostic>) {
    for stage in &subject.file.stages {
        for (index, instruction) in stage.body.iter().enumerate() {
            let Command::Run(run) = &instruction.command else {
                continue;
            };
            // With its lists in a cache mount, the update is for the steps below.
            if run
                .mounts
                .iter()
                .any(|mount| mount.value.contains("/var/lib/apt"))
            {
                continue;
            }
            let Some(program) = script(instruction).and_then(|script| updates_only(&script)) else {
                continue;
            };
            let later = stage.body[index + 1..]
                .iter()
                .filter_map(|later| script(later));
            let installs: Vec<bool> = later
                .filter_map(|script: String| installs_from_old(&script))
                .collect();
            if !installs.is_empty() && !installs.contains(&true) {
                continue;
            }
            let message = format!(
                "`{program} update` stands alone: its result is cached, and the packages that later steps install grow stale"
            );
            let span = place(subject, instruction, &program);
            found.push(
                Diagnostic::warning("AptGetUpdateAlone", message, span).help(format!(
                    "put both into one RUN: `RUN {program} update && {program} install -y …`"
                )),
            );
        }
    }
}

/// What RUN in its shell form hands to a shell.
fn script(instruction: &Instruction) -> Option<String> {
    let Command::Run(run) = &instruction.command else {
        return None;
    };
    let CommandLine::Shell(text) = &run.command else {
        return None;
    };
    let mut script = if run.script {
        String::new()
    } else {
        text.value.clone()
    };
    for heredoc in &instruction.heredocs {
        script.push('\n');
        script.push_str(&heredoc.content);
    }
    Some(script)
}

/// The words of each command of a script.
fn commands(script: &str) -> impl Iterator<Item = Vec<&str>> {
    let commands = script.split(['\n', ';', '&', '|', '(', ')', '{', '}']);
    commands.filter_map(|command| {
        let words: Vec<&str> = command
            .split_whitespace()
            .skip_while(|word| word.contains('=') || *word == "sudo")
            .collect();
        (!words.is_empty()).then_some(words)
    })
}

/// `apt` or `apt-get`, wherever it is.
fn is_apt(program: &str) -> bool {
    matches!(file_name(program), "apt-get" | "apt")
}

fn file_name(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

/// Whether a script installs from lists that it has not fetched itself; `None` where it installs nothing.
fn installs_from_old(script: &str) -> Option<bool> {
    let mut updated = false;
    for words in commands(script).filter(|words| is_apt(words[0])) {
        if words.iter().any(|word| USES.contains(word)) {
            return Some(!updated);
        }
        updated |= words.contains(&"update");
    }
    None
}

/// The program, where a script updates a package list and does nothing with it.
fn updates_only(script: &str) -> Option<String> {
    let mut updates = None;
    for words in commands(script) {
        let program = words[0];
        if is_apt(program) {
            if words.iter().any(|word| USES.contains(word)) {
                return None;
            }
            if words.contains(&"update") {
                updates = Some(file_name(program).to_owned());
            }
        } else if !TRIVIAL.contains(&file_name(program)) && !program.starts_with('#') {
            return None;
        }
    }
    updates
}

/// Where a word stands in an instruction; the keyword otherwise.
fn place(subject: &Subject<'_>, instruction: &Instruction, word: &str) -> Span {
    let text = subject.source.slice(instruction.span);
    text.find(word).map_or(instruction.keyword.span, |at| {
        let start = instruction.span.start + at;
        Span::new(start, start + word.len())
    })
}

pub(super) fn heredoc_without_e(subject: &Subject<'_>, found: &mut Vec<Diagnostic>) {
    let mut stops = Vec::with_capacity(subject.file.stages.len());
    for (index, stage) in subject.file.stages.iter().enumerate() {
        let base = subject
            .file
            .stage_in_lower_case(&stage.from.image.value, index);
        let mut shell_stops = base.and_then(|base| stops.get(base).copied()) == Some(true);
        for instruction in &stage.body {
            match &instruction.command {
                Command::Shell(shell) => {
                    shell_stops = shell.iter().any(|word| is_e_flag(&word.value))
                        || !shell.first().is_some_and(|word| is_shell(&word.value));
                }
                Command::Run(run) if run.script && !shell_stops => {
                    let Some(heredoc) = instruction.heredocs.first() else {
                        continue;
                    };
                    if goes_on(&heredoc.content) {
                        found.push(
                            Diagnostic::warning(
                                "HeredocContinuesAfterError",
                                "the script goes on after a command that fails",
                                heredoc.span,
                            )
                            .label("only the last command decides whether the step fails")
                            .help("begin the script with `set -e`"),
                        );
                    }
                }
                _ => {}
            }
        }
        stops.push(shell_stops);
    }
}

/// Whether a script of several commands ignores that one fails.
fn goes_on(script: &str) -> bool {
    let first = script.lines().next().unwrap_or_default();
    if let Some(interpreter) = first.strip_prefix("#!") {
        let mut words = interpreter.split_whitespace();
        let is_shell = words.clone().take(2).any(is_shell);
        if !is_shell || words.any(is_e_flag) {
            return false;
        }
    }
    let is_set_e = |line: &str| {
        line.strip_prefix("set ").is_some_and(|options| {
            options.contains("errexit") || options.split_whitespace().any(is_e_flag)
        })
    };
    let commands = script
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let continued = |line: &str| line.ends_with(['\\', '|']) || line.ends_with("&&");
    let ends = commands.clone().filter(|line| !continued(line));
    let mut ends = ends.collect::<Vec<_>>();
    ends.pop();
    !ends.into_iter().all(cannot_fail) && !commands.clone().any(is_set_e)
}

/// One simple command that fails only where nothing works any more.
fn cannot_fail(line: &str) -> bool {
    let is_one = !line.contains(['&', '|', ';', '`']) && !line.contains("$(");
    let mut words = line.split_whitespace();
    let is_harmless = words.next().is_some_and(|first| {
        HARMLESS.contains(&first) || first.contains('=') && words.all(|word| word.contains('='))
    });
    is_one && is_harmless
}

/// `-e`, `-ex`, `-euo`.
fn is_e_flag(word: &str) -> bool {
    word.strip_prefix('-')
        .is_some_and(|letters| !letters.starts_with('-') && letters.contains('e'))
}

fn is_shell(program: &str) -> bool {
    SHELLS.contains(&file_name(program))
}
