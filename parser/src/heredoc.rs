//! Where heredocs open in a line. Their bodies are read by [`crate::lines`].

use std::ops::Range;

use crate::ast::Escape;
use crate::expand::{Lexer, Variables};

/// `3<<-"EOF"` as read from one word of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Opening {
    pub(crate) name: String,
    pub(crate) expand: bool,
    pub(crate) strip_tabs: bool,
    pub(crate) file_descriptor: u32,
}

/// Returns the heredocs that a line opens, with the range of the word that opens each.
///
/// The line is split as a shell would, always with backslash escapes; a line that does not split (a quote that
/// does not end, say) opens none.
pub(crate) fn openings(line: &str) -> Vec<(Opening, Range<usize>)> {
    if !line.contains("<<") {
        return Vec::new();
    }
    let mut lexer = Lexer::new(line, Escape::Backslash, &NoVariables);
    lexer.options.raw_quotes = true;
    lexer.options.raw_escapes = true;
    lexer.options.keep_unset = true;
    let words = lexer.words().unwrap_or_default();
    words
        .iter()
        .filter_map(|word| Some((opening(&word.text)?, word.start..word.end)))
        .collect()
}

/// Reads `[N]<<[-]NAME`; `None` where the word is no such thing.
pub(crate) fn opening(word: &str) -> Option<Opening> {
    let (descriptor, rest) = word.split_once("<<")?;
    if !descriptor.bytes().all(|b| b.is_ascii_digit()) || rest.contains('<') {
        return None;
    }
    let (strip_tabs, rest) = rest
        .strip_prefix('-')
        .map_or((false, rest), |rest| (true, rest));
    let rest = rest.trim_start();
    let name = single_word(rest, false)?;
    let quoted = single_word(rest, true)?;
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    Some(Opening {
        expand: quotes(&name) == quotes(&quoted),
        name,
        strip_tabs,
        // A descriptor that does not fit is as good as none: no shell has it open either.
        file_descriptor: descriptor.parse().unwrap_or(0),
    })
}

fn single_word(text: &str, raw_quotes: bool) -> Option<String> {
    let mut lexer = Lexer::new(text, Escape::Backslash, &NoVariables);
    lexer.options.raw_quotes = raw_quotes;
    lexer.options.keep_unset = true;
    let mut words = lexer.words().ok()?;
    let word = words.pop()?;
    words.is_empty().then_some(word.text)
}

struct NoVariables;

impl Variables for NoVariables {
    fn get(&self, _name: &str) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_openings() {
        let found = |line: &str| -> Vec<String> {
            let describe = |(opening, range): (Opening, Range<usize>)| {
                let flags = format!(
                    "{}{}",
                    if opening.expand { "e" } else { "" },
                    if opening.strip_tabs { "-" } else { "" }
                );
                format!(
                    "{}:{}:{}:{}",
                    opening.file_descriptor, opening.name, flags, &line[range]
                )
            };
            openings(line).into_iter().map(describe).collect()
        };
        for (line, expected) in [
            ("RUN <<EOF", &["0:EOF:e:<<EOF"][..]),
            ("RUN <<-EOF", &["0:EOF:e-:<<-EOF"]),
            ("RUN <<'EOF'", &["0:EOF::<<'EOF'"]),
            ("RUN <<\"E F\"", &["0:E F::<<\"E F\""]),
            ("RUN << EOF", &["0:EOF:e:<< EOF"]),
            (
                "RUN cat 3<<A && cat <<'B' > /b",
                &["3:A:e:3<<A", "0:B::<<'B'"],
            ),
            ("RUN echo $((1 << 3))", &["0:3)):e:<< 3))"]),
            ("RUN echo $((1<<3))", &[]),
            ("RUN cat <<<word", &[]),
            ("RUN cat <<< word", &[]),
            ("RUN echo it's <<EOF", &[]),
            ("RUN echo '<<EOF'", &[]),
            ("RUN <<$EOF", &["0:$EOF:e:<<$EOF"]),
            ("RUN <<\"\"", &[]),
            ("RUN cat <<EOF;", &["0:EOF;:e:<<EOF;"]),
            ("RUN x<<EOF", &[]),
            ("RUN a < b", &[]),
        ] {
            assert_eq!(found(line), expected, "{line}");
        }
    }
}
