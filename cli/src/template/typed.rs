//! Fields of what `inspect` shows that hold nothing: Docker knows of each whether it is a text, a list or a map, and
//! scripts expect what Go prints for an empty one.

const TEXTS: [&str; 12] = [
    "Author",
    "Comment",
    "Domainname",
    "Hostname",
    "Image",
    "MacAddress",
    "OsVersion",
    "Parent",
    "StopSignal",
    "User",
    "Variant",
    "WorkingDir",
];

const LISTS: [&str; 29] = [
    "Binds",
    "CapAdd",
    "CapDrop",
    "Cmd",
    "DNSNames",
    "DeviceCgroupRules",
    "DeviceRequests",
    "Devices",
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "Entrypoint",
    "Env",
    "ExecIDs",
    "ExtraHosts",
    "GroupAdd",
    "Links",
    "Manifests",
    "MaskedPaths",
    "Mounts",
    "OnBuild",
    "Peers",
    "ReadonlyPaths",
    "RepoDigests",
    "RepoTags",
    "SecurityOpt",
    "Shell",
    "Ulimits",
    "VolumesFrom",
];

/// Their keys are anything, and never fields.
const MAPS: [&str; 11] = [
    "Annotations",
    "ExposedPorts",
    "Labels",
    "Networks",
    "PortBindings",
    "Ports",
    "Services",
    "StorageOpt",
    "Sysctls",
    "Tmpfs",
    "Volumes",
];

/// Further fields that are left out where they hold nothing, as `State.Health` of a container without probes.
const OPTIONAL: [&str; 12] = [
    "ArgsEscaped",
    "ClusterVolume",
    "ConfigFrom",
    "Descriptor",
    "Health",
    "Healthcheck",
    "Init",
    "SizeRootFs",
    "SizeRw",
    "Status",
    "StopTimeout",
    "UsageData",
];

/// Whether a field need not be there; what is below a map, never.
pub(super) fn can_be_absent(path: &[String]) -> bool {
    let in_map = path.len() > 1 && named(&path[..path.len() - 1], &MAPS);
    in_map
        || named(path, &TEXTS)
        || named(path, &LISTS)
        || named(path, &MAPS)
        || named(path, &OPTIONAL)
}

/// Whether it is one of the fields that are left out where they hold nothing.
pub(super) fn is_optional(path: &[String]) -> bool {
    named(path, &OPTIONAL)
}

/// Whether an absent field is an empty text.
pub(super) fn is_text(path: &[String]) -> bool {
    named(path, &TEXTS)
}

/// What Go prints for a list or a map that is not there.
pub(super) fn nothing(path: &[String]) -> Option<&'static str> {
    if named(path, &LISTS) {
        Some("[]")
    } else if named(path, &MAPS) {
        Some("map[]")
    } else {
        None
    }
}

fn named(path: &[String], names: &[&str]) -> bool {
    let is = |name: Option<&String>, names: &[&str]| {
        name.is_some_and(|name| names.contains(&name.as_str()))
    };
    let above = path.len().checked_sub(2).and_then(|at| path.get(at));
    is(path.last(), names) && !is(above, &MAPS)
}
