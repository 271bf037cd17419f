//! `system df`.

use rbuild_engine::Engine;
use rbuild_engine::cache::collect::{Item, Kind};
use rbuild_engine::containers::Entry;
use rbuild_engine::images::ImagesUsage;
use serde_json::{Value, json};

use crate::commands::container::{ps, told};
use crate::commands::{du, images, volume};
use crate::error::Result;
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::table::{Columns, Format, Row, UNKNOWN, object, short_id};
use crate::{human, machine, stdio};

/// Show what images, containers, volumes and the build cache take
///
/// Images and containers by the sizes of their files, each layer once; the build cache, without the layers that images
/// have, by blocks on the disk. `du` tells of the store as it lies on the disk.
#[derive(Debug, clap::Args)]
pub(crate) struct DfArgs {
    /// Each thing by itself
    #[arg(short, long)]
    verbose: bool,
    /// `json`, or a template such as `{{.Type}} {{.Size}}`; with --verbose of `.Images`, `.Containers`, `.Volumes` and
    /// `.BuildCache`
    #[arg(long, value_name = "FORMAT", allow_hyphen_values = true)]
    format: Option<String>,
}

const COLUMNS: Columns<'_> = &[
    ("TYPE", "Type"),
    ("TOTAL", "TotalCount"),
    ("ACTIVE", "Active"),
    ("SIZE", "Size"),
    ("RECLAIMABLE", "Reclaimable"),
];
const IMAGES: Columns<'_> = &[
    ("REPOSITORY", "Repository"),
    ("TAG", "Tag"),
    ("IMAGE ID", "ID"),
    ("CREATED", "CreatedSince"),
    ("SIZE", "Size"),
    ("SHARED SIZE", "SharedSize"),
    ("UNIQUE SIZE", "UniqueSize"),
    ("CONTAINERS", "Containers"),
];
const CONTAINERS: Columns<'_> = &[
    ("CONTAINER ID", "ID"),
    ("IMAGE", "Image"),
    ("COMMAND", "Command"),
    ("LOCAL VOLUMES", "LocalVolumes"),
    ("SIZE", "Size"),
    ("CREATED", "RunningFor"),
    ("STATUS", "Status"),
    ("NAMES", "Names"),
];
const VOLUMES: Columns<'_> = &[
    ("VOLUME NAME", "Name"),
    ("LINKS", "Links"),
    ("SIZE", "Size"),
];
const CACHE: Columns<'_> = &[
    ("CACHE ID", "ShortID"),
    ("CACHE TYPE", "Type"),
    ("SIZE", "Size"),
    ("CREATED", "CreatedSince"),
    ("LAST USED", "LastUsed"),
    ("SHARED", "Shared"),
];

/// All that there is.
struct Everything {
    images: ImagesUsage,
    containers: Vec<(Entry, u64)>,
    /// What `volume ls` tells of it, how many containers hold it, bytes.
    volumes: Vec<(Row, u64, u64)>,
    /// Build cache that is no layer of an image.
    cache: Vec<Item>,
    /// Volumes that cannot be read.
    damaged: Vec<rbuild_engine::Error>,
}

/// A line of the overview.
struct Line {
    kind: &'static str,
    count: u64,
    active: u64,
    bytes: u64,
    reclaimable: u64,
}

pub(crate) fn execute(args: &DfArgs, global: &GlobalArgs) -> Result<Exit> {
    let format = Format::parse(args.format.as_deref())?;
    let mut everything = Everything::look(&machine::engine(global.options()?)?)?;
    let exit = told(std::mem::take(&mut everything.damaged));
    if args.verbose {
        everything.print(&format)?;
        return Ok(exit);
    }
    let rows: Vec<Row> = everything.lines().iter().filter_map(Line::row).collect();
    format.print(COLUMNS, &rows)?;
    Ok(exit)
}

impl Everything {
    fn look(engine: &Engine) -> Result<Self> {
        let catalog = engine.catalog();
        let images = engine.images_usage()?;
        let mut containers = Vec::new();
        for entry in catalog.all()? {
            let bytes = entry.size()?;
            containers.push((entry, bytes));
        }
        let mut volumes = Vec::new();
        let (readable, damaged) = catalog.volumes()?;
        for volume in readable {
            let links = catalog.users_of_volume(&volume.name)?.len() as u64;
            let bytes = catalog.volume_size(&volume.name)?;
            volumes.push((volume::row(&catalog, &volume)?, links, bytes));
        }
        let mut cache = engine.store().items()?;
        cache.retain(|item| match item.kind {
            Kind::Regular => !images.snapshots.contains(&item.id),
            Kind::CacheMount | Kind::Context => true,
            Kind::Blob | Kind::Quarantine => false,
        });
        Ok(Self {
            images,
            containers,
            volumes,
            cache,
            damaged,
        })
    }

