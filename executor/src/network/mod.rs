//! A private network: a network namespace with one interface, whose packets a thread of this process carries to
//! ordinary sockets of the host's network, as root and as an ordinary user alike.
//!
//! ```text
//! command ── eth0 ═ veth ═ peer (in a namespace of our own) ── packets ── stack ── sockets ── the host's network
//! ```
//! Nothing of it is on the host: no bridge, no address, no rule, no forwarding. When this process dies, however, the
//! namespaces go and everything with them.
//!
//! What leaves is TCP and UDP over IPv4; names are asked for at the gateway, which asks the host's name servers from
//! the host's side (so that one on 127.0.0.53 works). The gateway's other ports are the host, by its own address; what
//! listens on the host's 127.0.0.1 is out of reach.
//!
//! [`link`] makes the namespace; [`stack`] is the thread; [`tcp`], [`udp`] are what it carries; [`packet`] are frames as
//! values; [`publish`] is the way in.

mod dns;
mod link;
mod packet;
mod publish;
mod stack;
mod tcp;
mod udp;

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

pub use publish::{Port, Protocol};

/// Of the command.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 213, 47, 2);
/// Name server, and the host.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 213, 47, 1);
const PREFIX_BITS: u8 = 24;
/// The largest packet: few large ones cost less than many small ones, and nothing here is a wire.
const MTU: usize = 65_000;

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
    namespace: Arc<OwnedFd>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    published: Mutex<Vec<publish::Published>>,
}

impl Private {
    /// Makes one. Takes a millisecond or two; blocking.
    pub fn start() -> Result<Self, Error> {
        let link::Link { namespace, packets } = link::make()?;
        let stop = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)
            .map_err(|errno| Error::new("make a descriptor to stop the network by", errno))?;
        let stop = Arc::new(stop);
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("rbuild-network".to_owned())
            .spawn(move || {
                if let Err(error) = stack::run(&packets, &stopped) {
                    tracing::warn!(%error, "the private network stopped");
                }
            })
            .map_err(|error| Error::new("start the network's thread", error))?;
        Ok(Self {
            namespace: Arc::new(namespace),
            stop,
            thread: Some(thread),
            published: Mutex::default(),
        })
    }

    /// What a command joins ([`crate::spec::Network::Namespace`]).
    pub fn namespace(&self) -> &Arc<OwnedFd> {
        &self.namespace
    }

    /// Opens ports of the host for what listens in the network; returns them as they are bound.
    pub fn publish(&self, port: &Port) -> Result<std::net::SocketAddr, Error> {
        let published = publish::publish(port, &self.namespace)?;
        let address = published.address();
        self.published
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(published);
        Ok(address)
    }

    /// The resolv.conf of a command in here: the gateway, with the host's search domains and options.
    pub fn resolv_conf(&self) -> Vec<u8> {
        dns::resolv_conf()
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
