//! Where a build's result goes: `--output`. Everything is put together before the first byte leaves; what a
//! destination gets, it gets whole.

use std::collections::{HashMap, HashSet};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use rbuild_cache::images::StoredImage;
use rbuild_cache::whole::WholeFile;
use rbuild_cache::{Digest, Store};
use rbuild_image::Reference;
use rbuild_image::compression::Compression;
use rbuild_image::export::{self, Sink};
use rbuild_image::layer::LayerOptions;
use rbuild_image::registry::{Client, push};
use rbuild_image::source::Progress;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::assemble::{Annotations, Assembled, Form, Solved, assemble};
use crate::evidence::Evidence;
use crate::images::push::send;
use crate::layering;
use crate::request::{BuildRequest, CompressionChoice, Output, OutputKind, Squash};
use crate::shared_cache::import::Going;
use crate::worker::now;
use crate::{Error, Result};

/// What a step of the plan says about an output.
pub(crate) fn describe(output: &Output) -> &'static str {
    match output.kind {
        OutputKind::Oci { tar: true } => "exporting to an OCI archive",
        OutputKind::Oci { tar: false } => "exporting to an OCI layout",
        OutputKind::Docker { tar: true } => "exporting to a Docker archive",
        OutputKind::Docker { tar: false } => "exporting to a layout with Docker media types",
        OutputKind::Tar => "exporting the root file system to a tar",
        OutputKind::Local => "exporting files",
        OutputKind::Image => "exporting to the store",
        OutputKind::Registry => "pushing to the registry",
        OutputKind::CacheOnly => "keeping the result in the cache only",
    }
}

/// Whether an output holds the files of the result.
pub(crate) fn needs_files(output: &Output) -> bool {
    output.kind != OutputKind::CacheOnly
}

/// Where the images go, if they go to registries and nowhere else, each layer as a step made it: then their files need
/// not be here. `known` says which repositories have the layers of the base images.
pub(crate) fn going(
    request: &BuildRequest,
    outputs: &[Output],
    known: &HashMap<Digest, Vec<Reference>>,
) -> Option<Going> {
    let mut needing = outputs.iter().filter(|output| needs_files(output));
    let output = needing.next()?;
    let is_alone = output.kind == OutputKind::Registry && needing.next().is_none();
    let is_plain = request.squash == Squash::No
        && !request.attestations.is_any()
        && !output.rewrite_timestamp
        && request.cache_to.iter().all(|to| to.place.is_some());
    let form = form(request, output);
    (is_alone && is_plain).then(|| Going {
        to: names(request, output),
        options: LayerOptions {
            compression: form.compression,
            oci_media_types: form.oci_media_types,
            clamp_mtime: None,
        },
        force_compression: form.force_compression,
        layers_limit: form.layers_limit,
        known: known.clone(),
    })
}

/// An image can carry records only of layers that are as its steps made them.
fn check_inline(request: &BuildRequest, outputs: &[Output]) -> Result<()> {
    let rewrites = |output: &Output| output.kind.is_image() && output.rewrite_timestamp;
    let reason = if !outputs.iter().any(|output| output.kind.is_image()) {
        "no output is an image that could carry the cache"
    } else if request.squash != Squash::No {
        "layers that are squashed are no step's result"
    } else if outputs.iter().any(rewrites) {
        "with `rewrite-timestamp=true` layers have other times than their steps made"
    } else {
        return Ok(());
    };
    Err(Error::Usage(format!(
        "--cache-to type=inline: {reason}; `type=registry,ref=NAME` gives the cache a name of its own"
    )))
}

