//! What the instructions so far have made of a stage.

use rbuild_image::Platform;
use rbuild_image::config::{ContainerConfig, ImageConfig, RootFs};
use rbuild_image::source::Resolved;
use rbuild_solver::VertexId;

use super::scope::Scope;
use super::{HistoryEntry, paths};

/// The PATH of images that set none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A stage at one of its instructions. Stages built on it begin with a copy.
#[derive(Debug, Clone)]
pub(crate) struct State {
    /// `None`: an empty root.
    pub(crate) vertex: Option<VertexId>,
    pub(crate) config: ImageConfig,
    pub(crate) history: Vec<HistoryEntry>,
    pub(crate) base_layers: usize,
    pub(crate) base_created: Option<String>,
    pub(crate) platform: Platform,
    /// ENV and ARG in force, the later one of a name winning.
    pub(crate) scope: Scope,
    /// ARGs declared, in order; those of the parent stages too.
    pub(crate) args: Vec<Declared>,
    /// A CMD of this very stage.
    pub(crate) own_cmd: bool,
    /// WORKDIR was given in this file.
    pub(crate) own_workdir: bool,
    /// An image below is not known yet: what variables say may be wrong.
    pub(crate) tentative: bool,
    /// Where the instruction stands that is being lowered; a trigger stands at its FROM.
    pub(crate) line: usize,
    /// Where the stage begins.
    pub(crate) stage_line: usize,
    /// Steps made and to be made, for their names.
    pub(crate) step: usize,
    pub(crate) steps: usize,
    /// Steps of each instruction so far, for records.
    pub(crate) ordinals: Vec<(String, usize)>,
}

/// An ARG of a stage.
#[derive(Debug, Clone)]
pub(crate) struct Declared {
    pub(crate) name: String,
    pub(crate) value: Option<String>,
    /// `None`: the value is that of before FROM.
    pub(crate) line: Option<usize>,
}

impl State {
    pub(crate) fn declares(&self, name: &str) -> bool {
        self.args.iter().any(|declared| declared.name == name)
    }

    /// WORKDIR, cleaned: the config has it as it is written.
    pub(crate) fn cwd(&self) -> String {
        paths::resolve("/", &self.config.config.working_dir)
    }

    pub(crate) fn record(&mut self, created_by: impl Into<String>, layer: bool) {
        self.history.push(HistoryEntry::Own {
            created_by: created_by.into(),
            layer,
            line: self.line,
        });
    }

    /// Takes over what a base's config says about variables and completes it.
    pub(crate) fn begin(&mut self) {
        let config = &mut self.config.config;
        let env = config.env.get_or_insert_default();
        // A name without a value must not draw one from anywhere.
        env.retain(|variable| variable.contains('='));
        if self.platform.os != "windows"
            && !env.iter().any(|variable| variable.starts_with("PATH="))
        {
            env.push(format!("PATH={DEFAULT_PATH}"));
        }
        for (name, value) in env.iter().filter_map(|variable| variable.split_once('=')) {
            self.scope.set(name, value);
        }
        if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
            config.working_dir = paths::resolve("/", &config.working_dir);
        }
    }

    pub(crate) fn empty(platform: &Platform) -> Self {
        let config = ImageConfig {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            variant: Some(platform.variant.clone()).filter(|variant| !variant.is_empty()),
            config: ContainerConfig {
                env: Some(vec![format!("PATH={DEFAULT_PATH}")]),
                working_dir: "/".to_owned(),
                ..ContainerConfig::default()
            },
            rootfs: RootFs {
                kind: "layers".to_owned(),
                diff_ids: None,
            },
            ..ImageConfig::default()
        };
        Self {
            vertex: None,
            config,
            history: Vec::new(),
            base_layers: 0,
            base_created: None,
            platform: platform.clone(),
            scope: Scope::default(),
            args: Vec::new(),
            own_cmd: false,
            own_workdir: false,
            tentative: false,
            line: 0,
            stage_line: 0,
            step: 0,
            steps: 0,
            ordinals: Vec::new(),
        }
    }

    pub(crate) fn of_image(
        vertex: Option<VertexId>,
        resolved: &Resolved,
        platform: &Platform,
    ) -> Self {
        let mut state = Self::empty(platform);
        let mut config = resolved.config.clone();
        // What builders note of the image that they make (`docker_version`, `container_config`, cache records) is not of
        // this one. BuildKit takes over what it knows, too.
        config.other.clear();
        config.config.other.clear();
        state.base_created = config.created.take();
        state.history = std::mem::take(&mut config.history)
            .into_iter()
            .map(HistoryEntry::Inherited)
            .collect();
        config.rootfs = RootFs {
            kind: "layers".to_owned(),
            diff_ids: None,
        };
        state.config = config;
        state.vertex = vertex;
        state.base_layers = layers(resolved);
        state
    }
}

/// How many layers an image has.
pub(crate) fn layers(resolved: &Resolved) -> usize {
    resolved.config.rootfs.diff_ids.as_ref().map_or(0, Vec::len)
}
