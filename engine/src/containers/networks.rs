//! Networks that people make: containers in one of them reach each other by name, and those of others do not.
//!
//! A network is a file in the store and nothing on the machine: what it is made of are the lines between its containers'
//! interfaces (`neighbours`). Whoever is in it has an address claimed there, for as long as it runs. Which addresses a
//! network can have: `subnets`; what is shown of it: `inspect`.

mod inspect;
mod subnets;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use rbuild_cache::Networks;
use rbuild_executor::network::HardwareAddress;
use serde::{Deserialize, Serialize};

use super::catalog::{Catalog, Entry, readable};
use super::subnet::{Subnet, routes};
use super::{neighbours, time};
use crate::{Error, Result};
use subnets::{free_subnet, refuse_overlap};

/// The network that is there unless another is asked for.
pub const DEFAULT: &str = "bridge";

/// Networks that are always there, with what Docker calls their drivers.
const ALWAYS: [(&str, &str); 3] = [(DEFAULT, "bridge"), ("host", "host"), ("none", "null")];

/// A network as it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    #[serde(skip_deserializing)]
    pub name: String,
    pub id: String,
    /// RFC 3339, with nanoseconds.
    pub created: String,
    pub subnet: Subnet,
    pub gateway: Ipv4Addr,
    /// Where addresses are taken from that nobody asked for.
    pub range: Option<Subnet>,
    /// Nothing leads out of it.
    pub internal: bool,
    pub labels: BTreeMap<String, String>,
}

/// A network to be made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkRequest {
    pub name: String,
    pub subnet: Option<Subnet>,
    pub gateway: Option<Ipv4Addr>,
    pub range: Option<Subnet>,
    pub internal: bool,
    pub labels: BTreeMap<String, String>,
}

/// A network that a container is in, and what it is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// [`DEFAULT`], or one that somebody made.
    pub network: String,
    /// Names of the container in this network, besides its own.
    pub aliases: Vec<String>,
    /// One that is free where it is not given.
    pub address: Option<Ipv4Addr>,
    pub hardware_address: Option<HardwareAddress>,
}

/// Somebody in a network, who runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub id: String,
    pub address: Ipv4Addr,
    pub hardware_address: HardwareAddress,
}

/// A row of `network ls`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSummary {
    pub name: String,
    pub id: String,
    pub driver: &'static str,
    /// Where somebody made it.
    pub made: Option<Network>,
}

impl Network {
    /// Whether a container can be given an address. Says why it cannot.
    fn check_address(&self, address: Ipv4Addr) -> Result<()> {
        let no = |why: &str| {
            Err(Error::Usage(format!(
                "the address {address} in the network `{}`: {why}",
                self.name
            )))
        };
        if !self.subnet.contains(address) {
            return no(&format!("it is not in the subnet {}", self.subnet));
        }
        if address == self.gateway {
            return no("it is the gateway's");
        }
        if !self.subnet.is_usable(address) {
            return no("the first and the last address of a subnet are nobody's");
        }
        Ok(())
    }
}

impl Catalog {
    pub(super) fn network_files(&self) -> Networks {
        Networks::at(&self.root)
    }

    /// Makes a network. Errors where its name, or an address of it, is another one's.
    pub fn create_network(&self, request: NetworkRequest) -> Result<Network> {
        check_name(&request.name)?;
        let _lock = self.files.lock()?;
        // Nobody can be in one that is damaged; its name is still taken.
        self.network(&request.name)?;
        let (others, _) = self.networks()?;
        if others.iter().any(|other| other.name == request.name) {
            return Err(Error::Other(format!(
                "there is a network `{}` already",
                request.name
            )));
        }
        let subnet = match request.subnet {
            Some(subnet) => {
                refuse_overlap(subnet, &others)?;
                subnet
            }
            None => free_subnet(&others, &routes())?,
        };
        let gateway = match request.gateway {
            Some(gateway) if !subnet.is_usable(gateway) => {
                return Err(Error::Usage(format!(
                    "the gateway {gateway} is not an address of the subnet {subnet}"
                )));
            }
            Some(gateway) => gateway,
            None => Ipv4Addr::from_bits(subnet.first + 1),
        };
        if let Some(range) = request.range
            && !(subnet.contains(Ipv4Addr::from_bits(range.first))
                && subnet.contains(Ipv4Addr::from_bits(range.last())))
        {
            return Err(Error::Usage(format!(
                "the range {range} is not within the subnet {subnet}"
            )));
        }
        let network = Network {
            id: super::names::id()?,
            created: time::now(),
            subnet,
            gateway,
            range: request.range,
            internal: request.internal,
            labels: request.labels,
            name: request.name,
        };
        let document =
            serde_json::to_vec(&network).map_err(|error| Error::Other(error.to_string()))?;
        self.network_files().create(&network.name, &document)?;
        Ok(network)
    }

