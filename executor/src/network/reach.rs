//! What a command may reach, as it is written: names, names below one, addresses and networks, each at one port or at
//! all of them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// All that may be reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reach(Vec<Pattern>);

/// `example.org`, `*.example.org`, `192.0.2.1`, `2001:db8::/32`; behind each may stand `:PORT`, and what has colons
/// itself is then in brackets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern {
    host: Host,
    /// `None`: all of them.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Host {
    /// In small letters, without a dot at its end.
    Name(String),
    /// All names that end in a dot and this one.
    Below(String),
    Network {
        first: IpAddr,
        bits: u8,
    },
}

impl Reach {
    /// The order of patterns, and how often one is there, mean nothing.
    pub fn new(mut patterns: Vec<Pattern>) -> Self {
        patterns.sort_unstable();
        patterns.dedup();
        Self(patterns)
    }

    /// Whether a name may be reached at a port; without one, at any.
    pub fn has_name(&self, name: &str, port: Option<u16>) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        self.has(port, |host| match host {
            Host::Name(known) => *known == name,
            Host::Below(known) => name
                .strip_suffix(known.as_str())
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            Host::Network { .. } => false,
        })
    }

    /// Whether an address may be reached, whatever name it has, at a port; without one, at any.
    pub fn has_address(&self, address: IpAddr, port: Option<u16>) -> bool {
        let address = address.to_canonical();
        self.has(port, |host| match host {
            Host::Network { first, bits } => {
                masked(address, *bits) == *first && address.is_ipv4() == first.is_ipv4()
            }
            Host::Name(_) | Host::Below(_) => false,
        })
    }

    /// Whether the host of a URL, a name or an address, may be reached at a port.
    pub fn has_host(&self, host: &str, port: u16) -> bool {
        match unbracketed(host).parse() {
            Ok(address) => self.has_address(address, Some(port)),
            Err(_) => self.has_name(host, Some(port)),
        }
    }

    fn has(&self, port: Option<u16>, is_meant: impl Fn(&Host) -> bool) -> bool {
        self.0.iter().any(|pattern| {
            let at_port = pattern.port.is_none() || port.is_none() || pattern.port == port;
            at_port && is_meant(&pattern.host)
        })
    }
}

/// With commas.
impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, pattern) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            write!(f, "{comma}{pattern}")?;
        }
        Ok(())
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains("://") {
            return Err("it is a URL, not a host".to_owned());
        }
        let (host, port) = split(text);
        let port = match port {
            None => None,
            Some(port) => match port.parse() {
                Ok(port) if port != 0 => Some(port),
                _ => return Err(format!("`{port}` is no port")),
            },
        };
        let host = host_of(unbracketed(host))?;
        Ok(Self { host, port })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = match &self.host {
            Host::Name(name) => name.clone(),
            Host::Below(name) => format!("*.{name}"),
            Host::Network { first, bits } if *bits == bits_of(*first) => first.to_string(),
            Host::Network { first, bits } => format!("{first}/{bits}"),
        };
        match self.port {
            None => f.write_str(&host),
            Some(port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Some(port) => write!(f, "{host}:{port}"),
        }
    }
}

/// The port is what stands behind the only colon, or behind brackets.
fn split(text: &str) -> (&str, Option<&str>) {
    if let Some((host, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if rest.is_empty() => (host, None),
            None => (text, None),
        };
    }
    match text.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host, Some(port)),
        _ => (text, None),
    }
}

fn unbracketed(host: &str) -> &str {
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
}

