//! Sees a container through its life: starts it, waits for its end, starts it again as its policy says, and takes away
//! what is left.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rbuild_executor::Exit;
use rbuild_executor::network::Ahead;
use rbuild_executor::sandbox::container::{Handle, Top};
use rbuild_executor::sandbox::{ExecError, Signals};
use rbuild_executor::spec::{Carried, Stdin, Stdio};
use tokio_util::sync::CancellationToken;

use super::catalog::{Catalog, Entry};
use super::control::frame::{Frames, Kind};
use super::definition::Definition;
use super::life::{Asked, Life};
use super::log::{Driver, Log};
use super::output::Hub;
use super::request::{Restart, Shown};
use super::state::{State, Status};
use super::{files, health, prepare, serve, time, volumes};
use crate::error::with_causes;
use crate::worker::{blocking, brief};
use crate::{Created, Engine, Error, Result};

/// A container that ran so long may run for long.
const LONG_LIVED: Duration = Duration::from_secs(1);

/// How long a container's process waits, at its end, until those who asked have their answers.
pub(super) const ANSWERS: Duration = Duration::from_secs(2);

const FIRST_PAUSE: Duration = Duration::from_millis(100);

const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A container that ran so long has started well.
const LONG_ENOUGH: Duration = Duration::from_secs(10);

/// Who is at the container's streams.
#[derive(Debug)]
pub enum Front {
    /// This process, in the foreground: it ends with the container, and the container with it.
    Own { forward_signals: bool },
    /// The process that started this one. It is told when the container runs; where it is attached, the container
    /// ends with it unless it takes its leave.
    Other { stream: UnixStream, attached: bool },
}

impl Engine {
    /// Holds a container that is there, to start it. `None` where it runs already.
    pub fn hold(&self, entry: Entry) -> Result<Option<Created>> {
        let Some(held) = entry.hold()? else {
            return Ok(None);
        };
        let mut entry = entry;
        // What another process left.
        entry.state = match entry.catalog.entry(entry.id())? {
            Some(now) => now.state.orphaned(),
            None => return Err(Error::Other("the container was removed".to_owned())),
        };
        rbuild_executor::sandbox::container::remove_cgroups(&entry.state.cgroups);
        Ok(Some(Created { entry, held }))
    }

    /// Starts a container and sees it to its end. Where it could not be started, the error says why; it stays, as
    /// created, unless nothing was to be left of it. `network`: the private one, where making it was begun.
    pub async fn live(
        &self,
        created: Created,
        front: Front,
        network: Option<Ahead>,
        cancel: CancellationToken,
    ) -> Result<Exit> {
        let Created { entry, held } = created;
        let Entry {
            definition,
            state,
            catalog,
            ..
        } = entry;
        let streams = Streams::of(&definition, &front);
        let log = match streams {
            Streams::Own => None,
            _ if definition.request.log.driver == Driver::None => None,
            _ => Some(open_log(&catalog, &definition)?),
        };
        let hub = Arc::new(Hub::new(
            log,
            (streams == Streams::Both).then_some(definition.request.shown),
        ));
        let store = Arc::clone(self.store());
        let life = Life::new(catalog, store, definition, state, Arc::clone(&hub));
        let life = Arc::new(life);
        let _listening = serve::listen(&life)?;
        let (signals, front) = match front {
            Front::Own { forward_signals } => (forward_signals, None),
            Front::Other { stream, attached } => {
                let stream = Arc::new(Frames::new(stream));
                if attached {
                    hub.attach(Arc::clone(&stream));
                    serve::follow_front(&life, Arc::clone(&stream), cancel.clone());
                }
                (false, Some((stream, attached)))
            }
        };
        let front = (front, network);
        let result = self.lives(&life, streams, signals, front, &cancel).await;
        let ended = Arc::clone(&life);
        let engine = Arc::clone(&self.executor);
        brief(move || end(&engine, &ended, held)).await?;
        result
    }

