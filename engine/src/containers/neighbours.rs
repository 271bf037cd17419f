//! Containers of one store are neighbours in the networks that they share: each has an address of its own there, and
//! names.
//!
//! A claim is a file by the address, locked by the process that the container lives in and gone with it; it says whose
//! the address is and what it is called. The way to a container is asked of its process, over the socket in its
//! directory ([`Ask::Network`]).

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rbuild_cache::claims::{Claim, Claims};
use rbuild_executor::network::{self, HardwareAddress, Membership, Neighbours, Place, Way};
use serde::{Deserialize, Serialize};

use super::catalog::Catalog;
use super::control::{Answer, Ask, Connection};
use super::definition::Definition;
use super::networks::{self, Attachment, Member};
use super::request::RunRequest;
use crate::{Error, Result};

/// Within which a container's process is to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a claim says.
#[derive(Debug, Serialize, Deserialize)]
struct Card {
    id: String,
    /// Besides its name, which may change.
    names: Vec<String>,
    hardware_address: HardwareAddress,
}

/// An address in a network that is this process's container's.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) network: String,
    pub(super) place: Place,
    _claim: Claim,
}

/// The networks that a container is in: names of all of them are known in each.
#[derive(Debug)]
pub(super) struct Circle {
    catalog: Catalog,
    networks: Mutex<Vec<String>>,
    /// Containers that this one knows by other names.
    links: Vec<(String, String)>,
}

/// A container's neighbours in one of its networks.
#[derive(Debug)]
struct Beside {
    network: String,
    circle: Arc<Circle>,
}

/// Claims an address in a network: in one that somebody made, that which is asked for, or the first that is free; in the
/// one that is always there, that which the container had, if nobody else took it. `None` where there is none left.
pub(super) fn claim(
    catalog: &Catalog,
    definition: &Definition,
    attachment: &Attachment,
) -> Result<Option<Claimed>> {
    let mut names = attachment.aliases.clone();
    names.push(definition.short_id().to_owned());
    names.push(definition.id.clone());
    names.push(definition.hostname.clone());
    for name in &mut names {
        name.make_ascii_lowercase();
    }
    let id = &definition.id;
    let mut card = Card {
        id: id.clone(),
        names,
        hardware_address: Place::ALONE.hardware_address,
    };
    let mut try_to = |claims: &Claims, place: Place| -> Result<Option<Claimed>> {
        card.hardware_address = place.hardware_address;
        let card = serde_json::to_vec(&card).map_err(|error| Error::Other(error.to_string()))?;
        let claim = claims.claim(&place.address.to_string(), &card)?;
        Ok(claim.map(|claim| Claimed {
            network: attachment.network.clone(),
            place,
            _claim: claim,
        }))
    };
    if attachment.network == networks::DEFAULT {
        let claims = catalog.files.addresses();
        let first = u32::from_str_radix(id.get(..8).unwrap_or_default(), 16).unwrap_or(0);
        for number in 0..network::NEIGHBOURS {
            let address = network::neighbour(first.wrapping_add(number) % network::NEIGHBOURS);
            let mut place = Place::at(address);
            if let Some(given) = attachment.hardware_address {
                place.hardware_address = given;
            }
            if let Some(claimed) = try_to(&claims, place)? {
                return Ok(Some(claimed));
            }
        }
        return Ok(None);
    }
    // Nobody removes the network meanwhile.
    let _lock = catalog.files.lock()?;
    catalog.check_attachment(attachment)?;
    let network = catalog
        .network(&attachment.network)?
        .ok_or_else(|| networks::none(&attachment.network))?;
    let claims = catalog.network_files().addresses(&network.name)?;
    let place = |address: Ipv4Addr| Place {
        address,
        gateway: network.gateway,
        prefix_bits: network.subnet.bits,
        hardware_address: attachment.hardware_address.unwrap_or_else(|| of(address)),
        is_internal: network.internal,
    };
    if let Some(address) = attachment.address {
        return match try_to(&claims, place(address))? {
            Some(claimed) => Ok(Some(claimed)),
            None => Err(Error::Other(format!(
                "the address {address} in the network `{}` is another container's",
                network.name
            ))),
        };
    }
    let range = network.range.unwrap_or(network.subnet);
    for address in range.usable().filter(|it| *it != network.gateway) {
        if let Some(claimed) = try_to(&claims, place(address))? {
            return Ok(Some(claimed));
        }
    }
    Err(Error::Other(format!(
        "all addresses of the network `{}` are in use",
        network.name
    )))
}

