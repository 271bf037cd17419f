//! Images, directories and repositories as BuildKit's sources.

use std::collections::{BTreeMap, HashMap};

use rbuild_image::source::Location;

use crate::llb::wire::SourceOp;
use crate::op;

pub(super) fn image_source(image: &op::ImageSource) -> SourceOp {
    let identifier = match &image.location {
        Location::Registry(reference) => {
            let name = reference.canonical();
            let name = name.split_once('@').map_or(name.as_str(), |(name, _)| name);
            format!("docker-image://{name}@{}", image.digest)
        }
        // BuildKit knows layouts by a name that its client gives them.
        Location::OciLayout { .. } | Location::OciArchive { .. } => {
            format!("oci-layout://{}@{}", image.name, image.digest)
        }
        Location::DockerArchive { .. } | Location::Stored(_) => {
            format!("docker-image://{}@{}", image.name, image.digest)
        }
    };
    SourceOp {
        identifier,
        attrs: BTreeMap::new(),
    }
}

/// A directory of the client's.
pub(super) fn local(name: &str, ignored: &HashMap<String, Vec<String>>) -> SourceOp {
    let shown = if name.is_empty() { "context" } else { name };
    let hint = ("local.sharedkeyhint".to_owned(), shown.to_owned());
    let mut attrs = BTreeMap::from([hint]);
    if let Some(patterns) = ignored.get(name).filter(|patterns| !patterns.is_empty()) {
        let list = serde_json::Value::from(patterns.clone()).to_string();
        attrs.insert("local.excludepatterns".to_owned(), list);
    }
    SourceOp {
        identifier: format!("local://{shown}"),
        attrs,
    }
}

pub(super) fn repository(git: &op::GitSource) -> SourceOp {
    let mut attrs = BTreeMap::from([("git.fullurl".to_owned(), git.url.clone())]);
    if git.keep_git_dir {
        attrs.insert("git.keepgitdir".to_owned(), "true".to_owned());
    }
    if !git.submodules {
        attrs.insert("git.skipsubmodules".to_owned(), "true".to_owned());
    }
    if let Some(checksum) = &git.checksum {
        attrs.insert("git.checksum".to_owned(), checksum.clone());
    }
    let address = git
        .url
        .split_once("://")
        .map_or(git.url.as_str(), |it| it.1);
    let mut identifier = format!("git://{address}");
    if !git.reference.is_empty() || !git.subdirectory.is_empty() {
        identifier.push_str(&format!("#{}", git.reference));
    }
    if !git.subdirectory.is_empty() {
        identifier.push_str(&format!(":{}", git.subdirectory));
    }
    SourceOp { identifier, attrs }
}
