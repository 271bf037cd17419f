//! `rbuild run` and `create`. A container in the foreground lives in this process; one with a terminal, or in the
//! background, lives in a process behind it ([`behind`]), so that it can be left.

mod args;
mod attach;
pub(super) mod behind;
pub(crate) mod blocks;
mod cidfile;
pub(crate) mod environment;
mod labels;
mod logs;
pub(crate) mod mounts;
pub(crate) mod networks;
mod ports;
mod refused;
pub(crate) mod request;
mod runtime;
mod security;
mod spaces;

use std::io::IsTerminal;
use std::sync::Arc;

use rbuild_engine as engine;
use rbuild_engine::containers::{Catalog, Front, Lifetime, RunRequest};
use rbuild_engine::executor::host::Privilege;
use rbuild_engine::executor::network::Ahead;
use rbuild_engine::executor::sandbox::ExecError;

pub(crate) use args::{CreateArgs, RunArgs};
use behind::{Attachment, Started};
use cidfile::CidFile;

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::machine::{self, Signals, Threads};
use crate::progress::{Mode, Renderer};
use crate::stdio;
use crate::terminal::DetachKeys;

/// rbuild itself failed.
pub(super) const FAILED: u8 = 125;
/// The command is there and cannot be executed.
const NOT_EXECUTABLE: u8 = 126;
/// The command is not there.
const NOT_FOUND: u8 = 127;

pub(crate) fn execute(args: &RunArgs, global: &GlobalArgs) -> Result<Exit> {
    start(args, global).map_err(with_code)
}

/// Gives an error of `run` and its like the exit code that Docker has for it.
pub(crate) fn with_code(error: Error) -> Error {
    match error {
        Error::Run(..) => error,
        Error::Engine(engine::Error::Exec(ExecError::NotExecutable { not_found, .. })) => {
            Error::Run(
                if not_found { NOT_FOUND } else { NOT_EXECUTABLE },
                Box::new(error),
            )
        }
        other => Error::Run(FAILED, Box::new(other)),
    }
}

fn start(args: &RunArgs, global: &GlobalArgs) -> Result<Exit> {
    let mut request = request::read(&args.container)?;
    request.starts_at_once = true;
    let keys = DetachKeys::parse(args.detach_keys.as_deref())?;
    request.shown = attach::read(&args.attach, &request)?;
    let (interactive, terminal) = (request.interactive, request.terminal);
    if interactive && terminal && !args.detach && !std::io::stdin().is_terminal() {
        return Err(
            Error::failed("--tty with --interactive: standard input is not a terminal")
                .help("leave out -t, or -i"),
        );
    }
    let mode = if args.container.quiet {
        Mode::Quiet
    } else {
        Mode::Plain
    };
    let mut cidfile = CidFile::create(args.container.cidfile.as_deref())?;
    let forward_signals = args.sig_proxy.unwrap_or(true);
    if !args.detach && !terminal {
        let front = Front::Own { forward_signals };
        return live(global, request, mode, front, cidfile);
    }
    let attachment = (!args.detach).then_some(Attachment {
        terminal,
        interactive,
        forward_signals,
        keys,
    });
    let attached = attachment.is_some();
    let started = behind::start(attachment, |stream| {
        let front = Front::Other { stream, attached };
        live(global, request, mode, front, cidfile.take())
    });
    if let Some(cidfile) = cidfile {
        cidfile.leave();
    }
    Ok(match started? {
        Started::Running(id) => {
            stdio::out(format!("{id}\n"));
            Exit::Success
        }
        Started::Left => Exit::Success,
        Started::Ended(exit) => exit,
    })
}

/// Makes a container, and lives for it.
fn live(
    global: &GlobalArgs,
    request: RunRequest,
    mode: Mode,
    front: Front,
    cidfile: Option<CidFile>,
) -> Result<Exit> {
    let options = global.options()?;
    let catalog = Catalog::at(&options.root);
    let propagation = catalog.propagation_for(&request)?;
    let host = machine::enter_for(&catalog, &request, propagation)?;
    // It is made while the store is opened and the image looked up.
    let private = request.has_private_network() && host.privilege() != Privilege::Without;
    let network = private.then(|| Ahead::begin(&host, request.users_on_machine()));
    let engine = machine::open(host, options)?;
    let (lifetime, threads) = match front {
        Front::Own { .. } => (Lifetime::Foreground, Threads::One),
        Front::Other { .. } => (Lifetime::Background, Threads::Several),
    };
    let renderer = Arc::new(Renderer::new(mode));
    // Signals are the container's: they do not cancel.
    let exit = machine::block_on_threads(threads, Signals::Forwarded, async |cancel| {
        let created = engine
            .create(request, lifetime, renderer.clone(), &cancel)
            .await?;
        if let Some(cidfile) = cidfile {
            cidfile.fill(created.entry.id())?;
        }
        // Where it could not be begun, that is told when it is needed.
        let network = network.and_then(std::result::Result::ok);
        Ok(engine.live(created, front, network, cancel).await?)
    })?;
    Ok(Exit::of_command(exit))
}

pub(crate) fn create(args: &CreateArgs, global: &GlobalArgs) -> Result<Exit> {
    let request = request::read(&args.container)?;
    let cidfile = CidFile::create(args.container.cidfile.as_deref())?;
    let mode = if args.container.quiet {
        Mode::Quiet
    } else {
        Mode::Plain
    };
    let engine = machine::engine(global.options()?)?;
    let renderer = Arc::new(Renderer::new(mode));
    let id = machine::block_on(Signals::Cancel, async |cancel| {
        let created = engine
            .create(request, Lifetime::Background, renderer.clone(), &cancel)
            .await?;
        let id = created.entry.id().to_owned();
        if let Some(cidfile) = cidfile {
            cidfile.fill(&id)?;
        }
        Ok(id)
    })?;
    stdio::out(format!("{id}\n"));
    Ok(Exit::Success)
}
