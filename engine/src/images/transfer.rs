//! Images in and out of the store: `save`, `load`, `import`, `pull`.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use rbuild_cache::images::StoredImage;
use rbuild_cache::{Digest, RootDir};
use rbuild_image::compression::Compression;
use rbuild_image::export::{self, Sink};
use rbuild_image::layer::{LayerOptions, layer};
use rbuild_image::source::{self, Location, Progress, Resolved};
use rbuild_image::{Descriptor, Platform, Reference, store_image, unpack};
use rbuild_parser::Source;

use super::ImportRequest;
use crate::assemble::image_config;
use crate::lower::{self, HistoryEntry};
use crate::request::NoCache;
use crate::worker::{blocking, now};
use crate::{Engine, Error, Result};

impl Engine {
    /// A Docker archive (that is an OCI layout too).
    pub fn save(&self, names: &[String], sink: Sink<'_>) -> Result<()> {
        let mut images: Vec<(Descriptor, Vec<String>)> = Vec::new();
        for name in names {
            let image = self.find_image(name)?;
            let given = name
                .parse::<Reference>()
                .is_ok_and(|reference| reference.canonical() == image.name);
            let shown = given.then(|| image.name.clone());
            match images
                .iter_mut()
                .find(|(root, _)| root.digest == image.manifest)
            {
                Some((_, names)) => names.extend(shown),
                None => images.push((
                    Descriptor::new(&image.media_type, image.manifest, image.size),
                    shown.into_iter().collect(),
                )),
            }
        }
        Ok(export::docker_archive(self.store(), &images, sink)?)
    }

    /// From a Docker or OCI archive; returns the names set, or IDs where there are none.
    pub async fn load(&self, archive: &Path) -> Result<Vec<String>> {
        let contained = source::archived(self.store(), archive).await?;
        let mut loaded = Vec::new();
        for one in contained {
            let mut names = Vec::new();
            for name in &one.names {
                names.push(name.parse::<Reference>()?);
            }
            let resolved =
                source::resolve(self.store(), &self.client, &one.location, &Platform::host())
                    .await?;
            self.keep(&resolved, &names, Arc::new(|_, _, _| {})).await?;
            if names.is_empty() {
                loaded.push(resolved.manifest.config.digest.to_string());
            }
            loaded.extend(names.iter().map(Reference::familiar));
        }
        Ok(loaded)
    }

    /// Returns the digest of what was pulled.
    pub async fn pull(
        &self,
        reference: &Reference,
        platform: Option<&Platform>,
        progress: Progress,
    ) -> Result<Digest> {
        let location = Location::Registry(reference.clone());
        let host = Platform::host();
        let platform = platform.unwrap_or(&host);
        let resolved = source::resolve(self.store(), &self.client, &location, platform).await?;
        self.keep(&resolved, std::slice::from_ref(reference), progress)
            .await?;
        Ok(resolved.digest)
    }

    /// Brings an image's blobs here and names it.
    async fn keep(
        &self,
        resolved: &Resolved,
        names: &[Reference],
        progress: Progress,
    ) -> Result<()> {
        source::fetch(self.store(), &self.client, resolved, progress).await?;
        let unnamed = [String::new()];
        let named: Vec<String> = names.iter().map(Reference::canonical).collect();
        for name in if named.is_empty() {
            &unnamed[..]
        } else {
            &named
        } {
            self.store().put_image(&stored(resolved, name))?;
        }
        let store = Arc::clone(self.store());
        Ok(blocking(move || store.sync()).await?)
    }

