//! From what is asked and an image to a container that is there: its definition, its directory, its name.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use rbuild_cache::SnapshotId;
use rbuild_executor::spec::Below;
use rbuild_image::config::ContainerConfig;
use rbuild_image::source::{self, Location, Progress, Resolved, written};
use rbuild_image::{Platform, Reference};
use tokio_util::sync::CancellationToken;

use super::catalog::{Catalog, Entry};
use super::definition::{self, Definition, MountKind, MountPoint};
use super::request::{Pull, RunRequest, VolumeSource};
use super::volumes::{self, NewVolume};
use super::{names, program, time, without};
use crate::event::{Event, Sink, StepId};
use crate::request::NetworkChoice;
use crate::worker::{brief, check_platform};
use crate::{Engine, Error, Result};

/// An image ready to run.
struct Root {
    id: Option<String>,
    top: Option<SnapshotId>,
    config: ContainerConfig,
    platform: Platform,
}

/// A container that was made and is this process's to start.
#[derive(Debug)]
pub struct Created {
    pub entry: Entry,
    pub(super) held: File,
}

/// What the container's process lives through, as far as its directory is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// As long as this process, which is in the foreground.
    Foreground,
    /// Until it ends.
    Background,
}

impl Engine {
    /// Makes a container. It is held by this process.
    pub async fn create(
        &self,
        request: RunRequest,
        lifetime: Lifetime,
        events: Arc<dyn Sink>,
        cancel: &CancellationToken,
    ) -> Result<Created> {
        let progress = progress(Arc::clone(&events));
        let (root, mounted) = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Error::Cancelled),
            roots = self.roots_of(&request, progress) => roots?,
        };
        check_platform(&root.platform).map_err(|failure| Error::Other(failure.message))?;
        let executor = Arc::clone(&self.executor);
        brief(move || {
            let bare = !executor.has_namespaces();
            let mut request = request;
            if bare && request.hostname.is_none() {
                request.hostname = Some(without::hostname());
            }
            let definition = define(executor.store().root(), root, &mounted, request)?;
            if bare {
                without::check(&definition)?;
            }
            if bare && definition.request.has_private_network() {
                events.event(Event::Warning {
                    located: None,
                    message: without::NETWORK.to_owned(),
                });
            }
            for port in definition.ports_not_published() {
                events.event(Event::Warning {
                    located: None,
                    message: format!("{port} is not published: only ports of TCP and UDP can be"),
                });
            }
            publish(&executor, definition, lifetime)
        })
        .await
    }

    /// The container's image, and those that are mounted in it, by what they are called.
    async fn roots_of(
        &self,
        request: &RunRequest,
        progress: Progress,
    ) -> Result<(Root, BTreeMap<String, Root>)> {
        let own = self.root_of(&request.image, request, Arc::clone(&progress));
        let own = own.await?;
        let mut mounted = BTreeMap::new();
        for image in request.mounted_images() {
            let root = self.root_of(image, request, Arc::clone(&progress));
            mounted.insert(image.to_owned(), root.await?);
        }
        Ok((own, mounted))
    }

    /// Finds an image, and unpacks what of it is not.
    async fn root_of(&self, image: &str, request: &RunRequest, progress: Progress) -> Result<Root> {
        let name = image;
        let host = Platform::host();
        let platform = request.platform.as_ref().unwrap_or(&host);
        let location = match written::explicit(name)? {
            Some(location) => location,
            None => match self.find_image(name) {
                Ok(image) if request.pull != Pull::Always => {
                    if request.platform.is_none()
                        && let Some(top) = &image.snapshot
                        && self.store().chain(top).is_ok()
                    {
                        let config = self.config_of(&image)?;
                        return Ok(Root {
                            id: Some(image.config.to_string()),
                            top: image.snapshot,
                            platform: config.platform(),
                            config: config.config,
                        });
                    }
                    Location::Stored(image.manifest)
                }
                Err(Error::NoImage(_)) if request.pull == Pull::Never => {
                    return Err(Error::Other(format!(
                        "the image `{name}` is not in the store, and --pull=never forbids to pull it"
                    )));
                }
                Ok(_) => {
                    let reference = name.parse::<Reference>()?;
                    self.pull(&reference, Some(platform), Arc::new(|_, _, _| {}))
                        .await?;
                    Location::Registry(reference)
                }
                Err(Error::NoImage(_)) => {
                    let reference = name.parse::<Reference>()?;
                    self.pull(&reference, Some(platform), Arc::new(|_, _, _| {}))
                        .await
                        .map_err(|error| error.of_missing(name))?;
                    Location::Registry(reference)
                }
                Err(error) => return Err(error),
            },
        };
        let mut resolved = self.resolve(&location, platform, false).await?;
        let fits = |resolved: &Resolved| {
            let asked = request.platform.as_ref();
            asked.is_none_or(|asked| asked.rank(&resolved.config.platform()).is_some())
        };
        if !fits(&resolved)
            && matches!(location, Location::Stored(_))
            && request.pull != Pull::Never
            && let Ok(reference) = name.parse::<Reference>()
        {
            // The store may hold another platform's image under this name.
            let known = resolved.config.platform();
            self.pull(&reference, Some(platform), Arc::new(|_, _, _| {}))
                .await
                .map_err(|error| Error::NotPulled {
                    message: format!(
                        "the image `{name}` in the store is for {known}, and one for {platform} cannot be pulled"
                    ),
                    source: Box::new(error),
                })?;
            let location = Location::Registry(reference);
            resolved = self.resolve(&location, platform, false).await?;
        }
        if !fits(&resolved) {
            return Err(Error::Other(format!(
                "the image `{name}` is for {}, and --platform asks for {platform}",
                resolved.config.platform()
            )));
        }
        let layers = source::snapshots(self.store(), &self.client, &resolved, progress).await?;
        Ok(Root {
            id: Some(resolved.manifest.config.digest.to_string()),
            top: layers.last().map(|top| top.id.clone()),
            platform: resolved.config.platform(),
            config: resolved.config.config,
        })
    }
}

