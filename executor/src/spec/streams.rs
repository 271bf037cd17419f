//! Where a command's standard streams go.

use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Takes output, from any thread.
pub type Sink = dyn Fn(Output, &[u8]) + Send + Sync;

/// Where the command's standard streams go.
pub enum Stdio {
    /// stdin is empty; output is handed over in pieces as it comes, without limit.
    Capture(Arc<Sink>),
    /// The streams of this process; stdin only where `interactive`.
    Inherit { interactive: bool },
    /// A terminal of its own, joined to that of this process, with its size and signals.
    Terminal { interactive: bool },
    /// Handed to whoever carries them.
    Carried(Carried),
}

/// Streams that the caller carries itself.
#[derive(Default)]
pub struct Carried {
    /// A terminal of the command's own, with so many rows and columns.
    pub terminal: Option<(u16, u16)>,
    /// Of commands without a terminal.
    pub stdin: Stdin,
    /// Called once, with our ends.
    pub carry: Option<Box<dyn FnOnce(Ends) + Send>>,
    /// Called once, when the command runs.
    pub running: Option<Box<dyn FnOnce() + Send>>,
}

/// Where standard input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stdin {
    #[default]
    Null,
    /// This process's.
    Inherit,
    /// A pipe, whose other end is handed over.
    Pipe,
}

/// Our ends of a command's streams.
#[derive(Debug)]
pub enum Ends {
    Pipes {
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    /// The master of its terminal.
    Terminal(OwnedFd),
}

impl std::fmt::Debug for Stdio {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Capture(_) => "Capture",
            Self::Inherit { .. } => "Inherit",
            Self::Terminal { .. } => "Terminal",
            Self::Carried(_) => "Carried",
        })
    }
}

/// Which stream a piece of output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Stdout,
    Stderr,
}
