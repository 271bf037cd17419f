//! `--allow-host`: commands are held to what they may reach, or nothing is built.

use std::collections::HashSet;
use std::sync::Arc;

use rbuild_executor::network::{Refused, Watch};
use rbuild_executor::spec::Output as Stream;

use super::log::Log;
use super::{Worker, blocking};
use crate::Error;
use crate::lower::Lowered;
use crate::op::{ExecOp, NetworkOp, Op};

/// Refused hosts in an error.
const MOST_SHOWN: usize = 8;

impl Worker {
    /// What holds a command to what it may reach; `log` hears what it is refused.
    pub(crate) fn watch(&self, op: &ExecOp, log: Option<&Arc<Log>>) -> Option<Arc<Watch>> {
        let reach = Arc::clone(self.settings.reach.as_ref()?);
        let log = log.map(Arc::clone);
        let tell = move |refused: &Refused| {
            if let Some(log) = &log {
                log.write(Stream::Stderr, told(refused).as_bytes());
            }
        };
        Some(Arc::new(Watch::new(
            reach,
            &op.hosts,
            self.settings.dns.clone(),
            tell,
        )))
    }

    /// Fails where commands cannot be held to what they may reach, before one of them runs.
    pub(crate) async fn must_hold(&self, lowered: &Lowered) -> crate::Result<()> {
        let needed = lowered.needed();
        let networks = needed
            .iter()
            .filter_map(|&vertex| match lowered.graph.operation(vertex) {
                Op::Exec(exec) => Some(exec.network),
                _ => None,
            });
        let networks: HashSet<NetworkOp> = networks.collect();
        let why = if networks.contains(&NetworkOp::Host) {
            "RUN steps are to have the machine's network".to_owned()
        } else if !networks.contains(&NetworkOp::Default) {
            return Ok(());
        } else if !self.executor.has_namespaces() {
            "RUN steps use the network of this container, because there are no namespaces"
                .to_owned()
        } else {
            let (users, networks) = (self.settings.users, Arc::clone(&self.networks));
            let host = self.executor.host().clone();
            // The first command takes it.
            match blocking(move || networks.take(&host, users).map(drop)).await {
                Ok(()) => return Ok(()),
                Err(error) => format!(
                    "a private network is not possible here: {error}: {}",
                    error.source
                ),
            }
        };
        Err(Error::Usage(format!(
            "--allow-host cannot be held: {why}; build without it, or with `--network none`, which gives them none"
        )))
    }
}

/// The line in the command's output.
fn told(refused: &Refused) -> String {
    format!("rbuild: {refused} was refused; `--allow-host {refused}` allows it\n")
}

/// What may be why a command failed.
pub(super) fn refused(watch: &Watch) -> Option<String> {
    let refused = watch.refused();
    let list = |before: &str, between: &str| {
        let shown = refused.iter().take(MOST_SHOWN);
        let shown: Vec<String> = shown.map(|it| format!("{before}{it}")).collect();
        shown.join(between)
    };
    let more = match refused.len().saturating_sub(MOST_SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!refused.is_empty()).then(|| {
        let (hosts, flags) = (list("", ", "), list("--allow-host ", " "));
        format!("it was refused {hosts}{more}, which no --allow-host has: `{flags}` allows that")
    })
}
