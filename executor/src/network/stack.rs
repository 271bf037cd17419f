//! The thread: waits for frames and sockets, and carries.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use smoltcp::iface::{Config, Interface};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

use super::neighbours::Switch;
use super::packet::{self, Ends, HEADER_BYTES, Seen};
use super::tcp::Connections;
use super::udp::Conversations;
use super::{MTU, Place, Sides, Watch, Watched, dns};

/// Frames that are read before others have their turn.
const FRAMES_AT_ONCE: usize = 64;
/// How often things are looked at that nothing reports.
const TICK: Duration = Duration::from_secs(5);

/// What the thread is told; told twice before it listens, they add up.
pub(super) const STOP: u64 = 1 << 32;
pub(super) const FORGET: u64 = 1;

/// Carries until it is told to stop.
pub(super) fn run(packets: &OwnedFd, stop: &OwnedFd, own: Place, sides: Sides) -> io::Result<()> {
    let mut line = Line {
        packets,
        own,
        switch: sides.neighbours.map(Switch::new),
        watched: sides.watched,
        arrived: VecDeque::new(),
    };
    let mut interface = interface(&mut line);
    let mut connections = Connections::new(own);
    let mut conversations = Conversations::new(own);
    let mut buffer = vec![0; MTU + HEADER_BYTES + 64];
    loop {
        let now = Instant::now();
        let soon = interface
            .poll_delay(now, &connections.sockets)
            .map_or(TICK, |delay| Duration::from_micros(delay.total_micros()));
        let mut polled = vec![
            PollFd::new(stop, PollFlags::IN),
            PollFd::new(packets, PollFlags::IN),
        ];
        connections.watch(&mut polled);
        conversations.watch(&mut polled);
        if let Some(switch) = &line.switch {
            switch.watch(&mut polled);
        }
        let timeout = Timespec::try_from(soon.min(TICK)).unwrap_or(Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        });
        match rustix::event::poll(&mut polled, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let is_ready = |place: usize| {
            polled
                .get(place)
                .is_some_and(|polled| !polled.revents().is_empty())
        };
        let (is_told, has_frames) = (is_ready(0), is_ready(1));
        drop(polled);
        if is_told {
            let mut told = [0; 8];
            let _ = rustix::io::read(stop, &mut told);
            if u64::from_ne_bytes(told) >= STOP {
                return Ok(());
            }
            connections = Connections::new(own);
            conversations = Conversations::new(own);
        }
        if has_frames {
            line.read(&mut buffer, &mut connections, &mut conversations)?;
        }
        if let Some(switch) = &mut line.switch {
            // Nobody is there: the stack refuses what can be refused.
            for frame in switch.settle() {
                line.arrived
                    .push_back(frame.get(HEADER_BYTES..).unwrap_or_default().to_vec());
            }
        }
        // A connection that was made outside is let in by its first packet, which was kept.
        while connections.settle(&mut line.arrived) {
            interface.poll(Instant::now(), &mut line, &mut connections.sockets);
        }
        interface.poll(Instant::now(), &mut line, &mut connections.sockets);
        connections.carry();
        let watch = line.watch();
        conversations.carry(&mut buffer, watch.as_deref(), &|frame| line.write(frame));
        interface.poll(Instant::now(), &mut line, &mut connections.sockets);
    }
}

fn interface(line: &mut Line<'_>) -> Interface {
    let Place {
        gateway,
        prefix_bits,
        ..
    } = line.own;
    let mut interface = Interface::new(Config::new(HardwareAddress::Ip), line, Instant::now());
    interface.update_ip_addrs(|addresses| {
        // There is room for one.
        let _ = addresses.push(IpCidr::new(IpAddress::Ipv4(gateway), prefix_bits));
    });
    // Whoever the command speaks to, it is us; and everything for it goes the one way.
    interface.set_any_ip(true);
    let _ = interface.routes_mut().add_default_ipv4_route(gateway);
    interface
}

/// The other end of the command's interface.
struct Line<'a> {
    packets: &'a OwnedFd,
    /// Where the command is.
    own: Place,
    switch: Option<Switch>,
    watched: Watched,
    /// Packets for the stack.
    arrived: VecDeque<Vec<u8>>,
}

