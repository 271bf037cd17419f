//! What is known of a container in the process that it lives in, from moment to moment, and its networks while it runs.
//! `supervise` changes it from its start to its end; what others want of it meanwhile comes in through `serve`.

use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use rbuild_executor::network::{self, Membership, Port, Private};
use rbuild_executor::sandbox::container::Handle;
use rbuild_executor::wire;
use rustix::event::{PollFd, PollFlags};

use super::catalog::Catalog;
use super::control::Answer;
use super::definition::Definition;
use super::neighbours;
use super::neighbours::{Circle, Claimed};
use super::networks::Attachment;
use super::output::Hub;
use super::request::RunRequest;
use super::state::{Joined, State, Status};
use crate::{Error, Result};

/// What is known of the container from moment to moment, and shared with those who answer.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) catalog: Catalog,
    pub(super) store: Arc<rbuild_cache::Store>,
    pub(super) definition: Definition,
    pub(super) hub: Arc<Hub>,
    now: Mutex<Now>,
    changed: Condvar,
    /// Its addresses, once they were claimed.
    claimed: Mutex<Option<Vec<Claimed>>>,
    circle: Arc<Circle>,
    /// Held while it is made another container than it was: what it is then is worked out from what it is.
    changing: Mutex<()>,
}

#[derive(Debug, Default)]
pub(super) struct Now {
    pub(super) state: State,
    /// While it runs.
    pub(super) handle: Option<Handle>,
    /// The network that it was given, told of as soon as it runs.
    network: Option<Weak<Private>>,
    pub(super) ports: Vec<Port>,
    /// Connections of those who have the line of an interface, by its address; they end with it.
    neighbours: Vec<(Ipv4Addr, UnixStream)>,
    /// What is to become of it when it ends.
    pub(super) asked: Asked,
    /// Where it was changed since this process has it.
    pub(super) request: Option<RunRequest>,
    /// Counts its starts.
    pub(super) starts: u64,
    /// It will not run any more.
    pub(super) over: bool,
    /// Somebody is being answered.
    pub(super) answering: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Asked {
    #[default]
    Nothing,
    Stop,
    Restart,
}

impl Now {
    /// The network that it runs in, where that is its own.
    pub(super) fn private(&self) -> Option<Arc<Private>> {
        self.network.as_ref().and_then(Weak::upgrade)
    }

    /// What is true of a run only is so no more.
    pub(super) fn runs_no_more(&mut self) {
        self.handle = None;
        self.neighbours.clear();
        self.state.pid = 0;
        self.state.without_network();
    }
}

impl Life {
    /// Of a container that this process holds, and that does not run yet.
    pub(super) fn new(
        catalog: Catalog,
        store: Arc<rbuild_cache::Store>,
        definition: Definition,
        state: State,
        hub: Arc<Hub>,
    ) -> Self {
        Self {
            hub,
            now: Mutex::new(Now {
                state,
                ..Now::default()
            }),
            changed: Condvar::new(),
            claimed: Mutex::default(),
            circle: Circle::new(&catalog, &definition.request),
            changing: Mutex::default(),
            catalog,
            store,
            definition,
        }
    }

    pub(super) fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known, writes it down and wakes everybody who waits.
    pub(super) fn change(&self, change: impl FnOnce(&mut Now)) {
        let mut now = self.now();
        let before = now.state.clone();
        change(&mut now);
        // Of one that is removed as soon as it has ended, nobody reads how it ended.
        let goes = self.definition.request.remove && now.state.status == Status::Exited;
        if now.state != before
            && !goes
            && let Err(error) = self.catalog.write_state(&self.definition.id, &now.state)
        {
            tracing::error!(%error, "the container's state cannot be written");
        }
        drop(now);
        self.changed.notify_all();
    }

    /// The network that it will run in.
    pub(super) fn note_network(&self, private: Option<&Arc<Private>>, ports: Vec<Port>) {
        let mut now = self.now();
        now.network = private.map(Arc::downgrade);
        now.ports = ports;
        now.neighbours.clear();
    }

    fn claimed(&self) -> MutexGuard<'_, Option<Vec<Claimed>>> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its part in each of its networks; addresses are claimed when they are first needed. In the network that is always
    /// there it may be nobody, where no address is left. Blocking.
    pub(super) fn memberships(&self) -> Result<Vec<Membership>> {
        let mut claimed = self.claimed();
        if claimed.is_none() {
            let request = self.request();
            let mut all = Vec::new();
            for attachment in request.attachments() {
                match neighbours::claim(&self.catalog, &self.definition, &attachment)? {
                    Some(one) => all.push(one),
                    None if request.networks.is_empty() => {}
                    None => return Err(no_address(&attachment.network)),
                }
            }
            *claimed = Some(all);
        }
        let all = claimed.iter().flatten();
        Ok(all.map(|one| self.circle.membership(one)).collect())
    }

