//! `rbuild image layers`.

use rbuild_engine::images::LayerSummary;
use serde_json::json;

use super::image_diff::letter;
use crate::error::Result;
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::table::{self, Columns, Format, Row};
use crate::{human, machine, stdio, values};

/// Show what each layer of an image adds and wastes, and which instruction made it
#[derive(Debug, clap::Args)]
pub(crate) struct ImageLayersArgs {
    /// A name, an ID or a digest of the store, `oci:DIR[:TAG][@DIGEST]`, `oci-archive:FILE`, `docker-archive:FILE`,
    /// or a name to pull
    image: String,
    /// Of an image for several platforms
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// Also the files of each layer; those that a layer above hides are marked with `!`
    #[arg(long)]
    files: bool,
    /// Only diff IDs
    #[arg(short, long)]
    quiet: bool,
    /// Whole IDs and commands
    #[arg(long)]
    no_trunc: bool,
    /// `json`, or a template such as `{{.Size}} {{.CreatedBy}}`
    #[arg(long, value_name = "FORMAT", allow_hyphen_values = true)]
    format: Option<String>,
}

const COLUMNS: Columns<'_> = &[
    ("LAYER", "Layer"),
    ("ID", "ID"),
    ("SIZE", "Size"),
    ("WASTED", "Wasted"),
    ("ADDED", "Added"),
    ("CHANGED", "Changed"),
    ("REMOVED", "Removed"),
    ("CREATED BY", "CreatedBy"),
];

pub(crate) fn execute(args: &ImageLayersArgs, global: &GlobalArgs) -> Result<Exit> {
    let format = Format::parse(args.format.as_deref())?;
    let platforms = values::platforms(args.platform.as_slice())?;
    let layers = machine::with_engine(global.options()?, async |engine, cancel| {
        let layers = engine.image_layers(&args.image, platforms.first());
        machine::unless_cancelled(&cancel, layers).await
    })?;
    if args.quiet {
        for layer in &layers {
            stdio::out(format!("{}\n", layer.id));
        }
        return Ok(Exit::Success);
    }
    let rows: Vec<Row> = layers
        .iter()
        .enumerate()
        .map(|(number, layer)| row(args, number + 1, layer))
        .collect();
    format.print(COLUMNS, &rows)?;
    if matches!(format, Format::Table) {
        if args.files {
            for (number, layer) in layers.iter().enumerate() {
                stdio::out(files(number + 1, layer));
            }
        }
        let size: u64 = layers.iter().map(|layer| layer.size).sum();
        let wasted: u64 = layers.iter().map(|layer| layer.wasted).sum();
        stdio::out(format!(
            "\n{} in all, {} of it wasted\n",
            human::size(size),
            human::size(wasted)
        ));
    }
    Ok(Exit::Success)
}

fn row(args: &ImageLayersArgs, number: usize, layer: &LayerSummary) -> Row {
    let command = layer.created_by.replace(['\n', '\t'], " ");
    let mut row = json!({
        "Layer": number,
        "ID": if args.no_trunc { layer.id.clone() } else { table::short_id(&layer.id) },
        "Size": human::size(layer.size),
        "SizeBytes": layer.size,
        "Wasted": human::size(layer.wasted),
        "WastedBytes": layer.wasted,
        "Added": layer.added,
        "Changed": layer.changed,
        "Removed": layer.removed,
        "CreatedAt": layer.created,
        "CreatedBy": if args.no_trunc { command } else { table::shorten(&command, 60) },
    });
    if args.files {
        row["Files"] = json!(layer.files);
    }
    row.as_object().cloned().unwrap_or_default()
}

fn files(number: usize, layer: &LayerSummary) -> String {
    let mut text = format!("\nlayer {number}\n");
    for file in &layer.files {
        let hidden = if file.hidden { "!" } else { " " };
        let size = if file.size > 0 {
            human::size(file.size)
        } else {
            String::new()
        };
        let path = stdio::escape_line(&file.path);
        let line = format!("{hidden}{} {path}  {size}", letter(file.change));
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
