//! This process's terminal while it stands for one in a container: raw, with the keys by which one leaves, its size
//! and the signals that reach this process. What goes where is the caller's: see [`Peer`].

use std::io::{self, Read as _, Write as _};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use rustix::termios::{OptionalActions, Termios};
use tokio::signal::unix::{SignalKind, signal};

use crate::error::{Error, Result};

/// Rows and columns; those of old where there is no terminal.
pub(crate) fn size() -> (u16, u16) {
    rustix::termios::tcgetwinsize(rustix::stdio::stdout())
        .or_else(|_| rustix::termios::tcgetwinsize(rustix::stdio::stdin()))
        .map_or((24, 80), |size| (size.ws_row, size.ws_col))
}

/// Restores the terminal when it is dropped.
#[derive(Debug)]
pub(crate) struct Raw {
    before: Termios,
}

impl Raw {
    /// `None` where standard input is no terminal.
    pub(crate) fn enter() -> Result<Option<Self>> {
        let stdin = rustix::stdio::stdin();
        if !rustix::termios::isatty(stdin) {
            return Ok(None);
        }
        let enter = || {
            let before = rustix::termios::tcgetattr(stdin)?;
            let mut raw = before.clone();
            raw.make_raw();
            rustix::termios::tcsetattr(stdin, OptionalActions::Now, &raw)?;
            Ok(Self { before })
        };
        enter().map(Some).map_err(|errno: rustix::io::Errno| {
            Error::failed("cannot set up the terminal").because(io::Error::from(errno))
        })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let stdin = rustix::stdio::stdin();
        let _ = rustix::termios::tcsetattr(stdin, OptionalActions::Drain, &self.before);
    }
}

/// The keys by which one leaves a container that goes on.
#[derive(Debug, Clone)]
pub(crate) struct DetachKeys {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachKeys {
    /// `ctrl-p,ctrl-q`: letters, or `ctrl-` and a letter or one of `@[\]^_`.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self> {
        let text = text.unwrap_or("ctrl-p,ctrl-q");
        let bad = || {
            Error::usage(format!("--detach-keys `{text}`: there is no such key"))
                .help("keys look like `a` or `ctrl-p`, with commas between")
        };
        let mut keys = Vec::new();
        for key in text.split(',').filter(|_| !text.is_empty()) {
            let byte = match key.strip_prefix("ctrl-") {
                Some(letter) => match letter.as_bytes() {
                    [letter] if letter.is_ascii_lowercase() => letter - b'a' + 1,
                    [letter @ (b'@' | b'[' | b'\\' | b']' | b'^' | b'_')] => letter - b'@',
                    _ => return Err(bad()),
                },
                None => match key.as_bytes() {
                    [letter] if letter.is_ascii() => *letter,
                    _ => return Err(bad()),
                },
            };
            keys.push(byte);
        }
        Ok(Self { keys, matched: 0 })
    }

    /// Takes what was typed. Returns what is to be handed on, and whether the keys were pressed.
    pub(crate) fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len());
        for &byte in typed {
            if self.keys.get(self.matched) == Some(&byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    self.matched = 0;
                    return (passed, true);
                }
                continue;
            }
            passed.extend_from_slice(self.keys.get(..self.matched).unwrap_or_default());
            self.matched = 0;
            if self.keys.first() == Some(&byte) && !self.keys.is_empty() {
                self.matched = 1;
                if self.keys.len() == 1 {
                    self.matched = 0;
                    return (passed, true);
                }
            } else {
                passed.push(byte);
            }
        }
        (passed, false)
    }
}

/// Takes what was typed; nothing at its end.
pub(crate) type Input = Box<dyn Fn(&[u8]) -> io::Result<()> + Send>;

/// Takes a number of rows and columns.
pub(crate) type Resize = Box<dyn Fn((u16, u16)) + Send>;

/// The container's side, as whoever is attached sees it.
pub(crate) struct Peer {
    pub(crate) input: Input,
    pub(crate) resize: Resize,
    pub(crate) signal: Option<Box<dyn Fn(i32) + Send>>,
}

/// What happens while one is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// With its exit code.
    Ended(i32),
    /// The detach keys were pressed.
    Left,
    /// Nobody is there any more.
    Lost,
}

/// Reads standard input on a thread of its own, which ends with the process.
pub(crate) fn type_in(input: Input, mut keys: Option<DetachKeys>, events: Sender<Event>) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 16 << 10];
        let mut stdin = io::stdin().lock();
        loop {
            match stdin.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(length) if length > 0 => {
                    let typed = buffer.get(..length).unwrap_or_default();
                    let (passed, left) = match &mut keys {
                        Some(keys) => keys.filter(typed),
                        None => (typed.to_vec(), false),
                    };
                    if !passed.is_empty() && input(&passed).is_err() {
                        return;
                    }
                    if left {
                        let _ = events.send(Event::Left);
                        return;
                    }
                }
                _ => {
                    drop(input(&[]));
                    return;
                }
            }
        }
    });
}

