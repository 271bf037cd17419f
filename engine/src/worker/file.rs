//! COPY, ADD, WORKDIR and heredocs: from an operation to the executor's actions.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rbuild_cache::{RootDir, Snapshot, SnapshotId, Store};
use rbuild_executor::file::{
    Action, Base, Copy, Input, Least, Made, Packing, Reader, Source, Unpacker,
};
use rbuild_image::layer::{self, Files, FilesReader, LayerOptions};
use rbuild_solver::VertexId;
use tokio_util::sync::CancellationToken;

use super::failure::{Failure, Result};
use super::{Output, Worker, blocking, content, now};
use crate::op::{FileAction, FileOp, Unpack};

/// ADD's archives.
struct Archives;

impl Unpacker for Archives {
    fn is_archive(&self, file: &mut File) -> std::io::Result<bool> {
        rbuild_image::unpack::is_archive(file)
    }

    fn unpack(
        &self,
        mut archive: File,
        root: &RootDir,
        destination: &Path,
        owner: Option<(u32, u32)>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(rbuild_image::unpack::archive(
            &mut archive,
            root,
            destination,
            owner,
        )?)
    }
}

/// The files of an operation whose layer is being written.
struct Copied<'a> {
    packing: &'a Packing,
    cancel: &'a CancellationToken,
    /// Why a file could not be read; what reads it knows only that.
    failure: Mutex<Option<rbuild_executor::file::Error>>,
}

impl Files for Copied<'_> {
    fn has(&self, place: usize) -> bool {
        self.packing.is_elsewhere(place)
    }

    fn reader(&self) -> Box<dyn FilesReader + '_> {
        Box::new(CopiedReader {
            files: self,
            reader: self.packing.reader(),
        })
    }
}

struct CopiedReader<'a> {
    files: &'a Copied<'a>,
    reader: Reader<'a>,
}

impl FilesReader for CopiedReader<'_> {
    fn read(
        &mut self,
        place: usize,
        to: &mut dyn FnMut(&[u8]) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let mut is_refused = false;
        // A file may be as long as many.
        let mut take = |piece: &[u8]| {
            let taken = if self.files.cancel.is_cancelled() {
                Err(std::io::Error::other("it was cancelled"))
            } else {
                to(piece)
            };
            taken.inspect_err(|_| is_refused = true)
        };
        let read = self.reader.read(place, &mut take);
        read.map_err(|error| {
            let message = error.to_string();
            // Whoever takes the bytes knows better why it does not (a full disk).
            if !is_refused {
                let failure = self.files.failure.lock();
                let mut failure = failure.unwrap_or_else(PoisonError::into_inner);
                failure.get_or_insert(error);
            }
            std::io::Error::other(message)
        })
    }
}

/// Writes files straight into their layer, and makes a snapshot of it. Blocking.
fn pack(
    store: &Store,
    packing: Packing,
    options: &LayerOptions,
    cancel: &CancellationToken,
) -> Result<Snapshot> {
    let files = Copied {
        packing: &packing,
        cancel,
        failure: Mutex::default(),
    };
    let written = layer::pack(store, packing.tree(), packing.directory(), &files, options);
    let failure = files.failure.into_inner();
    let blob = match (written, failure.unwrap_or_else(PoisonError::into_inner)) {
        (Ok(blob), _) => blob,
        (Err(_), _) if cancel.is_cancelled() => return Err(Failure::cancelled()),
        (Err(_), Some(failure)) => return Err(Failure::of("file-operation", failure)),
        (Err(error), None) => return Err(error.into()),
    };
    let committed = packing.commit(&options.variant(), &blob);
    committed.map_err(|error| Failure::of("file-operation", error))
}

