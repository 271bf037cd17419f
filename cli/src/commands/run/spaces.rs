//! `--pid`, `--ipc`, `--uts` and `--cgroupns`.

use rbuild_engine::containers::{Ipc, Space, Spaces};

use super::args::ContainerArgs;
use crate::error::{Error, Result};

pub(super) fn read(args: &ContainerArgs) -> Result<Spaces> {
    let machines_names = match args.uts.as_deref() {
        None | Some("") => false,
        Some("host") => true,
        Some(other) => return Err(bad("--uts", other, "it is `host`, or left out")),
    };
    let given = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    if machines_names && (given(&args.hostname) || given(&args.domainname)) {
        return Err(Error::usage(
            "--uts host and --hostname or --domainname contradict each other: the host name is the machine's",
        ));
    }
    match args.cgroupns.as_deref() {
        None | Some("" | "private") => {}
        Some("host") => {
            return Err(
                Error::unsupported("--cgroupns host").help("a container sees its own cgroups only")
            );
        }
        Some(other) => return Err(bad("--cgroupns", other, "it is `private`")),
    }
    Ok(Spaces {
        processes: processes(args.pid.as_deref())?,
        ipc: ipc(args.ipc.as_deref())?,
        machines_names,
    })
}

fn processes(text: Option<&str>) -> Result<Space> {
    match text {
        None | Some("") => Ok(Space::Own),
        Some("host") => Ok(Space::Host),
        Some(text) => match other(text) {
            Some(name) => Ok(Space::Container(name)),
            None => Err(bad("--pid", text, "it is `host` or `container:NAME`")),
        },
    }
}

fn ipc(text: Option<&str>) -> Result<Ipc> {
    match text {
        None | Some("" | "private") => Ok(Ipc::Private),
        Some("shareable") => Ok(Ipc::Shareable),
        Some("none") => Ok(Ipc::None),
        Some("host") => Ok(Ipc::Host),
        Some(text) => other(text).map(Ipc::Container).ok_or_else(|| {
            let known = "it is `private`, `shareable`, `none`, `host` or `container:NAME`";
            bad("--ipc", text, known)
        }),
    }
}

/// `container:NAME`
fn other(text: &str) -> Option<String> {
    let name = text.strip_prefix("container:")?;
    (!name.is_empty()).then(|| name.to_owned())
}

fn bad(flag: &str, text: &str, known: &str) -> Error {
    Error::usage(format!("{flag} `{text}`: there is no such mode")).help(known)
}