/// Says before anything runs what cannot be done.
pub(crate) fn check(request: &BuildRequest, outputs: &[Output], platforms: usize) -> Result<()> {
    let is_several = platforms > 1 || request.is_multi_platform();
    if request.cache_to.iter().any(|to| to.place.is_none()) {
        check_inline(request, outputs)?;
    }
    for output in outputs {
        if request.attestations.is_any() && output.oci_media_types == Some(false) {
            return Err(Error::Usage(
                "attestations lie in OCI indexes: leave out `oci-mediatypes=false`".to_owned(),
            ));
        }
        match output.kind {
            OutputKind::Registry if names(request, output).is_empty() => {
                return Err(Error::Usage(
                    "what is pushed needs a name: give one with --tag".to_owned(),
                ));
            }
            OutputKind::Docker { .. } if is_several => {
                return Err(Error::Usage(
                    "type=docker holds one platform: use type=oci for several".to_owned(),
                ));
            }
            OutputKind::Tar if platforms > 1 && output.platform_split == Some(false) => {
                return Err(Error::Usage(
                    "a tar has each name once: with several platforms leave out `platform-split=false`, or use type=local".to_owned(),
                ));
            }
            OutputKind::Oci { .. }
            | OutputKind::Docker { .. }
            | OutputKind::Tar
            | OutputKind::Local
            | OutputKind::Image
            | OutputKind::Registry
            | OutputKind::CacheOnly => {}
        }
    }
    Ok(())
}

