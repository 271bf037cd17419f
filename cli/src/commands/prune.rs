//! `rbuild prune` and `builder prune`; and what all commands that remove what is not in use have in common.

use std::io::BufRead;

use rbuild_engine::Engine;
use rbuild_engine::cache::collect::{Kind, PruneOptions, Pruned};

use super::du;
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::table::{Format, Row};
use crate::{human, machine, stdio, values};

/// Remove what nothing needs from the store
///
/// Without --all, --filter or a size: images without a name, and what `store check` put away a week ago. What a name
/// of an image, a container or a running build holds stays in any case. With a size, the least valuable goes first
/// (the time that it took, divided by its size), and no more than necessary. The configuration file can ask for the
/// same after every build (`[store]`).
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
    /// `until=24h` or `unused-for=24h`: only what was not used since;
    /// `type=regular|exec.cachemount|source.local|quarantine`; `id=…`, as `du -v` tells them
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
    let options = options(args)?;
    let what = if options.all {
        "the whole build cache and all images without a name"
    } else {
        "all dangling images and unused cache"
    };
    sure(args.force || args.dry_run, what)?;
    let pruned = machine::engine(global.options()?)?
        .store()
        .prune(&options)?;
    tell(args, &pruned)?;
    Ok(Exit::Success)
}

fn options(args: &PruneArgs) -> Result<PruneOptions> {
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
    Ok(options)
}

/// Remove the build cache that is not in use
///
/// Results of steps, cache mounts, and what is remembered of build contexts. Images stay, with what they hold.
#[derive(Debug, clap::Args)]
pub(crate) struct CachePruneArgs {
    /// As Docker's; there is no cache that goes only with it
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
    /// `until=24h` or `unused-for=24h`: only what was not used since; `type=regular|exec.cachemount|source.local`;
    /// `id=…`, as `du -v` tells them
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Say of each thing what it was
    #[arg(long)]
    verbose: bool,
}

/// What `builder prune` may take.
const CACHE: [Kind; 3] = [Kind::Regular, Kind::CacheMount, Kind::Context];

/// `builder prune`
pub(crate) fn cache(args: &CachePruneArgs, global: &GlobalArgs) -> Result<Exit> {
    let mut options = options(&PruneArgs {
        all: true,
        force: args.force,
        keep_storage: args.keep_storage.clone(),
        filter: args.filter.clone(),
        dry_run: false,
        verbose: args.verbose,
    })?;
    if options.kinds.contains(&Kind::Quarantine) {
        return Err(Error::usage("--filter `type=quarantine`: that is no cache")
            .help("`rbuild prune` takes that, too"));
    }
    // Docker has the flag. All that is not in use goes with it or without.
    let _ = args.all;
    sure(args.force, "all build cache that is not in use")?;
    let engine = machine::engine(global.options()?)?;
    let mut told = Removed::default();
    let pruned = remove_cache(&engine, &mut options, &mut told)?;
    if args.verbose && !pruned.items.is_empty() {
        let rows: Vec<Row> = pruned.items.iter().filter_map(du::row).collect();
        Format::Table.print(du::PRUNED_COLUMNS, &rows)?;
    }
    told.total();
    Ok(Exit::Success)
}

/// Removes cache that is not in use, of the kinds that are meant.
pub(crate) fn remove_cache(
    engine: &Engine,
    options: &mut PruneOptions,
    told: &mut Removed,
) -> Result<Pruned> {
    if options.kinds.is_empty() {
        options.kinds = CACHE.to_vec();
    }
    let pruned = engine.store().prune(options)?;
    // Blobs belong to those, and are no objects of their own.
    let things = pruned.items.iter().filter(|item| item.kind != Kind::Blob);
    let ids: Vec<String> = things.map(|item| item.id.clone()).collect();
    told.add("Deleted build cache objects", &ids, pruned.bytes);
    Ok(pruned)
}

/// What was removed, told as Docker does.
#[derive(Debug, Default)]
pub(crate) struct Removed {
    bytes: u64,
}

impl Removed {
    /// Tells of things of one kind, if there are any.
    pub(crate) fn add(&mut self, title: &str, names: &[String], bytes: u64) {
        self.bytes += bytes;
        if !names.is_empty() {
            stdio::out(format!("{title}:\n{}\n\n", names.join("\n")));
        }
    }

    /// The last line.
    pub(crate) fn total(&self) {
        stdio::out(format!(
            "Total reclaimed space: {}\n",
            human::size(self.bytes)
        ));
    }
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

/// Asks whether `what` is to be removed, unless that is said already.
pub(crate) fn sure(is_said: bool, what: &str) -> Result<()> {
    sure_of_all(is_said, &[what])
}

/// As [`sure`], of several things.
pub(crate) fn sure_of_all(is_said: bool, what: &[&str]) -> Result<()> {
    if is_said || confirm(what)? {
        return Ok(());
    }
    Err(Error::failed("nothing was removed").help("to remove without being asked, use --force"))
}

fn confirm(what: &[&str]) -> Result<bool> {
    let what = match what {
        [one] => format!(" {one}."),
        all => format!(":\n  - {}\n", all.join("\n  - ")),
    };
    stdio::err(format!(
        "This will remove{what}\nAre you sure you want to continue? [y/N] "
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
