//! `rbuild du`.

use serde_json::json;

use crate::error::Result;
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::table::{Columns, Format, Row};
use crate::{human, machine};

/// Show what the store uses
#[derive(Debug, clap::Args)]
pub(crate) struct DuArgs {
    /// `json`, or a template such as `{{.Type}} {{.Bytes}}`
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

const COLUMNS: Columns<'_> = &[("TYPE", "Type"), ("SIZE", "Size")];

pub(crate) fn execute(args: &DuArgs, global: &GlobalArgs) -> Result<Exit> {
    let format = Format::parse(args.format.as_deref())?;
    let usage = machine::engine(global.options()?)?.store().usage()?;
    let total = usage.blobs + usage.snapshots + usage.cache_mounts + usage.contexts + usage.index;
    let rows: Vec<Row> = [
        ("Blobs", usage.blobs),
        ("Snapshots", usage.snapshots),
        ("Cache mounts", usage.cache_mounts),
        ("Contexts", usage.contexts),
        ("Index", usage.index),
        ("Total", total),
        ("Reclaimable", usage.reclaimable),
    ]
    .into_iter()
    .filter_map(|(kind, bytes)| {
        json!({ "Type": kind, "Size": human::size(bytes), "Bytes": bytes })
            .as_object()
            .cloned()
    })
    .collect();
    format.print(COLUMNS, &rows)?;
    Ok(Exit::Success)
}
