//! A command's streams: the two sides of each, and what carries its output.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use crate::sandbox::{kernel_files, outer_terminal};
use crate::spec::{Carried, Ends, Output, Sink, Stdin, Stdio};

/// Of one read from a pipe.
const PIECE: usize = 64 << 10;

/// Our side of the command's streams.
pub(in crate::sandbox) enum Streams {
    Capture {
        stdout: Receiver,
        stderr: Receiver,
        sink: Arc<Sink>,
    },
    Inherit,
    Terminal {
        interactive: bool,
    },
    /// Somebody else carries them.
    Carried(Carried),
}

/// The command's side.
pub(in crate::sandbox) enum Inside {
    Streams([OwnedFd; 3]),
    /// Made in the sandbox, with so many rows and columns.
    Terminal((u16, u16)),
}

impl Streams {
    pub(in crate::sandbox) fn make(stdio: Stdio) -> io::Result<(Self, Inside)> {
        match stdio {
            Stdio::Capture(sink) => {
                let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
                let (stdout, stdout_inside) = pipe()?;
                let (stderr, stderr_inside) = pipe()?;
                let receiver = |fd: OwnedFd| -> io::Result<Receiver> {
                    rustix::io::ioctl_fionbio(&fd, true)?;
                    Receiver::from_owned_fd(fd)
                };
                let streams = Self::Capture {
                    stdout: receiver(stdout)?,
                    stderr: receiver(stderr)?,
                    sink,
                };
                let stdin = kernel_files::null()?;
                Ok((
                    streams,
                    Inside::Streams([stdin, stdout_inside, stderr_inside]),
                ))
            }
            Stdio::Inherit { interactive } => {
                let own = |fd: BorrowedFd<'_>| fd.try_clone_to_owned();
                let stdin = if interactive {
                    own(rustix::stdio::stdin())?
                } else {
                    kernel_files::null()?
                };
                let (stdout, stderr) =
                    (own(rustix::stdio::stdout())?, own(rustix::stdio::stderr())?);
                Ok((Self::Inherit, Inside::Streams([stdin, stdout, stderr])))
            }
            Stdio::Terminal { interactive } => {
                let inside = Inside::Terminal(outer_terminal::size());
                Ok((Self::Terminal { interactive }, inside))
            }
            Stdio::Carried(mut carried) => {
                if let Some(size) = carried.terminal {
                    return Ok((Self::Carried(carried), Inside::Terminal(size)));
                }
                let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
                let (stdout, stdout_inside) = pipe()?;
                let (stderr, stderr_inside) = pipe()?;
                let (stdin, stdin_inside) = match carried.stdin {
                    Stdin::Null => (None, kernel_files::null()?),
                    Stdin::Inherit => (None, rustix::stdio::stdin().try_clone_to_owned()?),
                    Stdin::Pipe => {
                        let (inside, ours) = pipe()?;
                        (Some(ours), inside)
                    }
                };
                if let Some(carry) = carried.carry.take() {
                    carry(Ends::Pipes {
                        stdin,
                        stdout,
                        stderr,
                    });
                }
                Ok((
                    Self::Carried(carried),
                    Inside::Streams([stdin_inside, stdout_inside, stderr_inside]),
                ))
            }
        }
    }
}

/// Carries output until both pipes are closed.
pub(super) async fn carry(streams: Streams) -> io::Result<()> {
    match streams {
        Streams::Inherit | Streams::Terminal { .. } | Streams::Carried(_) => Ok(()),
        Streams::Capture {
            stdout,
            stderr,
            sink,
        } => {
            tokio::try_join!(
                carry_one(stdout, Output::Stdout, &sink),
                carry_one(stderr, Output::Stderr, &sink)
            )?;
            Ok(())
        }
    }
}

async fn carry_one(mut pipe: Receiver, output: Output, sink: &Arc<Sink>) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        let length = pipe.read(&mut buffer).await?;
        match buffer.get(..length) {
            Some(piece) if !piece.is_empty() => sink(output, piece),
            _ => return Ok(()),
        }
    }
}
