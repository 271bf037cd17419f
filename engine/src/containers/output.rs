//! A container's streams on the side of the process that it lives in: what it writes goes to its log and to
//! everybody who is attached; what they type goes to it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rbuild_executor::spec::Ends;
use rustix::termios::Winsize;

use super::control::frame::{Frames, Kind};
use super::log::{Log, Stream};
use super::request::Shown;

/// Of one read.
const PIECE: usize = 32 << 10;

/// Where output goes and input comes from.
#[derive(Debug, Default)]
pub(super) struct Hub {
    log: Mutex<Option<Log>>,
    attached: Mutex<Vec<Arc<Frames>>>,
    /// What of it this process's own standard output and error get, too.
    own: Option<Shown>,
    input: Mutex<Option<OwnedFd>>,
    terminal: Mutex<Option<OwnedFd>>,
    pumps: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    pub(super) fn new(log: Option<Log>, own: Option<Shown>) -> Self {
        Self {
            log: Mutex::new(log),
            own,
            ..Self::default()
        }
    }

    pub(super) fn attach(&self, stream: Arc<Frames>) {
        locked(&self.attached).push(stream);
    }

    pub(super) fn detach(&self, stream: &Arc<Frames>) {
        locked(&self.attached).retain(|other| !Arc::ptr_eq(other, stream));
    }

    /// Begins to carry the streams of a container that starts.
    pub(super) fn carry(self: &Arc<Self>, ends: Ends) {
        match ends {
            Ends::Pipes {
                stdin,
                stdout,
                stderr,
            } => {
                *locked(&self.input) = stdin;
                self.pump(stdout, Stream::Stdout);
                self.pump(stderr, Stream::Stderr);
            }
            Ends::Terminal(master) => {
                if let (Ok(input), Ok(terminal)) = (master.try_clone(), master.try_clone()) {
                    *locked(&self.input) = Some(input);
                    *locked(&self.terminal) = Some(terminal);
                }
                self.pump(master, Stream::Stdout);
            }
        }
    }

    fn pump(self: &Arc<Self>, from: OwnedFd, stream: Stream) {
        let hub = Arc::clone(self);
        let pump = std::thread::Builder::new()
            .name("container-output".to_owned())
            .spawn(move || {
                let mut buffer = vec![0; PIECE];
                loop {
                    match rustix::io::read(&from, &mut buffer) {
                        Err(rustix::io::Errno::INTR) => {}
                        // A terminal whose last process is gone says EIO.
                        Ok(0) | Err(_) => return,
                        Ok(length) => hub.output(stream, buffer.get(..length).unwrap_or_default()),
                    }
                }
            });
        match pump {
            Ok(pump) => locked(&self.pumps).push(pump),
            Err(error) => tracing::error!(%error, "the container's output is lost"),
        }
    }

    fn output(&self, stream: Stream, bytes: &[u8]) {
        if let Some(log) = &mut *locked(&self.log)
            && let Err(error) = log.write(stream, bytes)
        {
            tracing::error!(%error, "the container's log cannot be written");
        }
        let own = self.own.unwrap_or(Shown {
            stdout: false,
            stderr: false,
        });
        // Where nobody reads it any more, the log has it.
        match stream {
            Stream::Stdout if own.stdout => drop(write_all(rustix::stdio::stdout(), bytes)),
            Stream::Stderr if own.stderr => drop(write_all(rustix::stdio::stderr(), bytes)),
            Stream::Stdout | Stream::Stderr => {}
        }
        let kind = match stream {
            Stream::Stdout => Kind::Stdout,
            Stream::Stderr => Kind::Stderr,
        };
        let attached = locked(&self.attached).clone();
        for stream in attached {
            if stream.write(kind, bytes).is_err() {
                self.detach(&stream);
            }
        }
    }

    /// What somebody typed; nothing ends the input.
    pub(super) fn input(&self, bytes: &[u8]) {
        // Not under the lock: a container that does not read must not keep others from leaving.
        let to = locked(&self.input)
            .as_ref()
            .and_then(|fd| fd.try_clone().ok());
        let Some(to) = to else {
            return;
        };
        if bytes.is_empty() {
            if locked(&self.terminal).is_none() {
                drop(locked(&self.input).take());
            }
        } else {
            drop(write_all(to.as_fd(), bytes));
        }
    }

    pub(super) fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        if let Some(terminal) = &*locked(&self.terminal) {
            // It may be gone already.
            let _ = rustix::termios::tcsetwinsize(terminal, size);
        }
    }

    /// Waits for the last byte of a container that ended.
    pub(super) fn drain(&self) {
        drop(locked(&self.input).take());
        drop(locked(&self.terminal).take());
        for pump in std::mem::take(&mut *locked(&self.pumps)) {
            let _ = pump.join();
        }
        if let Some(log) = &mut *locked(&self.log)
            && let Err(error) = log.finish()
        {
            tracing::error!(%error, "the container's log cannot be written");
        }
    }

    /// Tells everybody who is attached.
    pub(super) fn tell(&self, kind: Kind, bytes: &[u8]) {
        let attached = locked(&self.attached).clone();
        for stream in attached {
            let _ = stream.write(kind, bytes);
        }
    }

    /// The container has ended for good: so do the connections.
    pub(super) fn close(&self) {
        for stream in std::mem::take(&mut *locked(&self.attached)) {
            stream.close();
        }
    }
}

fn write_all(to: std::os::fd::BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                let mut polled = [rustix::event::PollFd::new(
                    &to,
                    rustix::event::PollFlags::OUT,
                )];
                rustix::event::poll(&mut polled, None)?;
            }
            Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
