//! COPY, ADD, WORKDIR and heredocs: from an operation to the executor's actions.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rbuild_cache::RootDir;
use rbuild_executor::file::{Action, Copy, Input, Unpacker};

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

impl Worker {
    pub(super) async fn file(&self, file: &FileOp, inputs: Vec<Output>) -> Result<Output> {
        let base = if file.base {
            inputs.first().and_then(Output::snapshot).cloned()
        } else {
            None
        };
        let executor = Arc::clone(&self.executor);
        let file = file.clone();
        let snapshot = blocking(move || {
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
                        sources.push(source(&executor, input)?);
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
            executor
                .file(base.as_ref(), &actions, &sources, &Archives, now())
                .map_err(|error| failed(error, base.is_some()))
        });
        Ok(Output::Snapshot(Some(snapshot.await?)))
    }
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