/// Writes output as it comes; a reader that went away is no failure.
pub(crate) fn show(stderr: bool, bytes: &[u8]) {
    if stderr {
        let mut stream = io::stderr().lock();
        drop(stream.write_all(bytes));
    } else {
        let mut stream = io::stdout().lock();
        drop(stream.write_all(bytes).and_then(|()| stream.flush()));
    }
}

/// Hands on the size and its changes, and signals, on a thread of its own that ends with the process. The signals are
/// listened to when this returns, and since before the size was looked at: no change is missed.
pub(crate) fn follow_signals(
    resize: Option<Resize>,
    on_signal: Option<Box<dyn Fn(i32) + Send>>,
) -> Result<()> {
    let failed = |error: io::Error| Error::failed("cannot listen to signals").because(error);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let guard = runtime.enter();
    let mut sizes = signal(SignalKind::window_change()).map_err(failed)?;
    let mut streams = Vec::new();
    if on_signal.is_some() {
        // HUP, INT, QUIT, USR1, USR2, ALRM, TERM, CONT
        for number in [1, 2, 3, 10, 12, 14, 15, 18] {
            let stream = signal(SignalKind::from_raw(number)).map_err(failed)?;
            streams.push((number, stream));
        }
    }
    drop(guard);
    if let Some(resize) = &resize {
        resize(size());
    }
    std::thread::spawn(move || {
        runtime.block_on(std::future::poll_fn(|context| {
            while sizes.poll_recv(context).is_ready() {
                if let Some(resize) = &resize {
                    resize(size());
                }
            }
            for (number, stream) in &mut streams {
                while stream.poll_recv(context).is_ready() {
                    if let Some(on_signal) = &on_signal {
                        on_signal(*number);
                    }
                }
            }
            std::task::Poll::<()>::Pending
        }));
    });
    Ok(())
}

/// Attached to a container by frames, until it ends, is left or is lost.
pub(crate) mod frames {
    use std::os::unix::net::UnixStream;

    use rbuild_engine::containers::control::frame::{Frames, Kind};

    use super::{Arc, DetachKeys, Event, Peer, Raw, Result, follow_signals, show, type_in};

    #[derive(Debug)]
    pub(crate) struct Attach {
        pub(crate) stream: UnixStream,
        pub(crate) terminal: bool,
        pub(crate) interactive: bool,
        pub(crate) forward_signals: bool,
        pub(crate) keys: DetachKeys,
    }

    impl Attach {
        pub(crate) fn follow(self) -> Result<Event> {
            let stream = Arc::new(Frames::new(self.stream));
            let raw = if self.terminal && self.interactive {
                Raw::enter()?
            } else {
                None
            };
            let peer = peer(&stream, self.forward_signals);
            let (sender, events) = std::sync::mpsc::channel();
            follow_signals(self.terminal.then_some(peer.resize), peer.signal)?;
            if self.interactive {
                type_in(peer.input, Some(self.keys), sender.clone());
            }
            let output = Arc::clone(&stream);
            std::thread::spawn(move || {
                let event = loop {
                    match output.read() {
                        Ok(Some((Kind::Stdout, bytes))) => show(false, &bytes),
                        Ok(Some((Kind::Stderr, bytes))) => show(true, &bytes),
                        Ok(Some((Kind::Ended, code))) => {
                            let code = <[u8; 4]>::try_from(code).map_or(125, i32::from_le_bytes);
                            break Event::Ended(code);
                        }
                        Ok(Some(_)) => {}
                        Ok(None) | Err(_) => break Event::Lost,
                    }
                };
                let _ = sender.send(event);
            });
            let event = events.recv().unwrap_or(Event::Lost);
            if event == Event::Left {
                drop(stream.write(Kind::Detach, &[]));
            }
            drop(raw);
            Ok(event)
        }
    }

    fn peer(stream: &Arc<Frames>, forward_signals: bool) -> Peer {
        let (input, resize, signal) = (Arc::clone(stream), Arc::clone(stream), Arc::clone(stream));
        Peer {
            input: Box::new(move |bytes| input.write(Kind::Stdin, bytes)),
            resize: Box::new(move |(rows, columns)| {
                let [r0, r1] = rows.to_le_bytes();
                let [c0, c1] = columns.to_le_bytes();
                drop(resize.write(Kind::Resize, &[r0, r1, c0, c1]));
            }),
            signal: forward_signals.then(|| {
                Box::new(move |number: i32| {
                    let number = u8::try_from(number).unwrap_or_default();
                    drop(signal.write(Kind::Signal, &[number]));
                }) as Box<dyn Fn(i32) + Send>
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_to_leave_are_seen_across_pieces() {
        let mut keys = DetachKeys::parse(None).unwrap();
        assert_eq!(keys.filter(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(keys.filter(b"\x10x"), (b"\x10\x10x".to_vec(), false));
        assert_eq!(keys.filter(b"c\x10\x11rest"), (b"c".to_vec(), true));
        let mut own = DetachKeys::parse(Some("ctrl-],q")).unwrap();
        assert_eq!(own.filter(b"\x1dq"), (Vec::new(), true));
        for bad in ["ctrl-P", "ab", "ctrl-", "ctrl-1"] {
            assert!(DetachKeys::parse(Some(bad)).is_err(), "{bad}");
        }
    }
}
