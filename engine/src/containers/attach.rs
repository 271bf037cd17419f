//! `network connect` and `network disconnect`: at once where the container runs; else when it is started.

use super::catalog::{Catalog, Entry};
use super::control::Ask;
use super::life::Life;
use super::networks::{self, Attachment};
use super::request::RunRequest;
use crate::error::with_causes;
use crate::request::NetworkChoice;
use crate::{Error, Result};

impl Entry {
    /// Brings the container into one more network.
    pub fn connect_network(&self, attachment: Attachment) -> Result<()> {
        self.change_networks(&Ask::Join(attachment.clone()), |catalog, request| {
            join(catalog, request, attachment)
        })
    }

    /// Takes the container out of a network.
    pub fn disconnect_network(&self, network: &str) -> Result<()> {
        self.change_networks(&Ask::Leave(network.to_owned()), |_, request| {
            leave(request, network)
        })
    }

    /// Forgets what the container calls another one. Errors where it runs.
    pub fn remove_link(&self, alias: &str) -> Result<()> {
        let held = self.hold()?;
        let now = self.catalog.entry(self.id())?;
        let (Some(_held), Some(now)) = (held, now) else {
            return Err(Error::Other(format!(
                "the container `{}` runs and keeps its names until it is stopped: stop it first",
                self.name
            )));
        };
        let mut definition = now.definition;
        let links = &mut definition.request.links;
        let before = links.len();
        links.retain(|(_, known)| known != alias);
        if links.len() == before {
            return Err(Error::Other(format!(
                "the container `{}` calls no other one `{alias}`",
                self.name
            )));
        }
        self.catalog.write_definition(&definition)
    }

    fn change_networks(
        &self,
        ask: &Ask,
        change: impl FnOnce(&Catalog, &mut RunRequest) -> Result<()>,
    ) -> Result<()> {
        // Held, so that nobody starts it from what it was.
        let held = self.hold()?;
        if held.is_none() {
            let connection = self.must_connect("change the networks of")?;
            connection.request(ask)?;
            return Ok(());
        }
        let Some(now) = self.catalog.entry(self.id())? else {
            return Err(Error::Other("the container was removed".to_owned()));
        };
        let mut definition = now.definition;
        change(&self.catalog, &mut definition.request)?;
        self.catalog.write_definition(&definition)
    }
}

/// As a request that asks for one network more.
fn join(catalog: &Catalog, request: &mut RunRequest, attachment: Attachment) -> Result<()> {
    catalog.check_attachment(&attachment)?;
    if request.network_of.is_some() || request.network == NetworkChoice::Host {
        return Err(Error::Other(
            "the container has the network of the machine or of another container, and cannot be in others"
                .to_owned(),
        ));
    }
    let mut networks = request.attachments();
    if networks.iter().any(|it| it.network == attachment.network) {
        return Err(Error::Other(format!(
            "the container is in the network `{}` already",
            attachment.network
        )));
    }
    networks.push(attachment);
    request.networks = networks;
    request.network = NetworkChoice::Default;
    Ok(())
}

/// As a request that asks for one network less.
fn leave(request: &mut RunRequest, network: &str) -> Result<()> {
    let mut networks = request.attachments();
    let before = networks.len();
    networks.retain(|it| it.network != network);
    if networks.len() == before {
        return Err(Error::Other(format!(
            "the container is not in the network `{network}`"
        )));
    }
    if networks.is_empty() {
        request.network = NetworkChoice::None;
    }
    request.networks = networks;
    Ok(())
}

/// In the process that the container lives in.
pub(super) fn join_now(life: &Life, attachment: &Attachment) -> std::result::Result<(), String> {
    let _alone = life.changing();
    let mut request = life.request();
    join(&life.catalog, &mut request, attachment.clone()).map_err(|error| with_causes(&error))?;
    life.join(attachment).map_err(|error| with_causes(&error))?;
    life.is_now(request).map_err(|error| with_causes(&error))
}

/// In the process that the container lives in.
pub(super) fn leave_now(life: &Life, network: &str) -> std::result::Result<(), String> {
    let _alone = life.changing();
    let mut request = life.request();
    leave(&mut request, network).map_err(|error| with_causes(&error))?;
    life.leave(network).map_err(|error| with_causes(&error))?;
    life.is_now(request).map_err(|error| with_causes(&error))
}

impl RunRequest {
    /// The networks that it is to be in, the one that is always there too.
    pub fn attachments(&self) -> Vec<Attachment> {
        if !self.networks.is_empty() || !self.has_private_network() {
            return self.networks.clone();
        }
        vec![Attachment {
            network: networks::DEFAULT.to_owned(),
            aliases: self.aliases.clone(),
            ..Attachment::default()
        }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_come_and_go_one_by_one() {
        let mut request = RunRequest {
            aliases: vec!["a".to_owned()],
            ..RunRequest::default()
        };
        let names = |request: &RunRequest| -> Vec<String> {
            let all = request.attachments().into_iter();
            all.map(|it| it.network).collect()
        };
        assert_eq!(names(&request), ["bridge"]);
        assert!(leave(&mut request, "other").is_err());
        leave(&mut request, "bridge").expect("it is in there");
        assert!(names(&request).is_empty());
        assert_eq!(request.network, NetworkChoice::None);
        let catalog = Catalog::at(std::path::Path::new("/nonexistent"));
        let bridge = Attachment {
            network: "bridge".to_owned(),
            ..Attachment::default()
        };
        join(&catalog, &mut request, bridge.clone()).expect("it is always there");
        assert_eq!(names(&request), ["bridge"]);
        assert!(request.has_private_network());
        assert!(join(&catalog, &mut request, bridge).is_err(), "twice");
        let missing = Attachment {
            network: "missing".to_owned(),
            ..Attachment::default()
        };
        assert!(join(&catalog, &mut request, missing).is_err());
    }
}
