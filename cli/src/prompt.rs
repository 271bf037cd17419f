//! Asks on the terminal.

use std::io::{BufRead, IsTerminal, Read};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::error::{Error, Result};
use crate::stdio;

/// No password is longer.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// Asks for a line. `help` says what to do where there is no terminal.
pub(crate) fn line(words: &str, echo: bool, help: &str) -> Result<String> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        let what = words.trim_end_matches([':', ' ']).to_lowercase();
        let message = format!("cannot ask for the {what}: standard input is no terminal");
        return Err(Error::failed(message).help(help));
    }
    stdio::err(words);
    let silence = (!echo).then(Silence::begin).transpose()?;
    let mut line = String::new();
    let read = stdin
        .lock()
        .take(LINE_BYTES_MAX)
        .read_line(&mut line)
        .map_err(|error| Error::io("read", "standard input", error));
    if silence.is_some() {
        drop(silence);
        stdio::err("\n");
    }
    read?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

/// Typing is not shown while this lives.
struct Silence(rustix::termios::Termios);

impl Silence {
    fn begin() -> Result<Self> {
        let failed = |error: rustix::io::Errno| {
            Error::failed("cannot hide what is typed on this terminal").because(error)
        };
        let before = tcgetattr(std::io::stdin()).map_err(failed)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &silent).map_err(failed)?;
        Ok(Self(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // There is nobody to tell, and nothing else to do.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, &self.0);
    }
}
