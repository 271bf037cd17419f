//! `rbuild fmt`: a Dockerfile in one style, which means to the byte what it meant before. Keywords are capitals,
//! blanks at the ends of lines and empty lines inside instructions go, a blank line stands before each further FROM.
//! What is part of a command (its indentation, the text of a heredoc) stays. Whatever would change the tree is left
//! as it was written: [`format`] parses what it made and compares.

use serde_json::{Value, json};

use crate::ast::{Command, Instruction};
use crate::diagnostic::Severity;
use crate::source::Source;
use crate::{Diagnostic, Parsed, parse};

/// Returns the text in its style, or what is wrong with it.
pub fn format(source: &Source) -> Result<String, Vec<Diagnostic>> {
    let parsed = parse(source);
    let is_error = |one: &Diagnostic| one.severity == Severity::Error;
    if parsed.diagnostics.iter().any(is_error) {
        return Err(parsed.diagnostics);
    }
    let before = meaning(&parsed, source);
    let mut kept = vec![false; parsed.dockerfile.instructions.len()];
    // Twice: what changed the tree the first time is kept the second time.
    for _ in 0..2 {
        let text = write(source, &parsed, &kept);
        let again = Source::new(source.name(), text.as_bytes());
        let after = meaning(&parse(&again), &again);
        if after == before {
            return Ok(text);
        }
        if after.len() != before.len() {
            break;
        }
        for (kept, (one, other)) in kept.iter_mut().zip(before.iter().zip(&after)) {
            *kept |= one != other;
        }
    }
    Ok(source.text().to_owned())
}

/// Everything that decides what is built, for each instruction; last the directives.
fn meaning(parsed: &Parsed, source: &Source) -> Vec<Value> {
    let document = crate::json::to_json(parsed, source);
    let instructions = document["instructions"].as_array().cloned();
    let mut meaning: Vec<Value> = instructions
        .unwrap_or_default()
        .into_iter()
        .zip(&parsed.dockerfile.instructions)
        .map(|(mut value, instruction)| {
            if let Some(fields) = value.as_object_mut() {
                fields.remove("start_line");
                fields.remove("end_line");
                fields.remove("original");
            }
            // A trigger is kept in the image as it was written.
            let trigger = match instruction.command {
                Command::Onbuild(_) => instruction.original.split_once([' ', '\t']),
                _ => None,
            };
            let trigger = trigger.map(|(_, trigger)| trigger.trim());
            json!([value, instruction.comments, trigger])
        })
        .collect();
    meaning.push(document["directives"].clone());
    meaning
}

fn write(source: &Source, parsed: &Parsed, kept: &[bool]) -> String {
    let mut out = Writer::default();
    let mut next_line = 1;
    for (index, instruction) in parsed.dockerfile.instructions.iter().enumerate() {
        let between: Vec<&str> = (next_line..instruction.start_line)
            .map(|line| source.line(line).trim())
            .collect();
        let is_later_stage = matches!(instruction.command, Command::From(_))
            && parsed.dockerfile.instructions[..index]
                .iter()
                .any(|earlier| matches!(earlier.command, Command::From(_)));
        // The comments right above the FROM belong to it.
        let own = between.iter().rev().take_while(|line| !line.is_empty());
        let others = between.len() - own.count();
        for (number, line) in between.iter().enumerate() {
            if number == others && is_later_stage {
                out.blank();
            }
            out.line(line);
        }
        if is_later_stage && others == between.len() {
            out.blank();
        }
        if kept.get(index).copied().unwrap_or_default() {
            out.verbatim(source, instruction.start_line, instruction.end_line);
        } else {
            write_instruction(&mut out, source, parsed, instruction);
        }
        next_line = instruction.end_line + 1;
    }
    for line in next_line..=source.line_count() {
        out.line(source.line(line).trim());
    }
    out.finish()
}

