//! This process's own terminal while a command has one of its own: raw, so that every key reaches the command, and as
//! it was again whatever happens; what is typed and what is shown is carried between the two.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, Winsize};

const PIECE: usize = 16 << 10;

/// Rows and columns of this process's terminal; those of old where it has none.
pub fn size() -> (u16, u16) {
    rustix::termios::tcgetwinsize(rustix::stdio::stdout())
        .or_else(|_| rustix::termios::tcgetwinsize(rustix::stdio::stdin()))
        .map_or((24, 80), |size| (size.ws_row, size.ws_col))
}

/// Restores the terminal when it is dropped.
#[derive(Debug)]
struct Raw {
    before: Termios,
}

impl Raw {
    /// `None` where standard input is no terminal.
    fn enter() -> io::Result<Option<Self>> {
        let stdin = rustix::stdio::stdin();
        if !rustix::termios::isatty(stdin) {
            return Ok(None);
        }
        let before = rustix::termios::tcgetattr(stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(stdin, OptionalActions::Now, &raw)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Drained first, so that the command's last words are shown as it meant them.
        let _ = rustix::termios::tcsetattr(
            rustix::stdio::stdin(),
            OptionalActions::Drain,
            &self.before,
        );
    }
}

/// The joined terminals. Dropping it stops what carries, and restores ours.
#[derive(Debug)]
pub(super) struct Joined {
    master: OwnedFd,
    shown: Option<JoinHandle<()>>,
    typed: Option<JoinHandle<()>>,
    /// Closing it stops the reading of keys.
    stop: Option<OwnedFd>,
    // Dropped last.
    raw: Option<Raw>,
}

impl Joined {
    pub(super) fn new(master: OwnedFd, interactive: bool) -> io::Result<Self> {
        let raw = if interactive { Raw::enter()? } else { None };
        let from = master.try_clone()?;
        let shown = std::thread::Builder::new()
            .name("terminal-output".into())
            .spawn(move || show(&from))?;
        let mut joined = Self {
            master,
            shown: Some(shown),
            typed: None,
            stop: None,
            raw,
        };
        if interactive {
            let (stop_read, stop_write) =
                rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            let to = joined.master.try_clone()?;
            joined.stop = Some(stop_write);
            let typed = std::thread::Builder::new()
                .name("terminal-input".into())
                .spawn(move || type_in(&to, &stop_read))?;
            joined.typed = Some(typed);
        }
        Ok(joined)
    }

    /// Gives the command's terminal the size of ours.
    pub(super) fn resize(&self) {
        let (rows, columns) = size();
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // It may be gone already.
        let _ = rustix::termios::tcsetwinsize(&self.master, size);
    }

    /// Waits until everything that the command wrote is shown; it must have ended.
    pub(super) fn finish(mut self) {
        if let Some(shown) = self.shown.take() {
            let _ = shown.join();
        }
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(typed) = self.typed.take() {
            let _ = typed.join();
        }
        drop(self.raw.take());
    }
}

/// Until the last process on the other side is gone (EIO).
fn show(master: &OwnedFd) {
    let mut buffer = vec![0; PIECE];
    loop {
        match rustix::io::read(master, &mut buffer) {
            Err(Errno::INTR) => {}
            Ok(length) if length > 0 => {
                let piece = buffer.get(..length).unwrap_or_default();
                if write_all(rustix::stdio::stdout(), piece).is_err() {
                    return;
                }
            }
            Ok(_) | Err(_) => return,
        }
    }
}

fn type_in(master: &OwnedFd, stop: &OwnedFd) {
    const END_OF_TRANSMISSION: u8 = 4;
    let stdin = rustix::stdio::stdin();
    let mut buffer = vec![0; PIECE];
    loop {
        let mut polled = [
            PollFd::new(&stdin, PollFlags::IN),
            PollFd::new(stop, PollFlags::IN),
        ];
        match rustix::event::poll(&mut polled, None) {
            Err(Errno::INTR) => continue,
            Err(_) => return,
            Ok(_) => {}
        }
        if !polled[1].revents().is_empty() {
            return;
        }
        match rustix::io::read(stdin, &mut buffer) {
            Err(Errno::INTR) => {}
            Ok(length) if length > 0 => {
                let piece = buffer.get(..length).unwrap_or_default();
                if write_all(master.as_fd(), piece).is_err() {
                    return;
                }
            }
            // What was a pipe has ended: the command's terminal says so in its own way.
            _ => {
                let _ = write_all(master.as_fd(), &[END_OF_TRANSMISSION]);
                return;
            }
        }
    }
}

fn write_all(to: std::os::fd::BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                rustix::event::poll(&mut [PollFd::new(&to, PollFlags::OUT)], None)?;
            }
            Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
