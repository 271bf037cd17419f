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

const SHELLS: [&str; 6] = ["sh", "bash", "dash", "ash", "ksh", "zsh"];

pub(super) fn apt_update_alone(subject: &Subject<'_>, found: &mut Vec<Diagnostic>) {
    for instruction in subject.file.stages.iter().flat_map(|stage| &stage.body) {
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
        let CommandLine::Shell(text) = &run.command else {
            continue;
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
        if let Some(program) = updates_only(&script) {
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

/// The program, where a script updates a package list and does nothing with it.
fn updates_only(script: &str) -> Option<String> {
    let mut updates = None;
    for command in script.split(['\n', ';', '&', '|', '(', ')', '{', '}']) {
        let mut words = command
            .split_whitespace()
            .skip_while(|word| word.contains('=') || *word == "sudo");
        let Some(program) = words.next() else {
            continue;
        };
        let name = program.rsplit('/').next().unwrap_or(program);
        if name == "apt-get" || name == "apt" {
            let words: Vec<&str> = words.collect();
            if words.iter().any(|word| USES.contains(word)) {
                return None;
            }
            if words.contains(&"update") {
                updates = Some(name.to_owned());
            }
        } else if !TRIVIAL.contains(&name) && !program.starts_with('#') {
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
    let ends = commands.clone().filter(|line| !continued(line)).count();
    ends > 1 && !commands.clone().any(is_set_e)
}

/// `-e`, `-ex`, `-euo`.
fn is_e_flag(word: &str) -> bool {
    word.strip_prefix('-')
        .is_some_and(|letters| !letters.starts_with('-') && letters.contains('e'))
}

fn is_shell(program: &str) -> bool {
    SHELLS.contains(&program.rsplit('/').next().unwrap_or(program))
}
