//! `image prune`.

use rbuild_engine::Engine;
use rbuild_engine::images::{ImageFilter, Removed as Gone};

use super::images;
use super::prune::{self, Removed};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::machine;

/// Remove images that no container is of
///
/// Without --all: only those without a name. What the build cache holds of them stays (`builder prune`).
#[derive(Debug, clap::Args)]
pub(crate) struct ImagePruneArgs {
    /// Also those with a name
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// `until=24h`, `label=K[=V]`, `label!=K[=V]`, `dangling=false` (as --all)
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
}

pub(crate) fn execute(args: &ImagePruneArgs, global: &GlobalArgs) -> Result<Exit> {
    let mut all = args.all;
    let mut filters = Vec::new();
    for text in &args.filter {
        match images::filter(text)? {
            ImageFilter::Dangling(dangling) => all = !dangling,
            filter @ (ImageFilter::Label(..)
            | ImageFilter::NotLabel(..)
            | ImageFilter::Until(_)) => {
                filters.push(filter);
            }
            ImageFilter::Reference(_) | ImageFilter::Before(_) | ImageFilter::Since(_) => {
                return Err(
                    Error::usage(format!("--filter `{text}`: nothing is removed by that"))
                        .help("it is `until=…`, `label=…`, `label!=…` or `dangling=…`"),
                );
            }
        }
    }
    let what = if all {
        "all images that no container is of"
    } else {
        "all dangling images"
    };
    prune::sure(args.force, what)?;
    let engine = machine::engine(global.options()?)?;
    let mut told = Removed::default();
    remove_unused(&engine, all, &filters, &mut told)?;
    told.total();
    Ok(Exit::Success)
}

/// Removes those that no container is of.
pub(crate) fn remove_unused(
    engine: &Engine,
    all: bool,
    filters: &[ImageFilter],
    told: &mut Removed,
) -> Result<()> {
    let pruned = engine.prune_images(all, filters)?;
    let lines: Vec<String> = pruned
        .removed
        .iter()
        .map(|gone| match gone {
            Gone::Untagged(name) => format!("untagged: {name}"),
            Gone::Deleted(digest) => format!("deleted: {digest}"),
        })
        .collect();
    told.add("Deleted Images", &lines, pruned.bytes);
    Ok(())
}