    /// Where it is in networks, while it runs in a private one.
    pub(super) fn joined(&self) -> Vec<Joined> {
        let claimed = self.claimed();
        let all = claimed.iter().flatten();
        all.map(|one| Joined {
            network: one.network.clone(),
            place: one.place,
        })
        .collect()
    }

    /// Brings it into a network while it runs. Blocking.
    pub(super) fn join(&self, attachment: &Attachment) -> Result<()> {
        let private = self.now().private();
        let private = private.ok_or_else(|| {
            Error::Other(
                "the container runs without a network of its own: stop it, connect it, and start it again"
                    .to_owned(),
            )
        })?;
        let one = neighbours::claim(&self.catalog, &self.definition, attachment)?
            .ok_or_else(|| no_address(&attachment.network))?;
        let joined = private.join(self.circle.membership(&one));
        if let Err(error) = joined {
            self.circle.leave(&one.network);
            return Err(cannot(&error, "connect the container"));
        }
        self.claimed().get_or_insert_default().push(one);
        self.change_joined();
        Ok(())
    }

    /// Takes it out of a network while it runs. Blocking.
    pub(super) fn leave(&self, network: &str) -> Result<()> {
        let private = self.now().private();
        let mut claimed = self.claimed();
        let mut all = claimed.iter_mut().flatten();
        let Some(one) = all.find(|one| one.network == network) else {
            return Ok(());
        };
        let address = one.place.address;
        if let Some(private) = private {
            let left = private.leave(address);
            left.map_err(|error| cannot(&error, "disconnect the container"))?;
        }
        self.circle.leave(network);
        claimed
            .iter_mut()
            .for_each(|all| all.retain(|one| one.network != network));
        drop(claimed);
        self.now().neighbours.retain(|(of, _)| *of != address);
        self.change_joined();
        Ok(())
    }

    fn change_joined(&self) {
        let joined = self.joined();
        self.change(|now| {
            now.state.private_network = !joined.is_empty();
            now.state.networks = joined;
        });
    }

    /// Hands out the line of its interface that has an address, on a connection that then ends with that.
    pub(super) fn give_line(&self, stream: UnixStream, address: Ipv4Addr) -> std::io::Result<()> {
        let mut now = self.now();
        let private = now.private();
        let line = private.and_then(|private| private.line(address));
        let Some(line) = line else {
            let answer = Answer::Failed {
                message: "the container has no such address".to_owned(),
                not_found: None,
            };
            return wire::send(stream.as_fd(), &answer, &[]);
        };
        wire::send(stream.as_fd(), &Answer::Done, &[line.as_fd()])?;
        now.neighbours.retain(|(_, stream)| is_open(stream));
        now.neighbours.push((address, stream));
        Ok(())
    }

    /// Waits until something holds; false where the time was up before. Blocking.
    pub(super) fn wait_until(
        &self,
        limit: Option<Duration>,
        mut holds: impl FnMut(&Now) -> bool,
    ) -> bool {
        // Longer than the clock can tell is for ever.
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let mut now = self.now();
        while !holds(&now) {
            now = match deadline {
                None => self
                    .changed
                    .wait(now)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return false;
                    }
                    let waited = self.changed.wait_timeout(now, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        true
    }

    /// What it was made by, and changed to since.
    pub(super) fn request(&self) -> RunRequest {
        let changed = self.now().request.clone();
        changed.unwrap_or_else(|| self.definition.request.clone())
    }

    /// To be held from reading [`Self::request`] until [`Self::is_now`].
    pub(super) fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down what it is from now on.
    pub(super) fn is_now(&self, request: RunRequest) -> Result<()> {
        let mut definition = self.definition.clone();
        definition.request.clone_from(&request);
        self.catalog.write_definition(&definition)?;
        self.change(|now| now.request = Some(request));
        Ok(())
    }

    pub(super) fn is_paused(&self) -> bool {
        self.now().state.status == Status::Paused
    }
}

fn no_address(network: &str) -> Error {
    Error::Other(format!(
        "all addresses of the network `{network}` are in use"
    ))
}

fn cannot(error: &network::Error, what: &str) -> Error {
    Error::Other(format!("cannot {what}: {error}: {}", error.source))
}

/// Whether somebody is still at the other end.
fn is_open(stream: &UnixStream) -> bool {
    let mut polled = [PollFd::new(stream, PollFlags::RDHUP)];
    let now = rustix::event::Timespec::default();
    matches!(rustix::event::poll(&mut polled, Some(&now)), Ok(0))
}
