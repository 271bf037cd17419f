//! A network as `docker network inspect` shows it.

use rbuild_executor::network;
use serde_json::{Value, json};

use super::subnets::of_default;
use super::{DEFAULT, endpoint, shown};
use crate::Result;
use crate::containers::catalog::Catalog;

impl Catalog {
    /// As `docker network inspect` shows it.
    pub fn inspect_network(&self, wanted: &str) -> Result<Value> {
        let found = self.find_network(wanted)?;
        let mut containers = serde_json::Map::new();
        let bits = match &found.made {
            Some(network) => network.subnet.bits,
            None => network::PREFIX_BITS,
        };
        if found.made.is_some() || found.name == DEFAULT {
            for member in self.members(&found.name)? {
                let value = json!({
                    "Name": self.name_of(&member.id)?,
                    "EndpointID": endpoint(&member.id, &found.id),
                    "MacAddress": shown(member.hardware_address),
                    "IPv4Address": format!("{}/{bits}", member.address),
                    "IPv6Address": "",
                });
                containers.insert(member.id, value);
            }
        }
        let config = match &found.made {
            Some(network) => {
                let mut config = json!({"Subnet": network.subnet, "Gateway": network.gateway});
                if let (Some(range), Some(fields)) = (network.range, config.as_object_mut()) {
                    fields.insert("IPRange".to_owned(), json!(range));
                }
                json!([config])
            }
            None if found.name == DEFAULT => json!([{
                "Subnet": of_default(),
                "Gateway": network::GATEWAY,
            }]),
            None => json!(null),
        };
        let made = found.made.as_ref();
        Ok(json!({
            "Name": found.name,
            "Id": found.id,
            "Created": made.map_or("0001-01-01T00:00:00Z", |network| &network.created),
            "Scope": "local",
            "Driver": found.driver,
            "EnableIPv4": true,
            "EnableIPv6": false,
            "IPAM": {"Driver": "default", "Options": null, "Config": config},
            "Internal": made.is_some_and(|network| network.internal),
            "Attachable": false,
            "Ingress": false,
            "ConfigFrom": {"Network": ""},
            "ConfigOnly": false,
            "Containers": containers,
            "Options": {},
            "Labels": made.map(|network| network.labels.clone()).unwrap_or_default(),
        }))
    }
}
