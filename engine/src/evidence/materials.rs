//! What a result was made from: images by manifest, repositories by commit, files by digest; and which of it is only
//! known by its place on this machine.

use std::collections::BTreeMap;

use rbuild_cache::Digest;
use rbuild_image::Reference;
use rbuild_image::source::Location;
use rbuild_solver::VertexId;
use serde::Serialize;

use super::purl::{self, purl};
use super::{Capture, Pin};
use crate::op::{GitSource, HttpSource, ImageSource, NetworkOp, Op};
use crate::request::{BuildRequest, ContextLocation, NamedContext, Remote};

pub(super) type DigestSet = BTreeMap<String, String>;

/// An input that anybody can have again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Material {
    pub(super) uri: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) digest: DigestSet,
}

/// What one platform's image was made from.
#[derive(Debug, Default)]
pub(super) struct Materials {
    /// Sorted; each once.
    pub(super) all: Vec<Material>,
    /// Contexts that are directories or streams of whoever built.
    pub(super) locals: Vec<String>,
    /// The Dockerfile's own address.
    pub(super) config: Option<Material>,
    /// Commands could reach a network.
    pub(super) network: bool,
}

impl Materials {
    pub(super) fn of(capture: &Capture, request: &BuildRequest, needed: &[VertexId]) -> Self {
        let mut found = Self::default();
        found.main(capture, request);
        for &vertex in needed {
            match capture.graph.operation(vertex) {
                Op::Image(image) => found.all.push(of_image(capture, image)),
                Op::Http(http) => found
                    .all
                    .push(of_http(http, capture.pins.of_vertex(vertex).as_ref())),
                Op::Git(git) => found
                    .all
                    .push(of_git(git, capture.pins.of_vertex(vertex).as_ref())),
                Op::Context(context) if context.name.is_empty() => {}
                Op::Context(context) => found.context(capture, request, &context.name),
                Op::Exec(exec) => found.network |= exec.network != NetworkOp::None,
                Op::File(_) | Op::Merge => {}
            }
        }
        found.all.sort();
        found.all.dedup();
        found
    }

    /// The main context and the Dockerfile.
    fn main(&mut self, capture: &Capture, request: &BuildRequest) {
        match &request.context {
            ContextLocation::Remote(remote) => {
                let material = of_remote(remote, capture.pins.of_context("").as_ref());
                self.all.push(material.clone());
                self.config = Some(material);
            }
            ContextLocation::Directory(_) | ContextLocation::Archive(_) => {
                self.locals.push("context".to_owned());
            }
            ContextLocation::Empty => {}
        }
        if self.config.is_none() {
            self.locals.push("dockerfile".to_owned());
        }
    }

    fn context(&mut self, capture: &Capture, request: &BuildRequest, name: &str) {
        let context = request.contexts.iter().find(|(known, _)| known == name);
        match context.map(|(_, context)| context) {
            Some(NamedContext::Remote(remote)) => {
                let material = of_remote(remote, capture.pins.of_context(name).as_ref());
                self.all.push(material);
            }
            Some(NamedContext::Directory(_)) => self.locals.push(name.to_owned()),
            Some(NamedContext::Image(_) | NamedContext::Stage(_)) | None => {}
        }
    }
}

fn of_image(capture: &Capture, image: &ImageSource) -> Material {
    let resolved = capture.images.get(&image.digest);
    let location = resolved.map_or(&image.location, |resolved| &resolved.location);
    let platform = Some(&image.platform);
    let named = match location {
        Location::Registry(reference) => Some(reference.clone()),
        // An image of the store is called by the name it was asked for by.
        Location::Stored(_) => image.name.parse::<Reference>().ok(),
        Location::OciLayout { .. }
        | Location::OciArchive { .. }
        | Location::DockerArchive { .. } => None,
    };
    let uri = named.map_or_else(
        || {
            // Where it lies on this machine is nobody's business; by its digest it is found anywhere.
            let platform = image.platform.to_string();
            let qualifiers = [("platform", platform.as_str())];
            purl(
                "oci",
                "",
                &image.name,
                &image.digest.to_string(),
                &qualifiers,
            )
        },
        |reference| purl::image(&reference, platform),
    );
    Material {
        uri,
        digest: sha256(&image.digest),
    }
}

fn of_http(http: &HttpSource, pin: Option<&Pin>) -> Material {
    let digest = match pin {
        Some(Pin::File(digest)) => Some(*digest),
        _ => http.checksum,
    };
    Material {
        uri: http.url.clone(),
        digest: digest.as_ref().map(sha256).unwrap_or_default(),
    }
}

fn of_git(git: &GitSource, pin: Option<&Pin>) -> Material {
    let commit = match pin {
        Some(Pin::Commit(commit)) => Some(commit.clone()),
        _ => git.commit(),
    };
    let mut uri = git.url.clone();
    if !git.reference.is_empty() || !git.subdirectory.is_empty() {
        uri.push('#');
        uri.push_str(&git.reference);
    }
    if !git.subdirectory.is_empty() {
        uri.push(':');
        uri.push_str(&git.subdirectory);
    }
    let algorithm = |commit: &String| match commit.len() {
        64 => "sha256",
        _ => "sha1",
    };
    Material {
        uri,
        digest: commit
            .map(|commit| (algorithm(&commit).to_owned(), commit))
            .into_iter()
            .collect(),
    }
}

fn of_remote(remote: &Remote, pin: Option<&Pin>) -> Material {
    match remote {
        Remote::Git(git) => of_git(git, pin),
        Remote::Http(url) => {
            let http = HttpSource {
                url: url.clone(),
                checksum: None,
                filename: String::new(),
            };
            of_http(&http, pin)
        }
    }
}

fn sha256(digest: &Digest) -> DigestSet {
    BTreeMap::from([("sha256".to_owned(), digest.hex())])
}
