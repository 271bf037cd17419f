//! A parsed Dockerfile for other programs (JSON) and for people (a tree of lines), as `rbuild parse` prints it.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::Parsed;
use crate::ast::{
    Command, CommandLine, Healthcheck, Instruction, Pair, Text, Transfer, TransferSource,
};
use crate::source::Source;

/// `{"directives": {..}, "instructions": [{"instruction", "flags", "args", "json_form", "heredocs", "start_line",
/// "end_line", "original"}, ..]}`. Arguments are as written: quotes, escapes and variables stay.
pub fn to_json(parsed: &Parsed, source: &Source) -> Value {
    let directives: Map<String, Value> = parsed
        .dockerfile
        .directives
        .iter()
        .map(|directive| (directive.name.value.clone(), json!(directive.value.value)))
        .collect();
    let instructions: Vec<Value> = parsed
        .dockerfile
        .instructions
        .iter()
        .map(|one| instruction(one, source))
        .collect();
    json!({ "directives": directives, "instructions": instructions })
}

fn instruction(instruction: &Instruction, source: &Source) -> Value {
    let heredocs: Vec<Value> = bodies(instruction)
        .iter()
        .map(|heredoc| {
            json!({
                "name": heredoc.name,
                "content": heredoc.content,
                "expand": heredoc.expand,
                "strip_tabs": heredoc.strip_tabs,
            })
        })
        .collect();
    json!({
        "instruction": instruction.keyword.value.to_uppercase(),
        "flags": flags(instruction),
        "args": arguments(instruction, source),
        "json_form": instruction.json_form,
        "heredocs": heredocs,
        "start_line": instruction.start_line,
        "end_line": instruction.end_line,
        "original": instruction.original,
    })
}

/// The heredocs that the lines of an instruction hold, also as the trigger of an ONBUILD.
fn bodies(instruction: &Instruction) -> &[crate::ast::Heredoc] {
    match &instruction.command {
        Command::Onbuild(onbuild) => &onbuild.instruction.heredocs,
        _ => &instruction.heredocs,
    }
}

fn flags(instruction: &Instruction) -> Vec<String> {
    let flag = |flag: &crate::ast::Flag| match &flag.value {
        Some(value) => format!("--{}={}", flag.name.value, value.value),
        None => format!("--{}", flag.name.value),
    };
    instruction.flags.iter().map(flag).collect()
}

/// The arguments as written, one for each word, path, pair or element; a shell command is one.
pub(crate) fn arguments(instruction: &Instruction, source: &Source) -> Vec<String> {
    let values = |texts: &[Text]| {
        texts
            .iter()
            .map(|text| text.value.clone())
            .collect::<Vec<_>>()
    };
    match &instruction.command {
        Command::From(from) => {
            let mut words = vec![from.image.value.clone()];
            if let Some(name) = &from.name {
                words.extend(["AS".to_owned(), name.value.clone()]);
            }
            words
        }
        Command::Run(run) => command_line(&run.command),
        Command::Cmd(command) | Command::Entrypoint(command) => command_line(command),
        Command::Label(pairs) | Command::Env(pairs) => pairs.iter().flat_map(pair).collect(),
        Command::Maintainer(text)
        | Command::User(text)
        | Command::Workdir(text)
        | Command::Stopsignal(text) => vec![text.value.clone()],
        Command::Expose(texts) | Command::Volume(texts) | Command::Shell(texts) => values(texts),
        Command::Add(transfer) | Command::Copy(transfer) => paths(transfer, instruction, source),
        Command::Arg(declarations) => declarations
            .iter()
            .map(|declaration| match &declaration.default {
                Some(default) => format!("{}={}", declaration.name.value, default.value),
                None => declaration.name.value.clone(),
            })
            .collect(),
        Command::Onbuild(onbuild) => {
            let inner = &onbuild.instruction;
            let mut words = vec![inner.keyword.value.to_uppercase()];
            words.extend(flags(inner));
            words.extend(arguments(inner, source));
            words
        }
        Command::Healthcheck(Healthcheck::None) => vec!["NONE".to_owned()],
        Command::Healthcheck(Healthcheck::Check { command, .. }) => {
            let mut words = vec!["CMD".to_owned()];
            words.extend(command_line(command));
            words
        }
        Command::Invalid => Vec::new(),
    }
}

fn command_line(command: &CommandLine) -> Vec<String> {
    match command {
        CommandLine::Shell(text) if text.value.is_empty() => Vec::new(),
        CommandLine::Shell(text) => vec![text.value.clone()],
        CommandLine::Exec(words) => words.iter().map(|word| word.value.clone()).collect(),
    }
}

fn pair(pair: &Pair) -> Vec<String> {
    let (key, value) = (&pair.key.value, &pair.value.value);
    if pair.legacy {
        vec![key.clone(), value.clone()]
    } else {
        vec![format!("{key}={value}")]
    }
}

fn paths(transfer: &Transfer, instruction: &Instruction, source: &Source) -> Vec<String> {
    let path = |path: &TransferSource| match path {
        TransferSource::Path(path) => path.value.clone(),
        TransferSource::Heredoc(index) => instruction
            .heredocs
            .get(*index)
            .map_or_else(String::new, |heredoc| source.slice(heredoc.span).to_owned()),
    };
    let mut paths: Vec<String> = transfer.sources.iter().map(path).collect();
    paths.push(transfer.destination.value.clone());
    paths
}

/// One line an instruction, its flags, arguments and heredocs below it.
pub fn to_tree(parsed: &Parsed, source: &Source) -> String {
    let mut tree = String::new();
    for directive in &parsed.dockerfile.directives {
        line(
            &mut tree,
            format_args!("# {} = {}", directive.name.value, directive.value.value),
        );
    }
    for instruction in &parsed.dockerfile.instructions {
        let lines = if instruction.start_line == instruction.end_line {
            instruction.start_line.to_string()
        } else {
            format!("{}-{}", instruction.start_line, instruction.end_line)
        };
        let form = if instruction.json_form {
            " (JSON form)"
        } else {
            ""
        };
        let name = instruction.keyword.value.to_uppercase();
        line(&mut tree, format_args!("{name}  line {lines}{form}"));
        let mut parts = flags(instruction);
        parts.extend(
            arguments(instruction, source)
                .iter()
                .map(|argument| format!("{argument:?}")),
        );
        if matches!(instruction.command, Command::Invalid) {
            parts.push("(cannot be understood)".to_owned());
        }
        for heredoc in bodies(instruction) {
            let kind = if heredoc.expand {
                "expanded"
            } else {
                "literal"
            };
            parts.push(format!(
                "heredoc {} ({kind}): {:?}",
                heredoc.name, heredoc.content
            ));
        }
        let last = parts.len().saturating_sub(1);
        for (index, part) in parts.iter().enumerate() {
            let branch = if index == last { "└─" } else { "├─" };
            line(&mut tree, format_args!("{branch} {part}"));
        }
    }
    tree
}

fn line(tree: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing into a String cannot fail.
    let _ = writeln!(tree, "{text}");
}
