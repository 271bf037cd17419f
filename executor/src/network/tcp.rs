//! Connections: each one of the command's is one of ours outside. It is made outside first, so that the command hears
//! a refusal as one.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::wire::{IpAddress, IpListenEndpoint};

use super::packet::Ends;
use super::questions::Questions;
use super::{Place, Watch, dns};

/// More at once are refused.
const MOST: usize = 2048;
/// Kept of each direction.
const BUFFER_BYTES: usize = 256 << 10;
/// A connection that cannot be made for so long is refused.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Connections {
    pub(super) sockets: SocketSet<'static>,
    flows: HashMap<Ends, Flow>,
    own: Place,
}

struct Flow {
    outside: OwnedFd,
    state: Progress,
    /// What the command has sent and is not outside yet waits in the stack; what came from outside as well.
    outside_ended: bool,
    inside_ended: bool,
    /// Where not everything goes through.
    questions: Option<Questions>,
}

enum Progress {
    /// Until the connection is made; with the packet that asked for it.
    Connecting {
        packet: Vec<u8>,
        since: Instant,
    },
    Open(SocketHandle),
}

impl Connections {
    /// Those of the command that is at `own`.
    pub(super) fn new(own: Place) -> Self {
        Self {
            sockets: SocketSet::new(Vec::new()),
            flows: HashMap::new(),
            own,
        }
    }

    /// A connection is asked for: begins to make it outside. Returns the packet where the stack is to answer it now,
    /// by refusing, or because the connection is known.
    pub(super) fn asked(
        &mut self,
        ends: Ends,
        packet: Vec<u8>,
        watch: Option<Arc<Watch>>,
    ) -> Option<Vec<u8>> {
        match self.flows.get(&ends).map(|flow| &flow.state) {
            // Asked again.
            Some(Progress::Connecting { .. }) => return None,
            Some(Progress::Open(handle)) => {
                let handle = *handle;
                let state = self.sockets.get::<Socket<'_>>(handle).state();
                if !matches!(state, State::Closed | State::TimeWait) {
                    return Some(packet);
                }
                // The same ends once more.
                self.sockets.remove(handle);
                self.flows.remove(&ends);
            }
            None => {}
        }
        if self.flows.len() >= MOST {
            return Some(packet);
        }
        match outside_of(ends, &self.own).and_then(connect) {
            Some(outside) => {
                let state = Progress::Connecting {
                    packet,
                    since: Instant::now(),
                };
                self.flows.insert(
                    ends,
                    Flow {
                        outside,
                        state,
                        outside_ended: false,
                        inside_ended: false,
                        questions: watch
                            .filter(|watch| {
                                self.own.is_asked(ends.outside) || watch.is_server(ends.outside)
                            })
                            .map(Questions::new),
                    },
                );
                None
            }
            None => Some(packet),
        }
    }

    pub(super) fn watch<'a>(&'a self, polled: &mut Vec<PollFd<'a>>) {
        for flow in self.flows.values() {
            let flags = match flow.state {
                Progress::Connecting { .. } => PollFlags::OUT,
                Progress::Open(handle) => {
                    let socket = self.sockets.get::<Socket<'_>>(handle);
                    let mut flags = PollFlags::empty();
                    if !flow.outside_ended && socket.can_send() {
                        flags |= PollFlags::IN;
                    }
                    let goes_on = match &flow.questions {
                        Some(questions) => {
                            questions.waits() || (socket.can_recv() && !questions.is_full())
                        }
                        None => socket.can_recv(),
                    };
                    if goes_on {
                        flags |= PollFlags::OUT;
                    }
                    flags
                }
            };
            if !flags.is_empty() {
                polled.push(PollFd::new(&flow.outside, flags));
            }
        }
    }

    /// Gives the stack the first packet of one connection that has been made, or could not be. False where there is
    /// none.
    pub(super) fn settle(&mut self, arrived: &mut VecDeque<Vec<u8>>) -> bool {
        let mut settled = None;
        for (ends, flow) in &self.flows {
            if let Progress::Connecting { since, .. } = &flow.state {
                let made = is_connected(&flow.outside);
                if made != Some(false) || since.elapsed() > PATIENCE {
                    settled = Some((*ends, made == Some(true)));
                    break;
                }
            }
        }
        let Some((ends, made)) = settled else {
            return false;
        };
        let Some(mut flow) = self.flows.remove(&ends) else {
            return false;
        };
        let Progress::Connecting { packet, .. } = flow.state else {
            return false;
        };
        arrived.push_back(packet);
        // Nobody listens: the stack refuses.
        if made && let Some(socket) = listening(ends) {
            flow.state = Progress::Open(self.sockets.add(socket));
            self.flows.insert(ends, flow);
        }
        true
    }

    /// Carries what can be carried, both ways, and forgets what is over.
    pub(super) fn carry(&mut self) {
        let sockets = &mut self.sockets;
        self.flows.retain(|_, flow| {
            let Progress::Open(handle) = flow.state else {
                return true;
            };
            let socket = sockets.get_mut::<Socket<'_>>(handle);
            if carry_out(flow, socket)
                .and_then(|()| carry_in(flow, socket))
                .is_err()
            {
                // Broken outside: the command is told by a reset.
                socket.abort();
            }
            let is_over = match socket.state() {
                // A reset that is still to be sent goes out in the next round.
                State::Closed => socket.remote_endpoint().is_none(),
                State::TimeWait => flow.inside_ended && flow.outside_ended,
                _ => false,
            };
            if is_over {
                sockets.remove(handle);
            }
            !is_over
        });
    }
}

