//! `rbuild history`.

use rbuild_engine::images::HistoryRow;
use serde_json::json;

use crate::error::Result;
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::table::{self, Columns, Format, Row};
use crate::{human, machine, stdio};

/// Show which instructions made an image
#[derive(Debug, clap::Args)]
pub(crate) struct HistoryArgs {
    image: String,
    /// Only IDs
    #[arg(short, long)]
    quiet: bool,
    /// Whole IDs and commands
    #[arg(long)]
    no_trunc: bool,
    /// Sizes and times for people; `--human=false` for bytes and dates
    #[arg(short = 'H', long, num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    human: bool,
    /// `json`, or a template such as `{{.CreatedBy}}`
    #[arg(long, value_name = "FORMAT", allow_hyphen_values = true)]
    format: Option<String>,
}

const COLUMNS: Columns<'_> = &[
    ("IMAGE", "ID"),
    ("CREATED", "CreatedSince"),
    ("CREATED BY", "CreatedBy"),
    ("SIZE", "Size"),
    ("COMMENT", "Comment"),
];

const COLUMNS_FOR_PROGRAMS: Columns<'_> = &[
    ("IMAGE", "ID"),
    ("CREATED AT", "CreatedAt"),
    ("CREATED BY", "CreatedBy"),
    ("SIZE", "Size"),
    ("COMMENT", "Comment"),
];

pub(crate) fn execute(args: &HistoryArgs, global: &GlobalArgs) -> Result<Exit> {
    let format = Format::parse(args.format.as_deref())?;
    let history = machine::engine(global.options()?)?.image_history(&args.image)?;
    let id = |row: &HistoryRow| {
        if args.no_trunc {
            row.id.clone()
        } else {
            table::short_id(&row.id)
        }
    };
    if args.quiet {
        for row in &history {
            stdio::out(format!("{}\n", id(row)));
        }
        return Ok(Exit::Success);
    }
    let columns = match args.human {
        true => COLUMNS,
        false => COLUMNS_FOR_PROGRAMS,
    };
    let rows: Vec<Row> = history
        .iter()
        .filter_map(|row| {
            let created = row.created.as_deref();
            // The lines of a script are kept for programs.
            let mut command = row.created_by.replace('\t', " ");
            if matches!(format, Format::Table | Format::TableOf(_)) {
                command = command.replace('\n', " ");
            }
            json!({
                "Comment": row.comment,
                "CreatedAt": human::rfc3339(created),
                "CreatedBy": if args.no_trunc { command } else { table::shorten(&command, 45) },
                "CreatedSince": human::since(created),
                "ID": id(row),
                "Size": if args.human { human::size(row.size) } else { row.size.to_string() },
            })
            .as_object()
            .cloned()
        })
        .collect();
    format.print(columns, &rows)?;
    Ok(Exit::Success)
}
