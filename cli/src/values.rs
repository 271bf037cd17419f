//! Values of single flags that `build` and `run` share: sizes, limits, hosts, `K=V`.

use rbuild_engine::executor::spec::{Limits, Users};
use rbuild_engine::image::Platform;
use rbuild_engine::request::NetworkChoice;

use crate::error::{Error, Result};

/// Flags that limit what a command may use.
#[derive(Debug, clap::Args)]
pub(crate) struct LimitArgs {
    /// Memory limit, as in `512m`
    #[arg(short = 'm', long, value_name = "SIZE")]
    memory: Option<String>,
    /// Cores, as in `1.5`
    #[arg(long, value_name = "N")]
    cpus: Option<f64>,
    /// Processes and threads; -1 is no limit
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Size of /dev/shm (default 64m)
    #[arg(long, value_name = "SIZE")]
    shm_size: Option<String>,
    /// A resource limit, as in `nofile=1024:2048`
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    ulimit: Vec<String>,
    /// The cgroup to put commands under
    #[arg(long, value_name = "PATH")]
    cgroup_parent: Option<String>,
}

impl LimitArgs {
    pub(crate) fn limits(&self) -> Result<Limits> {
        if let Some(cpus) = self.cpus
            && !(cpus.is_finite() && cpus > 0.0)
        {
            return Err(Error::usage(format!(
                "--cpus `{cpus}`: expected a number above 0"
            )));
        }
        let mut ulimits = Vec::new();
        for text in &self.ulimit {
            ulimits.push(ulimit(text)?);
        }
        Ok(Limits {
            memory: self
                .memory
                .as_deref()
                .map(memory_limit)
                .transpose()?
                .flatten(),
            memory_swap: None,
            cpus: self.cpus,
            cpu_shares: None,
            pids: match self.pids_limit {
                None => None,
                Some(-1 | 0) => Some(u64::MAX),
                Some(limit) => Some(u64::try_from(limit).map_err(|_| {
                    Error::usage(format!(
                        "--pids-limit `{limit}`: expected a number above 0, or -1"
                    ))
                })?),
            },
            shm_size: self
                .shm_size
                .as_deref()
                .map(|text| size("--shm-size", text))
                .transpose()?,
            ulimits,
            cgroup_parent: self.cgroup_parent.clone(),
        })
    }
}

/// In less, hardly a program can be begun.
const LEAST_MEMORY_BYTES: u64 = 6 << 20;

/// A limit of memory; 0 is none.
fn memory_limit(text: &str) -> Result<Option<u64>> {
    match size("--memory", text)? {
        0 => Ok(None),
        bytes if bytes < LEAST_MEMORY_BYTES => Err(Error::usage(format!(
            "--memory `{text}`: the least that can be is 6m"
        ))),
        bytes => Ok(Some(bytes)),
    }
}

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

/// `nofile=1024`, `nofile=1024:2048`; -1 is unlimited.
fn ulimit(text: &str) -> Result<(String, u64, u64)> {
    const NAMES: [&str; 15] = [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let bad = |reason: &str| {
        Error::usage(format!("--ulimit `{text}`: {reason}"))
            .help("it looks like `nofile=1024:2048`")
    };
    let (name, limits) = text.split_once('=').ok_or_else(|| bad("there is no `=`"))?;
    if !NAMES.contains(&name) {
        return Err(bad(&format!("there is no limit named `{name}`")));
    }
    let number = |text: &str| match text {
        "-1" | "unlimited" => Ok(u64::MAX),
        digits => digits.parse::<u64>().map_err(|_| bad("expected a number")),
    };
    let (soft, hard) = match limits.split_once(':') {
        Some((soft, hard)) => (number(soft)?, number(hard)?),
        None => (number(limits)?, number(limits)?),
    };
    if soft > hard {
        return Err(bad("the soft limit is above the hard one"));
    }
    Ok((name.to_owned(), soft, hard))
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
    fn ulimits() {
        assert_eq!(ulimit("nofile=10").unwrap(), ("nofile".into(), 10, 10));
        assert_eq!(ulimit("core=0:-1").unwrap(), ("core".into(), 0, u64::MAX));
        for text in ["nofile", "nofile=", "what=1", "nofile=2:1", "nofile=a"] {
            assert!(ulimit(text).is_err(), "{text}");
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
