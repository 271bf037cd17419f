//! What a build notes while it runs, for statements about it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rbuild_cache::Digest;
use rbuild_image::source::Resolved;
use rbuild_parser::Source;
use rbuild_solver::{Graph, VertexId};

use crate::lower::StepInfo;
use crate::op::Op;

/// What something fetched turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pin {
    Commit(String),
    File(Digest),
}

/// Pins by what was fetched for. What a build took from its cache without asking is pinned by its operation.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    vertices: Mutex<HashMap<VertexId, Pin>>,
    contexts: Mutex<HashMap<String, Pin>>,
}

impl Pins {
    pub(crate) fn vertex(&self, vertex: VertexId, pin: Pin) {
        let mut pins = self.vertices.lock().unwrap_or_else(PoisonError::into_inner);
        pins.insert(vertex, pin);
    }

    /// The main context has the empty name.
    pub(crate) fn context(&self, name: &str, pin: Option<Pin>) {
        let mut pins = self.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pin) = pin {
            pins.insert(name.to_owned(), pin);
        }
    }

    pub(super) fn of_vertex(&self, vertex: VertexId) -> Option<Pin> {
        let pins = self.vertices.lock().unwrap_or_else(PoisonError::into_inner);
        pins.get(&vertex).cloned()
    }

    pub(super) fn of_context(&self, name: &str) -> Option<Pin> {
        let pins = self.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        pins.get(name).cloned()
    }
}

/// A build that is done.
#[derive(Debug)]
pub(crate) struct Capture {
    pub(crate) dockerfile: Arc<Source>,
    pub(crate) graph: Arc<Graph<Op>>,
    pub(crate) steps: Vec<StepInfo>,
    /// By manifest digest.
    pub(crate) images: HashMap<Digest, Arc<Resolved>>,
    pub(crate) pins: Arc<Pins>,
    /// Unix seconds.
    pub(crate) started: i64,
}

/// A number that no other build has.
pub(super) fn random_id() -> String {
    let mut bytes = [0; 16];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            // Older than any kernel that can run a build: the clock is better than nothing.
            Err(_) => {
                let time = jiff::Timestamp::now().as_nanosecond();
                return hex::encode(time.to_be_bytes());
            }
        }
    }
    hex::encode(bytes)
}
