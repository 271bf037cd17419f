//! Which subnets networks can have: none that another has.

use std::net::Ipv4Addr;

use rbuild_executor::network;

use super::{DEFAULT, Network};
use crate::containers::subnet::Subnet;
use crate::{Error, Result};

/// The subnet of the network that is always there.
pub(super) fn of_default() -> Option<Subnet> {
    Subnet::around(network::GATEWAY, network::PREFIX_BITS)
}

pub(super) fn refuse_overlap(subnet: Subnet, others: &[Network]) -> Result<()> {
    let taken = |other: &str, its: Subnet| {
        Err(Error::Other(format!(
            "the subnet {subnet} overlaps with {its}, the network `{other}`'s: choose another one"
        )))
    };
    if let Some(its) = of_default().filter(|its| its.overlaps(subnet)) {
        return taken(DEFAULT, its);
    }
    match others.iter().find(|other| other.subnet.overlaps(subnet)) {
        Some(other) => taken(&other.name, other.subnet),
        None => Ok(()),
    }
}

/// One that neither a network has nor the machine reaches others by; where Docker looks for them.
pub(super) fn free_subnet(others: &[Network], routes: &[Subnet]) -> Result<Subnet> {
    let large = (18..32).map(|second| (Ipv4Addr::new(172, second, 0, 0), 16));
    let small = (0..16).map(|part| (Ipv4Addr::new(192, 168, part * 16, 0), 20));
    large
        .chain(small)
        .filter_map(|(address, bits)| Subnet::around(address, bits))
        .find(|subnet| {
            refuse_overlap(*subnet, others).is_ok()
                && !routes.iter().any(|route| route.overlaps(*subnet))
        })
        .ok_or_else(|| {
            Error::Other(
                "all subnets that are taken for networks are in use: remove networks, or choose one with --subnet"
                    .to_owned(),
            )
        })
}
