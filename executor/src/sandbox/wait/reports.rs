//! Hears what the sandbox's first process reports, and has its calls answered where it asks for that.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use crate::emulation::{Emulation, Identity};
use crate::sandbox::plan::{Parent, Report, Stub};
use crate::sandbox::prepare::setup;
use crate::sandbox::{ExecError, wire};
use crate::spec::{Carried, Ends};

/// What the reports said.
#[derive(Default)]
pub(in crate::sandbox) struct Reported {
    pub(in crate::sandbox) ready: bool,
    pub(super) stubs: Vec<Stub>,
    pub(super) parents: Vec<Parent>,
    pub(in crate::sandbox) master: Option<OwnedFd>,
    pub(in crate::sandbox) failure: Option<ExecError>,
}

/// Reads reports until the command runs or has failed. Blocking.
pub(in crate::sandbox) fn read_reports(
    status: &OwnedFd,
    identity: Identity,
    program: &str,
) -> Result<Reported, ExecError> {
    let mut reader = Reader::new(identity, program, |emulation| {
        emulation.start().map(drop).map_err(not_emulated)
    });
    while reader.one(status.as_fd())? {}
    Ok(reader.reported)
}

/// As [`read_reports`], on the runtime. A report is one short message: what can be begun to be read is there.
pub(super) async fn hear_reports(
    status: OwnedFd,
    identity: Identity,
    program: String,
    emulation: oneshot::Sender<Emulation>,
) -> Result<Reported, ExecError> {
    let failed = |error: io::Error| setup("listen to the sandbox", error);
    let mut emulation = Some(emulation);
    let mut reader = Reader::new(identity, &program, |asked| {
        if let Some(emulation) = emulation.take() {
            // Nobody waits for it where the command was given up.
            let _ = emulation.send(asked);
        }
        Ok(())
    });
    let status = crate::sys::watch(status).map_err(failed)?;
    loop {
        let mut ready = status.readable().await.map_err(failed)?;
        if !is_readable(status.get_ref().as_fd()).map_err(failed)? {
            ready.clear_ready();
        } else if !reader.one(status.get_ref().as_fd())? {
            return Ok(reader.reported);
        }
    }
}

pub(super) fn not_emulated(error: io::Error) -> ExecError {
    setup("start to emulate owners", error)
}

/// Starts what answers the sandbox's calls, if one is made before its end.
pub(super) async fn emulate(
    asked: oneshot::Receiver<Emulation>,
) -> io::Result<Option<JoinHandle<()>>> {
    match asked.await {
        Ok(emulation) => emulation.start_when_asked().await,
        Err(_) => Ok(None),
    }
}

fn is_readable(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut polled = [rustix::event::PollFd::from_borrowed_fd(
        fd,
        rustix::event::PollFlags::IN,
    )];
    let now = rustix::event::Timespec::default();
    match rustix::event::poll(&mut polled, Some(&now)) {
        Err(rustix::io::Errno::INTR) => Ok(false),
        result => Ok(result? > 0),
    }
}

/// Takes in one report after the other.
struct Reader<'p, E> {
    identity: Option<Identity>,
    program: &'p str,
    emulate: E,
    reported: Reported,
}

impl<'p, E: FnMut(Emulation) -> Result<(), ExecError>> Reader<'p, E> {
    fn new(identity: Identity, program: &'p str, emulate: E) -> Self {
        Self {
            identity: Some(identity),
            program,
            emulate,
            reported: Reported::default(),
        }
    }

    /// False where there will be no more.
    fn one(&mut self, status: BorrowedFd<'_>) -> Result<bool, ExecError> {
        let message = wire::receive::<Report>(status)
            .map_err(|error| setup("listen to the sandbox", error))?;
        let Some((report, mut descriptors)) = message else {
            return Ok(false);
        };
        let reported = &mut self.reported;
        match report {
            Report::Ready { stubs, parents } => {
                reported.ready = true;
                reported.master = descriptors.pop();
                reported.stubs = stubs;
                reported.parents = parents;
            }
            Report::Emulate {
                mounts: own_mounts,
                takes,
            } => {
                if let (Some(mounts), Some(listener)) = (descriptors.pop(), descriptors.pop()) {
                    let mut identity = self.identity.take().unwrap_or_default();
                    identity.own_mounts = own_mounts;
                    identity.takes = takes;
                    (self.emulate)(Emulation::new(listener, Some(mounts), identity))?;
                }
            }
            Report::Answer => {
                if let Some(listener) = descriptors.pop() {
                    let identity = self.identity.take().unwrap_or_default();
                    (self.emulate)(Emulation::new(listener, None, identity))?;
                }
            }
            Report::Failed { step, errno } => {
                reported.failure = Some(setup(step, io::Error::from_raw_os_error(errno)));
            }
            Report::NotExecutable {
                explanation,
                not_found,
            } => {
                reported.failure = Some(ExecError::NotExecutable {
                    program: self.program.to_owned(),
                    explanation,
                    not_found,
                });
            }
            Report::Refused { step, reason } => {
                reported.failure = Some(setup(step, reason));
            }
        }
        Ok(true)
    }
}

impl Carried {
    /// Hands the terminal over, and tells that the command runs.
    pub(super) fn reported(&mut self, reported: &mut Reported) {
        if let Some(master) = reported.master.take()
            && let Some(carry) = self.carry.take()
        {
            carry(Ends::Terminal(master));
        }
        if reported.ready
            && reported.failure.is_none()
            && let Some(running) = self.running.take()
        {
            running();
        }
    }
}
