//! A private network: a network namespace with one interface, whose packets a thread of this process carries to
//! ordinary sockets of the host's network, as root and as an ordinary user alike.
//!
//! ```text
//! command ── eth0 (a TAP device, or a veth pair's end) ── packets ── stack ── sockets ── the host's network
//! ```
//! Nothing of it is on the host: no bridge, no address, no rule, no forwarding. When this process dies, however, the
//! namespaces go and everything with them.
//!
//! What leaves is TCP and UDP over IPv4; names are asked for at the gateway, which asks the host's name servers from
//! the host's side (so that one on 127.0.0.53 works). The gateway's other ports are the host, by its own address; what
//! listens on the host's 127.0.0.1 is out of reach.
//!
//! Networks of one owner may know each other: packets between them go from line to line ([`neighbours`]). A command may
//! be in several such networks, with an interface and a thread for each.
//!
//! [`link`] makes the namespace; [`stack`] is the thread; [`tcp`], [`udp`] are what it carries; [`packet`] are frames as
//! values; [`publish`] is the way in. A command that may not reach everything has a [`watch`] with a [`reach`].

mod dns;
mod link;
mod neighbours;
mod packet;
mod publish;
mod questions;
mod reach;
mod stack;
mod tcp;
mod udp;
mod watch;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;

pub use neighbours::{Neighbours, Way};
pub use packet::HardwareAddress;
pub use publish::{Port, Protocol, has_ipv6};
pub use reach::{Pattern, Reach};
pub use watch::{Refused, Watch};

use crate::host::Host;
use crate::spec::Users;

/// Of a command that is nobody's neighbour.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 213, 47, 2);
/// Name server, and the host.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 213, 47, 1);
/// How long the network's part of these addresses is.
pub const PREFIX_BITS: u8 = 22;
/// How many addresses there are for neighbours ([`neighbour`]).
pub const NEIGHBOURS: u32 = 1020;
/// Packets of a command that has ended which may not have been read yet: more than an interface's queue holds.
const MOST_LEFT: usize = 4096;
/// The largest packet: few large ones cost less than many small ones, and nothing here is a wire.
const MTU: usize = 65_000;

/// Lets everybody listen on all ports of the network namespace that this thread is in: there it is nothing that root
/// should keep to itself. With a /proc that is read-only it stays as it is.
pub(crate) fn let_users_listen() {
    let _ = std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
}

/// The address of a neighbour by its number, which is less than [`NEIGHBOURS`].
pub fn neighbour(number: u32) -> Ipv4Addr {
    const FIRST: u32 = u32::from_be_bytes([10, 213, 44, 1]);
    // The last ones make room for the host and for who is nobody's neighbour.
    let skipped = if FIRST + number < GATEWAY.to_bits() {
        0
    } else {
        2
    };
    Ipv4Addr::from_bits(FIRST + number % NEIGHBOURS + skipped)
}

/// Where a command is in a network: what its interface is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Place {
    pub address: Ipv4Addr,
    /// Name server, and the host.
    pub gateway: Ipv4Addr,
    pub prefix_bits: u8,
    pub hardware_address: HardwareAddress,
    /// Nothing leads out: only neighbours are reached, and no names but theirs are known.
    pub is_internal: bool,
}

impl Place {
    /// Of a command that is nobody's neighbour.
    pub const ALONE: Self = Self::at(ADDRESS);

    /// In the network that is there unless another is asked for.
    pub const fn at(address: Ipv4Addr) -> Self {
        Self {
            address,
            gateway: GATEWAY,
            prefix_bits: PREFIX_BITS,
            hardware_address: packet::INSIDE_MAC,
            is_internal: false,
        }
    }

    /// Whether it is the name server.
    fn is_asked(&self, to: SocketAddrV4) -> bool {
        *to.ip() == self.gateway && to.port() == dns::PORT
    }

    /// Whether an address may be a neighbour's.
    fn has_beside(&self, address: Ipv4Addr) -> bool {
        let host_bits = 32 - u32::from(self.prefix_bits);
        let network = |address: Ipv4Addr| address.to_bits().checked_shr(host_bits);
        network(address) == network(self.gateway) && address != self.gateway && address != ADDRESS
    }
}

/// Why there is no private network.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}")]
pub struct Error {
    pub step: String,
    #[source]
    pub source: std::io::Error,
}

