//! Where a container is in networks, and which ports are open.

use std::collections::BTreeMap;

use rbuild_executor::network::Place;
use serde_json::{Value, json};

use super::super::catalog::Entry;
use super::super::networks::{self, Attachment};
use crate::request::NetworkChoice;

impl Entry {
    pub(super) fn network_mode(&self) -> String {
        let request = &self.definition.request;
        if let Some(other) = &request.network_of {
            return format!("container:{other}");
        }
        if let Some(first) = request.networks.first() {
            return first.network.clone();
        }
        match request.network {
            NetworkChoice::Default => networks::DEFAULT,
            NetworkChoice::None => "none",
            NetworkChoice::Host => "host",
        }
        .to_owned()
    }

    pub(super) fn network_settings(&self) -> Value {
        let request = &self.definition.request;
        let mut networks = serde_json::Map::new();
        let mut of_default = self.endpoint(&Attachment::default());
        for attachment in request.attachments() {
            let value = self.endpoint(&attachment);
            if attachment.network == networks::DEFAULT {
                of_default.clone_from(&value);
            }
            networks.insert(attachment.network, value);
        }
        if networks.is_empty() && request.network_of.is_none() {
            let attachment = Attachment {
                network: self.network_mode(),
                ..Attachment::default()
            };
            networks.insert(attachment.network.clone(), self.endpoint(&attachment));
        }
        json!({
            "Bridge": "",
            "SandboxID": "",
            "SandboxKey": "",
            "Ports": self.ports(),
            "HairpinMode": false,
            "LinkLocalIPv6Address": "",
            "LinkLocalIPv6PrefixLen": 0,
            "SecondaryIPAddresses": null,
            "SecondaryIPv6Addresses": null,
            "EndpointID": of_default["EndpointID"],
            "GlobalIPv6Address": "",
            "GlobalIPv6PrefixLen": 0,
            "IPv6Gateway": "",
            "IPAddress": of_default["IPAddress"],
            "IPPrefixLen": of_default["IPPrefixLen"],
            "Gateway": of_default["Gateway"],
            "MacAddress": of_default["MacAddress"],
            "Networks": networks,
        })
    }

    /// What it is in a network, or is to be.
    fn endpoint(&self, attachment: &Attachment) -> Value {
        let name = attachment.network.as_str();
        let joined = self.state.networks.iter().find(|it| it.network == name);
        // Where no address was left, nobody knows it.
        let alone =
            (self.state.private_network && name == networks::DEFAULT).then_some(Place::ALONE);
        let place = joined.map(|it| it.place).or(alone);
        let id = match self.catalog.network(name) {
            Ok(Some(network)) => network.id,
            Ok(None) | Err(_) => networks::id_of(name),
        };
        let dns: Option<Vec<&str>> = joined.map(|_| {
            let aliases = attachment.aliases.iter().map(String::as_str);
            let named = std::iter::once(self.name.as_str()).chain(aliases);
            named.chain([self.definition.short_id()]).collect()
        });
        json!({
            "IPAMConfig": attachment.address.map(|address| json!({"IPv4Address": address})),
            "Links": null,
            "Aliases": (!attachment.aliases.is_empty()).then_some(&attachment.aliases),
            "MacAddress": place.map(|place| networks::shown(place.hardware_address)).unwrap_or_default(),
            "DriverOpts": null,
            "GwPriority": 0,
            "NetworkID": id,
            "EndpointID": place.map(|_| networks::endpoint(self.id(), &id)).unwrap_or_default(),
            "Gateway": place.map(|place| place.gateway.to_string()).unwrap_or_default(),
            "IPAddress": place.map(|place| place.address.to_string()).unwrap_or_default(),
            "IPPrefixLen": place.map(|place| place.prefix_bits).unwrap_or_default(),
            "IPv6Gateway": "",
            "GlobalIPv6Address": "",
            "GlobalIPv6PrefixLen": 0,
            "DNSNames": dns,
        })
    }

    /// What is exposed, and where it is published.
    fn ports(&self) -> Value {
        if !self.state.private_network && self.state.ports.is_empty() {
            return json!({});
        }
        let exposed = self.definition.exposed_ports().into_iter();
        let mut ports: BTreeMap<_, _> = exposed.map(|name| (name, Value::Null)).collect();
        ports.extend(bindings(self.state.ports.iter().map(|port| {
            (
                port.inside(),
                port.host.to_string(),
                port.host_port.to_string(),
            )
        })));
        json!(ports)
    }

    pub(super) fn exposed(&self) -> Value {
        let ports = self.definition.exposed_ports().into_iter();
        Value::Object(ports.map(|name| (name, json!({}))).collect())
    }
}

/// Ports by what the container calls them.
pub(super) fn bindings(
    ports: impl Iterator<Item = (String, String, String)>,
) -> BTreeMap<String, Value> {
    let mut shown = BTreeMap::new();
    for (inside, host, port) in ports {
        let list = shown.entry(inside).or_insert_with(|| json!([]));
        if let Value::Array(list) = list {
            list.push(json!({"HostIp": host, "HostPort": port}));
        }
    }
    shown
}
