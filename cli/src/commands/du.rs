//! `rbuild du`.

use rbuild_engine::cache::collect::{Item, PruneOptions, Used};
use serde_json::json;

use super::prune;
use crate::error::Result;
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::table::{Columns, Format, Row};
use crate::{human, machine, stdio};

/// Show what the store uses
///
/// Sizes are blocks on the disk; what several things share is counted once. With --verbose or --filter, thing by
/// thing.
#[derive(Debug, clap::Args)]
pub(crate) struct DuArgs {
    /// Each thing by itself, the largest first
    #[arg(short, long)]
    verbose: bool,
    /// `type=…`, `id=…`, `until=24h`: only such things
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// `json`, or a template such as `{{.Type}} {{.Bytes}}`
    #[arg(long, value_name = "FORMAT", allow_hyphen_values = true)]
    format: Option<String>,
}

const COLUMNS: Columns<'_> = &[
    ("TYPE", "Type"),
    ("TOTAL", "Total"),
    ("ACTIVE", "Active"),
    ("SIZE", "Size"),
    ("RECLAIMABLE", "Reclaimable"),
];

const ITEM_COLUMNS: Columns<'_> = &[
    ("ID", "ShortID"),
    ("TYPE", "Type"),
    ("RECLAIMABLE", "Reclaimable"),
    ("SIZE", "Size"),
    ("LAST ACCESSED", "LastUsed"),
    ("DESCRIPTION", "Description"),
];

pub(crate) fn execute(args: &DuArgs, global: &GlobalArgs) -> Result<Exit> {
    let format = Format::parse(args.format.as_deref())?;
    let mut filter = PruneOptions::default();
    prune::filters(&args.filter, &mut filter)?;
    if args.verbose || !args.filter.is_empty() {
        return items(&filter, &format, global);
    }
    let usage = machine::engine(global.options()?)?.store().usage()?;
    let row = |kind: &str, used: Used| {
        json!({
            "Type": kind,
            "Total": used.count,
            "TotalCount": used.count,
            "Active": used.active,
            "Size": human::size(used.bytes),
            "Bytes": used.bytes,
            "Reclaimable": reclaimable(used.bytes, used.reclaimable),
            "ReclaimableBytes": used.reclaimable,
        })
        .as_object()
        .cloned()
    };
    let sum = |field: fn(&Used) -> u64| usage.kinds().iter().map(|(_, used)| field(used)).sum();
    let total = Used {
        count: sum(|used| used.count),
        active: sum(|used| used.active),
        bytes: usage.bytes(),
        reclaimable: usage.reclaimable(),
    };
    let rows: Vec<Row> = usage
        .kinds()
        .into_iter()
        .chain([("Total", total)])
        .filter_map(|(kind, used)| row(kind, used))
        .collect();
    format.print(COLUMNS, &rows)?;
    Ok(Exit::Success)
}

/// `1.2GB (60%)`, as `docker system df` has it.
pub(crate) fn reclaimable(of: u64, bytes: u64) -> String {
    match (bytes * 100).checked_div(of) {
        Some(percent) => format!("{} ({percent}%)", human::size(bytes)),
        None => human::size(bytes),
    }
}

fn items(filter: &PruneOptions, format: &Format, global: &GlobalArgs) -> Result<Exit> {
    let mut items = machine::engine(global.options()?)?.store().items()?;
    items.retain(|item| filter.matches(item));
    let rows: Vec<Row> = items.iter().filter_map(row).collect();
    format.print(ITEM_COLUMNS, &rows)?;
    if matches!(format, Format::Table) {
        let bytes = |reclaimable: bool| -> u64 {
            let counted = items.iter().filter(|item| item.reclaimable || !reclaimable);
            counted.map(|item| item.bytes).sum()
        };
        stdio::out(format!(
            "Reclaimable: {}\nTotal: {}\n",
            human::size(bytes(true)),
            human::size(bytes(false))
        ));
    }
    Ok(Exit::Success)
}

/// A thing's fields; the names are those of `docker buildx du`.
pub(crate) fn row(item: &Item) -> Option<Row> {
    let time = |seconds: Option<i64>| {
        let time = jiff::Timestamp::from_second(seconds?).ok()?;
        Some(time.to_string())
    };
    let (created, last_used) = (time(item.created), time(Some(item.last_used)));
    json!({
        "ID": item.id,
        "ShortID": item.id.get(..12).unwrap_or(&item.id),
        "Type": item.kind.name(),
        "Parents": item.parent.iter().collect::<Vec<_>>(),
        "Description": item.description,
        "Reclaimable": item.reclaimable,
        "Shared": item.shared,
        "Size": human::size(item.bytes),
        "Bytes": item.bytes,
        "CreatedSince": human::since(created.as_deref()),
        "CreatedAt": created,
        "LastUsed": human::since(last_used.as_deref()),
        "LastUsedAt": last_used,
    })
    .as_object()
    .cloned()
}

/// The columns by which `prune` tells what goes.
pub(crate) const PRUNED_COLUMNS: Columns<'_> = &[
    ("ID", "ShortID"),
    ("TYPE", "Type"),
    ("SIZE", "Size"),
    ("LAST ACCESSED", "LastUsed"),
    ("DESCRIPTION", "Description"),
];
