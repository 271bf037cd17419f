//! `rbuild ps`, `container ls`.

use std::collections::{HashMap, HashSet};

use rbuild_engine::Engine;
use rbuild_engine::containers::{Catalog, Entry, MountKind, MountPoint, Status};
use rbuild_engine::request::NetworkChoice;
use serde_json::json;

use crate::chosen::is_match;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::table::{self, Columns, Format, Row};
use crate::{human, machine, stdio};

/// List containers
#[derive(Debug, clap::Args)]
pub(crate) struct PsArgs {
    /// Also those that do not run
    #[arg(short, long)]
    all: bool,
    /// Only IDs
    #[arg(short, long)]
    quiet: bool,
    /// `status=…`, `name=…`, `id=…`, `label=K[=V]`, `ancestor=IMAGE`, `exited=N`, `health=…`, `volume=…`, `network=…`,
    /// `publish=…`, `expose=…`, `before=…`, `since=…`
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// `json`, or a template such as `{{.Names}}`
    #[arg(long, value_name = "FORMAT", allow_hyphen_values = true)]
    format: Option<String>,
    /// Whole IDs and commands
    #[arg(long)]
    no_trunc: bool,
    /// The one that was made last
    #[arg(short, long)]
    latest: bool,
    /// The N that were made last
    #[arg(short = 'n', long, value_name = "N", allow_hyphen_values = true)]
    last: Option<i64>,
    /// What they wrote
    #[arg(short, long)]
    size: bool,
}

const COLUMNS: Columns<'_> = &[
    ("CONTAINER ID", "ID"),
    ("IMAGE", "Image"),
    ("COMMAND", "Command"),
    ("CREATED", "RunningFor"),
    ("STATUS", "Status"),
    ("PORTS", "Ports"),
    ("NAMES", "Names"),
];
const COLUMNS_WITH_SIZE: Columns<'_> = &[
    ("CONTAINER ID", "ID"),
    ("IMAGE", "Image"),
    ("COMMAND", "Command"),
    ("CREATED", "RunningFor"),
    ("STATUS", "Status"),
    ("PORTS", "Ports"),
    ("NAMES", "Names"),
    ("SIZE", "Size"),
];

const FILTERS: [&str; 13] = [
    "status", "name", "id", "label", "ancestor", "exited", "health", "volume", "network",
    "publish", "expose", "before", "since",
];

