//! `--env` and `--env-file`.

use std::path::{Path, PathBuf};

use crate::commands::build::environment;
use crate::error::{Error, Result};
use crate::files;

/// Returns `K=V` in the order in which later ones win: files first, then flags. A name alone is taken from the
/// environment, and left out where it is not set.
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
        complete(flag, &mut all)?;
    }
    Ok(all)
}

/// One variable a line; empty lines and lines that begin with `#` are skipped; values are taken as they stand.
fn file(path: &Path, text: &str, all: &mut Vec<String>) -> Result<()> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split('=').next().unwrap_or_default();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(Error::failed(format!(
                "{}:{}: `{name}` is not the name of a variable",
                path.display(),
                number + 1
            )));
        }
        complete(line, all)?;
    }
    Ok(())
}

fn complete(text: &str, all: &mut Vec<String>) -> Result<()> {
    if text.contains('=') {
        all.push(text.to_owned());
    } else if let Some(value) = environment(text)? {
        all.push(format!("{text}={value}"));
    }
    Ok(())
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
