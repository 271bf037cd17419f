//! Images in and out of the store: `save`, `load`, `import`, `pull`.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use rbuild_cache::images::StoredImage;
use rbuild_cache::{Digest, RootDir, Store};
use rbuild_image::config::ContainerConfig;
use rbuild_image::export::{self, Sink};
use rbuild_image::registry::download;
use rbuild_image::source::{self, Gathered, Location, Platforms, Progress, Resolved};
use rbuild_image::{Descriptor, Platform, Reference, unpack};
use rbuild_parser::Source;

use super::{ImportRequest, keep_made, layers_here};
use crate::assemble::image_config;
use crate::lint::assume;
use crate::lower::{self, HistoryEntry};
use crate::worker::{blocking, now};
use crate::{Engine, Error, Result};

/// A root file system that is larger is none.
const IMPORT_LIMIT_BYTES: u64 = 1 << 40;

impl Engine {
    /// What names and IDs stand for, with the names that each is saved under, for [`Engine::save`]. A repository
    /// without a tag stands for all its tags. What a build only looked up is brought here whole.
    pub async fn to_save(&self, names: &[String]) -> Result<Vec<(Descriptor, Vec<String>)>> {
        let mut images: Vec<(Descriptor, Vec<String>)> = Vec::new();
        for name in names {
            for (image, shown) in self.named(name)? {
                self.complete(&image).await?;
                match images
                    .iter_mut()
                    .find(|(root, _)| root.digest == image.manifest)
                {
                    Some((_, names)) => {
                        if let Some(shown) = shown.filter(|shown| !names.contains(shown)) {
                            names.push(shown);
                        }
                    }
                    None => images.push((
                        Descriptor::new(&image.media_type, image.manifest, image.size),
                        shown.into_iter().collect(),
                    )),
                }
            }
        }
        Ok(images)
    }

    /// The images of a name or an ID, and under which name each was meant.
    fn named(&self, name: &str) -> Result<Vec<(StoredImage, Option<String>)>> {
        if let Ok(reference) = name.parse::<Reference>()
            && reference.tag.is_none()
            && reference.digest.is_none()
        {
            let mut all = Vec::new();
            for name in self.names_of(&reference)? {
                let name = name.canonical();
                if let Some(image) = self.store().image_by_name(&name)? {
                    all.push((image, Some(name)));
                }
            }
            if !all.is_empty() {
                return Ok(all);
            }
        }
        let image = self.find_image(name)?;
        let given = name
            .parse::<Reference>()
            .is_ok_and(|reference| reference.canonical() == image.name);
        let shown = given.then(|| image.name.clone());
        Ok(vec![(image, shown)])
    }

    /// A Docker archive (that is an OCI layout too).
    pub fn save(&self, images: &[(Descriptor, Vec<String>)], sink: Sink<'_>) -> Result<()> {
        Ok(export::docker_archive(self.store(), images, sink)?)
    }

    /// From a Docker or OCI archive, with all platforms that it holds; returns the names set, or IDs where there are
    /// none.
    pub async fn load(&self, archive: &Path) -> Result<Vec<String>> {
        self.load_platforms(archive, &Platforms::All).await
    }

    /// As [`Engine::load`], for some platforms only.
    pub async fn load_platforms(
        &self,
        archive: &Path,
        platforms: &Platforms,
    ) -> Result<Vec<String>> {
        let contained = source::archived(self.store(), archive).await?;
        let mut loaded = Vec::new();
        for one in contained {
            let mut names = Vec::new();
            for name in &one.names {
                names.push(name.parse::<Reference>()?);
            }
            let quiet: Progress = Arc::new(|_, _, _| {});
            let gathered =
                source::gather_archived(self.store(), &self.client, &one, platforms, quiet);
            let gathered = self.keep(gathered.await?, &names).await?;
            if names.is_empty() {
                loaded.push(gathered.image.manifest.config.digest.to_string());
            }
            loaded.extend(names.iter().map(Reference::familiar));
        }
        Ok(loaded)
    }

