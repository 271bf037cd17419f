//! `rbuild wait`.

use std::os::fd::OwnedFd;

use rbuild_engine::containers::control::{Answer, Ask};
use rbuild_engine::containers::{Entry, Status};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::inotify;

use crate::error::{Error, Result};
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
    let changes = Changes::of(entry)?;
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
        changes.next()?;
    }
}

/// What happens in a container's directory: it starts to answer, its state changes, its process lets go of it, it is
/// removed.
#[derive(Debug)]
pub(super) struct Changes {
    watch: OwnedFd,
}

impl Changes {
    /// What happens from now on.
    pub(super) fn of(entry: &Entry) -> Result<Self> {
        use inotify::WatchFlags;
        let log = entry.log()?;
        let directory = log.parent().unwrap_or(&log);
        let watch = || -> rustix::io::Result<OwnedFd> {
            let watch =
                inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
            let what = WatchFlags::CREATE
                | WatchFlags::MOVED_TO
                | WatchFlags::CLOSE_WRITE
                | WatchFlags::DELETE_SELF
                | WatchFlags::MOVE_SELF
                | WatchFlags::MODIFY;
            inotify::add_watch(&watch, directory, what)?;
            Ok(watch)
        };
        let watch = watch().map_err(|errno| Error::io("watch", directory, errno.into()))?;
        Ok(Self { watch })
    }

    /// Waits for the next; what happened since the last time is one.
    pub(super) fn next(&self) -> Result<()> {
        let mut polled = [PollFd::new(&self.watch, PollFlags::IN)];
        match rustix::event::poll(&mut polled, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => {
                return Err(Error::failed("cannot wait for a container")
                    .because(std::io::Error::from(errno)));
            }
        }
        let mut buffer = [0; 4096];
        while rustix::io::read(&self.watch, &mut buffer).is_ok_and(|length| length > 0) {}
        Ok(())
    }
}
