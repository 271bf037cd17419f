//! What a build takes from elsewhere than a directory or a registry: files behind URLs ([`http`]) and repositories
//! ([`git`]). Both become snapshots in the store, and records say what they were fetched from: what did not change
//! is not moved again. Serves ADD and contexts alike; what is done with the snapshots is the callers' business.

pub(crate) mod git;
pub(crate) mod http;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use rbuild_cache::record::Record;
use rbuild_cache::{Ingredient, Key, Snapshot, Store};
use rbuild_executor::network::Reach;

use crate::worker::failure::Result;
use crate::worker::{blocking, now};

/// By what right something is fetched: the request's secrets and ssh agents. Never in keys and records.
#[derive(Debug, Clone, Default)]
pub(crate) struct Access {
    pub(crate) secrets: HashMap<String, Arc<[u8]>>,
    pub(crate) ssh: HashMap<String, PathBuf>,
    /// What may be reached; `None`: everything.
    pub(crate) reach: Option<Arc<Reach>>,
}

impl Access {
    /// The value of a secret, as one line.
    fn secret(&self, id: &str) -> Option<String> {
        let text = std::str::from_utf8(self.secrets.get(id)?).ok()?.trim();
        Some(text.to_owned()).filter(|text| !text.is_empty() && !text.contains(['\n', '\r']))
    }
}

/// What was fetched earlier under a key: the snapshot, and what was noted with it.
struct Remembered {
    snapshot: Snapshot,
    notes: Vec<Ingredient>,
}

impl Remembered {
    fn note(&self, name: &str) -> Option<String> {
        let note = self.notes.iter().find(|note| note.name == name)?;
        Some(note.value.clone())
    }
}

async fn recall(store: &Arc<Store>, key: Key) -> Result<Option<Remembered>> {
    let store = Arc::clone(store);
    blocking(move || {
        let Some(record) = store.lookup(key)? else {
            return Ok(None);
        };
        let Some(id) = record.snapshot else {
            return Ok(None);
        };
        Ok(store.snapshot(&id).ok().map(|snapshot| Remembered {
            snapshot,
            notes: record.ingredients,
        }))
    })
    .await
}

fn remember(
    store: &Store,
    key: Key,
    snapshot: &Snapshot,
    step: String,
    notes: Vec<Ingredient>,
) -> Result<()> {
    let record = Record {
        key,
        snapshot: Some(snapshot.id.clone()),
        extra: Vec::new(),
        step,
        ingredients: notes,
        created: now(),
        duration_ms: 0,
    };
    Ok(store.save(&[key], &record)?)
}

fn note(name: &str, value: impl Into<String>) -> Ingredient {
    Ingredient {
        name: name.to_owned(),
        value: value.into(),
    }
}