impl Line<'_> {
    fn read(
        &mut self,
        buffer: &mut [u8],
        connections: &mut Connections,
        conversations: &mut Conversations,
    ) -> io::Result<()> {
        for _ in 0..FRAMES_AT_ONCE {
            let length = match rustix::io::read(self.packets, &mut *buffer) {
                Ok(length) => length,
                // The interface is down as soon as the command's namespace is gone.
                Err(Errno::AGAIN | Errno::INTR | Errno::NETDOWN) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            };
            let frame = buffer.get(..length).unwrap_or_default();
            let packet = || frame.get(HEADER_BYTES..).unwrap_or_default().to_vec();
            if let Some(switch) = &mut self.switch
                && let Some(to) = packet::destination(frame).filter(|to| self.own.has_beside(*to))
            {
                if !switch.forward(to, frame) {
                    self.arrived.push_back(packet());
                }
                continue;
            }
            match packet::look(frame, &self.own) {
                Seen::Arp(answer) => self.write(&answer),
                Seen::Connect(ends) if !self.permits(ends.outside) => {
                    // The stack refuses.
                    self.arrived.push_back(packet());
                }
                Seen::Connect(ends) => {
                    if let Some(packet) = connections.asked(ends, packet(), self.watch()) {
                        self.arrived.push_back(packet);
                    }
                }
                Seen::Ping(to) => {
                    if self.watch().is_some_and(|watch| !watch.has(to, None)) {
                        self.refuse(frame);
                    }
                }
                Seen::Other => self.arrived.push_back(packet()),
                Seen::Datagram(ends, data) => match self.answer(ends, data) {
                    Some(answer) => {
                        let to = self.own.hardware_address;
                        self.write(&packet::datagram(ends, &answer, to));
                    }
                    None if conversations.has(ends) || self.permits(ends.outside) => {
                        conversations.send(ends, data);
                    }
                    None => self.refuse(frame),
                },
                Seen::Nothing => {}
            }
        }
        Ok(())
    }

    /// To a question for a neighbour's name, whichever server it is for; or for one that may not be reached.
    fn answer(&self, ends: Ends, data: &[u8]) -> Option<Vec<u8>> {
        if let Some(switch) = &self.switch
            && ends.outside.port() == dns::PORT
            && let Some(answer) = switch.answer(data, &self.own)
        {
            return Some(answer);
        }
        let watch = self.watch()?;
        let is_question = self.own.is_asked(ends.outside) || watch.is_server(ends.outside);
        is_question.then(|| watch.refusal(data)).flatten()
    }

    fn watch(&self) -> Option<Arc<Watch>> {
        let watched = self.watched.lock();
        watched.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether what is new may go to an address. Names are asked for by everybody.
    fn permits(&self, to: SocketAddrV4) -> bool {
        let permits = |watch: Arc<Watch>| watch.is_server(to) || watch.permits(to);
        self.own.is_asked(to) || self.watch().is_none_or(permits)
    }

    /// Has the command hear at once that a packet does not arrive.
    fn refuse(&self, frame: &[u8]) {
        if let Some(refusal) = packet::unreachable(frame, self.own.hardware_address) {
            self.write(&refusal);
        }
    }

    /// What cannot be written is lost, as packets may be.
    fn write(&self, frame: &[u8]) {
        let _ = rustix::io::write(self.packets, frame);
    }
}

impl Device for Line<'_> {
    type RxToken<'a>
        = Arrived
    where
        Self: 'a;
    type TxToken<'a>
        = Leaving<'a>
    where
        Self: 'a;

    fn receive(&mut self, _: Instant) -> Option<(Arrived, Leaving<'_>)> {
        let packet = self.arrived.pop_front()?;
        Some((
            Arrived(packet),
            Leaving {
                packets: self.packets,
                to: self.own.hardware_address,
            },
        ))
    }

    fn transmit(&mut self, _: Instant) -> Option<Leaving<'_>> {
        Some(Leaving {
            packets: self.packets,
            to: self.own.hardware_address,
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        // No wire is in between: what arrives is whole, and may have been sent without checksums.
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities.checksum.udp = Checksum::Tx;
        capabilities.checksum.icmpv4 = Checksum::Tx;
        capabilities
    }
}

struct Arrived(Vec<u8>);

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

struct Leaving<'a> {
    packets: &'a OwnedFd,
    to: packet::HardwareAddress,
}

impl TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut frame = packet::frame_for(length, self.to);
        let result = fill(frame.get_mut(HEADER_BYTES..).unwrap_or_default());
        let _ = rustix::io::write(self.packets, &frame);
        result
    }
}
