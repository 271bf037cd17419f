//! The build context, the Dockerfile and named contexts: what the words on the command line mean.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbuild_engine::image::Reference;
use rbuild_engine::image::source::{Location, written};
use rbuild_engine::image::unpack;
use rbuild_engine::request::{Archive, ContextLocation, DockerfileLocation, NamedContext, Remote};

use crate::commands::first_word;
use crate::error::{Error, Result};
use crate::similar;

/// A Dockerfile on standard input; more is no Dockerfile.
const MAX_STDIN_BYTES: u64 = 64 << 20;
/// By so many first bytes an archive is told from a Dockerfile.
const FIRST_BYTES: u64 = 512;

/// Finds the context and the Dockerfile, and says what is near where one is missing.
pub(crate) fn locate(
    context: &str,
    file: Option<&Path>,
) -> Result<(ContextLocation, DockerfileLocation)> {
    let file_is_stdin = file == Some(Path::new("-"));
    if context == "-" {
        if file_is_stdin {
            return Err(Error::usage(
                "standard input cannot be both the context and the Dockerfile",
            ));
        }
        let first = read_stdin(FIRST_BYTES)?;
        if unpack::begins_archive(&first) {
            let stream = Box::new(std::io::Cursor::new(first).chain(std::io::stdin()));
            return Ok((
                ContextLocation::Archive(Archive::new("standard input", stream)),
                DockerfileLocation::InContext(file.map(Path::to_path_buf)),
            ));
        }
        let bytes = [first, read_stdin(MAX_STDIN_BYTES)?].concat();
        if file.is_some() {
            return Err(Error::usage(
                "--file and a Dockerfile on standard input exclude each other",
            ));
        }
        return Ok((ContextLocation::Empty, text(&bytes)));
    }
    let directory = PathBuf::from(context);
    if let Some(remote) = remote(context, &directory)? {
        let dockerfile = if file_is_stdin {
            text(&read_stdin(MAX_STDIN_BYTES)?)
        } else {
            DockerfileLocation::InContext(file.map(Path::to_path_buf))
        };
        return Ok((ContextLocation::Remote(remote), dockerfile));
    }
    match std::fs::metadata(&directory) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => {
            return Err(
                Error::failed(format!("the build context `{context}` is not a directory"))
                    .help("to name the Dockerfile, use --file, and a directory as CONTEXT"),
            );
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(missing_context(context, &directory));
        }
        Err(error) => return Err(Error::io("open the build context", &directory, error)),
    }
    let dockerfile = if file_is_stdin {
        text(&read_stdin(MAX_STDIN_BYTES)?)
    } else {
        DockerfileLocation::Path(dockerfile(&directory, file)?)
    };
    Ok((ContextLocation::Directory(directory), dockerfile))
}

/// Finds the context, of which no Dockerfile is wanted: one that is not there is not missed.
pub(crate) fn locate_context(
    context: &str,
    file: Option<&Path>,
) -> Result<(ContextLocation, DockerfileLocation)> {
    let directory = PathBuf::from(context);
    if file.is_some() || !directory.is_dir() {
        return locate(context, file);
    }
    let dockerfile = dockerfile(&directory, None).unwrap_or_else(|_| directory.join("Dockerfile"));
    Ok((
        ContextLocation::Directory(directory),
        DockerfileLocation::Path(dockerfile),
    ))
}

fn text(bytes: &[u8]) -> DockerfileLocation {
    DockerfileLocation::Text {
        name: "<stdin>".to_owned(),
        bytes: Arc::from(bytes),
    }
}

fn missing_context(context: &str, directory: &Path) -> Error {
    let mut error = Error::failed(format!("the build context `{context}` does not exist"));
    for near in nearest_beside(directory) {
        error = error.help(format!("there is `{near}`"));
    }
    // Where a command is named, this is no other one.
    let given: Vec<std::ffi::OsString> = std::env::args_os().collect();
    if first_word::unknown(&given).is_some() {
        // `context` alone is a directory.
        let names = super::super::listing::names();
        let names = names.filter(|name| *name != "context");
        for near in similar::nearest(context, names) {
            error = error.help(format!("there is a command `{near}`"));
        }
    }
    error
}

/// Returns the Dockerfile's path: relative names count from the working directory, then from the context.
fn dockerfile(directory: &Path, file: Option<&Path>) -> Result<PathBuf> {
    let candidates = match file {
        Some(file) if file.is_absolute() => vec![file.to_path_buf()],
        Some(file) => vec![file.to_path_buf(), directory.join(file)],
        None => vec![directory.join("Dockerfile"), directory.join("dockerfile")],
    };
    for candidate in &candidates {
        match std::fs::metadata(candidate) {
            Ok(metadata) if metadata.is_dir() => {
                return Err(Error::failed(format!(
                    "the Dockerfile `{}` is a directory",
                    candidate.display()
                )));
            }
            Ok(_) => return Ok(candidate.clone()),
            Err(error) if is_absence(&error) => {}
            Err(error) => return Err(Error::io("read the Dockerfile", candidate, error)),
        }
    }
    let wanted = candidates.first().cloned().unwrap_or_default();
    let mut error = Error::failed(format!("there is no Dockerfile `{}`", wanted.display()));
    for near in nearest_beside(&wanted) {
        error = error.help(format!("there is `{near}`; name it with --file"));
    }
    Err(error)
}

