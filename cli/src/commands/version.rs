//! `rbuild version`.

use rbuild_engine::image::Platform;
use serde_json::json;

use crate::error::Result;
use crate::exit::Exit;
use crate::stdio;
use crate::template::Template;

/// Show the version
#[derive(Debug, clap::Args)]
pub(crate) struct VersionArgs {
    /// `json`, or a template such as `{{.Version}}`
    #[arg(short, long, value_name = "FORMAT", allow_hyphen_values = true)]
    format: Option<String>,
}

pub(crate) fn execute(args: &VersionArgs) -> Result<Exit> {
    let platform = Platform::host();
    let own = json!({
        "Version": env!("CARGO_PKG_VERSION"),
        "Os": platform.os,
        "Arch": platform.architecture,
    });
    let mut value = own.clone();
    // Scripts ask for Docker's client or server: this program is both.
    value["Client"] = own.clone();
    value["Server"] = own;
    stdio::out(match args.format.as_deref() {
        None => format!("rbuild {}\n", env!("CARGO_PKG_VERSION")),
        Some("json") => format!("{value}\n"),
        Some(format) => format!("{}\n", Template::parse(format)?.render(&value)?),
    });
    Ok(Exit::Success)
}
