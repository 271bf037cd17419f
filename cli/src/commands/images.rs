//! `rbuild images`, `image ls`.

use rbuild_engine::images::ImageSummary;
use serde_json::json;

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::table::{self, Columns, Format, Row};
use crate::{human, machine, stdio};

/// List the images of the store
#[derive(Debug, clap::Args)]
pub(crate) struct ImagesArgs {
    /// Only images of this name
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
    /// `dangling=true`, `reference=PATTERN`
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// `json`, or a template such as `{{.Repository}}:{{.Tag}}`
    #[arg(long, value_name = "FORMAT")]
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

enum Filter {
    Dangling(bool),
    Reference(String),
}

pub(crate) fn execute(args: &ImagesArgs, global: &GlobalArgs) -> Result<Exit> {
    let format = Format::parse(args.format.as_deref())?;
    let filters: Vec<Filter> = args
        .filter
        .iter()
        .map(|text| filter(text))
        .collect::<Result<_>>()?;
    let engine = machine::engine(global.options()?)?;
    let mut images = engine.images()?;
    images.retain(|image| {
        args.repository
            .as_deref()
            .is_none_or(|wanted| is_named(image, wanted))
            && filters.iter().all(|filter| match filter {
                Filter::Dangling(dangling) => (image.repository == "<none>") == *dangling,
                Filter::Reference(pattern) => matches(image, pattern),
            })
    });
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

fn row(image: &ImageSummary, id: &str) -> Option<Row> {
    let created = image.created.as_deref();
    json!({
        "Repository": image.repository,
        "Tag": image.tag,
        "ID": id,
        "Digest": image.digest,
        "CreatedSince": human::since(created),
        "CreatedAt": human::at(created),
        "Size": human::size(image.size),
    })
    .as_object()
    .cloned()
}

/// `name` or `name:tag`.
fn is_named(image: &ImageSummary, wanted: &str) -> bool {
    image.repository == wanted || format!("{}:{}", image.repository, image.tag) == wanted
}

fn matches(image: &ImageSummary, pattern: &str) -> bool {
    let matches = |name: &str| {
        rbuild_engine::parser::glob::matches(pattern.as_bytes(), name.as_bytes()).unwrap_or(false)
    };
    matches(&image.repository) || matches(&format!("{}:{}", image.repository, image.tag))
}

fn filter(text: &str) -> Result<Filter> {
    match text.split_once('=') {
        Some(("dangling", value)) => crate::spec::parse_bool(value)
            .map(Filter::Dangling)
            .ok_or_else(|| Error::usage(format!("--filter `{text}`: expected `true` or `false`"))),
        Some(("reference", pattern)) => Ok(Filter::Reference(pattern.to_owned())),
        Some((key @ ("label" | "before" | "since" | "until"), _)) => {
            Err(Error::unsupported(format!("--filter {key}")))
        }
        _ => Err(
            Error::usage(format!("--filter `{text}`: there is no such filter"))
                .help("it is `dangling=true` or `reference=PATTERN`"),
        ),
    }
}
