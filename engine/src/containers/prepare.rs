//! A container's definition as a command for the executor. Opens what is mounted.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbuild_cache::{RootDir, SnapshotId};
use rbuild_executor::Host;
use rbuild_executor::host::Privilege;
use rbuild_executor::network::{self, Ahead, Place, Private};
use rbuild_executor::spec::{
    Exec, Later, Mount, MountSource, Names, Network, Propagation, Security, Space, Spaces,
};

use super::catalog::{Catalog, Entry};
use super::control::{Answer, Ask};
use super::definition::{Definition, MountKind, MountPoint};
use super::life::Life;
use super::request::{self, Ipc};
use super::volumes::Backing;
use super::{ports, without};
use crate::request::NetworkChoice;
use crate::worker::{blocking, brief};
use crate::{Error, Result};

/// `network` where it is being made already; `bare`: there are no namespaces.
pub(super) fn exec(
    catalog: &Catalog,
    definition: &Definition,
    network: Option<Network>,
    bare: bool,
) -> Result<Exec> {
    let request = &definition.request;
    let bytes = |words: &[String]| words.iter().map(|word| word.clone().into_bytes()).collect();
    let mut mounts = Vec::new();
    for mount in &definition.mounts {
        mounts.push(Mount {
            target: PathBuf::from(&mount.target),
            read_only: mount.read_only,
            below: mount.below,
            source: source(catalog, definition, mount, bare)?,
        });
    }
    let other = match &request.network_of {
        Some(other) => Some(catalog.find(other)?),
        None => None,
    };
    // What belongs to a network is shared with it.
    let of_network = other.as_ref().map_or(definition, |other| &other.definition);
    let hostname = &of_network.hostname;
    let (hosts, dns) = (&of_network.request.hosts, &of_network.request.dns);
    let mut hosts = hosts.clone();
    if bare && request.network != NetworkChoice::None {
        hosts.extend(without::names(catalog, definition)?);
    } else if request.networks.is_empty() {
        hosts.extend(links(catalog, definition)?);
    }
    Ok(Exec {
        argv: bytes(&definition.argv),
        env: bytes(&definition.env),
        cwd: Path::new("/").join(&definition.working_dir),
        user: definition.user.clone(),
        groups: request.groups.clone(),
        mounts,
        network: match (network, &other) {
            (Some(network), _) => network,
            (None, Some(other)) if bare => match other.definition.request.network {
                NetworkChoice::None => Network::None,
                NetworkChoice::Host | NetworkChoice::Default => Network::Host,
            },
            (None, Some(other)) => shared(other)?,
            (None, None) => match request.network {
                NetworkChoice::None => Network::None,
                NetworkChoice::Host | NetworkChoice::Default => Network::Host,
            },
        },
        spaces: spaces(catalog, &request.spaces)?,
        security: if request.privileged {
            Security::Insecure
        } else {
            Security::Sandbox
        },
        users: request.users_on_machine(),
        options: request.security.clone(),
        hostname: hostname.clone(),
        domainname: of_network.request.domainname.clone(),
        hosts,
        dns: dns.clone(),
        limits: request.limits.clone(),
        read_only_root: request.read_only,
        writable_names: !request.read_only,
        capabilities_add: request.capabilities_add.clone(),
        capabilities_drop: request.capabilities_drop.clone(),
        init: request.init,
        runtime: request.runtime.clone(),
        annotations: request.annotations.clone(),
        timeout: None,
        followed: false,
        alone: false,
    })
}

/// Other containers by what this one calls them, for /etc/hosts. In networks with names, only the name service knows.
fn links(catalog: &Catalog, definition: &Definition) -> Result<Vec<(String, String)>> {
    let mut hosts = Vec::new();
    for (other, alias) in &definition.request.links {
        let other = catalog.find(other)?;
        require_alive(&other, "the name")?;
        let address = other.state.place().address.to_string();
        for name in [alias.as_str(), other.definition.short_id(), &other.name] {
            hosts.push((name.to_owned(), address.clone()));
        }
    }
    Ok(hosts)
}

