//! What comes along when a Dockerfile is pasted from a web page or a word processor: `&amp;&amp;`, “quotes”, –dashes.
//! None of it is wrong as such, so these are warnings.

use super::{Builder, Line};
use crate::diagnostic::Diagnostic;
use crate::grammar::Arguments;
use crate::keyword::Keyword;

const ENTITIES: [(&str, &str); 5] = [
    ("&amp;", "&"),
    ("&lt;", "<"),
    ("&gt;", ">"),
    ("&quot;", "\""),
    ("&nbsp;", " "),
];

impl Builder<'_, '_> {
    pub(super) fn typography(&mut self, keyword: Keyword, line: Line<'_>, arguments: &Arguments) {
        // Prose may hold anything.
        if line.text.is_ascii() && !line.text.contains('&')
            || matches!(keyword, Keyword::Maintainer | Keyword::Onbuild)
        {
            return;
        }
        let is_command = matches!(
            (keyword, arguments),
            (
                Keyword::Run | Keyword::Cmd | Keyword::Entrypoint,
                Arguments::Text(_)
            )
        );
        if is_command {
            self.entity(line);
        }
        self.quote(line, is_command);
        self.dash(line);
    }

    fn entity(&mut self, line: Line<'_>) {
        let found = ENTITIES
            .iter()
            .filter_map(|(entity, plain)| Some((line.text.find(entity)?, entity, plain)));
        if let Some((at, entity, plain)) = found.min_by_key(|(at, _, _)| *at) {
            let message =
                format!("`{entity}` is how web pages write `{plain}`; a shell takes it apart");
            let warning =
                Diagnostic::warning("HtmlEntity", message, line.span(at..at + entity.len()));
            self.report(warning.help(format!("write `{plain}`")));
        }
    }

    /// Typographic double quotes anywhere in a command, elsewhere only where a quoted text would begin.
    fn quote(&mut self, line: Line<'_>, is_command: bool) {
        let quotes = ['\u{201c}', '\u{201d}', '\u{201e}'];
        let begins = |at: usize| line.text[..at].ends_with(['=', ' ', '\t', '[', ',']);
        let found = line
            .text
            .match_indices(quotes)
            .find(|(at, _)| is_command || begins(*at));
        if let Some((at, quote)) = found {
            let message = format!("the typographic quote `{quote}` does not quote");
            let warning =
                Diagnostic::warning("TypographicQuote", message, line.span(at..at + quote.len()));
            self.report(warning.help("write a plain `\"`"));
        }
    }

    /// A dash that an editor made of the two hyphens of an option.
    fn dash(&mut self, line: Line<'_>) {
        let found = line
            .text
            .match_indices(['\u{2013}', '\u{2014}'])
            .find(|(at, dash)| {
                let starts_word = line.text[..*at].ends_with([' ', '\t']);
                starts_word
                    && line.text[at + dash.len()..].starts_with(|c: char| c.is_ascii_alphanumeric())
            });
        if let Some((at, dash)) = found {
            let message = format!("the typographic dash `{dash}` does not begin an option");
            let warning =
                Diagnostic::warning("TypographicDash", message, line.span(at..at + dash.len()));
            self.report(warning.help("write `-` or `--`"));
        }
    }
}
