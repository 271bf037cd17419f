//! `rbuild exec`.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use rbuild_engine::containers::control::frame::{Frames, Kind};
use rbuild_engine::containers::control::{Answer, Ask, Connection};
use rbuild_engine::containers::{ExecRequest, Status};
use rustix::termios::Winsize;

use crate::commands::run::{environment, with_code};
use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::terminal::{self, DetachKeys, Event, Raw};

/// Run a further command in a container that runs
#[derive(Debug, clap::Args)]
pub(crate) struct ExecArgs {
    /// The container, then the command
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, value_names = ["CONTAINER", "COMMAND"])]
    command: Vec<String>,
    /// Connect standard input
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// Do not wait for it
    #[arg(short, long)]
    detach: bool,
    /// An environment variable; without a value it is taken from the environment
    #[arg(short, long, value_name = "K[=V]", allow_hyphen_values = true)]
    env: Vec<String>,
    /// A file of environment variables
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// The user, as `name`, `uid`, `name:group` or `uid:gid`
    #[arg(short, long, value_name = "USER", allow_hyphen_values = true)]
    user: Option<String>,
    /// The working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// All capabilities, no system call filter
    #[arg(long)]
    privileged: bool,
    /// The keys by which one leaves it (default: ctrl-p,ctrl-q)
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
}

pub(crate) fn execute(args: &ExecArgs, global: &GlobalArgs) -> Result<Exit> {
    run(args, global).map_err(|error| match error {
        Error::Run(..) => error,
        Error::Usage(_) => with_code(error),
        other => Error::Run(1, Box::new(other)),
    })
}

fn run(args: &ExecArgs, global: &GlobalArgs) -> Result<Exit> {
    let keys = DetachKeys::parse(args.detach_keys.as_deref())?;
    let env = environment::read(&args.env_file, &args.env)?;
    let (name, argv) = match args.command.split_first() {
        Some((name, argv)) => (name, argv.to_vec()),
        None => return Err(Error::usage("a container and a command are needed")),
    };
    if args.tty
        && args.interactive
        && !args.detach
        && !rustix::termios::isatty(rustix::stdio::stdin())
    {
        return Err(
            Error::failed("--tty with --interactive: standard input is not a terminal")
                .help("leave out -t, or -i"),
        );
    }
    let entry = super::catalog(global)?.find(name)?;
    if entry.state.status == Status::Paused {
        return Err(Error::failed(format!(
            "the container `{}` is paused: unpause it first",
            entry.name
        )));
    }
    let connection = entry.must_connect("run a command in")?;
    let request = ExecRequest {
        argv,
        env,
        user: args.user.clone().filter(|user| !user.is_empty()),
        workdir: args
            .workdir
            .as_ref()
            .filter(|text| !text.is_empty())
            .map(PathBuf::from),
        privileged: args.privileged,
        terminal: args.tty.then(terminal::size),
        detach: args.detach,
    };
    let ask = Ask::Exec(Box::new(request));
    let mut streams = Vec::new();
    if !args.tty {
        streams.extend(own_streams(args)?);
    }
    let borrowed: Vec<_> = streams.iter().map(AsFd::as_fd).collect();
    connection.ask(&ask, &borrowed)?;
    drop(borrowed);
    drop(streams);
    let master = match connection.answer()? {
        Some((Answer::Done, mut descriptors)) => descriptors.pop(),
        Some((Answer::Failed { message, not_found }, _)) => {
            let code = match not_found {
                Some(true) => 127,
                Some(false) => 126,
                None => 126,
            };
            return Err(Error::Run(code, Box::new(Error::failed(message))));
        }
        _ => return Err(Error::failed("the container ended meanwhile")),
    };
    if args.detach {
        return Ok(Exit::Success);
    }
    match master {
        Some(master) => in_terminal(connection, master, args.interactive, keys),
        None => ended(&connection),
    }
}

/// Standard input only where asked; of a detached command, nothing.
fn own_streams(args: &ExecArgs) -> Result<[OwnedFd; 3]> {
    let failed =
        |error: std::io::Error| Error::failed("cannot use the standard streams").because(error);
    let null = || {
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/null");
        file.map(OwnedFd::from).map_err(failed)
    };
    if args.detach {
        return Ok([null()?, null()?, null()?]);
    }
    let own = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().map_err(failed);
    Ok([
        if args.interactive {
            own(rustix::stdio::stdin())?
        } else {
            null()?
        },
        own(rustix::stdio::stdout())?,
        own(rustix::stdio::stderr())?,
    ])
}

fn ended(connection: &Connection) -> Result<Exit> {
    match connection.answer()? {
        Some((Answer::Ended(code), _)) => {
            Ok(Exit::from_code(u8::try_from(code).unwrap_or(u8::MAX)))
        }
        // It went down with its container.
        _ => Ok(Exit::Command(137)),
    }
}

/// Carries between this terminal and the command's.
fn in_terminal(
    connection: Connection,
    master: OwnedFd,
    interactive: bool,
    keys: DetachKeys,
) -> Result<Exit> {
    let raw = if interactive { Raw::enter()? } else { None };
    let master = Arc::new(master);
    let (sender, events): (Sender<Event>, Receiver<Event>) = std::sync::mpsc::channel();
    if interactive {
        let to = Arc::clone(&master);
        let input = move |bytes: &[u8]| write_all(&to, bytes);
        terminal::type_in(Box::new(input), Some(keys), sender.clone());
    }
    let sized = Arc::clone(&master);
    let resize = move |(rows, columns)| {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let _ = rustix::termios::tcsetwinsize(&*sized, size);
    };
    terminal::follow_signals(Some(Box::new(resize)), None)?;
    let shown = std::thread::spawn(move || {
        let mut buffer = vec![0; 16 << 10];
        loop {
            match rustix::io::read(&*master, &mut buffer) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(length) if length > 0 => {
                    terminal::show(false, buffer.get(..length).unwrap_or_default());
                }
                _ => return,
            }
        }
    });
    let leaving = connection.stream.try_clone();
    std::thread::spawn(move || {
        let code = match connection.answer() {
            Ok(Some((Answer::Ended(code), _))) => code,
            _ => 137,
        };
        let _ = sender.send(Event::Ended(code));
    });
    let exit = match events.recv().unwrap_or(Event::Lost) {
        Event::Ended(code) => {
            let _ = shown.join();
            Exit::from_code(u8::try_from(code).unwrap_or(u8::MAX))
        }
        Event::Left | Event::Lost => {
            if let Ok(stream) = leaving {
                drop(Frames::new(stream).write(Kind::Detach, &[]));
            }
            Exit::Success
        }
    };
    drop(raw);
    Ok(exit)
}

fn write_all(to: &OwnedFd, bytes: &[u8]) -> std::io::Result<()> {
    const END_OF_TRANSMISSION: u8 = 4;
    let mut rest = if bytes.is_empty() {
        &[END_OF_TRANSMISSION][..]
    } else {
        bytes
    };
    while !rest.is_empty() {
        match rustix::io::write(to, rest) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(length) => rest = rest.get(length..).unwrap_or_default(),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
