//! Running a command: the plan, the conversation with the spawner, waiting, output, the end.

use tokio_util::sync::CancellationToken;

use crate::Executor;
use crate::spec::{Exec, Exit, Stdio};
use rbuild_cache::{Snapshot, SnapshotId};

/// Why a command could not be run, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The sandbox could not be set up: at which step, and why.
    #[error("cannot set up the sandbox: {step}")]
    Setup {
        step: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The user, or a group, is not in the root's passwd or group.
    #[error("{0}")]
    User(String),
    /// exec failed: not found, not executable, wrong machine, missing interpreter; `explanation` says which.
    #[error("cannot execute `{program}`: {explanation}")]
    NotExecutable {
        program: String,
        explanation: String,
        not_found: bool,
    },
    /// The command ended with something else than success.
    #[error("{}", describe_exit(*.0))]
    Failed(Exit),
    #[error("cancelled")]
    Cancelled,
    #[error(transparent)]
    Store(#[from] rbuild_cache::store::Error),
}

fn describe_exit(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exited with code {code}"),
        Exit::Signal(signal) => format!("was killed by signal {signal}"),
        Exit::OutOfMemory => "was killed because its memory limit was reached".to_owned(),
        Exit::TimedOut => "took longer than its time limit".to_owned(),
    }
}

impl Executor {
    /// Runs a step: on success what it wrote becomes a snapshot on top of `base`. On failure nothing is kept.
    pub async fn exec(
        &self,
        _base: Option<&SnapshotId>,
        _exec: Exec,
        _stdio: Stdio,
        _cancel: CancellationToken,
    ) -> Result<Snapshot, ExecError> {
        todo!()
    }

    /// Runs a container in the foreground on a writable top that is thrown away, and returns how it ended. Signals
    /// that reach this process are forwarded. `Failed` is not returned.
    pub async fn run(
        &self,
        _base: Option<&SnapshotId>,
        _exec: Exec,
        _stdio: Stdio,
        _cancel: CancellationToken,
    ) -> Result<Exit, ExecError> {
        todo!()
    }
}