/// Puts the image together in every form that an output asks for, in the order of the outputs. `None` where an
/// output needs no image. Blocking.
pub(crate) fn assemble_all(
    store: &Store,
    solved: &[Solved<'_>],
    request: &BuildRequest,
    outputs: &[Output],
    evidence: Option<&Evidence<'_>>,
) -> Result<Vec<Option<Assembled>>> {
    let mut made: Vec<(Form, Assembled)> = Vec::new();
    let mut all = Vec::with_capacity(outputs.len());
    for output in outputs {
        if !output.kind.is_image() {
            all.push(None);
            continue;
        }
        if output.kind == OutputKind::Image {
            // If it comes to what it came to before, that is marked as used at once, and not document by document.
            for name in names(request, output) {
                store.image_by_name(&name.canonical())?;
            }
        }
        let form = form(request, output);
        let known = made.iter().find(|(of, _)| *of == form);
        let assembled = match known {
            Some((_, assembled)) => assembled.clone(),
            None => {
                let assembled = assemble(store, solved, &form, evidence)?;
                made.push((form, assembled.clone()));
                assembled
            }
        };
        all.push(Some(assembled));
    }
    Ok(all)
}

/// Whether each step's own layer is in an image that is made: there what a layer cannot hold is the step's mistake.
pub(crate) fn makes_layers(request: &BuildRequest, outputs: &[Output]) -> bool {
    request.squash == Squash::No && outputs.iter().any(|output| output.kind.is_image())
}

/// The form of the layers of all outputs, where all are images whose layers are as their steps make them, and nobody
/// looks at the files.
pub(crate) fn form_of_layers(request: &BuildRequest, outputs: &[Output]) -> Option<LayerOptions> {
    let is_usual = |output: &Output| output.kind.is_image() && !output.rewrite_timestamp;
    if request.attestations.sbom || request.squash != Squash::No || !outputs.iter().all(is_usual) {
        return None;
    }
    let form = form(request, outputs.first()?);
    Some(LayerOptions {
        compression: form.compression,
        oci_media_types: form.oci_media_types,
        clamp_mtime: None,
    })
}

fn form(request: &BuildRequest, output: &Output) -> Form {
    let compression = match output.compression {
        Some(choice) => self::compression(choice),
        // What stays here is not made smaller first: it is unpacked again, or compressed when it leaves.
        // What is said of an image is of its digest: then that is the one that it leaves with.
        None if output.kind == OutputKind::Image
            && request.squash == Squash::No
            && !request.attestations.is_any() =>
        {
            Compression::None
        }
        None => Compression::default(),
    };
    let annotations = request.annotations.iter().chain(&output.annotations);
    Form {
        compression,
        force_compression: output.force_compression,
        oci_media_types: output.oci_media_types.unwrap_or(
            request.attestations.is_any() || !matches!(output.kind, OutputKind::Docker { .. }),
        ),
        rewrite_timestamp: output.rewrite_timestamp,
        annotations: Annotations::sort(annotations.cloned()),
        index: request.is_multi_platform(),
        squash: request.squash,
        layers_limit: request.max_layers.unwrap_or(layering::LAYERS_LIMIT),
    }
}

/// What was asked for, with the levels that nobody named.
pub(crate) fn compression(choice: CompressionChoice) -> Compression {
    match (choice, Compression::default()) {
        (CompressionChoice::Gzip { level: Some(level) }, _) => Compression::Gzip { level },
        (CompressionChoice::Gzip { level: None }, usual) => usual,
        (CompressionChoice::Zstd { level }, _) => Compression::Zstd {
            level: level.unwrap_or(ZSTD_LEVEL),
        },
        (CompressionChoice::Uncompressed, _) => Compression::None,
    }
}

const ZSTD_LEVEL: u8 = 3;

/// Pushes what was built.
pub(crate) struct Publisher {
    pub(crate) client: Client,
    pub(crate) runtime: Handle,
    pub(crate) cancel: CancellationToken,
    /// Which repositories have the layers of the base images.
    pub(crate) known: HashMap<Digest, Vec<Reference>>,
}

impl Publisher {
    /// Pushes under all names, one after the other: the blobs are there after the first. Those of `there` may not be
    /// here. Blocking.
    fn push(
        &self,
        store: &Arc<Store>,
        image: &Assembled,
        names: &[Reference],
        by_digest: bool,
        there: &HashSet<Digest>,
        moved: &Progress,
    ) -> Result<()> {
        let moved = Arc::clone(moved);
        let progress: push::Progress = Arc::new(move |blob, state| {
            let done = match state {
                push::State::Fetching(done) | push::State::Sending(done) => done,
                push::State::Exists | push::State::Mounted(_) | push::State::Sent => blob.size,
            };
            moved(&format!("pushing {}", blob.digest), done, blob.size);
        });
        for name in names {
            let root = &image.descriptor;
            let untagged = Reference {
                tag: None,
                digest: Some(root.digest),
                ..name.clone()
            };
            let to = if by_digest { &untagged } else { name };
            let (client, known) = (&self.client, &self.known);
            let sending = send(store, client, root, to, known, there, &progress);
            self.runtime.block_on(async {
                tokio::select! {
                    biased;
                    () = self.cancel.cancelled() => Err(Error::Cancelled),
                    sent = sending => sent,
                }
            })?;
        }
        Ok(())
    }
}

/// Hands one output over. Blocking.
#[expect(
    clippy::too_many_arguments,
    reason = "an output may need all of a build"
)]
pub(crate) fn deliver(
    store: &Arc<Store>,
    publisher: &Publisher,
    moved: &Progress,
    solved: &[Solved<'_>],
    request: &BuildRequest,
    output: &Output,
    assembled: Option<&Assembled>,
    evidence: Option<&Evidence<'_>>,
) -> Result<()> {
    let names = names(request, output);
    let canonical: Vec<String> = names.iter().map(Reference::canonical).collect();
    match (output.kind, assembled) {
        (OutputKind::Oci { tar: true }, Some(image)) => with_sink(output, |sink| {
            Ok(export::oci_archive(
                store,
                &image.descriptor,
                &canonical,
                sink,
            )?)
        }),
        (OutputKind::Docker { tar: true }, Some(image)) => with_sink(output, |sink| {
            let images = [(image.descriptor.clone(), canonical.clone())];
            Ok(export::docker_archive(store, &images, sink)?)
        }),
        (OutputKind::Oci { tar: false } | OutputKind::Docker { tar: false }, Some(image)) => {
            let directory = destination(output)?;
            let root = &image.descriptor;
            Ok(export::oci_directory(store, root, &canonical, directory)?)
        }
        (OutputKind::Registry, Some(image)) => {
            let there = solved.iter().flat_map(|one| &one.remote);
            let there = there.map(|layer| layer.blob.digest).collect();
            publisher.push(store, image, &names, output.by_digest, &there, moved)
        }
        (OutputKind::Image, Some(image)) => keep(store, solved, &canonical, image),
        (OutputKind::Tar, _) => {
            let roots = roots(store, solved, request, output, evidence)?;
            write_tar(store, &roots, output)
        }
        (OutputKind::Local, _) => {
            let directory = destination(output)?;
            let roots = roots(store, solved, request, output, evidence)?;
            Ok(export::local(store, &roots, directory, output.delete)?)
        }
        (OutputKind::CacheOnly, _) => Ok(()),
        (
            OutputKind::Registry
            | OutputKind::Oci { .. }
            | OutputKind::Docker { .. }
            | OutputKind::Image,
            _,
        ) => Err(Error::Other("this output was not prepared".to_owned())),
    }
}

fn names(request: &BuildRequest, output: &Output) -> Vec<Reference> {
    let mut names: Vec<Reference> = Vec::new();
    for name in request.tags.iter().chain(&output.names) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

fn destination(output: &Output) -> Result<&Path> {
    output.destination.as_deref().ok_or_else(|| {
        Error::Usage("this output is a directory: say where, with `dest=DIRECTORY`".to_owned())
    })
}

fn with_sink(output: &Output, write: impl FnOnce(Sink<'_>) -> Result<()>) -> Result<()> {
    match &output.destination {
        Some(path) => write(Sink::File(path)),
        None => {
            let mut stdout = std::io::BufWriter::new(std::io::stdout().lock());
            write(Sink::Stream(&mut stdout))?;
            stdout.flush().map_err(|source| Error::Io {
                message: "cannot write to standard output".to_owned(),
                source,
            })
        }
    }
}

/// What the files of an output are, each platform's by itself where they are kept apart, and what is said of them.
fn roots<'s>(
    store: &Store,
    solved: &'s [Solved<'_>],
    request: &BuildRequest,
    output: &Output,
    evidence: Option<&Evidence<'_>>,
) -> Result<Vec<export::Root<'s>>> {
    let is_several = solved.len() > 1 || request.is_multi_platform();
    let is_split = output.platform_split.unwrap_or(is_several);
    let roots = solved.iter().map(|one| {
        let platform = one.image.platform.to_string().replace('/', "_");
        let infix = match (is_split, solved) {
            (false, [_, _, ..]) => format!(".{platform}"),
            _ => String::new(),
        };
        let of_files = evidence.map(|evidence| evidence.of_files(store, one, &infix));
        Ok(export::Root {
            snapshot: one.layers.last().map(|top| &top.id),
            epoch: one.image.epoch,
            directory: is_split.then_some(platform),
            documents: of_files.transpose()?.unwrap_or_default(),
        })
    });
    roots.collect()
}

