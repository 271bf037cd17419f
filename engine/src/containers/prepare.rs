//! A container's definition as a command for the executor. Opens what is mounted.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbuild_cache::RootDir;
use rbuild_executor::Host;
use rbuild_executor::network::{self, Ahead, Port, Private};
use rbuild_executor::spec::{Exec, Later, Mount, MountSource, Network, Security};

use super::catalog::Catalog;
use super::definition::{Definition, MountKind, MountPoint};
use super::life::Life;
use super::ports;
use crate::request::NetworkChoice;
use crate::worker::blocking;
use crate::{Error, Result};

/// `network` where it is being made already.
pub(super) fn exec(
    catalog: &Catalog,
    definition: &Definition,
    network: Option<Network>,
) -> Result<Exec> {
    let request = &definition.request;
    let bytes = |words: &[String]| words.iter().map(|word| word.clone().into_bytes()).collect();
    let mut mounts = Vec::new();
    for mount in &definition.mounts {
        mounts.push(Mount {
            target: PathBuf::from(&mount.target),
            read_only: mount.read_only,
            source: source(catalog, mount)?,
        });
    }
    Ok(Exec {
        argv: bytes(&definition.argv),
        env: bytes(&definition.env),
        cwd: Path::new("/").join(&definition.working_dir),
        user: definition.user.clone(),
        groups: request.groups.clone(),
        mounts,
        network: match network {
            Some(network) => network,
            None => self::network(catalog, definition)?,
        },
        security: if request.privileged {
            Security::Insecure
        } else {
            Security::Sandbox
        },
        hostname: definition.hostname.clone(),
        hosts: request.hosts.clone(),
        dns: request.dns.clone(),
        limits: request.limits.clone(),
        read_only_root: request.read_only,
        capabilities_add: request.capabilities_add.clone(),
        capabilities_drop: request.capabilities_drop.clone(),
        init: request.init,
        timeout: None,
    })
}

fn network(catalog: &Catalog, definition: &Definition) -> Result<Network> {
    if let Some(other) = &definition.request.network_of {
        let entry = catalog.find(other)?;
        if !entry.state.status.is_alive() {
            return Err(Error::Other(format!(
                "cannot join the network of `{}`: the container is {}",
                entry.name,
                entry.state.status.name()
            )));
        }
        return Ok(Network::Process(entry.state.pid));
    }
    Ok(match definition.request.network {
        NetworkChoice::None => Network::None,
        NetworkChoice::Host | NetworkChoice::Default => Network::Host,
    })
}

/// Says in what network it will be, and notes it: a private one may still be in the making, `ahead`. Where ports are
/// published, waits for it.
pub(super) async fn begin_network(
    host: &Host,
    life: &Arc<Life>,
    ahead: Option<Ahead>,
) -> Result<Option<Network>> {
    life.note_network(false, Vec::new());
    let request = &life.definition.request;
    if !request.has_private_network() {
        return Ok(None);
    }
    let (host, life) = (host.clone(), Arc::clone(life));
    let begun = ahead.map_or_else(Ahead::begin, Ok);
    let finish = move || begun.and_then(|begun| begun.finish(&host));
    if life.definition.publishes() {
        let network = blocking(move || {
            let (network, open) = open_network(finish(), &life.definition)?;
            life.note_network(true, open);
            Ok::<_, Error>(network)
        });
        return Ok(Some(network.await?));
    }
    Ok(Some(Network::Later(Later::new(move || match finish() {
        Ok(private) => {
            life.note_network(true, Vec::new());
            Network::Private(Arc::new(private))
        }
        Err(error) => {
            // Builds say this to everybody; a program's own output is not to be mixed with it.
            tracing::info!(%error, cause = %error.source, "this is the host's network");
            Network::Host
        }
    }))))
}

/// A private network with open ports. Blocking.
fn open_network(
    private: std::result::Result<Private, network::Error>,
    definition: &Definition,
) -> Result<(Network, Vec<Port>)> {
    let private = private.map_err(|error| Error::Io {
        message: format!(
            "ports are published from private networks, and there can be none here: {error}; with \
             `--network host` the container's ports are the host's"
        ),
        source: error.source,
    })?;
    let open = ports::open(definition, &private)?;
    Ok((Network::Private(Arc::new(private)), open))
}

fn source(catalog: &Catalog, mount: &MountPoint) -> Result<MountSource> {
    match &mount.kind {
        MountKind::Bind(path) => directory(path, &mount.target),
        MountKind::Volume { name, .. } => {
            let data = catalog.volume_path(name)?;
            let root = RootDir::open_ambient(&data).map_err(|source| Error::Io {
                message: format!("cannot mount the volume `{name}` at `{}`", mount.target),
                source,
            })?;
            Ok(MountSource::Directory {
                root: Arc::new(root),
                path: PathBuf::from(mount.subpath.as_deref().unwrap_or(".")),
            })
        }
        MountKind::Tmpfs {
            size,
            mode,
            no_exec,
        } => Ok(MountSource::Tmpfs {
            size: *size,
            mode: mode.unwrap_or(0o1777),
            no_exec: *no_exec,
        }),
    }
}

/// A directory or file of the host, by its parent's descriptor.
fn directory(path: &Path, target: &str) -> Result<MountSource> {
    let failed = |source| Error::Io {
        message: format!("cannot mount `{}` at `{target}`", path.display()),
        source,
    };
    // The user's own path: links in it are the user's.
    let path = path.canonicalize().map_err(failed)?;
    let (parent, name) = match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => (parent, PathBuf::from(name)),
        _ => (Path::new("/"), PathBuf::from(".")),
    };
    let root = RootDir::open_ambient(parent).map_err(failed)?;
    Ok(MountSource::Directory {
        root: Arc::new(root),
        path: name,
    })
}
