//! `--security-opt`, `--sysctl`, `--device` and `--device-cgroup-rule`.

use std::io::Read as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Component, Path, PathBuf};

use rbuild_engine::executor::spec::{
    Access, Device, DeviceKind, DeviceRule, GivenProfile, Profile, SecurityOptions, profile,
};

use crate::error::{Error, Result};
use crate::similar;

/// Parameters that belong to a namespace of the container's own: System V IPC and its message queues, the host name's
/// domain, and everything of the network.
const PARAMETERS: [&str; 9] = [
    "kernel.domainname",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

pub(super) fn options(
    options: &[String],
    sysctls: &[String],
    devices: &[String],
    rules: &[String],
) -> Result<SecurityOptions> {
    let mut security = SecurityOptions::default();
    for text in options {
        let (name, value) = match text.split_once('=').or_else(|| text.split_once(':')) {
            Some((name, value)) => (name, Some(value)),
            None => (text.as_str(), None),
        };
        match (name, value) {
            ("no-new-privileges", None | Some("true")) => security.no_new_privileges = true,
            ("no-new-privileges", Some("false")) => security.no_new_privileges = false,
            ("seccomp", Some("unconfined")) => {
                (security.no_filter, security.profile) = (true, None);
            }
            ("seccomp", Some("builtin")) => (security.no_filter, security.profile) = (false, None),
            ("systempaths", Some("unconfined")) => security.unmasked = true,
            // What there is anyway: no profile of these is applied.
            ("apparmor", Some("unconfined")) | ("label", Some("disable")) => {}
            ("seccomp", Some(file)) if !file.is_empty() => {
                let file = PathBuf::from(file);
                let profile = read_profile(&file)?;
                (security.no_filter, security.profile) =
                    (false, Some(GivenProfile { file, profile }));
            }
            ("apparmor" | "label", Some(_)) => {
                return Err(Error::unsupported(format!(
                    "--security-opt `{text}`: a profile of a security module"
                )));
            }
            _ => {
                return Err(Error::usage(format!(
                    "--security-opt `{text}` is not understood"
                ))
                .help(
                    "it is `no-new-privileges`, `seccomp=FILE`, `seccomp=unconfined` or `systempaths=unconfined`",
                ));
            }
        }
    }
    for text in sysctls {
        let Some((name, value)) = text.split_once('=') else {
            return Err(Error::usage(format!(
                "--sysctl `{text}`: a value is missing, as in `net.ipv4.ip_forward=1`"
            )));
        };
        require_own(name)?;
        security.sysctls.push((name.to_owned(), value.to_owned()));
    }
    for text in devices {
        security.devices.extend(device(text)?);
    }
    security.device_rules = rules.iter().map(|text| rule(text)).collect::<Result<_>>()?;
    Ok(security)
}

/// A profile of system calls as Docker reads it.
fn read_profile(path: &Path) -> Result<Profile> {
    let failed = |error| {
        Error::io("read the seccomp profile", path, error).help(
            "`--security-opt seccomp=` takes a file with a profile in JSON, `unconfined`, or `builtin`",
        )
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut text = String::new();
    let mut bounded = file.take(profile::MOST_BYTES + 1);
    bounded.read_to_string(&mut text).map_err(failed)?;
    let shown = path.display();
    if text.len() as u64 > profile::MOST_BYTES {
        return Err(Error::failed(format!(
            "the seccomp profile `{shown}` has more than {} MiB",
            profile::MOST_BYTES >> 20
        )));
    }
    Profile::parse(&text).map_err(|error| {
        let message = Error::failed(format!("the seccomp profile `{shown}`, {error}"));
        match error.help {
            Some(help) => message.help(help),
            None => message,
        }
    })
}

/// `HOST[:CONTAINER][:PERMISSIONS]`; of a directory, such as `/dev/dri`, all devices below it.
fn device(text: &str) -> Result<Vec<Device>> {
    let bad = |reason: &str| Error::usage(format!("--device `{text}`: {reason}"));
    let mut fields: Vec<&str> = text.split(':').collect();
    let access = match fields.last().map(|field| Access::parse(field)) {
        Some(Some(access)) if fields.len() > 1 => {
            fields.pop();
            access
        }
        _ => Access::ALL,
    };
    let (host, inside) = match fields.as_slice() {
        [host] => (*host, *host),
        [host, inside] => (*host, *inside),
        _ => ("", ""),
    };
    if host.is_empty() {
        return Err(bad("it is `HOST[:CONTAINER][:PERMISSIONS]`"));
    }
    let path =
        std::fs::canonicalize(host).map_err(|error| Error::io("find", Path::new(host), error))?;
    let mut devices = Vec::new();
    collect(&path, Path::new(""), access, &mut devices)
        .map_err(|error| Error::io("look up the device", &path, error))?;
    if devices.is_empty() {
        return Err(bad(&format!("`{host}` is no device, and none is below it")));
    }
    let name = Path::new(inside)
        .strip_prefix("/dev")
        .ok()
        .filter(|name| {
            name.components()
                .all(|part| matches!(part, Component::Normal(_)))
        })
        .filter(|name| name.components().next().is_some())
        .ok_or_else(|| bad("inside, devices are below /dev"))?;
    for device in &mut devices {
        device.name = match device.name.as_os_str().is_empty() {
            true => name.to_owned(),
            false => name.join(&device.name),
        };
    }
    Ok(devices)
}

/// A device, or those below a directory; what links lead to is left out, as it is elsewhere.
fn collect(
    path: &Path,
    name: &Path,
    access: Access,
    devices: &mut Vec<Device>,
) -> std::io::Result<()> {
    let kind = std::fs::symlink_metadata(path)?.file_type();
    if kind.is_char_device() || kind.is_block_device() {
        devices.push(Device {
            path: path.to_owned(),
            name: name.to_owned(),
            access,
        });
    } else if kind.is_dir() {
        let mut entries = std::fs::read_dir(path)?.collect::<std::io::Result<Vec<_>>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let entry_name = name.join(entry.file_name());
            match collect(&entry.path(), &entry_name, access, devices) {
                // Terminals come and go.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                collected => collected?,
            }
        }
    }
    Ok(())
}

/// `TYPE MAJOR:MINOR PERMISSIONS`
fn rule(text: &str) -> Result<DeviceRule> {
    let bad = |reason: &str| {
        Error::usage(format!("--device-cgroup-rule `{text}`: {reason}"))
            .help("it looks like `c 189:* rmw`: a for all, b for block or c for character devices, their numbers, and \
                   what may be done with them")
    };
    let words: Vec<&str> = text.split(' ').collect();
    let [kind, numbers, access] = words.as_slice() else {
        return Err(bad("it has three words"));
    };
    let kind = match *kind {
        "a" => DeviceKind::All,
        "b" => DeviceKind::Block,
        "c" => DeviceKind::Character,
        _ => return Err(bad("the first word is a, b or c")),
    };
    let (major, minor) = numbers
        .split_once(':')
        .ok_or_else(|| bad("the second word is MAJOR:MINOR"))?;
    let number = |text: &str| match text {
        "*" => Ok(None),
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits
            .parse()
            .map(Some)
            .map_err(|_| bad("a number is missing, or too large")),
        _ => Err(bad("the second word is two numbers, or `*` for all")),
    };
    let rule = DeviceRule {
        kind,
        major: number(major)?,
        minor: number(minor)?,
        access: Access::parse(access).ok_or_else(|| bad("the third word is some of r, w and m"))?,
    };
    let everything = (None, None, Access::ALL);
    if kind == DeviceKind::All && (rule.major, rule.minor, rule.access) != everything {
        return Err(bad("a is everything at once, `a *:* rwm`"));
    }
    Ok(rule)
}

fn require_own(name: &str) -> Result<()> {
    let is_name = name.split('.').all(|part| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        !part.is_empty() && part.chars().all(is_plain)
    });
    let is_own =
        PARAMETERS.contains(&name) || name.starts_with("net.") || name.starts_with("fs.mqueue.");
    if is_name && is_own {
        return Ok(());
    }
    Err(
        Error::usage(format!("--sysctl `{name}` is not allowed")).help(
            "only parameters of a container's own namespaces can be set: net.*, fs.mqueue.*, kernel.msg*, kernel.sem, kernel.shm*",
        ),
    )
}