fn host_of(text: &str) -> Result<Host, String> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    if let Ok(address) = address.parse::<IpAddr>() {
        let all = bits_of(address);
        let bits = bits.map_or(Ok(all), str::parse);
        let bits = bits.ok().filter(|bits| *bits <= all);
        let bits = bits.ok_or_else(|| format!("a network of it has 0 to {all} bits"))?;
        let first = masked(address, bits);
        return Ok(Host::Network { first, bits });
    }
    let lower = text.to_ascii_lowercase();
    let lower = lower.strip_suffix('.').unwrap_or(&lower);
    let (name, below) = match lower.strip_prefix("*.") {
        Some(name) => (name, true),
        None => (lower, false),
    };
    if name.is_empty() {
        return Err("it is empty".to_owned());
    }
    if !name.is_ascii() {
        return Err("names are written as in DNS (`xn--…`)".to_owned());
    }
    let is_label = |label: &str| {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        !label.is_empty() && label.len() <= 63 && label.bytes().all(known)
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    // Such a name would be a mistaken address.
    if name.split('.').all(is_label) && !last.bytes().all(|byte| byte.is_ascii_digit()) {
        let name = name.to_owned();
        return Ok(if below {
            Host::Below(name)
        } else {
            Host::Name(name)
        });
    }
    Err("it is neither a name nor an address".to_owned())
}

fn bits_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The first address of the network that it is in.
fn masked(address: IpAddr, bits: u8) -> IpAddr {
    let bits = u32::from(bits);
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(bits));
            IpAddr::V4((v4.to_bits() & mask.unwrap_or(0)).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(bits));
            IpAddr::V6((v6.to_bits() & mask.unwrap_or(0)).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(patterns: &[&str]) -> Reach {
        let parsed = patterns.iter().map(|it| it.parse().expect("a pattern"));
        Reach::new(parsed.collect())
    }

    #[test]
    fn what_is_written_is_what_is_meant() {
        let all = [
            ("Example.ORG.", "example.org"),
            ("*.example.org:443", "*.example.org:443"),
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.77/24:80", "192.0.2.0/24:80"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:DB8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::/32]:443", "[2001:db8::/32]:443"),
            ("::/0", "::/0"),
        ];
        for (text, written) in all {
            let pattern: Pattern = text.parse().expect(text);
            assert_eq!(pattern.to_string(), written);
            assert_eq!(written.parse(), Ok(pattern));
        }
        assert_eq!(reach(&["b", "a:1", "b"]).to_string(), "a:1,b");
        for text in [
            "",
            "*",
            "*.",
            "a..b",
            "a*.b",
            "a b",
            "https://a",
            "a/b",
            "a:",
            "a:0",
            "a:70000",
            "a:http",
            "1.2.3",
            "1.2.3.4/33",
            "1.2.3.4/",
            "[::1",
            "[::1]x",
            "ä.org",
        ] {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn names_are_whole_or_below() {
        let reach = reach(&["example.org:443", "*.Example.net"]);
        assert!(reach.has_name("EXAMPLE.org.", None) && reach.has_name("example.org", Some(443)));
        assert!(!reach.has_name("example.org", Some(80)));
        assert!(reach.has_name("a.b.example.net", Some(1)));
        for name in [
            "example.net",
            ".example.net",
            "badexample.net",
            "a.example.org",
            "org",
        ] {
            assert!(!reach.has_name(name, None), "{name}");
        }
        assert!(reach.has_host("example.org", 443) && !reach.has_host("example.org", 444));
    }

    #[test]
    fn addresses_are_of_networks() {
        let reach = reach(&["10.0.0.0/8:5432", "2001:db8::/32", "::1"]);
        assert!(reach.has_host("10.9.8.7", 5432) && !reach.has_host("10.9.8.7", 80));
        assert!(reach.has_host("[::ffff:10.1.1.1]", 5432));
        assert!(!reach.has_host("11.0.0.1", 5432));
        assert!(reach.has_host("[2001:db8:1::2]", 1) && reach.has_host("::1", 1));
        assert!(!reach.has_host("[2001:db9::]", 1) && !reach.has_host("localhost", 1));
        assert!(reach.has_address([10, 0, 0, 1].into(), None));
        let any = self::reach(&["0.0.0.0/0"]);
        assert!(any.has_host("1.2.3.4", 1) && !any.has_host("[::1]", 1));
    }
}
