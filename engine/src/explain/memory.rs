//! What the store remembers of the last build of a Dockerfile: its explanation, and what its steps were made of.

use rbuild_cache::notes::Note;
use rbuild_cache::{Ingredient, Key, KeyWriter, Store};
use serde::{Deserialize, Serialize};

use super::Explanation;
use crate::request::{ContextLocation, DockerfileLocation, Remote};

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Memory {
    pub(super) version: u32,
    pub(super) explanation: Explanation,
    pub(super) steps: Vec<Remembered>,
}

/// A step as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Remembered {
    /// `platform/stage/KEYWORD/n`
    pub(super) place: String,
    /// Its definition key.
    pub(super) definition: String,
    pub(super) ingredients: Vec<Ingredient>,
}

const VERSION: u32 = 1;
/// Of steps that later builds do not have any more.
const STEPS_MAX: usize = 2000;

/// What makes two builds "the same, later": Dockerfile and context, wherever one stands when naming them.
pub fn build_key(context: &ContextLocation, dockerfile: &DockerfileLocation) -> Key {
    let path = |path: &std::path::Path| {
        std::fs::canonicalize(path)
            .unwrap_or_else(|_| path.to_owned())
            .into_os_string()
            .into_encoded_bytes()
    };
    let mut key = KeyWriter::new("explained-build.v1");
    match context {
        ContextLocation::Directory(directory) => key.add("context", path(directory)),
        ContextLocation::Empty => key.add("no context", ""),
        ContextLocation::Archive(archive) => key.add("archive", &archive.name),
        ContextLocation::Remote(Remote::Http(url)) => key.add("url", url),
        ContextLocation::Remote(Remote::Git(git)) => {
            key.add("repository", &git.url);
            key.add("reference", &git.reference);
            key.add("subdirectory", &git.subdirectory);
        }
    }
    match dockerfile {
        DockerfileLocation::Path(file) => key.add("dockerfile", path(file)),
        DockerfileLocation::Text { name, .. } => key.add("dockerfile text", name),
        DockerfileLocation::InContext(file) => {
            let file = file.as_deref().unwrap_or(std::path::Path::new(""));
            key.add("dockerfile in context", file.as_os_str().as_encoded_bytes());
        }
    }
    key.finish()
}

/// What the store has of the last build: the document, and before it, on a line of its own, the key of what was found,
/// if all was. A build that finds the same needs no more than that line.
pub(super) struct Last(Vec<u8>);

impl Last {
    pub(super) fn of(store: &Store, build: Key) -> Option<Self> {
        store.note(Note::Build, build).ok()?.map(Self)
    }

    pub(super) fn found(&self) -> Option<&[u8]> {
        self.split().0
    }

    /// What is damaged or of another version is as good as nothing.
    pub(super) fn memory(&self) -> Option<Memory> {
        let memory: Memory = serde_json::from_slice(self.split().1).ok()?;
        (memory.version == VERSION).then_some(memory)
    }

    fn split(&self) -> (Option<&[u8]>, &[u8]) {
        let end = self.0.iter().position(|byte| *byte == b'\n');
        match end.and_then(|end| self.0.split_at_checked(end)) {
            Some((line, rest)) => (Some(line), &rest[1..]),
            None => (None, &self.0),
        }
    }
}

pub(super) fn read(store: &Store, build: Key) -> Option<Memory> {
    Last::of(store, build)?.memory()
}

/// A build that changed nothing writes nothing; it is only the last one now.
pub(super) fn touch(store: &Store, build: Key) {
    if let Err(error) = store.touch_note(Note::Build, build) {
        tracing::debug!(%error, "the last build could not be marked");
    }
}

/// Steps of `before` that this build did not have are kept: another target may need them next time. `found` is the
/// key of what was found, if all was.
pub(super) fn write(
    store: &Store,
    build: Key,
    mut memory: Memory,
    before: Option<Memory>,
    found: Option<Key>,
) {
    memory.version = VERSION;
    for step in before.into_iter().flat_map(|before| before.steps) {
        let known = memory.steps.iter().any(|known| known.place == step.place);
        if !known && memory.steps.len() < STEPS_MAX {
            memory.steps.push(step);
        }
    }
    let mut bytes = found.map_or_else(Vec::new, |found| format!("{found}\n").into_bytes());
    let written = serde_json::to_writer(&mut bytes, &memory)
        .map_err(|error| error.to_string())
        .and_then(|()| {
            store
                .put_note(Note::Build, build, &bytes)
                .and_then(|()| store.trim_notes(Note::Build))
                .and_then(|()| store.trim_notes(Note::Paths))
                .map_err(|error| error.to_string())
        });
    if let Err(error) = written {
        tracing::debug!(error, "why steps ran could not be written down");
    }
}
