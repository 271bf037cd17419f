//! Some whole lines of a source, made safe for terminals, and the way from the source's offsets into them.

use rbuild_engine::parser::{Diagnostic, Source, Span};

use crate::stdio::escape;

/// Lines of source that are shown of one instruction; the middle of longer ones is left out.
const MAX_EXCERPT_LINES: usize = 16;
/// Characters of one source line that are looked at.
const MAX_LINE_CHARS: usize = 20_000;

pub(super) struct Excerpt {
    pub(super) text: String,
    pub(super) first_line: usize,
    /// (offset in the source, offset in `text`) of every character, in order.
    offsets: Vec<(usize, usize)>,
}

impl Excerpt {
    pub(super) fn of(source: &Source, diagnostic: &Diagnostic) -> Self {
        let line_of = |offset| source.position(offset).line;
        let mut first_line = line_of(diagnostic.primary.span.start);
        let mut last_line = line_of(last_byte(diagnostic.primary.span))
            .clamp(first_line, first_line + MAX_EXCERPT_LINES - 1);
        for secondary in &diagnostic.secondary {
            let (from, to) = (
                line_of(secondary.span.start),
                line_of(last_byte(secondary.span)),
            );
            if last_line.max(to) - first_line.min(from) < MAX_EXCERPT_LINES {
                first_line = first_line.min(from);
                last_line = last_line.max(to);
            }
        }
        let mut excerpt = Self {
            text: String::new(),
            first_line,
            offsets: Vec::new(),
        };
        let mut start = line_start(source, first_line, diagnostic.primary.span.start);
        for number in first_line..=last_line {
            let line = source.line(number);
            for (at, c) in line.char_indices().take(MAX_LINE_CHARS) {
                excerpt.offsets.push((start + at, excerpt.text.len()));
                match escape(c.encode_utf8(&mut [0; 4])) {
                    std::borrow::Cow::Borrowed(_) => excerpt.text.push(c),
                    std::borrow::Cow::Owned(_) => excerpt.text.push('\u{fffd}'),
                }
            }
            let end = start + line.len();
            let newline = source
                .text()
                .get(end..)
                .and_then(|rest| rest.find('\n'))
                .map_or(end, |at| end + at);
            excerpt.offsets.push((newline, excerpt.text.len()));
            excerpt.text.push('\n');
            start = newline + 1;
        }
        excerpt
    }

    fn locate(&self, offset: usize) -> usize {
        let index = self.offsets.partition_point(|(at, _)| *at < offset);
        self.offsets
            .get(index)
            .map_or(self.text.len(), |(_, at)| *at)
    }

    pub(super) fn holds(&self, span: Span) -> bool {
        let first = self.offsets.first().map_or(0, |(at, _)| *at);
        let last = self.offsets.last().map_or(0, |(at, _)| *at);
        (first..=last).contains(&span.start)
    }

    /// Returns the part of a span on its first line, at least one character wide where there is one, and the part
    /// on the lines after, to be shown without underline.
    pub(super) fn clipped(
        &self,
        span: Span,
    ) -> (std::ops::Range<usize>, Option<std::ops::Range<usize>>) {
        let start = self.locate(span.start);
        let end = self.locate(span.end.max(span.start)).max(start);
        let rest = self.text.get(start..).unwrap_or_default();
        let line_end = start + rest.find('\n').unwrap_or(rest.len());
        let first_end = end.min(line_end);
        let first_end = if first_end == start {
            start
                + rest
                    .chars()
                    .next()
                    .filter(|c| *c != '\n')
                    .map_or(0, char::len_utf8)
        } else {
            first_end
        };
        let rest_start = line_end + 1;
        let visible = (end > rest_start).then_some(rest_start..end);
        (start..first_end, visible)
    }
}

fn last_byte(span: Span) -> usize {
    span.end.saturating_sub(1).max(span.start)
}

/// Byte offset at which line `number` begins; `near` lies on it or later.
fn line_start(source: &Source, number: usize, near: usize) -> usize {
    let mut start = near.min(source.text().len());
    loop {
        start = source
            .text()
            .as_bytes()
            .get(..start)
            .and_then(|before| before.iter().rposition(|byte| *byte == b'\n'))
            .map_or(0, |at| at + 1);
        if start == 0 || source.position(start).line <= number {
            return start;
        }
        start -= 1;
    }
}
