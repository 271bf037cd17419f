//! Which hosts are spoken to without a proxy: this machine, and what `NO_PROXY` names as Go's `httpproxy` reads it.
//!
//! Addresses, networks (`10.0.0.0/8`), domains and `*` the HTTP library knows itself. Here is what it does not: a port
//! (`registry.example.com:5000`), and `*.example.com`, which is all below.

use std::net::IpAddr;

use url::{Host, Url};

/// The entries that have a port or a `*.`.
#[derive(Debug, Default)]
pub(super) struct Direct(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    host: Name,
    port: Option<u16>,
}

#[derive(Debug)]
enum Name {
    Address(IpAddr),
    /// With a dot in front; whether the domain itself is meant, too.
    Below(String, bool),
}

impl Direct {
    /// Reads `NO_PROXY`. What is no host with a port is left to others.
    pub(super) fn read(text: &str) -> Self {
        Self(
            text.split(',')
                .filter_map(|part| entry(part.trim()))
                .collect(),
        )
    }

    pub(super) fn has(&self, url: &Url) -> bool {
        is_loopback(url) || self.0.iter().any(|entry| entry.is_of(url))
    }
}

fn entry(text: &str) -> Option<Entry> {
    let text = text.to_ascii_lowercase();
    if let Ok(address) = text.parse() {
        let host = Name::Address(address);
        return Some(Entry { host, port: None });
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse().ok()?)),
        None => (&*text, None),
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let host = match bare.parse() {
        Ok(address) => Name::Address(address),
        Err(_) if bare.is_empty() || bare == "*" || bare.contains('/') => return None,
        Err(_) => match bare.strip_prefix('*').unwrap_or(bare) {
            below if below.starts_with('.') => Name::Below(below.to_owned(), false),
            whole => Name::Below(format!(".{whole}"), true),
        },
    };
    Some(Entry { host, port })
}

impl Entry {
    fn is_of(&self, url: &Url) -> bool {
        let is_host = match (url.host(), &self.host) {
            (Some(Host::Ipv4(host)), Name::Address(address)) => *address == host,
            (Some(Host::Ipv6(host)), Name::Address(address)) => *address == host,
            (Some(Host::Domain(host)), Name::Below(below, itself)) => {
                let host = host.to_ascii_lowercase();
                host.ends_with(below) || *itself && Some(&*host) == below.strip_prefix('.')
            }
            _ => false,
        };
        is_host && (self.port.is_none() || self.port == url.port_or_known_default())
    }
}

pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_go_reads_it() {
        for (entries, url, is_direct) in [
            ("a.example:5000", "http://a.example:5000/v2/", true),
            ("a.example:5000", "http://b.a.example:5000/v2/", true),
            ("a.example:5000", "http://aa.example:5000/v2/", false),
            ("a.example:5000", "http://a.example/v2/", false),
            ("a.example:443", "https://A.example/v2/", true),
            ("a.example:443", "http://a.example/v2/", false),
            (" x, .a.example:80 ", "http://b.a.example/", true),
            (".a.example:80", "http://a.example/", false),
            ("*.a.example", "https://b.a.example:5000/", true),
            ("*.a.example", "https://a.example/", false),
            ("*.a.example:80", "https://b.a.example/", false),
            ("10.1.2.3:5000", "http://10.1.2.3:5000/", true),
            ("10.1.2.3:5000", "http://10.1.2.3:5001/", false),
            ("[fd00::1]:5000", "http://[fd00::1]:5000/", true),
            ("fd00::1", "http://[fd00::1]:5000/", true),
            ("[fd00::1]:5000", "http://[fd00::1]/", false),
            (":5000", "http://a.example:5000/", false),
            ("a.example:x", "http://a.example/", false),
            ("", "http://127.0.0.2:5000/", true),
            ("", "https://localhost/", true),
            ("", "https://[::1]/", true),
            ("", "https://a.example/", false),
        ] {
            let url = Url::parse(url).unwrap();
            assert_eq!(
                Direct::read(entries).has(&url),
                is_direct,
                "{entries}: {url}"
            );
        }
    }
}