fn spaces(catalog: &Catalog, asked: &super::request::Spaces) -> Result<Spaces> {
    let of = |other: &str, what: &str| {
        let other = catalog.find(other)?;
        require_alive(&other, what)?;
        Ok::<_, Error>((Space::Process(inside(&other)?), other))
    };
    Ok(Spaces {
        processes: match &asked.processes {
            request::Space::Own => Space::Own,
            request::Space::Host => Space::Host,
            request::Space::Container(other) => of(other, "the processes")?.0,
        },
        ipc: match &asked.ipc {
            Ipc::Private | Ipc::Shareable | Ipc::None => Space::Own,
            Ipc::Host => Space::Host,
            Ipc::Container(other) => {
                let (space, other) = of(other, "the IPC")?;
                if !matches!(other.definition.request.spaces.ipc, Ipc::Shareable) {
                    return Err(Error::Other(format!(
                        "cannot join the IPC of `{}`, which is its own: start that with `--ipc shareable`",
                        other.name
                    )));
                }
                space
            }
        },
        no_shared_memory: asked.ipc == Ipc::None,
        names: if asked.machines_names {
            Names::Host
        } else {
            Names::Own
        },
    })
}

/// A process of a container whose namespaces another one is to be in.
pub(super) fn joined(catalog: &Catalog, name: &str) -> Result<u32> {
    let other = catalog.find(name)?;
    require_alive(&other, "the namespaces")?;
    inside(&other)
}

fn require_alive(other: &Entry, what: &str) -> Result<()> {
    if other.state.status.is_alive() {
        return Ok(());
    }
    Err(Error::Other(format!(
        "cannot join {what} of `{}`: the container is {}",
        other.name,
        other.state.status.name()
    )))
}

/// The network of another container.
fn shared(other: &Entry) -> Result<Network> {
    require_alive(other, "the network")?;
    let private = other.state.private_network;
    Ok(Network::Process {
        pid: inside(other)?,
        private: private.then(|| other.state.place()),
    })
}

/// A process of the container that others may look at. Of one that another runtime made, the process that is waited for
/// is rbuild's own, which shows nobody but root what it is in.
pub(super) fn inside(entry: &Entry) -> Result<u32> {
    if entry.definition.request.runtime.is_none() {
        return Ok(entry.state.pid);
    }
    let connection = entry.must_connect("join the namespaces of")?;
    match connection.request(&Ask::Representative)? {
        (Answer::Representative(pid), _) => Ok(pid),
        _ => Err(Error::Other(format!(
            "cannot join the namespaces of `{}`: it said something else",
            entry.name
        ))),
    }
}

