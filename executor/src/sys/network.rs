//! Interfaces, addresses and routes of this thread's network namespace.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use super::check;

/// Brings `lo` up in the network namespace of this thread.
pub(crate) fn loopback_up() -> io::Result<()> {
    interface_up("lo")
}

/// Runs an ioctl on an interface of this thread's network namespace.
fn interface_call(
    name: &str,
    request: libc::c_ulong,
    fill: impl FnOnce(&mut libc::ifreq),
) -> io::Result<libc::ifreq> {
    // SAFETY: plain socket(2); the number is checked before it is owned.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        check(i64::from(fd))?;
        OwnedFd::from_raw_fd(fd)
    };
    let mut call = request_about(name);
    fill(&mut call);
    // SAFETY: the ioctl reads and writes only that structure, and what `fill` made it point to.
    check(i64::from(unsafe {
        libc::ioctl(socket.as_raw_fd(), request as _, &raw mut call)
    }))?;
    Ok(call)
}

fn request_about(name: &str) -> libc::ifreq {
    // SAFETY: all-zero is a valid `ifreq`.
    let mut call: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    let most = call.ifr_name.len() - 1;
    for (to, from) in call.ifr_name.iter_mut().take(most).zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    call
}

pub(crate) fn interface_up(name: &str) -> io::Result<()> {
    interface_call(name, libc::SIOCSIFFLAGS as _, |call| {
        call.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    })
    .map(drop)
}

/// Has the kernel compute checksums before packets leave the interface.
pub(crate) fn interface_checksums_off(name: &str) -> io::Result<()> {
    const ETHTOOL_SET_TX_CHECKSUMS: u32 = 0x17;
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    // `struct ethtool_value`.
    let mut value: [u32; 2] = [ETHTOOL_SET_TX_CHECKSUMS, 0];
    interface_call(name, SIOCETHTOOL, |call| {
        call.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    })
    .map(drop)
}

pub(crate) fn interface_address(
    name: &str,
    address: std::net::Ipv4Addr,
    prefix_bits: u8,
) -> io::Result<()> {
    interface_call(name, libc::SIOCSIFADDR as _, |call| {
        call.ifr_ifru.ifru_addr = inet(address);
    })?;
    let mask = u32::MAX
        .checked_shl(32 - u32::from(prefix_bits))
        .unwrap_or(0);
    interface_call(name, libc::SIOCSIFNETMASK as _, |call| {
        call.ifr_ifru.ifru_netmask = inet(mask.into());
    })
    .map(drop)
}

fn inet(address: std::net::Ipv4Addr) -> libc::sockaddr {
    let inet = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes(address.octets()),
        },
        sin_zero: [0; 8],
    };
    // SAFETY: both are plain numbers of 16 bytes; the family says which it is.
    unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(inet) }
}

pub(crate) fn default_route(gateway: std::net::Ipv4Addr) -> io::Result<()> {
    const UP_AND_GATEWAY: libc::c_ushort = 1 | 2;
    // SAFETY: plain socket(2); the number is checked before it is owned. All-zero is a valid `rtentry`, which the
    // ioctl only reads.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        check(i64::from(fd))?;
        let socket = OwnedFd::from_raw_fd(fd);
        let mut route: libc::rtentry = std::mem::zeroed();
        route.rt_dst = inet(std::net::Ipv4Addr::UNSPECIFIED);
        route.rt_genmask = inet(std::net::Ipv4Addr::UNSPECIFIED);
        route.rt_gateway = inet(gateway);
        route.rt_flags = UP_AND_GATEWAY;
        check(i64::from(libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCADDRT as _,
            &raw const route,
        )))
    }
}

pub(crate) fn interface_mtu(name: &str, bytes: usize) -> io::Result<()> {
    interface_call(name, libc::SIOCSIFMTU as _, |call| {
        call.ifr_ifru.ifru_mtu = bytes as libc::c_int;
    })
    .map(drop)
}

pub(crate) fn interface_hardware_address(name: &str, address: [u8; 6]) -> io::Result<()> {
    interface_call(name, libc::SIOCSIFHWADDR as _, |call| {
        let mut bytes = [0; 14];
        for (to, from) in bytes.iter_mut().zip(address) {
            *to = from as libc::c_char;
        }
        call.ifr_ifru.ifru_hwaddr = libc::sockaddr {
            sa_family: libc::ARPHRD_ETHER,
            sa_data: bytes,
        };
    })
    .map(drop)
}

/// A new TAP device of this thread's network namespace: a descriptor that has every frame of it, without waiting. The
/// device goes when the last copy of the descriptor is closed.
pub(crate) fn tap(name: &str) -> io::Result<OwnedFd> {
    let flags =
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
    let device = rustix::fs::open("/dev/net/tun", flags, rustix::fs::Mode::empty())?;
    let mut call = request_about(name);
    call.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the ioctl reads and writes only that structure.
    check(i64::from(unsafe {
        libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF as _, &raw mut call)
    }))?;
    Ok(device)
}

/// A socket that has every frame of an interface, without waiting.
pub(crate) fn packet_socket(name: &str) -> io::Result<OwnedFd> {
    let found = interface_call(name, libc::SIOCGIFINDEX as _, |_| {})?;
    // SAFETY: the call stored the index in this member.
    let index = unsafe { found.ifr_ifru.ifru_ifindex };
    let all = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: plain socket(2) and bind(2); the number is checked before it is owned, the address is whole and
    // outlives the call.
    unsafe {
        // Without a protocol nothing arrives before it is bound to the one interface.
        let fd = libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
            0,
        );
        check(i64::from(fd))?;
        let socket = OwnedFd::from_raw_fd(fd);
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = all;
        address.sll_ifindex = index;
        check(i64::from(libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )))?;
        // What this socket sends is not to come back to it (Linux 4.20).
        let one: libc::c_int = 1;
        check(i64::from(libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_IGNORE_OUTGOING,
            (&raw const one).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )))?;
        let size: libc::c_int = 4 << 20;
        // As much as the system allows.
        let _ = libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUF,
            (&raw const size).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
        Ok(socket)
    }
}
