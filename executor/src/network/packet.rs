//! Frames and packets as values: what arrives is looked at, what is answered is built. Everything that arrives is the
//! command's and may be anything.

use std::net::{Ipv4Addr, SocketAddrV4};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr,
    TcpPacket, UdpPacket, UdpRepr,
};

use super::Place;

/// Of an interface.
pub type HardwareAddress = [u8; 6];

pub(super) const INSIDE_MAC: HardwareAddress = [0x02, 0x72, 0x62, 0, 0, 2];
pub(super) const OUTSIDE_MAC: HardwareAddress = [0x02, 0x72, 0x62, 0, 0, 1];
pub(super) const HEADER_BYTES: usize = 14;
const IP: [u8; 2] = [8, 0];
const ARP: [u8; 2] = [8, 6];
const HOPS: u8 = 64;
const ECHO_REQUEST: u8 = 8;

/// The two ends of a conversation, as the command sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ends {
    pub(super) inside: SocketAddrV4,
    pub(super) outside: SocketAddrV4,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen<'a> {
    /// The frame to answer with.
    Arp(Vec<u8>),
    /// A connection is asked for.
    Connect(Ends),
    /// Another segment of TCP, or a ping of the gateway: for the stack.
    Other,
    Datagram(Ends, &'a [u8]),
    /// Of somebody else, who does not hear it.
    Ping(Ipv4Addr),
    Nothing,
}

/// Where a packet goes.
pub(super) fn destination(frame: &[u8]) -> Option<Ipv4Addr> {
    if frame.get(12..HEADER_BYTES)? != IP {
        return None;
    }
    let ip = Ipv4Packet::new_checked(frame.get(HEADER_BYTES..)?).ok()?;
    Some(ip.dst_addr())
}

/// A frame that came from one command's interface, for another's.
pub(super) fn readdressed(frame: &[u8], to: HardwareAddress) -> Vec<u8> {
    let mut readdressed = header(IP, to);
    readdressed.extend_from_slice(frame.get(HEADER_BYTES..).unwrap_or_default());
    readdressed
}

/// Looks at a frame of the command that is at `own`.
pub(super) fn look<'f>(frame: &'f [u8], own: &Place) -> Seen<'f> {
    let (Some(kind), Some(body)) = (frame.get(12..HEADER_BYTES), frame.get(HEADER_BYTES..)) else {
        return Seen::Nothing;
    };
    if kind == ARP {
        return arp(body, own).map_or(Seen::Nothing, Seen::Arp);
    }
    if kind != IP {
        return Seen::Nothing;
    }
    ip(body, own.gateway).unwrap_or(Seen::Nothing)
}

fn ip(body: &[u8], gateway: Ipv4Addr) -> Option<Seen<'_>> {
    let ip = Ipv4Packet::new_checked(body).ok()?;
    // Pieces of packets do not occur: none is larger than what the interface takes.
    if ip.more_frags() || ip.frag_offset() != 0 {
        return None;
    }
    let (from, to) = (ip.src_addr(), ip.dst_addr());
    if to.is_multicast() || to.is_broadcast() || to.is_unspecified() || to.is_loopback() {
        return None;
    }
    match ip.next_header() {
        IpProtocol::Tcp => {
            let tcp = TcpPacket::new_checked(ip.payload()).ok()?;
            if tcp.syn() && !tcp.ack() && !tcp.rst() {
                let ends = Ends {
                    inside: SocketAddrV4::new(from, tcp.src_port()),
                    outside: SocketAddrV4::new(to, tcp.dst_port()),
                };
                return (ends.inside.port() != 0 && ends.outside.port() != 0)
                    .then_some(Seen::Connect(ends));
            }
            Some(Seen::Other)
        }
        IpProtocol::Udp => {
            let payload = ip.payload();
            let udp = UdpPacket::new_checked(payload).ok()?;
            let ends = Ends {
                inside: SocketAddrV4::new(from, udp.src_port()),
                outside: SocketAddrV4::new(to, udp.dst_port()),
            };
            let data = payload.get(8..usize::from(udp.len()))?;
            (ends.outside.port() != 0).then_some(Seen::Datagram(ends, data))
        }
        // Others cannot be asked for us; that they do not answer is not to be hidden.
        IpProtocol::Icmp if to == gateway => Some(Seen::Other),
        IpProtocol::Icmp if ip.payload().first() == Some(&ECHO_REQUEST) => Some(Seen::Ping(to)),
        _ => None,
    }
}

