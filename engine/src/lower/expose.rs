//! Ports as EXPOSE takes them: `[[ip:]host-port:]port[-port][/protocol]`. Only the container's side is kept.

/// Reads one specification. Returns `port/protocol` for each port of its range.
pub(crate) fn parse(text: &str) -> Result<Vec<String>, String> {
    let (front, container) = text.rsplit_once(':').unwrap_or(("", text));
    let (ip, host) = front.rsplit_once(':').unwrap_or(("", front));
    let (ports, protocol) = container.split_once('/').unwrap_or((container, ""));
    if ports.is_empty() {
        return Err(format!("`{text}` names no port"));
    }
    let protocol = if protocol.is_empty() { "tcp".to_owned() } else { protocol.to_ascii_lowercase() };
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("`{text}` has an unknown protocol `{protocol}`: tcp, udp and sctp are known"));
    }
    let address = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
    if !address.is_empty() && address.parse::<std::net::IpAddr>().is_err() {
        return Err(format!("`{ip}` in `{text}` is not an IP address"));
    }
    let (first, last) = range(ports)?;
    if !host.is_empty() {
        let (host_first, host_last) = range(host)?;
        if first != last && last - first != host_last - host_first {
            return Err(format!("`{text}` maps ranges of different lengths"));
        }
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

fn range(text: &str) -> Result<(u16, u16), String> {
    let port = |part: &str| {
        if part.bytes().all(|b| b.is_ascii_digit()) { part.parse::<u16>().ok() } else { None }
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        (Some(_), Some(_)) => Err(format!("the range `{text}` runs backwards")),
        _ => Err(format!("`{text}` is not a port: ports are numbers from 0 to 65535")),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn ports() {
        for (text, expected) in [
            ("80", "80/tcp"),
            ("53/udp", "53/udp"),
            ("9001/TCP", "9001/tcp"),
            ("8000-8002/udp", "8000/udp 8001/udp 8002/udp"),
            ("8080:80", "80/tcp"),
            ("127.0.0.1:9090:90/udp", "90/udp"),
            ("[::1]:1:2", "2/tcp"),
        ] {
            assert_eq!(parse(text).map(|ports| ports.join(" ")), Ok(expected.to_owned()));
        }
        for (text, word) in [
            ("http", "http"),
            ("80/icmp", "icmp"),
            ("90-80", "90-80"),
            ("70000", "70000"),
            ("", "no port"),
            ("x:1:2", "x"),
            ("1-3:1-2", "lengths"),
            ("1-2-3", "1-2-3"),
        ] {
            assert!(parse(text).is_err_and(|error| error.contains(word)), "{text}");
        }
    }
}
