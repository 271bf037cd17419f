//! `-p` as Docker writes it: `[[HOST-IP:][HOST-PORT[-END]]:]PORT[-END][/tcp|/udp]`.

use std::net::IpAddr;

use rbuild_engine::containers::Publish;
use rbuild_engine::executor::network::Protocol;

use crate::error::{Error, Result};

/// The ports that one `-p` publishes.
pub(super) fn published(text: &str) -> Result<Vec<Publish>> {
    parse(text).map_err(|why| {
        Error::usage(format!("--publish `{text}`: {why}")).help(
            "it looks like `8080:80`, `127.0.0.1:8080:80`, `80`, `8000-8010:80` or `5353:53/udp`",
        )
    })
}

fn parse(text: &str) -> std::result::Result<Vec<Publish>, String> {
    let (rest, protocol) = match text.rsplit_once('/') {
        None => (text, Protocol::Tcp),
        Some((rest, protocol)) => match protocol.to_ascii_lowercase().as_str() {
            "tcp" => (rest, Protocol::Tcp),
            "udp" => (rest, Protocol::Udp),
            other => return Err(format!("`{other}` cannot be published, only tcp and udp")),
        },
    };
    let (host, ports) = rest.rsplit_once(':').unwrap_or(("", rest));
    // IPv6 addresses have colons of their own, and stand in brackets.
    let (address, outside) = match host.rsplit_once(':') {
        Some((address, port)) if !port.ends_with(']') => (address, port),
        _ => ("", host),
    };
    let address = self::address(address)?;
    let inside = range(ports)?;
    let outside = match outside {
        "" | "0" => None,
        ports => Some(range(ports)?),
    };
    let count = inside.1 - inside.0;
    Ok(match outside {
        // One port of the container gets whichever of the host's is free.
        Some(_) if count == 0 => vec![Publish {
            host: address,
            host_ports: outside,
            port: inside.0,
            protocol,
        }],
        Some((first, last)) if last - first != count => {
            return Err("the two ranges are not of the same length".to_owned());
        }
        _ => (0..=count)
            .map(|step| Publish {
                host: address,
                host_ports: outside.map(|(first, _)| (first + step, first + step)),
                port: inside.0 + step,
                protocol,
            })
            .collect(),
    })
}

/// `None`: all.
fn address(text: &str) -> std::result::Result<Option<IpAddr>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    bare.parse()
        .map(Some)
        .map_err(|_| format!("`{text}` is not an IP address"))
}

/// First and last.
fn range(text: &str) -> std::result::Result<(u16, u16), String> {
    let port = |text: &str| match text.parse::<u16>() {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(format!("`{text}` is not a port")),
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(format!("`{text}` ends before it begins"));
    }
    Ok((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_docker_writes_them() {
        let shown = |text: &str| -> Vec<String> {
            parse(text)
                .unwrap_or_else(|why| panic!("{text}: {why}"))
                .iter()
                .map(|port| {
                    let (first, last) = port.host_ports.unwrap_or_default();
                    let host = port.host.map_or("*".to_owned(), |host| host.to_string());
                    format!("{host} {first}-{last} {}", port.inside())
                })
                .collect()
        };
        for (text, ports) in [
            ("80", vec!["* 0-0 80/tcp"]),
            (":80", vec!["* 0-0 80/tcp"]),
            ("0:80", vec!["* 0-0 80/tcp"]),
            ("8080:80", vec!["* 8080-8080 80/tcp"]),
            ("8080:80/udp", vec!["* 8080-8080 80/udp"]),
            ("127.0.0.1:8080:80", vec!["127.0.0.1 8080-8080 80/tcp"]),
            ("127.0.0.1::80", vec!["127.0.0.1 0-0 80/tcp"]),
            ("0.0.0.0:8080:80", vec!["0.0.0.0 8080-8080 80/tcp"]),
            ("::1:8080:80", vec!["::1 8080-8080 80/tcp"]),
            ("[::1]::80", vec!["::1 0-0 80/tcp"]),
            ("[::1]:8080:80/TCP", vec!["::1 8080-8080 80/tcp"]),
            ("8000-8010:80", vec!["* 8000-8010 80/tcp"]),
            (
                "8000-8001:80-81",
                vec!["* 8000-8000 80/tcp", "* 8001-8001 81/tcp"],
            ),
            ("7-8", vec!["* 0-0 7/tcp", "* 0-0 8/tcp"]),
            ("65535", vec!["* 0-0 65535/tcp"]),
        ] {
            assert_eq!(shown(text), ports, "{text}");
        }
        for text in [
            "",
            "0",
            "a",
            "80/sctp",
            "65536",
            "9-8",
            "1-2:1-3",
            "x:80",
            "1.2.3:80:80",
            "80:",
            ":0",
            "127.0.0.1:80",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
