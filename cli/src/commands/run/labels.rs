//! `--label` and `--label-file`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::environment;
use crate::error::{Error, Result};
use crate::files;

/// Returns names and values, those of files first.
pub(super) fn read(flags: &[String], files: &[PathBuf]) -> Result<Vec<(String, String)>> {
    let mut labels = Vec::new();
    for path in files {
        let text = files::read_list(path)?;
        for line in environment::lines(path, &text, "label")? {
            // Of a name alone Docker makes nothing.
            if line.contains('=') {
                labels.push(label(line)?);
            }
        }
    }
    for flag in flags {
        labels.push(label(flag)?);
    }
    Ok(labels)
}

/// The last of a name wins.
pub(super) fn annotations(flags: &[String]) -> Result<BTreeMap<String, String>> {
    let named = flags.iter().map(|text| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        if name.is_empty() {
            return Err(Error::usage(format!(
                "--annotation `{text}`: the name before `=` is empty"
            )));
        }
        Ok((name.to_owned(), value.to_owned()))
    });
    named.collect()
}

fn label(text: &str) -> Result<(String, String)> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    if name.is_empty() {
        return Err(Error::usage(format!(
            "--label `{text}`: the name before `=` is empty"
        )));
    }
    if name.contains(char::is_whitespace) {
        return Err(Error::usage(format!(
            "--label `{text}`: the name `{name}` has blanks in it"
        )));
    }
    Ok((name.to_owned(), value.to_owned()))
}
