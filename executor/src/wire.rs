//! Messages between this process, the spawner and a sandbox's first process: a length, JSON of bounded size, and
//! descriptors that ride on the first byte.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The kernel's limit of descriptors in one message.
pub(crate) const MOST_DESCRIPTORS: usize = 253;
/// More than any argument list that the kernel takes.
const MOST_BYTES: usize = 32 << 20;
const SPACE: usize = rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS));

/// A connected pair of stream sockets.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Sends a message whole.
pub fn send<T: Serialize>(
    socket: BorrowedFd<'_>,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    let too_large = || io::Error::new(io::ErrorKind::InvalidInput, "message too large");
    if descriptors.len() > MOST_DESCRIPTORS || body.len() > MOST_BYTES {
        return Err(too_large());
    }
    let length = u32::try_from(body.len()).map_err(|_| too_large())?;
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend_from_slice(&body);

    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(too_large());
    }
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let sent = retry(|| {
            rustix::net::sendmsg(
                socket,
                &[IoSlice::new(rest)],
                &mut ancillary,
                SendFlags::NOSIGNAL,
            )
        })?;
        ancillary.clear();
        rest = rest.get(sent..).unwrap_or_default();
    }
    Ok(())
}

/// Receives a message; `None` when the other side is gone.
pub fn receive<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut descriptors = Vec::new();
    let mut length = [0; 4];
    if !fill(socket, &mut length, &mut descriptors)? {
        return Ok(None);
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > MOST_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "message too large",
        ));
    }
    let mut body = vec![0; length];
    if !fill(socket, &mut body, &mut descriptors)? {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&body)?, descriptors)))
}

/// One descriptor that somebody else sends, with whatever bytes.
pub(crate) fn receive_descriptor(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut descriptors = Vec::new();
    fill(socket, &mut [0], &mut descriptors)?;
    let none = || io::Error::new(io::ErrorKind::InvalidData, "no descriptor came");
    descriptors.pop().ok_or_else(none)
}

/// Fills `buffer`; false when the stream ends before.
fn fill(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> io::Result<bool> {
    let mut rest = buffer;
    while !rest.is_empty() {
        let mut space = [MaybeUninit::uninit(); SPACE];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = retry(|| {
            rustix::net::recvmsg(
                socket.as_fd(),
                &mut [IoSliceMut::new(rest)],
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC,
            )
        });
        let received = match received {
            Ok(message) => message.bytes,
            Err(Errno::CONNRESET) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(list) = message {
                descriptors.extend(list);
            }
        }
        if received == 0 {
            return Ok(false);
        }
        rest = rest.get_mut(received..).unwrap_or_default();
    }
    Ok(true)
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_whole_with_their_descriptors() {
        let (left, right) = pair().expect("sockets");
        let (read, write) = rustix::pipe::pipe().expect("a pipe");
        let text = "x".repeat(1 << 20);
        let sender = std::thread::spawn(move || {
            send(left.as_fd(), &text, &[write.as_fd()]).expect("sent");
            send(left.as_fd(), &"second", &[]).expect("sent");
        });
        let (first, descriptors) = receive::<String>(right.as_fd())
            .expect("received")
            .expect("a message");
        assert_eq!((first.len(), descriptors.len()), (1 << 20, 1));
        rustix::io::write(&descriptors[0], b"y").expect("the descriptor works");
        let mut byte = [0];
        rustix::io::read(&read, &mut byte).expect("the descriptor works");
        let second = receive::<String>(right.as_fd()).expect("received");
        assert_eq!(second.map(|(text, _)| text).as_deref(), Some("second"));
        sender.join().expect("no panic");
        assert!(receive::<String>(right.as_fd()).expect("the end").is_none());
    }

    #[test]
    fn lengths_are_bounded_and_nonsense_is_an_error() {
        let (left, right) = pair().expect("sockets");
        rustix::io::write(&left, &u32::MAX.to_le_bytes()).expect("written");
        assert!(receive::<String>(right.as_fd()).is_err());
        rustix::io::write(&left, b"\x03\0\0\0{{{").expect("written");
        assert!(receive::<String>(right.as_fd()).is_err());
        rustix::io::write(&left, b"\x09\0\0\0{").expect("written");
        drop(left);
        assert!(receive::<String>(right.as_fd()).expect("cut off").is_none());
    }
}
