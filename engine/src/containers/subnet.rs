//! IPv4 addresses that begin alike, and those that the machine reaches already.

use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// IPv4 addresses that begin alike: `172.18.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    pub(super) first: u32,
    pub bits: u8,
}

impl Subnet {
    /// The one that an address is in. `None` where it has no room for a container beside the host.
    pub fn around(address: Ipv4Addr, bits: u8) -> Option<Self> {
        (1..=30).contains(&bits).then(|| Self {
            first: address.to_bits() & (u32::MAX << (32 - bits)),
            bits,
        })
    }

    fn addresses(self) -> u32 {
        1 << (32 - self.bits)
    }

    pub(super) fn last(self) -> u32 {
        self.first + (self.addresses() - 1)
    }

    /// Whether an address is in it, be it anybody's or not.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        (self.first..=self.last()).contains(&address.to_bits())
    }

    pub(super) fn overlaps(self, other: Self) -> bool {
        self.first <= other.last() && other.first <= self.last()
    }

    /// Without the first and the last, which are nobody's.
    pub(super) fn usable(self) -> impl Iterator<Item = Ipv4Addr> {
        (self.first + 1..self.last()).map(Ipv4Addr::from_bits)
    }

    pub(super) fn is_usable(self, address: Ipv4Addr) -> bool {
        (self.first + 1..self.last()).contains(&address.to_bits())
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from_bits(self.first), self.bits)
    }
}

impl FromStr for Subnet {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let bad = || format!("`{text}` is no IPv4 subnet: it looks like `172.30.0.0/16`");
        let (address, bits) = text.split_once('/').ok_or_else(bad)?;
        let address: Ipv4Addr = address.parse().map_err(|_| bad())?;
        let bits = bits.parse().map_err(|_| bad())?;
        let subnet = Self::around(address, bits)
            .ok_or_else(|| format!("`{text}` has no room for containers: a subnet is /1 to /30"))?;
        if subnet.first != address.to_bits() {
            return Err(format!(
                "`{text}` is an address in a subnet: that is `{subnet}`"
            ));
        }
        Ok(subnet)
    }
}

impl TryFrom<String> for Subnet {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

/// What the machine reaches directly or by a router of its own, but for everything.
pub(super) fn routes() -> Vec<Subnet> {
    let text = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
    text.lines().skip(1).filter_map(route).collect()
}

/// A line of `/proc/net/route`: destination and mask are the second and the eighth word, in the machine's byte order.
fn route(line: &str) -> Option<Subnet> {
    let mut words = line.split_whitespace().skip(1);
    let number = |word: Option<&str>| u32::from_str_radix(word?, 16).ok().map(u32::to_be);
    let destination = number(words.next())?;
    let mask = number(words.nth(5))?;
    let bits = u8::try_from(mask.leading_ones()).ok()?;
    // A route to a single machine counts as one to the smallest subnet that there is.
    Subnet::around(Ipv4Addr::from_bits(destination), bits.min(30))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().expect("a subnet")
    }

    #[test]
    fn subnets_are_read_and_know_what_is_in_them() {
        let small = subnet("10.1.2.0/29");
        assert_eq!(small.to_string(), "10.1.2.0/29");
        let usable: Vec<_> = small.usable().map(|it| it.octets()[3]).collect();
        assert_eq!(usable, [1, 2, 3, 4, 5, 6]);
        assert!(small.overlaps(subnet("10.0.0.0/8")) && subnet("10.0.0.0/8").overlaps(small));
        assert!(!small.overlaps(subnet("10.1.2.8/29")));
        assert!(subnet("128.0.0.0/1").contains(Ipv4Addr::BROADCAST));
        for bad in [
            "",
            "10.0.0.0",
            "10.0.0.0/31",
            "10.0.0.0/0",
            "10.0.0/8",
            "10.1.2.3/29",
            "fd00::/64",
            "1.2.3.4/x",
        ] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn routes_of_the_machine_are_read() {
        let line = "eth0\t0011A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0";
        if cfg!(target_endian = "little") {
            assert_eq!(route(line), Some(subnet("192.168.17.0/24")));
        }
        assert_eq!(
            route("eth0\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0"),
            None
        );
        assert_eq!(route("nonsense"), None);
    }
}
