//! Writes a syntax tree back as a Dockerfile: one line an instruction (broken where a line would be too long to
//! read back), capitals for keywords, words as they were. What it writes parses to the same tree. Lines that could
//! not be understood are left out.

use crate::ast::{
    Command, CommandLine, Dockerfile, Escape, Flag, Healthcheck, Instruction, Pair, Text,
    TransferSource,
};
use crate::json;
use crate::source::Source;

/// Lines are broken at this many bytes; the parser takes no more than 65535.
const LONGEST_LINE: usize = 60_000;

/// Prints a whole file. `source` is what the tree was parsed from.
pub fn dockerfile(dockerfile: &Dockerfile, source: &Source) -> String {
    let mut text = String::new();
    for directive in &dockerfile.directives {
        text.push_str(&format!(
            "# {}={}\n",
            directive.name.value, directive.value.value
        ));
    }
    // The empty line keeps a first comment from being read as a directive.
    text.push('\n');
    for one in &dockerfile.instructions {
        if matches!(one.command, Command::Invalid) {
            continue;
        }
        for comment in &one.comments {
            text.push_str(&format!("# {comment}\n"));
        }
        text.push_str(&instruction(one, dockerfile.escape, source));
    }
    text
}

/// Prints one instruction with its heredocs.
pub fn instruction(instruction: &Instruction, escape: Escape, source: &Source) -> String {
    let mut text = broken(&line(instruction, escape, source), escape);
    let mut ending = text.chars().rev();
    if ending.next() == Some(escape.character()) && ending.next() != Some(escape.character()) {
        // A lone escape character at its end would continue the line. A vertical tab keeps it from that, and is
        // trimmed when the line is read.
        text.push('\u{b}');
    }
    text.push('\n');
    let inner = match &instruction.command {
        Command::Onbuild(onbuild) => &onbuild.instruction,
        _ => instruction,
    };
    for heredoc in &inner.heredocs {
        text.push_str(&heredoc.content);
        text.push_str(&heredoc.name);
        text.push('\n');
    }
    text
}

fn line(instruction: &Instruction, escape: Escape, source: &Source) -> String {
    let mut parts = vec![instruction.keyword.value.to_uppercase()];
    parts.extend(instruction.flags.iter().map(flag));
    let arguments = arguments(instruction, escape, source);
    if arguments.starts_with("--") {
        parts.push("--".to_owned());
    }
    if !arguments.is_empty() {
        parts.push(arguments);
    }
    parts.join(" ")
}

fn arguments(instruction: &Instruction, escape: Escape, source: &Source) -> String {
    match &instruction.command {
        Command::Onbuild(onbuild) => line(&onbuild.instruction, escape, source),
        Command::Env(pairs) | Command::Label(pairs) if pairs.iter().any(|pair| pair.legacy) => {
            let pair = |pair: &Pair| {
                // A blank after an escape character would be part of the name; a vertical tab before it is not.
                let guard = if pair.key.value.ends_with(escape.character()) {
                    "\u{b}"
                } else {
                    ""
                };
                format!("{}{guard} {}", pair.key.value, pair.value.value)
            };
            pairs.iter().map(pair).collect::<Vec<_>>().join(" ")
        }
        Command::Run(run) => command_line(&run.command),
        Command::Cmd(command) | Command::Entrypoint(command) => command_line(command),
        Command::Healthcheck(Healthcheck::Check { command, .. }) => {
            format!("CMD {}", command_line(command))
        }
        Command::Shell(words) => array(words),
        Command::Volume(paths) if instruction.json_form => array(paths),
        Command::Add(transfer) | Command::Copy(transfer) if instruction.json_form => {
            let sources = transfer.sources.iter().filter_map(|source| match source {
                TransferSource::Path(path) => Some(path),
                TransferSource::Heredoc(_) => None,
            });
            array(sources.chain([&transfer.destination]))
        }
        _ => json::arguments(instruction, source).join(" "),
    }
}

fn command_line(command: &CommandLine) -> String {
    match command {
        CommandLine::Shell(text) => text.value.clone(),
        CommandLine::Exec(words) => array(words),
    }
}

fn array<'t>(words: impl IntoIterator<Item = &'t Text>) -> String {
    let words: Vec<String> = words
        .into_iter()
        .map(|word| serde_json::Value::from(word.value.as_str()).to_string())
        .collect();
    format!("[{}]", words.join(", "))
}

/// A flag's value is quoted unless it is plainly harmless. Within the quotes the backslash escapes, whatever the
/// escape directive says.
fn flag(flag: &Flag) -> String {
    let name = &flag.name.value;
    let Some(value) = &flag.value else {
        return format!("--{name}");
    };
    let value = &value.value;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_./:=,@$+{}-*".contains(c);
    if value.chars().all(is_plain) {
        return format!("--{name}={value}");
    }
    let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
    format!("--{name}=\"{escaped}\"")
}

/// Breaks a line that is too long by continuations, at places where joining gives back the same text.
fn broken(line: &str, escape: Escape) -> String {
    let mut text = String::with_capacity(line.len());
    let mut rest = line;
    while rest.len() > LONGEST_LINE {
        let may_break = |at: &usize| {
            let at = *at;
            rest.is_char_boundary(at)
                && !rest[..at].ends_with(escape.character())
                && !rest[at..].starts_with(|c: char| c == '#' || c.is_whitespace())
        };
        let Some(at) = (1..=LONGEST_LINE).rev().find(may_break) else {
            break;
        };
        text.push_str(&rest[..at]);
        text.push(escape.character());
        text.push('\n');
        rest = &rest[at..];
    }
    text.push_str(rest);
    text
}