    /// A root file system tar (compressed or not) as an image of one layer.
    pub fn import(&self, tar: &mut (dyn Read + Send), request: &ImportRequest) -> Result<Digest> {
        let store = self.store();
        let platform = request.platform.clone().unwrap_or_else(Platform::host);
        // Before anything is unpacked: a mistake in the changes is told at once.
        let mut image = changed(&request.changes, platform)?;
        let active = store.prepare()?;
        let root = RootDir::open_ambient(active.upper()).map_err(|source| Error::Io {
            message: "cannot open the new layer".to_owned(),
            source,
        })?;
        // As a layer, not as ADD would: a root file system has device nodes, and an ordinary user's import does
        // without them as a pull does.
        let what = "the archive";
        let unpacked = unpack::layer(Box::new(tar), &root, unpack::Limits::default(), what)?;
        if let Some((path, target)) = unpacked.links_below.first() {
            return Err(Error::Other(format!(
                "{what}: `{}` is a hard link to `{}`, which is not in it",
                String::from_utf8_lossy(path).escape_debug(),
                String::from_utf8_lossy(target).escape_debug()
            )));
        }
        drop(root);
        let snapshot = active.commit(None, now())?;
        let options = LayerOptions {
            compression: Compression::None,
            oci_media_types: true,
            clamp_mtime: None,
        };
        let blob = layer(store, &snapshot.id, &options, false)?;
        image.history = vec![HistoryEntry::Own {
            created_by: String::new(),
            layer: true,
        }];
        let mut config = image_config(&image, std::slice::from_ref(&snapshot));
        for entry in &mut config.history {
            entry.created_by = None;
            entry.comment = Some(request.message.clone()).filter(|message| !message.is_empty());
        }
        let layers = [blob];
        let (descriptor, config) = store_image::write(store, &config, &layers, &[], true)?;
        store.put_image(&StoredImage {
            name: request
                .reference
                .as_ref()
                .map(Reference::canonical)
                .unwrap_or_default(),
            manifest: descriptor.digest,
            media_type: descriptor.media_type,
            size: descriptor.size,
            config: config.digest,
            snapshot: Some(snapshot.id),
            blobs: layers.iter().map(|layer| layer.digest).collect(),
            tagged: now(),
        })?;
        store.sync()?;
        Ok(config.digest)
    }
}

fn stored(resolved: &Resolved, name: &str) -> StoredImage {
    StoredImage {
        name: name.to_owned(),
        manifest: resolved.digest,
        media_type: resolved.descriptor.media_type.clone(),
        size: resolved.descriptor.size,
        config: resolved.manifest.config.digest,
        snapshot: None,
        blobs: resolved
            .manifest
            .layers
            .iter()
            .map(|layer| layer.digest)
            .collect(),
        tagged: now(),
    }
}

/// The config that the instructions of `--change` make of nothing, by the rules of a Dockerfile.
fn changed(changes: &[String], platform: Platform) -> Result<lower::LoweredImage> {
    const ALLOWED: [&str; 12] = [
        "CMD",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "HEALTHCHECK",
        "LABEL",
        "MAINTAINER",
        "ONBUILD",
        "STOPSIGNAL",
        "USER",
        "VOLUME",
        "WORKDIR",
    ];
    for change in changes {
        let keyword = change.split_whitespace().next().unwrap_or_default();
        if change.contains('\n') || !ALLOWED.contains(&keyword.to_ascii_uppercase().as_str()) {
            return Err(Error::Usage(format!(
                "--change `{change}` is not one of {}",
                ALLOWED.join(", ")
            )));
        }
    }
    let text = format!("FROM scratch\n{}\n", changes.join("\n"));
    let source = Arc::new(Source::new("--change", text.as_bytes()));
    let parsed = rbuild_parser::parse(&source);
    crate::build::require_sound(&source, &parsed)?;
    let options = lower::Options {
        target: None,
        platforms: vec![platform],
        build_platform: Platform::host(),
        build_args: BTreeMap::new(),
        labels: Vec::new(),
        contexts: HashMap::new(),
        no_cache: NoCache::No,
        hosts: Vec::new(),
        allow: Vec::new(),
        source_date_epoch: None,
        every_stage: false,
        assumed: false,
    };
    let lowered =
        lower::lower(&source, &parsed, &options, &HashMap::new()).map_err(Error::Dockerfile)?;
    let image = lowered.images.into_iter().next();
    image.ok_or_else(|| Error::Usage("--change makes no image".to_owned()))
}
