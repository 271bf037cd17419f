//! `rbuild rm` and `container prune`.

use rbuild_engine::containers::Status;

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::{human, machine, stdio};

/// Remove containers
#[derive(Debug, clap::Args)]
pub(crate) struct RmArgs {
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
    /// Kill those that run
    #[arg(short, long)]
    force: bool,
    /// With their anonymous volumes
    #[arg(short, long)]
    volumes: bool,
}

/// Remove all containers that do not run
#[derive(Debug, clap::Args)]
pub(crate) struct PruneArgs {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// `label=K[=V]`, `until=DURATION`
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
}

pub(crate) fn execute(args: &RmArgs, global: &GlobalArgs) -> Result<Exit> {
    let engine = machine::engine(global.options()?)?;
    let catalog = engine.catalog();
    let mut exit = Exit::Success;
    let (missing, there): (Vec<String>, Vec<String>) =
        args.containers.iter().cloned().partition(|name| {
            args.force && catalog.look_for(name).is_ok_and(|found| found.is_none())
        });
    // To force the removal of what is not there is no failure.
    drop(missing);
    let removed = super::each(&catalog, &there, |entry| {
        Ok(engine.remove_container(&entry, args.force, args.volumes)?)
    });
    if removed != Exit::Success {
        exit = removed;
    }
    Ok(exit)
}

pub(crate) fn prune(args: &PruneArgs, global: &GlobalArgs) -> Result<Exit> {
    let mut labels = Vec::new();
    let mut until = None;
    for filter in &args.filter {
        match filter.split_once('=') {
            Some(("label", label)) => labels.push(label),
            Some(("until", text)) => {
                until = Some(human::moment_or_duration("--filter until", text)?);
            }
            _ => {
                return Err(Error::usage(format!(
                    "--filter `{filter}`: there is no such filter"
                )));
            }
        }
    }
    if !args.force && !crate::commands::prune::confirm("all containers that do not run")? {
        return Err(
            Error::failed("nothing was removed").help("to remove without being asked, use --force")
        );
    }
    let engine = machine::engine(global.options()?)?;
    let mut bytes = 0;
    let mut removed = Vec::new();
    for entry in engine.catalog().all()? {
        let own = entry.definition.labels();
        let wanted = labels.iter().all(|label| match label.split_once('=') {
            Some((name, value)) => own.get(name).is_some_and(|own| own == value),
            None => own.contains_key(*label),
        }) && until
            .as_ref()
            .is_none_or(|until| entry.definition.created < *until);
        let idle = !entry.state.status.is_alive() || entry.state.status == Status::Created;
        if wanted && idle {
            let size = entry.size()?;
            if engine.remove_container(&entry, false, false).is_ok() {
                bytes += size;
                removed.push(entry.id().to_owned());
            }
        }
    }
    if !removed.is_empty() {
        stdio::out(format!("Deleted Containers:\n{}\n\n", removed.join("\n")));
    }
    stdio::out(format!("Total reclaimed space: {}\n", human::size(bytes)));
    Ok(Exit::Success)
}
