//! Answering what others ask of a container, in the process that it lives in: each connection has a thread, and
//! whoever goes away takes what was running for them along.

use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use rbuild_executor::sandbox::container::Handle;
use rbuild_executor::sandbox::{self, Enter, EnterStreams, Entered, ExecError};
use rbuild_executor::wire;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use tokio_util::sync::CancellationToken;

use super::attach;
use super::control::frame::{self, Frames, Kind};
use super::control::{self, Answer, Ask};
use super::exec::ExecRequest;
use super::life::{Asked, Life};
use super::state::Status;
use super::supervise::exit_code;
use super::update::update;
use crate::{Error, Result};

/// Where nothing else is said, so long a container has between the stop signal and `KILL`.
const STOP_SECONDS: i64 = 10;

/// How long whoever kills it waits at most for its end; a process in the middle of a system call can take its time.
const KILLED_WITHIN: Duration = Duration::from_secs(10);

/// Stops listening when it is dropped.
#[derive(Debug)]
pub(super) struct Listening {
    task: tokio::task::AbortHandle,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Listens on the socket in the container's directory. Within the runtime.
pub(super) fn listen(life: &Arc<Life>) -> Result<Listening> {
    let directory = life.catalog.files.directory(&life.definition.id)?;
    let failed = |source: io::Error| Error::Io {
        message: format!("cannot listen in `{}`", directory.display()),
        source,
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(&directory, flags, Mode::empty());
    let opened = opened.map_err(|errno| failed(errno.into()))?;
    let path = control::path(opened.as_fd());
    // Left by a process that was killed: the container is ours now.
    match std::fs::remove_file(directory.join(control::SOCKET)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let listener = tokio::net::UnixListener::from_std(listener).map_err(failed)?;
    let life = Arc::clone(life);
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = stream.into_std() else {
                continue;
            };
            let life = Arc::clone(&life);
            let answering = std::thread::Builder::new()
                .name("container-control".to_owned())
                .spawn(move || {
                    if stream.set_nonblocking(false).is_err() {
                        return;
                    }
                    life.change(|now| now.answering += 1);
                    if let Err(error) = answer(&life, stream) {
                        tracing::debug!(%error, "a conversation ended");
                    }
                    life.change(|now| now.answering -= 1);
                });
            if let Err(error) = answering {
                tracing::warn!(%error, "nobody can be answered");
            }
        }
    });
    Ok(Listening {
        task: task.abort_handle(),
    })
}

