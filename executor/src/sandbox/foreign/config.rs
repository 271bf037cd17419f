//! A task as the configuration of an OCI bundle.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::FileType;
use rustix::io::Errno;
use serde_json::{Value, json};

use super::super::plan::{self, Bytes, Limit, Space, Task};
use super::super::step::{Failure, Result, Step};
use super::super::{capabilities, child, kernel_files, seccomp};
use crate::host::Privilege;
use crate::spec::Propagation;

/// The version of the specification whose fields these are.
const VERSION: &str = "1.0.2";

pub(super) fn of(task: &Task, mounts: &[Value]) -> Result<Value> {
    let texts = |list: &[Bytes], what: &str| -> Result<Vec<String>> {
        list.iter().map(|bytes| text(bytes, what)).collect()
    };
    // What the builder itself lacks cannot be given.
    let now = rustix::thread::capabilities(None).step("read the capabilities")?;
    let capabilities = capabilities::names(task.capabilities & now.permitted.bits());
    let own = if task.command.uid == 0 {
        capabilities.clone()
    } else {
        Vec::new()
    };
    let (masked, read_only) = if task.unmasked {
        (Vec::new(), &[][..])
    } else {
        (masked(), plan::READ_ONLY)
    };
    let spaces = task.spaces;
    let namespaces: Vec<Value> = [
        ("pid", spaces.processes == Space::Own),
        ("ipc", spaces.ipc == Space::Own),
        ("uts", !spaces.machines_names),
        ("mount", true),
    ]
    .into_iter()
    .filter(|(_, own)| *own)
    .map(|(kind, _)| json!({ "type": kind }))
    .collect();
    let mut process = json!({
        "terminal": matches!(task.stdio, plan::Stdio::Terminal { .. }),
        "user": { "uid": task.command.uid, "gid": task.command.gid, "umask": 0o022, "additionalGids": task.command.groups },
        "args": texts(&task.command.argv, "an argument")?,
        "env": texts(&task.command.env, "a variable")?,
        "cwd": text(&task.command.cwd, "the working directory")?,
        "capabilities": {
            "bounding": capabilities,
            "effective": own,
            "permitted": own,
            "inheritable": [],
            "ambient": [],
        },
        "rlimits": rlimits(task),
        "noNewPrivileges": task.no_new_privileges,
    });
    if let plan::Stdio::Terminal { rows, columns } = task.stdio {
        process["consoleSize"] = json!({ "height": rows, "width": columns });
    }
    let mut config = json!({
        "ociVersion": VERSION,
        "process": process,
        "root": { "path": "rootfs", "readonly": task.read_only_root },
        "mounts": mounts,
        "linux": {
            // Of users, networks and cgroups it has those that the runtime is in.
            "namespaces": namespaces,
            "sysctl": sysctls(task),
            "maskedPaths": masked,
            "readonlyPaths": read_only,
            "rootfsPropagation": "private",
        },
    });
    if !task.annotations.is_empty() {
        config["annotations"] = json!(task.annotations);
    }
    if !spaces.machines_names {
        config["hostname"] = json!(task.hostname);
    }
    if let Some(filter) = seccomp::oci(task.filter, task.profile.as_ref()) {
        config["linux"]["seccomp"] = filter;
    }
    Ok(config)
}

fn text(bytes: &Bytes, what: &str) -> Result<String> {
    String::from_utf8(bytes.0.clone()).map_err(|_| Failure {
        step: format!("write config.json: {what} is not UTF-8"),
        errno: libc::EILSEQ,
    })
}

/// Kernel parameters by name; those of the network are not the runtime's to set.
fn sysctls(task: &Task) -> serde_json::Map<String, Value> {
    let others = task.sysctls.iter().filter(|(path, _)| !is_of_network(path));
    others
        .map(|(path, value)| (path.replace('/', "."), json!(value)))
        .collect()
}

pub(super) fn is_of_network(path: &str) -> bool {
    path.starts_with("net/")
}