/// The hardware address of whoever has an address, where it did not choose.
fn of(address: Ipv4Addr) -> HardwareAddress {
    let [a, b, c, d] = address.octets();
    // 0x02: locally administered, so that no device has it from the factory.
    [0x02, 0x72, a, b, c, d]
}

impl Circle {
    pub(super) fn new(catalog: &Catalog, request: &RunRequest) -> Arc<Self> {
        Arc::new(Self {
            catalog: catalog.clone(),
            networks: Mutex::default(),
            links: request.links.clone(),
        })
    }

    /// The container's part in one of its networks.
    pub(super) fn membership(self: &Arc<Self>, claimed: &Claimed) -> Membership {
        let mut networks = self.networks();
        if !networks.contains(&claimed.network) {
            networks.push(claimed.network.clone());
        }
        drop(networks);
        Membership {
            place: claimed.place,
            neighbours: Arc::new(Beside {
                network: claimed.network.clone(),
                circle: Arc::clone(self),
            }),
        }
    }

    pub(super) fn leave(&self, network: &str) {
        self.networks().retain(|name| name != network);
    }

    fn networks(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.networks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn address_of(&self, name: &str) -> Option<Ipv4Addr> {
        let linked = self
            .links
            .iter()
            .find(|(_, alias)| alias.eq_ignore_ascii_case(name));
        let by_name = match linked {
            Some((other, _)) => {
                let found = self.catalog.look_for(other).ok().flatten()?;
                Some(found.id().to_owned())
            }
            None => self.catalog.files.by_name(name).ok().flatten(),
        };
        let networks = self.networks().clone();
        networks.iter().find_map(|network| {
            let claims = claims_of(&self.catalog, network)?;
            claims.names().ok()?.into_iter().find_map(|address| {
                let card = card(&claims, &address)?;
                let is_meant = by_name.as_ref() == Some(&card.id)
                    || linked.is_none() && card.names.iter().any(|known| known == name);
                is_meant.then(|| address.parse().ok()).flatten()
            })
        })
    }
}

fn claims_of(catalog: &Catalog, network: &str) -> Option<Claims> {
    if network == networks::DEFAULT {
        return Some(catalog.files.addresses());
    }
    catalog.network_files().addresses(network).ok()
}

fn card(claims: &Claims, address: &str) -> Option<Card> {
    let text = claims.card(address).ok().flatten()?;
    serde_json::from_slice(&text).ok()
}

/// Who is in a network and runs.
pub(super) fn members(catalog: &Catalog, network: &str) -> Result<Vec<Member>> {
    let Some(claims) = claims_of(catalog, network) else {
        return Ok(Vec::new());
    };
    let mut members: Vec<Member> = claims
        .names()?
        .into_iter()
        .filter_map(|address| {
            let card = card(&claims, &address)?;
            Some(Member {
                id: card.id,
                address: address.parse().ok()?,
                hardware_address: card.hardware_address,
            })
        })
        .collect();
    members.sort_by_key(|member| member.address);
    Ok(members)
}

impl Neighbours for Beside {
    fn address_of(&self, name: &str) -> Option<Ipv4Addr> {
        self.circle.address_of(name)
    }

    fn way_to(&self, address: Ipv4Addr) -> Option<Way> {
        let catalog = &self.circle.catalog;
        let card = card(&claims_of(catalog, &self.network)?, &address.to_string())?;
        let directory = catalog.files.directory(&card.id).ok()?;
        let connection = Connection::open(&directory).ok().flatten()?;
        connection.stream.set_read_timeout(Some(PATIENCE)).ok()?;
        connection.ask(&Ask::Network(address), &[]).ok()?;
        match connection.answer() {
            Ok(Some((Answer::Done, mut descriptors))) => Some(Way {
                packets: descriptors.pop()?,
                hardware_address: card.hardware_address,
                alive: OwnedFd::from(connection.stream),
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_are_local_and_told_apart() {
        let one = of(Ipv4Addr::new(172, 18, 0, 2));
        assert_eq!(networks::shown(one), "02:72:ac:12:00:02");
        assert_eq!(one[0] & 3, 2, "locally administered, of one interface");
        assert_ne!(one, Place::ALONE.hardware_address);
    }
}
