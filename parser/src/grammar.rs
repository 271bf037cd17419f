//! The pest grammar's edge: one logical line in, its parts as ranges of bytes out. What the parts mean is
//! [`crate::instruction`]'s business.

use std::ops::Range;

use pest::Parser;

use crate::ast::Escape;
use crate::keyword::Keyword;

#[derive(pest_derive::Parser)]
#[grammar = "grammar.pest"]
struct LineParser;

/// The parts of a line, as ranges of it.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) flags: Vec<Range<usize>>,
    pub(crate) arguments: Arguments,
    /// `CMD` or `NONE` of a HEALTHCHECK.
    pub(crate) check_kind: Option<Range<usize>>,
}

#[derive(Debug, Clone, Default)]
pub(crate) enum Arguments {
    #[default]
    None,
    /// One text to the end of the line.
    Text(Range<usize>),
    Words(Vec<Range<usize>>),
    /// JSON strings with their quotes.
    Exec(Vec<Range<usize>>),
}

impl Arguments {
    pub(crate) fn count(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Text(_) => 1,
            Self::Words(ranges) | Self::Exec(ranges) => ranges.len(),
        }
    }
}

/// Splits a line that begins with its keyword and has no blanks at its ends.
/// Returns `None` for what the grammar has no reading for; it has one for every line.
pub(crate) fn parse(keyword: Keyword, escape: Escape, line: &str) -> Option<Parts> {
    let pairs = LineParser::parse(rule(keyword, escape), line).ok()?;
    let mut parts = Parts::default();
    let mut words = Vec::new();
    for pair in pairs.flat_map(pest::iterators::Pair::into_inner) {
        let span = pair.as_span();
        let range = span.start()..span.end();
        match pair.as_rule() {
            Rule::flag => parts.flags.push(range),
            Rule::check_kind => parts.check_kind = Some(range),
            Rule::text => parts.arguments = Arguments::Text(range.start..line.len()),
            Rule::word | Rule::shell_word | Rule::shell_word_backtick => words.push(range),
            Rule::exec_form => {
                let strings = pair
                    .into_inner()
                    .filter(|inner| inner.as_rule() == Rule::json_string);
                let ranges = strings.map(|string| string.as_span().start()..string.as_span().end());
                parts.arguments = Arguments::Exec(ranges.collect());
            }
            _ => {}
        }
    }
    if !words.is_empty() {
        parts.arguments = Arguments::Words(words);
    }
    Some(parts)
}

fn rule(keyword: Keyword, escape: Escape) -> Rule {
    match keyword {
        Keyword::From => Rule::from,
        Keyword::Run => Rule::run,
        Keyword::Cmd => Rule::cmd,
        Keyword::Entrypoint => Rule::entrypoint,
        Keyword::Shell => Rule::shell,
        Keyword::Healthcheck => Rule::healthcheck,
        Keyword::Copy => Rule::copy,
        Keyword::Add => Rule::add,
        Keyword::Volume => Rule::volume,
        Keyword::Expose => Rule::expose,
        Keyword::Env | Keyword::Label | Keyword::Arg if escape == Escape::Backtick => {
            Rule::env_backtick
        }
        Keyword::Env | Keyword::Label | Keyword::Arg => Rule::env,
        Keyword::Onbuild => Rule::onbuild,
        Keyword::Workdir | Keyword::Maintainer | Keyword::User | Keyword::Stopsignal => {
            Rule::workdir
        }
    }
}

/// What a JSON string stands for. Halves of surrogate pairs that stand alone become U+FFFD, as in Go.
pub(crate) fn unquote_json(quoted: &str) -> String {
    let body = quoted
        .strip_prefix('"')
        .and_then(|body| body.strip_suffix('"'))
        .unwrap_or(quoted);
    if !body.contains('\\') {
        return body.to_owned();
    }
    let mut text = String::with_capacity(body.len());
    let mut rest = body;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(kind) = rest.chars().next() else {
            break;
        };
        rest = &rest[kind.len_utf8()..];
        match kind {
            'b' => text.push('\u{8}'),
            'f' => text.push('\u{c}'),
            'n' => text.push('\n'),
            'r' => text.push('\r'),
            't' => text.push('\t'),
            'u' => text.push(unicode_escape(&mut rest)),
            other => text.push(other),
        }
    }
    text.push_str(rest);
    text
}

/// Reads the four digits after `\u`, and a second escape where the first is half of a pair.
fn unicode_escape(rest: &mut &str) -> char {
    let take = |from: &str| {
        from.get(..4)
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
    };
    let Some(first) = take(rest) else {
        return char::REPLACEMENT_CHARACTER;
    };
    *rest = rest.get(4..).unwrap_or("");
    if !(0xD800..0xDC00).contains(&first) {
        return char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER);
    }
    let second = rest
        .strip_prefix("\\u")
        .and_then(take)
        .filter(|second| (0xDC00..0xE000).contains(second));
    let Some(second) = second else {
        return char::REPLACEMENT_CHARACTER;
    };
    *rest = rest.get(6..).unwrap_or("");
    char::from_u32(0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00))
        .unwrap_or(char::REPLACEMENT_CHARACTER)
}