    /// Brings the image for one platform. Returns the digest of what the name means: an index, where it is one.
    pub async fn pull(
        &self,
        reference: &Reference,
        platform: Option<&Platform>,
        progress: Progress,
    ) -> Result<Digest> {
        let platform = platform.cloned().unwrap_or_else(Platform::host);
        let platforms = Platforms::Some(vec![platform]);
        let pulled = self.pull_platforms(reference, &platforms, progress);
        Ok(pulled.await?.0)
    }

    /// As [`Engine::pull`], for several platforms. Where the name means one image, its platform is told, which may be
    /// another than was asked for.
    pub async fn pull_platforms(
        &self,
        reference: &Reference,
        platforms: &Platforms,
        progress: Progress,
    ) -> Result<(Digest, Option<Platform>)> {
        let location = Location::Registry(reference.clone());
        let names = std::slice::from_ref(reference);
        let gathered = source::gather(self.store(), &self.client, &location, platforms, progress);
        let gathered = self.keep(gathered.await?, names).await?;
        let only = (!gathered.root.is_index()).then_some(gathered.image.platform);
        Ok((gathered.root.digest, only))
    }

    /// The tags that a repository has in its registry.
    pub async fn tags(&self, repository: &Reference) -> Result<Vec<String>> {
        Ok(self.client.tags(repository).await?)
    }

    /// Names what was brought here.
    async fn keep(&self, gathered: Gathered, names: &[Reference]) -> Result<Gathered> {
        let store = Arc::clone(self.store());
        let (names, kept) = (names.to_vec(), gathered.clone());
        blocking(move || {
            let unnamed = [String::new()];
            let named: Vec<String> = names.iter().map(Reference::canonical).collect();
            for name in if named.is_empty() {
                &unnamed[..]
            } else {
                &named
            } {
                store.put_image(&stored(&kept.image, name, kept.blobs.clone()))?;
            }
            store.sync()?;
            Ok::<_, Error>(())
        })
        .await?;
        Ok(gathered)
    }

    /// Keeps what a name means in its registry, so that it is not asked for again. Only the documents are held:
    /// collection may take the layers, which are brought again when they are needed. A name that somebody gave, by
    /// building, tagging or pulling, is not moved.
    pub(crate) async fn remember(&self, reference: &Reference, resolved: &Resolved) -> Result<()> {
        let (name, resolved) = (reference.canonical(), resolved.clone());
        let store = Arc::clone(self.store());
        blocking(move || {
            let mut image = stored(&resolved, &name, resolved.indexes.clone());
            image.blobs.push(resolved.digest);
            if let Some(before) = store.image_by_name(&name)?
                && !is_only_remembered(&store, &before)
            {
                return Ok(());
            }
            Ok(store.put_image(&image)?)
        })
        .await
    }

    /// As [`Engine::import`], of what an address gives.
    pub async fn import_from(&self, address: &str, request: ImportRequest) -> Result<Digest> {
        // Before anything is fetched: a mistake in the changes is told at once.
        let platform = request.platform.clone().unwrap_or_else(Platform::host);
        changed(&request.changes, platform, None)?;
        let url = url::Url::parse(address)
            .map_err(|error| Error::Usage(format!("`{address}` is no address: {error}")))?;
        let directory = self.store().temporary_directory()?;
        let failed = |source| Error::Io {
            message: format!(
                "cannot keep what {} gives",
                url.host_str().unwrap_or_default()
            ),
            source,
        };
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(directory.path().join("root.tar"))
            .map_err(failed)?;
        let fetching = download::Request {
            url: &url,
            known: &download::Validators::default(),
            authorization: None,
            limit_bytes: IMPORT_LIMIT_BYTES,
            gate: None,
        };
        self.client.fetch(fetching, &file, &|_, _| {}).await?;
        let mut tar = file;
        tar.seek(SeekFrom::Start(0)).map_err(failed)?;
        let id = tokio::task::block_in_place(|| self.import(&mut tar, &request));
        drop(directory);
        id
    }