impl Error {
    fn new(step: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self {
            step: step.into(),
            source: source.into(),
        }
    }
}

/// A private network. Dropping it takes it away.
#[derive(Debug)]
#[must_use = "dropping it takes the network away"]
pub struct Private {
    host: Host,
    namespace: Arc<OwnedFd>,
    interfaces: Mutex<Vec<Interface>>,
    published: Mutex<Vec<publish::Published>>,
    watched: Watched,
}

/// By whom the command's packets are looked at; `None`: they go where they like.
type Watched = Arc<Mutex<Option<Arc<Watch>>>>;

/// What a line's thread knows besides its own place.
#[derive(Debug)]
struct Sides {
    neighbours: Option<Arc<dyn Neighbours>>,
    watched: Watched,
}

/// Dropping it takes it away.
#[derive(Debug)]
struct Interface {
    number: usize,
    place: Place,
    /// The thread's.
    packets: Weak<OwnedFd>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// A command's place in a network, and who else is in that.
#[derive(Debug, Clone)]
pub struct Membership {
    pub place: Place,
    pub neighbours: Arc<dyn Neighbours>,
}

/// A private network in the making, on a thread of its own.
#[derive(Debug)]
#[must_use = "nobody else finishes it"]
pub struct Ahead(link::Making);

impl Ahead {
    /// Begins to make one, for a command with such users.
    pub fn begin(host: &Host, users: Users) -> Result<Self, Error> {
        let host = host.clone();
        link::Making::begin(move || own_namespace(&host, users)).map(Self)
    }

    /// Says where the command is, one place an interface, as soon as that is known, so that nothing has to be done any
    /// more when it is finished beside others.
    pub fn tell(&mut self, places: &[Place]) {
        self.0.tell(places);
    }

    /// As one that knows no other. Blocking, where it is not yet made.
    pub fn finish(self, host: &Host) -> Result<Private, Error> {
        Private::on(host, self.0.finish(&[Place::ALONE])?, Vec::new())
    }

    /// As one that others reach, and that reaches others, in each of these networks. Blocking, where it is not yet made.
    pub fn finish_beside(
        self,
        host: &Host,
        memberships: Vec<Membership>,
    ) -> Result<Private, Error> {
        let places: Vec<Place> = memberships.iter().map(|it| it.place).collect();
        let neighbours = memberships.into_iter().map(|it| it.neighbours).collect();
        Private::on(host, self.0.finish(&places)?, neighbours)
    }
}

impl Private {
    /// Makes one that knows no other, for a command with such users: rights over it are theirs. Takes a millisecond or
    /// two; blocking.
    pub fn start(host: &Host, users: Users) -> Result<Self, Error> {
        Ahead::begin(host, users)?.finish(host)
    }

    fn on(
        host: &Host,
        (link, places, mut carrier): (link::Link, Vec<Place>, Option<link::Carrier>),
        neighbours: Vec<Arc<dyn Neighbours>>,
    ) -> Result<Self, Error> {
        let link::Link { namespace, packets } = link;
        let mut neighbours = neighbours.into_iter();
        let mut interfaces = Vec::new();
        let watched = Watched::default();
        for (number, (packets, place)) in packets.into_iter().zip(places).enumerate() {
            let carrier = carrier.take().map_or_else(link::Carrier::spawn, Ok)?;
            let sides = Sides {
                neighbours: neighbours.next(),
                watched: Arc::clone(&watched),
            };
            interfaces.push(Interface::start(
                host, number, packets, place, sides, carrier,
            )?);
        }
        Ok(Self {
            host: host.clone(),
            namespace: Arc::new(namespace),
            interfaces: Mutex::new(interfaces),
            published: Mutex::default(),
            watched,
        })
    }

    /// Has everything that the command begins from now on looked at.
    pub fn watch(&self, watch: Option<Arc<Watch>>) {
        *self.watched.lock().unwrap_or_else(PoisonError::into_inner) = watch;
    }

    /// Forgets everything of the command that was in here.
    fn forget(&self) {
        for interface in self.interfaces().iter() {
            // What it sent last is not to be taken for the next one's.
            if let Some(packets) = interface.packets.upgrade() {
                let mut beginning = [0; packet::HEADER_BYTES];
                for _ in 0..MOST_LEFT {
                    if rustix::io::read(&*packets, &mut beginning).is_err() {
                        break;
                    }
                }
            }
            signal(&interface.stop, stack::FORGET);
        }
    }

