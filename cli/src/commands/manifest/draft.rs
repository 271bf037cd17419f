//! Drafts of indexes: what `manifest create` and `annotate` put together until `manifest push`. One file each, below
//! the user's state directory.

use std::io::Write;
use std::path::PathBuf;

use rbuild_engine::cache::whole::WholeFile;
use rbuild_engine::image::Reference;
use rbuild_engine::images::Member;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::global;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Draft {
    pub(super) members: Vec<Member>,
    #[serde(default)]
    pub(super) annotations: Vec<(String, String)>,
}

fn path(name: &Reference) -> Result<PathBuf> {
    // As Docker names them: without `/` and `:`.
    let file = name.canonical().replace('/', "_").replace(':', "-");
    let directory = global::state_directory()?.join("manifests");
    Ok(directory.join(format!("{file}.json")))
}

impl Draft {
    /// `None` where there is none.
    pub(super) fn read(name: &Reference) -> Result<Option<Self>> {
        let path = path(name)?;
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read", &path, error)),
        };
        let draft = serde_json::from_slice(&bytes).map_err(|error| {
            Error::failed(format!("`{}` is no draft of an index", path.display()))
                .because(error)
                .help(format!(
                    "`rbuild manifest rm {}` removes it",
                    name.familiar()
                ))
        })?;
        Ok(Some(draft))
    }

    pub(super) fn write(&self, name: &Reference) -> Result<()> {
        let path = path(name)?;
        let failed = |error: std::io::Error| Error::io("write", &path, error);
        let directory = path.parent().unwrap_or(&path);
        std::fs::create_dir_all(directory).map_err(failed)?;
        let bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::failed("the draft cannot be written").because(error))?;
        let mut file = WholeFile::at(&path, 0o600).map_err(failed)?;
        file.write_all(&bytes).map_err(failed)?;
        file.finish().map_err(failed)
    }

    /// False where there is none.
    pub(super) fn remove(name: &Reference) -> Result<bool> {
        let path = path(name)?;
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io("remove", &path, error)),
        }
    }
}
