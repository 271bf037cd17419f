//! Exit codes: the table in the command line's contract, as an enum. Nothing else decides one.

use rbuild_engine::executor;

/// How the process ends.
///
/// | code | meaning |
/// |---|---|
/// | 0 | success |
/// | 1 | the build or the command failed |
/// | 2 | usage |
/// | 125 | `run`, `exec`: rbuild itself failed, or could not understand its arguments |
/// | 126 | `run`: the command cannot be executed |
/// | 127 | `run`: the command was not found |
/// | 130 | interrupted |
/// | other | `run`: the command's own; 128+N when signal N ended it |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Success,
    Failed,
    Usage,
    Interrupted,
    /// Of a container's command, or 125 to 127.
    Command(u8),
}

impl Exit {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Interrupted => 130,
            Self::Command(code) => code,
        }
    }

    /// What another process ended with.
    pub(crate) fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Success,
            code => Self::Command(code),
        }
    }

    /// Returns what `run` exits with for a command that ended like this.
    pub(crate) fn of_command(exit: executor::Exit) -> Self {
        match exit {
            executor::Exit::Code(0) => Self::Success,
            executor::Exit::Code(code) => Self::Command(code),
            executor::Exit::Signal(signal) => {
                Self::Command(u8::try_from(128 + signal).unwrap_or(u8::MAX))
            }
            // The kernel's OOM killer and our own time limit both end with SIGKILL.
            executor::Exit::OutOfMemory | executor::Exit::TimedOut => Self::Command(137),
        }
    }
}
