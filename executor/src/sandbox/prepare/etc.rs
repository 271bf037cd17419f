//! /etc/resolv.conf and /etc/hosts of a command.

use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::network::{self, Place};
use crate::spec::{Dns, Exec, Network};

/// Of the host's resolv.conf.
const MOST_RESOLV_CONF: u64 = 64 << 10;

/// The place in the network, where it is a private one.
fn private_place(network: &Network) -> Option<Place> {
    match network {
        Network::Private(network) => Some(network.place()),
        Network::Process { private, .. } => *private,
        Network::None | Network::Host | Network::Namespace(_) | Network::Later(_) => None,
    }
}

pub(in crate::sandbox) fn resolv_conf(exec: &Exec) -> Vec<u8> {
    let given = match private_place(&exec.network) {
        Some(place) => network::resolv_conf(place.gateway),
        None => read_bounded(Path::new("/etc/resolv.conf")).unwrap_or_default(),
    };
    if exec.dns == Dns::default() {
        return given;
    }
    replaced(&String::from_utf8_lossy(&given), &exec.dns).into_bytes()
}

/// A resolv.conf with other lines of the kinds that are asked for.
fn replaced(given: &str, dns: &Dns) -> String {
    let replaces = |keyword: &str| match keyword {
        "nameserver" => !dns.servers.is_empty(),
        "search" | "domain" => !dns.search.is_empty(),
        "options" => !dns.options.is_empty(),
        // Comments, and what nobody knows.
        _ => true,
    };
    let mut text = String::new();
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    for line in given.lines() {
        let keyword = line.split_whitespace().next().unwrap_or_default();
        if !replaces(keyword) {
            text.push_str(line);
            text.push('\n');
        }
    }
    if !dns.search.is_empty() && dns.search != ["."] {
        text.push_str(&format!("search {}\n", dns.search.join(" ")));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    text
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = std::fs::File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let mut content = Vec::new();
    file.take(MOST_RESOLV_CONF).read_to_end(&mut content)?;
    Ok(content)
}

/// What every machine's file names too.
const IP6_NAMES: &str = "fe00::0\tip6-localnet\nff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

pub(in crate::sandbox) fn hosts(exec: &Exec) -> Vec<u8> {
    // By both names, the full one first.
    let hostname = match exec.domainname.as_str() {
        "" => exec.hostname.clone(),
        domain => format!("{name}.{domain} {name}", name = exec.hostname),
    };
    let place = private_place(&exec.network);
    let private = place.is_some();
    // In a network of its own, a host is known by its address there.
    let own = if private {
        String::new()
    } else {
        format!(" {hostname}")
    };
    let mut text = format!(
        "127.0.0.1\tlocalhost{own}\n::1\tlocalhost ip6-localhost ip6-loopback\n{IP6_NAMES}"
    );
    let gateway = place.map(|place| place.gateway.to_string());
    if let Some(place) = place {
        text.push_str(&format!("{}\t{hostname}\n", place.address));
    }
    for (host, address) in &exec.hosts {
        // The host as seen from inside.
        let address = match address.as_str() {
            "host-gateway" => gateway.as_deref().unwrap_or("127.0.0.1"),
            address => address,
        };
        text.push_str(&format!("{address}\t{host}\n"));
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_resolv_conf_are_replaced_by_kind() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let given = "# of the host\nnameserver 10.0.0.1\nsearch a b\noptions edns0\n";
        let dns = |servers: &[&str], search: &[&str], options: &[&str]| Dns {
            servers: words(servers),
            search: words(search),
            options: words(options),
        };
        assert_eq!(
            replaced(given, &dns(&["9.9.9.9"], &[], &[])),
            "nameserver 9.9.9.9\nsearch a b\noptions edns0\n"
        );
        assert_eq!(
            replaced(given, &dns(&[], &["c", "d"], &["ndots:2"])),
            "nameserver 10.0.0.1\nsearch c d\noptions ndots:2\n"
        );
        assert_eq!(
            replaced(given, &dns(&[], &["."], &[])),
            "nameserver 10.0.0.1\noptions edns0\n"
        );
    }
}
