//! A file as logical lines: parser directives applied, comments set aside, continuations joined, heredoc bodies
//! handed out on request. Knows nothing of instructions; [`crate::instruction`] parses what comes out here.
//! Start at [`Reader::next_logical`].

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use crate::ast::{Directive, Escape};
use crate::diagnostic::Diagnostic;
use crate::directive::{self, Directives};
use crate::heredoc::Opening;
use crate::source::{Source, Span};

/// BuildKit reads lines into a buffer of 64 KiB, the line end included.
const LONGEST_LINE: usize = 64 * 1024 - 1;

/// Nobody reads more mistakes than this; a file with that many is no Dockerfile.
pub(crate) const MOST_DIAGNOSTICS: usize = 1000;

/// The most that continuations may join: no command line that Linux runs is that long.
const LONGEST_LOGICAL: usize = 1024 * 1024;

/// One instruction's text with its continuations joined, and where each part of it stands in the source.
#[derive(Debug)]
pub(crate) struct Logical<'s> {
    pub(crate) text: Cow<'s, str>,
    /// Sorted by place in `text`; never empty.
    pieces: Vec<Piece>,
    pub(crate) start_line: usize,
    pub(crate) end_line: usize,
    pub(crate) comments: Vec<String>,
    pub(crate) empty_continuation_line: Option<usize>,
}

/// From `joined` on, the text was written at `source`.
#[derive(Debug, Clone, Copy)]
struct Piece {
    joined: usize,
    source: usize,
}

impl<'s> Logical<'s> {
    /// The place in the source of a range of bytes of the joined text.
    pub(crate) fn span(&self, range: Range<usize>) -> Span {
        let start = self.offset(range.start);
        // The end belongs to the piece of the last byte: a word that ends before a continuation ends there.
        let end = if range.end > range.start {
            self.offset(range.end - 1) + 1
        } else {
            start
        };
        Span::new(start, end)
    }

    fn offset(&self, joined: usize) -> usize {
        let after = self.pieces.partition_point(|piece| piece.joined <= joined);
        let piece = after
            .checked_sub(1)
            .and_then(|index| self.pieces.get(index));
        piece.map_or(0, |piece| piece.source + (joined - piece.joined))
    }
}

/// The body of a heredoc as it was read.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) content: String,
    pub(crate) span: Span,
    /// The line of the terminator, from 1, and its end without the line end.
    pub(crate) last_line: usize,
    pub(crate) end: usize,
}

/// For each text of a line the last line that has it.
#[derive(Default)]
struct LastSeen<'s> {
    exact: HashMap<&'s str, usize>,
    without_tabs: HashMap<&'s str, usize>,
}

impl LastSeen<'_> {
    fn line(&self, opening: &Opening) -> usize {
        let lines = if opening.strip_tabs {
            &self.without_tabs
        } else {
            &self.exact
        };
        lines.get(opening.name.as_str()).copied().unwrap_or(0)
    }
}

/// Goes through a source line by line.
pub(crate) struct Reader<'s> {
    source: &'s Source,
    /// The next line to read, from 1.
    next_line: usize,
    line_count: usize,
    directives: Directives,
    comments: Vec<String>,
    extended: bool,
    /// Made when a heredoc is first looked for without success: keeps a file with very many unterminated heredocs
    /// from being read to its end once for each.
    last_seen: Option<LastSeen<'s>>,
    /// Up to which line lines that are too long have been reported; a heredoc's lines may be read twice.
    length_checked: usize,
    pub(crate) diagnostics: Vec<Diagnostic>,
}

impl<'s> Reader<'s> {
    pub(crate) fn new(source: &'s Source) -> Self {
        Self {
            source,
            next_line: 1,
            line_count: source.line_count(),
            directives: Directives::default(),
            comments: Vec::new(),
            extended: directive::extended(source.text()),
            last_seen: None,
            length_checked: 0,
            diagnostics: Vec::new(),
        }
    }

