//! The namespace of a command's network, and a descriptor that has its packets: a TAP device's; or, where this process
//! may not have one, a socket's at the other end of a veth pair, in a second namespace where nothing else is. That takes
//! the kernel a millisecond more of work, half of it when it ends.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use super::{Error, MTU, Place, packet};
use crate::sys;

#[derive(Debug)]
pub(super) struct Link {
    pub(super) namespace: OwnedFd,
    /// Of each interface, in the order of their places.
    pub(super) packets: Vec<OwnedFd>,
}

/// The other end of a veth pair.
const OUTSIDE: &str = "peer";

/// Of the interface with this number.
fn inside_name(number: usize) -> String {
    format!("eth{number}")
}

/// What is done on the thread that made a link.
type Work = Box<dyn FnOnce() + Send>;
/// What came of it, and where that thread waits for more.
type Made = (Result<Link, Error>, Option<SyncSender<Work>>);

/// A namespace that is being made on a thread of its own, which ends in the namespaces that it made, or comes back and
/// goes on to be the network's.
#[derive(Debug)]
pub(super) struct Making {
    thread: JoinHandle<()>,
    /// What waits for where the command is; nothing is made where that is not told.
    places: SyncSender<Vec<Place>>,
    /// What it was told.
    told: Option<Vec<Place>>,
    made: Mutex<Receiver<Made>>,
}

/// A thread in this process's own network namespace that waits for its work. It ends where none comes.
#[derive(Debug)]
pub(super) struct Carrier {
    thread: JoinHandle<()>,
    work: SyncSender<Work>,
}

impl Carrier {
    pub(super) fn spawn() -> Result<Self, Error> {
        let (work, given) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("rbuild-network".to_owned())
            .spawn(move || carry(&given))
            .map_err(|error| Error::new("start the network's thread", error))?;
        Ok(Self { thread, work })
    }

    /// Gives it its work.
    pub(super) fn run(self, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
        // It waits for nothing else.
        let _ = self.work.send(Box::new(work));
        self.thread
    }
}

fn carry(given: &Receiver<Work>) {
    if let Ok(work) = given.recv() {
        work();
    }
}

impl Making {
    /// `inside` gives the command's namespace, where that is not to belong to this process's user namespace.
    pub(super) fn begin(
        inside: impl FnOnce() -> Option<OwnedFd> + Send + 'static,
    ) -> Result<Self, Error> {
        let (places, asked) = std::sync::mpsc::sync_channel(1);
        let (tell, made) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("rbuild-link".to_owned())
            .spawn(move || {
                let home = own_namespace();
                let link = make_here(inside, &asked);
                // An ordinary user has no right to the namespace that this process is in, once outside of it.
                if link.is_err() || home.and_then(|home| enter(&home)).is_err() {
                    let _ = tell.send((link, None));
                    return;
                }
                let (work, given) = std::sync::mpsc::sync_channel(1);
                let _ = tell.send((link, Some(work)));
                drop(tell);
                let _ = rustix::thread::set_name(c"rbuild-network");
                carry(&given);
            })
            .map_err(|error| Error::new("start the thread that makes the network", error))?;
        Ok(Self {
            thread,
            places,
            told: None,
            made: Mutex::new(made),
        })
    }

    /// Says where the command is, one place an interface, which then is not waited for. The first word counts.
    pub(super) fn tell(&mut self, places: &[Place]) {
        if self.told.is_none() {
            self.told = Some(places.to_vec());
            // Where nobody listens, the thread has failed, and says why.
            let _ = self.places.send(places.to_vec());
        }
    }

    /// Waits for it; the thread comes with it where it can be of use.
    pub(super) fn finish(
        mut self,
        places: &[Place],
    ) -> Result<(Link, Vec<Place>, Option<Carrier>), Error> {
        self.tell(places);
        let Self {
            thread, told, made, ..
        } = self;
        let made = made.into_inner().unwrap_or_else(PoisonError::into_inner);
        let Ok((link, work)) = made.recv() else {
            return Err(Error::new(
                "make a network namespace",
                io::Error::other("its thread panicked"),
            ));
        };
        let carrier = work.map(|work| Carrier { thread, work });
        Ok((link?, told.unwrap_or_default(), carrier))
    }
}