fn answer(life: &Arc<Life>, stream: UnixStream) -> io::Result<()> {
    let Some((ask, descriptors)) = wire::receive::<Ask>(stream.as_fd())? else {
        return Ok(());
    };
    let say = |answer: &Answer| wire::send(stream.as_fd(), answer, &[]);
    match ask {
        Ask::Signal(number) => {
            let result = signal(life, number);
            // Whoever kills it goes on with a container that has ended: removes it, or starts it again.
            if result.is_ok() && number == libc_kill() {
                life.wait_until(Some(KILLED_WITHIN), |now| now.over);
            }
            say(&done(result))
        }
        Ask::Stop { signal, seconds } => {
            stop(life, signal, seconds, Asked::Stop);
            life.wait_until(None, |now| now.over);
            say(&Answer::Done)
        }
        Ask::Restart { signal, seconds } => {
            let starts = life.now().starts;
            stop(life, signal, seconds, Asked::Restart);
            life.wait_until(None, |now| now.over || now.starts > starts);
            let error = life.now().state.error.clone();
            say(&if life.now().starts > starts {
                Answer::Done
            } else {
                failed(format!("the container could not be started again: {error}"))
            })
        }
        Ask::Attach => attach(life, stream),
        Ask::Exec(request) => exec(life, &stream, *request, descriptors),
        Ask::Root => match with_handle(life, Handle::root) {
            Ok(root) => {
                let root = root.into_fd();
                wire::send(stream.as_fd(), &Answer::Done, &[root.as_fd()])
            }
            Err(message) => say(&failed(message)),
        },
        Ask::Layer => layer(life, &stream),
        Ask::Freeze(frozen) => {
            let result = freeze(life, frozen);
            say(&done(result))
        }
        Ask::Halt => {
            let frozen = freeze(life, true);
            if frozen.is_err() {
                return say(&done(frozen));
            }
            let told = say(&Answer::Done);
            // Nothing comes but the end.
            let _ = (&stream).read(&mut [0]);
            let thawed = match life.is_paused() {
                true => freeze(life, false),
                false => Ok(()),
            };
            told?;
            say(&done(thawed))
        }
        Ask::Processes => say(&match with_handle(life, Handle::processes) {
            Ok(pids) => Answer::Processes(pids),
            Err(message) => failed(message),
        }),
        Ask::Representative => say(&match with_handle(life, Handle::representative) {
            Ok(pid) => Answer::Representative(pid),
            Err(message) => failed(message),
        }),
        Ask::Usage => say(&match with_handle(life, Handle::usage) {
            Ok(usage) => Answer::Usage(usage),
            Err(message) => failed(message),
        }),
        Ask::Update(changes) => say(&done(update(life, &changes))),
        Ask::Network(address) => life.give_line(stream, address),
        Ask::Join(attachment) => say(&done(attach::join_now(life, &attachment))),
        Ask::Leave(network) => say(&done(attach::leave_now(life, &network))),
        Ask::UserNamespace => match rbuild_executor::host::user_namespace() {
            Ok(namespace) => wire::send(stream.as_fd(), &Answer::Done, &[namespace.as_fd()]),
            Err(error) => say(&failed(error.to_string())),
        },
        Ask::Wait => {
            life.wait_until(None, |now| now.over);
            let code = life.now().state.exit_code;
            say(&Answer::Ended(code))
        }
    }
}

/// Hands out a copy of what it wrote, until nobody wants that any more.
fn layer(life: &Life, stream: &UnixStream) -> io::Result<()> {
    let made = || -> std::result::Result<_, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let directory = life.store.temporary_directory();
        let directory = directory.map_err(|error| text(&error))?;
        with_handle(life, |handle| handle.changes(directory.path()))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(directory.path(), flags, Mode::empty());
        Ok((directory, opened.map_err(|errno| text(&errno))?))
    };
    match made() {
        Ok((_directory, opened)) => {
            wire::send(stream.as_fd(), &Answer::Done, &[opened.as_fd()])?;
            // Nothing comes but the end.
            let mut stream = stream;
            let _ = stream.read(&mut [0]);
            Ok(())
        }
        Err(message) => wire::send(stream.as_fd(), &failed(message), &[]),
    }
}

fn failed(message: impl Into<String>) -> Answer {
    Answer::Failed {
        message: message.into(),
        not_found: None,
    }
}

fn done(result: std::result::Result<(), String>) -> Answer {
    match result {
        Ok(()) => Answer::Done,
        Err(message) => failed(message),
    }
}

fn with_handle<T>(
    life: &Life,
    work: impl FnOnce(&Handle) -> io::Result<T>,
) -> std::result::Result<T, String> {
    let handle = life.now().handle.clone();
    let handle = handle.ok_or_else(|| "the container does not run".to_owned())?;
    work(&handle).map_err(|error| error.to_string())
}

/// Sends a signal. One that is meant to end the container also ends its restarts.
fn signal(life: &Life, number: i32) -> std::result::Result<(), String> {
    let stop_signal = super::signal_number(&life.definition.stop_signal);
    if number == libc_kill() || Some(number) == stop_signal {
        life.change(|now| {
            now.asked = Asked::Stop;
            now.state.stopped_by_user = true;
        });
    }
    let signal = sandbox::signal(number)
        .ok_or_else(|| format!("signals with the number {number} cannot be sent"))?;
    if number == libc_kill() && life.is_paused() {
        freeze(life, false)?;
    }
    with_handle(life, |handle| handle.signal(signal))
}

fn libc_kill() -> i32 {
    Signal::KILL.as_raw()
}

