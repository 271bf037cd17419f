//! `rbuild attach`.

use rbuild_engine::containers::control::{Answer, Ask};
use rbuild_engine::containers::{Entry, Status};

use crate::commands::run::behind::{self, Attachment, Started};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::terminal::DetachKeys;

/// Connect the terminal to a container that runs
#[derive(Debug, clap::Args)]
pub(crate) struct AttachArgs {
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// The keys by which one leaves it (default: ctrl-p,ctrl-q)
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// Do not connect standard input
    #[arg(long)]
    no_stdin: bool,
    /// Do not hand signals on with --sig-proxy=false
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    sig_proxy: Option<bool>,
}

pub(crate) fn execute(args: &AttachArgs, global: &GlobalArgs) -> Result<Exit> {
    let keys = DetachKeys::parse(args.detach_keys.as_deref())?;
    let entry = super::catalog(global)?.find(&args.container)?;
    to(&entry, !args.no_stdin, args.sig_proxy.unwrap_or(true), keys)
}

/// Attaches this process until the container ends or is left.
pub(super) fn to(
    entry: &Entry,
    stdin: bool,
    forward_signals: bool,
    keys: DetachKeys,
) -> Result<Exit> {
    if entry.state.status == Status::Paused {
        return Err(Error::failed(format!(
            "the container `{}` is paused: unpause it first",
            entry.name
        )));
    }
    let connection = entry.must_connect("attach to")?;
    connection.ask(&Ask::Attach, &[])?;
    match connection.answer()? {
        Some((Answer::Done, _)) => {}
        Some((Answer::Failed { message, .. }, _)) => return Err(Error::failed(message)),
        _ => return Err(Error::failed("the container ended meanwhile")),
    }
    let request = &entry.definition.request;
    let attachment = Attachment {
        terminal: request.terminal,
        interactive: stdin && request.interactive,
        forward_signals,
        keys,
    };
    Ok(match behind::attach(connection.stream, attachment)? {
        Started::Ended(exit) => exit,
        Started::Left | Started::Running(_) => Exit::Success,
    })
}
