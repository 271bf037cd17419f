//! Ports of the host for ports of a container: what is asked, what that comes to with what is exposed, and opening
//! them. Carrying is `rbuild_executor::network`'s.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rbuild_executor::network::{self, Port, Private, Protocol, has_ipv6};
use serde::{Deserialize, Serialize};

use super::definition::Definition;
use crate::{Error, Result};

/// `-p`, one port of the container's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
pub struct Publish {
    /// `None`: every address that the host has, of IPv4 and IPv6.
    pub host: Option<IpAddr>,
    /// Ports of the host of which the first that is free is taken; `None` for any that is free.
    pub host_ports: Option<(u16, u16)>,
    pub port: u16,
    pub protocol: Protocol,
}

/// As it is in the store. Before there was IPv6, each port had one address, and whoever reads it so gets that of IPv4.
#[derive(Serialize, Deserialize)]
struct Written {
    host: Option<IpAddr>,
    #[serde(default)]
    everywhere: bool,
    host_ports: Option<(u16, u16)>,
    port: u16,
    protocol: Protocol,
}

impl From<Written> for Publish {
    fn from(written: Written) -> Self {
        Self {
            host: written.host.filter(|_| !written.everywhere),
            host_ports: written.host_ports,
            port: written.port,
            protocol: written.protocol,
        }
    }
}

impl From<Publish> for Written {
    fn from(publish: Publish) -> Self {
        Self {
            host: Some(publish.host.unwrap_or(Ipv4Addr::UNSPECIFIED.into())),
            everywhere: publish.host.is_none(),
            host_ports: publish.host_ports,
            port: publish.port,
            protocol: publish.protocol,
        }
    }
}

impl Publish {
    /// The container's port as images name it: `80/tcp`.
    pub fn inside(&self) -> String {
        format!("{}/{}", self.port, self.protocol.name())
    }
}

/// `80-82/udp` as its ports, each as images name them. What is no port is left as it is.
pub(super) fn expand(text: &str) -> Vec<String> {
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last)) => (first..=last)
            .map(|port| format!("{port}/{protocol}"))
            .collect(),
        _ => vec![text.to_owned()],
    }
}

impl Definition {
    /// Everything that the image, `--expose` or `-p` names, `80/tcp`.
    pub fn exposed_ports(&self) -> Vec<String> {
        let image = self.config.exposed_ports.iter().flatten();
        let mut ports: Vec<String> = image
            .map(|(name, _)| name)
            .chain(&self.request.expose)
            .flat_map(|name| expand(name))
            .chain(self.request.publish.iter().map(Publish::inside))
            .collect();
        ports.sort_by_key(|name| {
            let number = name.split_once('/').map_or(&**name, |(number, _)| number);
            (number.parse::<u16>().unwrap_or(u16::MAX), name.clone())
        });
        ports.dedup();
        ports
    }

    /// What `-p` names, and with `-P` everything else that is exposed.
    pub(super) fn ports_to_publish(&self) -> Vec<Publish> {
        let mut ports = self.request.publish.clone();
        if self.request.publish_all {
            for name in self.exposed_ports() {
                let (number, protocol) = match name.split_once('/') {
                    Some((number, "tcp")) => (number, Protocol::Tcp),
                    Some((number, "udp")) => (number, Protocol::Udp),
                    _ => continue,
                };
                let Ok(port) = number.parse() else { continue };
                if !ports.iter().any(|known| known.inside() == name) {
                    ports.push(Publish {
                        host: None,
                        host_ports: None,
                        port,
                        protocol,
                    });
                }
            }
        }
        ports
    }

    /// What `-P` would publish if that were possible.
    pub(super) fn ports_not_published(&self) -> Vec<String> {
        let carried = |name: &String| name.ends_with("/tcp") || name.ends_with("/udp");
        let mut ports = self.exposed_ports();
        ports.retain(|name| self.request.publish_all && !carried(name));
        ports
    }

    /// Whether it has ports that must be published for it to be of use.
    pub(super) fn publishes(&self) -> bool {
        !self.ports_to_publish().is_empty()
    }
}

