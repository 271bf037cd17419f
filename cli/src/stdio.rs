//! Writing to standard output and error. A reader that went away (`rbuild images | head -1`) is no failure and
//! never stops a build; every other failure to write is told by [`finish`].

use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;

static FAILURE: Mutex<Option<io::Error>> = Mutex::new(None);

/// Writes to standard output, for what a command was asked to print.
pub(crate) fn out(text: impl AsRef<[u8]>) {
    keep(write_all(&mut io::stdout().lock(), text.as_ref()));
}

/// Writes to standard error, for progress and messages.
pub(crate) fn err(text: impl AsRef<[u8]>) {
    // Where standard error cannot be written to, there is no one left to tell.
    drop(write_all(&mut io::stderr().lock(), text.as_ref()));
}

/// Returns the first failure to write standard output that was not a closed pipe.
pub(crate) fn finish() -> io::Result<()> {
    keep(ignore_closed(io::stdout().lock().flush()));
    match FAILURE.lock() {
        Ok(mut failure) => failure.take().map_or(Ok(()), Err),
        Err(_) => Ok(()),
    }
}

/// Whether colours belong on standard error: a terminal, and neither `NO_COLOR` nor `TERM=dumb`.
pub(crate) fn err_is_coloured() -> bool {
    io::stderr().is_terminal() && colours_are_welcome()
}

/// The same of standard output.
pub(crate) fn out_is_coloured() -> bool {
    io::stdout().is_terminal() && colours_are_welcome()
}

fn colours_are_welcome() -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb")
}

fn write_all(stream: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    ignore_closed(stream.write_all(bytes).and_then(|()| stream.flush()))
}

fn ignore_closed(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

fn keep(result: io::Result<()>) {
    if let (Err(error), Ok(mut failure)) = (result, FAILURE.lock()) {
        failure.get_or_insert(error);
    }
}

/// Makes a name that came from an input harmless on a terminal: C0, DEL, C1 and the bidirectional controls become
/// `\u{..}` escapes. Command output is not touched by this; only our own messages are.
pub(crate) fn escape(text: &str) -> std::borrow::Cow<'_, str> {
    let harmful = |c: char| {
        c.is_control()
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
    };
    if !text.chars().any(|c| harmful(c) && c != '\n' && c != '\t') {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if harmful(c) && c != '\n' && c != '\t' {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    escaped.into()
}

/// As [`escape`], and on one line.
pub(crate) fn escape_line(text: &str) -> String {
    escape(text).replace('\n', "\\n").replace('\t', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_controls_are_escaped_and_text_is_not() {
        assert_eq!(escape("plain äöü\n"), "plain äöü\n");
        assert_eq!(escape("a\u{1b}[31mb\u{9b}c\r"), "a\\u{1b}[31mb\\u{9b}c\\r");
        assert_eq!(escape("\u{202e}x"), "\\u{202e}x");
        assert_eq!(escape_line("a\nb\tc"), "a\\nb c");
    }
}
