//! Where things stand: the text of a file, byte spans into it, and lines and columns for people.

use serde::Serialize;

/// A half-open range of byte offsets into [`Source::text`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
pub struct Span {
    pub start: usize,
    pub end: usize,
}

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Spanned<T> {
    pub value: T,
    pub span: Span,
}

/// Line and column as people count them: from 1; columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

/// A named text: the Dockerfile, or a trigger of a base image.
#[derive(Debug, Clone)]
pub struct Source {
    name: String,
    text: String,
    /// Byte offset at which each line begins.
    line_starts: Vec<usize>,
}

impl Span {
    /// From one byte offset to another, the second not included.
    pub fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }
}

impl<T> Spanned<T> {
    /// A value and where it stands.
    pub fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }
}

impl Source {
    /// `name` is what errors call the file. Bytes that are no UTF-8 become U+FFFD; a leading BOM is dropped.
    pub fn new(name: impl Into<String>, bytes: &[u8]) -> Self {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let text = String::from_utf8_lossy(bytes).into_owned();
        let line_starts = std::iter::once(0)
            .chain(
                text.bytes()
                    .enumerate()
                    .filter(|(_, b)| *b == b'\n')
                    .map(|(at, _)| at + 1),
            )
            .collect();
        Self {
            name: name.into(),
            text,
            line_starts,
        }
    }

    /// What errors call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All of it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the line and column of a byte offset; offsets past the end are the end.
    pub fn position(&self, offset: usize) -> Position {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let start = self.line_starts[line - 1];
        Position {
            line,
            column: self.text[start..offset].chars().count() + 1,
        }
    }

    /// Number of lines; a line end at the very end of the text does not begin another.
    pub fn line_count(&self) -> usize {
        let ends_with_newline = self.line_starts.last() == Some(&self.text.len());
        self.line_starts.len() - usize::from(ends_with_newline)
    }

    /// Returns the span of a line (from 1) with its line end, or an empty span at the end of the text.
    pub fn line_span(&self, line: usize) -> Span {
        let end_of_text = self.text.len();
        let start = line
            .checked_sub(1)
            .and_then(|index| self.line_starts.get(index))
            .copied();
        let end = self.line_starts.get(line).copied().unwrap_or(end_of_text);
        start.map_or(Span::new(end_of_text, end_of_text), |start| {
            Span::new(start, end)
        })
    }

    /// Returns what a span covers, or `""` for a span that is not of this text.
    pub fn slice(&self, span: Span) -> &str {
        self.text.get(span.start..span.end).unwrap_or("")
    }

    /// Returns the text of a line (from 1) without its line end, or `""` past the last.
    pub fn line(&self, line: usize) -> &str {
        let Some(start) = line
            .checked_sub(1)
            .and_then(|index| self.line_starts.get(index))
        else {
            return "";
        };
        let end = self
            .line_starts
            .get(line)
            .map_or(self.text.len(), |next| next - 1);
        self.text[*start..end.max(*start)].trim_end_matches('\r')
    }
}
