//! Build contexts that are no directory yet: a tar stream, an address, a repository. Each becomes a directory of the
//! store: archives in a temporary one that goes with the build, repositories as snapshots that later builds find
//! again. The Dockerfile may be in there, so the main one comes before everything else.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbuild_cache::{RootDir, Store, TemporaryDirectory};
use rbuild_parser::Source;

use crate::context::{self, list::Listed};
use crate::evidence::Pin;
use crate::fetch::{self, Access};
use crate::inputs;
use crate::lower::remote::without_userinfo;
use crate::op::{GitSource, HttpSource};
use crate::request::{
    Archive, BuildRequest, ContextLocation, DockerfileLocation, Remote, Ssh, SshAgent,
};
use crate::worker::blocking;
use crate::worker::failure::Failure;
use crate::{Engine, Error, Result};

/// What a context's file is called that is no archive.
const FILE_NAME: &str = "context";

/// A context that is a directory by now.
#[derive(Debug, Clone)]
pub(crate) struct Local {
    pub(crate) directory: PathBuf,
    /// Where the directory goes with the build.
    pub(crate) temporary: Option<Arc<TemporaryDirectory>>,
    /// What was fetched.
    pub(crate) pin: Option<Pin>,
}

/// What the whole build stands on.
pub(crate) struct Main {
    pub(crate) dockerfile: Source,
    /// Where the context was no directory.
    pub(crate) local: Option<Local>,
    /// Where it was fetched, the Dockerfile with it.
    pub(crate) pin: Option<Pin>,
}

/// What an address gave.
enum Found {
    Context(Local),
    /// The bytes of a file that is no archive.
    File(PathBuf, Pin),
}

impl Engine {
    /// Brings the main context here and reads the Dockerfile.
    pub(crate) async fn main_context(&self, request: &BuildRequest) -> Result<Main> {
        let local = match &request.context {
            ContextLocation::Directory(_) | ContextLocation::Empty => None,
            ContextLocation::Archive(archive) => Some(self.archive(archive).await?),
            ContextLocation::Remote(remote) => match self.remote(remote, request, true).await? {
                Found::Context(local) => Some(local),
                Found::File(path, pin) => return bare(request, remote, path, pin),
            },
        };
        let directory = match (&request.context, &local) {
            (_, Some(local)) => Some(local.directory.as_path()),
            (ContextLocation::Directory(path), None) => Some(path.as_path()),
            (_, None) => None,
        };
        Ok(Main {
            dockerfile: inputs::dockerfile(&request.dockerfile, directory)?,
            pin: local.as_ref().and_then(|local| local.pin.clone()),
            local,
        })
    }

    /// Lists what the main context holds and what its ignore file keeps out, wherever the context is.
    pub async fn list_context(&self, request: &BuildRequest) -> Result<Vec<Listed>> {
        let local = match &request.context {
            ContextLocation::Directory(path) => return list_directory(path, &request.dockerfile),
            ContextLocation::Empty => return Ok(Vec::new()),
            ContextLocation::Archive(archive) => self.archive(archive).await?,
            ContextLocation::Remote(remote) => match self.remote(remote, request, true).await? {
                Found::Context(local) => local,
                Found::File(..) => return Ok(Vec::new()),
            },
        };
        list_directory(&local.directory, &request.dockerfile)
    }

    /// Brings a named context here.
    pub(crate) async fn named_context(
        &self,
        name: &str,
        remote: &Remote,
        request: &BuildRequest,
    ) -> Result<Local> {
        match self.remote(remote, request, false).await? {
            Found::Context(local) => Ok(local),
            Found::File(..) => Err(Error::Other(format!(
                "the context `{name}`: what `{remote}` gives is no tar archive"
            ))),
        }
    }

    async fn archive(&self, archive: &Archive) -> Result<Local> {
        let stream = archive.take().ok_or_else(|| Error::Io {
            message: format!("cannot read the build context from {}", archive.name),
            source: std::io::Error::other("it was read already"),
        })?;
        let what = archive.name.clone();
        let store = Arc::clone(self.store());
        blocking(move || unpack(&store, stream, &what)).await
    }