/// Asks it to end, and makes it end when it takes too long. Returns when it has ended.
fn stop(life: &Life, signal: Option<i32>, seconds: Option<i64>, asked: Asked) {
    let starts = life.now().starts;
    life.change(|now| {
        now.asked = asked;
        now.state.stopped_by_user = asked == Asked::Stop;
    });
    if life.is_paused() {
        drop(freeze(life, false));
    }
    let number = signal.or_else(|| super::signal_number(&life.definition.stop_signal));
    let signal = number.and_then(sandbox::signal).unwrap_or(Signal::TERM);
    let seconds = seconds
        .or(life.definition.request.stop_timeout)
        .unwrap_or(STOP_SECONDS);
    // Between two starts there is nothing to signal: it sees what is asked, or starts once more before it does.
    loop {
        let handle = life.now().handle.clone();
        if handle.as_ref().is_some_and(|it| it.signal(signal).is_ok()) {
            break;
        }
        life.wait_until(None, |now| {
            let is_another = match (&now.handle, &handle) {
                (None, None) => false,
                (Some(now), Some(before)) => !now.is(before),
                _ => true,
            };
            now.over || now.starts > starts || is_another
        });
        let now = life.now();
        if now.over || (asked == Asked::Restart && now.starts > starts) {
            return;
        }
    }
    let starts = life.now().starts;
    let limit = u64::try_from(seconds).ok().map(Duration::from_secs);
    let ended = life.wait_until(limit, |now| {
        now.over || now.handle.is_none() || now.starts > starts
    });
    if !ended {
        drop(with_handle(life, |handle| handle.signal(Signal::KILL)));
        life.wait_until(None, |now| {
            now.over || now.handle.is_none() || now.starts > starts
        });
    }
}

fn freeze(life: &Life, frozen: bool) -> std::result::Result<(), String> {
    let paused = life.is_paused();
    if paused == frozen {
        return Err(if paused {
            "the container is paused already".to_owned()
        } else {
            "the container is not paused".to_owned()
        });
    }
    let handle = life.now().handle.clone();
    let handle = handle.ok_or_else(|| "the container does not run".to_owned())?;
    let result = handle.freeze(frozen);
    result.map_err(|error| match std::error::Error::source(&error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    })?;
    life.change(|now| {
        if now.handle.is_some() {
            now.state.cgroups = handle.cgroups_to_remove();
            now.state.status = if frozen {
                Status::Paused
            } else {
                Status::Running
            };
        }
    });
    Ok(())
}

/// Carries frames between somebody and the container's streams.
fn attach(life: &Arc<Life>, stream: UnixStream) -> io::Result<()> {
    if life.now().over {
        return Ok(());
    }
    wire::send(stream.as_fd(), &Answer::Done, &[])?;
    let stream = Arc::new(Frames::new(stream));
    life.hub.attach(Arc::clone(&stream));
    // Whoever is told about the end by a frame needs no further answer.
    life.change(|now| now.answering -= 1);
    let _ = follow(life, &stream);
    life.change(|now| now.answering += 1);
    life.hub.detach(&stream);
    Ok(())
}

/// Reads frames until the other side leaves; true where it took its leave.
fn follow(life: &Arc<Life>, stream: &Frames) -> io::Result<bool> {
    while let Some((kind, bytes)) = stream.read()? {
        match (kind, bytes.as_slice()) {
            (Kind::Stdin, bytes) => life.hub.input(bytes),
            (Kind::Resize, [r0, r1, c0, c1]) => life.hub.resize(
                u16::from_le_bytes([*r0, *r1]),
                u16::from_le_bytes([*c0, *c1]),
            ),
            (Kind::Signal, [number]) => drop(signal(life, i32::from(*number))),
            (Kind::Detach, _) => return Ok(true),
            _ => {}
        }
    }
    Ok(false)
}

