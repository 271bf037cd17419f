//! ONBUILD: an instruction within an instruction.

use super::{BLANKS, Builder, Line, Tail};
use crate::ast::OnBuild;
use crate::diagnostic::Diagnostic;
use crate::grammar::Arguments;
use crate::keyword::Keyword;
use crate::source::Spanned;

impl Builder<'_, '_> {
    pub(super) fn onbuild(
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
}
