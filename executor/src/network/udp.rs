//! Datagrams: each pair of ends has a socket outside while it is used.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::packet::{self, Ends};
use super::{MTU, Place, Watch, dns, tcp};

/// The oldest makes room.
const MOST: usize = 1024;
/// As long as others keep a conversation; questions for names are over sooner.
const QUIET: Duration = Duration::from_secs(60);
const QUIET_DNS: Duration = Duration::from_secs(20);
/// Questions that are known again.
const MOST_ASKED: usize = 32;
/// Taken of one socket before others have their turn.
const AT_ONCE: usize = 32;
/// Of both headers.
const HEADERS_BYTES: usize = 28;

pub(super) struct Conversations {
    own: Place,
    open: HashMap<Ends, Conversation>,
    /// Which of the host's name servers is asked first: the last that answered.
    server: usize,
}

struct Conversation {
    outside: OwnedFd,
    used: Instant,
    /// Of questions for names: which server is asked.
    server: Option<usize>,
    /// The numbers of those that were asked last.
    asked: VecDeque<[u8; 2]>,
}

impl Conversations {
    /// Those of the command that is at `own`.
    pub(super) fn new(own: Place) -> Self {
        Self {
            own,
            open: HashMap::new(),
            server: 0,
        }
    }

    pub(super) fn watch<'a>(&'a self, polled: &mut Vec<PollFd<'a>>) {
        for conversation in self.open.values() {
            polled.push(PollFd::new(&conversation.outside, PollFlags::IN));
        }
    }

    /// Whether one is under way.
    pub(super) fn has(&self, ends: Ends) -> bool {
        self.open.contains_key(&ends)
    }

    /// A datagram of the command's. What cannot be sent is lost, as datagrams may be.
    pub(super) fn send(&mut self, ends: Ends, data: &[u8]) {
        let is_question = self.own.is_asked(ends.outside);
        let number = dns::number_of(data).filter(|_| is_question);
        if let Some(number) = number
            && let Some(known) = self.open.get(&ends)
            && let Some(server) = known.server
            && known.asked.contains(&number)
        {
            // Asked again: the server did not answer, so that the next one is asked.
            self.server = server + 1;
            self.open.remove(&ends);
        }
        if !self.open.contains_key(&ends) {
            let Some(conversation) = self.begin(ends, is_question) else {
                return;
            };
            if self.open.len() >= MOST {
                let oldest = self.open.iter().min_by_key(|(_, it)| it.used);
                if let Some(oldest) = oldest.map(|(ends, _)| *ends) {
                    self.open.remove(&oldest);
                }
            }
            self.open.insert(ends, conversation);
        }
        if let Some(conversation) = self.open.get_mut(&ends) {
            conversation.used = Instant::now();
            if conversation.asked.len() >= MOST_ASKED {
                conversation.asked.pop_front();
            }
            conversation.asked.extend(number);
            let _ = rustix::net::send(&conversation.outside, data, SendFlags::NOSIGNAL);
        }
    }

    fn begin(&self, ends: Ends, is_question: bool) -> Option<Conversation> {
        let (to, server) = if is_question && !self.own.is_internal {
            let servers = dns::servers();
            let server = self.server % servers.len().max(1);
            (*servers.get(server)?, Some(server))
        } else {
            (tcp::outside_of(ends, &self.own)?, None)
        };
        let family = match to {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let outside = rustix::net::socket_with(family, SocketType::DGRAM, flags, None).ok()?;
        rustix::net::connect(&outside, &to).ok()?;
        Some(Conversation {
            outside,
            used: Instant::now(),
            server,
            asked: VecDeque::new(),
        })
    }

    /// Hands in what came from outside; ends what has been quiet.
    pub(super) fn carry(
        &mut self,
        buffer: &mut [u8],
        watch: Option<&Watch>,
        write: &dyn Fn(&[u8]),
    ) {
        let now = Instant::now();
        let mut answered = None;
        let room = buffer.len().min(MTU - HEADERS_BYTES);
        self.open.retain(|ends, conversation| {
            for _ in 0..AT_ONCE {
                let into = buffer.get_mut(..room).unwrap_or_default();
                match rustix::net::recv(&conversation.outside, into, RecvFlags::TRUNC) {
                    Ok((_, length)) => {
                        conversation.used = now;
                        answered = conversation.server.or(answered);
                        // What does not fit is lost, rather than cut.
                        if let Some(data) = buffer.get(..length).filter(|_| length <= room) {
                            if let Some(watch) = watch
                                && (conversation.server.is_some() || watch.is_server(ends.outside))
                            {
                                watch.answered(data);
                            }
                            write(&packet::datagram(*ends, data, self.own.hardware_address));
                        }
                    }
                    Err(Errno::AGAIN) => break,
                    // Nobody is there: as if nothing had been heard.
                    Err(_) => break,
                }
            }
            let quiet = if conversation.server.is_some() {
                QUIET_DNS
            } else {
                QUIET
            };
            now.duration_since(conversation.used) < quiet
        });
        if let Some(server) = answered {
            self.server = server;
        }
    }
}
