//! An open file, and places in it. An editor counts lines from 0, and columns in UTF-16.

use std::path::PathBuf;
use std::sync::Arc;

use lsp_types::{Position, Range, Uri};
use rbuild_engine::parser::{self, Parsed, Source, Span};

pub(super) struct Document {
    pub(super) uri: Uri,
    pub(super) source: Arc<Source>,
    pub(super) parsed: Parsed,
}

impl Document {
    pub(super) fn new(uri: Uri, text: &str) -> Self {
        let source = Arc::new(Source::new(uri.as_str(), text.as_bytes()));
        let parsed = parser::parse(&source);
        Self {
            uri,
            source,
            parsed,
        }
    }

    /// Where it lies, if it is a file.
    pub(super) fn path(&self) -> Option<PathBuf> {
        url::Url::parse(self.uri.as_str()).ok()?.to_file_path().ok()
    }

    pub(super) fn range(&self, span: Span) -> Range {
        Range::new(self.position(span.start), self.position(span.end))
    }

    pub(super) fn position(&self, offset: usize) -> Position {
        let place = self.source.position(offset);
        let line = self.source.line_span(place.line);
        let before = Span::new(line.start, offset.clamp(line.start, line.end));
        let units = self.source.slice(before).encode_utf16().count();
        Position::new(number(place.line - 1), number(units))
    }

    /// The byte at a position; one past the end of a line is that end.
    pub(super) fn offset(&self, at: Position) -> usize {
        let line = usize::try_from(at.line).unwrap_or(usize::MAX);
        let span = self.source.line_span(line.saturating_add(1));
        let text = self.source.slice(span).trim_end_matches(['\r', '\n']);
        let mut units = 0;
        for (offset, character) in text.char_indices() {
            if units >= at.character {
                return span.start + offset;
            }
            units += number(character.len_utf16());
        }
        span.start + text.len()
    }

    /// What stands on the line before a position.
    pub(super) fn line_before(&self, at: Position) -> &str {
        let offset = self.offset(at);
        let line = self.source.position(offset).line;
        let start = self.source.line_span(line).start;
        self.source.slice(Span::new(start, offset))
    }
}

pub(super) fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_counted_as_editors_count() {
        let uri = "file:///tmp/a%20b/Dockerfile".parse().unwrap();
        let document = Document::new(uri, "FROM a\r\nRUN \u{1f600}é x\n");
        assert_eq!(
            document.path().unwrap(),
            PathBuf::from("/tmp/a b/Dockerfile")
        );
        let x = document.source.text().find('x').unwrap();
        let at = document.position(x);
        // Positions count UTF-16 units: the emoji has two.
        assert_eq!(at, Position::new(1, 8));
        assert_eq!(document.offset(at), x);
        assert_eq!(document.offset(Position::new(0, 99)), 6);
        assert_eq!(
            document.offset(Position::new(99, 0)),
            document.source.text().len()
        );
        assert_eq!(document.line_before(at), "RUN \u{1f600}é ");
    }
}
