//! Why each step of a build ran: which ingredient of its key differs from the nearest earlier record of that step.
//!
//! During a build a [`notebook`] collects what the steps are made of. After it, [`report`] compares each step that
//! ran with the same build's last time (a note in the store, which survives collection) and with the store's
//! records; [`nearest`] chooses among those, [`paths`] names the files. The result is an [`Explanation`], kept for
//! `rbuild why`. Nothing here changes what is built.

mod memory;
mod nearest;
pub(crate) mod notebook;
pub(crate) mod paths;
pub(crate) mod report;
#[cfg(test)]
mod tests;

use rbuild_cache::notes::Note;
use rbuild_cache::{Key, Store};
use serde::{Deserialize, Serialize};

pub use memory::build_key;

use crate::{Engine, Result};

/// Why the steps of one build ran or did not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The Dockerfile's path, or its name where it came by other ways.
    pub dockerfile: String,
    /// In the order of the build; base images and contexts are not steps of their own here.
    pub steps: Vec<ExplainedStep>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedStep {
    /// As in [`crate::StepId`].
    pub step: u32,
    /// `[build 2/4] RUN make`
    pub name: String,
    /// The first and the last line in the Dockerfile.
    pub line: usize,
    pub end_line: usize,
    pub outcome: StepOutcome,
    /// Empty where it did not run.
    pub reasons: Vec<Reason>,
    /// How long it took when it ran: this time, or when its result was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// What the step uses and its key does not hold: changes of it run nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_in_key: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepOutcome {
    Cached,
    Ran,
    Failed,
    NotReached,
}

/// One reason why a step ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum Reason {
    /// No earlier build of this Dockerfile is known.
    FirstBuild,
    /// Earlier builds of this Dockerfile had no such instruction.
    NewInstruction,
    /// `--no-cache`, or a filter that names it.
    NoCache,
    /// Everything is as it was; its result is no longer in the store.
    Pruned,
    /// An ingredient of the key: `argv[2]`, `env.PATH`, `mount[/c].sharing`.
    Changed {
        what: String,
        before: Option<String>,
        after: Option<String>,
    },
    /// A file of a context (`""` is the main one).
    File {
        context: String,
        path: String,
        change: FileChange,
        /// Of a changed one: `content`, `mode`, `owner`, `type`, `target`, `xattrs`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        what: Vec<String>,
    },
    /// Files beyond those that are named.
    MoreFiles { context: String, count: usize },
    /// What is copied of a context differs; which files it were is not known any more.
    Files { context: String },
    /// The image that it stands on or copies from, as `NAME@DIGEST`.
    BaseImage {
        before: Option<String>,
        after: String,
    },
    /// What a URL or a repository gave.
    Source { url: String },
    /// The result of an earlier step, which says itself why it ran.
    Step {
        step: u32,
        name: String,
        line: usize,
    },
    /// It stands on another step than before.
    Order { before: String, after: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileChange {
    Added,
    Removed,
    Changed,
}

impl Explanation {
    /// The reasons at the bottom of why a step ran, with the step that each is of.
    pub fn roots<'a>(&'a self, step: &'a ExplainedStep) -> Vec<(&'a ExplainedStep, &'a Reason)> {
        let mut roots = Vec::new();
        let mut seen = vec![step.step];
        let mut waiting = vec![step];
        while let Some(step) = waiting.pop() {
            for reason in &step.reasons {
                let above = match reason {
                    Reason::Step { step: above, .. } => {
                        self.steps.iter().find(|step| step.step == *above)
                    }
                    _ => None,
                };
                match above {
                    Some(above) if !above.reasons.is_empty() => {
                        if !seen.contains(&above.step) {
                            seen.push(above.step);
                            waiting.push(above);
                        }
                    }
                    _ => roots.push((step, reason)),
                }
            }
        }
        roots
    }
}

impl Engine {
    /// What is known of the last build with this key ([`build_key`]).
    pub fn explanation(&self, build: Key) -> Result<Option<Explanation>> {
        Ok(memory::read(self.store(), build).map(|memory| memory.explanation))
    }

    /// Of the build that ended last.
    pub fn last_explanation(&self) -> Result<Option<Explanation>> {
        Ok(last(self.store())?
            .and_then(|key| memory::read(self.store(), key))
            .map(|memory| memory.explanation))
    }
}

fn last(store: &Store) -> Result<Option<Key>> {
    Ok(store.notes(Note::Build)?.first().map(|(key, _)| *key))
}
