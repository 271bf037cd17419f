//! The image that the target becomes.

use rbuild_image::Platform;

use super::LoweredImage;
use super::lowering::Lowering;
use super::state::State;

impl Lowering<'_> {
    /// The image that the target becomes.
    pub(crate) fn finish(&self, state: &State) -> LoweredImage {
        let mut config = state.config.clone();
        if !self.options.labels.is_empty() {
            let labels = config.config.labels.get_or_insert_default();
            for (name, value) in &self.options.labels {
                labels.insert(name.clone(), value.clone());
            }
        }
        if !self.target.implicit {
            let platform = &self.target.platform;
            let same = config.os == platform.os && config.architecture == platform.architecture;
            config.os.clone_from(&platform.os);
            config.architecture.clone_from(&platform.architecture);
            if !platform.variant.is_empty() || !same {
                config.variant =
                    Some(platform.variant.clone()).filter(|variant| !variant.is_empty());
            }
            if !same {
                config.os_version = None;
            }
        }
        let written = Platform {
            os: config.os.clone(),
            architecture: config.architecture.clone(),
            variant: config.variant.clone().unwrap_or_default(),
        };
        let platform = Platform::parse(&written.to_string()).unwrap_or(written);
        config.architecture.clone_from(&platform.architecture);
        config.variant = Some(platform.variant.clone()).filter(|variant| !variant.is_empty());
        LoweredImage {
            platform,
            vertex: state.vertex,
            config,
            history: state.history.clone(),
            base_layers: state.base_layers,
            base_created: state.base_created.clone(),
            stage_line: state.stage_line,
            epoch: self.epoch,
            scans: Vec::new(),
        }
    }
}
