//! `rbuild start`.

use std::os::unix::net::UnixStream;

use rbuild_engine::containers::{Catalog, Entry, Front, Status};

use crate::commands::run::behind::{self, Attachment, Started};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::machine::{self, Signals};
use crate::terminal::DetachKeys;

/// Start containers that were made or have ended
#[derive(Debug, clap::Args)]
pub(crate) struct StartArgs {
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
    /// Show what it prints, hand signals on, and end as it ends
    #[arg(short, long)]
    attach: bool,
    /// Connect standard input
    #[arg(short, long)]
    interactive: bool,
    /// The keys by which one leaves it (default: ctrl-p,ctrl-q)
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
}

pub(crate) fn execute(args: &StartArgs, global: &GlobalArgs) -> Result<Exit> {
    let catalog = super::catalog(global)?;
    let keys = DetachKeys::parse(args.detach_keys.as_deref())?;
    if !(args.attach || args.interactive) {
        return Ok(super::each(&catalog, &args.containers, |entry| {
            if entry.state.status == Status::Paused {
                return Err(Error::failed(format!(
                    "the container `{}` is paused: unpause it instead",
                    entry.name
                )));
            }
            in_background(&entry, global)
        }));
    }
    let [name] = args.containers.as_slice() else {
        return Err(Error::usage(
            "one container at a time can be started with --attach or --interactive",
        ));
    };
    let entry = catalog.find(name)?;
    if entry.connect()?.is_some() {
        return super::attach::to(&entry, args.interactive, true, keys);
    }
    let request = &entry.definition.request;
    let attachment = Attachment {
        terminal: request.terminal,
        interactive: args.interactive && request.interactive,
        forward_signals: true,
        keys,
    };
    Ok(match start(&entry, Some(attachment), global)? {
        Started::Running(_) | Started::Left => Exit::Success,
        Started::Ended(exit) => exit,
    })
}

/// Starts one, which goes on in the background. One that runs is left as it is.
pub(super) fn in_background(entry: &Entry, global: &GlobalArgs) -> Result<()> {
    match start(entry, None, global)? {
        Started::Running(_) | Started::Left => Ok(()),
        Started::Ended(Exit::Success) => Ok(()),
        Started::Ended(_) => Err(Error::failed(format!(
            "the container `{}` could not be started",
            entry.name
        ))),
    }
}

fn start(entry: &Entry, attachment: Option<Attachment>, global: &GlobalArgs) -> Result<Started> {
    let attached = attachment.is_some();
    behind::start(attachment, |stream| live(entry, stream, attached, global))
}

fn live(entry: &Entry, stream: UnixStream, attached: bool, global: &GlobalArgs) -> Result<Exit> {
    let options = global.options()?;
    let (catalog, definition) = (Catalog::at(&options.root), &entry.definition);
    let host = machine::enter_for(&catalog, &definition.request, definition.propagation())?;
    let engine = machine::open(host, options)?;
    let exit = machine::block_on(Signals::Forwarded, async |cancel| {
        let Some(held) = engine.hold(entry.clone())? else {
            // Somebody else was faster: it runs.
            return Ok(None);
        };
        let front = Front::Other { stream, attached };
        Ok(Some(engine.live(held, front, None, cancel).await?))
    })?;
    Ok(exit.map_or(Exit::Success, Exit::of_command))
}
