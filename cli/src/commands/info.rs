//! `rbuild info`.

use rbuild_engine::executor::host::Privilege;
use rbuild_engine::image::Platform;
use serde_json::json;

use crate::error::Result;
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::template::Template;
use crate::{machine, stdio};

/// Show what rbuild found on this machine
#[derive(Debug, clap::Args)]
pub(crate) struct InfoArgs {
    /// `json`, or a template such as `{{.Root}}`
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

pub(crate) fn execute(args: &InfoArgs, global: &GlobalArgs) -> Result<Exit> {
    let template = match args.format.as_deref() {
        None | Some("json") => None,
        Some(format) => Some(Template::parse(format)?),
    };
    let options = global.options()?;
    let root = options.root.display().to_string();
    let host = machine::enter()?;
    let privilege = match host.privilege() {
        Privilege::Root => "root",
        Privilege::Subordinate => "rootless, with subordinate ids",
        Privilege::SingleId => "rootless, with one id",
        Privilege::Without => "without namespaces",
    };
    let reason = host.reason().to_owned();
    let engine = machine::open(host, options)?;
    let kernel = rustix::system::uname();
    let mut value = json!({
        "Version": env!("CARGO_PKG_VERSION"),
        "Root": root,
        "Privilege": privilege,
        "PrivilegeReason": reason,
        "Images": engine.images(&[])?.len(),
        "Platform": Platform::host().to_string(),
        "CPUs": rbuild_engine::cores(),
        "KernelVersion": kernel.release().to_string_lossy(),
    });
    for (name, feature) in engine.features() {
        value[name] = match feature {
            Ok(found) => found.into(),
            Err(why) => format!("none: {why}").into(),
        };
    }
    let text = match template {
        Some(template) => format!("{}\n", template.render(&value)?),
        None if args.format.is_some() => format!("{value}\n"),
        None => {
            let lines = value.as_object().into_iter().flatten();
            lines
                .map(|(name, value)| match value.as_str() {
                    Some(text) => format!("{name}: {text}\n"),
                    None => format!("{name}: {value}\n"),
                })
                .collect()
        }
    };
    stdio::out(text);
    Ok(Exit::Success)
}