fn make_here(
    inside: impl FnOnce() -> Option<OwnedFd>,
    places: &Receiver<Vec<Place>>,
) -> Result<Link, Error> {
    // It may still be in the making.
    let namespace = match inside() {
        Some(namespace) => {
            enter(&namespace)?;
            namespace
        }
        None => unshare()?,
    };
    super::let_users_listen();
    let mut packets = vec![interface(&namespace, 0)?];
    sys::network::loopback_up()
        .map_err(|error| Error::new("bring the loopback interface up", error))?;
    // Where it is may be known only now.
    let places = places
        .recv()
        .map_err(|error| Error::new("hear the network's address", io::Error::other(error)))?;
    let leads_out = places.iter().position(|place| !place.is_internal);
    for (number, place) in places.iter().enumerate() {
        if number > 0 {
            packets.push(interface(&namespace, number)?);
        }
        configure(number, place, leads_out == Some(number))
            .map_err(|error| Error::new("configure the network interface", error))?;
    }
    Ok(Link { namespace, packets })
}

/// Adds an interface to a namespace where a command runs. It gets the way out where `leads_out`.
pub(super) fn add(
    namespace: &Arc<OwnedFd>,
    number: usize,
    place: Place,
    leads_out: bool,
) -> Result<OwnedFd, Error> {
    within(namespace, move |namespace| {
        let packets = interface(namespace, number)?;
        configure(number, &place, leads_out)
            .map_err(|error| Error::new("configure the network interface", error))?;
        Ok(packets)
    })
}

/// Has the way out of a namespace go by another gateway.
pub(super) fn lead_out(namespace: &Arc<OwnedFd>, gateway: Ipv4Addr) -> Result<(), Error> {
    within(namespace, move |_| {
        sys::network::default_route(gateway)
            .map_err(|error| Error::new("change the way out of the network", error))
    })
}

/// Does something in a namespace, on a thread that ends there.
fn within<T: Send + 'static>(
    namespace: &Arc<OwnedFd>,
    work: impl FnOnce(&OwnedFd) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let namespace = Arc::clone(namespace);
    let thread = std::thread::Builder::new()
        .name("rbuild-link".to_owned())
        .spawn(move || {
            enter(&namespace)?;
            work(&namespace)
        })
        .map_err(|error| Error::new("start a thread for the network", error))?;
    match thread.join() {
        Ok(done) => done,
        Err(_) => Err(Error::new(
            "change the network",
            io::Error::other("its thread panicked"),
        )),
    }
}

/// Makes an interface in `namespace`, where this thread is; its packets.
fn interface(namespace: &OwnedFd, number: usize) -> Result<OwnedFd, Error> {
    let name = inside_name(number);
    match sys::network::tap(&name) {
        Ok(packets) => {
            configure_tap(&name).map_err(|error| Error::new("configure the TAP device", error))?;
            Ok(packets)
        }
        Err(error) => {
            tracing::debug!(%error, "there can be no TAP device, so it is a veth pair");
            pair(namespace, &name)
        }
    }
}

fn unshare() -> Result<OwnedFd, Error> {
    sys::unshare(UnshareFlags::NEWNET)
        .map_err(|error| Error::new("make a network namespace", error))?;
    own_namespace()
}

/// The device takes what a veth pair is made with; checksums it has none of unless it is asked for them.
fn configure_tap(name: &str) -> io::Result<()> {
    sys::network::interface_hardware_address(name, packet::INSIDE_MAC)?;
    sys::network::interface_mtu(name, MTU)
}

/// A pair with one end in `namespace`, where this thread is; the descriptor is the other one's.
fn pair(namespace: &OwnedFd, name: &str) -> Result<OwnedFd, Error> {
    let outside = unshare()?;
    enter(namespace)?;
    add_pair(&outside, name).map_err(|error| {
        Error::new(
            "make a pair of virtual network interfaces (is the kernel's module veth there?)",
            error,
        )
    })?;
    // Checksums are for wires; and without them being left out, packets come as they are meant.
    sys::network::interface_checksums_off(name)
        .map_err(|error| Error::new("configure the network interface", error))?;
    enter(&outside)?;
    let packets = sys::network::interface_up(OUTSIDE)
        .and_then(|()| sys::network::packet_socket(OUTSIDE))
        .map_err(|error| Error::new("listen to the network interface", error))?;
    enter(namespace)?;
    Ok(packets)
}

fn enter(namespace: &OwnedFd) -> Result<(), Error> {
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|errno| Error::new("enter the network namespace", errno))
}

fn own_namespace() -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, "/proc/thread-self/ns/net", flags, Mode::empty())
        .map_err(|errno| Error::new("open the network namespace", errno))
}

