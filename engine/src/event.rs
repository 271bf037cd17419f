//! What happens during a build, as a stream. Renderers (terminal, plain, raw JSON, trace) read it; nothing else
//! prints.

use std::sync::Arc;
use std::time::Duration;

use rbuild_image::source::Progress;
use serde::Serialize;

use crate::error::Located;

/// Hears events; called from many threads.
pub trait Sink: Send + Sync {
    fn event(&self, event: Event);

    /// What happened at once, one after the other.
    fn events(&self, events: Vec<Event>) {
        for event in events {
            self.event(event);
        }
    }
}

impl<F: Fn(Event) + Send + Sync> Sink for F {
    fn event(&self, event: Event) {
        self(event);
    }
}

/// A step's number in its build, in the order of the Dockerfile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct StepId(pub u32);

/// One thing that happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// All steps of the build, known before anything runs.
    Plan {
        steps: Vec<Step>,
    },
    Started {
        step: StepId,
    },
    Cached {
        step: StepId,
    },
    /// Output of a command, in pieces as it comes.
    Log {
        step: StepId,
        stderr: bool,
        bytes: Vec<u8>,
    },
    /// Bytes moved or made for a step (a pull, an export).
    Progress {
        step: StepId,
        what: String,
        done: u64,
        total: u64,
    },
    Done {
        step: StepId,
        took: Duration,
    },
    Failed {
        step: StepId,
        message: String,
    },
    Cancelled {
        step: StepId,
    },
    /// Something the user should know, with a place in the Dockerfile where there is one.
    Warning {
        located: Option<Located>,
        message: String,
    },
}

/// A step, as it is announced.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    pub id: StepId,
    /// `[build 2/4] RUN make`, as BuildKit names vertices; `[internal] load …`, `exporting to …` for our own.
    pub name: String,
    /// Line in the Dockerfile, where there is one.
    pub line: Option<usize>,
}

/// What tells of the bytes that a step moves.
pub(crate) fn progress(step: Option<StepId>, events: &Arc<dyn Sink>) -> Progress {
    let events = Arc::clone(events);
    Arc::new(move |what: &str, done, total| {
        if let Some(step) = step {
            events.event(Event::Progress {
                step,
                what: what.to_owned(),
                done,
                total,
            });
        }
    })
}
