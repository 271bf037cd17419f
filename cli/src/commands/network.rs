//! `rbuild network`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use rbuild_engine::containers::{Attachment, Catalog, NetworkRequest, NetworkSummary, Subnet};
use serde_json::json;

use super::container::{catalog, each_name, told};
use super::inspect::{self, Kind};
use super::prune::{self, Removed};
use super::run::networks;
use crate::chosen::Chosen;
use crate::chosen::is_match;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::table::{Columns, Format, Row, short_id};
use crate::{human, machine, stdio};

/// Networks in which containers reach each other by name
#[derive(Debug, clap::Args)]
pub(crate) struct NetworkArgs {
    #[command(subcommand)]
    command: NetworkCommand,
}

#[derive(Debug, clap::Subcommand)]
enum NetworkCommand {
    /// List networks
    #[command(visible_alias = "list")]
    Ls {
        /// Only IDs
        #[arg(short, long)]
        quiet: bool,
        /// `name=…`, `id=…`, `driver=…`, `label=K[=V]`, `type=builtin|custom`, `scope=local`, `dangling=true`
        #[arg(short, long, value_name = "FILTER")]
        filter: Vec<String>,
        /// `json`, or a template such as `{{.Name}}`
        #[arg(long, value_name = "FORMAT", allow_hyphen_values = true)]
        format: Option<String>,
        /// Whole IDs
        #[arg(long)]
        no_trunc: bool,
    },
    Create(CreateArgs),
    /// Remove networks in which nobody runs
    #[command(visible_alias = "remove")]
    Rm {
        #[arg(required = true, value_name = "NETWORK")]
        networks: Vec<String>,
        /// One that is not there is no error
        #[arg(short, long)]
        force: bool,
    },
    /// Show everything that is known of networks, as JSON
    Inspect {
        #[arg(required = true, value_name = "NETWORK")]
        networks: Vec<String>,
        /// `json`, or a template such as `{{.IPAM.Config}}`
        #[arg(short, long, value_name = "FORMAT", allow_hyphen_values = true)]
        format: Option<String>,
    },
    /// Remove the networks that no container is in
    Prune {
        /// Do not ask
        #[arg(short, long)]
        force: bool,
        /// `until=24h`, `label=K[=V]`, `label!=K[=V]`
        #[arg(long, value_name = "FILTER")]
        filter: Vec<String>,
    },
    Connect(ConnectArgs),
    /// Take a container out of a network, at once where it runs
    Disconnect {
        #[arg(value_name = "NETWORK")]
        network: String,
        #[arg(value_name = "CONTAINER")]
        container: String,
        /// A container that is not in it is no error
        #[arg(short, long)]
        force: bool,
    },
}

/// Make a network
#[derive(Debug, clap::Args)]
struct CreateArgs {
    #[arg(value_name = "NAME")]
    name: String,
    /// Nothing leads out: only its containers are reached
    #[arg(long)]
    internal: bool,
    /// Its addresses, as `172.30.0.0/16` (default: some that nobody else has)
    #[arg(long, value_name = "SUBNET")]
    subnet: Option<Subnet>,
    /// The address of the host and of the name server (default: the first)
    #[arg(long, value_name = "IP")]
    gateway: Option<Ipv4Addr>,
    /// Where addresses are taken from that nobody chose
    #[arg(long, value_name = "SUBNET")]
    ip_range: Option<Subnet>,
    /// A label of the network
    #[arg(long, value_name = "K=V", allow_hyphen_values = true)]
    label: Vec<String>,
    /// `bridge`, the only one there is
    #[arg(short, long, value_name = "DRIVER", default_value = "bridge")]
    driver: String,
}

/// Bring a container into a network, at once where it runs
#[derive(Debug, clap::Args)]
struct ConnectArgs {
    #[arg(value_name = "NETWORK")]
    network: String,
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// A name of the container in the network, besides its own
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    /// Its address there
    #[arg(long, value_name = "IP")]
    ip: Option<Ipv4Addr>,
}

const COLUMNS: Columns<'_> = &[
    ("NETWORK ID", "ID"),
    ("NAME", "Name"),
    ("DRIVER", "Driver"),
    ("SCOPE", "Scope"),
];

pub(crate) fn execute(args: &NetworkArgs, global: &GlobalArgs) -> Result<Exit> {
    match &args.command {
        NetworkCommand::Ls {
            quiet,
            filter,
            format,
            no_trunc,
        } => list(*quiet, filter, format.as_deref(), *no_trunc, global),
        NetworkCommand::Create(args) => create(args, global),
        NetworkCommand::Rm { networks, force } => {
            let catalog = catalog(global)?;
            let remove = |name: &str| Ok(catalog.remove_network(name, *force)?);
            let there = |name: &&String| !*force || catalog.find_network(name).is_ok();
            let there: Vec<String> = networks.iter().filter(there).cloned().collect();
            Ok(each_name(&there, remove))
        }
        NetworkCommand::Inspect { networks, format } => {
            inspect::show(networks, Kind::Network, format.as_deref(), false, global)
        }
        NetworkCommand::Prune { force, filter } => {
            let chosen = Chosen::read(filter)?;
            prune::sure(*force, "all networks that no container is in")?;
            remove_unused(&catalog(global)?, &chosen, &mut Removed::default())?;
            Ok(Exit::Success)
        }
        NetworkCommand::Connect(args) => {
            let catalog = catalog(global)?;
            let attachment = Attachment {
                network: catalog.find_network(&args.network)?.name,
                aliases: networks::aliases("--alias", &args.alias)?,
                address: args.ip,
                hardware_address: None,
            };
            catalog.find(&args.container)?.connect_network(attachment)?;
            Ok(Exit::Success)
        }
        NetworkCommand::Disconnect {
            network,
            container,
            force,
        } => {
            let catalog = catalog(global)?;
            let network = catalog.find_network(network)?.name;
            let entry = catalog.find(container)?;
            let networks = entry.definition.request.attachments();
            if *force && !networks.iter().any(|it| it.network == network) {
                return Ok(Exit::Success);
            }
            entry.disconnect_network(&network)?;
            Ok(Exit::Success)
        }
    }
}