/// Whoever is asked for, it is us.
fn arp(body: &[u8], own: &Place) -> Option<Vec<u8>> {
    const REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];
    if body.get(..8)? != REQUEST {
        return None;
    }
    let (sender, wanted) = (body.get(8..18)?, body.get(24..28)?);
    // The command's own address is its own.
    if sender.get(6..)? == wanted || wanted == own.address.octets() {
        return None;
    }
    let mut frame = header(ARP, own.hardware_address);
    frame.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, 2]);
    frame.extend_from_slice(&OUTSIDE_MAC);
    frame.extend_from_slice(wanted);
    frame.extend_from_slice(sender);
    Some(frame)
}

fn header(kind: [u8; 2], to: HardwareAddress) -> Vec<u8> {
    let mut frame = Vec::with_capacity(64);
    frame.extend_from_slice(&to);
    frame.extend_from_slice(&OUTSIDE_MAC);
    frame.extend_from_slice(&kind);
    frame
}

/// A frame with room for a packet of this length.
pub(super) fn frame_for(length: usize, to: HardwareAddress) -> Vec<u8> {
    let mut frame = header(IP, to);
    frame.resize(HEADER_BYTES + length, 0);
    frame
}

/// A datagram from outside as a frame.
pub(super) fn datagram(ends: Ends, data: &[u8], hardware_address: HardwareAddress) -> Vec<u8> {
    let udp = UdpRepr {
        src_port: ends.outside.port(),
        dst_port: ends.inside.port(),
    };
    let (from, to): (Ipv4Addr, Ipv4Addr) = (*ends.outside.ip(), *ends.inside.ip());
    let ip = Ipv4Repr {
        src_addr: from,
        dst_addr: to,
        next_header: IpProtocol::Udp,
        payload_len: udp.header_len() + data.len(),
        hop_limit: HOPS,
    };
    let checksums = ChecksumCapabilities::default();
    let mut frame = frame_for(ip.buffer_len() + ip.payload_len, hardware_address);
    let body = frame.get_mut(HEADER_BYTES..).unwrap_or_default();
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut *body), &checksums);
    let rest = body.get_mut(ip.buffer_len()..).unwrap_or_default();
    udp.emit(
        &mut UdpPacket::new_unchecked(rest),
        &IpAddress::Ipv4(from),
        &IpAddress::Ipv4(to),
        data.len(),
        |buffer| buffer.copy_from_slice(data),
        &checksums,
    );
    frame
}

/// As a frame that a packet may not go where it was to go.
pub(super) fn unreachable(frame: &[u8], hardware_address: HardwareAddress) -> Option<Vec<u8>> {
    /// Of the packet; its ports are among them.
    const QUOTED_BYTES: usize = 8;
    let refused = Ipv4Packet::new_checked(frame.get(HEADER_BYTES..)?).ok()?;
    let payload = refused.payload();
    let data = payload.get(..QUOTED_BYTES).unwrap_or(payload);
    let icmp = Icmpv4Repr::DstUnreachable {
        reason: Icmpv4DstUnreachable::CommProhibited,
        header: Ipv4Repr {
            src_addr: refused.src_addr(),
            dst_addr: refused.dst_addr(),
            next_header: refused.next_header(),
            payload_len: payload.len(),
            hop_limit: refused.hop_limit(),
        },
        data,
    };
    let ip = Ipv4Repr {
        src_addr: refused.dst_addr(),
        dst_addr: refused.src_addr(),
        next_header: IpProtocol::Icmp,
        payload_len: icmp.buffer_len(),
        hop_limit: HOPS,
    };
    let checksums = ChecksumCapabilities::default();
    let mut frame = frame_for(ip.buffer_len() + ip.payload_len, hardware_address);
    let body = frame.get_mut(HEADER_BYTES..)?;
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut *body), &checksums);
    let rest = body.get_mut(ip.buffer_len()..)?;
    icmp.emit(&mut Icmpv4Packet::new_unchecked(rest), &checksums);
    Some(frame)
}

