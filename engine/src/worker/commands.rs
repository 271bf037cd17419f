//! What is made before the first command asks for it, and for how many.

use std::collections::HashSet;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rbuild_solver::VertexId;

use super::Worker;
use crate::lower::Lowered;
use crate::op::{NetworkOp, Op};

/// The commands that a build may have to run.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    /// Those that were not begun.
    left: AtomicUsize,
    /// Some of them are to have private networks.
    networks: bool,
    /// One that is run whatever the cache holds.
    certain: Option<VertexId>,
    /// Those, and what they work on: where one of these is not in the cache, a command most likely runs.
    before: HashSet<VertexId>,
    expected: OnceLock<()>,
}

impl Commands {
    pub(crate) fn of(lowered: &Lowered) -> Self {
        let mut commands = Self::default();
        // Backwards: users of a vertex come after it, and are to be looked at first.
        for vertex in lowered.needed().into_iter().rev() {
            if let Op::Exec(exec) = lowered.graph.operation(vertex) {
                *commands.left.get_mut() += 1;
                commands.networks |= exec.network == NetworkOp::Default;
                if exec.refresh {
                    commands.certain = Some(vertex);
                }
                commands.before.insert(vertex);
            }
            if commands.before.contains(&vertex) {
                commands.before.extend(lowered.graph.inputs(vertex));
            }
        }
        commands
    }

    /// Told of each command that begins: whether more may.
    pub(super) fn another_follows(&self) -> bool {
        let less = |left: usize| Some(left.saturating_sub(1));
        let before = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        before.is_ok_and(|left| left > 1)
    }
}

impl Worker {
    /// Begins to make what the first command needs, if one is certain to run.
    pub(crate) fn begin_commands(&self) {
        if let Some(vertex) = self.commands.certain {
            self.expect_commands(vertex);
        }
    }

    /// Begins to make what the first command needs where the result of a vertex is not there, once.
    pub(super) fn expect_commands(&self, vertex: VertexId) {
        let commands = &self.commands;
        if !commands.before.contains(&vertex) {
            return;
        }
        commands.expected.get_or_init(|| {
            let (host, users) = (self.executor.host().clone(), self.settings.users);
            if commands.networks {
                self.networks.begin(&host, users);
            } else {
                tokio::task::spawn_blocking(move || host.begin_sandbox(users));
            }
        });
    }
}