    async fn lives(
        &self,
        life: &Arc<Life>,
        streams: Streams,
        forward_signals: bool,
        (mut front, mut network): (Option<(Arc<Frames>, bool)>, Option<Ahead>),
        cancel: &CancellationToken,
    ) -> Result<Exit> {
        let mut pause = FIRST_PAUSE;
        loop {
            let signals = if forward_signals {
                let listen = Signals::listen();
                Some(listen.map_err(|source| Error::Io {
                    message: "cannot listen to signals".to_owned(),
                    source,
                })?)
            } else {
                None
            };
            let began = Instant::now();
            let result = self
                .one_run(
                    life,
                    streams,
                    signals,
                    (front.take(), network.take()),
                    cancel,
                )
                .await;
            let exit = match result {
                Ok(exit) => exit,
                Err(error) => {
                    let code = code_of(&error);
                    let text = with_causes(&error);
                    life.change(|now| {
                        now.runs_no_more();
                        now.state.exit_code = code;
                        now.state.error = text;
                        if now.starts == 0 {
                            now.state.status = Status::Created;
                        } else {
                            now.state.status = Status::Exited;
                        }
                    });
                    return Err(error);
                }
            };
            let again = runs_again(life, exit) && !cancel.is_cancelled();
            if !again {
                return Ok(exit);
            }
            if began.elapsed() > LONG_ENOUGH {
                pause = FIRST_PAUSE;
            }
            let asked = life.now().asked == Asked::Restart;
            life.change(|now| {
                now.state.status = Status::Restarting;
                if asked {
                    now.asked = Asked::Nothing;
                } else {
                    now.state.restarts += 1;
                }
            });
            if !asked {
                let (waiting, limit) = (Arc::clone(life), pause);
                let stopped = blocking(move || {
                    waiting.wait_until(Some(limit), |now| now.asked != Asked::Nothing)
                })
                .await;
                if stopped && life.now().asked == Asked::Stop {
                    return Ok(exit);
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    /// From one start to its end.
    async fn one_run(
        &self,
        life: &Arc<Life>,
        streams: Streams,
        signals: Option<Signals>,
        (front, network): (Option<(Arc<Frames>, bool)>, Option<Ahead>),
        cancel: &CancellationToken,
    ) -> Result<Exit> {
        let counting = {
            let (life, executor) = (Arc::clone(life), Arc::clone(&self.executor));
            brief(move || Ok::<_, Error>(executor.counting(&life.request().limits)?))
        };
        let counting = counting.await?;
        // One that was begun belongs to rbuild's user namespace, and not to the container's.
        let network = network.filter(|_| !counting.is_counting());
        let network = prepare::begin_network(counting.host(), life, network).await?;
        let top = {
            let (life, executor) = (Arc::clone(life), Arc::clone(&self.executor));
            brief(move || {
                let lock = volumes::lock(&life.catalog, &life.definition)?;
                volumes::make_missing(&executor, &life.definition)?;
                drop(lock);
                top(&life)
            })
            .await?
        };
        let exec = {
            let life = Arc::clone(life);
            let bare = !self.executor.has_namespaces();
            brief(move || {
                let mut exec = prepare::exec(&life.catalog, &life.definition, network, bare)?;
                exec.limits = life.request().limits;
                Ok::<_, Error>(exec)
            })
            .await?
        };
        let started: Arc<Started> = Arc::default();
        let stdio = stdio(life, streams, front, &started);
        let base = life.definition.snapshot.as_deref();
        let base = base.and_then(rbuild_cache::SnapshotId::parse);
        let accounted = streams == Streams::Kept;
        let container = counting
            .start(base.as_ref(), exec, stdio, cancel, top, accounted)
            .await?;
        started.set(container.handle());
        if streams == Streams::Own {
            // Whether it could be executed is seen at its end: the foreground waits for nobody.
            begun(life, &started, None);
        }
        let finishing = container.finish(cancel, signals);
        tokio::pin!(finishing);
        let ended = tokio::select! {
            biased;
            ended = &mut finishing => ended,
            () = tokio::time::sleep(LONG_LIVED) => {
                tokio::join!(&mut finishing, self.hold_only(life)).0
            }
        };
        let draining = Arc::clone(life);
        brief(move || draining.hub.drain()).await;
        let exit = ended?;
        life.change(|now| {
            now.runs_no_more();
            now.state.status = Status::Exited;
            now.state.exit_code = exit_code(exit);
            now.state.out_of_memory = exit == Exit::OutOfMemory;
            now.state.finished = time::now();
            now.state.cgroups.clear();
        });
        Ok(exit)
    }
}

/// Whether it is to be started again after it ended.
fn runs_again(life: &Life, exit: Exit) -> bool {
    let now = life.now();
    let request = now.request.as_ref().unwrap_or(&life.definition.request);
    match (now.asked, request.restart) {
        (Asked::Stop, _) | (Asked::Nothing, Restart::No) => false,
        (Asked::Restart, _) | (Asked::Nothing, Restart::Always | Restart::UnlessStopped) => true,
        (Asked::Nothing, Restart::OnFailure(most)) => {
            exit != Exit::Code(0) && most.is_none_or(|most| now.state.restarts < most)
        }
    }
}

/// The command's streams. Where somebody carries them, `front` is told through them that the command has begun.
fn stdio(
    life: &Arc<Life>,
    streams: Streams,
    front: Option<(Arc<Frames>, bool)>,
    started: &Arc<Started>,
) -> Stdio {
    let request = &life.definition.request;
    if streams == Streams::Own {
        Stdio::Inherit {
            interactive: request.interactive,
        }
    } else {
        let hub = Arc::clone(&life.hub);
        let running = {
            let (life, started) = (Arc::clone(life), Arc::clone(started));
            move || begun(&life, &started, front.as_ref())
        };
        Stdio::Carried(Carried {
            terminal: request
                .terminal
                .then(rbuild_executor::sandbox::terminal_size),
            stdin: match (request.interactive, streams) {
                (false, _) => Stdin::Null,
                (true, Streams::Both) => Stdin::Inherit,
                (true, _) => Stdin::Pipe,
            },
            carry: Some(Box::new(move |ends| hub.carry(ends))),
            running: Some(Box::new(running)),
        })
    }
}

impl Engine {
    /// From here on the store keeps for this process what the container stands on, and nothing else that was used
    /// since the process began: it may go on for months.
    async fn hold_only(&self, life: &Arc<Life>) {
        let (life, store) = (Arc::clone(life), Arc::clone(self.store()));
        let held = blocking(move || {
            let definition = &life.definition;
            let snapshots = definition.snapshots();
            if definition.request.remove && !snapshots.is_empty() {
                // Until now they may have been spared by this process's lease alone.
                store.put_passing_container(&definition.id, &snapshots)?;
            }
            store.let_go()
        });
        if let Err(error) = held.await {
            tracing::debug!(%error, "the store goes on to keep what was used since this process began");
        }
    }
}

/// A container that is being started: told of from one side, awaited on the other.
#[derive(Debug, Default)]
struct Started {
    handle: Mutex<Option<Handle>>,
    there: Condvar,
}

impl Started {
    fn set(&self, handle: Handle) {
        *self.handle.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle);
        self.there.notify_all();
    }

    /// It is there a moment before or after the reports are read. Blocking.
    fn get(&self) -> Option<Handle> {
        const LONG_ENOUGH: Duration = Duration::from_secs(1);
        let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .there
            .wait_timeout_while(handle, LONG_ENOUGH, |handle| handle.is_none());
        let (handle, _) = waited.unwrap_or_else(PoisonError::into_inner);
        handle.clone()
    }
}

/// Where a container's streams go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Streams {
    /// They are this process's: nothing is between, and nothing is kept.
    Own,
    /// To this process's and to the log.
    Both,
    /// To the log and to whoever is attached.
    Kept,
}

impl Streams {
    fn of(definition: &Definition, front: &Front) -> Self {
        match front {
            Front::Own { .. }
                if definition.request.remove && definition.request.shown == Shown::default() =>
            {
                Self::Own
            }
            Front::Own { .. } => Self::Both,
            Front::Other { .. } => Self::Kept,
        }
    }
}

fn open_log(catalog: &Catalog, definition: &Definition) -> Result<Log> {
    let path = catalog
        .files
        .directory(&definition.id)?
        .join(super::log::FILE);
    Log::open(&path, definition.request.log.clone()).map_err(|source| Error::Io {
        message: format!("cannot open `{}`", path.display()),
        source,
    })
}

/// The container's own directories.
fn top(life: &Life) -> Result<Top> {
    let entry = Entry {
        name: String::new(),
        definition: life.definition.clone(),
        state: State::default(),
        catalog: life.catalog.clone(),
    };
    files::top(&entry)
}

/// The command runs: everybody is told.
fn begun(life: &Arc<Life>, started: &Started, front: Option<&(Arc<Frames>, bool)>) {
    let (of_container, joined) = (started.get(), life.joined());
    life.change(|now| {
        now.starts += 1;
        now.state.status = Status::Running;
        now.state.started = time::now();
        now.state.finished.clear();
        now.state.error.clear();
        now.state.exit_code = 0;
        now.state.out_of_memory = false;
        now.state.stopped_by_user = now.asked == Asked::Stop;
        if let Some(handle) = &of_container {
            now.state.pid = handle.pid();
            now.state.cgroups = handle.cgroups_to_remove();
        }
        let private = now.private();
        now.state.private_network = private.is_some();
        now.state.networks = private.map(|_| joined).unwrap_or_default();
        now.state.ports = now.ports.clone();
        now.state.health = life.definition.health().map(|_| super::state::Health {
            status: "starting".to_owned(),
            ..super::state::Health::default()
        });
        now.handle = of_container;
    });
    health::watch(life);
    if let Some((stream, attached)) = front {
        let told = stream.write(Kind::Running, life.definition.id.as_bytes());
        if !attached {
            drop(told);
            if let Err(error) = rbuild_executor::background::let_go() {
                tracing::warn!(%error, "the streams of whoever started this are kept");
            }
        }
    }
}

/// Nothing of it runs any more.
fn end(executor: &rbuild_executor::Executor, life: &Life, held: File) -> Result<()> {
    life.change(|now| now.over = true);
    let code = life.now().state.exit_code;
    life.hub.tell(Kind::Ended, &code.to_le_bytes());
    life.hub.close();
    life.wait_until(Some(ANSWERS), |now| now.answering == 0);
    let directory = life.catalog.files.directory(&life.definition.id)?;
    let _ = std::fs::remove_file(directory.join(super::control::SOCKET));
    if life.definition.request.remove {
        volumes::remove_anonymous(executor.store().root(), &life.definition)?;
        executor.remove_later(&executor.store().hide_container(&life.definition.id)?)?;
    }
    drop(held);
    Ok(())
}

/// As a shell tells it.
pub(super) fn exit_code(exit: Exit) -> i32 {
    match exit {
        Exit::Code(code) => i32::from(code),
        Exit::Signal(signal) => 128 + signal,
        Exit::OutOfMemory | Exit::TimedOut => 137,
    }
}

fn code_of(error: &Error) -> i32 {
    match error {
        Error::Exec(ExecError::NotExecutable {
            not_found: true, ..
        }) => 127,
        Error::Exec(ExecError::NotExecutable { .. }) => 126,
        Error::Exec(ExecError::Cancelled) | Error::Cancelled => 137,
        _ => 125,
    }
}
