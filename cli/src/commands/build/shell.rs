//! A shell in a step of a build: where one failed, and for `rbuild debug`.

use std::io::IsTerminal;

use rbuild_engine::DebugShell;
use rbuild_engine::error::StepFailure;
use rbuild_engine::executor;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::{render, stdio};

/// A shell is for somebody.
pub(crate) fn require_terminal(what: &str) -> Result<()> {
    if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        return Ok(());
    }
    Err(Error::failed(format!(
        "{what} needs a terminal, and standard input and output are not one"
    ))
    .help("run it in a terminal, without redirections; a build in a script has no use for a shell"))
}

/// Tells of a failure and opens a shell in what it left, where it was a step that failed. False where nothing was
/// told.
pub(super) async fn after(error: &mut Error, cancel: CancellationToken) -> bool {
    let coloured = stdio::err_is_coloured();
    if !matches!(error, Error::Engine(rbuild_engine::Error::Step(_))) {
        return false;
    }
    stdio::err(render::failure(error, coloured));
    let Error::Engine(rbuild_engine::Error::Step(failure)) = error else {
        return true;
    };
    let StepFailure { shell, name, .. } = &mut **failure;
    match shell.take() {
        Some(shell) => {
            let place = format!("in what `{name}` left");
            if let Err(error) = open(*shell, &place, cancel).await {
                stdio::err(render::failure(&error, coloured));
            }
        }
        None => stdio::err(render::warning(
            &format!("no shell is opened: `{name}` left no files to look at"),
            coloured,
        )),
    }
    true
}

/// Says what the shell is, and opens it until it is left.
pub(crate) async fn open(
    shell: DebugShell,
    place: &str,
    cancel: CancellationToken,
) -> Result<executor::Exit> {
    let mut text =
        format!("a shell {place}; nothing that is changed in it is kept; `exit` leaves it\n");
    if !shell.command().is_empty() {
        let words = shell.command().iter().map(|word| quoted(word));
        let words: Vec<String> = words.collect();
        text.push_str(&format!("the step's command: {}\n", words.join(" ")));
    }
    stdio::err(stdio::escape(&text).as_bytes());
    let term = std::env::var("TERM").ok();
    let term = term.filter(|term| !term.is_empty() && term != "dumb");
    Ok(shell
        .open(term.as_deref().unwrap_or("xterm"), cancel)
        .await?)
}

/// As a shell reads it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_can_be_pasted() {
        assert_eq!(quoted("/bin/sh"), "/bin/sh");
        assert_eq!(quoted("it's a b"), r"'it'\''s a b'");
        assert_eq!(quoted(""), "''");
    }
}
