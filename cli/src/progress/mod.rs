//! Draws the engine's event stream: one renderer a way of showing it. All of them write to standard error, and to a
//! closed one without complaint.

mod lines;
mod plain;
mod rawjson;
mod trace;
mod transfer;
mod tty;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rbuild_engine::explain::Explanation;
use rbuild_engine::{Event, Sink};

pub(crate) use transfer::Transfer;

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Redrawn in place.
    Tty,
    /// Line by line, as BuildKit's plain progress.
    Plain,
    /// Not at all; the result's ID goes to standard output.
    Quiet,
    /// One JSON event a line.
    RawJson,
}

/// One way of drawing events.
trait Draw: Send {
    fn event(&mut self, event: Event);
    /// What happened at once.
    fn events(&mut self, events: Vec<Event>) {
        for event in events {
            self.event(event);
        }
    }
    /// Why the steps ran; called once the last event was heard, where that was asked for.
    fn explained(&mut self, explanation: &Explanation) {
        let _ = explanation;
    }
    /// Called once, after the last event.
    fn finish(&mut self, success: bool);
}

/// The sink that a command hands to the engine.
pub(crate) struct Renderer {
    started: Instant,
    draw: Mutex<Box<dyn Draw>>,
    /// `--trace`.
    trace: Option<Mutex<trace::Trace>>,
}

impl Renderer {
    pub(crate) fn new(mode: Mode) -> Self {
        let draw: Box<dyn Draw> = match mode {
            Mode::Tty => Box::new(tty::Tty::new()),
            Mode::Plain => Box::new(plain::Plain::new(|bytes| crate::stdio::err(bytes))),
            Mode::Quiet => Box::new(Quiet),
            Mode::RawJson => Box::new(rawjson::RawJson::new(|bytes| crate::stdio::err(bytes))),
        };
        Self {
            started: Instant::now(),
            draw: Mutex::new(draw),
            trace: None,
        }
    }

    /// Has it note when each step ran, too.
    pub(crate) fn tracing(mut self) -> Self {
        self.trace = Some(Mutex::new(trace::Trace::new(self.started)));
        self
    }

    /// What was noted, as a file of Chrome's trace events.
    pub(crate) fn trace(&self) -> Option<Vec<u8>> {
        let trace = self.trace.as_ref()?;
        let mut trace = trace.lock().unwrap_or_else(PoisonError::into_inner);
        Some(trace.document())
    }

    pub(crate) fn explained(&self, explanation: &Explanation) {
        self.draw
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .explained(explanation);
    }

    /// Draws what is left; later events are of no interest.
    pub(crate) fn finish(&self, success: bool) {
        self.draw
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .finish(success);
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

impl Sink for Renderer {
    fn event(&self, event: Event) {
        if let Some(trace) = &self.trace {
            let mut trace = trace.lock().unwrap_or_else(PoisonError::into_inner);
            trace.event(&event);
        }
        self.draw
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .event(event);
    }

    fn events(&self, events: Vec<Event>) {
        if let Some(trace) = &self.trace {
            let mut trace = trace.lock().unwrap_or_else(PoisonError::into_inner);
            for event in &events {
                trace.event(event);
            }
        }
        self.draw
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .events(events);
    }
}

struct Quiet;

impl Draw for Quiet {
    fn event(&mut self, _event: Event) {}

    fn finish(&mut self, _success: bool) {}
}
