//! `rbuild volume`.

use std::collections::BTreeMap;

use rbuild_engine::containers::{Backing, Catalog, NewVolume, Volume};

use super::container::{catalog, each_name, told};
use super::inspect::{self, Kind};
use super::prune::{self, Removed};
use super::run::mounts::memory_options;
use crate::chosen::Chosen;
use crate::chosen::is_match;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::table::{Columns, Format, Row, UNKNOWN};
use crate::{machine, stdio};

/// Directories that outlive the containers which use them
#[derive(Debug, clap::Args)]
pub(crate) struct VolumeArgs {
    #[command(subcommand)]
    command: VolumeCommand,
}

#[derive(Debug, clap::Subcommand)]
enum VolumeCommand {
    /// List volumes
    #[command(visible_alias = "list")]
    Ls {
        /// Only names
        #[arg(short, long)]
        quiet: bool,
        /// `name=…`, `label=K[=V]`, `dangling=true`
        #[arg(short, long, value_name = "FILTER")]
        filter: Vec<String>,
        /// `json`, or a template such as `{{.Name}}`
        #[arg(long, value_name = "FORMAT", allow_hyphen_values = true)]
        format: Option<String>,
    },
    /// Make a volume
    Create {
        /// A random one where it is not given
        #[arg(value_name = "NAME")]
        name: Option<String>,
        /// As Docker's older scripts say it
        #[arg(
            long = "name",
            value_name = "NAME",
            hide = true,
            conflicts_with = "name"
        )]
        name_flag: Option<String>,
        /// A label of the volume
        #[arg(long, value_name = "K=V", allow_hyphen_values = true)]
        label: Vec<String>,
        /// `local`, the only one there is
        #[arg(short, long, value_name = "DRIVER", default_value = "local")]
        driver: String,
        /// What it is: `type=tmpfs`, `device=tmpfs`, `o=size=64m,uid=1000`; or `type=none`, `o=bind`, `device=/DIRECTORY`
        #[arg(short, long, value_name = "K=V")]
        opt: Vec<String>,
    },
    /// Remove volumes that no container holds
    #[command(visible_alias = "remove")]
    Rm {
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// One that is not there is no error
        #[arg(short, long)]
        force: bool,
    },
    /// Show everything that is known of volumes, as JSON
    Inspect {
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// `json`, or a template such as `{{.Mountpoint}}`
        #[arg(short, long, value_name = "FORMAT", allow_hyphen_values = true)]
        format: Option<String>,
    },
    /// Remove the anonymous volumes that no container holds
    Prune {
        /// Also the named ones
        #[arg(short, long)]
        all: bool,
        /// Do not ask
        #[arg(short, long)]
        force: bool,
        /// `label=K[=V]`, `label!=K[=V]`, `all=true`
        #[arg(long, value_name = "FILTER")]
        filter: Vec<String>,
    },
}

const COLUMNS: Columns<'_> = &[("DRIVER", "Driver"), ("VOLUME NAME", "Name")];

pub(crate) fn execute(args: &VolumeArgs, global: &GlobalArgs) -> Result<Exit> {
    match &args.command {
        VolumeCommand::Ls {
            quiet,
            filter,
            format,
        } => list(*quiet, filter, format.as_deref(), global),
        VolumeCommand::Create {
            name,
            name_flag,
            label,
            driver,
            opt,
        } => {
            if driver != "local" {
                return Err(Error::unsupported(format!("the volume driver `{driver}`")));
            }
            let name = name.as_deref().or(name_flag.as_deref()).unwrap_or_default();
            let new = described("--opt", label, opt)?;
            // Opening the store makes it where there is none.
            let engine = machine::engine(global.options()?)?;
            let volume = engine.catalog().create_volume(name, new)?;
            stdio::out(format!("{}\n", volume.name));
            Ok(Exit::Success)
        }
        VolumeCommand::Rm { names, force } => {
            // In rbuild's user namespace, files of the containers' users can be removed.
            let _host = machine::enter()?;
            let catalog = catalog(global)?;
            let remove = |name: &str| Ok(catalog.remove_volume(name, *force)?);
            Ok(each_name(names, remove))
        }
        VolumeCommand::Inspect { names, format } => {
            inspect::show(names, Kind::Volume, format.as_deref(), false, global)
        }
        VolumeCommand::Prune { all, force, filter } => prune(*all, *force, filter, global),
    }
}