    /// One that somebody made, by its name.
    pub fn network(&self, name: &str) -> Result<Option<Network>> {
        if !is_name(name) {
            return Ok(None);
        }
        let Some(bytes) = self.network_files().read(name)? else {
            return Ok(None);
        };
        let mut network: Network = serde_json::from_slice(&bytes).map_err(|error| {
            Error::Damaged(format!(
                "the network `{name}` is damaged: {error}; `rbuild network rm {name}` removes it"
            ))
        })?;
        name.clone_into(&mut network.name);
        Ok(Some(network))
    }

    /// Those that somebody made and that can be read, by name, and an error for each that is damaged.
    pub fn networks(&self) -> Result<(Vec<Network>, Vec<Error>)> {
        readable(self.network_files().names()?, |name| self.network(name))
    }

    /// As [`Catalog::networks`], with those that are always there.
    pub fn all_networks(&self) -> Result<(Vec<NetworkSummary>, Vec<Error>)> {
        let always = ALWAYS.map(|(name, driver)| NetworkSummary {
            name: name.to_owned(),
            id: id_of(name),
            driver,
            made: None,
        });
        let mut all = always.to_vec();
        let (made, damaged) = self.networks()?;
        all.extend(made.into_iter().map(|network| NetworkSummary {
            name: network.name.clone(),
            id: network.id.clone(),
            driver: "bridge",
            made: Some(network),
        }));
        all.sort_by(|one, other| one.name.cmp(&other.name));
        Ok((all, damaged))
    }

    /// By name, ID, or the beginning of an ID.
    pub fn find_network(&self, wanted: &str) -> Result<NetworkSummary> {
        let (all, damaged) = self.all_networks()?;
        if let Some(named) = all.iter().find(|network| network.name == wanted) {
            return Ok(named.clone());
        }
        if !damaged.is_empty() {
            // It may be one of those.
            self.network(wanted)?;
        }
        let matching: Vec<_> = all
            .into_iter()
            .filter(|network| !wanted.is_empty() && network.id.starts_with(wanted))
            .collect();
        match matching.as_slice() {
            [one] => Ok(one.clone()),
            [] => Err(none(wanted)),
            _ => Err(Error::Usage(format!(
                "`{wanted}` is the beginning of several networks' IDs: write more of it"
            ))),
        }
    }

    /// Who is in a network and runs.
    pub fn members(&self, network: &str) -> Result<Vec<Member>> {
        neighbours::members(self, network)
    }

    /// The containers that are to be in a network when they run.
    pub fn users_of_network(&self, name: &str) -> Result<Vec<Entry>> {
        let mut users = self.all()?;
        users.retain(|entry| {
            let networks = entry.definition.request.attachments();
            networks.iter().any(|it| it.network == name)
        });
        Ok(users)
    }

    /// Removes a network in which nobody runs. With `force` one that is not there is no error.
    pub fn remove_network(&self, wanted: &str, force: bool) -> Result<()> {
        let _lock = self.files.lock()?;
        // One that is damaged can be removed, by its name.
        let name = match self.network(wanted) {
            Err(_) => wanted.to_owned(),
            Ok(_) => {
                let found = match self.find_network(wanted) {
                    Err(_) if force => return Ok(()),
                    found => found?,
                };
                if found.made.is_none() {
                    return Err(Error::Usage(format!(
                        "the network `{}` is always there and cannot be removed",
                        found.name
                    )));
                }
                found.name
            }
        };
        let mut members = Vec::new();
        for member in self.members(&name)? {
            members.push(self.name_of(&member.id)?);
        }
        if !members.is_empty() {
            return Err(Error::Other(format!(
                "the network `{name}` is in use by {}: stop it, or disconnect it with `rbuild network disconnect`",
                members.join(", ")
            )));
        }
        self.network_files().remove(&name)?;
        Ok(())
    }

