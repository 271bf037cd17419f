//! What a build reads before it knows anything: the Dockerfile, and the ignore file of a context. Paths here are
//! the user's own words; what an input can influence goes through the context's root.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use rbuild_cache::RootDir;
use rbuild_parser::Source;
use rbuild_parser::ignore::Patterns;

use crate::context::Ignore;
use crate::request::DockerfileLocation;
use crate::{Error, Result};

/// Of a Dockerfile or an ignore file.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// How a Dockerfile is called towards people.
pub(crate) fn shown(location: &DockerfileLocation) -> String {
    match location {
        DockerfileLocation::Path(path) => path.display().to_string(),
        DockerfileLocation::Text { name, .. } => name.clone(),
    }
}

/// Reads the Dockerfile.
pub(crate) fn dockerfile(location: &DockerfileLocation) -> Result<Source> {
    match location {
        DockerfileLocation::Text { name, bytes } => Ok(Source::new(name.clone(), bytes)),
        DockerfileLocation::Path(path) => {
            let shown = path.display().to_string();
            let failed = |source: std::io::Error| Error::Io {
                message: format!("cannot read the Dockerfile `{shown}`"),
                source,
            };
            let metadata = std::fs::metadata(path).map_err(failed)?;
            if !metadata.is_file() {
                let kind = if metadata.is_dir() {
                    std::io::ErrorKind::IsADirectory.into()
                } else {
                    std::io::Error::other("it is not a regular file")
                };
                return Err(failed(kind));
            }
            let file = std::fs::File::open(path).map_err(failed)?;
            let bytes = bounded(file).map_err(failed)?;
            Ok(Source::new(shown, &bytes))
        }
    }
}

/// Reads the ignore file that holds for a context: `NAME.dockerignore` beside the Dockerfile, where that is a file,
/// wins over `.dockerignore` in the context. Named contexts have only the latter.
pub(crate) fn ignore(
    context: &Path,
    dockerfile: Option<&DockerfileLocation>,
) -> Result<Option<Ignore>> {
    if let Some(DockerfileLocation::Path(path)) = dockerfile {
        let mut beside = path.clone().into_os_string();
        beside.push(".dockerignore");
        let beside = PathBuf::from(beside);
        match std::fs::File::open(&beside) {
            Ok(file) => return read(&beside.display().to_string(), file).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(Error::Io {
                    message: format!("cannot read `{}`", beside.display()),
                    source,
                });
            }
        }
    }
    let failed = |source| Error::Io {
        message: format!("cannot read `.dockerignore` of `{}`", context.display()),
        source,
    };
    let root = RootDir::open_ambient(context).map_err(failed)?;
    match root.open_file(Path::new(".dockerignore")) {
        Ok(file) => read(".dockerignore", file).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Says so early where a context is no directory.
pub(crate) fn require_directory(path: &Path) -> Result<()> {
    let failed = |source| Error::Io {
        message: format!("cannot use `{}` as a build context", path.display()),
        source,
    };
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if metadata.is_dir() {
        Ok(())
    } else {
        Err(failed(std::io::ErrorKind::NotADirectory.into()))
    }
}

fn read(name: &str, file: std::fs::File) -> Result<Ignore> {
    let failed = |source| Error::Io {
        message: format!("cannot read `{name}`"),
        source,
    };
    let bytes = bounded(file).map_err(failed)?;
    let patterns = Patterns::from_file(&bytes)
        .map_err(|error| Error::Usage(format!("`{name}` is not valid: {error}")))?;
    Ok(Ignore {
        file: name.to_owned(),
        patterns,
    })
}

fn bounded(file: std::fs::File) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!(
            "it is larger than {} MiB",
            FILE_BYTES_MAX >> 20
        )));
    }
    Ok(bytes)
}