/// A volume that is to be made. `flag`: what gave the options.
pub(crate) fn described(flag: &str, labels: &[String], options: &[String]) -> Result<NewVolume> {
    let pair = |text: &String| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        (name.to_owned(), value.to_owned())
    };
    let options: BTreeMap<String, String> = options.iter().map(pair).collect();
    Ok(NewVolume {
        labels: labels.iter().map(pair).collect(),
        backing: backing(flag, &options)?,
        options,
    })
}

/// What a volume is, by the options of Docker's driver `local`.
fn backing(flag: &str, options: &BTreeMap<String, String>) -> Result<Option<Backing>> {
    let known = ["type", "device", "o"];
    if let Some(other) = options.keys().find(|name| !known.contains(&name.as_str())) {
        return Err(
            Error::usage(format!("{flag} `{other}`: there is no such option"))
                .help("it is `type`, `device` or `o`"),
        );
    }
    let of = |name: &str| options.get(name).map_or("", String::as_str);
    let (kind, device, more) = (of("type"), of("device"), of("o"));
    match kind {
        "" if options.is_empty() => Ok(None),
        "tmpfs" => {
            let (file_system, read_only) = memory_options(&format!("{flag} o"), more)?;
            if read_only {
                return Err(read_only_option(flag));
            }
            Ok(Some(Backing::Memory(file_system)))
        }
        "" | "none" | "bind" => {
            if let Some(other) = more.split(',').find(|one| !matches!(*one, "bind" | "rw")) {
                return Err(match other {
                    "" => Error::usage(format!("{flag}: of a directory, `o=bind` is expected")),
                    "ro" => read_only_option(flag),
                    other => Error::unsupported(format!("{flag} `o={other}`")),
                });
            }
            if !device.starts_with('/') {
                return Err(Error::usage(format!(
                    "--opt `device={device}`: it is the absolute path of a directory"
                )));
            }
            Ok(Some(Backing::Directory(device.into())))
        }
        other => Err(Error::unsupported(format!("{flag} `type={other}`"))),
    }
}

fn read_only_option(flag: &str) -> Error {
    Error::usage(format!(
        "{flag} `o=ro`: say it where the volume is used, `-v NAME:/TARGET:ro`"
    ))
}

fn list(
    quiet: bool,
    filters: &[String],
    format: Option<&str>,
    global: &GlobalArgs,
) -> Result<Exit> {
    let format = Format::parse(format)?;
    let catalog = catalog(global)?;
    let (mut volumes, damaged) = catalog.volumes()?;
    let exit = told(damaged);
    for filter in filters {
        match filter.split_once('=') {
            Some(("name", part)) => volumes.retain(|volume| is_match(&volume.name, part)),
            Some(("label", label)) => volumes.retain(|volume| has_label(volume, label)),
            Some(("driver", driver)) => volumes.retain(|_| driver == "local"),
            Some(("dangling", value)) => {
                let wanted = crate::spec::parse_bool(value).ok_or_else(|| {
                    Error::usage(format!("--filter `{filter}`: expected `true` or `false`"))
                })?;
                let mut kept = Vec::new();
                for volume in volumes {
                    if catalog.users_of_volume(&volume.name)?.is_empty() == wanted {
                        kept.push(volume);
                    }
                }
                volumes = kept;
            }
            _ => {
                return Err(Error::usage(format!(
                    "--filter `{filter}`: there is no such filter"
                )));
            }
        }
    }
    if quiet {
        for volume in &volumes {
            stdio::out(format!("{}\n", volume.name));
        }
        return Ok(exit);
    }
    let rows = volumes.iter().map(|volume| row(&catalog, volume));
    format.print(COLUMNS, &rows.collect::<Result<Vec<Row>>>()?)?;
    Ok(exit)
}