    /// A root file system tar (compressed or not) as an image of one layer.
    pub fn import(&self, tar: &mut (dyn Read + Send), request: &ImportRequest) -> Result<Digest> {
        let store = self.store();
        let platform = request.platform.clone().unwrap_or_else(Platform::host);
        // Before anything is unpacked: a mistake in the changes is told at once.
        let mut image = changed(&request.changes, platform, None)?;
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
        let layers = layers_here(store, std::slice::from_ref(&snapshot))?;
        image.history = vec![HistoryEntry::Own {
            created_by: String::new(),
            layer: true,
            line: 1,
        }];
        let mut config = image_config(&image, &[snapshot.created]);
        for entry in &mut config.history {
            entry.created_by = None;
            entry.comment = Some(request.message.clone()).filter(|message| !message.is_empty());
        }
        let name = request.reference.as_ref();
        keep_made(store, &config, &layers, snapshot.id, name)
    }
}

/// Whether a name is one that a build looked up, and nothing more.
pub(super) fn is_only_remembered(store: &Store, image: &StoredImage) -> bool {
    let document = |digest: &Digest| -> Option<serde_json::Value> {
        let bytes = store.read_blob(digest, super::DOCUMENT_BYTES_MAX).ok()?;
        serde_json::from_slice(&bytes).ok()
    };
    let layers = image
        .needs()
        .filter(|digest| **digest != image.config)
        .filter_map(document)
        .filter_map(|document| document.get("layers")?.as_array().cloned())
        .flatten();
    let held = |layer: &serde_json::Value| {
        let digest = layer.get("digest").and_then(serde_json::Value::as_str);
        let digest = digest.and_then(|digest| digest.parse::<Digest>().ok());
        digest.is_some_and(|digest| image.blobs.contains(&digest))
    };
    let layers: Vec<serde_json::Value> = layers.collect();
    image.snapshot.is_none() && !layers.is_empty() && !layers.iter().any(held)
}

fn stored(resolved: &Resolved, name: &str, blobs: Vec<Digest>) -> StoredImage {
    StoredImage {
        name: name.to_owned(),
        manifest: resolved.root.digest,
        media_type: resolved.root.media_type.clone(),
        size: resolved.root.size,
        config: resolved.manifest.config.digest,
        snapshot: None,
        blobs,
        tagged: now(),
    }
}

/// The config that the instructions of `--change` make of a base's, or of nothing, by the rules of a Dockerfile.
pub(crate) fn changed(
    changes: &[String],
    platform: Platform,
    base: Option<&ContainerConfig>,
) -> Result<lower::LoweredImage> {
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
    let base = base.filter(|_| !changes.is_empty());
    let from = if base.is_some() { "base" } else { "scratch" };
    let text = format!("FROM {from}\n{}\n", changes.join("\n"));
    let source = Arc::new(Source::new("--change", text.as_bytes()));
    let parsed = rbuild_parser::parse(&source);
    let options = lower::Options {
        platforms: vec![platform],
        ..lower::Options::new(Platform::host())
    };
    crate::build::require_sound(&source, &parsed, &options)?;
    let lowered = match base {
        Some(config) => assume::lower_on(&source, &parsed, &options, config),
        None => lower::lower(&source, &parsed, &options, &HashMap::new()),
    };
    let lowered = lowered.map_err(Error::Dockerfile)?;
    let image = lowered.images.into_iter().next();
    let mut image = image.ok_or_else(|| Error::Usage("--change makes no image".to_owned()))?;
    without_completions(&mut image.config.config, changes, base);
    Ok(image)
}

/// Takes back what a build adds to a base that says nothing of it: here only what was given is changed.
fn without_completions(
    config: &mut ContainerConfig,
    changes: &[String],
    base: Option<&ContainerConfig>,
) {
    let is_path = |variable: &String| variable.starts_with("PATH=");
    let had_path = base
        .and_then(|base| base.env.as_ref())
        .is_some_and(|env| env.iter().any(is_path));
    if !had_path && !changes.iter().any(|change| change.contains("PATH")) {
        if let Some(env) = &mut config.env {
            env.retain(|variable| !is_path(variable));
        }
        config.env = config.env.take().filter(|env| !env.is_empty());
    }
    let is_workdir = |change: &String| {
        let keyword = change.split_whitespace().next().unwrap_or_default();
        keyword.eq_ignore_ascii_case("WORKDIR")
    };
    if base.is_none() && !changes.iter().any(is_workdir) {
        config.working_dir = String::new();
    }
    config.args_escaped &= base.is_some_and(|base| base.args_escaped);
}
