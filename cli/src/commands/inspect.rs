//! `rbuild inspect`, `image inspect`.

use rbuild_engine::Engine;
use rbuild_engine::containers::{Catalog, Entry};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::template::Template;
use crate::{machine, render, stdio};

/// Show all of containers, images, volumes, networks, as JSON
#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// `json`, or a template such as `{{.Config.Env}}`
    #[arg(short, long, value_name = "FORMAT", allow_hyphen_values = true)]
    format: Option<String>,
    /// `container`, `image`, `volume` or `network`
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Of containers: also what they wrote, alone and with their image, in bytes
    #[arg(short, long)]
    size: bool,
}

/// Shows all that can be found, and fails where one could not.
/// `default`: what is looked for where it is not said.
pub(crate) fn execute(args: &InspectArgs, default: Kind, global: &GlobalArgs) -> Result<Exit> {
    let kind = match args.kind.as_deref() {
        None | Some("") => default,
        Some("image") => Kind::Image,
        Some("container") => Kind::Container,
        Some("volume") => Kind::Volume,
        Some("network") => Kind::Network,
        Some(other) => {
            return Err(
                Error::usage(format!("--type `{other}`: there is no such type"))
                    .help("it is `container`, `image`, `volume` or `network`"),
            );
        }
    };
    show(&args.names, kind, args.format.as_deref(), args.size, global)
}

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A container, else a volume, else a network, else an image.
    Any,
    Container,
    Image,
    Volume,
    Network,
}

pub(crate) fn show(
    names: &[String],
    kind: Kind,
    format: Option<&str>,
    size: bool,
    global: &GlobalArgs,
) -> Result<Exit> {
    let template = match format {
        None | Some("" | "json") => None,
        Some(format) => Some(Template::parse(format)?),
    };
    let mut finder = Finder {
        catalog: Catalog::at(&global.options()?.root),
        engine: None,
        global,
        size,
    };
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for name in names {
        match finder.find(name, kind) {
            Ok(value) => found.push(value),
            Err(error) => errors.push(error),
        }
    }
    match template {
        Some(template) => {
            for value in &found {
                stdio::out(format!("{}\n", template.render(value)?));
            }
        }
        None if format == Some("json") => stdio::out(format!("{}\n", Value::Array(found))),
        None => stdio::out(indented(&Value::Array(found))),
    }
    // Below what was found, where it is seen.
    for error in &errors {
        stdio::err(render::failure(error, stdio::err_is_coloured()));
    }
    Ok(match errors.is_empty() {
        true => Exit::Success,
        false => Exit::Failed,
    })
}

/// Opens what it needs when it needs it: containers and volumes are files.
struct Finder<'g> {
    catalog: Catalog,
    engine: Option<Engine>,
    global: &'g GlobalArgs,
    size: bool,
}

impl Finder<'_> {
    fn engine(&mut self) -> Result<&Engine> {
        let engine = match self.engine.take() {
            Some(engine) => engine,
            None => machine::engine(self.global.options()?)?,
        };
        Ok(self.engine.insert(engine))
    }

    /// What a container wrote, and what that makes with its image, where that is still there.
    fn sizes(&mut self, entry: &Entry) -> Result<Vec<(String, Value)>> {
        // First: not everybody sees what the container's users wrote.
        let engine = self.engine()?;
        let written = entry.size()?;
        let mut sizes = vec![("SizeRw".to_owned(), written.into())];
        let image = entry.definition.image_id.as_deref().unwrap_or_default();
        match engine.inspect_image(image) {
            Ok(image) => {
                let below = image.get("Size").and_then(Value::as_u64);
                let whole = below.unwrap_or_default() + written;
                sizes.push(("SizeRootFs".to_owned(), whole.into()));
            }
            Err(rbuild_engine::Error::NoImage(_)) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(sizes)
    }

    fn find(&mut self, name: &str, kind: Kind) -> Result<Value> {
        if matches!(kind, Kind::Any | Kind::Container)
            && let Some(entry) = self.catalog.look_for(name)?
        {
            let mut value = entry.inspect()?;
            if self.size
                && let Some(fields) = value.as_object_mut()
            {
                fields.extend(self.sizes(&entry)?);
            }
            return Ok(value);
        }
        if kind == Kind::Volume || (kind == Kind::Any && !name.contains(['/', ':'])) {
            let plain = name.starts_with(|first: char| first.is_ascii_alphanumeric());
            let found = if plain {
                self.catalog.inspect_volume(name)
            } else {
                Ok(None)
            };
            match found {
                Ok(Some(volume)) => return Ok(volume),
                Err(error @ rbuild_engine::Error::Damaged(_)) => return Err(error.into()),
                // No name of a volume; it may be one of something else.
                Ok(None) | Err(_) => {}
            }
        }
        if kind == Kind::Any && self.catalog.network(name)?.is_some() {
            return Ok(self.catalog.inspect_network(name)?);
        }
        match kind {
            Kind::Network => Ok(self.catalog.inspect_network(name)?),
            Kind::Container => Err(self.catalog.find(name).map_or_else(Into::into, |_| {
                Error::failed(format!("there is no container `{name}`"))
            })),
            Kind::Volume => Err(Error::failed(format!(
                "there is no volume `{name}` (`rbuild volume ls` lists all there are)"
            ))),
            Kind::Image | Kind::Any => match self.engine()?.inspect_image(name) {
                Err(rbuild_engine::Error::NoImage(_)) if kind == Kind::Any => Err(Error::failed(
                    format!("there is no container, image, volume or network `{name}`"),
                )),
                found => Ok(found?),
            },
        }
    }
}

/// JSON indented by four, as Docker does.
pub(crate) fn indented(value: &Value) -> Vec<u8> {
    use serde::Serialize;
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    // Writing a JSON value to memory cannot fail.
    value.serialize(&mut serializer).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}
