//! Containers of one store that have private networks are neighbours: each has an address of its own there, and names.
//!
//! A claim is a file by the address, locked by the process that the container lives in and gone with it; it says whose
//! the address is and what it is called. The way to a container is asked of its process, over the socket in its
//! directory ([`Ask::Network`]).

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rbuild_cache::containers::Claim;
use rbuild_executor::network::{self, Neighbours, Way};
use serde::{Deserialize, Serialize};

use super::catalog::Catalog;
use super::control::{Answer, Ask, Connection};
use super::definition::Definition;
use crate::{Error, Result};

/// Within which a container's process is to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a claim says.
#[derive(Debug, Serialize, Deserialize)]
struct Card {
    id: String,
    /// Besides its name, which may change.
    names: Vec<String>,
}

/// An address that is this process's container's.
#[derive(Debug)]
pub(super) struct Address {
    pub(super) address: Ipv4Addr,
    _claim: Claim,
}

/// Claims an address, if there is one left: that which it had, if nobody else took it.
pub(super) fn claim(catalog: &Catalog, definition: &Definition) -> Result<Option<Address>> {
    let mut names = definition.request.aliases.clone();
    names.push(definition.short_id().to_owned());
    names.push(definition.id.clone());
    names.push(definition.hostname.clone());
    for name in &mut names {
        name.make_ascii_lowercase();
    }
    let card = Card {
        id: definition.id.clone(),
        names,
    };
    let card = serde_json::to_vec(&card).map_err(|error| Error::Other(error.to_string()))?;
    let first = definition.id.get(..8).unwrap_or_default();
    let first = u32::from_str_radix(first, 16).unwrap_or(0);
    for number in 0..network::NEIGHBOURS {
        let address = network::neighbour(first.wrapping_add(number) % network::NEIGHBOURS);
        if let Some(claim) = catalog.files.claim(&address.to_string(), &card)? {
            return Ok(Some(Address {
                address,
                _claim: claim,
            }));
        }
    }
    Ok(None)
}

impl Catalog {
    fn card(&self, address: &str) -> Option<Card> {
        let text = self.files.claimed(address).ok().flatten()?;
        serde_json::from_slice(&text).ok()
    }
}

impl Neighbours for Catalog {
    fn address_of(&self, name: &str) -> Option<Ipv4Addr> {
        let by_name = self.files.by_name(name).ok().flatten();
        self.files.claims().ok()?.into_iter().find_map(|address| {
            let card = self.card(&address)?;
            let is_meant =
                by_name.as_ref() == Some(&card.id) || card.names.iter().any(|known| known == name);
            is_meant.then(|| address.parse().ok()).flatten()
        })
    }

    fn way_to(&self, address: Ipv4Addr) -> Option<Way> {
        let card = self.card(&address.to_string())?;
        let directory = self.files.directory(&card.id).ok()?;
        let connection = Connection::open(&directory).ok().flatten()?;
        connection.stream.set_read_timeout(Some(PATIENCE)).ok()?;
        connection.ask(&Ask::Network, &[]).ok()?;
        match connection.answer() {
            Ok(Some((Answer::Done, mut descriptors))) => Some(Way {
                packets: descriptors.pop()?,
                alive: OwnedFd::from(connection.stream),
            }),
            _ => None,
        }
    }
}