    async fn remote(&self, remote: &Remote, request: &BuildRequest, main: bool) -> Result<Found> {
        let failed = |failure: Failure| Error::Io {
            message: format!("cannot fetch the build context `{remote}`"),
            source: std::io::Error::other(failure),
        };
        let access = access(request)?;
        match remote {
            Remote::Git(source) => {
                let keeps = main
                    && request
                        .build_args
                        .get("BUILDKIT_CONTEXT_KEEP_GIT_DIR")
                        .is_some_and(|value| matches!(value.as_str(), "1" | "true"));
                let source = GitSource {
                    keep_git_dir: source.keep_git_dir || keeps,
                    ..source.clone()
                };
                let (snapshot, commit) = fetch::git::checkout(self.store(), &source, &access)
                    .await
                    .map_err(failed)?;
                Ok(Found::Context(Local {
                    directory: self.store().snapshot_directory(&snapshot.id)?,
                    temporary: None,
                    pin: Some(Pin::Commit(commit)),
                }))
            }
            Remote::Http(url) => {
                let source = HttpSource {
                    url: url.clone(),
                    checksum: None,
                    filename: FILE_NAME.to_owned(),
                };
                let (snapshot, digest) =
                    fetch::http::file(self.store(), &self.client, &source, &access, &|_, _| ())
                        .await
                        .map_err(failed)?;
                let path = self
                    .store()
                    .snapshot_directory(&snapshot.id)?
                    .join(FILE_NAME);
                let store = Arc::clone(self.store());
                let what = without_userinfo(url);
                let pin = Pin::File(digest);
                blocking(move || archive_or_file(&store, path, &what, pin)).await
            }
        }
    }
}

/// Lists what a context that is a directory holds and what its ignore file keeps out.
pub fn list_directory(directory: &Path, dockerfile: &DockerfileLocation) -> Result<Vec<Listed>> {
    let ignore = inputs::ignore(directory, Some(dockerfile))?;
    let root = RootDir::open_ambient(directory).map_err(|source| Error::Io {
        message: format!("cannot open the build context `{}`", directory.display()),
        source,
    })?;
    context::list::list(&root, ignore.as_ref()).map_err(|error| Error::Io {
        message: "cannot list the build context".to_owned(),
        source: std::io::Error::other(error),
    })
}

pub(crate) fn access(request: &BuildRequest) -> Result<Access> {
    let socket = |ssh: &Ssh| {
        let socket = match &ssh.agent {
            SshAgent::Socket(socket) => Ok(socket.clone()),
            SshAgent::Own(agent) => agent.socket(),
        };
        let socket = socket.map_err(|source| Error::Io {
            message: format!("cannot start the agent for the keys of --ssh `{}`", ssh.id),
            source,
        })?;
        Ok((ssh.id.clone(), socket))
    };
    Ok(Access {
        secrets: request
            .secrets
            .iter()
            .map(|secret| (secret.id.clone(), Arc::clone(&secret.data)))
            .collect(),
        ssh: request.ssh.iter().map(socket).collect::<Result<_>>()?,
        // Contexts are named by who builds.
        reach: None,
    })
}

/// A Dockerfile without a context.
fn bare(request: &BuildRequest, remote: &Remote, path: PathBuf, pin: Pin) -> Result<Main> {
    if !matches!(request.dockerfile, DockerfileLocation::InContext(None)) {
        return Err(Error::Usage(format!(
            "what `{remote}` gives is no tar archive, so it cannot be a context for another Dockerfile"
        )));
    }
    let found = inputs::dockerfile(&DockerfileLocation::Path(path), None)?;
    Ok(Main {
        dockerfile: Source::new(remote.to_string(), found.text().as_bytes()),
        local: None,
        pin: Some(pin),
    })
}

fn archive_or_file(store: &Store, path: PathBuf, what: &str, pin: Pin) -> Result<Found> {
    let failed = |source| Error::Io {
        message: format!("cannot read the build context from {what}"),
        source,
    };
    let mut file = std::fs::File::open(&path).map_err(failed)?;
    if rbuild_image::unpack::is_archive(&mut file).map_err(failed)? {
        let local = unpack(store, Box::new(file), what)?;
        return Ok(Found::Context(Local {
            pin: Some(pin),
            ..local
        }));
    }
    Ok(Found::File(path, pin))
}

/// Blocking.
fn unpack(store: &Store, mut stream: Box<dyn Read + Send>, what: &str) -> Result<Local> {
    let failed = |source| Error::Io {
        message: format!("cannot unpack the build context from {what}"),
        source,
    };
    let temporary = store.temporary_directory()?;
    let root = RootDir::open_ambient(temporary.path()).map_err(failed)?;
    // Everything of a context counts as owned by root.
    let owner = Some((0, 0));
    rbuild_image::unpack::archive(&mut *stream, &root, "/".as_ref(), owner)
        .map_err(|error| failed(std::io::Error::other(error)))?;
    Ok(Local {
        directory: temporary.path().to_owned(),
        temporary: Some(Arc::new(temporary)),
        pin: None,
    })
}