fn write_tar(store: &Store, roots: &[export::Root<'_>], output: &Output) -> Result<()> {
    let Some(path) = &output.destination else {
        let mut stdout = std::io::BufWriter::new(std::io::stdout().lock());
        export::tar(store, roots, &mut stdout)?;
        return stdout.flush().map_err(|source| Error::Io {
            message: "cannot write to standard output".to_owned(),
            source,
        });
    };
    let failed = |source| Error::Io {
        message: format!("cannot write `{}`", path.display()),
        source,
    };
    let file = WholeFile::at(path, 0o644).map_err(failed)?;
    let mut writer = std::io::BufWriter::new(file);
    export::tar(store, roots, &mut writer)?;
    let file = writer
        .into_inner()
        .map_err(|error| failed(error.into_error()))?;
    file.finish().map_err(failed)
}

/// Sets the names in the store; without any, the image is kept by its ID.
fn keep(store: &Store, solved: &[Solved<'_>], names: &[String], image: &Assembled) -> Result<()> {
    let mut blobs: Vec<Digest> = image.blobs.clone();
    blobs.sort_unstable();
    blobs.dedup();
    let unnamed = [String::new()];
    let names = if names.is_empty() {
        &unnamed[..]
    } else {
        names
    };
    for name in names {
        // A build that changed nothing has nothing to write, and then nothing to wait for the disk for.
        if is_kept(store, name, image)? {
            continue;
        }
        store.put_image(&StoredImage {
            name: name.clone(),
            manifest: image.descriptor.digest,
            media_type: image.descriptor.media_type.clone(),
            size: image.descriptor.size,
            config: image.config,
            snapshot: solved
                .first()
                .and_then(|one| one.layers.last())
                .map(|top| top.id.clone()),
            blobs: blobs.clone(),
            tagged: now(),
        })?;
    }
    Ok(())
}

/// Whether the name means this image already.
fn is_kept(store: &Store, name: &str, image: &Assembled) -> Result<bool> {
    let same = |known: &StoredImage| known.manifest == image.descriptor.digest;
    if !name.is_empty() {
        let known = store.image_by_name(name)?;
        return Ok(known.as_ref().is_some_and(same));
    }
    let known = store.images_by_id(&image.config.to_string())?;
    Ok(known.iter().any(same))
}