/// What lists tell of one.
pub(crate) fn row(catalog: &Catalog, volume: &Volume) -> Result<Row> {
    let labels = volume.labels.iter();
    let labels: Vec<String> = labels
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let place = catalog.volume_path(&volume.name)?;
    let row = [
        ("Name", volume.name.clone()),
        ("Driver", "local".to_owned()),
        ("Scope", "local".to_owned()),
        ("Mountpoint", place.to_string_lossy().into_owned()),
        ("Labels", labels.join(",")),
        // Docker's list has them and knows nothing of them, either.
        ("Links", UNKNOWN.to_owned()),
        ("Size", UNKNOWN.to_owned()),
        ("Status", UNKNOWN.to_owned()),
        ("Availability", UNKNOWN.to_owned()),
        ("Group", UNKNOWN.to_owned()),
    ];
    let row = row.map(|(name, value)| (name.to_owned(), value.into()));
    Ok(row.into_iter().collect())
}

fn has_label(volume: &Volume, label: &str) -> bool {
    match label.split_once('=') {
        Some((name, value)) => volume.labels.get(name).is_some_and(|own| own == value),
        None => volume.labels.contains_key(label),
    }
}

fn prune(all: bool, force: bool, filters: &[String], global: &GlobalArgs) -> Result<Exit> {
    // `all=1` is --all in other words.
    let (alls, filters): (Vec<String>, Vec<String>) = filters
        .iter()
        .cloned()
        .partition(|filter| filter.starts_with("all="));
    let mut all = all;
    for filter in &alls {
        let value = filter.trim_start_matches("all=");
        all |= crate::spec::parse_bool(value).ok_or_else(|| {
            Error::usage(format!("--filter `{filter}`: expected `true` or `false`"))
        })?;
    }
    let chosen = Chosen::read(&filters)?;
    if chosen.has_until() {
        return Err(Error::usage(
            "--filter `until`: volumes are not removed by their age",
        ));
    }
    let what = if all {
        "all volumes that no container holds"
    } else {
        "all anonymous volumes that no container holds"
    };
    prune::sure(force, what)?;
    let _host = machine::enter()?;
    let mut removed = Removed::default();
    remove_unused(&catalog(global)?, all, &chosen, &mut removed)?;
    removed.total();
    Ok(Exit::Success)
}

/// Removes those that no container holds.
pub(crate) fn remove_unused(
    catalog: &Catalog,
    all: bool,
    chosen: &Chosen,
    told: &mut Removed,
) -> Result<()> {
    let wanted = |volume: &Volume| chosen.takes(&volume.labels, &volume.created);
    let pruned = catalog.prune_volumes(all, wanted)?;
    told.add("Deleted Volumes", &pruned.names, pruned.bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(options: &[(&str, &str)]) -> Result<Option<Backing>> {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        backing("--opt", &options.iter().map(pair).collect())
    }

    #[test]
    fn options_say_what_a_volume_is() {
        assert_eq!(of(&[]).unwrap(), None);
        let memory = of(&[
            ("type", "tmpfs"),
            ("device", "tmpfs"),
            ("o", "size=1m,uid=7"),
        ]);
        match memory.unwrap() {
            Some(Backing::Memory(tmpfs)) => {
                assert_eq!((tmpfs.size, tmpfs.uid), (Some(1 << 20), Some(7)));
            }
            other => panic!("{other:?}"),
        }
        let directory = of(&[("type", "none"), ("o", "bind"), ("device", "/srv")]).unwrap();
        assert_eq!(directory, Some(Backing::Directory("/srv".into())));
        for bad in [
            &[("type", "nfs"), ("o", "addr=1.2.3.4"), ("device", ":/x")][..],
            &[("type", "none"), ("o", "bind")],
            &[("type", "none"), ("device", "/srv")],
            &[("type", "none"), ("o", "bind,ro"), ("device", "/srv")],
            &[("type", "tmpfs"), ("o", "ro")],
            &[("type", "tmpfs"), ("o", "what")],
            &[("size", "1m")],
        ] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }
}
