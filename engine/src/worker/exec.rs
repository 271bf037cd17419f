//! RUN: from an operation to what the sandbox is given, and from how it ended to what is said about it.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rbuild_cache::mounts::{CacheMount, Sharing};
use rbuild_cache::tree::{Entry, Tree, is_at_or_below};
use rbuild_cache::{Key, KeyWriter, Snapshot};
use rbuild_executor::Executor;
use rbuild_executor::network::Private;
use rbuild_executor::sandbox::ExecError;
use rbuild_executor::spec::{
    Dns, Exec, Later, Mount, MountSource, Network, Output as Stream, Security, SecurityOptions,
    Stdio, Tmpfs, Users,
};
use rbuild_image::Platform;
use rbuild_solver::VertexId;
use tokio_util::sync::CancellationToken;

use super::failure::{Failure, Result};
use super::log::{Mask, Tail};
use super::{Output, View, Worker, blocking, brief, content, now};
use crate::event::{Event, Sink, StepId};
use crate::op::{ExecOp, MountOp, MountOpKind, NetworkOp, SharingOp};
use crate::request::NetworkChoice;

/// The name every RUN sees: constant, so that what it writes does not depend on where it ran.
const HOSTNAME: &str = "rbuild";

/// What mounts add to the command's variables and mounts.
#[derive(Default)]
struct Mounted {
    mounts: Vec<Mount>,
    env: Vec<Vec<u8>>,
    /// Secrets that the command can do without, and that nobody gave.
    absent: Vec<String>,
}