pub(crate) fn execute(args: &PsArgs, global: &GlobalArgs) -> Result<Exit> {
    let format = Format::parse(args.format.as_deref())?;
    let catalog = super::catalog(global)?;
    let filters: Vec<(&str, &str)> = args
        .filter
        .iter()
        .map(|text| {
            let (name, value) = text.split_once('=').ok_or_else(|| {
                Error::usage(format!("--filter `{text}`: it looks like `NAME=VALUE`"))
            })?;
            Ok((name.trim(), value.trim()))
        })
        .collect::<Result<_>>()?;
    if let Some((name, _)) = filters.iter().find(|(name, _)| !FILTERS.contains(name)) {
        return Err(
            Error::usage(format!("--filter `{name}`: there is no such filter"))
                .help(format!("it is one of {}", FILTERS.join(", "))),
        );
    }
    for (name, value) in &filters {
        check(name, value)?;
    }
    let format_has_size = args.format.as_deref().map(|text| text.contains("Size"));
    let with_size = args.size || format_has_size == Some(true);
    let (mut entries, damaged) = catalog.readable()?;
    let ancestors: Vec<&str> = filters
        .iter()
        .filter(|(name, _)| *name == "ancestor" && !entries.is_empty())
        .map(|(_, value)| *value)
        .collect();
    let engine = match ancestors.is_empty() {
        true => None,
        false => Some(machine::engine(global.options()?)?),
    };
    // Not everybody sees what the containers' users wrote.
    let enters = with_size && engine.is_none();
    let _host = enters.then(machine::enter).transpose()?;
    let families = families(engine.as_ref(), &ancestors)?;
    let exit = super::told(damaged);
    let any_state = filters
        .iter()
        .any(|(name, _)| ["status", "exited"].contains(name));
    // None and fewer are no limit, as with Docker.
    let given = args.last.and_then(|last| usize::try_from(last).ok());
    let last = args
        .last
        .map_or_else(|| args.latest.then_some(1), |_| given);
    let last = last.filter(|last| *last > 0);
    if !(args.all || any_state || last.is_some()) {
        entries.retain(|entry| entry.state.status.is_alive());
    }
    // Filters of one name are alternatives, but for labels; of several names all hold.
    let mut names: Vec<&str> = filters.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let moments = |wanted: &str| catalog.find(wanted).map(|other| other.definition.created);
        let mut kept = Vec::new();
        for entry in entries {
            let mut found = Vec::new();
            for (_, value) in filters.iter().filter(|(other, _)| *other == name) {
                found.push(match (name, families.get(value)) {
                    ("ancestor", Some(family)) => is_of(&entry, family),
                    _ => matches(&entry, name, value, &catalog, &moments)?,
                });
            }
            let holds = match name {
                "label" => !found.contains(&false),
                _ => found.contains(&true),
            };
            if holds {
                kept.push(entry);
            }
        }
        entries = kept;
    }
    if let Some(last) = last {
        entries.truncate(last);
    }
    if args.quiet && args.format.is_none() {
        for entry in &entries {
            stdio::out(format!("{}\n", id(entry, args.no_trunc)));
        }
        return Ok(exit);
    }
    let rows: Vec<Row> = entries
        .iter()
        .map(|entry| row(entry, args.no_trunc, with_size))
        .collect::<Result<_>>()?;
    let columns = if args.size {
        COLUMNS_WITH_SIZE
    } else {
        COLUMNS
    };
    format.print(columns, &rows)?;
    Ok(exit)
}

fn id(entry: &Entry, whole: bool) -> String {
    if whole {
        entry.id().to_owned()
    } else {
        table::short_id(entry.id())
    }
}