fn create(args: &CreateArgs, global: &GlobalArgs) -> Result<Exit> {
    if args.driver != "bridge" {
        return Err(Error::unsupported(format!(
            "the network driver `{}`",
            args.driver
        )));
    }
    if args.gateway.is_some() && args.subnet.is_none()
        || args.ip_range.is_some() && args.subnet.is_none()
    {
        return Err(Error::usage(
            "--gateway and --ip-range are of a subnet that is chosen: add --subnet",
        ));
    }
    let pair = |text: &String| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        (name.to_owned(), value.to_owned())
    };
    // Opening the store makes it where there is none.
    let engine = machine::engine(global.options()?)?;
    let network = engine.catalog().create_network(NetworkRequest {
        name: args.name.clone(),
        subnet: args.subnet,
        gateway: args.gateway,
        range: args.ip_range,
        internal: args.internal,
        labels: args.label.iter().map(pair).collect::<BTreeMap<_, _>>(),
    })?;
    stdio::out(format!("{}\n", network.id));
    Ok(Exit::Success)
}

/// Removes those that no container is in.
pub(crate) fn remove_unused(catalog: &Catalog, chosen: &Chosen, told: &mut Removed) -> Result<()> {
    let removed =
        catalog.prune_networks(|network| chosen.takes(&network.labels, &network.created))?;
    told.add("Deleted Networks", &removed, 0);
    Ok(())
}

fn list(
    quiet: bool,
    filters: &[String],
    format: Option<&str>,
    whole: bool,
    global: &GlobalArgs,
) -> Result<Exit> {
    let format = Format::parse(format)?;
    let catalog = catalog(global)?;
    let (mut networks, damaged) = catalog.all_networks()?;
    let exit = told(damaged);
    for filter in filters {
        let bad = || Error::usage(format!("--filter `{filter}`: there is no such filter"));
        let (key, value) = filter.split_once('=').ok_or_else(bad)?;
        match key {
            "name" => networks.retain(|network| is_match(&network.name, value)),
            "id" => networks.retain(|network| is_match(&network.id, value)),
            "driver" => networks.retain(|network| network.driver == value),
            "scope" => networks.retain(|_| value == "local"),
            "label" => networks.retain(|network| has_label(network, value)),
            "type" => match value {
                "custom" => networks.retain(|network| network.made.is_some()),
                "builtin" => networks.retain(|network| network.made.is_none()),
                _ => {
                    return Err(Error::usage(format!(
                        "--filter `{filter}`: there is no such type"
                    ))
                    .help("it is `builtin` or `custom`"));
                }
            },
            "dangling" => {
                let wanted = crate::spec::parse_bool(value).ok_or_else(|| {
                    Error::usage(format!("--filter `{filter}`: expected `true` or `false`"))
                })?;
                let mut kept = Vec::new();
                for network in networks {
                    let dangles = network.made.is_some()
                        && catalog.users_of_network(&network.name)?.is_empty();
                    if dangles == wanted {
                        kept.push(network);
                    }
                }
                networks = kept;
            }
            _ => return Err(bad()),
        }
    }
    let id = |network: &NetworkSummary| {
        if whole {
            network.id.clone()
        } else {
            short_id(&network.id)
        }
    };
    if quiet {
        for network in &networks {
            stdio::out(format!("{}\n", id(network)));
        }
        return Ok(exit);
    }
    let rows: Vec<Row> = networks
        .iter()
        .filter_map(|network| {
            let made = network.made.as_ref();
            let labels = made.map(|network| {
                let labels = network.labels.iter();
                labels
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect::<Vec<_>>()
            });
            let created = made.map(|network| network.created.as_str());
            json!({
                "ID": id(network),
                "Name": network.name,
                "Driver": network.driver,
                "Scope": "local",
                "CreatedAt": human::at(created),
                "IPv4": "true",
                "IPv6": "false",
                "Internal": made.is_some_and(|network| network.internal).to_string(),
                "Labels": labels.unwrap_or_default().join(","),
            })
            .as_object()
            .cloned()
        })
        .collect();
    format.print(COLUMNS, &rows)?;
    Ok(exit)
}

fn has_label(network: &NetworkSummary, label: &str) -> bool {
    let Some(network) = &network.made else {
        return false;
    };
    match label.split_once('=') {
        Some((name, value)) => network.labels.get(name).is_some_and(|own| own == value),
        None => network.labels.contains_key(label),
    }
}
