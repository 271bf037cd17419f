//! A line that begins with no instruction: what was meant by it.

use super::{Builder, Line};
use crate::ast::Text;
use crate::diagnostic::Diagnostic;
use crate::keyword::Keyword;
use crate::suggest;

impl Builder<'_, '_> {
    pub(super) fn unknown_instruction(&mut self, keyword: &Text, line: Line<'_>) {
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
}

/// Whether a line reads like the rest of a command whose continuation was forgotten.
fn looks_continued(word: &str, line: Line<'_>) -> bool {
    let is_command =
        word.starts_with(|c: char| c.is_ascii_lowercase() || "-&|;./$(\"'".contains(c));
    is_command && !word.ends_with(':') && line.logical.start_line > 1
}
