//! How other processes reach a container: a socket in its directory, on which the process that it lives in answers.
//! One question a connection, as JSON (`rbuild_executor::wire`); after [`Ask::Attach`] and [`Ask::Wait`] the
//! connection carries [`frame`]s.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rbuild_executor::sandbox::Usage;
use rbuild_executor::wire;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::exec::ExecRequest;
use super::networks::Attachment;
use super::update::Changes;
use crate::{Error, Result};

pub(super) const SOCKET: &str = "control";

/// What is asked of a container.
#[derive(Debug, Serialize, Deserialize)]
pub enum Ask {
    Signal(i32),
    /// The stop signal, then `KILL` after so many seconds; negative waits for ever.
    Stop {
        signal: Option<i32>,
        seconds: Option<i64>,
    },
    Restart {
        signal: Option<i32>,
        seconds: Option<i64>,
    },
    /// Its streams, as frames.
    Attach,
    /// Starts a process in it. Without a terminal three descriptors ride along; the master of a terminal rides on
    /// the answer. Then [`Answer::Ended`] comes.
    Exec(Box<ExecRequest>),
    /// A descriptor of its root rides on the answer.
    Root,
    /// A descriptor of a directory with what it wrote rides on the answer, where nothing else has that; it goes when the
    /// connection ends.
    Layer,
    Freeze(bool),
    /// Frozen until the one who asks ends what it writes, or is gone; [`Answer::Done`] says both the beginning and the
    /// end.
    Halt,
    Processes,
    /// The process whose namespaces others are to be in.
    Representative,
    Usage,
    /// The line of its interface with this address rides on the answer. The connection ends with that.
    Network(Ipv4Addr),
    /// It is to be in one more network.
    Join(Attachment),
    /// It is not to be in this network any more.
    Leave(String),
    /// The user namespace of its process rides on the answer, for one that is to share its network.
    UserNamespace,
    Update(Box<Changes>),
    /// [`Answer::Ended`] when the container has ended for good.
    Wait,
}

/// What it says.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    Done,
    Failed {
        message: String,
        not_found: Option<bool>,
    },
    Processes(Vec<u32>),
    Representative(u32),
    Usage(Usage),
    /// With the exit code.
    Ended(i32),
}

/// A conversation with a container's process.
#[derive(Debug)]
pub struct Connection {
    pub stream: UnixStream,
}

impl Connection {
    /// `None` where nobody listens.
    pub(super) fn open(directory: &Path) -> Result<Option<Self>> {
        let connect = || -> io::Result<UnixStream> {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = rustix::fs::open(directory, flags, Mode::empty())?;
            // Paths of sockets are short; the store's may be long.
            UnixStream::connect(path(directory.as_fd()))
        };
        match connect() {
            Ok(stream) => Ok(Some(Self { stream })),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Sends a question. That the container's process is gone is told instead of an answer.
    pub fn ask(&self, ask: &Ask, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        match wire::send(self.stream.as_fd(), ask, descriptors) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            sent => sent.map_err(failed),
        }
    }

    /// The next answer. `None` where the container's process is gone.
    pub fn answer(&self) -> Result<Option<(Answer, Vec<OwnedFd>)>> {
        match wire::receive(self.stream.as_fd()) {
            Ok(answer) => Ok(answer),
            // It was killed before it had read all that was asked.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// Asks, and takes an answer that is no failure.
    pub fn request(self, ask: &Ask) -> Result<(Answer, Vec<OwnedFd>)> {
        self.ask(ask, &[])?;
        self.done()
    }

    /// The next answer, which is to be no failure.
    pub(super) fn done(&self) -> Result<(Answer, Vec<OwnedFd>)> {
        match self.answer()? {
            Some((Answer::Failed { message, .. }, _)) => Err(Error::Other(message)),
            Some(answer) => Ok(answer),
            None => Err(Error::Other("the container ended meanwhile".to_owned())),
        }
    }
}

fn failed(source: io::Error) -> Error {
    Error::Io {
        message: "cannot talk to the container's process".to_owned(),
        source,
    }
}

/// Of the socket in a container's directory.
pub(super) fn path(directory: BorrowedFd<'_>) -> String {
    use std::os::fd::AsRawFd as _;
    format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd())
}

/// Pieces of streams: a kind, a length, bytes.
pub mod frame {
    use std::io::{Read as _, Write as _};
    use std::sync::{Mutex, PoisonError};

    use super::{UnixStream, io};

    /// What a piece is.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    #[repr(u8)]
    pub enum Kind {
        /// For the container; empty at its end.
        Stdin = 0,
        /// Rows and columns, two bytes each.
        Resize = 1,
        /// A byte.
        Signal = 2,
        /// Whoever was attached leaves, and the container goes on.
        Detach = 3,
        Stdout = 4,
        Stderr = 5,
        /// The exit code, four bytes.
        Ended = 6,
        /// The container runs. Its ID.
        Running = 7,
    }

    const MOST: usize = 1 << 20;

    /// A connection that carries frames, from several threads at once.
    #[derive(Debug)]
    pub struct Frames {
        stream: UnixStream,
        writing: Mutex<()>,
    }

    impl Frames {
        /// Pieces on a connected stream.
        pub fn new(stream: UnixStream) -> Self {
            Self {
                stream,
                writing: Mutex::new(()),
            }
        }

        /// Writes one piece whole, whoever else writes; a long one as several of its kind.
        pub fn write(&self, kind: Kind, bytes: &[u8]) -> io::Result<()> {
            let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
            for piece in pieces(bytes) {
                let mut message = Vec::with_capacity(5 + piece.len());
                message.push(kind as u8);
                // Pieces are small.
                message.extend_from_slice(&(piece.len() as u32).to_le_bytes());
                message.extend_from_slice(piece);
                (&self.stream).write_all(&message)?;
            }
            Ok(())
        }

        /// `None` at the end of the stream.
        pub fn read(&self) -> io::Result<Option<(Kind, Vec<u8>)>> {
            read(&self.stream)
        }

        /// Ends it for both sides.
        pub fn close(&self) {
            let _ = self.stream.shutdown(std::net::Shutdown::Both);
        }
    }

    fn pieces(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
        let empty = bytes.is_empty().then_some(bytes);
        empty.into_iter().chain(bytes.chunks(MOST))
    }

    /// `None` at the end of the stream.
    pub fn read(mut stream: &UnixStream) -> io::Result<Option<(Kind, Vec<u8>)>> {
        let mut head = [0; 5];
        match stream.read_exact(&mut head) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
                ) =>
            {
                return Ok(None);
            }
            result => result?,
        }
        let [kind, length @ ..] = head;
        let kinds = [
            Kind::Stdin,
            Kind::Resize,
            Kind::Signal,
            Kind::Detach,
            Kind::Stdout,
            Kind::Stderr,
            Kind::Ended,
            Kind::Running,
        ];
        let bad = || io::Error::from(io::ErrorKind::InvalidData);
        let kind = *kinds.get(usize::from(kind)).ok_or_else(bad)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MOST {
            return Err(bad());
        }
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes)?;
        Ok(Some((kind, bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_nobody_is_there_any_more_is_told_by_the_answer() {
        let (stream, theirs) = UnixStream::pair().expect("sockets");
        drop(theirs);
        let connection = Connection { stream };
        connection.ask(&Ask::Wait, &[]).expect("a question");
        assert!(connection.answer().expect("its answer").is_none());
    }
}
