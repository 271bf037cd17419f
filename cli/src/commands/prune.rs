//! `rbuild prune`.

use std::io::BufRead;

use rbuild_engine::cache::collect::{Kind, PruneOptions, Pruned};

use super::du;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::table::{Format, Row};
use crate::{human, machine, stdio, values};

/// Remove what nothing needs from the store
///
/// Without --all, --filter or a size: images without a name, and what `store check` put away a week ago. What a name of an image, a container or a running build
/// holds stays in any case. With a size, the least valuable goes first (the time that it took, divided by its size),
/// and no more than necessary. The configuration file can ask for the same after every build (`[store]`).
#[derive(Debug, clap::Args)]
pub(crate) struct PruneArgs {
    /// Also the build cache, and every image without a name
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Remove only as much as it takes to come down to this size
    #[arg(
        long,
        value_name = "SIZE",
        visible_alias = "max-used-space",
        alias = "reserved-space"
    )]
    keep_storage: Option<String>,
    /// `until=24h` or `unused-for=24h`: only what was not used since; `type=regular|exec.cachemount|source.local|quarantine`;
    /// `id=…`, as `du -v` tells them
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Say of each thing that it goes
    #[arg(long)]
    verbose: bool,
}

pub(crate) fn execute(args: &PruneArgs, global: &GlobalArgs) -> Result<Exit> {
    let mut options = PruneOptions {
        all: args.all,
        keep_storage: args
            .keep_storage
            .as_deref()
            .map(|text| values::size("--keep-storage", text))
            .transpose()?,
        dry_run: args.dry_run,
        ..PruneOptions::default()
    };
    filters(&args.filter, &mut options)?;
    if options.kinds.contains(&Kind::Blob) {
        return Err(
            Error::usage("blobs go with the images and steps that need them")
                .help("choose those, or leave out `type=blob`"),
        );
    }
    if !args.force && !args.dry_run && !confirmed(&options)? {
        return Err(
            Error::failed("nothing was removed").help("to remove without being asked, use --force")
        );
    }
    let pruned = machine::engine(global.options()?)?
        .store()
        .prune(&options)?;
    tell(args, &pruned)?;
    Ok(Exit::Success)
}

fn tell(args: &PruneArgs, pruned: &Pruned) -> Result<()> {
    if (args.dry_run || args.verbose) && !pruned.items.is_empty() {
        let rows: Vec<Row> = pruned.items.iter().filter_map(du::row).collect();
        Format::Table.print(du::PRUNED_COLUMNS, &rows)?;
    }
    let verb = if args.dry_run {
        "Would remove"
    } else {
        "Removed"
    };
    for (count, one, many) in [
        (pruned.records, "cache record", "cache records"),
        (pruned.snapshots, "snapshot", "snapshots"),
        (pruned.blobs, "blob", "blobs"),
        (pruned.cache_mounts, "cache mount", "cache mounts"),
        (
            pruned.contexts,
            "memory of a context",
            "memories of contexts",
        ),
        (
            pruned.quarantined,
            "thing that `store check` had put away",
            "things that `store check` had put away",
        ),
    ] {
        if count > 0 {
            let what = if count == 1 { one } else { many };
            stdio::out(format!("{verb} {count} {what}\n"));
        }
    }
    let total = if args.dry_run {
        "Reclaimable space"
    } else {
        "Total reclaimed space"
    };
    stdio::out(format!("{total}: {}\n", human::size(pruned.bytes)));
    if let Some(left) = pruned.still_too_much {
        stdio::err(format!(
            "note: {} are left: the rest is held by names of images, containers or running builds\n",
            human::size(left)
        ));
    }
    Ok(())
}

/// Reads `--filter`s. Several of one sort widen what is meant, different ones narrow it.
pub(crate) fn filters(texts: &[String], options: &mut PruneOptions) -> Result<()> {
    for filter in texts {
        let mistake = |why: &str| Error::usage(format!("--filter `{filter}`: {why}"));
        let Some((name, value)) = filter.split_once('=') else {
            return Err(mistake("expected `NAME=VALUE`").help("for instance `until=24h`"));
        };
        match name {
            "until" | "unused-for" => {
                options.until = Some(human::until(value).ok_or_else(|| {
                    mistake("not a time").help("it is `24h`, `2026-01-31T12:00:00Z` or a Unix time")
                })?);
            }
            "type" => {
                let kind = Kind::ALL.into_iter().find(|kind| kind.name() == value);
                options.kinds.push(kind.ok_or_else(|| {
                    let names = Kind::ALL.map(Kind::name).join("`, `");
                    mistake("there is no such type").help(format!("types are `{names}`"))
                })?);
            }
            "id" if !value.is_empty() => options.ids.push(value.to_owned()),
            "id" => return Err(mistake("expected an id").help("`rbuild du -v` tells them")),
            _ => {
                return Err(mistake("there is no such filter")
                    .help("filters are `until`, `unused-for`, `type` and `id`"));
            }
        }
    }
    Ok(())
}

fn confirmed(options: &PruneOptions) -> Result<bool> {
    confirm(if options.all {
        "the whole build cache and all images without a name"
    } else {
        "all dangling images and unused cache"
    })
}

/// Asks whether `what` is to be removed.
pub(super) fn confirm(what: &str) -> Result<bool> {
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
