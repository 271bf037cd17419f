//! `rbuild import`.

use std::io::{IsTerminal, Read};

use rbuild_engine::images::ImportRequest;

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::{machine, stdio, values};

/// Make an image of a tar of a root file system
#[derive(Debug, clap::Args)]
pub(crate) struct ImportArgs {
    /// A tar, compressed or not, or its address; `-` is standard input
    file: String,
    /// The image's name
    #[arg(value_name = "NAME[:TAG]")]
    reference: Option<String>,
    /// A Dockerfile instruction to apply to the config, as in `CMD ["/bin/sh"]`
    #[arg(short, long, value_name = "INSTRUCTION", allow_hyphen_values = true)]
    change: Vec<String>,
    /// The comment in the image's history (default: where it came from)
    #[arg(short, long, allow_hyphen_values = true)]
    message: Option<String>,
    #[arg(long, value_name = "P")]
    platform: Option<String>,
}

pub(crate) fn execute(args: &ImportArgs, global: &GlobalArgs) -> Result<Exit> {
    let is_address = args.file.starts_with("http://") || args.file.starts_with("https://");
    let request = ImportRequest {
        reference: args
            .reference
            .as_deref()
            .map(|text| super::build::tag("the name", text))
            .transpose()?,
        changes: args.change.clone(),
        message: args
            .message
            .clone()
            .unwrap_or_else(|| imported_from(&args.file)),
        platform: args.platform.as_deref().map(values::platform).transpose()?,
    };
    if is_address {
        let id = machine::with_engine(global.options()?, async |engine, cancel| {
            let importing = engine.import_from(&args.file, request);
            machine::unless_cancelled(&cancel, importing).await
        })?;
        stdio::out(format!("{id}\n"));
        return Ok(Exit::Success);
    }
    let mut tar: Box<dyn Read + Send> = if args.file == "-" {
        let stdin = std::io::stdin();
        if stdin.is_terminal() {
            return Err(Error::failed(
                "there is no tar: standard input is a terminal",
            ));
        }
        Box::new(stdin)
    } else {
        let file = std::fs::File::open(&args.file)
            .map_err(|error| Error::io("open", &args.file, error))?;
        Box::new(file)
    };
    let engine = machine::engine(global.options()?)?;
    let id = engine.import(&mut tar, &request)?;
    machine::keep_within_limits(&engine);
    stdio::out(format!("{id}\n"));
    Ok(Exit::Success)
}

/// As Docker has it; an address without what may be secret.
fn imported_from(file: &str) -> String {
    let shown = file.split(['?', '#']).next().unwrap_or_default();
    let shown = match shown.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = host.rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}{path}")
        }
        None => shown.to_owned(),
    };
    format!("Imported from {shown}")
}
