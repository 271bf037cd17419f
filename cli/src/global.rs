//! What holds for every command: the store, registries. Decided once, before the process enters its namespaces
//! (an ordinary user looks like root in there).

use std::path::PathBuf;

use rbuild_engine::image::registry;

use crate::error::{Error, Result};

const HEADING: &str = "Everywhere";

#[derive(Debug, clap::Args)]
pub(crate) struct GlobalArgs {
    /// The store (default: /var/lib/rbuild as root, $XDG_DATA_HOME/rbuild otherwise)
    #[arg(
        long,
        global = true,
        help_heading = HEADING,
        value_name = "DIR",
        env = "RBUILD_ROOT",
        hide_env_values = true
    )]
    root: Option<PathBuf>,
    /// Registries, mirrors and defaults (TOML)
    #[arg(long, global = true, help_heading = HEADING, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Speak plain HTTP to this registry where it does not answer TLS
    #[arg(long, global = true, help_heading = HEADING, value_name = "HOST")]
    insecure_registry: Vec<String>,
}

/// Flags that take a value and may stand before the command's name.
pub(crate) const FLAGS_WITH_VALUE: [&str; 3] = ["--root", "--config", "--insecure-registry"];

impl GlobalArgs {
    /// Returns how the engine is to be set up. Opens nothing.
    pub(crate) fn options(&self) -> Result<rbuild_engine::Options> {
        if self.config.is_some() {
            return Err(Error::unsupported("--config"));
        }
        Ok(rbuild_engine::Options {
            root: self.root()?,
            registry: registry::Options {
                insecure: self.insecure_registry.clone(),
                ..registry::Options::default()
            },
        })
    }

    fn root(&self) -> Result<PathBuf> {
        let root = match &self.root {
            Some(root) if !root.as_os_str().is_empty() => root.clone(),
            _ => default_root()?,
        };
        std::path::absolute(&root).map_err(|error| Error::io("find", &root, error))
    }
}

fn default_root() -> Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/rbuild"));
    }
    // The XDG specification says that relative paths are to be ignored.
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_DATA_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".local/share")))
        .map(|data| data.join("rbuild"))
        .ok_or_else(|| {
            Error::failed("there is no place for the store: neither XDG_DATA_HOME nor HOME is set")
                .help("name one with --root DIR or RBUILD_ROOT")
        })
}