/// A pull is the only step that a run has.
fn progress(events: Arc<dyn Sink>) -> Progress {
    Arc::new(move |what: &str, done, total| {
        events.event(Event::Progress {
            step: StepId(0),
            what: what.to_owned(),
            done,
            total,
        });
    })
}

fn define(
    store: &Path,
    root: Root,
    mounted: &BTreeMap<String, Root>,
    request: RunRequest,
) -> Result<Definition> {
    let catalog = Catalog::at(store);
    for attachment in &request.networks {
        catalog.check_attachment(attachment)?;
    }
    for (other, _) in &request.links {
        catalog.find(other)?;
    }
    let argv = program::arguments(&root.config, &request)?;
    let id = names::id()?;
    let hostname = match &request.hostname {
        _ if request.spaces.machines_names => without::hostname(),
        Some(name) => name.clone(),
        // Who is in the machine's network is found by the machine's name.
        None if request.network == NetworkChoice::Host => without::hostname(),
        None => id.chars().take(12).collect(),
    };
    let given = request.stop_signal.clone();
    Ok(Definition {
        created: time::now(),
        image_id: root.id,
        snapshot: root.top.map(|top| top.as_str().to_owned()),
        argv,
        env: program::environment(&root.config, &request, &hostname),
        working_dir: program::working_dir(&root.config, &request)?,
        user: request
            .user
            .clone()
            .unwrap_or_else(|| root.config.user.clone()),
        stop_signal: given
            .or_else(|| root.config.stop_signal.clone())
            .unwrap_or_else(|| "SIGTERM".to_owned()),
        mounts: mounts(store, &root.config, mounted, &request)?,
        hostname,
        config: root.config,
        request,
        id,
    })
}

/// Volumes and tmpfs asked for, those of other containers, then the image's own volumes where nothing else is
/// mounted.
fn mounts(
    store: &Path,
    config: &ContainerConfig,
    mounted: &BTreeMap<String, Root>,
    request: &RunRequest,
) -> Result<Vec<MountPoint>> {
    let mut mounts: Vec<MountPoint> = Vec::new();
    let place = |target: &str| target.trim_end_matches('/').to_owned();
    let anonymous = || {
        Ok::<_, Error>(MountKind::Volume {
            name: names::id()?,
            anonymous: true,
        })
    };
    for volume in &request.volumes {
        mounts.push(MountPoint {
            kind: match &volume.source {
                VolumeSource::Host(path) => MountKind::Bind(path.clone()),
                VolumeSource::Named(name) => {
                    volumes::check_name(name)?;
                    MountKind::Volume {
                        name: name.clone(),
                        anonymous: false,
                    }
                }
                VolumeSource::Anonymous => anonymous()?,
                VolumeSource::Image(name) => {
                    let root = mounted.get(name);
                    MountKind::Image {
                        name: name.clone(),
                        id: root.and_then(|root| root.id.clone()),
                        snapshot: root
                            .and_then(|root| root.top.as_ref())
                            .map(|top| top.as_str().to_owned()),
                    }
                }
            },
            target: place(&volume.target),
            read_only: volume.read_only,
            propagation: volume.propagation.clone().unwrap_or_default(),
            no_copy: volume.no_copy,
            subpath: volume.subpath.clone(),
            below: volume.below,
            new: volume.new.clone(),
        });
    }
    for tmpfs in &request.tmpfs {
        mounts.push(MountPoint {
            kind: MountKind::Tmpfs(tmpfs.file_system.clone()),
            target: place(&tmpfs.target),
            read_only: tmpfs.read_only,
            propagation: String::new(),
            no_copy: true,
            subpath: None,
            below: Below::Included,
            new: NewVolume::default(),
        });
    }
    for (container, read_only) in &request.volumes_from {
        let other = Catalog::at(store).find(container)?;
        for mut mount in other.definition.mounts {
            let taken = mounts.iter().any(|known| known.target == mount.target);
            if !taken && !matches!(mount.kind, MountKind::Tmpfs(_)) {
                mount.read_only |= read_only;
                mounts.push(mount);
            }
        }
    }
    for target in config.volumes.iter().flat_map(BTreeMap::keys) {
        let target = place(target);
        if target.starts_with('/') && !mounts.iter().any(|mount| mount.target == target) {
            mounts.push(MountPoint {
                kind: anonymous()?,
                target,
                read_only: false,
                propagation: String::new(),
                no_copy: false,
                subpath: None,
                below: Below::Included,
                new: NewVolume::default(),
            });
        }
    }
    // Whatever lies below another target is mounted after it.
    mounts.sort_by_key(|mount| mount.target.matches('/').count());
    Ok(mounts)
}

