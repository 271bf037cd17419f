//! `rbuild prune`.

use std::io::BufRead;

use rbuild_engine::cache::collect::PruneOptions;

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::{human, machine, stdio, values};

/// Remove what nothing needs from the store
#[derive(Debug, clap::Args)]
pub(crate) struct PruneArgs {
    /// Also the build cache, and every image without a name
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Keep at least this much of the build cache
    #[arg(long, value_name = "SIZE")]
    keep_storage: Option<String>,
    /// `until=24h`: only what was not used since
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
}

pub(crate) fn execute(args: &PruneArgs, global: &GlobalArgs) -> Result<Exit> {
    let mut options = PruneOptions {
        all: args.all,
        keep_storage: args
            .keep_storage
            .as_deref()
            .map(|text| values::size("--keep-storage", text))
            .transpose()?,
        until: None,
    };
    for filter in &args.filter {
        let text = filter.strip_prefix("until=").ok_or_else(|| {
            Error::usage(format!("--filter `{filter}`: there is no such filter"))
                .help("it is `until=24h`")
        })?;
        options.until = Some(human::until(text).ok_or_else(|| {
            Error::usage(format!("--filter `{filter}`: not a time"))
                .help("it is `24h`, `2026-01-31T12:00:00Z` or a Unix time")
        })?);
    }
    if !args.force && !confirmed(args.all)? {
        return Err(
            Error::failed("nothing was removed").help("to remove without being asked, use --force")
        );
    }
    let pruned = machine::engine(global.options()?)?
        .store()
        .prune(&options)?;
    for (count, what) in [
        (pruned.records, "cache records"),
        (pruned.snapshots, "snapshots"),
        (pruned.blobs, "blobs"),
        (pruned.cache_mounts, "cache mounts"),
    ] {
        if count > 0 {
            stdio::out(format!("Removed {count} {what}\n"));
        }
    }
    stdio::out(format!(
        "Total reclaimed space: {}\n",
        human::size(pruned.bytes)
    ));
    Ok(Exit::Success)
}

fn confirmed(all: bool) -> Result<bool> {
    let what = if all {
        "the whole build cache and all images without a name"
    } else {
        "all dangling images and unused cache"
    };
    stdio::err(format!(
        "This will remove {what}.\nAre you sure you want to continue? [y/N] "
    ));
    let mut answer = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(|error| Error::failed("cannot read the answer").because(error))?;
    Ok(matches!(
        answer.trim().to_ascii_lowercase().as_str(),
        "y" | "yes"
    ))
}