#[cfg(test)]
mod tests {
    use super::super::GATEWAY;
    use super::*;
    use proptest::prelude::*;

    fn ends() -> Ends {
        Ends {
            inside: "10.213.47.2:4000".parse().expect("an address"),
            outside: "192.0.2.7:53".parse().expect("an address"),
        }
    }

    #[test]
    fn datagrams_are_built_as_they_are_read() {
        let back = Ends {
            inside: ends().outside,
            outside: ends().inside,
        };
        let frame = datagram(ends(), b"hello", INSIDE_MAC);
        // What goes in has the ends the other way round.
        assert_eq!(look(&frame, &Place::ALONE), Seen::Datagram(back, b"hello"));
        assert_eq!(
            look(&datagram(ends(), b"", INSIDE_MAC), &Place::ALONE),
            Seen::Datagram(back, b"")
        );
    }

    #[test]
    fn a_refusal_quotes_what_is_refused() {
        let frame = datagram(ends(), b"hello", INSIDE_MAC);
        let refusal = unreachable(&frame, INSIDE_MAC).expect("a refusal");
        assert_eq!(destination(&refusal), Some(*ends().outside.ip()));
        let body = refusal.get(HEADER_BYTES + 20..).expect("what it says");
        assert_eq!(body.get(..2), Some(&[3, 13][..]));
        // Ports and length of the datagram.
        assert_eq!(body.get(28..34), frame.get(34..40));
        assert_eq!(unreachable(&frame[..20], INSIDE_MAC), None);
    }

    #[test]
    fn a_packet_for_a_neighbour_is_the_same_packet() {
        let frame = datagram(ends(), b"hello", INSIDE_MAC);
        let mut from = frame.clone();
        from[..12].fill(7);
        assert_eq!(readdressed(&from, INSIDE_MAC), frame);
        assert_eq!(destination(&from), Some(*ends().inside.ip()));
        assert_eq!(destination(&frame[..20]), None);
    }

    #[test]
    fn everybody_is_at_our_address_but_the_command() {
        let mut request = header(ARP, INSIDE_MAC);
        request.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
        request.extend_from_slice(&INSIDE_MAC);
        request.extend_from_slice(&[10, 213, 47, 2]);
        request.extend_from_slice(&[0; 6]);
        request.extend_from_slice(&GATEWAY.octets());
        let Seen::Arp(answer) = look(&request, &Place::ALONE) else {
            panic!("no answer");
        };
        assert_eq!(answer.get(28..32), Some(&GATEWAY.octets()[..]));
        let length = request.len();
        request[length - 1] = 2;
        assert_eq!(look(&request, &Place::ALONE), Seen::Nothing);
    }

    proptest! {
        #[test]
        fn any_frame_can_be_looked_at(mut frame in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..3) {
            if let Some(bytes) = frame.get_mut(12..14) {
                match kind {
                    0 => bytes.copy_from_slice(&IP),
                    1 => bytes.copy_from_slice(&ARP),
                    _ => {}
                }
            }
            if let (0, Some(version)) = (kind, frame.get_mut(14)) {
                *version = 0x45;
            }
            let _ = look(&frame, &Place::ALONE);
            let _ = unreachable(&frame, INSIDE_MAC);
        }
    }
}
