//! `rbuild inspect`, `image inspect`.

use serde_json::Value;

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::template::Template;
use crate::{machine, render, stdio};

/// Show everything that is known of images, as JSON
#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    #[arg(required = true, value_name = "IMAGE")]
    names: Vec<String>,
    /// `json`, or a template such as `{{.Config.Env}}`
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// `image`
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
}

/// Shows all that can be found, and fails where one could not.
pub(crate) fn execute(args: &InspectArgs, global: &GlobalArgs) -> Result<Exit> {
    match args.kind.as_deref() {
        None | Some("image") => {}
        Some(kind @ ("container" | "volume")) => {
            return Err(Error::unsupported(format!("--type={kind}")));
        }
        Some(other) => {
            return Err(Error::usage(format!(
                "--type `{other}`: there is no such type"
            )));
        }
    }
    let template = match args.format.as_deref() {
        None | Some("json") => None,
        Some(format) => Some(Template::parse(format)?),
    };
    let engine = machine::engine(global.options()?)?;
    let mut exit = Exit::Success;
    let mut found = Vec::new();
    for name in &args.names {
        match engine.inspect_image(name) {
            Ok(value) => found.push(value),
            Err(error) => {
                stdio::err(render::failure(&error.into(), stdio::err_is_coloured()));
                exit = Exit::Failed;
            }
        }
    }
    match template {
        Some(template) => {
            for value in &found {
                stdio::out(format!("{}\n", template.render(value)?));
            }
        }
        None if args.format.is_some() => {
            for value in &found {
                stdio::out(format!("{value}\n"));
            }
        }
        None => stdio::out(indented(&Value::Array(found))),
    }
    Ok(exit)
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
