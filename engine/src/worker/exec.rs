//! RUN: from an operation to what the sandbox is given, and from how it ended to what is said about it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rbuild_executor::Executor;
use rbuild_executor::network::{Private, Watch};
use rbuild_executor::sandbox::ExecError;
use rbuild_executor::spec::{
    Exec, Later, Limits, Network, Security, SecurityOptions, Stdio, Users,
};
use rbuild_solver::VertexId;
use tokio_util::sync::CancellationToken;

use super::failure::{Failure, Result};
use super::log::Log;
use super::platform::check_platform;
use super::reach::refused;
use super::{Output, Worker};
use crate::event::{Event, Sink};
use crate::op::{ExecOp, NetworkOp};

/// The name every RUN sees unless another is asked for: constant, so that what it writes does not depend on where it ran.
const HOSTNAME: &str = "rbuild";

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
        let log = Arc::new(Log::new(self, vertex));
        let watch = self.watch(op, Some(&log));
        let network = self.network(&executor, op.network, op.insecure, watch.clone());
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
                for hint in absent {
                    failure = failure.help(hint);
                }
                if let Some(refused) = watch.and_then(|watch| refused(&watch)) {
                    failure = failure.help(refused);
                }
                if let Some(why) = self.why_not_found(&failure, base.as_ref(), &op.cwd) {
                    failure = failure.help(why);
                }
                Err(failure)
            }
        }
    }

    /// A command with all that it is to be given, and hints at what it was not given.
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
            hostname: op.hostname.clone().unwrap_or_else(|| HOSTNAME.to_owned()),
            domainname: String::new(),
            hosts: op.hosts.clone(),
            dns: self.settings.dns.clone(),
            limits: Limits {
                shm_size: op.limits.shm_size,
                ulimits: op.limits.ulimits.clone(),
                ..self.settings.limits.clone()
            },
            read_only_root: false,
            writable_names: false,
            capabilities_add: Vec::new(),
            options: SecurityOptions::default(),
            capabilities_drop: Vec::new(),
            init: false,
            runtime: None,
            annotations: std::collections::BTreeMap::new(),
            timeout: None,
            spaces: rbuild_executor::spec::Spaces::default(),
            followed: self.commands.another_follows(),
            alone: self.is_alone(),
        };
        Ok((exec, mounted.absent))
    }

    /// What runs one command with this build's limits.
    pub(crate) async fn counting(&self) -> Result<Executor> {
        let (executor, limits) = (Arc::clone(&self.executor), self.settings.limits.clone());
        let counting = self.brief(move || executor.counting(&limits));
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
        watch: Option<Arc<Watch>>,
    ) -> Network {
        match network {
            NetworkOp::None => Network::None,
            NetworkOp::Host => Network::Host,
            NetworkOp::Default => {
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
                        Ok(private) => {
                            private.watch(watch);
                            Ok(Network::Private(private))
                        }
                        // It would be held to nothing.
                        Err(error) if watch.is_some() => Err(error),
                        Err(error) => Ok(host_instead(&error, &said, &*events)),
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
}

fn host_instead(
    error: &rbuild_executor::network::Error,
    said: &AtomicBool,
    events: &dyn Sink,
) -> Network {
    // It is said once a build.
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
