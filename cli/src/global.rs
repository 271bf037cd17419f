//! What holds for every command: the store, registries. Decided once, before the process enters its namespaces
//! (an ordinary user looks like root in there).

use std::path::PathBuf;

use rbuild_engine::image::registry;

use crate::config_file::ConfigFile;
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
    /// Registries, limits of the store and defaults, in TOML (default: /etc/rbuild/config.toml and
    /// $XDG_CONFIG_HOME/rbuild/config.toml)
    #[arg(long, global = true, help_heading = HEADING, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Speak plain HTTP to this registry where it does not answer TLS; also a network, `10.0.0.0/8`
    #[arg(long, global = true, help_heading = HEADING, value_name = "HOST")]
    insecure_registry: Vec<String>,
    /// Trust the certificate authorities of this file (PEM) for registries, besides the system's
    #[arg(long, global = true, help_heading = HEADING, value_name = "FILE")]
    registry_ca: Vec<PathBuf>,
    /// How one registry is spoken to, in the place of what the configuration says of it
    #[arg(long, global = true, help_heading = HEADING, value_name = "HOST[,insecure][,ca=FILE][,mirror=HOST]")]
    registry: Vec<String>,
}

/// Flags that take a value and may stand before the command's name.
pub(crate) const FLAGS_WITH_VALUE: [&str; 5] = [
    "--root",
    "--config",
    "--insecure-registry",
    "--registry-ca",
    "--registry",
];

impl GlobalArgs {
    /// Returns how the engine is to be set up. Opens nothing.
    pub(crate) fn options(&self) -> Result<rbuild_engine::Options> {
        let file = self.file()?;
        Ok(rbuild_engine::Options {
            root: self.root(file.root.clone())?,
            limits: file.limits,
            registry: self.registries(file),
        })
    }

    /// As [`GlobalArgs::options`], with more registries that need no TLS.
    pub(crate) fn options_without_tls(
        &self,
        registries: impl IntoIterator<Item = String>,
    ) -> Result<rbuild_engine::Options> {
        let mut options = self.options()?;
        options.registry.insecure.extend(registries);
        Ok(options)
    }

    /// How registries are spoken to.
    pub(crate) fn registry_options(&self) -> Result<registry::Options> {
        Ok(self.registries(self.file()?))
    }

    fn file(&self) -> Result<ConfigFile> {
        let mut file = match self.config.as_deref() {
            Some(path) => ConfigFile::read(path)?,
            None => ConfigFile::read_all(&config_files())?,
        };
        for spec in &self.registry {
            file.registry(spec)?;
        }
        Ok(file)
    }

    fn registries(&self, file: ConfigFile) -> registry::Options {
        let mut insecure = self.insecure_registry.clone();
        insecure.extend(file.insecure);
        registry::Options {
            insecure,
            credential_files: credential_files(),
            certificate_directories: certificate_directories(),
            authorities: self.registry_ca.clone(),
            no_proxy: no_proxy(),
            registries: file.registries,
            ..registry::Options::default()
        }
    }

    fn root(&self, of_file: Option<PathBuf>) -> Result<PathBuf> {
        let given = self
            .root
            .clone()
            .filter(|root| !root.as_os_str().is_empty());
        let root = match given.or(of_file) {
            Some(root) => root,
            None => default_root()?,
        };
        std::path::absolute(&root).map_err(|error| Error::io("find", &root, error))
    }
}

/// The XDG specification says that relative paths are to be ignored.
fn absolute(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
}

/// Where logins are kept: `$DOCKER_CONFIG/config.json`, then `$REGISTRY_AUTH_FILE`. `login` writes to the first.
pub(crate) fn credential_files() -> Vec<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let docker = set("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(set("HOME")?).join(".docker")));
    docker
        .map(|directory| directory.join("config.json"))
        .into_iter()
        .chain(set("REGISTRY_AUTH_FILE").map(PathBuf::from))
        .collect()
}

/// Hosts that no proxy is asked for.
fn no_proxy() -> String {
    let given = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    given("NO_PROXY")
        .or_else(|| given("no_proxy"))
        .unwrap_or_default()
}

/// Where the user's configuration lies.
fn config_home() -> Option<PathBuf> {
    absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))
}

fn config_files() -> Vec<PathBuf> {
    let system = PathBuf::from("/etc/rbuild/config.toml");
    let own = config_home().map(|config| config.join("rbuild/config.toml"));
    std::iter::once(system).chain(own).collect()
}

/// Where things are kept between commands that are of no use to anybody else: drafts of indexes.
pub(crate) fn state_directory() -> Result<PathBuf> {
    absolute("XDG_STATE_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".local/state")))
        .map(|state| state.join("rbuild"))
        .ok_or_else(|| {
            Error::failed("there is no place to keep it: neither XDG_STATE_HOME nor HOME is set")
        })
}

fn certificate_directories() -> Vec<PathBuf> {
    let own = config_home();
    own.map(|config| config.join("containers/certs.d"))
        .into_iter()
        .chain(["/etc/containers/certs.d", "/etc/docker/certs.d"].map(PathBuf::from))
        .collect()
}

fn default_root() -> Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/rbuild"));
    }
    absolute("XDG_DATA_HOME")
        .or_else(|| Some(absolute("HOME")?.join(".local/share")))
        .map(|data| data.join("rbuild"))
        .ok_or_else(|| {
            Error::failed("there is no place for the store: neither XDG_DATA_HOME nor HOME is set")
                .help("name one with --root DIR or RBUILD_ROOT")
        })
}
