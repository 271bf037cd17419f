//! A container that lives in a process behind this one. This process forks before it is anything else; its child
//! sets itself up, and tells over a socket when the container runs. Whoever stays attached talks to it by frames.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rbuild_engine::containers::control::frame::{self, Frames, Kind};
use rbuild_engine::executor::background::{self, Side};

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::terminal::frames::Attach;
use crate::terminal::{DetachKeys, Event};
use crate::{render, stdio};

/// How this process is attached.
#[derive(Debug)]
pub(crate) struct Attachment {
    pub(crate) terminal: bool,
    pub(crate) interactive: bool,
    pub(crate) forward_signals: bool,
    pub(crate) keys: DetachKeys,
}

/// What became of it, as far as this process saw.
#[derive(Debug)]
pub(crate) enum Started {
    /// It runs; its ID.
    Running(String),
    /// It was left, and goes on.
    Left,
    Ended(Exit),
}

/// Runs `live` in a process behind this one.
pub(crate) fn start(
    attachment: Option<Attachment>,
    live: impl FnOnce(UnixStream) -> Result<Exit>,
) -> Result<Started> {
    let failed = |error: std::io::Error| {
        Error::failed("cannot start the container's process").because(error)
    };
    match background::split().map_err(failed)? {
        Side::Back(socket) => be_behind(socket, live),
        Side::Front(socket) => watch(UnixStream::from(socket), attachment),
    }
}

/// Never returns: this process ends with the container.
fn be_behind(socket: OwnedFd, live: impl FnOnce(UnixStream) -> Result<Exit>) -> ! {
    let stream = UnixStream::from(socket);
    let told = stream.try_clone();
    let exit = match live(stream) {
        Ok(exit) => exit,
        Err(error) => {
            let error = super::with_code(error);
            stdio::err(render::failure(&error, stdio::err_is_coloured()));
            error.exit()
        }
    };
    // Whoever waits hears how it ended, also where it never began.
    if let Ok(told) = told {
        let code = i32::from(exit.code());
        drop(Frames::new(told).write(Kind::Ended, &code.to_le_bytes()));
    }
    std::process::exit(exit.code().into())
}

fn watch(stream: UnixStream, attachment: Option<Attachment>) -> Result<Started> {
    let lost = || Error::failed("the container's process ended before the container ran");
    loop {
        let read = frame::read(&stream)
            .map_err(|error| Error::failed("cannot hear from the container").because(error))?;
        match read {
            Some((Kind::Running, id)) => {
                let id = String::from_utf8_lossy(&id).into_owned();
                let Some(attachment) = attachment else {
                    return Ok(Started::Running(id));
                };
                return attach(stream, attachment);
            }
            Some((Kind::Ended, code)) => return Ok(Started::Ended(exit_of(&code))),
            Some((Kind::Stdout, bytes)) => crate::terminal::show(false, &bytes),
            Some((Kind::Stderr, bytes)) => crate::terminal::show(true, &bytes),
            Some(_) => {}
            None => return Err(lost()),
        }
    }
}

/// Stays attached until the container ends or is left.
pub(crate) fn attach(stream: UnixStream, attachment: Attachment) -> Result<Started> {
    let Attachment {
        terminal,
        interactive,
        forward_signals,
        keys,
    } = attachment;
    let attach = Attach {
        stream,
        terminal,
        interactive,
        forward_signals,
        keys,
    };
    Ok(match attach.follow()? {
        Event::Ended(code) => Started::Ended(exit_of(&code.to_le_bytes())),
        Event::Left => Started::Left,
        Event::Lost => Started::Ended(Exit::Command(super::FAILED)),
    })
}

fn exit_of(code: &[u8]) -> Exit {
    let code = <[u8; 4]>::try_from(code).map_or(i32::from(super::FAILED), i32::from_le_bytes);
    Exit::from_code(u8::try_from(code).unwrap_or(super::FAILED))
}