impl Worker {
    pub(super) async fn file(
        &self,
        vertex: VertexId,
        file: &FileOp,
        inputs: Vec<Output>,
        cancel: CancellationToken,
    ) -> Result<Output> {
        let base = if file.base {
            inputs.first().and_then(Output::snapshot).cloned()
        } else {
            None
        };
        let executor = Arc::clone(&self.executor);
        let file = file.clone();
        let packs = self.packs.as_ref().and_then(|packs| packs.of(vertex));
        let info = self.vertices.get(&vertex);
        let step = info.map(|info| info.record_step.clone());
        let snapshot = blocking(move || {
            let (actions, sources) = actions(&executor, &file, &inputs)?;
            let failed = |error| failed(error, base.is_some());
            let unpacker = &Archives;
            let like = step.filter(|_| actions.iter().any(has_many_files));
            let like = like.and_then(|step| last_result(executor.store(), &step));
            let on = Base {
                id: base.as_ref(),
                created: now(),
                like: like.as_ref(),
            };
            let Some(options) = packs else {
                let made = executor.file(on, &actions, &sources, unpacker);
                return made.map_err(failed);
            };
            let actions = Arc::from(actions);
            let least = Least::default();
            let made = executor.file_to_pack(on, &actions, &sources, unpacker, least);
            match made.map_err(failed)? {
                Made::Snapshot(snapshot) => Ok(snapshot),
                Made::Packing(packing) => pack(executor.store(), *packing, &options, &cancel),
            }
        });
        Ok(Output::Snapshot(Some(snapshot.await?)))
    }
}

/// Of fewer it is not worth a look whether they are there already.
const MANY_FILES: usize = 32;

fn has_many_files(action: &Action) -> bool {
    let many = |source: &Source| source.entries.len() >= MANY_FILES;
    matches!(action, Action::Copy(copy) if copy.sources.iter().any(many))
}

/// What the step came to when it was done last: most of its files are the same now.
fn last_result(store: &Store, step: &str) -> Option<SnapshotId> {
    let records = store.records_of_step(step, 1);
    // It saves work where it is there, and no more.
    records.ok()?.into_iter().next()?.snapshot
}

/// What the executor is to do, and with which inputs.
fn actions(
    executor: &rbuild_executor::Executor,
    file: &FileOp,
    inputs: &[Output],
) -> Result<(Vec<Action>, Vec<Input>)> {
    let mut sources = Vec::new();
    let mut actions = Vec::new();
    for action in &file.actions {
        actions.push(match action {
            FileAction::Mkdir { path, mode, owner } => Action::Mkdir {
                path: PathBuf::from(path),
                mode: *mode,
                owner: owner.clone(),
                mtime: file.epoch,
            },
            FileAction::Mkfile {
                destination,
                name,
                data,
                owner,
                mode,
            } => Action::Mkfile {
                destination: PathBuf::from(destination),
                name: name.clone(),
                data: data.as_slice().into(),
                owner: owner.clone(),
                mode: mode.clone(),
                mtime: file.epoch,
            },
            FileAction::Copy(copy) => {
                let missing = || Failure::new("internal", "an input of COPY is missing");
                let input = inputs.get(copy.input).ok_or_else(missing)?;
                let selection = content::copied(executor.store(), copy, input)?;
                sources.push(source(executor, input)?);
                Action::Copy(Copy {
                    input: sources.len() - 1,
                    sources: selection.sources,
                    destination: PathBuf::from(&copy.destination),
                    destination_is_directory: copy.destination_is_directory,
                    owner: copy.owner.clone(),
                    mode: copy.mode.clone(),
                    mtime: None,
                    unpack: copy.unpack == Some(Unpack::Archives),
                })
            }
        });
    }
    Ok((actions, sources))
}

/// An output as something to copy from.
fn source(executor: &rbuild_executor::Executor, input: &Output) -> Result<Input> {
    match input {
        Output::Context(view) => Ok(view.context.input(Arc::clone(&view.tree))),
        Output::Snapshot(_) | Output::There(_) => Ok(Input {
            root: Arc::new(
                executor
                    .view(input.snapshot())
                    .map_err(|error| Failure::of("mount", error))?,
            ),
            tree: content::tree(executor.store(), input)?,
            mutable: false,
        }),
    }
}

fn failed(error: rbuild_executor::file::Error, has_base: bool) -> Failure {
    use rbuild_executor::file::Error;
    let help = match &error {
        Error::User(_) if !has_base => Some(
            "this instruction makes its files on an empty root (`FROM scratch`, or --link), where no names are known: write numbers, as in `--chown=1000:1000`",
        ),
        Error::User(_) => {
            Some("create it in a step before, or write a number, which needs no entry")
        }
        _ => None,
    };
    let failure = Failure::of("file-operation", error);
    match help {
        Some(help) => failure.help(help),
        None => failure,
    }
}