/// Says in what network it will be, and notes it: a private one may still be in the making, `ahead`. Where ports are
/// published, waits for it.
pub(super) async fn begin_network(
    host: &Host,
    life: &Arc<Life>,
    ahead: Option<Ahead>,
) -> Result<Option<Network>> {
    life.note_network(None, Vec::new());
    let request = &life.definition.request;
    if host.privilege() == Privilege::Without {
        if request.network_of.is_none() && request.network != NetworkChoice::None {
            life.note_network(None, without::ports(&life.definition)?);
        }
        return Ok(None);
    }
    let request = life.request();
    if !request.has_private_network() {
        return Ok(None);
    }
    // Nothing else will do for somebody who named a network.
    let is_named = !request.networks.is_empty();
    let (host, life) = (host.clone(), Arc::clone(life));
    let users = life.definition.request.users_on_machine();
    let mut begun = ahead.map_or_else(|| Ahead::begin(&host, users), Ok);
    if let Ok(begun) = &mut begun {
        // Known now, it is given to the network while other things are prepared. What goes wrong is told of when the
        // network is needed.
        let claiming = Arc::clone(&life);
        let claimed = brief(move || Ok::<_, Error>(claiming.memberships())).await?;
        match claimed {
            Ok(memberships) if !memberships.is_empty() => {
                let places: Vec<Place> = memberships.iter().map(|it| it.place).collect();
                begun.tell(&places);
            }
            Err(error) if is_named => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
    if is_named || life.definition.publishes() {
        let network = blocking(move || {
            let private = open_network(private(begun, &host, &life))?;
            if private.place().is_internal && life.definition.publishes() {
                return Err(Error::Usage(
                    "ports cannot be published of a container that is in internal networks only: nothing leads there"
                        .to_owned(),
                ));
            }
            let open = ports::open(&life.definition, &private)?;
            life.note_network(Some(&private), open);
            Ok::<_, Error>(Network::Private(private))
        });
        return Ok(Some(network.await?));
    }
    let later = Later::new(move || match private(begun, &host, &life) {
        Ok(private) => {
            life.note_network(Some(&private), Vec::new());
            Network::Private(private)
        }
        Err(error) => {
            // Builds say this to everybody; a program's own output is not to be mixed with it.
            tracing::info!(%error, cause = %error.source, "this is the host's network");
            Network::Host
        }
    });
    Ok(Some(Network::Later(later)))
}

type Made = std::result::Result<Arc<Private>, network::Error>;

/// A private network for ports to be opened in.
fn open_network(private: Made) -> Result<Arc<Private>> {
    private.map_err(|error| Error::Io {
        message: format!(
            "ports are published from private networks, and networks have names only where they are private; there can be \
             none here: {error}; with `--network host` the container's ports are the host's"
        ),
        source: error.source,
    })
}

/// A private network beside those of the store's other containers. Blocking.
fn private(begun: std::result::Result<Ahead, network::Error>, host: &Host, life: &Life) -> Made {
    let begun = begun?;
    let alone = "the container and others cannot reach each other";
    let private = match life.memberships() {
        Ok(memberships) if !memberships.is_empty() => begun.finish_beside(host, memberships),
        Ok(_) => {
            tracing::warn!("all addresses are in use: {alone}");
            begun.finish(host)
        }
        Err(error) => {
            tracing::warn!(%error, "no address can be claimed: {alone}");
            begun.finish(host)
        }
    };
    Ok(Arc::new(private?))
}

fn source(
    catalog: &Catalog,
    definition: &Definition,
    mount: &MountPoint,
    bare: bool,
) -> Result<MountSource> {
    match &mount.kind {
        MountKind::Bind(path) => match Propagation::by_name(&mount.propagation) {
            None => directory(path, &mount.target),
            Some(propagation) => Ok(MountSource::Propagated {
                path: found(path, &mount.target)?,
                propagation,
            }),
        },
        MountKind::Volume { name, .. } => {
            if let Some(backing) = catalog.volume(name)?.and_then(|volume| volume.backing) {
                return backed(catalog, definition, mount, (name, backing), bare);
            }
            let data = catalog.volume_path(name)?;
            let root = RootDir::open_ambient(&data).map_err(|source| Error::Io {
                message: format!("cannot mount the volume `{name}` at `{}`", mount.target),
                source,
            })?;
            Ok(MountSource::Directory {
                root: Arc::new(root),
                path: PathBuf::from(mount.subpath.as_deref().unwrap_or(".")),
                volume: Some(data),
            })
        }
        MountKind::Tmpfs(tmpfs) => Ok(MountSource::Tmpfs(tmpfs.clone())),
        MountKind::Image { snapshot, .. } => Ok(MountSource::Snapshot {
            snapshot: snapshot.as_deref().and_then(SnapshotId::parse),
            path: Path::new("/").join(mount.subpath.as_deref().unwrap_or_default()),
        }),
    }
}

/// A volume that is no directory of the store.
fn backed(
    catalog: &Catalog,
    definition: &Definition,
    mount: &MountPoint,
    (name, backing): (&str, Backing),
    bare: bool,
) -> Result<MountSource> {
    let cannot = |why: &str| {
        Err(Error::Other(format!(
            "cannot mount the volume `{name}` at `{}`: {why}",
            mount.target
        )))
    };
    if bare {
        return cannot("without namespaces, only volumes without options can be had");
    }
    if mount.subpath.is_some() {
        return cannot("paths within it can be had of volumes without options only");
    }
    match backing {
        Backing::Directory(path) => directory(&path, &mount.target),
        Backing::Memory(tmpfs) => {
            for user in catalog.users_of_volume(name)? {
                let other = catalog.find(&user)?;
                if other.id() != definition.id && other.state.status.is_alive() {
                    return cannot(&format!(
                        "it is in memory, and `{user}` runs with it: it is one container's at a time"
                    ));
                }
            }
            Ok(MountSource::Tmpfs(tmpfs))
        }
    }
}

/// A directory or file of the host, by its parent's descriptor.
fn directory(path: &Path, target: &str) -> Result<MountSource> {
    let path = found(path, target)?;
    let (parent, name) = match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => (parent, PathBuf::from(name)),
        _ => (Path::new("/"), PathBuf::from(".")),
    };
    let root = RootDir::open_ambient(parent);
    Ok(MountSource::Directory {
        root: Arc::new(root.map_err(|source| cannot_mount(&path, target, source))?),
        path: name,
        volume: None,
    })
}

/// The user's own path: links in it are the user's.
fn found(path: &Path, target: &str) -> Result<PathBuf> {
    let path_found = path.canonicalize();
    path_found.map_err(|source| cannot_mount(path, target, source))
}

fn cannot_mount(path: &Path, target: &str, source: std::io::Error) -> Error {
    Error::Io {
        message: format!("cannot mount `{}` at `{target}`", path.display()),
        source,
    }
}