fn write_instruction(
    out: &mut Writer,
    source: &Source,
    parsed: &Parsed,
    instruction: &Instruction,
) {
    let inner = match &instruction.command {
        Command::Onbuild(onbuild) => &onbuild.instruction,
        _ => instruction,
    };
    let body = inner.heredocs.iter().map(|heredoc| heredoc.body_span.start);
    let head_end = body
        .min()
        .filter(|start| *start > 0)
        .map_or(instruction.end_line, |start| {
            source.position(start).line - 1
        });
    let first = source.line(instruction.start_line).trim();
    let rest = first.get(instruction.keyword.value.len()..).unwrap_or("");
    let keyword = instruction.keyword.value.to_uppercase();
    let is_one_line = head_end == instruction.start_line;
    match &instruction.command {
        Command::From(from) if is_one_line => {
            let mut words = vec![keyword];
            words.extend(instruction.flags.iter().map(|flag| match &flag.value {
                Some(value) => format!("--{}={}", flag.name.value, value.value),
                None => format!("--{}", flag.name.value),
            }));
            words.push(from.image.value.clone());
            if let Some(name) = &from.name {
                words.extend(["AS".to_owned(), name.value.clone()]);
            }
            out.line(&words.join(" "));
        }
        _ => out.line(tidy_end(&format!("{keyword} {}", rest.trim_start()), parsed).trim_end()),
    }
    for line in instruction.start_line + 1..=head_end {
        let text = source.line(line).trim_end();
        if !text.is_empty() {
            out.line(&tidy_end(text, parsed));
        }
    }
    out.verbatim(source, head_end + 1, instruction.end_line);
}

/// Takes off blanks after an escape character that continues the line.
fn tidy_end(line: &str, parsed: &Parsed) -> String {
    let escape = parsed.dockerfile.escape.character();
    let trimmed = line.trim_end();
    match trimmed.strip_suffix(escape) {
        Some(head) if !head.ends_with(escape) => format!("{head}{escape}"),
        _ => trimmed.to_owned(),
    }
}

#[derive(Default)]
struct Writer {
    text: String,
    blank_wanted: bool,
}

impl Writer {
    /// Writes a line; of empty ones only one between others.
    fn line(&mut self, line: &str) {
        if line.is_empty() {
            self.blank();
            return;
        }
        self.separate();
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn blank(&mut self) {
        self.blank_wanted = true;
    }

    fn separate(&mut self) {
        if std::mem::take(&mut self.blank_wanted) && !self.text.is_empty() {
            self.text.push('\n');
        }
    }

    /// Writes lines as they are, line ends included.
    fn verbatim(&mut self, source: &Source, first: usize, last: usize) {
        for line in first..=last {
            self.separate();
            self.text.push_str(source.slice(source.line_span(line)));
            if !self.text.ends_with('\n') {
                self.text.push('\n');
            }
        }
    }

    fn finish(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formatted(text: &str) -> String {
        format(&Source::new("Dockerfile", text.as_bytes())).unwrap()
    }

    #[test]
    fn everything_that_is_style_is_put_in_order() {
        let text = "\n\n#   comment  \nfrom   busybox   as  a  \n\n\n\nrun  echo \\   \n\n   x\nFROM a\r\n\
                    # about b\nfrom a as b\nCOPY   x   y\n\n\n";
        assert_eq!(
            formatted(text),
            "#   comment\nFROM busybox AS a\n\nRUN echo \\\n   x\n\nFROM a\n\n# about b\nFROM a AS b\nCOPY x   y\n"
        );
    }

    #[test]
    fn what_is_content_stays() {
        for text in [
            "FROM a\nRUN <<E\n  x  \n\n\n# y\t\nE\n",
            "FROM a\nCOPY <<-E /x\n\t\ta\n\tE\n",
            "# escape=`\nFROM a\nRUN a `\n    b\n",
            "FROM a\nRUN a \\\n    # why\n    && b\n",
            "FROM a\nONBUILD RUN  x   y\n",
            "FROM a\nRUN <<A cat <<B\n1\nA\n2  \nB\n",
        ] {
            assert_eq!(formatted(text), text);
        }
    }

    #[test]
    fn a_second_time_changes_nothing() {
        for text in [
            "from a\n\n\nrun x\\\n",
            "#x\n#y=z\n\nfrom a",
            "",
            "from a\nenv a b  \\\n  c",
        ] {
            if let Ok(once) = format(&Source::new("Dockerfile", text.as_bytes())) {
                assert_eq!(formatted(&once), once);
            }
        }
    }
}