    fn interfaces(&self) -> std::sync::MutexGuard<'_, Vec<Interface>> {
        self.interfaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the command in here is, one place an interface.
    pub fn places(&self) -> Vec<Place> {
        self.interfaces().iter().map(|it| it.place).collect()
    }

    /// The place by which the command is known: of the network that leads out, if there is one.
    pub fn place(&self) -> Place {
        known_by(&self.places())
    }

    /// For a neighbour at an address of the command's to write packets to: what it reads is lost here. `None` where the
    /// command has no such address, or the network has stopped.
    pub fn line(&self, address: Ipv4Addr) -> Option<Arc<OwnedFd>> {
        let interfaces = self.interfaces();
        let interface = interfaces.iter().find(|it| it.place.address == address)?;
        interface.packets.upgrade()
    }

    /// What a command joins ([`crate::spec::Network::Namespace`]).
    pub fn namespace(&self) -> &Arc<OwnedFd> {
        &self.namespace
    }

    /// Brings the command into one more network, while it runs. Blocking.
    pub fn join(&self, membership: Membership) -> Result<(), Error> {
        let Membership { place, neighbours } = membership;
        let mut interfaces = self.interfaces();
        let number = interfaces.iter().map(|it| it.number + 1).max().unwrap_or(0);
        let leads_out = !place.is_internal && interfaces.iter().all(|it| it.place.is_internal);
        let packets = link::add(&self.namespace, number, place, leads_out)?;
        let carrier = link::Carrier::spawn()?;
        let sides = Sides {
            neighbours: Some(neighbours),
            watched: Arc::clone(&self.watched),
        };
        let host = &self.host;
        interfaces.push(Interface::start(
            host, number, packets, place, sides, carrier,
        )?);
        Ok(())
    }

    /// Takes the command out of the network where it has this address, while it runs. False where it is in none such.
    /// Blocking.
    pub fn leave(&self, address: Ipv4Addr) -> Result<bool, Error> {
        let mut interfaces = self.interfaces();
        let Some(at) = interfaces.iter().position(|it| it.place.address == address) else {
            return Ok(false);
        };
        let gone = interfaces.remove(at);
        let led_out = !gone.place.is_internal
            && interfaces
                .iter()
                .all(|it| it.place.is_internal || it.number > gone.number);
        drop(gone);
        let next = interfaces.iter().find(|it| !it.place.is_internal);
        if let Some(next) = next.filter(|_| led_out) {
            link::lead_out(&self.namespace, next.place.gateway)?;
        }
        Ok(true)
    }

    /// Opens ports of the host for what listens in the network, all of them or none; returns them as they are bound.
    /// Of those that may be any that is free (0) all get the same.
    pub fn publish(&self, ports: &[Port]) -> Result<Vec<Port>, Error> {
        let published = publish::publish(ports, self.place().address, &self.namespace)?;
        let bound = published.iter().map(publish::Published::port).collect();
        self.published
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(published);
        Ok(bound)
    }
}

impl Interface {
    fn start(
        host: &Host,
        number: usize,
        packets: OwnedFd,
        place: Place,
        sides: Sides,
        carrier: link::Carrier,
    ) -> Result<Self, Error> {
        let packets = Arc::new(packets);
        let line = Arc::downgrade(&packets);
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        let stop = rustix::event::eventfd(0, flags)
            .map_err(|errno| Error::new("make a descriptor to stop the network by", errno))?;
        let stop = Arc::new(stop);
        let stopped = Arc::clone(&stop);
        // The last of a device or a packet socket to be closed waits for the whole kernel to have seen it: the
        // spawner does.
        let (until, alive) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|errno| Error::new("make a pipe to hold the network by", errno))?;
        if let Err(error) = host.hold(packets.as_fd(), until.as_fd()) {
            tracing::debug!(%error, "the network is not held: its end is waited for");
        }
        let thread = carrier.run(move || {
            if let Err(error) = stack::run(&packets, &stopped, place, sides) {
                tracing::warn!(%error, "the private network stopped");
            }
            drop(packets);
            drop(alive);
        });
        Ok(Self {
            number,
            place,
            packets: line,
            stop,
            thread: Some(thread),
        })
    }