/// `--cap-add` and `--cap-drop`: names as `NET_ADMIN`, `cap_net_admin` or `ALL`.
pub(super) fn capabilities(flag: &str, names: &[String]) -> Result<Vec<String>> {
    use rbuild_engine::executor::sandbox;
    for name in names {
        if sandbox::capability(name).is_some() {
            continue;
        }
        let error = Error::usage(format!("{flag} `{name}`: there is no such capability"));
        let upper = name.to_uppercase();
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
        return Err(
            match similar::nearest(short, sandbox::capabilities()).first() {
                Some(near) => error.help(format!("there is `{near}`")),
                None => {
                    error.help("it looks like `NET_ADMIN`, or is `ALL`; capabilities(7) lists them")
                }
            },
        );
    }
    Ok(names.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_for_devices_are_read_as_docker_does() {
        for (text, read) in [
            ("c 189:* rmw", "c 189:* rwm"),
            ("b 7:0 r", "b 7:0 r"),
            ("a *:* rwm", "a *:* rwm"),
        ] {
            assert_eq!(rule(text).unwrap().to_string(), read);
        }
        for text in [
            "",
            "c",
            "c 1:3",
            "c 1:3 ",
            "d 1:3 r",
            "c 1 r",
            "c 1:x r",
            "c +1:3 r",
            "c 1:99999999999 r",
            "c 1:3 x",
            "a 1:3 rwm",
            "a *:* r",
            "c  1:3 r",
            "c : r",
        ] {
            assert!(rule(text).is_err(), "{text}");
        }
    }

    #[test]
    fn devices_have_permissions_at_their_end() {
        let access = |text: &str| device(text).unwrap()[0].access.to_string();
        assert_eq!(access("/dev/null"), "rwm");
        assert_eq!(access("/dev/null:/dev/x"), "rwm");
        assert_eq!(access("/dev/null:/dev/x:r"), "r");
        assert_eq!(access("/dev/null:mw"), "wm");
        assert!(device("/dev/null:/dev/x:rx").is_err());
        assert!(device("/dev/null:").is_err());
    }

    #[test]
    fn a_directory_stands_for_the_devices_below_it() {
        let all = device("/dev:/dev/all:r").unwrap();
        let null = all.iter().find(|it| it.path == Path::new("/dev/null"));
        let null = null.unwrap();
        assert_eq!(null.name, Path::new("all/null"));
        assert_eq!(null.access.to_string(), "r");
        assert!(device("/etc:/dev/etc").is_err());
    }
}
