//! `--runtime`: a program of the machine's, by name or path.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// `None` is our own.
pub(super) fn find(text: &str) -> Result<Option<PathBuf>> {
    if text == "embedded" {
        return Ok(None);
    }
    let is_program = |path: &Path| {
        std::fs::metadata(path)
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    let found = if text.contains('/') {
        Some(PathBuf::from(text)).filter(|path| is_program(path))
    } else {
        let search = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&search)
            // Many users have no directory of administrators' programs in there.
            .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
            .map(|directory| directory.join(text))
            .find(|path| path.is_absolute() && is_program(path))
    };
    let Some(found) = found else {
        return Err(
            Error::failed(format!("--runtime `{text}`: there is no such program"))
                .help("it is `embedded`, or the name or path of an OCI runtime, as `crun` or `/usr/sbin/runc`"),
        );
    };
    let path = std::path::absolute(&found).map_err(|error| Error::io("find", &found, error))?;
    Ok(Some(path))
}