impl Worker {
    pub(super) async fn exec(
        &self,
        vertex: VertexId,
        op: &ExecOp,
        inputs: Vec<Output>,
        cancel: CancellationToken,
    ) -> Result<Output> {
        check_platform(&op.platform)?;
        // Made while everything else is prepared.
        let executor = self.counting().await?;
        let network = self.network(&executor, op.network, op.insecure);
        let base = if op.base {
            inputs.first().and_then(Output::snapshot).cloned()
        } else {
            None
        };
        let (exec, absent) = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Failure::cancelled()),
            given = self.given(vertex, op, &inputs, network) => given?,
        };
        let log = Arc::new(Log::new(self, vertex));
        let heard = Arc::clone(&log);
        let stdio = Stdio::Capture(Arc::new(move |stream, bytes| heard.write(stream, bytes)));
        let running = executor.exec_or_leave(base.as_ref(), exec, stdio, cancel);
        let result = running.await;
        let output = log.finish();
        match result {
            Ok(snapshot) => Ok(Output::Snapshot(Some(snapshot))),
            Err((error, layer)) => {
                if !matches!(error, ExecError::Cancelled) {
                    self.leave(vertex, &inputs, layer);
                }
                let mut failure = failed(error, output, &op.argv);
                for id in absent {
                    failure = failure.help(format!(
                        "the secret `{id}` was not given; give it with `--secret id={id},src=FILE`"
                    ));
                }
                if let Some(why) = self.why_not_found(&failure, base.as_ref(), &op.cwd) {
                    failure = failure.help(why);
                }
                Err(failure)
            }
        }
    }

    /// A command with all that it is to be given, and which secrets that it can do without nobody gave.
    pub(crate) async fn given(
        &self,
        vertex: VertexId,
        op: &ExecOp,
        inputs: &[Output],
        network: Network,
    ) -> Result<(Exec, Vec<String>)> {
        let mut mounted = self.mounts(vertex, op, inputs).await?;
        let mut env: Vec<Vec<u8>> = Vec::new();
        let unkeyed = op.env_unkeyed.iter().map(String::as_str);
        for variable in op.env.iter().chain(unkeyed) {
            env.push(variable.as_bytes().to_vec());
        }
        env.append(&mut mounted.env);
        let exec = Exec {
            argv: op
                .argv
                .iter()
                .map(|word| word.clone().into_bytes())
                .collect(),
            env,
            cwd: PathBuf::from(&op.cwd),
            user: op.user.clone(),
            groups: Vec::new(),
            mounts: std::mem::take(&mut mounted.mounts),
            network,
            security: if op.insecure {
                Security::Insecure
            } else {
                Security::Sandbox
            },
            users: self.settings.users,
            hostname: HOSTNAME.to_owned(),
            domainname: String::new(),
            hosts: op.hosts.clone(),
            dns: Dns::default(),
            limits: self.settings.limits.clone(),
            read_only_root: false,
            writable_names: false,
            capabilities_add: Vec::new(),
            options: SecurityOptions::default(),
            capabilities_drop: Vec::new(),
            init: false,
            runtime: None,
            timeout: None,
            spaces: rbuild_executor::spec::Spaces::default(),
            followed: self.commands.another_follows(),
        };
        Ok((exec, mounted.absent))
    }

    /// What runs one command with this build's limits.
    pub(crate) async fn counting(&self) -> Result<Executor> {
        let (executor, limits) = (Arc::clone(&self.executor), self.settings.limits.clone());
        let counting = brief(move || executor.counting(&limits));
        counting
            .await
            .map_err(|error| failed(error, Vec::new(), &[]))
    }

    /// `executor` is what runs the command.
    pub(crate) fn network(
        &self,
        executor: &Executor,
        network: NetworkOp,
        insecure: bool,
    ) -> Network {
        match (network, self.settings.network) {
            (NetworkOp::None, _) | (NetworkOp::Default, NetworkChoice::None) => Network::None,
            (NetworkOp::Host, _) | (NetworkOp::Default, NetworkChoice::Host) => Network::Host,
            (NetworkOp::Default, NetworkChoice::Default) => {
                if !self.executor.has_namespaces() {
                    return self.containers_network();
                }
                let users = self.settings.users;
                let (networks, host) = (Arc::clone(&self.networks), executor.host().clone());
                let (said, events) = (Arc::clone(&self.said_network), Arc::clone(&self.events));
                let (made, later) = Later::channel();
                let counting = executor.is_counting();
                tokio::task::spawn_blocking(move || {
                    let private = if counting {
                        // It belongs to the command's user namespace.
                        Private::start(&host, users).map(Arc::new)
                    } else if insecure {
                        // It may leave its network in any state, which is not to be the next one's.
                        Private::start(&host, Users::Host).map(Arc::new)
                    } else {
                        networks.take(&host, users)
                    };
                    let network = match private {
                        Ok(private) => Network::Private(private),
                        Err(error) => host_instead(&error, &said, &*events),
                    };
                    // The step may have failed meanwhile.
                    let _ = made.send(network);
                });
                Network::Later(later)
            }
        }
    }

    /// Where there are no namespaces, that is the only one. Commands that cannot be run need not be told about it.
    fn containers_network(&self) -> Network {
        if self.executor.commands().is_ok() && !self.said_network.swap(true, Ordering::Relaxed) {
            self.events.event(Event::Warning {
                located: None,
                message:
                    "RUN steps use the network of this container, because there are no namespaces; \
                          `--network host` agrees, `--network none` gives them none"
                        .to_owned(),
            });
        }
        Network::Host
    }

    async fn mounts(&self, vertex: VertexId, op: &ExecOp, inputs: &[Output]) -> Result<Mounted> {
        let mut mounted = Mounted::default();
        let mut caches = self.cache_mounts(self.step(vertex), op).await?;
        for (place, mount) in op.mounts.iter().enumerate() {
            let cache = caches.iter().position(|(of, _)| *of == place);
            let cache = cache.map(|at| caches.swap_remove(at).1);
            self.mount(mount, inputs, cache, &mut mounted).await?;
        }
        Ok(mounted)
    }

    async fn mount(
        &self,
        mount: &MountOp,
        inputs: &[Output],
        cache: Option<CacheMount>,
        mounted: &mut Mounted,
    ) -> Result<()> {
        let source = match &mount.kind {
            MountOpKind::Bind { input, source } => {
                let (snapshot, path) = self.part(*input, source, inputs).await?;
                MountSource::Snapshot {
                    snapshot: snapshot.map(|snapshot| snapshot.id),
                    path,
                }
            }
            MountOpKind::Cache {
                input,
                source,
                access,
                ..
            } => {
                let Some(cache) = cache else {
                    return Err(Failure::new("internal", "a cache mount was not taken"));
                };
                let (from, path) = match input {
                    Some(_) => {
                        let (snapshot, path) = self.part(*input, source, inputs).await?;
                        let from = (snapshot.map(|snapshot| snapshot.id), path);
                        (Some(from), PathBuf::from("/"))
                    }
                    None => (
                        None,
                        PathBuf::from("/").join(source.trim_start_matches('/')),
                    ),
                };
                MountSource::Cache {
                    mount: cache,
                    from,
                    path,
                    mode: access.mode,
                    uid: access.uid,
                    gid: access.gid,
                    throw_away: false,
                }
            }
            MountOpKind::Tmpfs { size } => MountSource::Tmpfs(Tmpfs {
                size: *size,
                mode: None,
                uid: None,
                gid: None,
                inodes: None,
                no_exec: false,
            }),
            MountOpKind::Secret {
                id,
                env,
                required,
                access,
            } => {
                let data = self.settings.secrets.get(id);
                if data.is_none() && *required {
                    return Err(Failure::new(
                        "missing-secret",
                        format!("the secret `{id}` was not given"),
                    )
                    .help(format!("give it with `--secret id={id},src=FILE`")));
                }
                if data.is_none() {
                    mounted.absent.push(id.clone());
                }
                if let Some(name) = env {
                    let mut variable = format!("{name}=").into_bytes();
                    variable.extend_from_slice(data.map_or(&[][..], |data| data));
                    mounted.env.push(variable);
                }
                match data {
                    Some(data) if !mount.target.is_empty() => MountSource::Secret {
                        data: Arc::clone(data),
                        mode: access.mode,
                        uid: access.uid,
                        gid: access.gid,
                    },
                    _ => return Ok(()),
                }
            }
            MountOpKind::Ssh {
                id,
                required,
                access,
            } => match self.settings.ssh.get(id) {
                Some(path) => MountSource::Socket {
                    path: path.clone(),
                    mode: access.mode,
                    uid: access.uid,
                    gid: access.gid,
                },
                None if *required => {
                    return Err(Failure::new(
                        "missing-ssh",
                        format!("the ssh agent `{id}` was not given"),
                    )
                    .help(format!("give it with `--ssh {id}=SOCKET`")));
                }
                None => return Ok(()),
            },
        };
        mounted.mounts.push(Mount {
            target: PathBuf::from(&mount.target),
            read_only: mount.read_only,
            source,
        });
        Ok(())
    }

    /// The snapshot that holds `source` of an input, and the path in it.
    async fn part(
        &self,
        input: Option<usize>,
        source: &str,
        inputs: &[Output],
    ) -> Result<(Option<Snapshot>, PathBuf)> {
        let at_root = PathBuf::from("/").join(source.trim_start_matches('/'));
        let Some(input) = input.and_then(|input| inputs.get(input)) else {
            return Ok((None, at_root));
        };
        match input {
            Output::Snapshot(snapshot) => Ok((snapshot.clone(), at_root)),
            Output::There(there) => Ok((there.known_snapshot().cloned(), at_root)),
            Output::Context(view) => self.materialise(view, source, input).await,
        }
    }

    /// Copies what a mount shows of a context into a snapshot: commands write where they can, and a context is
    /// never written to.
    async fn materialise(
        &self,
        view: &Arc<View>,
        source: &str,
        input: &Output,
    ) -> Result<(Option<Snapshot>, PathBuf)> {
        let selection = content::mount_selection(&view.tree, source, input)?;
        let top = selection.sources.first().map(|source| source.path.clone());
        let Some(top) = top else {
            return Ok((None, PathBuf::from("/")));
        };
        let path = PathBuf::from("/").join(rbuild_cache::root_dir::path_of(&top));
        let key = materialised_key(view, &top);
        let lock = |worker: &Self| {
            let memory = worker.materialised.lock();
            memory
                .unwrap_or_else(PoisonError::into_inner)
                .get(&key)
                .cloned()
        };
        if let Some(known) = lock(self) {
            return Ok((Some(known), path));
        }
        let part = part_of(&view.tree, &top);
        let (executor, view) = (Arc::clone(&self.executor), Arc::clone(view));
        let snapshot = blocking(move || {
            let input = view.context.input(Arc::new(part));
            executor.materialise(&input, now())
        })
        .await
        .map_err(|error| Failure::of("build-context", error))?;
        self.materialised
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key, snapshot.clone());
        Ok((Some(snapshot), path))
    }

    /// Takes the cache mounts of a command, by their places. Always in the order of their ids: two commands that
    /// want the same two would else wait for each other for ever.
    async fn cache_mounts(
        &self,
        step: Option<StepId>,
        op: &ExecOp,
    ) -> Result<Vec<(usize, CacheMount)>> {
        let mut wanted: Vec<(&str, Sharing, usize)> = Vec::new();
        for (place, mount) in op.mounts.iter().enumerate() {
            if let MountOpKind::Cache { id, sharing, .. } = &mount.kind {
                let sharing = match sharing {
                    // A cache is in one place at a time.
                    _ if !self.executor.has_namespaces() => Sharing::Locked,
                    SharingOp::Shared => Sharing::Shared,
                    SharingOp::Private => Sharing::Private,
                    SharingOp::Locked => Sharing::Locked,
                };
                wanted.push((id, sharing, place));
            }
        }
        wanted.sort_by_key(|(id, _, place)| (*id, *place));
        let mut seen = HashSet::new();
        let mut taken = Vec::new();
        for (id, sharing, place) in wanted {
            let first = seen.insert(id);
            if !first && sharing == Sharing::Locked {
                return Err(Failure::new(
                    "cache-mount-twice",
                    format!(
                        "this RUN mounts the locked cache `{id}` twice, and would wait for itself"
                    ),
                ));
            }
            if first && op.reset_cache_mounts {
                // Once a build: what its own steps put in is not of earlier ones. Held while it is emptied, so
                // that no other step gets what is about to go.
                let mut emptied = self.emptied.lock().unwrap_or_else(PoisonError::into_inner);
                if emptied.insert(id.to_owned()) {
                    self.store().reset_cache_mount(id)?;
                }
            }
            if first
                && !op.reset_cache_mounts
                && let Some(imports) = &self.imports
            {
                imports.fill_mount(id, &self.progress(step)).await;
            }
            let mut pause = Duration::from_millis(1);
            let mount = loop {
                if let Some(mount) = self.store().try_cache_mount(id, sharing)? {
                    break mount;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(50));
            };
            taken.push((place, mount));
        }
        Ok(taken)
    }
}

