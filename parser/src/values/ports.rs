//! EXPOSE's `[[IP:]HOST:]PORT[-PORT][/PROTOCOL]`.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::ValueError;

/// Reads one word of EXPOSE and returns each port as `80/tcp`. A host part is checked and dropped.
pub fn parse_port_spec(text: &str) -> Result<Vec<String>, ValueError> {
    let mut parts = text.rsplitn(3, ':');
    let container = parts.next().unwrap_or("");
    let host = parts.next().unwrap_or("");
    let address = parts.next().unwrap_or("");
    let (port, protocol) = container.split_once('/').unwrap_or((container, ""));
    if port.is_empty() {
        return Err(ValueError::new(format!("`{text}` has no port")));
    }
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "" | "tcp" => "tcp",
        "udp" => "udp",
        "sctp" => "sctp",
        _ => {
            return Err(ValueError::new(format!(
                "`{protocol}` in `{text}` is no protocol; use tcp, udp or sctp"
            )));
        }
    };
    let bare = address
        .strip_prefix('[')
        .and_then(|address| address.strip_suffix(']'))
        .unwrap_or(address);
    if !address.is_empty() && bare.parse::<IpAddr>().is_err() {
        return Err(ValueError::new(format!(
            "`{address}` in `{text}` is no IP address"
        )));
    }
    let ports = range(port, text)?;
    if !host.is_empty() {
        let hosts = range(host, text)?;
        let (wanted, given) = (ports.end() - ports.start(), hosts.end() - hosts.start());
        if wanted != given && wanted != 0 {
            return Err(ValueError::new(format!(
                "`{host}` and `{port}` in `{text}` are ranges of unequal length"
            )));
        }
    }
    Ok(ports.map(|port| format!("{port}/{protocol}")).collect())
}

fn range(ports: &str, text: &str) -> Result<RangeInclusive<u16>, ValueError> {
    let port = |digits: &str| {
        let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let port = if is_number {
            digits.parse::<u16>().ok()
        } else {
            None
        };
        port.ok_or_else(|| {
            let place = if digits == text {
                String::new()
            } else {
                format!(" in `{text}`")
            };
            ValueError::new(format!(
                "`{digits}`{place} is no port; ports are numbers up to 65535"
            ))
        })
    };
    let Some((first, last)) = ports.split_once('-') else {
        let port = port(ports)?;
        return Ok(port..=port);
    };
    let (first, last) = (port(first)?, port(last)?);
    if last < first {
        return Err(ValueError::new(format!(
            "the port range `{ports}` runs backwards"
        )));
    }
    Ok(first..=last)
}
