//! Questions for names over TCP, where each message has its length before it: only those go on that may be asked.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;
use smoltcp::socket::tcp::Socket;

use super::Watch;

const CHUNK_BYTES: usize = 4096;
/// Answers that the command does not take, before no more is taken of it.
const MOST_BACK_BYTES: usize = 1 << 17;

/// Of one connection.
pub(super) struct Questions {
    watch: Arc<Watch>,
    /// Not whole yet.
    asked: Vec<u8>,
    answered: Vec<u8>,
    /// On its way to the server, and to the command.
    out: Vec<u8>,
    back: Vec<u8>,
}

impl Questions {
    pub(super) fn new(watch: Arc<Watch>) -> Self {
        Self {
            watch,
            asked: Vec::new(),
            answered: Vec::new(),
            out: Vec::new(),
            back: Vec::new(),
        }
    }

    /// Whether the server has not taken everything yet.
    pub(super) fn waits(&self) -> bool {
        !self.out.is_empty()
    }

    /// Whether the command must take answers before it may ask more.
    pub(super) fn is_full(&self) -> bool {
        self.back.len() >= MOST_BACK_BYTES
    }

    /// From the command to the server, as far as it goes. True where everything is there.
    pub(super) fn carry_out(
        &mut self,
        server: &OwnedFd,
        socket: &mut Socket<'_>,
    ) -> Result<bool, Errno> {
        loop {
            while !self.out.is_empty() {
                match rustix::net::send(server, &self.out, rustix::net::SendFlags::NOSIGNAL) {
                    Ok(0) | Err(Errno::AGAIN) => return Ok(false),
                    Ok(count) => drop(self.out.drain(..count)),
                    Err(Errno::INTR) => {}
                    Err(errno) => return Err(errno),
                }
            }
            if !socket.can_recv() {
                return Ok(true);
            }
            if self.is_full() {
                return Ok(false);
            }
            socket
                .recv(|data| {
                    self.asked.extend_from_slice(data);
                    (data.len(), ())
                })
                .map_err(|_| Errno::PIPE)?;
            while let Some(message) = whole(&mut self.asked) {
                match self.watch.refusal(&message) {
                    Some(refusal) => add(&refusal, &mut self.back),
                    None => add(&message, &mut self.out),
                }
            }
        }
    }

    /// From the server to the command, as far as it goes. True where everything is there and no more will come.
    pub(super) fn carry_in(
        &mut self,
        server: &OwnedFd,
        socket: &mut Socket<'_>,
    ) -> Result<bool, Errno> {
        let mut chunk = [0; CHUNK_BYTES];
        loop {
            while !self.back.is_empty() {
                if !socket.can_send() {
                    return Ok(false);
                }
                let count = socket.send_slice(&self.back).map_err(|_| Errno::PIPE)?;
                self.back.drain(..count);
            }
            match rustix::io::read(server, &mut chunk) {
                Ok(0) => return Ok(true),
                Ok(count) => self
                    .answered
                    .extend_from_slice(chunk.get(..count).unwrap_or_default()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(errno) => return Err(errno),
            }
            while let Some(message) = whole(&mut self.answered) {
                self.watch.answered(&message);
                add(&message, &mut self.back);
            }
        }
    }
}

/// Takes the first message.
fn whole(bytes: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?);
    let end = 2 + usize::from(length);
    let message = bytes.get(2..end)?.to_vec();
    bytes.drain(..end);
    Some(message)
}

fn add(message: &[u8], bytes: &mut Vec<u8>) {
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(message);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_whole() {
        let mut bytes = Vec::new();
        add(b"one", &mut bytes);
        add(b"", &mut bytes);
        add(b"two", &mut bytes);
        bytes.pop();
        assert_eq!(whole(&mut bytes), Some(b"one".to_vec()));
        assert_eq!(whole(&mut bytes), Some(Vec::new()));
        assert_eq!(whole(&mut bytes), None);
        bytes.push(b'o');
        assert_eq!(whole(&mut bytes), Some(b"two".to_vec()));
        assert!(bytes.is_empty());
    }
}
