//! Other private networks that a network knows: their addresses lie beside its own. A packet for one is written to
//! that one's line as it is, so that both ends see each other's true addresses, whatever they speak. Names of them are
//! answered here, before any server is asked.
//!
//! Who they are is the caller's to say ([`Neighbours`]). Finding one may take its time and is done on a thread of its
//! own; packets wait meanwhile.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};

use super::{Place, dns, packet};

/// Who else there is.
pub trait Neighbours: Send + Sync + std::fmt::Debug {
    /// The address of a name. Asked for every name that is asked for: it must not take long.
    fn address_of(&self, name: &str) -> Option<Ipv4Addr>;

    /// The way to whoever has an address. May take a while.
    fn way_to(&self, address: Ipv4Addr) -> Option<Way>;
}

/// To another network.
#[derive(Debug)]
pub struct Way {
    /// Its line ([`super::Private::line`]).
    pub packets: OwnedFd,
    pub hardware_address: packet::HardwareAddress,
    /// Ends when it does.
    pub alive: OwnedFd,
}

/// Packets that wait for a way to be found.
const MOST_WAITING: usize = 256;
/// How long it is believed that nobody is there.
const PATIENCE: Duration = Duration::from_secs(1);

enum Known {
    Asked(Vec<Vec<u8>>),
    Open(Way),
    Nobody(Instant),
}

type Found = (Ipv4Addr, Option<Way>);

/// What the network's thread knows of its neighbours.
pub(super) struct Switch {
    neighbours: Arc<dyn Neighbours>,
    known: HashMap<Ipv4Addr, Known>,
    finder: Option<Finder>,
}

struct Finder {
    ask: Sender<Ipv4Addr>,
    found: Receiver<Found>,
    wake: Arc<OwnedFd>,
}

impl Switch {
    pub(super) fn new(neighbours: Arc<dyn Neighbours>) -> Self {
        Self {
            neighbours,
            known: HashMap::new(),
            finder: None,
        }
    }

    pub(super) fn watch<'a>(&'a self, polled: &mut Vec<PollFd<'a>>) {
        if let Some(finder) = &self.finder {
            polled.push(PollFd::new(&*finder.wake, PollFlags::IN));
        }
        for known in self.known.values() {
            if let Known::Open(way) = known {
                polled.push(PollFd::new(&way.alive, PollFlags::IN));
            }
        }
    }

    /// Hands a frame on. False where nobody has the address.
    pub(super) fn forward(&mut self, to: Ipv4Addr, frame: &[u8]) -> bool {
        match self.known.get_mut(&to) {
            Some(Known::Open(way)) => {
                write(way, frame);
                return true;
            }
            Some(Known::Asked(waiting)) => {
                // More are lost, as packets may be.
                if waiting.len() < MOST_WAITING {
                    waiting.push(frame.to_vec());
                }
                return true;
            }
            Some(Known::Nobody(since)) if since.elapsed() < PATIENCE => return false,
            Some(Known::Nobody(_)) | None => {}
        }
        if self.finder.is_none() {
            self.finder = Finder::start(&self.neighbours);
        }
        let Some(finder) = &self.finder else {
            return false;
        };
        if finder.ask.send(to).is_err() {
            return false;
        }
        self.known.insert(to, Known::Asked(vec![frame.to_vec()]));
        true
    }

    /// Takes in what was found, and forgets who is gone. Returns frames for addresses that nobody has.
    pub(super) fn settle(&mut self) -> Vec<Vec<u8>> {
        let mut returned = Vec::new();
        self.known.retain(|_, known| match known {
            Known::Open(way) => !has_ended(way),
            Known::Nobody(since) => since.elapsed() < PATIENCE,
            Known::Asked(_) => true,
        });
        let Some(finder) = &self.finder else {
            return returned;
        };
        let mut counted = [0; 8];
        // It does not block.
        let _ = rustix::io::read(&*finder.wake, &mut counted);
        while let Ok((address, way)) = finder.found.try_recv() {
            let waiting = match self.known.remove(&address) {
                Some(Known::Asked(waiting)) => waiting,
                _ => Vec::new(),
            };
            let now = match way {
                Some(way) => {
                    for frame in &waiting {
                        write(&way, frame);
                    }
                    Known::Open(way)
                }
                None => {
                    returned.extend(waiting);
                    Known::Nobody(Instant::now())
                }
            };
            self.known.insert(address, now);
        }
        returned
    }

    /// Answers a question for the name of a neighbour; where nobody else may be asked, any question.
    pub(super) fn answer(&self, question: &[u8], own: &Place) -> Option<Vec<u8>> {
        let asked = dns::question(question)?;
        match self.neighbours.address_of(&asked.name) {
            Some(address) => Some(dns::answer(question, &asked, address)),
            None if own.is_internal => Some(dns::refusal(question, &asked)),
            None => None,
        }
    }
}

impl Finder {
    fn start(neighbours: &Arc<dyn Neighbours>) -> Option<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = Arc::new(rustix::event::eventfd(0, flags).ok()?);
        let (ask, asked) = std::sync::mpsc::channel();
        let (tell, found) = std::sync::mpsc::channel();
        let (neighbours, woken) = (Arc::clone(neighbours), Arc::clone(&wake));
        std::thread::Builder::new()
            .name("rbuild-neighbours".to_owned())
            .spawn(move || {
                // Until the network is gone.
                for address in asked {
                    if tell.send((address, neighbours.way_to(address))).is_err() {
                        return;
                    }
                    let _ = rustix::io::write(&*woken, &1_u64.to_ne_bytes());
                }
            })
            .ok()?;
        Some(Self { ask, found, wake })
    }
}

/// What cannot be written is lost, as packets may be.
fn write(way: &Way, frame: &[u8]) {
    let _ = rustix::io::write(
        &way.packets,
        &packet::readdressed(frame, way.hardware_address),
    );
}

fn has_ended(way: &Way) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(way.alive.as_fd(), PollFlags::IN)];
    let now = Timespec::default();
    // Nothing is ever said on it.
    !matches!(rustix::event::poll(&mut polled, Some(&now)), Ok(0))
}
