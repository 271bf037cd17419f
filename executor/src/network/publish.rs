//! Published ports: listens on the host and speaks to what listens in the network. A thread that has opened its
//! socket on the host's side and has then moved into the namespace holds both ends.

use std::collections::HashMap;
use std::io;
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket,
};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::thread::LinkNameSpaceType;

use super::Error;

/// Of a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// As Docker writes it behind a port, `tcp`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A port of an address of the host's, for one of the network's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Port {
    pub host: IpAddr,
    /// 0: any that is free.
    pub host_port: u16,
    pub port: u16,
    pub protocol: Protocol,
}

impl Port {
    /// The network's port as images name it: `80/tcp`.
    pub fn inside(&self) -> String {
        format!("{}/{}", self.port, self.protocol.name())
    }
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let host = SocketAddr::new(self.host, self.host_port);
        write!(f, "{} at {host}", self.inside())
    }
}

/// Ends when it is dropped; connections that are open end with the network.
#[derive(Debug)]
pub(super) struct Published {
    port: Port,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Published {
    /// As it is bound.
    pub(super) fn port(&self) -> Port {
        self.port
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How often another port is tried where the one that was free at the first address is not at the next.
const TRIES: usize = 16;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Clients of a UDP port at once, and how long one is remembered.
const MOST_CLIENTS: usize = 1024;
const QUIET: Duration = Duration::from_secs(60);
const TICK: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

/// Whether the host has IPv6: so it can be published there.
pub fn has_ipv6() -> bool {
    UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

/// Publishes all of these ports, or none. Of those that may be any that is free (0) all get the same.
/// `own`: the address of what listens.
pub(super) fn publish(
    ports: &[Port],
    own: Ipv4Addr,
    namespace: &Arc<OwnedFd>,
) -> Result<Vec<Published>, Error> {
    let mut tries = TRIES;
    loop {
        let mut published: Vec<Published> = Vec::new();
        let mut free = 0;
        let done = ports.iter().try_for_each(|port| {
            let is_free = port.host_port == 0;
            let host_port = if is_free { free } else { port.host_port };
            let one = publish_one(Port { host_port, ..*port }, own, namespace)?;
            if is_free {
                free = one.port.host_port;
            }
            published.push(one);
            Ok(())
        });
        tries -= 1;
        match done {
            Ok(()) => return Ok(published),
            Err(Error { source, .. })
                if free != 0 && tries > 0 && source.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
}

fn publish_one(
    mut port: Port,
    own: Ipv4Addr,
    namespace: &Arc<OwnedFd>,
) -> Result<Published, Error> {
    let on_host = SocketAddr::new(port.host, port.host_port);
    let failed = |source: io::Error| Error::new(format!("publish {port}"), source);
    let stop =
        rustix::event::eventfd(0, EventfdFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
    let stop = Arc::new(stop);
    let inside = SocketAddr::from((own, port.port));
    let (stopped, namespace) = (Arc::clone(&stop), Arc::clone(namespace));
    let serve: Box<dyn FnOnce() + Send>;
    let address;
    match port.protocol {
        Protocol::Tcp => {
            let socket = bound(SocketType::STREAM, on_host).map_err(failed)?;
            rustix::net::listen(&socket, BACKLOG).map_err(|errno| failed(errno.into()))?;
            let listener = TcpListener::from(socket);
            address = listener.local_addr().map_err(failed)?;
            serve = Box::new(move || serve_tcp(&listener, inside, &stopped));
        }
        Protocol::Udp => {
            let socket = UdpSocket::from(bound(SocketType::DGRAM, on_host).map_err(failed)?);
            address = socket.local_addr().map_err(failed)?;
            serve = Box::new(move || serve_udp(&socket, inside, &stopped));
        }
    }
    let thread = std::thread::Builder::new()
        .name("rbuild-port".to_owned())
        .spawn(move || {
            let kind = Some(LinkNameSpaceType::Network);
            match rustix::thread::move_into_link_name_space(namespace.as_fd(), kind) {
                Ok(()) => serve(),
                Err(errno) => tracing::warn!(%errno, "a published port cannot be served"),
            }
        })
        .map_err(failed)?;
    port.host_port = address.port();
    Ok(Published {
        port,
        stop,
        thread: Some(thread),
    })
}

/// A socket at an address of the host. One at an IPv6 address is for IPv6 only, so that IPv4 has its own.
fn bound(kind: SocketType, address: SocketAddr) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, kind, flags, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if kind == SocketType::STREAM {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

fn serve_tcp(listener: &TcpListener, inside: SocketAddr, stop: &OwnedFd) {
    loop {
        let mut polled = [
            PollFd::new(stop, PollFlags::IN),
            PollFd::new(listener, PollFlags::IN),
        ];
        match rustix::event::poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
        if !polled[0].revents().is_empty() {
            return;
        }
        let Ok((client, _)) = listener.accept() else {
            continue;
        };
        // Here, because threads that are started from here are in the namespace as well.
        let started = std::thread::Builder::new()
            .name("rbuild-port".to_owned())
            .spawn(move || {
                if let Ok(server) = TcpStream::connect(inside) {
                    let _ = join(client, server);
                }
            });
        if started.is_err() {
            tracing::warn!("a connection to a published port was dropped: too many threads");
        }
    }
}

/// Copies both ways until both have ended.
fn join(client: TcpStream, server: TcpStream) -> io::Result<()> {
    client.set_nonblocking(false)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let there = std::thread::Builder::new().spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    })?;
    let (mut from_server, mut to_client) = (server, client);
    let copied = io::copy(&mut from_server, &mut to_client);
    let _ = to_client.shutdown(if copied.is_ok() {
        Shutdown::Write
    } else {
        Shutdown::Both
    });
    let _ = there.join();
    Ok(())
}

struct Client {
    socket: UdpSocket,
    used: Instant,
}

fn serve_udp(socket: &UdpSocket, inside: SocketAddr, stop: &OwnedFd) {
    let mut clients: HashMap<SocketAddr, Client> = HashMap::new();
    let mut buffer = vec![0; 65_536];
    loop {
        let mut polled = vec![
            PollFd::new(stop, PollFlags::IN),
            PollFd::new(socket, PollFlags::IN),
        ];
        polled.extend(
            clients
                .values()
                .map(|client| PollFd::new(&client.socket, PollFlags::IN)),
        );
        match rustix::event::poll(&mut polled, Some(&TICK)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
        if polled
            .first()
            .is_some_and(|stop| !stop.revents().is_empty())
        {
            return;
        }
        drop(polled);
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            if !clients.contains_key(&from)
                && clients.len() < MOST_CLIENTS
                && let Ok(client) = client(inside)
            {
                clients.insert(from, client);
            }
            if let Some(client) = clients.get_mut(&from) {
                client.used = Instant::now();
                let _ = client.socket.send(buffer.get(..length).unwrap_or_default());
            }
        }
        clients.retain(|address, client| {
            while let Ok(length) = client.socket.recv(&mut buffer) {
                client.used = Instant::now();
                let _ = socket.send_to(buffer.get(..length).unwrap_or_default(), address);
            }
            client.used.elapsed() < QUIET
        });
    }
}

fn client(inside: SocketAddr) -> io::Result<Client> {
    let socket = UdpSocket::bind((inside.ip(), 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(inside)?;
    Ok(Client {
        socket,
        used: Instant::now(),
    })
}