/// Opens the container's ports on the host; they close with the network.
pub(super) fn open(definition: &Definition, network: &Private) -> Result<Vec<Port>> {
    let asked = definition.ports_to_publish();
    let mut open = Vec::new();
    for port in &asked {
        let mut hosts: Vec<IpAddr> = match port.host {
            Some(host) => vec![host],
            None => {
                let six = has_ipv6().then_some(Ipv6Addr::UNSPECIFIED.into());
                let four = Ipv4Addr::UNSPECIFIED.into();
                std::iter::once(four).chain(six).collect()
            }
        };
        if port.host.is_none() {
            hosts.retain(|host| !is_named_besides(port, *host, &asked));
        }
        open.extend(open_one(port, &hosts, network)?);
    }
    Ok(open)
}

/// Whether a port is asked for by an address, too, as with `-p 8080:80 -p [::]:8080:80`: that is no second one.
fn is_named_besides(port: &Publish, host: IpAddr, asked: &[Publish]) -> bool {
    let named = Publish {
        host: Some(host),
        ..*port
    };
    port.host_ports.is_some() && asked.contains(&named)
}

/// At each address the same port.
fn open_one(asked: &Publish, hosts: &[IpAddr], network: &Private) -> Result<Vec<Port>> {
    let (first, last) = asked.host_ports.unwrap_or((0, 0));
    let mut result = Err(Error::Other(format!("no port for {}", asked.inside())));
    for host_port in first..=last {
        let ports = hosts.iter().map(|host| Port {
            host: *host,
            host_port,
            port: asked.port,
            protocol: asked.protocol,
        });
        let ports: Vec<Port> = ports.collect();
        match network.publish(&ports) {
            Ok(bound) => return Ok(bound),
            Err(error) => {
                let goes_on = error.source.kind() == ErrorKind::AddrInUse;
                // A port need not be free for IPv6 as well.
                let of_six = ports.iter().find(|port| port.host.is_ipv6());
                let six_alone = asked.host.is_none()
                    && ports.len() > 1
                    && of_six.is_some_and(|port| error.step == format!("publish {port}"));
                result = Err(failure(asked, six_alone, &error));
                if !goes_on {
                    break;
                }
            }
        }
    }
    result
}

/// `six_alone`: IPv4 would do.
fn failure(asked: &Publish, six_alone: bool, error: &network::Error) -> Error {
    let (first, last) = asked.host_ports.unwrap_or((0, 0));
    let inside = asked.inside();
    let what = if first == last {
        error.step.clone()
    } else {
        let host = asked.host.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        format!(
            "publish {inside} at {}-{last}",
            SocketAddr::new(host, first)
        )
    };
    let why = match error.source.kind() {
        ErrorKind::AddrInUse if first == last && six_alone => format!(
            "the port is in use by another program or container, at IPv6 addresses only; free it, or publish at IPv4 \
             addresses alone (`-p 0.0.0.0:{first}:{inside}`)"
        ),
        ErrorKind::AddrInUse if first == last => format!(
            "the port is in use by another program or container; free it, choose another one, or \
             leave it out (`-p {inside}`) for any that is free"
        ),
        ErrorKind::AddrInUse => "all of these ports are in use; choose others".to_owned(),
        ErrorKind::AddrNotAvailable => {
            let address = asked.host.map(|host| format!(" {host}"));
            format!(
                "this machine does not have the address{}",
                address.unwrap_or_default()
            )
        }
        ErrorKind::PermissionDenied => {
            "ports this low are root's (net.ipv4.ip_unprivileged_port_start); choose a higher one"
                .to_owned()
        }
        _ => error.source.to_string(),
    };
    Error::Other(format!("cannot {what}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_at_all_addresses_is_written_so_that_former_versions_read_it() {
        let mut publish = Publish {
            host: None,
            host_ports: Some((8080, 8080)),
            port: 80,
            protocol: Protocol::Tcp,
        };
        let written = serde_json::to_value(publish).unwrap();
        assert_eq!(written["host"], "0.0.0.0");
        assert_eq!(
            serde_json::from_value::<Publish>(written.clone()).unwrap(),
            publish
        );
        // As earlier versions wrote it.
        let mut former = written;
        former.as_object_mut().unwrap().remove("everywhere");
        publish.host = Some(Ipv4Addr::UNSPECIFIED.into());
        assert_eq!(serde_json::from_value::<Publish>(former).unwrap(), publish);
    }

    #[test]
    fn ranges_are_ports() {
        assert_eq!(expand("80"), ["80/tcp"]);
        assert_eq!(expand("80-82/udp"), ["80/udp", "81/udp", "82/udp"]);
        assert_eq!(expand("what"), ["what"]);
    }
}