    pub(crate) fn escape(&self) -> Escape {
        self.directives.escape()
    }

    /// Whether the file asks for what BuildKit does not have.
    pub(crate) fn is_extended(&self) -> bool {
        self.extended
    }

    pub(crate) fn into_directives(self) -> Vec<Directive> {
        self.directives.into_list()
    }

    /// Returns the next instruction's text, or `None` at the end of the file.
    pub(crate) fn next_logical(&mut self) -> Option<Logical<'s>> {
        loop {
            let (line, text, start) = self.take_line()?;
            let trimmed = text.trim_start();
            let start = start + (text.len() - trimmed.len());
            if let Some(comment) = trimmed.strip_prefix('#') {
                self.comment(trimmed, comment, start);
                continue;
            }
            self.directives.close();
            if trimmed.is_empty() {
                continue;
            }
            let logical = match continued(trimmed, self.escape()) {
                None => self.logical(
                    Cow::Borrowed(trimmed),
                    vec![Piece {
                        joined: 0,
                        source: start,
                    }],
                    line,
                ),
                Some(head) => self.join(head, start, line),
            };
            // A file that ends in a lone escape character has nothing on its last line.
            if !logical.text.trim().is_empty() {
                return Some(logical);
            }
        }
    }

    /// Reads the lines of a heredoc. `Err` when no line ends it; then no line has been taken.
    pub(crate) fn heredoc(&mut self, opening: &Opening) -> Result<Body, ()> {
        let first_line = self.next_line;
        if self.last_seen.is_some() && !self.is_ended_later(opening) {
            return Err(());
        }
        let start = self.source.line_span(first_line).start;
        while let Some((line, text, offset)) = self.take_line() {
            let candidate = if opening.strip_tabs {
                text.trim_start_matches('\t')
            } else {
                text
            };
            if candidate == opening.name {
                let span = Span::new(start, offset);
                let raw = self.source.slice(span);
                let content = if opening.strip_tabs {
                    strip_leading_tabs(raw)
                } else {
                    raw.to_owned()
                };
                return Ok(Body {
                    content,
                    span,
                    last_line: line,
                    end: offset + text.len(),
                });
            }
        }
        self.next_line = first_line;
        self.index_lines();
        Err(())
    }

    /// Skips lines until one that surely begins an instruction: what stands between is a heredoc's lost body.
    pub(crate) fn skip_to_instruction(&mut self, is_instruction: impl Fn(&str) -> bool) {
        while self.next_line <= self.line_count {
            let text = self.source.line(self.next_line);
            let word = text.split([' ', '\t']).next().unwrap_or("");
            if word.len() < text.len() && is_instruction(word) {
                return;
            }
            self.next_line += 1;
        }
    }

    /// A line below that would end the heredoc but for blanks around the name.
    pub(crate) fn nearly_ended_at(&self, opening: &Opening) -> Option<usize> {
        (self.next_line..=self.line_count)
            .find(|line| self.source.line(*line).trim() == opening.name)
    }

    /// Takes a diagnostic; of very many only the first.
    pub(crate) fn report(&mut self, diagnostic: Diagnostic) {
        if self.diagnostics.len() < MOST_DIAGNOSTICS {
            self.diagnostics.push(diagnostic);
        }
    }

    /// The source's text of a span.
    pub(crate) fn raw(&self, span: Span) -> &'s str {
        self.source.slice(span)
    }

    fn is_ended_later(&self, opening: &Opening) -> bool {
        self.last_seen
            .as_ref()
            .is_none_or(|last_seen| last_seen.line(opening) >= self.next_line)
    }

    fn index_lines(&mut self) {
        if self.last_seen.is_none() {
            let source = self.source;
            let mut last_seen = LastSeen::default();
            for line in 1..=self.line_count {
                let text = trim_line_end(source.slice(source.line_span(line)));
                last_seen.exact.insert(text, line);
                last_seen
                    .without_tabs
                    .insert(text.trim_start_matches('\t'), line);
            }
            self.last_seen = Some(last_seen);
        }
    }

    fn comment(&mut self, line: &str, comment: &str, start: usize) {
        match self.directives.read(line, start) {
            Ok(true) => {}
            Ok(false) => {
                let comment = comment.trim();
                if comment.is_empty() {
                    self.comments.clear();
                } else {
                    self.comments.push(comment.to_owned());
                }
            }
            Err(diagnostic) => self.report(*diagnostic),
        }
    }

    fn join(&mut self, head: &'s str, start: usize, line: usize) -> Logical<'s> {
        let mut text = head.to_owned();
        let mut pieces = vec![Piece {
            joined: 0,
            source: start,
        }];
        let mut empty_line = None;
        let mut is_too_long = false;
        while let Some((line, next, start)) = self.take_line() {
            let trimmed = next.trim_start();
            if trimmed.starts_with('#') {
                continue;
            }
            if trimmed.is_empty() {
                empty_line = empty_line.or(Some(line));
                continue;
            }
            if text.len() + next.len() > LONGEST_LOGICAL {
                is_too_long = true;
                if continued(next, self.escape()).is_some() {
                    continue;
                }
                break;
            }
            pieces.push(Piece {
                joined: text.len(),
                source: start,
            });
            match continued(next, self.escape()) {
                Some(head) => text.push_str(head),
                None => {
                    text.push_str(next);
                    break;
                }
            }
        }
        if is_too_long {
            let message = format!("the instruction is too long: more than {LONGEST_LOGICAL} bytes");
            let span = Span::new(start, start);
            self.report(
                Diagnostic::error("instruction-too-long", message, span)
                    .help("put the data into a file and COPY it, or use a heredoc"),
            );
        }
        let mut logical = self.logical(Cow::Owned(text), pieces, line);
        logical.empty_continuation_line = empty_line;
        logical
    }

    fn logical(
        &mut self,
        text: Cow<'s, str>,
        pieces: Vec<Piece>,
        start_line: usize,
    ) -> Logical<'s> {
        Logical {
            text,
            pieces,
            start_line,
            end_line: self.next_line - 1,
            comments: std::mem::take(&mut self.comments),
            empty_continuation_line: None,
        }
    }

    /// Takes the next line: its number, its text without the line end, its offset.
    fn take_line(&mut self) -> Option<(usize, &'s str, usize)> {
        if self.next_line > self.line_count {
            return None;
        }
        let line = self.next_line;
        self.next_line += 1;
        let span = self.source.line_span(line);
        let raw = self.source.slice(span);
        let is_new = line > self.length_checked;
        self.length_checked = self.length_checked.max(line);
        if is_new
            && raw.len() > LONGEST_LINE
            && raw.strip_suffix('\n').unwrap_or(raw).len() > LONGEST_LINE
        {
            self.report(
                Diagnostic::error(
                    "line-too-long",
                    format!("line {line} is too long: more than {LONGEST_LINE} bytes"),
                    Span::new(span.start, span.start),
                )
                .help("break the line with continuations, or put the data into a file and COPY it"),
            );
        }
        Some((line, trim_line_end(raw), span.start))
    }
}

/// Returns the line without its escape character when it goes on in the next one. An escape character that is
/// itself escaped does not continue; blanks after it are tolerated.
fn continued(line: &str, escape: Escape) -> Option<&str> {
    let head = line
        .trim_end_matches([' ', '\t'])
        .strip_suffix(escape.character())?;
    if head.ends_with(escape.character()) {
        None
    } else {
        Some(head)
    }
}

fn trim_line_end(line: &str) -> &str {
    line.trim_end_matches(['\r', '\n'])
}

fn strip_leading_tabs(body: &str) -> String {
    body.split_inclusive('\n')
        .map(|line| line.trim_start_matches('\t'))
        .collect()
}