fn rlimits(task: &Task) -> Vec<Value> {
    let limit = |limit: &plan::ResourceLimit| {
        let (name, _) = Limit::ALL.iter().find(|(_, kind)| *kind == limit.kind)?;
        let most = rustix::process::getrlimit(limit.kind.resource()).maximum;
        let most = if limit.asked { None } else { most };
        let bounded = |value: u64| most.map_or(value, |most| value.min(most));
        Some(json!({
            "type": format!("RLIMIT_{}", name.to_uppercase()),
            "soft": bounded(limit.soft),
            "hard": bounded(limit.hard),
        }))
    };
    task.limits.iter().filter_map(limit).collect()
}

fn masked() -> Vec<String> {
    let mut masked: Vec<String> = plan::MASKED.iter().map(|path| (*path).to_owned()).collect();
    masked.extend(kernel_files::thermal_throttles_of_host());
    masked
}

/// /proc, /sys and /dev. `sys` is a directory to show as /sys where none can be made.
pub(super) fn kernel_mounts(task: &Task, sys: Option<&Path>, queues: bool) -> Vec<Value> {
    let mount = |kind: &str, target: &str, options: &[&str]| {
        let mut all = vec!["nosuid", "noexec"];
        all.extend(options);
        json!({ "destination": target, "type": kind, "source": kind, "options": all })
    };
    let mut pts = vec!["newinstance", "ptmxmode=0666", "mode=0620"];
    // The group tty, which a user namespace with one id lacks.
    if task.privilege != Privilege::SingleId {
        pts.push("gid=5");
    }
    let size = format!("size={}", task.shm_size);
    let mut mounts = vec![
        mount("proc", "/proc", &["nodev"]),
        mount("tmpfs", "/dev", &["strictatime", "mode=755", "size=65536k"]),
        mount("devpts", "/dev/pts", &pts),
    ];
    if task.spaces.ipc == Space::Own && !task.spaces.no_shared_memory {
        mounts.push(mount("tmpfs", "/dev/shm", &["nodev", "mode=1777", &size]));
    }
    if queues {
        mounts.push(mount("mqueue", "/dev/mqueue", &["nodev"]));
    }
    mounts.push(match sys {
        None => mount("sysfs", "/sys", &["nodev", "ro"]),
        Some(sys) => json!({
            "destination": "/sys",
            "type": "bind",
            "source": sys,
            "options": ["rbind", "nosuid", "noexec", "nodev", "ro"],
        }),
    });
    mounts
}

/// As an option of a mount.
pub(super) fn propagation(of: Option<Propagation>) -> &'static str {
    match of {
        None => "rprivate",
        Some(Propagation::Slave) => "rslave",
        Some(Propagation::Shared) => "rshared",
    }
}

pub(super) fn bind(source: &Path, target: &Path, further: &[&str]) -> Result<Value> {
    let mut options = vec!["rbind"];
    options.extend(further);
    Ok(json!({
        "destination": text(&Bytes::from(target), "the target of a mount")?,
        "type": "bind",
        "source": source,
        "options": options,
    }))
}

/// A device of the machine's.
pub(super) fn device(path: &Bytes, name: &Bytes) -> Result<Value> {
    let (path, name) = (child::path_of(path), child::path_of(name));
    let target = Path::new("/dev").join(name);
    let step = || format!("give the device {} as {}", path.display(), target.display());
    let stat = rustix::fs::lstat(path).step(step())?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if !matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) {
        return Err(Errno::NODEV).step(step());
    }
    let utf8 = std::str::from_utf8(path.as_os_str().as_bytes());
    if utf8.is_err() {
        return Err(Errno::ILSEQ).step(step());
    }
    Ok(json!({
        "destination": text(&Bytes::from(target.as_path()), "the name of a device")?,
        "type": "bind",
        "source": path,
        "options": ["bind", "rprivate"],
    }))
}
