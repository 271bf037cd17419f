//! `system prune`.

use rbuild_engine::cache::collect::PruneOptions;

use crate::chosen::Chosen;
use crate::commands::prune::{self, Removed};
use crate::commands::{container, image_prune, images, network, volume};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::machine;

/// Remove what is not in use: containers, networks, images, build cache
///
/// Containers that do not run, networks that no container is in, images without a name, and build cache.
#[derive(Debug, clap::Args)]
pub(crate) struct SystemPruneArgs {
    /// Also the images with a name that no container is of
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Also the anonymous volumes that no container holds
    #[arg(long)]
    volumes: bool,
    /// `until=24h`, `label=K[=V]`, `label!=K[=V]`; with a label the build cache stays, which has none
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
}

pub(crate) fn execute(args: &SystemPruneArgs, global: &GlobalArgs) -> Result<Exit> {
    let chosen = Chosen::read(&args.filter)?;
    if args.volumes && chosen.has_until() {
        return Err(Error::usage(
            "--volumes and the filter `until` contradict each other: volumes are not removed by their age",
        ));
    }
    prune::sure_of_all(args.force, &what(args, &chosen))?;
    let filters = args.filter.iter().map(|text| images::filter(text));
    let filters: Vec<_> = filters.collect::<Result<_>>()?;
    let mut of_cache = PruneOptions {
        all: true,
        ..PruneOptions::default()
    };
    let engine = machine::engine(global.options()?)?;
    let mut told = Removed::default();
    container::rm::remove_idle(&engine, &chosen, &mut told)?;
    network::remove_unused(&engine.catalog(), &chosen, &mut told)?;
    if args.volumes {
        volume::remove_unused(&engine.catalog(), false, &chosen, &mut told)?;
    }
    image_prune::remove_unused(&engine, args.all, &filters, &mut told)?;
    if !chosen.has_labels() {
        prune::filters(&args.filter, &mut of_cache)?;
        prune::remove_cache(&engine, &mut of_cache, &mut told)?;
    }
    told.total();
    Ok(Exit::Success)
}

fn what(args: &SystemPruneArgs, chosen: &Chosen) -> Vec<&'static str> {
    let mut all = vec![
        "all containers that do not run",
        "all networks that no container is in",
    ];
    if args.volumes {
        all.push("all anonymous volumes that no container holds");
    }
    all.push(if args.all {
        "all images that no container is of"
    } else {
        "all dangling images"
    });
    if !chosen.has_labels() {
        all.push("all build cache that is not in use");
    }
    all
}
