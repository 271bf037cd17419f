//! The host's name servers: read when they are needed, so that what changes is noticed.

use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::GATEWAY;

const RESOLV_CONF: &str = "/etc/resolv.conf";
const MOST_BYTES: u64 = 64 << 10;
pub(super) const PORT: u16 = 53;

/// In the order in which they are to be asked.
pub(super) fn servers() -> Vec<SocketAddr> {
    parse(&read())
}

pub(super) fn resolv_conf() -> Vec<u8> {
    inside(&read()).into_bytes()
}

fn read() -> String {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut text = Vec::new();
    if let Ok(file) = rustix::fs::open(Path::new(RESOLV_CONF), flags, Mode::empty()) {
        // What can be read is used.
        let _ = std::fs::File::from(file)
            .take(MOST_BYTES)
            .read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn parse(text: &str) -> Vec<SocketAddr> {
    let mut servers: Vec<SocketAddr> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            if words.next()? != "nameserver" {
                return None;
            }
            let address: IpAddr = words.next()?.parse().ok()?;
            Some(SocketAddr::new(address, PORT))
        })
        .collect();
    if servers.is_empty() {
        // As the C library has it.
        servers.push(SocketAddr::from(([127, 0, 0, 1], PORT)));
    }
    servers
}

fn inside(text: &str) -> String {
    let mut inside = format!("nameserver {GATEWAY}\n");
    for line in text.lines() {
        if matches!(
            line.split_whitespace().next(),
            Some("search" | "domain" | "options")
        ) {
            inside.push_str(line);
            inside.push('\n');
        }
    }
    inside
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_the_hosts_and_the_gateway_inside() {
        let text = "# x\nnameserver 127.0.0.53\nsearch a b\nnameserver fe80::1%eth0\nnameserver 2001:db8::1\noptions edns0\n";
        let found: Vec<String> = parse(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["127.0.0.53:53", "[2001:db8::1]:53"]);
        assert_eq!(
            inside(text),
            "nameserver 10.213.47.1\nsearch a b\noptions edns0\n"
        );
        assert_eq!(parse(""), [SocketAddr::from(([127, 0, 0, 1], 53))]);
    }
}
