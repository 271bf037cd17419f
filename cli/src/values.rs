//! Values of single flags that `build` and `run` share: sizes, limits, hosts, `K=V`.

use rbuild_engine::executor::spec::Users;
use rbuild_engine::image::Platform;
use rbuild_engine::request::NetworkChoice;

use crate::error::{Error, Result};

/// Reads a size in bytes as Docker does: `1024`, `64k`, `64kb`, `1.5g`, `1GiB`; units are powers of 1024.
pub(crate) fn size(flag: &str, text: &str) -> Result<u64> {
    let bad = || {
        Error::usage(format!("{flag} `{text}` is not a size"))
            .help("sizes look like `1048576`, `512k`, `64m` or `1.5g`")
    };
    let trimmed = text.trim();
    let digits = trimmed
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let number: f64 = number.parse().map_err(|_| bad())?;
    let unit = unit.trim().to_ascii_lowercase();
    let factor = match unit
        .strip_suffix("ib")
        .or(unit.strip_suffix('b'))
        .unwrap_or(&unit)
    {
        "" => 1u64,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        "p" => 1 << 50,
        _ => return Err(bad()),
    };
    #[expect(
        clippy::cast_precision_loss,
        reason = "sizes that a person writes are far below 2^53"
    )]
    let bytes = number * factor as f64;
    if !bytes.is_finite() || bytes >= 9.2e18 {
        return Err(bad());
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked above; digits and a point cannot be negative"
    )]
    Ok(bytes as u64)
}

/// `HOST:IP` or `HOST=IP`; an IPv6 address may stand in brackets.
pub(crate) fn host(text: &str) -> Result<(String, String)> {
    let bad = |reason: &str| {
        Error::usage(format!("--add-host `{text}`: {reason}")).help("it looks like `db:10.0.0.2`")
    };
    let (host, address) = text
        .split_once('=')
        .or_else(|| text.split_once(':'))
        .ok_or_else(|| bad("there is no `:`"))?;
    if host.is_empty()
        || host
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || c == '#')
    {
        return Err(bad("the host name is not valid"));
    }
    // What the host is called inside depends on the network.
    if address == "host-gateway" {
        return Ok((host.to_owned(), address.to_owned()));
    }
    let address = address
        .strip_prefix('[')
        .and_then(|inner| inner.strip_suffix(']'))
        .unwrap_or(address);
    match address.parse::<std::net::IpAddr>() {
        Ok(address) => Ok((host.to_owned(), address.to_string())),
        Err(_) => Err(bad("the part after the host is not an IP address")),
    }
}

pub(crate) fn hosts(texts: &[String]) -> Result<Vec<(String, String)>> {
    texts.iter().map(|text| host(text)).collect()
}

/// `K=V` where the key must be there.
pub(crate) fn pair(flag: &str, text: &str) -> Result<(String, String)> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() {
        return Err(Error::usage(format!(
            "{flag} `{text}`: the name before `=` is empty"
        )));
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// Each a word, as of a line of resolv.conf.
pub(crate) fn words(flag: &str, texts: &[String]) -> Result<Vec<String>> {
    let is_word = |text: &String| {
        !text.is_empty()
            && !text.contains(|c: char| c.is_whitespace() || c.is_control() || "#;".contains(c))
    };
    match texts.iter().find(|text| !is_word(text)) {
        Some(bad) => Err(Error::usage(format!("{flag} `{bad}`: it is one word"))),
        None => Ok(texts.to_vec()),
    }
}

/// `--userns`
pub(crate) fn users(text: Option<&str>) -> Result<Users> {
    match text {
        None | Some("") => Ok(Users::Own),
        Some("host") => Ok(Users::Host),
        Some(other) => Err(Error::usage(format!(
            "--userns `{other}`: it is `host`, or left out"
        ))),
    }
}

pub(crate) fn network(text: &str) -> Result<NetworkChoice> {
    match text {
        "default" | "bridge" => Ok(NetworkChoice::Default),
        "none" => Ok(NetworkChoice::None),
        "host" => Ok(NetworkChoice::Host),
        other if other.starts_with("container:") => {
            Err(Error::unsupported("--network container:ID"))
        }
        other => Err(
            Error::usage(format!("--network `{other}`: there is no such network"))
                .help("it is `default`, `none` or `host`"),
        ),
    }
}

pub(crate) fn platform(text: &str) -> Result<Platform> {
    Platform::parse(text.trim()).map_err(|error| {
        Error::usage(format!("--platform: {error}")).help("it looks like `linux/amd64`")
    })
}

/// `--platform a,b --platform c`
pub(crate) fn platforms(texts: &[String]) -> Result<Vec<Platform>> {
    let mut platforms: Vec<Platform> = Vec::new();
    for text in texts.iter().flat_map(|text| text.split(',')) {
        let platform = platform(text)?;
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    Ok(platforms)
}

/// A path that may be empty, which is none.
pub(crate) fn path() -> impl clap::builder::TypedValueParser<Value = std::path::PathBuf> {
    use clap::builder::{OsStringValueParser, TypedValueParser as _};
    OsStringValueParser::new().map(std::path::PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("1024", 1024),
            ("64k", 65536),
            ("64KB", 65536),
            ("1.5g", 3 << 29),
            ("2 MiB", 2 << 20),
            ("10b", 10),
        ] {
            assert_eq!(size("--memory", text).unwrap(), bytes, "{text}");
        }
        for text in ["", "-1", "x", "1x", "1.2.3", "9999999p", "nan", "k"] {
            assert!(size("--memory", text).is_err(), "{text}");
        }
    }

    #[test]
    fn hosts_take_colon_equals_and_brackets() {
        assert_eq!(
            host("db:10.0.0.2").unwrap(),
            ("db".into(), "10.0.0.2".into())
        );
        let gateway = ("h".to_owned(), "host-gateway".to_owned());
        assert_eq!(host("h:host-gateway").unwrap(), gateway);
        assert_eq!(host("db=::1").unwrap(), ("db".into(), "::1".into()));
        assert_eq!(host("db:[::1]").unwrap(), ("db".into(), "::1".into()));
        for text in ["db", "db:", ":1.2.3.4", "d b:1.2.3.4", "db:x"] {
            assert!(host(text).is_err(), "{text}");
        }
    }
}