    fn lines(&self) -> [Line; 4] {
        let idle = |(entry, _): &&(Entry, u64)| !entry.state.status.is_alive();
        let stopped = self.containers.iter().filter(idle);
        let unused = self.volumes.iter().filter(|(_, links, _)| *links == 0);
        let free = self.cache.iter().filter(|item| item.reclaimable);
        [
            Line {
                kind: "Images",
                count: self.images.count,
                active: self.images.active,
                bytes: self.images.bytes,
                reclaimable: self.images.reclaimable,
            },
            Line {
                kind: "Containers",
                count: self.containers.len() as u64,
                active: (self.containers.len() - stopped.clone().count()) as u64,
                bytes: self.containers.iter().map(|(_, bytes)| bytes).sum(),
                reclaimable: stopped.map(|(_, bytes)| bytes).sum(),
            },
            Line {
                kind: "Local Volumes",
                count: self.volumes.len() as u64,
                active: (self.volumes.len() - unused.clone().count()) as u64,
                bytes: self.volumes.iter().map(|(_, _, bytes)| bytes).sum(),
                reclaimable: unused.map(|(_, _, bytes)| bytes).sum(),
            },
            Line {
                kind: "Build Cache",
                count: self.cache.len() as u64,
                active: (self.cache.len() - free.clone().count()) as u64,
                bytes: self.cache.iter().map(|item| item.bytes).sum(),
                reclaimable: free.map(|item| item.bytes).sum(),
            },
        ]
    }

    /// As tables, or as one object, which a template is of.
    fn print(&self, format: &Format) -> Result<()> {
        let images: Vec<Row> = self
            .images
            .images
            .iter()
            .filter_map(|used| {
                let mut row = images::row(&used.image, &short_id(&used.image.id.to_string()))?;
                row.insert("SharedSize".to_owned(), human::size(used.shared).into());
                row.insert("UniqueSize".to_owned(), human::size(used.unique).into());
                row.insert("Containers".to_owned(), used.containers.to_string().into());
                Some(row)
            })
            .collect();
        let mut containers = Vec::new();
        for (entry, bytes) in &self.containers {
            let mut row = ps::row(entry, false, false)?;
            row.insert("Size".to_owned(), human::size(*bytes).into());
            containers.push(row);
        }
        let volumes = self.volumes.iter().map(|(row, links, bytes)| {
            let mut row = row.clone();
            row.insert("Links".to_owned(), links.to_string().into());
            row.insert("Size".to_owned(), human::size(*bytes).into());
            row
        });
        let volumes: Vec<Row> = volumes.collect();
        let cache: Vec<Row> = self.cache.iter().filter_map(cache_row).collect();
        let all = || {
            let objects = |rows: &[Row]| Value::Array(rows.iter().map(object).collect());
            json!({
                "Images": objects(&images),
                "Containers": objects(&containers),
                "Volumes": objects(&volumes),
                "BuildCache": objects(&cache),
            })
        };
        match format {
            Format::Table => {}
            Format::Json => {
                stdio::out(format!("{}\n", all()));
                return Ok(());
            }
            // As Docker prints it: once, and no line end that the template does not have.
            Format::TableOf(template) | Format::Each(template) => {
                stdio::out(template.render(&all())?);
                return Ok(());
            }
        }
        let bytes: u64 = self.cache.iter().map(|item| item.bytes).sum();
        stdio::out("Images space usage:\n\n");
        Format::Table.print(IMAGES, &images)?;
        stdio::out("\nContainers space usage:\n\n");
        Format::Table.print(CONTAINERS, &containers)?;
        stdio::out("\nLocal Volumes space usage:\n\n");
        Format::Table.print(VOLUMES, &volumes)?;
        stdio::out(format!("\nBuild cache usage: {}\n\n", human::size(bytes)));
        Format::Table.print(CACHE, &cache)
    }
}

/// With the names of Docker's, too.
fn cache_row(item: &Item) -> Option<Row> {
    let mut row = du::row(item)?;
    let last_used = row.get("LastUsed").cloned().unwrap_or_default();
    let more = [
        ("Parent", item.parent.as_deref().unwrap_or_default().into()),
        ("CacheType", item.kind.name().into()),
        ("LastUsedSince", last_used),
        ("UsageCount", UNKNOWN.into()),
        ("InUse", (!item.reclaimable).to_string().into()),
    ];
    row.extend(more.map(|(name, value)| (name.to_owned(), value)));
    Some(row)
}

impl Line {
    fn row(&self) -> Option<Row> {
        json!({
            "Type": self.kind,
            "TotalCount": self.count.to_string(),
            "Active": self.active.to_string(),
            "Size": human::size(self.bytes),
            "Reclaimable": du::reclaimable(self.bytes, self.reclaimable),
        })
        .as_object()
        .cloned()
    }
}
