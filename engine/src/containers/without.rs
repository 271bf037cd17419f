//! Containers where there are no namespaces and no mounts: what of a request cannot be had is refused before there is
//! a container, and what is the surrounding container's is said to be so.

use std::net::Ipv4Addr;

use rbuild_executor::network::{Port, Protocol};
use rbuild_executor::spec::Below;

use super::catalog::Catalog;
use super::definition::{Definition, MountKind};
use super::ports::Publish;
use crate::request::NetworkChoice;
use crate::{Error, Result};

/// How whoever wants more can have it.
const ELSEWHERE: &str = "it can where rbuild's own container is started with `--security-opt seccomp=unconfined` \
                         (docs/rootless.md)";

pub(super) const NETWORK: &str = "the container uses the network of the container that rbuild is in, because there are \
                                  no namespaces; `--network host` agrees, `--network none` gives it none";

/// The host name that there is.
pub(super) fn hostname() -> String {
    let names = rustix::system::uname();
    names.nodename().to_string_lossy().into_owned()
}

/// Refuses what cannot be.
pub(super) fn check(definition: &Definition) -> Result<()> {
    let request = &definition.request;
    let no = |what: &str, why: &str| {
        let message = format!("without namespaces {what} cannot be had: {why}; {ELSEWHERE}");
        Err(Error::Other(message))
    };
    if definition.hostname != hostname() {
        let given = format!("the host name `{}`", definition.hostname);
        let own = hostname();
        return no(
            &given,
            &format!("it is the surrounding container's, `{own}`"),
        );
    }
    if let Some(network) = request.networks.first() {
        let asked = format!("the network `{}`", network.network);
        return no(&asked, "all containers have the surrounding container's");
    }
    if !request.domainname.is_empty() {
        return no("`--domainname`", "it is the surrounding container's");
    }
    if request.privileged {
        return no("`--privileged`", "nothing here is rbuild's to give");
    }
    if request.read_only {
        return no(
            "`--read-only`",
            "a root that is not mounted is not read-only",
        );
    }
    for mount in &definition.mounts {
        if let MountKind::Bind(path) = &mount.kind {
            let what = format!("`{}` at `{}`", path.display(), mount.target);
            if !mount.read_only {
                return no(
                    &what,
                    "nothing can be mounted. Read-only (`:ro`) it is a copy; what the container writes can be in a named \
                     volume, or brought out with `rbuild cp`",
                );
            }
            if mount.below != Below::Included {
                return no(
                    &what,
                    "a copy has what is seen there, all of it and read-only",
                );
            }
            if !matches!(mount.propagation.as_str(), "" | "private" | "rprivate") {
                return no(
                    &what,
                    "what is mounted there later does not travel to a copy",
                );
            }
        }
    }
    if request.network != NetworkChoice::None && request.network_of.is_none() {
        ports(definition).map(drop)?;
    }
    Ok(())
}

/// The ports that are open to whoever reaches the surrounding container: each is what it is inside.
pub(super) fn ports(definition: &Definition) -> Result<Vec<Port>> {
    let asked = definition.ports_to_publish();
    asked.iter().map(port).collect()
}

fn port(asked: &Publish) -> Result<Port> {
    let number = asked.port;
    let inside = asked.inside();
    let same = asked
        .host_ports
        .is_none_or(|(first, last)| (first..=last).contains(&number));
    let host = asked.host.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    if same && host.is_unspecified() {
        return Ok(Port {
            host,
            host_port: number,
            port: number,
            protocol: asked.protocol,
        });
    }
    let written = match asked.protocol {
        Protocol::Tcp => format!("{number}:{number}"),
        Protocol::Udp => format!("{number}:{number}/udp"),
    };
    Err(Error::Other(format!(
        "without namespaces {inside} cannot be published elsewhere: the network is the surrounding container's, where \
         it is {inside} at all addresses; `-p {written}` agrees, or have the program listen where it is to be reached; \
         {ELSEWHERE}"
    )))
}

/// The names of a container and of those that run by now, which all have one network: lines for /etc/hosts.
pub(super) fn names(catalog: &Catalog, definition: &Definition) -> Result<Vec<(String, String)>> {
    let mut names = Vec::new();
    for entry in catalog.readable()?.0 {
        let (other, is_own) = (&entry.definition, entry.id() == definition.id);
        let is_there =
            entry.state.status.is_alive() && other.request.network != NetworkChoice::None;
        if is_own || is_there {
            names.push(entry.name.clone());
            names.push(other.short_id().to_owned());
            names.extend(other.request.aliases.iter().cloned());
        }
    }
    for (other, alias) in &definition.request.links {
        catalog.find(other)?;
        names.push(alias.clone());
    }
    let local = |name| (name, Ipv4Addr::LOCALHOST.to_string());
    Ok(names.into_iter().map(local).collect())
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn a_port_is_what_it_is_inside() {
        let publish = |host: Option<[u8; 4]>, host_ports| Publish {
            host: host.map(IpAddr::from),
            host_ports,
            port: 80,
            protocol: Protocol::Udp,
        };
        for (asked, fits) in [
            (publish(None, None), true),
            (publish(Some([0; 4]), Some((80, 80))), true),
            (publish(None, Some((70, 90))), true),
            (publish(None, Some((8080, 8080))), false),
            (publish(Some([127, 0, 0, 1]), Some((80, 80))), false),
        ] {
            let port = port(&asked);
            assert_eq!(port.is_ok(), fits, "{asked:?}");
            if let Ok(port) = port {
                assert_eq!((port.host_port, port.port), (80, 80));
            }
        }
    }
}
