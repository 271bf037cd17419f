//! Which file a command's first word names: as it is when it has a slash, else the first executable file of that name
//! in PATH. Runs inside the root.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, FileType};

use super::child::Stop;
use super::plan::Bytes;

/// Where a command without PATH in its environment is looked for.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) fn find(argv: &[Bytes], env: &[Bytes]) -> Result<PathBuf, Stop> {
    let Some(name) = argv.first().map(|name| name.0.as_slice()) else {
        return Err(not_found("the command is empty"));
    };
    if name.is_empty() {
        return Err(not_found("its name is empty"));
    }
    if name.contains(&b'/') {
        return Ok(path(name).to_owned());
    }
    let search = env
        .iter()
        .find_map(|entry| entry.0.strip_prefix(b"PATH="))
        .unwrap_or(DEFAULT_PATH);
    let mut seen_not_executable = None;
    for directory in search.split(|byte| *byte == b':') {
        // An empty entry is the working directory, by POSIX; nothing that a build should find programs by.
        if directory.is_empty() {
            continue;
        }
        let candidate = path(directory).join(path(name));
        let Ok(stat) = rustix::fs::stat(&candidate) else {
            continue;
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            continue;
        }
        match rustix::fs::accessat(CWD, &candidate, Access::EXEC_OK, AtFlags::EACCESS) {
            Ok(()) => return Ok(candidate),
            Err(_) => seen_not_executable = seen_not_executable.or(Some(candidate)),
        }
    }
    Err(match seen_not_executable {
        Some(file) => Stop::NotExecutable {
            explanation: format!("{} is not executable for this user", file.display()),
            not_found: false,
        },
        None => not_found(&format!(
            "not found in PATH ({})",
            String::from_utf8_lossy(search)
        )),
    })
}

fn path(bytes: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

fn not_found(explanation: &str) -> Stop {
    Stop::NotExecutable {
        explanation: explanation.to_owned(),
        not_found: true,
    }
}