    fn has_stopped(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Interface {
    fn drop(&mut self) {
        signal(&self.stop, stack::STOP);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Of several places the one by which a command is known.
pub fn known_by(places: &[Place]) -> Place {
    let leads_out = places.iter().find(|place| !place.is_internal);
    leads_out
        .or(places.first())
        .copied()
        .unwrap_or(Place::ALONE)
}

/// The resolv.conf of a command in a private network: the gateway, with the host's search domains and options.
pub fn resolv_conf(gateway: Ipv4Addr) -> Vec<u8> {
    dns::resolv_conf(gateway)
}

/// Of the user namespace that the command is in; `None` where it is to be this process's.
///
/// Has the process made, too, that is to be in there: the spawner does it beside what follows here.
fn own_namespace(host: &Host, users: Users) -> Option<OwnedFd> {
    if let Some(counted) = host.counted() {
        return belonging(counted.network());
    }
    let inside = match users {
        Users::Host => None,
        _ => host.inside().ok(),
    };
    let namespace = inside.map(|inside| inside.network());
    host.begin_sandbox(users);
    belonging(namespace?)
}

fn belonging(namespace: std::io::Result<OwnedFd>) -> Option<OwnedFd> {
    namespace
        .inspect_err(
            |error| tracing::debug!(%error, "the network belongs to rbuild's user namespace"),
        )
        .ok()
}

/// Networks of commands that run one after the other: one that nobody uses any more is given to the next, which
/// spares it two milliseconds. Only for commands that cannot change their network, and all with the same users.
#[derive(Debug, Default)]
pub struct Pool {
    networks: Mutex<Vec<Arc<Private>>>,
    /// Of the first one, where it was begun before it was asked for.
    ahead: Mutex<Option<Ahead>>,
    begun: std::sync::OnceLock<()>,
}

impl Pool {
    /// Begins to make the first one, when it is clear that one will be needed. Once.
    pub fn begin(&self, host: &Host, users: Users) {
        self.begun.get_or_init(|| {
            // Where it cannot be begun, that is told when it is needed.
            *self.ahead() = Ahead::begin(host, users).ok();
        });
    }

    fn ahead(&self) -> std::sync::MutexGuard<'_, Option<Ahead>> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that nobody else has. It is free again when it is dropped everywhere else. Blocking.
    pub fn take(&self, host: &Host, users: Users) -> Result<Arc<Private>, Error> {
        let lock = || self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut networks = lock();
            networks.retain(|network| !network.interfaces().iter().any(Interface::has_stopped));
            let idle = networks
                .iter()
                .find(|network| Arc::strong_count(network) == 1);
            if let Some(network) = idle {
                // What it still carried was somebody else's.
                network.watch(None);
                network.forget();
                return Ok(Arc::clone(network));
            }
        }
        let ahead = self.ahead().take();
        let network = match ahead {
            Some(ahead) => ahead.finish(host)?,
            None => Private::start(host, users)?,
        };
        let network = Arc::new(network);
        lock().push(Arc::clone(&network));
        Ok(network)
    }
}

fn signal(stop: &OwnedFd, value: u64) {
    // It fails only when the counter is full, and then there is a signal already.
    let _ = rustix::io::write(stop, &value.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_neighbour_has_an_address_of_its_own_that_is_nobody_elses() {
        let all: std::collections::HashSet<_> = (0..NEIGHBOURS).map(neighbour).collect();
        assert_eq!(all.len(), NEIGHBOURS as usize);
        let own = Place::at(neighbour(0));
        assert!(all.iter().all(|address| own.has_beside(*address)));
        let last = Ipv4Addr::new(10, 213, 47, 255);
        assert!(!all.contains(&last) && !own.has_beside(GATEWAY) && !own.has_beside(ADDRESS));
        assert!(!own.has_beside(Ipv4Addr::new(10, 213, 48, 1)));
    }

    #[test]
    fn a_command_is_known_by_the_network_that_leads_out() {
        let out = Place::at(neighbour(3));
        let inner = Place {
            is_internal: true,
            ..Place::at(neighbour(4))
        };
        assert_eq!(known_by(&[inner, out]), out);
        assert_eq!(known_by(&[inner]), inner);
        assert_eq!(known_by(&[]), Place::ALONE);
    }
}
