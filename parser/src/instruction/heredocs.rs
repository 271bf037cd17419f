//! The heredocs of an instruction: reading their bodies, and what to say where one does not end.

use super::{Builder, Line};
use crate::ast::Heredoc;
use crate::diagnostic::Diagnostic;
use crate::grammar::Arguments;
use crate::heredoc::{self, Opening};
use crate::keyword::Keyword;
use crate::source::Span;

/// Looking for a nearly matching terminator reads the rest of the file, so it is done for the first few only.
const MOST_TERMINATOR_SEARCHES: usize = 16;

impl Builder<'_, '_> {
    /// Reads the bodies of the heredocs that a line opens.
    pub(super) fn heredocs(
        &mut self,
        keyword: Keyword,
        line: Line<'_>,
        arguments: &Arguments,
        end: &mut usize,
        end_line: &mut usize,
    ) -> Vec<Heredoc> {
        if !keyword.takes_heredocs() || matches!(arguments, Arguments::Exec(_)) {
            return Vec::new();
        }
        let mut heredocs = Vec::new();
        for (opening, range) in heredoc::openings(&line.logical.text) {
            let span = line.logical.span(range);
            let Ok(body) = self.reader.heredoc(&opening) else {
                self.unterminated_heredoc(&opening, span);
                break;
            };
            *end = body.end;
            *end_line = body.last_line;
            heredocs.push(Heredoc {
                name: opening.name,
                content: body.content,
                written: self.reader.raw(body.span).to_owned(),
                expand: opening.expand,
                strip_tabs: opening.strip_tabs,
                file_descriptor: opening.file_descriptor,
                span,
                body_span: body.span,
            });
        }
        heredocs
    }

    fn unterminated_heredoc(&mut self, opening: &Opening, span: Span) {
        let name = &opening.name;
        let message = format!("unterminated heredoc: no line ends it with `{name}`");
        let mut diagnostic =
            Diagnostic::error("unterminated-heredoc", message, span).label("opened here");
        self.terminator_searches += 1;
        let nearly = if self.terminator_searches > MOST_TERMINATOR_SEARCHES {
            None
        } else {
            self.reader.nearly_ended_at(opening)
        };
        if name.contains(')') {
            diagnostic = diagnostic
                .help("a shift in `$(( ))` needs to be written without blanks: `$((1<<3))`");
        } else if let Some(line) = nearly {
            diagnostic = diagnostic.help(format!(
                "line {line} has `{name}` with blanks around it; it must stand alone, or after tabs with `<<-`"
            ));
        } else {
            diagnostic = diagnostic.help(format!("put `{name}` alone on the line after the text"));
        }
        self.report(diagnostic);
        // The text of the heredoc is not known; what certainly is an instruction goes on.
        self.reader
            .skip_to_instruction(|word| Keyword::ALL.iter().any(|keyword| keyword.name() == word));
    }
}