/// Gives a container its directory and its name.
fn publish(
    executor: &rbuild_executor::Executor,
    definition: Definition,
    lifetime: Lifetime,
) -> Result<Created> {
    let store = executor.store();
    let catalog = Catalog::at(store.root());
    let id = definition.id.clone();
    if let Some(name) = &definition.request.name {
        names::check(name)?;
    }
    let document =
        serde_json::to_vec(&definition).map_err(|error| Error::Other(error.to_string()))?;
    // Nobody takes its volumes away before it is seen to hold them.
    let lock = volumes::lock(&catalog, &definition)?;
    volumes::make_missing(executor, &definition)?;
    let mut held = None;
    store.publish_container(&id, |directory| {
        held = Some(fill(directory, &document)?);
        Ok(())
    })?;
    drop(lock);
    let Some(held) = held else {
        return Err(Error::Other("the container was not made".to_owned()));
    };
    let name = match name(&catalog, &definition) {
        Ok(name) => name,
        Err(error) => {
            volumes::remove_anonymous(store.root(), &definition)?;
            catalog.files.remove_directory(&id)?;
            return Err(error);
        }
    };
    let snapshots = definition.snapshots();
    if !snapshots.is_empty() {
        match (definition.request.remove, lifetime) {
            (false, _) => store.put_container(&id, &snapshots)?,
            (true, Lifetime::Background) => store.put_passing_container(&id, &snapshots)?,
            // This process's lease spares them.
            (true, Lifetime::Foreground) => {}
        }
    }
    Ok(Created {
        entry: Entry {
            name,
            definition,
            state: super::state::State::default(),
            catalog,
        },
        held,
    })
}

/// What a container's directory begins with.
fn fill(directory: &Path, document: &[u8]) -> rbuild_cache::Result<File> {
    let failed = |action: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source: std::io::Error| rbuild_cache::Error::Io {
            action,
            path,
            source,
        }
    };
    let alive = directory.join("alive");
    let held = File::create_new(&alive).map_err(failed("create", &alive))?;
    rustix::fs::flock(&held, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|errno| failed("lock", &alive)(errno.into()))?;
    for (name, mode) in [("fs", 0o755), ("work", 0o700)] {
        let path = directory.join(name);
        let made = rustix::fs::mkdir(&path, rustix::fs::Mode::RWXU)
            .and_then(|()| rustix::fs::chmod(&path, rustix::fs::Mode::from_raw_mode(mode)));
        made.map_err(|errno| failed("create", &path)(errno.into()))?;
    }
    let path = directory.join(definition::FILE);
    std::fs::write(&path, document).map_err(failed("write", &path))?;
    Ok(held)
}

fn name(catalog: &Catalog, definition: &Definition) -> Result<String> {
    const ATTEMPTS: u32 = 50;
    if let Some(name) = &definition.request.name {
        if catalog.files.name(&definition.id, name)? {
            return Ok(name.clone());
        }
        // A container that was to leave nothing may only look as if it were there.
        catalog.readable()?;
        if catalog.files.name(&definition.id, name)? {
            return Ok(name.clone());
        }
        let other = catalog.files.by_name(name)?.unwrap_or_default();
        return Err(Error::Other(format!(
            "the name `{name}` is in use by the container {}: remove or rename that one first",
            other.get(..12).unwrap_or(&other)
        )));
    }
    for attempt in 0..ATTEMPTS {
        let name = names::random(attempt)?;
        if catalog.files.name(&definition.id, &name)? {
            return Ok(name);
        }
    }
    Err(Error::Other("no free name was found".to_owned()))
}