fn is_absence(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
    )
}

/// Paths beside `path` whose names are near to its.
fn nearest_beside(path: &Path) -> Vec<String> {
    let (Some(name), Some(parent)) = (
        path.file_name().and_then(|name| name.to_str()),
        path.parent(),
    ) else {
        return Vec::new();
    };
    let listed = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    similar::nearest_in(listed, name)
        .into_iter()
        .map(|near| parent.join(near).display().to_string())
        .collect()
}

fn read_stdin(limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .lock()
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::failed("cannot read standard input").because(error))?;
    Ok(bytes)
}

/// What is elsewhere. A directory that has such a name is meant first.
fn remote(text: &str, path: &Path) -> Result<Option<Remote>> {
    if path.is_dir() {
        return Ok(None);
    }
    Remote::parse(text).map_err(Error::usage)
}

/// `NAME=VALUE` of `--build-context`.
pub(crate) fn named_context(text: &str) -> Result<(String, NamedContext)> {
    let bad = |reason: &str| Error::usage(format!("--build-context `{text}`: {reason}"));
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| bad("expected NAME=VALUE"))?;
    if name.is_empty() || value.is_empty() {
        return Err(bad("expected NAME=VALUE"));
    }
    let context = if let Some(reference) = value.strip_prefix("docker-image://") {
        let reference: Reference = reference
            .parse()
            .map_err(|error| bad(&format!("{error}")))?;
        NamedContext::Image(Location::Registry(reference))
    } else if let Some(layout) = value.strip_prefix("oci-layout://") {
        let split = written::layout(layout).map_err(|error| bad(&format!("{error}")));
        let (path, tag, digest) = split?;
        NamedContext::Image(Location::OciLayout { path, tag, digest })
    } else if let Some(archive) = value.strip_prefix("oci-archive://") {
        let (path, tag) = written::path_and_tag(archive);
        if !path.is_file() {
            return Err(Error::failed(format!(
                "the context `{name}`: there is no archive `{}`",
                path.display()
            )));
        }
        NamedContext::Image(Location::OciArchive { path, tag })
    } else if let Some(stage) = value.strip_prefix("target:") {
        NamedContext::Stage(stage.to_owned())
    } else if let Some(remote) = remote(value, Path::new(value))? {
        NamedContext::Remote(remote)
    } else {
        let path = PathBuf::from(value);
        if !path.is_dir() {
            let mut error = Error::failed(format!(
                "the context `{name}`: there is no directory `{value}`"
            ));
            if value.contains("://") {
                error = error.help(
                    "it begins with `docker-image://`, `oci-layout://`, `oci-archive://` or `target:`, or is a \
                     directory, a git repository or an http(s) URL",
                );
            }
            for near in nearest_beside(&path) {
                error = error.help(format!("there is `{near}`"));
            }
            return Err(error);
        }
        NamedContext::Directory(path)
    };
    // The engine compares names as image names are compared: `x:latest` is `x`.
    Ok((name.to_owned(), context))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn help(error: Error) -> (String, Vec<String>) {
        match error {
            Error::Usage(message) | Error::Failed(message) => (message.text, message.help),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn missing_dockerfiles_are_told_with_what_is_near() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("Dockerfile.dev"), "").unwrap();
        let (text, help) = help(dockerfile(directory.path(), None).unwrap_err());
        assert_eq!(
            text,
            format!(
                "there is no Dockerfile `{}/Dockerfile`",
                directory.path().display()
            )
        );
        assert_eq!(
            help,
            [format!(
                "there is `{}/Dockerfile.dev`; name it with --file",
                directory.path().display()
            )]
        );
        std::fs::write(directory.path().join("dockerfile"), "").unwrap();
        assert!(
            dockerfile(directory.path(), None)
                .unwrap()
                .ends_with("dockerfile")
        );
    }

    #[test]
    fn what_is_elsewhere_is_told_from_paths() {
        let is_remote = |text: &str| remote(text, Path::new(text)).unwrap().is_some();
        for elsewhere in [
            "https://example.com/a.git#main:sub",
            "https://example.com/context.tar",
            "git@example.com:a/b",
            "github.com/a/b#main",
            "ssh://git@example.com/a",
        ] {
            assert!(is_remote(elsewhere), "{elsewhere}");
        }
        for path in [".", "a/b", "/", "file:///etc", "./x.git"] {
            assert!(!is_remote(path), "{path}");
        }
        let refused = remote("https://example.com/a.git#--upload-pack=x", Path::new("-"));
        assert!(matches!(refused, Err(Error::Usage(_))));
    }
}