/// The same part of the same view.
fn materialised_key(view: &Arc<View>, top: &[u8]) -> Key {
    KeyWriter::new("materialised.v1")
        .field("view", (Arc::as_ptr(view) as usize).to_le_bytes())
        .field("path", top)
        .finish()
}

/// The entries at and below `top`, and the directories that lead there.
fn part_of(tree: &Tree, top: &[u8]) -> Tree {
    let leads_there =
        |entry: &&Entry| is_at_or_below(&entry.path, top) || is_at_or_below(top, &entry.path);
    Tree {
        entries: tree.entries.iter().filter(leads_there).cloned().collect(),
    }
}

/// A command's output on its way to the events, and its end for the error message.
struct Log {
    events: Arc<dyn Sink>,
    step: Option<StepId>,
    state: Mutex<(Mask, Mask, Tail)>,
}

impl Log {
    fn new(worker: &Worker, vertex: VertexId) -> Self {
        let mask = || Mask::new(Arc::clone(&worker.masked));
        Self {
            events: Arc::clone(&worker.events),
            step: worker.step(vertex),
            state: Mutex::new((mask(), mask(), Tail::default())),
        }
    }

    fn write(&self, stream: Stream, bytes: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (stdout, stderr, tail) = &mut *state;
        let shown = match stream {
            Stream::Stdout => stdout.push(bytes),
            Stream::Stderr => stderr.push(bytes),
        };
        tail.push(&shown);
        self.show(stream, shown);
    }