fn configure(number: usize, place: &Place, leads_out: bool) -> io::Result<()> {
    let name = inside_name(number);
    if place.hardware_address != packet::INSIDE_MAC {
        sys::network::interface_hardware_address(&name, place.hardware_address)?;
    }
    sys::network::interface_address(&name, place.address, place.prefix_bits)?;
    sys::network::interface_up(&name)?;
    if leads_out {
        sys::network::default_route(place.gateway)?;
    }
    Ok(())
}

/// Asks the kernel, by netlink, for an interface here and its other end in a namespace.
fn add_pair(outside: &OwnedFd, inside: &str) -> io::Result<()> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let request = pair_request(outside.as_raw_fd() as u32, inside);
    rustix::net::send(&socket, &request, SendFlags::empty())?;
    let mut answer = [0; 4096];
    let length = rustix::io::read(&socket, &mut answer)?;
    match error_of(answer.get(..length).unwrap_or_default()) {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(errno)),
        None => Err(io::Error::other("the kernel's answer was not understood")),
    }
}

/// The error number of an acknowledgement (0 is success).
fn error_of(answer: &[u8]) -> Option<i32> {
    const ERROR: u16 = 2;
    let kind = answer.get(4..6)?.try_into().ok().map(u16::from_ne_bytes)?;
    let errno = answer
        .get(16..20)?
        .try_into()
        .ok()
        .map(i32::from_ne_bytes)?;
    (kind == ERROR).then_some(-errno)
}

/// `RTM_NEWLINK` of a veth pair.
fn pair_request(outside: u32, inside: &str) -> Vec<u8> {
    const NEW_LINK: u16 = 16;
    const REQUEST_ACK_CREATE_EXCLUSIVE: u16 = 1 | 4 | 0x200 | 0x400;
    const IFLA_ADDRESS: u16 = 1;
    const IFLA_IFNAME: u16 = 3;
    const IFLA_MTU: u16 = 4;
    const IFLA_LINKINFO: u16 = 18;
    const IFLA_NET_NS_FD: u16 = 28;
    const IFLA_INFO_KIND: u16 = 1;
    const IFLA_INFO_DATA: u16 = 2;
    const VETH_INFO_PEER: u16 = 1;
    const INTERFACE_BYTES: usize = 16;
    let mtu = (MTU as u32).to_ne_bytes();
    let name = |name: &str| [name.as_bytes(), b"\0"].concat();
    let peer = [
        vec![0; INTERFACE_BYTES],
        attribute(IFLA_IFNAME, &name(OUTSIDE)),
        attribute(IFLA_MTU, &mtu),
        attribute(IFLA_ADDRESS, &packet::OUTSIDE_MAC),
        attribute(IFLA_NET_NS_FD, &outside.to_ne_bytes()),
    ]
    .concat();
    let info = [
        attribute(IFLA_INFO_KIND, b"veth"),
        attribute(IFLA_INFO_DATA, &attribute(VETH_INFO_PEER, &peer)),
    ]
    .concat();
    let body = [
        vec![0; INTERFACE_BYTES],
        attribute(IFLA_IFNAME, &name(inside)),
        attribute(IFLA_MTU, &mtu),
        attribute(IFLA_ADDRESS, &packet::INSIDE_MAC),
        attribute(IFLA_LINKINFO, &info),
    ]
    .concat();
    let mut request = Vec::with_capacity(16 + body.len());
    request.extend_from_slice(&((16 + body.len()) as u32).to_ne_bytes());
    request.extend_from_slice(&NEW_LINK.to_ne_bytes());
    request.extend_from_slice(&REQUEST_ACK_CREATE_EXCLUSIVE.to_ne_bytes());
    // Sequence and sender: one question, one answer.
    request.extend_from_slice(&[0; 8]);
    request.extend_from_slice(&body);
    request
}

/// Length, kind, value, padding to 4 bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + value.len());
    bytes.extend_from_slice(&((4 + value.len()) as u16).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_answers_read() {
        assert_eq!(attribute(3, b"a\0"), [6, 0, 3, 0, b'a', 0, 0, 0]);
        let request = pair_request(7, "eth0");
        assert_eq!(request.len() % 4, 0);
        assert_eq!(
            request.get(..4),
            Some(&(request.len() as u32).to_ne_bytes()[..])
        );
        let mut answer = vec![0; 20];
        answer[4] = 2;
        assert_eq!(error_of(&answer), Some(0));
        answer[16..20].copy_from_slice(&(-17_i32).to_ne_bytes());
        assert_eq!(error_of(&answer), Some(17));
        assert_eq!(error_of(b"short"), None);
    }
}
