//! `rbuild image diff`.

use rbuild_engine::compare::{Change, Difference};
use rbuild_engine::images::{ConfigDifference, ImageDifferences};
use serde_json::json;

use crate::error::Result;
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::table::{Columns, Format, Row};
use crate::{machine, stdio, values};

/// Show what changed between two images, file by file
#[derive(Debug, clap::Args)]
pub(crate) struct ImageDiffArgs {
    /// A name, an ID or a digest of the store, `oci:DIR[:TAG][@DIGEST]`, `oci-archive:FILE`, `docker-archive:FILE`,
    /// or a name to pull
    before: String,
    after: String,
    /// Of images for several platforms
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// Also when the images were made, and files that differ only in when they were changed
    #[arg(long)]
    times: bool,
    /// Only paths
    #[arg(short, long)]
    quiet: bool,
    /// Exit with 1 where the images differ
    #[arg(long)]
    exit_code: bool,
    /// `json`, or a template such as `{{.Change}} {{.Path}}`
    #[arg(long, value_name = "FORMAT", allow_hyphen_values = true)]
    format: Option<String>,
}

const COLUMNS: Columns<'_> = &[
    ("CHANGE", "Change"),
    ("PATH", "Path"),
    ("DETAILS", "Details"),
];

pub(crate) fn execute(args: &ImageDiffArgs, global: &GlobalArgs) -> Result<Exit> {
    let format = Format::parse(args.format.as_deref())?;
    let platforms = values::platforms(args.platform.as_slice())?;
    let found = machine::with_engine(global.options()?, async |engine, cancel| {
        let platform = platforms.first();
        let diff = engine.image_diff(&args.before, &args.after, platform, args.times);
        machine::unless_cancelled(&cancel, diff).await
    })?;
    print(args, &format, &found)?;
    let differ = !found.files.is_empty() || !found.config.is_empty();
    Ok(if args.exit_code && differ {
        Exit::Failed
    } else {
        Exit::Success
    })
}

fn print(args: &ImageDiffArgs, format: &Format, found: &ImageDifferences) -> Result<()> {
    if args.quiet {
        for one in &found.files {
            stdio::out(format!("{}\n", stdio::escape_line(&one.path)));
        }
        return Ok(());
    }
    let files = found.files.iter().map(file);
    let config = found.config.iter().map(field);
    let rows: Vec<Row> = files.chain(config).collect();
    if rows.is_empty() && matches!(format, Format::Table) {
        return Ok(());
    }
    format.print(COLUMNS, &rows)
}

/// The letter that `docker diff` has for it.
pub(crate) fn letter(change: Change) -> &'static str {
    match change {
        Change::Added => "A",
        Change::Removed => "D",
        Change::Changed => "C",
    }
}

/// `content 3 bytes → 5 bytes, mode 0644 → 0600`; what it is where it is only in one.
pub(crate) fn details(one: &Difference) -> String {
    if one.change != Change::Changed {
        return match one.size_before.or(one.size_after) {
            Some(size) => format!("{}, {size} bytes", one.kind),
            None => one.kind.to_owned(),
        };
    }
    let aspect = |it: &rbuild_engine::compare::Aspect| {
        let or_none = |text: &str| {
            if text.is_empty() {
                "none".to_owned()
            } else {
                text.to_owned()
            }
        };
        format!(
            "{}: {} → {}",
            it.what,
            or_none(&it.before),
            or_none(&it.after)
        )
    };
    one.aspects
        .iter()
        .map(aspect)
        .collect::<Vec<_>>()
        .join("; ")
}

fn file(one: &Difference) -> Row {
    let row = json!({
        "Section": "file",
        "Change": letter(one.change),
        "Path": one.path,
        "Details": details(one),
        "Kind": one.kind,
        "SizeBefore": one.size_before,
        "SizeAfter": one.size_after,
        "Aspects": one.aspects,
    });
    row.as_object().cloned().unwrap_or_default()
}

fn field(one: &ConfigDifference) -> Row {
    let change = match (&one.before, &one.after) {
        (None, _) => Change::Added,
        (_, None) => Change::Removed,
        _ => Change::Changed,
    };
    let text = |value: &Option<serde_json::Value>| value.as_ref().map(ToString::to_string);
    let details = match (text(&one.before), text(&one.after)) {
        (Some(before), Some(after)) => format!("{before} → {after}"),
        (before, after) => before.or(after).unwrap_or_default(),
    };
    let row = json!({
        "Section": "config",
        "Change": letter(change),
        "Path": format!("config {}", one.field),
        "Details": details,
        "Before": one.before,
        "After": one.after,
    });
    row.as_object().cloned().unwrap_or_default()
}
