//! `rbuild logout`.

use rbuild_engine::image::registry::credentials;

use crate::error::Result;
use crate::exit::Exit;
use crate::{global, stdio};

/// Forget the login for a registry
#[derive(Debug, clap::Args)]
pub(crate) struct LogoutArgs {
    /// The registry (default: Docker Hub)
    #[arg(value_name = "SERVER", default_value = "")]
    server: String,
}

pub(crate) fn execute(args: &LogoutArgs) -> Result<Exit> {
    let registry = credentials::registry_name(&args.server);
    let mut found = false;
    for file in global::credential_files() {
        found |= credentials::forget(&file, &registry)?;
    }
    match found {
        true => stdio::out(format!("Removing login credentials for {registry}\n")),
        false => stdio::out(format!("Not logged in to {registry}\n")),
    }
    Ok(Exit::Success)
}
