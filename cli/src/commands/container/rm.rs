//! `rbuild rm` and `container prune`.

use rbuild_engine::Engine;
use rbuild_engine::containers::Status;

use crate::chosen::Chosen;
use crate::commands::prune::{self, Removed};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::{machine, stdio};

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
    /// Remove no container, but what one calls another (`run --link`): CONTAINER/ALIAS
    #[arg(short, long, conflicts_with_all = ["force", "volumes"])]
    link: bool,
}

/// Remove all containers that do not run
#[derive(Debug, clap::Args)]
pub(crate) struct PruneArgs {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// `label=K[=V]`, `label!=K[=V]`, `until=DURATION`
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
}

pub(crate) fn execute(args: &RmArgs, global: &GlobalArgs) -> Result<Exit> {
    if args.link {
        return remove_links(&args.containers, global);
    }
    let engine = machine::engine(global.options()?)?;
    let catalog = engine.catalog();
    let mut exit = Exit::Success;
    let (missing, there): (Vec<String>, Vec<String>) =
        args.containers.iter().cloned().partition(|name| {
            args.force && catalog.look_for(name).is_ok_and(|found| found.is_none())
        });
    // To force the removal of what is not there is no failure.
    drop(missing);
    let removed = super::each_name(&there, |name| {
        if args.force && engine.remove_damaged(name)? {
            return Ok(());
        }
        let entry = catalog.find(name)?;
        Ok(engine.remove_container(&entry, args.force, args.volumes)?)
    });
    if removed != Exit::Success {
        exit = removed;
    }
    Ok(exit)
}

fn remove_links(links: &[String], global: &GlobalArgs) -> Result<Exit> {
    let catalog = super::catalog(global)?;
    for link in links {
        let plain = link.strip_prefix('/').unwrap_or(link);
        let (container, alias) = plain.split_once('/').ok_or_else(|| {
            Error::usage(format!("--link `{link}`: it looks like `CONTAINER/ALIAS`"))
        })?;
        catalog.find(container)?.remove_link(alias)?;
        stdio::out(format!("{link}\n"));
    }
    Ok(Exit::Success)
}

pub(crate) fn prune(args: &PruneArgs, global: &GlobalArgs) -> Result<Exit> {
    let chosen = Chosen::read(&args.filter)?;
    prune::sure(args.force, "all containers that do not run")?;
    let engine = machine::engine(global.options()?)?;
    let mut told = Removed::default();
    remove_idle(&engine, &chosen, &mut told)?;
    told.total();
    Ok(Exit::Success)
}

/// Removes those that do not run.
pub(crate) fn remove_idle(engine: &Engine, chosen: &Chosen, told: &mut Removed) -> Result<()> {
    let mut bytes = 0;
    let mut removed = Vec::new();
    // One that is damaged goes by its ID only.
    for entry in engine.catalog().readable()?.0 {
        let definition = &entry.definition;
        let wanted = chosen.takes(&definition.labels(), &definition.created);
        let idle = !entry.state.status.is_alive() || entry.state.status == Status::Created;
        if wanted && idle {
            let size = entry.size()?;
            if engine.remove_container(&entry, false, false).is_ok() {
                bytes += size;
                removed.push(entry.id().to_owned());
            }
        }
    }
    told.add("Deleted Containers", &removed, bytes);
    Ok(())
}
