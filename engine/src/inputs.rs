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
        DockerfileLocation::InContext(path) => path
            .as_deref()
            .unwrap_or(Path::new("Dockerfile"))
            .display()
            .to_string(),
    }
}

/// Reads the Dockerfile. `context` is the directory that one in the context is in.
pub(crate) fn dockerfile(location: &DockerfileLocation, context: Option<&Path>) -> Result<Source> {
    match location {
        DockerfileLocation::InContext(path) => {
            let context = context.ok_or_else(|| {
                Error::Usage("the Dockerfile is in a build context that is not here yet: only a build fetches it"
                        .to_owned())
            })?;
            in_context(context, path.as_deref())
        }
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

/// Reads a Dockerfile that others may have put where it is: nothing outside of the context is reached.
fn in_context(context: &Path, path: Option<&Path>) -> Result<Source> {
    let names: &[&Path] = match &path {
        Some(path) => &[path],
        None => &[Path::new("Dockerfile"), Path::new("dockerfile")],
    };
    let wanted = names
        .first()
        .map_or_else(String::new, |it| it.display().to_string());
    let failed = |source: std::io::Error| Error::Io {
        message: format!("cannot read the Dockerfile `{wanted}` of the build context"),
        source,
    };
    let root = RootDir::open_ambient(context).map_err(failed)?;
    for name in names {
        match root.open_file(name) {
            Ok(file) => {
                let bytes = bounded(file).map_err(failed)?;
                return Ok(Source::new(name.display().to_string(), &bytes));
            }
            Err(error) if rbuild_cache::root_dir::is_absence(&error) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Err(Error::Other(format!(
        "there is no Dockerfile `{wanted}` in the build context"
    )))
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
        match regular(&beside) {
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
    if let Some(DockerfileLocation::InContext(path)) = dockerfile {
        let path = path.as_deref().unwrap_or(Path::new("Dockerfile"));
        let mut beside = path.as_os_str().to_owned();
        beside.push(".dockerignore");
        match root.open_file(Path::new(&beside)) {
            Ok(file) => return read(&beside.to_string_lossy(), file).map(Some),
            Err(error) if rbuild_cache::root_dir::is_absence(&error) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    match root.open_file(Path::new(".dockerignore")) {
        Ok(file) => read(".dockerignore", file).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Opens a file, and waits for nothing: what lies beside a Dockerfile came with it, and may be a pipe.
fn regular(path: &Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut options = std::fs::OpenOptions::new();
    let file = options.read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    Ok(file)
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
    let size = file.metadata()?.len().min(FILE_BYTES_MAX);
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!(
            "it is larger than {} MiB",
            FILE_BYTES_MAX >> 20
        )));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_beside_a_dockerfile_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let dockerfile = directory.path().join("D");
        let beside = directory.path().join("D.dockerignore");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &beside,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o644),
            0,
        )
        .unwrap();
        let location = DockerfileLocation::Path(dockerfile);
        let error = ignore(directory.path(), Some(&location)).unwrap_err();
        assert!(error.to_string().contains("D.dockerignore"), "{error}");
        std::fs::remove_file(&beside).unwrap();
        std::fs::write(&beside, "secret").unwrap();
        let ignore = ignore(directory.path(), Some(&location)).unwrap().unwrap();
        assert!(!ignore.patterns.is_empty());
    }
}
