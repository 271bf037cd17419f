//! The process and its surroundings: namespaces first, then the store, then threads; and what signals do.

use std::future::Future;
use std::sync::Arc;

use rbuild_engine::containers::{Catalog, RunRequest};
use rbuild_engine::executor::host::{self, Entry, Host};
use rbuild_engine::executor::spec::Propagation;
use rbuild_engine::{Engine, Options};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::{human, stdio};

/// What signals do while a command runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signals {
    /// The first one cancels, the second one ends the process at once.
    Cancel,
    /// They belong to the container.
    Forwarded,
}

/// Enters the private namespaces and opens the store.
pub(crate) fn engine(options: Options) -> Result<Engine> {
    open(enter()?, options)
}

/// Enters the private namespaces. No thread may exist before; so this comes first in every command that needs the
/// machine.
pub(crate) fn enter() -> Result<Host> {
    enter_as(Entry::default())
}

/// As [`enter`], for a container: one that shares the network or other namespaces of another one must be in the same
/// user namespace. `propagation`: of its mounts.
pub(crate) fn enter_for(
    catalog: &Catalog,
    request: &RunRequest,
    propagation: Option<Propagation>,
) -> Result<Host> {
    enter_as(Entry {
        beside: catalog.user_namespace_for(request)?,
        inside_of: catalog.inside_for(request)?,
        propagation,
    })
}

fn enter_as(entry: Entry) -> Result<Host> {
    host::init_for(entry).map_err(|error| {
        let advice = error.advice;
        let failed = Error::failed(error.to_string()).because(error.source);
        if advice.is_empty() {
            failed
        } else {
            failed.help(advice)
        }
    })
}

/// Opens the store.
pub(crate) fn open(host: Host, options: Options) -> Result<Engine> {
    // reqwest is built without a TLS provider of its own and panics where none is installed. An error says that
    // one is installed already.
    drop(rustls::crypto::ring::default_provider().install_default());
    Ok(Engine::open(host, options)?)
}

/// Waits for something that does not know of cancelling: dropping it is its cancellation.
pub(crate) async fn unless_cancelled<T>(
    cancel: &CancellationToken,
    work: impl Future<Output = rbuild_engine::Result<T>>,
) -> Result<T> {
    tokio::select! {
        result = work => Ok(result?),
        () = cancel.cancelled() => Err(rbuild_engine::Error::Cancelled.into()),
    }
}

/// What asynchronous work runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    /// This one alone: for a command that does one thing after the other.
    One,
    Several,
}

/// Runs an asynchronous command to its end.
pub(crate) fn block_on<T, F>(
    signals: Signals,
    command: impl FnOnce(CancellationToken) -> F,
) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    block_on_threads(Threads::Several, signals, command)
}

/// As [`block_on`].
pub(crate) fn block_on_threads<T, F>(
    threads: Threads,
    signals: Signals,
    command: impl FnOnce(CancellationToken) -> F,
) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut builder = match threads {
        Threads::One => tokio::runtime::Builder::new_current_thread(),
        Threads::Several => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            // This thread is one more.
            builder.worker_threads(rbuild_engine::processors().saturating_sub(1).clamp(1, 8));
            builder
        }
    };
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|error| Error::failed("cannot start the asynchronous runtime").because(error))?;
    let result = runtime.block_on(async {
        let cancel = CancellationToken::new();
        if signals == Signals::Cancel {
            watch(&cancel)?;
        }
        command(cancel).await
    });
    // What still runs on blocking threads works for nobody any more.
    runtime.shutdown_background();
    result
}

/// As [`block_on`], for commands that only cancel.
pub(crate) fn with_engine<T, F>(
    options: Options,
    command: impl FnOnce(Arc<Engine>, CancellationToken) -> F,
) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let engine = Arc::new(engine(options)?);
    let result = block_on(Signals::Cancel, |cancel| {
        command(Arc::clone(&engine), cancel)
    });
    keep_within_limits(&engine);
    result
}

/// Brings the store back to the configured limits where the command filled it. That this fails is told, and is no
/// failure of the command.
pub(crate) fn keep_within_limits(engine: &Engine) {
    let pruned = match engine.keep_within_limits() {
        Ok(Some(pruned)) => pruned,
        Ok(None) => return,
        Err(error) => {
            stdio::err(format!(
                "warning: the store was not brought back to its limit: {error}\n"
            ));
            return;
        }
    };
    if pruned.bytes > 0 {
        let size = human::size(pruned.bytes);
        stdio::err(format!(
            "note: the store reached its limit; removed {size} of what was worth least\n"
        ));
    }
    if let Some(left) = pruned.still_too_much {
        let size = human::size(left);
        stdio::err(format!(
            "warning: the store is over its limit: {size} are left, held by names of images, containers and running \
             builds\nhelp: `rbuild images` and `rbuild du -v` show what holds it\n"
        ));
    }
}

fn watch(cancel: &CancellationToken) -> Result<()> {
    for kind in [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ] {
        let mut stream = signal(kind)
            .map_err(|error| Error::failed("cannot listen to signals").because(error))?;
        let cancel = cancel.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                if cancel.is_cancelled() {
                    // The user insists. The kernel ends the sandboxes together with this process.
                    std::process::exit(Exit::Interrupted.code().into());
                }
                cancel.cancel();
            }
        });
    }
    Ok(())
}