    fn show(&self, stream: Stream, bytes: Vec<u8>) {
        if let Some(step) = self.step
            && !bytes.is_empty()
        {
            self.events.event(Event::Log {
                step,
                stderr: stream == Stream::Stderr,
                bytes,
            });
        }
    }

    /// Shows what was kept back; returns the end of the output.
    fn finish(&self) -> Vec<u8> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (stdout, stderr, tail) = &mut *state;
        for (stream, mask) in [(Stream::Stdout, stdout), (Stream::Stderr, stderr)] {
            let rest = mask.finish();
            tail.push(&rest);
            self.show(stream, rest);
        }
        std::mem::take(tail).into_bytes()
    }
}

fn host_instead(
    error: &rbuild_executor::network::Error,
    said: &AtomicBool,
    events: &dyn Sink,
) -> Network {
    // Once a build.
    if !said.swap(true, Ordering::Relaxed) {
        events.event(Event::Warning {
            located: None,
            message: format!(
                "RUN steps use the host's network, because a private one is not possible here: {error}: {}; \
                 `--network host` agrees, `--network none` gives them none",
                error.source
            ),
        });
    }
    Network::Host
}

/// Of [`ExecError::DeviceRefused`].
const NO_DEVICE: &str = "builds by ordinary users make null, zero, full, random, urandom, tty, console and ptmx anywhere, and any \
    device in /dev and tmpfs mounts, which are in no layer: leave it out, or build as root";

