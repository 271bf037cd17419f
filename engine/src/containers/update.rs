//! Changing what a container may use, and whether it is started again, while it is there.

use rbuild_executor::spec::Limits;
use serde::{Deserialize, Serialize};

use super::catalog::Entry;
use super::control::Ask;
use super::life::Life;
use super::request::{Restart, RunRequest};
use crate::error::with_causes;
use crate::{Error, Result};

/// What is to be changed; the rest stays.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Changes {
    /// Those that cgroups hold.
    pub limits: Limits,
    pub restart: Option<Restart>,
}

impl Changes {
    fn apply(&self, request: &mut RunRequest) -> Result<()> {
        let limits = request.limits.changed_by(&self.limits);
        if let Some(contradiction) = limits.contradiction() {
            return Err(Error::Usage(contradiction.to_owned()));
        }
        if request.remove && self.restart.is_some_and(|restart| restart != Restart::No) {
            return Err(Error::Usage(
                "--rm and --restart contradict each other: the container is removed when it ends"
                    .to_owned(),
            ));
        }
        request.limits = limits;
        if let Some(restart) = self.restart {
            request.restart = restart;
        }
        Ok(())
    }
}

impl Entry {
    /// Changes the container, at once where it runs. Errors: where the kernel does not take a limit, the definition
    /// stays; what it took before that one holds until the container ends.
    pub fn update(&self, changes: &Changes) -> Result<()> {
        // Held, so that nobody starts it from what it was.
        let held = self.hold()?;
        if held.is_none() {
            let connection = self.must_connect("update")?;
            connection.request(&Ask::Update(Box::new(changes.clone())))?;
            return Ok(());
        }
        let Some(now) = self.catalog.entry(self.id())? else {
            return Err(Error::Other("the container was removed".to_owned()));
        };
        let mut definition = now.definition;
        changes.apply(&mut definition.request)?;
        self.catalog.write_definition(&definition)
    }
}

/// In the process that the container lives in.
pub(super) fn update(life: &Life, changes: &Changes) -> std::result::Result<(), String> {
    let _alone = life.changing();
    let mut request = life.request();
    changes
        .apply(&mut request)
        .map_err(|error| error.to_string())?;
    let handle = life.now().handle.clone();
    if let Some(handle) = handle.filter(|_| changes.limits != Limits::default()) {
        handle
            .set_limits(&request.limits)
            .map_err(|error| with_causes(&error))?;
    }
    life.is_now(request).map_err(|error| with_causes(&error))?;
    life.change(|now| {
        if let Some(handle) = &now.handle {
            now.state.cgroups = handle.cgroups_to_remove();
        }
    });
    Ok(())
}
