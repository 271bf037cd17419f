//! `rbuild wait`.

use rbuild_engine::containers::control::{Answer, Ask};
use rbuild_engine::containers::{Entry, Status};

use crate::error::Result;
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::{render, stdio};

/// Wait until containers end, and print their exit codes
#[derive(Debug, clap::Args)]
pub(crate) struct WaitArgs {
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

pub(crate) fn execute(args: &WaitArgs, global: &GlobalArgs) -> Result<Exit> {
    let catalog = super::catalog(global)?;
    let mut exit = Exit::Success;
    for name in &args.containers {
        let waited = catalog
            .find(name)
            .map_err(Into::into)
            .and_then(|entry| wait(&entry, &catalog));
        match waited {
            Ok(code) => stdio::out(format!("{code}\n")),
            Err(error) => {
                stdio::err(render::failure(&error, stdio::err_is_coloured()));
                exit = Exit::Failed;
            }
        }
    }
    Ok(exit)
}

/// Returns the exit code of a container that ended.
pub(super) fn wait(entry: &Entry, catalog: &rbuild_engine::containers::Catalog) -> Result<i32> {
    loop {
        if let Some(connection) = entry.connect()? {
            connection.ask(&Ask::Wait, &[])?;
            if let Some((Answer::Ended(code), _)) = connection.answer()? {
                return Ok(code);
            }
        }
        // It ended, was killed, or was not started yet.
        let mut now = catalog.find(entry.id())?;
        now.refresh()?;
        if !now.state.status.is_alive() && now.state.status != Status::Created {
            return Ok(now.state.exit_code);
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}
