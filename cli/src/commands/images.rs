//! `rbuild images`, `image ls`.

use rbuild_engine::images::{ImageFilter, ImageSummary, check_pattern};
use serde_json::json;

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::table::{self, Columns, Format, Row};
use crate::{human, machine, stdio};

/// List the images of the store
#[derive(Debug, clap::Args)]
pub(crate) struct ImagesArgs {
    /// Only images of this name, or of this pattern of names
    #[arg(value_name = "REPOSITORY[:TAG]")]
    repository: Option<String>,
    /// As Docker's; the store keeps no intermediate images
    #[arg(short, long)]
    all: bool,
    /// Only IDs
    #[arg(short, long)]
    quiet: bool,
    /// Whole IDs
    #[arg(long)]
    no_trunc: bool,
    /// Show manifest digests
    #[arg(long)]
    digests: bool,
    /// `dangling=true`, `reference=PATTERN`, `label=K[=V]`, `before=IMAGE`, `since=IMAGE`, `until=TIME`
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// `json`, or a template such as `{{.Repository}}:{{.Tag}}`
    #[arg(long, value_name = "FORMAT", allow_hyphen_values = true)]
    format: Option<String>,
}

const COLUMNS: Columns<'_> = &[
    ("REPOSITORY", "Repository"),
    ("TAG", "Tag"),
    ("IMAGE ID", "ID"),
    ("CREATED", "CreatedSince"),
    ("SIZE", "Size"),
];
const COLUMNS_WITH_DIGESTS: Columns<'_> = &[
    ("REPOSITORY", "Repository"),
    ("TAG", "Tag"),
    ("DIGEST", "Digest"),
    ("IMAGE ID", "ID"),
    ("CREATED", "CreatedSince"),
    ("SIZE", "Size"),
];

pub(crate) fn execute(args: &ImagesArgs, global: &GlobalArgs) -> Result<Exit> {
    let format = Format::parse(args.format.as_deref())?;
    let mut filters: Vec<ImageFilter> = args
        .filter
        .iter()
        .map(|text| filter(text))
        .collect::<Result<_>>()?;
    if let Some(pattern) = &args.repository {
        check_pattern(pattern)?;
        filters.push(ImageFilter::Reference(pattern.clone()));
    }
    let engine = machine::engine(global.options()?)?;
    let images = engine.images(&filters)?;
    let id = |image: &ImageSummary| {
        let id = image.id.to_string();
        if args.no_trunc {
            id
        } else {
            table::short_id(&id)
        }
    };
    if args.quiet {
        for image in &images {
            stdio::out(format!("{}\n", id(image)));
        }
        return Ok(Exit::Success);
    }
    let rows: Vec<Row> = images
        .iter()
        .filter_map(|image| row(image, &id(image)))
        .collect();
    let columns = if args.digests {
        COLUMNS_WITH_DIGESTS
    } else {
        COLUMNS
    };
    format.print(columns, &rows)?;
    Ok(Exit::Success)
}

pub(crate) fn row(image: &ImageSummary, id: &str) -> Option<Row> {
    let created = image.created.as_deref();
    let size = human::size(image.size);
    // The fields that Docker has, also those that it knows only where it was asked for them at length.
    json!({
        "Containers": "N/A",
        "CreatedAt": human::at(created),
        "CreatedSince": human::since(created),
        "Digest": image.digest,
        "ID": id,
        "Repository": image.repository,
        "SharedSize": "N/A",
        "Size": size,
        "Tag": image.tag,
        "UniqueSize": "N/A",
        "VirtualSize": size,
    })
    .as_object()
    .cloned()
}

pub(crate) fn filter(text: &str) -> Result<ImageFilter> {
    let Some((key, value)) = text.split_once('=') else {
        return Err(Error::usage(format!(
            "--filter `{text}`: expected `KEY=VALUE`"
        )));
    };
    let value = value.to_owned();
    Ok(match key {
        "dangling" => crate::spec::parse_bool(&value)
            .map(ImageFilter::Dangling)
            .ok_or_else(|| {
                Error::usage(format!("--filter `{text}`: expected `true` or `false`"))
            })?,
        "reference" => {
            check_pattern(&value)?;
            ImageFilter::Reference(value)
        }
        "label" | "label!" => {
            let (name, of) = match value.split_once('=') {
                Some((name, of)) => (name.to_owned(), Some(of.to_owned())),
                None => (value, None),
            };
            match key {
                "label" => ImageFilter::Label(name, of),
                _ => ImageFilter::NotLabel(name, of),
            }
        }
        "before" => ImageFilter::Before(value),
        "since" => ImageFilter::Since(value),
        "until" => ImageFilter::Until(human::until(&value).ok_or_else(|| {
            Error::usage(format!(
                "--filter `{text}`: expected a time, or how long ago"
            ))
        })?),
        _ => {
            return Err(
                Error::usage(format!("--filter `{text}`: there is no such filter"))
                    .help("it is `dangling`, `reference`, `label`, `before`, `since` or `until`"),
            );
        }
    })
}