/// A command as Docker shows it: words with a space in single quotes.
fn shown(argv: &[String]) -> String {
    let words = argv.iter().enumerate().map(|(index, word)| {
        if index > 0 && word.contains(' ') {
            format!("'{word}'")
        } else {
            word.clone()
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// In double quotes, with nothing in it that moves a terminal's cursor.
fn quoted(text: &str) -> String {
    let mut all = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => all.extend(['\\', letter]),
            letter if letter.is_control() => all.extend(letter.escape_default()),
            letter => all.push(letter),
        }
    }
    all.push('"');
    all
}

pub(crate) fn row(entry: &Entry, whole: bool, with_size: bool) -> Result<Row> {
    let definition = &entry.definition;
    let command = shown(&definition.argv);
    let command = if whole {
        command
    } else {
        table::shorten(&command, 20)
    };
    let labels: Vec<String> = definition
        .labels()
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let mounts: Vec<String> = definition
        .mounts
        .iter()
        .filter_map(|mount| match &mount.kind {
            MountKind::Bind(path) => Some(path.display().to_string()),
            MountKind::Volume { name, .. } | MountKind::Image { name, .. } => Some(if whole {
                name.clone()
            } else {
                table::shorten(name, 15)
            }),
            MountKind::Tmpfs(_) => None,
        })
        .collect();
    let created = Some(definition.created.as_str());
    let is_volume = |mount: &&MountPoint| matches!(mount.kind, MountKind::Volume { .. });
    let volumes = definition.mounts.iter().filter(is_volume).count();
    let mut row = json!({
        "ID": id(entry, whole),
        "Image": match definition.request.image.strip_prefix("sha256:") {
            Some(digits) if !whole => digits.chars().take(12).collect(),
            _ => definition.request.image.clone(),
        },
        "Command": quoted(&command),
        "CreatedAt": human::at(created),
        "RunningFor": human::since(created),
        "Ports": ports(entry),
        "State": entry.state.status.name(),
        "Status": status(entry),
        "Names": entry.name,
        "Labels": labels.join(","),
        "LocalVolumes": volumes.to_string(),
        "Mounts": mounts.join(","),
        "Networks": networks(entry).join(","),
    })
    .as_object()
    .cloned()
    .unwrap_or_default();
    let size = if with_size { entry.size()? } else { 0 };
    row.insert("Size".to_owned(), json!(human::size(size)));
    row.insert("Platform".to_owned(), serde_json::Value::Null);
    Ok(row)
}

/// As Docker lists them, the modes that are no networks too.
fn networks(entry: &Entry) -> Vec<String> {
    let request = &entry.definition.request;
    let mut names: Vec<String> = request
        .attachments()
        .into_iter()
        .map(|attachment| attachment.network)
        .collect();
    if names.is_empty() && request.network_of.is_none() {
        names.push(match request.network {
            NetworkChoice::Host => "host".to_owned(),
            NetworkChoice::None | NetworkChoice::Default => "none".to_owned(),
        });
    }
    names
}

/// `0.0.0.0:8080->80/tcp, 53/udp`
fn ports(entry: &Entry) -> String {
    let state = &entry.state;
    if !state.private_network && state.ports.is_empty() {
        return String::new();
    }
    let mut shown = Vec::new();
    for name in entry.definition.exposed_ports() {
        let (number, protocol) = name.split_once('/').unwrap_or((&name, ""));
        let number = number.parse::<u16>().unwrap_or(u16::MAX);
        let before = shown.len();
        for port in state.ports.iter().filter(|port| port.inside() == name) {
            let host = std::net::SocketAddr::new(port.host, port.host_port);
            let order = (Some(port.host), port.host_port, protocol.to_owned());
            shown.push((number, order, format!("{host}->{name}")));
        }
        if shown.len() == before {
            shown.push((number, (None, 0, protocol.to_owned()), name));
        }
    }
    shown.sort();
    let shown: Vec<String> = shown.into_iter().map(|(_, _, text)| text).collect();
    shown.join(", ")
}

/// `Up 5 minutes (healthy)`, `Exited (1) 2 hours ago`
fn status(entry: &Entry) -> String {
    let state = &entry.state;
    let since = |text: &str| {
        let text = human::since(Some(text));
        text.strip_suffix(" ago").unwrap_or(&text).to_owned()
    };
    match state.status {
        Status::Created => "Created".to_owned(),
        Status::Dead => "Dead".to_owned(),
        Status::Restarting => format!(
            "Restarting ({}) {} ago",
            state.exit_code,
            since(&state.finished)
        ),
        Status::Exited => {
            let finished = if state.finished.is_empty() {
                &state.started
            } else {
                &state.finished
            };
            format!("Exited ({}) {} ago", state.exit_code, since(finished))
        }
        Status::Running | Status::Paused => {
            let mut text = format!("Up {}", since(&state.started));
            if state.status == Status::Paused {
                text.push_str(" (Paused)");
            } else if let Some(health) = &state.health {
                let shown = match health.status.as_str() {
                    "starting" => "health: starting",
                    other => other,
                };
                text.push_str(&format!(" ({shown})"));
            }
            text
        }
    }
}

/// Values of filters that can be nothing else are refused, though there may be no container to look at.
fn check(filter: &str, value: &str) -> Result<()> {
    const STATES: [&str; 7] = [
        "created",
        "running",
        "paused",
        "restarting",
        "removing",
        "exited",
        "dead",
    ];
    const HEALTH: [&str; 4] = ["none", "starting", "healthy", "unhealthy"];
    let known: &[&str] = match filter {
        "status" => &STATES,
        "health" => &HEALTH,
        _ => return Ok(()),
    };
    if known.contains(&value) {
        return Ok(());
    }
    let message = format!("--filter {filter} `{value}`: there is no such state");
    Err(Error::usage(message).help(format!("it is one of {}", known.join(", "))))
}

/// Of each image that containers are to be of: the IDs of itself and of those made on it. One that is not there has
/// none, and containers still know what they called it.
fn families<'v>(
    engine: Option<&Engine>,
    images: &[&'v str],
) -> Result<HashMap<&'v str, HashSet<String>>> {
    let mut families = HashMap::new();
    let Some(engine) = engine else {
        return Ok(families);
    };
    for image in images {
        match engine.descendants(image) {
            Ok(family) => drop(families.insert(*image, family)),
            Err(rbuild_engine::Error::NoImage(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(families)
}

fn is_of(entry: &Entry, family: &HashSet<String>) -> bool {
    let image = entry.definition.image_id.as_ref();
    image.is_some_and(|image| family.contains(image))
}

fn matches(
    entry: &Entry,
    name: &str,
    value: &str,
    catalog: &Catalog,
    created: &impl Fn(&str) -> rbuild_engine::Result<String>,
) -> Result<bool> {
    let definition = &entry.definition;
    Ok(match name {
        "status" => entry.state.status.name() == value,
        "name" => is_match(&entry.name, value) || is_match(&format!("/{}", entry.name), value),
        "id" => is_match(&definition.id, value),
        "label" => {
            let labels = definition.labels();
            match value.split_once('=') {
                Some((key, value)) => labels.get(key).is_some_and(|own| own == value),
                None => labels.contains_key(value),
            }
        }
        "ancestor" => {
            let image = &definition.request.image;
            let id = definition.image_id.as_deref().unwrap_or_default();
            let id = id.strip_prefix("sha256:").unwrap_or(id);
            image == value
                || image.strip_suffix(":latest") == Some(value)
                || value.strip_suffix(":latest") == Some(image)
                || (value.len() >= 4 && id.starts_with(value.trim_start_matches("sha256:")))
        }
        "exited" => {
            let code: i32 = value
                .parse()
                .map_err(|_| Error::usage(format!("--filter exited `{value}` is not a number")))?;
            entry.state.status == Status::Exited && entry.state.exit_code == code
        }
        "health" => {
            let health = entry.state.health.as_ref();
            health.map_or("none", |health| &health.status) == value
        }
        "volume" => definition.mounts.iter().any(|mount| {
            mount.target == value
                || match &mount.kind {
                    MountKind::Bind(path) => path == std::path::Path::new(value),
                    MountKind::Volume { name, .. } => name == value,
                    MountKind::Tmpfs(_) | MountKind::Image { .. } => false,
                }
        }),
        "network" => {
            // By its ID, too; one that is not there has no container.
            let named = catalog.find_network(value).map(|network| network.name);
            let wanted = named.unwrap_or_else(|_| value.to_owned());
            networks(entry).contains(&wanted)
        }
        "publish" => {
            let wanted = wanted_ports(name, value)?;
            let open = entry.state.ports.iter();
            open.map(|port| (port.port, port.protocol.name()))
                .any(|(port, protocol)| wanted.0.contains(&port) && wanted.1 == protocol)
        }
        "expose" => {
            let wanted = wanted_ports(name, value)?;
            definition.exposed_ports().iter().any(|port| {
                port.split_once('/').is_some_and(|(port, protocol)| {
                    port.parse().is_ok_and(|port| wanted.0.contains(&port)) && wanted.1 == protocol
                })
            })
        }
        "before" => definition.created < created(value)?,
        "since" => definition.created > created(value)?,
        _ => false,
    })
}

/// `80`, `80/udp` or `8000-8080/tcp`: ports of the container.
fn wanted_ports<'v>(
    filter: &str,
    value: &'v str,
) -> Result<(std::ops::RangeInclusive<u16>, &'v str)> {
    let (numbers, protocol) = value.split_once('/').unwrap_or((value, "tcp"));
    let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
    let known = ["tcp", "udp", "sctp"].contains(&protocol);
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if known && first <= last => Ok((first..=last, protocol)),
        _ => Err(Error::usage(format!(
            "--filter {filter} `{value}`: it looks like `80`, `80-90` or `53/udp`"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_filters_are_read() {
        assert_eq!(wanted_ports("expose", "80").unwrap(), (80..=80, "tcp"));
        assert_eq!(
            wanted_ports("expose", "80-90/udp").unwrap(),
            (80..=90, "udp")
        );
        for bad in ["", "x", "90-80", "80/what", "65536"] {
            assert!(wanted_ports("expose", bad).is_err(), "{bad}");
        }
    }
}
