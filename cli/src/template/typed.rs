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

const LISTS: [&str; 24] = [
    "Binds",
    "CapAdd",
    "CapDrop",
    "Cmd",
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
    "MaskedPaths",
    "Mounts",
    "OnBuild",
    "ReadonlyPaths",
    "RepoDigests",
    "RepoTags",
    "SecurityOpt",
    "Shell",
    "Ulimits",
    "VolumesFrom",
];

/// Their keys are anything, and never fields.
const MAPS: [&str; 9] = [
    "Annotations",
    "ExposedPorts",
    "Labels",
    "Networks",
    "PortBindings",
    "Ports",
    "Sysctls",
    "Tmpfs",
    "Volumes",
];

/// Further fields that are left out where they hold nothing, as `State.Health` of a container without probes.
const OPTIONAL: [&str; 16] = [
    "ArgsEscaped",
    "ClusterVolume",
    "ConfigFrom",
    "Descriptor",
    "DNSNames",
    "Health",
    "Healthcheck",
    "Init",
    "Manifests",
    "Peers",
    "Services",
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
