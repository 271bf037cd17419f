//! Lowering without images: each base is taken to be one that sets nothing but PATH. So what the text alone can tell
//! is told without a store and without a network.

use std::collections::HashMap;
use std::sync::Arc;

use rbuild_cache::Digest;
use rbuild_image::config::{ContainerConfig, ImageConfig, RootFs};
use rbuild_image::source::Resolved;
use rbuild_image::{Descriptor, Manifest};
use rbuild_parser::{Parsed, Source};

use crate::error::Located;
use crate::lower::{self, Attempt, Findings, ImageNeed, Lowered, Options};

/// What there is to say of the stages of the file, also where something is wrong with one.
pub(super) fn findings(source: &Arc<Source>, parsed: &Parsed, options: &Options) -> Findings {
    let mut images = HashMap::new();
    while let Ok(needs) = lower::images_needed(source, parsed, options, &images) {
        if !make_up(&mut images, needs, &ContainerConfig::default()) {
            break;
        }
    }
    lower::findings(source, parsed, options, &images)
}

/// Lowers every stage of the file.
pub(super) fn lower(
    source: &Arc<Source>,
    parsed: &Parsed,
    options: &Options,
) -> Result<Lowered, Vec<Located>> {
    lower_on(source, parsed, options, &ContainerConfig::default())
}

/// Lowers it as if each base had this config.
pub(crate) fn lower_on(
    source: &Arc<Source>,
    parsed: &Parsed,
    options: &Options,
    config: &ContainerConfig,
) -> Result<Lowered, Vec<Located>> {
    let mut images = HashMap::new();
    loop {
        match lower::attempt(source, parsed, options, &images)? {
            Attempt::Lowered(lowered) => return Ok(*lowered),
            Attempt::Needs(needs) => make_up(&mut images, needs, config),
        };
    }
}

/// Adds what is missing; returns whether anything was.
fn make_up(
    images: &mut HashMap<ImageNeed, Arc<Resolved>>,
    needs: Vec<(ImageNeed, Located)>,
    config: &ContainerConfig,
) -> bool {
    let before = images.len();
    for (need, _) in needs {
        let image = Arc::new(image(&need, config));
        images.insert(need, image);
    }
    images.len() > before
}

fn image(need: &ImageNeed, config: &ContainerConfig) -> Resolved {
    let digest = Digest::of(need.name.as_bytes());
    let descriptor = Descriptor {
        media_type: String::new(),
        digest,
        size: 0,
        platform: None,
        annotations: None,
        artifact_type: None,
    };
    Resolved {
        location: need.location.clone(),
        digest,
        root: descriptor.clone(),
        indexes: Vec::new(),
        descriptor: descriptor.clone(),
        manifest: Manifest {
            schema_version: 2,
            media_type: None,
            config: descriptor,
            layers: Vec::new(),
            annotations: None,
        },
        config: ImageConfig {
            architecture: need.platform.architecture.clone(),
            os: need.platform.os.clone(),
            config: config.clone(),
            rootfs: RootFs {
                kind: "layers".to_owned(),
                diff_ids: Some(vec![digest]),
            },
            ..ImageConfig::default()
        },
        platform: need.platform.clone(),
    }
}