fn failed(error: ExecError, output: Vec<u8>, argv: &[String]) -> Failure {
    let failure = match error {
        ExecError::Failed(exit) => Failure {
            exit: Some(exit),
            ..Failure::new("run-failed", format!("RUN {}", ExecError::Failed(exit)))
        },
        ExecError::StorageFull(exit) => Failure {
            exit: Some(exit),
            ..Failure::new(
                "storage-full",
                format!("RUN {}", ExecError::StorageFull(exit)),
            )
        }
        .help("make room on it, for instance with `rbuild prune`, or move the store with `--root`"),
        ExecError::DeviceRefused { exit, .. } => Failure {
            exit: Some(exit),
            ..Failure::new("run-failed", format!("RUN {error}"))
        }
        .help(NO_DEVICE),
        ExecError::NotExecutable {
            ref program,
            not_found: true,
            ..
        } if is_shell(program, argv) => {
            let help = format!(
                "the shell form runs in `{program}`, which is not in the image: install it, choose another with SHELL, or write the command as an array: `RUN [\"program\", \"argument\"]`"
            );
            Failure::of("run-failed", error).help(help)
        }
        ExecError::User(_) => Failure::of("run-failed", error).help(
            "USER names it: create it in a step before, or write a number, which needs no entry",
        ),
        error => Failure::of("run-failed", error),
    };
    Failure { output, ..failure }
}

/// Whether a program that is not there is the shell of `RUN command`.
fn is_shell(program: &str, argv: &[String]) -> bool {
    let is_option = |word: &String| word.starts_with('-');
    argv.first().is_some_and(|first| first == program)
        && argv.len() > 2
        && argv.get(argv.len() - 2).is_some_and(is_option)
}

/// Refuses a platform that this machine cannot execute, neither itself nor through a registered interpreter.
pub(crate) fn check_platform(platform: &Platform) -> Result<()> {
    let host = Platform::host();
    if host.rank(platform).is_some() || has_interpreter(&platform.architecture) {
        return Ok(());
    }
    Err(Failure::new(
        "foreign-platform",
        format!("RUN for {platform} cannot be executed on this machine, which is {host}"),
    )
    .help("register QEMU in /proc/sys/fs/binfmt_misc, or do the work in a stage `FROM --platform=$BUILDPLATFORM`"))
}

/// Whether binfmt_misc has an interpreter for an architecture (Go's name), as `qemu-ARCH` entries say.
fn has_interpreter(architecture: &str) -> bool {
    let name = match architecture {
        "amd64" => "x86_64",
        "386" => "i386",
        "arm64" => "aarch64",
        "ppc64le" => "ppc64le",
        "riscv64" => "riscv64",
        "s390x" => "s390x",
        "arm" => "arm",
        "mips64le" => "mips64el",
        "loong64" => "loongarch64",
        _ => return false,
    };
    let entry = format!("/proc/sys/fs/binfmt_misc/qemu-{name}");
    std::fs::read_to_string(entry).is_ok_and(|text| text.starts_with("enabled"))
}