/// Follows the process that started this one: the container ends with it, unless it takes its leave.
pub(super) fn follow_front(life: &Arc<Life>, stream: Arc<Frames>, cancel: CancellationToken) {
    let life = Arc::clone(life);
    let following = std::thread::Builder::new()
        .name("container-front".to_owned())
        .spawn(move || {
            let left = follow(&life, &stream);
            life.hub.detach(&stream);
            if left.unwrap_or(false) {
                stream.close();
                drop(rbuild_executor::background::let_go());
            } else if !life.now().over {
                cancel.cancel();
            }
        });
    if let Err(error) = following {
        tracing::error!(%error, "nothing that is typed reaches the container");
    }
}

fn exec(
    life: &Arc<Life>,
    stream: &UnixStream,
    request: ExecRequest,
    descriptors: Vec<OwnedFd>,
) -> io::Result<()> {
    let detach = request.detach;
    let entered = enter(life, request, descriptors);
    let mut entered = match entered {
        Ok(entered) => entered,
        Err(answer) => return wire::send(stream.as_fd(), &answer, &[]),
    };
    match entered.take_master() {
        Some(master) => wire::send(stream.as_fd(), &Answer::Done, &[master.as_fd()])?,
        None => wire::send(stream.as_fd(), &Answer::Done, &[])?,
    }
    if !detach {
        wait_or_leave(&entered, stream)?;
    }
    let exit = entered.wait()?;
    if detach {
        return Ok(());
    }
    wire::send(stream.as_fd(), &Answer::Ended(exit_code(exit)), &[])
}

pub(super) fn enter(
    life: &Life,
    request: ExecRequest,
    descriptors: Vec<OwnedFd>,
) -> std::result::Result<Entered, Answer> {
    if life.is_paused() {
        return Err(failed("the container is paused: unpause it first"));
    }
    let Some(handle) = life.now().handle.clone() else {
        return Err(failed("the container does not run"));
    };
    let definition = &life.definition;
    let mut env = definition.env.clone();
    if request.terminal.is_some() {
        env.push("TERM=xterm".to_owned());
    }
    super::program::merge_environment(&mut env, request.env.iter());
    let streams = match (request.terminal, <[OwnedFd; 3]>::try_from(descriptors)) {
        (Some(size), _) => EnterStreams::Terminal(size),
        (None, Ok(streams)) => EnterStreams::These(streams),
        (None, Err(_)) => return Err(failed("three streams belong to a command")),
    };
    let bytes = |words: Vec<String>| words.into_iter().map(String::into_bytes).collect();
    let enter = Enter {
        argv: bytes(request.argv),
        env: bytes(env),
        cwd: request
            .workdir
            .unwrap_or_else(|| std::path::Path::new("/").join(&definition.working_dir)),
        user: request.user.unwrap_or_else(|| definition.user.clone()),
        privileged: request.privileged,
        streams,
    };
    handle.enter(enter).map_err(|error| Answer::Failed {
        message: match std::error::Error::source(&error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        },
        not_found: match error {
            ExecError::NotExecutable { not_found, .. } => Some(not_found),
            _ => None,
        },
    })
}

/// Until the process ends. When whoever asked for it goes away, it is killed; signals for it come as frames.
fn wait_or_leave(entered: &Entered, stream: &UnixStream) -> io::Result<()> {
    let pidfd = entered.pidfd()?;
    loop {
        let mut polled = [
            PollFd::new(&pidfd, PollFlags::IN),
            PollFd::new(stream, PollFlags::IN | PollFlags::RDHUP),
        ];
        match rustix::event::poll(&mut polled, None) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result?,
        };
        let [ended, told] = polled.map(|fd| !fd.revents().is_empty());
        if ended {
            return Ok(());
        }
        if told {
            match frame::read(stream) {
                Ok(Some((Kind::Signal, number))) => {
                    let number = number.first().copied().unwrap_or_default();
                    if let Some(signal) = sandbox::signal(i32::from(number)) {
                        entered.signal(signal);
                    }
                }
                // Whoever asked for it has detached: it goes on by itself.
                Ok(Some((Kind::Detach, _))) => return Ok(()),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => {
                    entered.signal(Signal::KILL);
                    return Ok(());
                }
            }
        }
    }
}
