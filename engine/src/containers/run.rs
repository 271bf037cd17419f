//! `rbuild run` in the foreground: an image's config and a request become a command for the executor. What it
//! writes goes to a layer that is thrown away.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbuild_cache::tree::Kind;
use rbuild_cache::{RootDir, SnapshotId};
use rbuild_executor::Exit;
use rbuild_executor::network::Private;
use rbuild_executor::spec::{Exec, Mount, MountSource, Network, Security, Stdio};
use rbuild_image::config::ContainerConfig;
use rbuild_image::source::{self, Location, Progress};
use rbuild_image::{Platform, Reference};
use tokio_util::sync::CancellationToken;

use crate::event::{Event, Sink, StepId};
use crate::request::NetworkChoice;
use crate::worker::{blocking, check_platform};
use crate::{Engine, Error, Result, RunRequest, Volume};

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An image ready to run.
struct Root {
    top: Option<SnapshotId>,
    config: ContainerConfig,
    platform: Platform,
}

impl Engine {
    /// Runs a container in the foreground and returns how it ended.
    pub async fn run(
        &self,
        request: RunRequest,
        events: Arc<dyn Sink>,
        cancel: CancellationToken,
    ) -> Result<Exit> {
        let progress = progress(events);
        let root = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Error::Cancelled),
            root = self.root_of(&request, progress) => root?,
        };
        check_platform(&root.platform).map_err(|failure| Error::Other(failure.message))?;
        let argv = arguments(&root.config, &request)?;
        let hostname = match &request.hostname {
            Some(name) => name.clone(),
            None => container_id()?,
        };
        let network = match request.network {
            NetworkChoice::None => Network::None,
            NetworkChoice::Host => Network::Host,
            NetworkChoice::Default => match blocking(Private::start).await {
                Ok(private) => Network::Private(Arc::new(private)),
                Err(error) => {
                    // Builds say this to everybody; a program's own output is not to be mixed with it.
                    tracing::info!(%error, cause = %error.source, "this is the host's network");
                    Network::Host
                }
            },
        };
        let (mounts, request) = {
            let (store, top) = (Arc::clone(self.store()), root.top.clone());
            let declared = root.config.volumes.clone().unwrap_or_default();
            let prepared = blocking(move || {
                let targets = declared.into_keys();
                let mounts = mounts(&store, top.as_ref(), &request, targets)?;
                Ok::<_, Error>((mounts, request))
            });
            prepared.await?
        };
        let env = environment(&root.config, &request, &hostname);
        let working_dir = request.workdir.clone().unwrap_or(root.config.working_dir);
        let exec = Exec {
            argv: argv.into_iter().map(String::into_bytes).collect(),
            env: env.into_iter().map(String::into_bytes).collect(),
            cwd: Path::new("/").join(working_dir),
            user: request.user.unwrap_or(root.config.user),
            groups: request.groups,
            mounts,
            network,
            security: if request.privileged {
                Security::Insecure
            } else {
                Security::Sandbox
            },
            hostname,
            hosts: request.hosts,
            dns: request.dns,
            limits: request.limits,
            read_only_root: request.read_only,
            capabilities_add: request.capabilities_add,
            capabilities_drop: request.capabilities_drop,
            init: request.init,
            timeout: None,
        };
        let interactive = request.interactive;
        let stdio = if request.terminal {
            Stdio::Terminal { interactive }
        } else {
            Stdio::Inherit { interactive }
        };
        let ended = self
            .executor
            .run(root.top.as_ref(), exec, stdio, cancel)
            .await;
        Ok(ended?)
    }

    /// Finds the image, and unpacks what of it is not.
    async fn root_of(&self, request: &RunRequest, progress: Progress) -> Result<Root> {
        let host = Platform::host();
        let platform = request.platform.as_ref().unwrap_or(&host);
        let location = match explicit(&request.image)? {
            Some(location) => location,
            None => match self.find_image(&request.image) {
                Ok(image) if !request.pull => {
                    if request.platform.is_none()
                        && let Some(top) = &image.snapshot
                        && self.store().chain(top).is_ok()
                    {
                        let config = self.config_of(&image)?;
                        return Ok(Root {
                            top: image.snapshot,
                            platform: config.platform(),
                            config: config.config,
                        });
                    }
                    Location::Stored(image.manifest)
                }
                Ok(_) | Err(Error::Image(rbuild_image::Error::NotFound(_))) => {
                    Location::Registry(request.image.parse::<Reference>()?)
                }
                Err(error) => return Err(error),
            },
        };
        let resolved = match &location {
            Location::Registry(reference) => {
                self.pull(reference, Some(platform), Arc::new(|_, _, _| {}))
                    .await?;
                self.resolve(&location, platform, false).await?
            }
            _ => self.resolve(&location, platform, false).await?,
        };
        let layers = source::snapshots(self.store(), &self.client, &resolved, progress).await?;
        Ok(Root {
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

/// `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, `docker-archive:FILE[:TAG]`; `None` for names and IDs.
fn explicit(image: &str) -> Result<Option<Location>> {
    let Some((transport, rest)) = image.split_once(':') else {
        return Ok(None);
    };
    let (path, tag) = split_tag(rest);
    let path = PathBuf::from(path);
    let location = match transport {
        "oci" => Location::OciLayout {
            path,
            tag,
            digest: None,
        },
        "oci-archive" => Location::OciArchive { path, tag },
        "docker-archive" => Location::DockerArchive { path, tag },
        _ => return Ok(None),
    };
    if rest.is_empty() {
        return Err(Error::Usage(format!("`{image}`: a path follows the colon")));
    }
    Ok(Some(location))
}

/// Splits `PATH[:TAG]`. Both may have colons: the longest beginning that is there is the path.
fn split_tag(text: &str) -> (&str, Option<String>) {
    let exists = |path: &str| Path::new(path).exists();
    if exists(text) {
        return (text, None);
    }
    let colons = text.match_indices(':').map(|(at, _)| text.split_at(at));
    let mut splits: Vec<(&str, &str)> = colons.collect();
    splits.reverse();
    let found = splits.iter().find(|(path, _)| exists(path));
    // Of a path that is not there, the error is to name what was most likely meant.
    let likely = splits.first().filter(|(_, tag)| !tag.contains('/'));
    match found.or(likely) {
        Some((path, tag)) => (path, tag.strip_prefix(':').map(str::to_owned)),
        None => (text, None),
    }
}

/// ENTRYPOINT and CMD, and what replaces them: a given entrypoint also takes the image's CMD away.
fn arguments(config: &ContainerConfig, request: &RunRequest) -> Result<Vec<String>> {
    let mut command = request.command.clone();
    let mut argv = match request.entrypoint.as_deref() {
        Some("") => Vec::new(),
        Some(program) => vec![program.to_owned()],
        None => {
            if command.is_empty() {
                command = config.cmd.clone().unwrap_or_default();
            }
            config.entrypoint.clone().unwrap_or_default()
        }
    };
    argv.append(&mut command);
    if argv.is_empty() {
        return Err(Error::Other(format!(
            "`{}` has no command, and none was given: add one after the image's name",
            request.image
        )));
    }
    Ok(argv)
}

/// The image's variables, replaced and added to by the request's. Entries without `=` are not variables: nothing of
/// the host's environment comes in by its name.
fn environment(config: &ContainerConfig, request: &RunRequest, hostname: &str) -> Vec<String> {
    let mut env: Vec<String> = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if request.terminal {
        env.push("TERM=xterm".to_owned());
    }
    let given = config.env.iter().flatten().chain(&request.env);
    for variable in given {
        let Some((name, _)) = variable.split_once('=') else {
            continue;
        };
        let same = |other: &String| other.split_once('=').is_some_and(|(one, _)| one == name);
        match env.iter_mut().find(|other| same(other)) {
            Some(other) => other.clone_from(variable),
            None => env.push(variable.clone()),
        }
    }
    env
}

/// Volumes and tmpfs asked for, then the image's own volumes where nothing else is mounted.
fn mounts(
    store: &rbuild_cache::Store,
    top: Option<&SnapshotId>,
    request: &RunRequest,
    declared: impl Iterator<Item = String>,
) -> Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    for volume in &request.volumes {
        mounts.push(Mount {
            target: PathBuf::from(&volume.target),
            read_only: volume.read_only,
            source: match &volume.source {
                Some(path) => directory(path, volume)?,
                None => throw_away(store, top, &volume.target)?,
            },
        });
    }
    for (target, size) in &request.tmpfs {
        mounts.push(Mount {
            target: PathBuf::from(target),
            read_only: false,
            source: MountSource::Tmpfs {
                size: *size,
                mode: 0o1777,
            },
        });
    }
    for target in declared {
        let target_path = PathBuf::from(&target);
        if target_path.is_absolute() && !mounts.iter().any(|mount| mount.target == target_path) {
            mounts.push(Mount {
                source: throw_away(store, top, &target)?,
                target: target_path,
                read_only: false,
            });
        }
    }
    Ok(mounts)
}

/// A directory or file of the host, by its parent's descriptor. A missing one is made, as Docker does.
fn directory(path: &Path, volume: &Volume) -> Result<MountSource> {
    let failed = |source| Error::Io {
        message: format!("cannot mount `{}` at `{}`", path.display(), volume.target),
        source,
    };
    if !path.exists() {
        std::fs::create_dir_all(path).map_err(failed)?;
    }
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

/// A volume that ends with its container: it begins with what the image has there.
fn throw_away(
    store: &rbuild_cache::Store,
    top: Option<&SnapshotId>,
    target: &str,
) -> Result<MountSource> {
    let relative = target.trim_matches('/').as_bytes();
    let has_directory = match top {
        Some(top) => store
            .merged_tree(top)?
            .get(relative)
            .is_some_and(|entry| entry.kind == Kind::Directory),
        None => false,
    };
    Ok(if has_directory {
        MountSource::Snapshot {
            snapshot: top.cloned(),
            path: PathBuf::from(target),
        }
    } else {
        MountSource::Snapshot {
            snapshot: None,
            path: PathBuf::from("/"),
        }
    })
}

/// Twelve random hex digits, as Docker names the host of a container.
fn container_id() -> Result<String> {
    let mut bytes = [0_u8; 6];
    let failed = |source: std::io::Error| Error::Io {
        message: "cannot get random bytes for the container's name".to_owned(),
        source,
    };
    let read = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    read.map_err(|errno| failed(errno.into()))?;
    Ok(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(entrypoint: Option<&str>, command: &[&str]) -> RunRequest {
        RunRequest {
            image: "it".to_owned(),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            entrypoint: entrypoint.map(str::to_owned),
            env: vec!["A=mine".to_owned(), "B=2".to_owned()],
            user: None,
            workdir: None,
            hostname: None,
            hosts: Vec::new(),
            dns: Vec::new(),
            volumes: Vec::new(),
            tmpfs: Vec::new(),
            network: NetworkChoice::None,
            limits: rbuild_executor::spec::Limits::default(),
            read_only: false,
            init: false,
            privileged: false,
            capabilities_add: Vec::new(),
            capabilities_drop: Vec::new(),
            groups: Vec::new(),
            interactive: false,
            terminal: false,
            pull: false,
            platform: None,
        }
    }

    fn config(entrypoint: &[&str], cmd: &[&str]) -> ContainerConfig {
        let words = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            (!words.is_empty()).then_some(words)
        };
        ContainerConfig {
            entrypoint: words(entrypoint),
            cmd: words(cmd),
            env: Some(vec![
                "A=image".to_owned(),
                "BROKEN".to_owned(),
                "PATH=/x".to_owned(),
            ]),
            ..ContainerConfig::default()
        }
    }

    #[test]
    fn what_runs_is_entrypoint_and_command() {
        type Words = &'static [&'static str];
        let table: [(Words, Words, Option<&str>, Words, &str); 8] = [
            (&[], &["c"], None, &[], "c"),
            (&["e"], &["c"], None, &[], "e c"),
            (&["e"], &["c"], None, &["x"], "e x"),
            (&[], &["c"], None, &["x", "y"], "x y"),
            (&["e"], &["c"], Some("n"), &[], "n"),
            (&["e"], &["c"], Some("n"), &["x"], "n x"),
            (&["e"], &["c"], Some(""), &["x"], "x"),
            (&["e"], &[], None, &[], "e"),
        ];
        for (entrypoint, cmd, given, command, expected) in table {
            let argv = arguments(&config(entrypoint, cmd), &request(given, command));
            assert_eq!(argv.expect("a command").join(" "), expected);
        }
        assert!(arguments(&config(&["e"], &["c"]), &request(Some(""), &[])).is_err());
        assert!(arguments(&config(&[], &[]), &request(None, &[])).is_err());
    }

    #[test]
    fn variables_are_replaced_by_name_and_need_a_value() {
        let env = environment(&config(&[], &[]), &request(None, &[]), "h");
        assert_eq!(env, ["PATH=/x", "HOSTNAME=h", "A=mine", "B=2"]);
    }

    #[test]
    fn images_outside_of_the_store_say_where_they_are() {
        let found = |text: &str| explicit(text).expect("a location");
        assert_eq!(found("busybox:latest"), None);
        assert_eq!(found("localhost:5000/x"), None);
        assert_eq!(
            found("oci:/no/such/dir:v1"),
            Some(Location::OciLayout {
                path: "/no/such/dir".into(),
                tag: Some("v1".to_owned()),
                digest: None
            })
        );
        assert_eq!(
            found("docker-archive:/no/such.tar"),
            Some(Location::DockerArchive {
                path: "/no/such.tar".into(),
                tag: None
            })
        );
        assert!(explicit("oci:").is_err());
    }
}