    /// Removes the networks that no container is to be in. Returns their names.
    pub fn prune_networks(&self, wanted: impl Fn(&Network) -> bool) -> Result<Vec<String>> {
        let _lock = self.files.lock()?;
        let mut users = std::collections::HashSet::new();
        for entry in self.all_as_they_are()? {
            let networks = entry.definition.request.attachments().into_iter();
            users.extend(networks.map(|it| it.network));
        }
        let mut removed = Vec::new();
        for network in self.networks()?.0 {
            if wanted(&network)
                && !users.contains(&network.name)
                && self.members(&network.name)?.is_empty()
            {
                self.network_files().remove(&network.name)?;
                removed.push(network.name);
            }
        }
        Ok(removed)
    }

    /// What a container in a network is asked to be there. Says what is wrong with it.
    pub(super) fn check_attachment(&self, attachment: &Attachment) -> Result<()> {
        if attachment.network == DEFAULT {
            return match attachment.address {
                None => Ok(()),
                Some(address) => Err(Error::Usage(format!(
                    "the address {address}: addresses can be chosen in networks that were made with `rbuild network create`"
                ))),
            };
        }
        let network = self
            .network(&attachment.network)?
            .ok_or_else(|| none(&attachment.network))?;
        attachment
            .address
            .map_or(Ok(()), |address| network.check_address(address))
    }

    fn name_of(&self, id: &str) -> Result<String> {
        let name = self.files.read(id, "name")?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&name).into_owned())
    }
}

pub(super) fn none(name: &str) -> Error {
    Error::Other(format!(
        "there is no network `{name}` (`rbuild network ls` lists all there are, `rbuild network create` makes one)"
    ))
}

/// `02:72:ac:12:00:02`
pub fn shown(address: HardwareAddress) -> String {
    let bytes = address.map(|byte| format!("{byte:02x}"));
    bytes.join(":")
}

/// Of those that are always there.
pub(super) fn id_of(name: &str) -> String {
    rbuild_cache::Digest::of(format!("network {name}").as_bytes()).hex()
}

/// Docker has an ID for each container in each network.
pub(super) fn endpoint(container: &str, network: &str) -> String {
    rbuild_cache::Digest::of(format!("endpoint {container} {network}").as_bytes()).hex()
}

fn is_name(name: &str) -> bool {
    let good = |character: char| character.is_ascii_alphanumeric() || "_.-".contains(character);
    let starts = name.starts_with(|first: char| first.is_ascii_alphanumeric());
    starts && name.len() <= 200 && name.chars().all(good)
}

fn check_name(name: &str) -> Result<()> {
    if !is_name(name) {
        return Err(Error::Usage(format!(
            "`{name}` is no name for a network: it is made of [a-zA-Z0-9_.-] and begins with a letter or digit"
        )));
    }
    if name == "default" || ALWAYS.iter().any(|(always, _)| *always == name) {
        return Err(Error::Usage(format!(
            "`{name}` is no name for a network that is made: there is one that is called so"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().expect("a subnet")
    }

    fn network(name: &str, of: &str) -> Network {
        Network {
            name: name.to_owned(),
            id: String::new(),
            created: String::new(),
            subnet: subnet(of),
            gateway: Ipv4Addr::from_bits(subnet(of).first + 1),
            range: None,
            internal: false,
            labels: BTreeMap::new(),
        }
    }

    #[test]
    fn free_subnets_are_nobody_elses() {
        let first = free_subnet(&[], &[]).expect("a subnet");
        assert_eq!(first, subnet("172.18.0.0/16"));
        let taken = [network("a", "172.18.5.0/24")];
        let routes = [subnet("172.19.0.0/24")];
        let next = free_subnet(&taken, &routes).expect("a subnet");
        assert_eq!(next, subnet("172.20.0.0/16"));
        assert!(free_subnet(&[network("all", "128.0.0.0/1")], &[]).is_err());
        assert!(refuse_overlap(subnet("10.213.0.0/16"), &[]).is_err());
    }

    #[test]
    fn addresses_are_checked() {
        let network = network("a", "10.1.2.0/24");
        let fits = |text: &str| {
            network
                .check_address(text.parse().expect("an address"))
                .is_ok()
        };
        assert!(fits("10.1.2.2") && fits("10.1.2.254"));
        for bad in ["10.1.2.0", "10.1.2.1", "10.1.2.255", "10.1.3.1"] {
            assert!(!fits(bad), "{bad}");
        }
        assert!(check_name("front_1.x").is_ok());
        for bad in [
            "",
            "-x",
            "a/b",
            "bridge",
            "host",
            "none",
            "default",
            "container:x",
        ] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