/// From the command to outside.
fn carry_out(flow: &mut Flow, socket: &mut Socket<'_>) -> Result<(), Errno> {
    if let Some(questions) = &mut flow.questions
        && !questions.carry_out(&flow.outside, socket)?
    {
        return Ok(());
    }
    while socket.can_recv() {
        let sent = socket
            .recv(|data| {
                match rustix::net::send(&flow.outside, data, rustix::net::SendFlags::NOSIGNAL) {
                    Ok(count) => (count, Ok(count)),
                    Err(errno) => (0, Err(errno)),
                }
            })
            .map_err(|_| Errno::PIPE)?;
        match sent {
            Ok(0) | Err(Errno::AGAIN) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    // Everything is out, and no more will come.
    let has_ended =
        !socket.may_recv() && !matches!(socket.state(), State::Listen | State::SynReceived);
    if has_ended && !flow.inside_ended {
        flow.inside_ended = true;
        let _ = rustix::net::shutdown(&flow.outside, Shutdown::Write);
    }
    Ok(())
}

/// From outside to the command.
fn carry_in(flow: &mut Flow, socket: &mut Socket<'_>) -> Result<(), Errno> {
    if let Some(questions) = &mut flow.questions {
        if !flow.outside_ended && questions.carry_in(&flow.outside, socket)? {
            flow.outside_ended = true;
            socket.close();
        }
        return Ok(());
    }
    while !flow.outside_ended && socket.can_send() {
        let received = socket
            .send(|room| match rustix::io::read(&flow.outside, room) {
                Ok(count) => (count, Ok(count)),
                Err(errno) => (0, Err(errno)),
            })
            .map_err(|_| Errno::PIPE)?;
        match received {
            Ok(0) => {
                flow.outside_ended = true;
                socket.close();
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn listening(ends: Ends) -> Option<Socket<'static>> {
    let buffer = || SocketBuffer::new(vec![0; BUFFER_BYTES]);
    let mut socket = Socket::new(buffer(), buffer());
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    socket
        .listen(IpListenEndpoint {
            addr: Some(IpAddress::Ipv4(*ends.outside.ip())),
            port: ends.outside.port(),
        })
        .ok()?;
    Some(socket)
}

/// What is meant by an address of the command's network: the gateway's name server is the host's, all else of the
/// gateway is the host. `None` where there is no way to it.
pub(super) fn outside_of(ends: Ends, own: &Place) -> Option<SocketAddr> {
    let port = ends.outside.port();
    if own.is_internal {
        return None;
    }
    if *ends.outside.ip() != own.gateway {
        return Some(SocketAddr::V4(ends.outside));
    }
    if port == dns::PORT {
        return dns::servers().first().copied();
    }
    host_address().map(|address| SocketAddr::new(address, port))
}

/// The host's own address, as others see it.
pub(super) fn host_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    // Nothing is sent: this only asks which way it would go. The address is one for documentation.
    socket.connect(("192.0.2.1", 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

fn connect(to: SocketAddr) -> Option<OwnedFd> {
    let family = match to {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None).ok()?;
    let _ = rustix::net::sockopt::set_tcp_nodelay(&socket, true);
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Some(socket),
        Err(_) => None,
    }
}

/// Whether a connection has been made; `None` where it has failed.
fn is_connected(socket: &OwnedFd) -> Option<bool> {
    let mut polled = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::OUT)];
    let now = rustix::event::Timespec::default();
    match rustix::event::poll(&mut polled, Some(&now)) {
        Ok(0) | Err(Errno::INTR) => Some(false),
        Ok(_) => match rustix::net::sockopt::socket_error(socket) {
            Ok(Ok(())) => Some(true),
            _ => None,
        },
        Err(_) => None,
    }
}
