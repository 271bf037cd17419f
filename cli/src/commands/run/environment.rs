//! `--env` and `--env-file`.

use std::path::{Path, PathBuf};

use crate::commands::build::environment;
use crate::error::{Error, Result};
use crate::files;

/// Returns `K=V` in the order in which later ones win: files first, then flags. A name alone is taken from the
/// environment; where it is not set, a flag's takes the image's variable away, and a file's says nothing.
pub(crate) fn read(files: &[PathBuf], flags: &[String]) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for path in files {
        file(path, &files::read_list(path)?, &mut all)?;
    }
    for flag in flags {
        if flag.is_empty() || flag.starts_with('=') {
            return Err(Error::usage(format!(
                "--env `{flag}`: the name before `=` is empty"
            )));
        }
        if !complete(flag, &mut all)? {
            all.push(flag.clone());
        }
    }
    Ok(all)
}

/// Adds the variables of a file that have values.
fn file(path: &Path, text: &str, all: &mut Vec<String>) -> Result<()> {
    for line in lines(path, text, "variable")? {
        complete(line, all)?;
    }
    Ok(())
}

/// One `NAME[=VALUE]` a line; empty lines and lines that begin with `#` are skipped; values are taken as they stand.
pub(super) fn lines<'t>(path: &Path, text: &'t str, what: &str) -> Result<Vec<&'t str>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut all = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split('=').next().unwrap_or_default();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(Error::failed(format!(
                "{}:{}: `{name}` is not the name of a {what}",
                path.display(),
                number + 1
            )));
        }
        all.push(line);
    }
    Ok(all)
}

/// Whether it has a value, of its own or of the environment's.
fn complete(text: &str, all: &mut Vec<String>) -> Result<bool> {
    let complete = if text.contains('=') {
        Some(text.to_owned())
    } else {
        environment(text)?.map(|value| format!("{text}={value}"))
    };
    let is_complete = complete.is_some();
    all.extend(complete);
    Ok(is_complete)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_first_and_names_are_completed() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(
            &mut file,
            b"# comment\n\nA=1 2\n  B=\nCARGO_PKG_NAME\nRBUILD_SURELY_UNSET\n",
        )
        .unwrap();
        let flags = ["A=x=y".to_owned(), "CARGO_PKG_NAME".to_owned()];
        let all = read(&[file.path().to_owned()], &flags).unwrap();
        assert_eq!(
            all,
            [
                "A=1 2",
                "B=",
                "CARGO_PKG_NAME=rbuild-cli",
                "A=x=y",
                "CARGO_PKG_NAME=rbuild-cli"
            ]
        );
        assert!(read(&[], &["=x".to_owned()]).is_err());
        std::io::Write::write_all(&mut file, b"bad name=1\n").unwrap();
        assert!(matches!(
            read(&[file.path().to_owned()], &[]),
            Err(Error::Failed(_))
        ));
    }
}
