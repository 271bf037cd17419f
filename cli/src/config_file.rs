//! The file of `--config`; without that flag `/etc/rbuild/config.toml`, then `$XDG_CONFIG_HOME/rbuild/config.toml`,
//! where what the second says wins:
//!
//! ```toml
//! insecure-registries = ["10.0.0.2:5000", "10.1.0.0/16"]
//!
//! [defaults]
//! root = "/srv/rbuild"
//!
//! [store]                     # kept after whatever adds to the store; see `rbuild prune`
//! max-size = "20GB"           # of images, build cache and cache mounts together
//! min-free = "5GB"            # left free on the store's file system
//! keep-duration = "30d"       # what nobody used for so long goes
//!
//! [registries."docker.io"]
//! mirrors = ["mirror.example/hub", "http://10.0.0.3:5000"]
//!
//! [registries."registry.example:5000"]
//! ca = "registry.pem"        # beside this file
//! insecure = false
//! ```

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rbuild_engine::cache::collect::Limits;
use rbuild_engine::image::registry::RegistryOptions;
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::{files, human, values};

/// What the file says, each thing where it is used.
#[derive(Debug, Default)]
pub(crate) struct ConfigFile {
    pub(crate) root: Option<PathBuf>,
    pub(crate) insecure: Vec<String>,
    pub(crate) registries: HashMap<String, RegistryOptions>,
    pub(crate) limits: Limits,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Document {
    #[serde(default)]
    insecure_registries: Vec<String>,
    #[serde(default)]
    defaults: Defaults,
    #[serde(default)]
    registries: HashMap<String, Registry>,
    #[serde(default)]
    store: Store,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Defaults {
    root: Option<PathBuf>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Store {
    max_size: Option<String>,
    min_free: Option<String>,
    keep_duration: Option<String>,
}

impl Store {
    fn limits(&self) -> Result<Limits, String> {
        let size = |name: &str, text: &Option<String>| match text {
            None => Ok(None),
            Some(text) => values::size(name, text)
                .map(Some)
                .map_err(|_| format!("{name} `{text}` is not a size such as `20GB`")),
        };
        let keep_seconds = match &self.keep_duration {
            None => None,
            Some(text) => Some(human::seconds(text).ok_or_else(|| {
                format!("keep-duration `{text}` is not a duration such as `30d` or `12h`")
            })?),
        };
        Ok(Limits {
            max_bytes: size("max-size", &self.max_size)?,
            min_free_bytes: size("min-free", &self.min_free)?,
            keep_seconds,
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Registry {
    #[serde(default)]
    mirrors: Vec<String>,
    #[serde(default)]
    insecure: bool,
    ca: Option<PathBuf>,
}

impl ConfigFile {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        Self::of(path, &files::read_list(path)?)
    }

    /// Reads those of the files that are there; a later one wins over an earlier one.
    pub(crate) fn read_all(paths: &[PathBuf]) -> Result<Self> {
        let mut all = Self::default();
        for path in paths {
            match std::fs::read_to_string(path) {
                Ok(text) => all.extend(Self::of(path, &text)?),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io("read", path, error)),
            }
        }
        Ok(all)
    }

    fn of(path: &Path, text: &str) -> Result<Self> {
        let directory = path.parent().unwrap_or(Path::new(""));
        Self::parse(text, directory).map_err(|reason| {
            Error::usage(format!(
                "the configuration `{}` is not valid",
                path.display()
            ))
            .because(reason)
        })
    }

    /// `HOST[:PORT][,insecure][,ca=FILE][,mirror=HOST[:PORT][/PREFIX]]…`, in the place of what the file says of the host.
    pub(crate) fn registry(&mut self, spec: &str) -> Result<()> {
        let wrong = |reason: String| Error::usage(format!("--registry `{spec}`: {reason}"));
        let mut fields = spec.split(',').map(str::trim);
        let host = fields.next().unwrap_or_default();
        if host.is_empty() || host.contains(['=', '/']) {
            return Err(wrong(
                "it begins with the registry's HOST[:PORT]".to_owned(),
            ));
        }
        let mut options = RegistryOptions::default();
        for field in fields {
            match field.split_once('=') {
                None if field == "insecure" => self.insecure.push(host.to_owned()),
                Some(("insecure", value)) => match crate::spec::parse_bool(value) {
                    Some(true) => self.insecure.push(host.to_owned()),
                    Some(false) => self.insecure.retain(|known| known != host),
                    None => return Err(wrong(format!("`{field}`: expected `true` or `false`"))),
                },
                Some(("ca", file)) if !file.is_empty() => options.authority = Some(file.into()),
                Some(("mirror", mirror)) => {
                    let mirror = self.mirror(mirror).map_err(wrong)?;
                    options.mirrors.push(mirror);
                }
                _ => {
                    return Err(wrong(format!(
                        "`{field}` is not `insecure`, `ca=FILE` or `mirror=HOST`"
                    )));
                }
            }
        }
        self.registries.insert(host.to_owned(), options);
        Ok(())
    }

    fn extend(&mut self, other: Self) {
        self.root = other.root.or(self.root.take());
        self.insecure.extend(other.insecure);
        self.registries.extend(other.registries);
        self.limits = Limits {
            max_bytes: other.limits.max_bytes.or(self.limits.max_bytes),
            min_free_bytes: other.limits.min_free_bytes.or(self.limits.min_free_bytes),
            keep_seconds: other.limits.keep_seconds.or(self.limits.keep_seconds),
        };
    }

    fn parse(text: &str, directory: &Path) -> Result<Self, String> {
        let document: Document = toml::from_str(text).map_err(|error| error.to_string())?;
        let mut file = Self {
            root: document.defaults.root.map(|root| directory.join(root)),
            insecure: document.insecure_registries,
            registries: HashMap::new(),
            limits: document.store.limits()?,
        };
        for (host, registry) in document.registries {
            if registry.insecure {
                file.insecure.push(host.clone());
            }
            let mut mirrors = Vec::new();
            for mirror in registry.mirrors {
                mirrors.push(file.mirror(&mirror)?);
            }
            let options = RegistryOptions {
                mirrors,
                authority: registry.ca.map(|ca| directory.join(ca)),
            };
            file.registries.insert(host, options);
        }
        Ok(file)
    }

    /// `HOST[:PORT][/PREFIX]`; `http://` before it says that it needs no TLS.
    fn mirror(&mut self, text: &str) -> Result<String, String> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("https", text));
        let rest = rest.trim_end_matches('/');
        let host = rest.split('/').next().unwrap_or_default();
        if host.is_empty() || host.contains(['@', '?', '#', ' ']) {
            return Err(format!("mirror `{text}`: expected `HOST[:PORT][/PREFIX]`"));
        }
        match scheme {
            "https" => {}
            "http" => self.insecure.push(host.to_owned()),
            other => return Err(format!("mirror `{text}`: `{other}` is not http or https")),
        }
        Ok(rest.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_on_the_command_line() {
        let mut file = ConfigFile::default();
        file.registry("r.example:5000,insecure,ca=a.pem,mirror=m.example/hub,mirror=http://n")
            .unwrap();
        assert_eq!(file.insecure, ["r.example:5000", "n"]);
        let options = &file.registries["r.example:5000"];
        assert_eq!(options.mirrors, ["m.example/hub", "n"]);
        assert_eq!(options.authority.as_deref(), Some(Path::new("a.pem")));
        for wrong in [
            "",
            "insecure=true",
            "r,insecure=x",
            "r,ca=",
            "r,what",
            "r,mirror=",
        ] {
            assert!(ConfigFile::default().registry(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn all_of_it() {
        let text = r#"
            insecure-registries = ["10.0.0.2:5000"]
            [defaults]
            root = "store"
            [registries."docker.io"]
            mirrors = ["mirror.example/hub/", "http://10.0.0.3:5000"]
            [registries."r.example"]
            ca = "r.pem"
            insecure = true
            [store]
            max-size = "20GB"
            keep-duration = "30d"
        "#;
        let mut file = ConfigFile::parse(text, Path::new("/etc/rbuild")).unwrap();
        assert_eq!(file.root.as_deref(), Some(Path::new("/etc/rbuild/store")));
        file.insecure.sort();
        assert_eq!(
            file.insecure,
            ["10.0.0.2:5000", "10.0.0.3:5000", "r.example"]
        );
        let hub = &file.registries["docker.io"];
        assert_eq!(hub.mirrors, ["mirror.example/hub", "10.0.0.3:5000"]);
        let ca = file.registries["r.example"].authority.as_deref();
        assert_eq!(ca, Some(Path::new("/etc/rbuild/r.pem")));
        let limits = Limits {
            max_bytes: Some(20 << 30),
            min_free_bytes: None,
            keep_seconds: Some(30 * 86_400),
        };
        assert_eq!(file.limits, limits);
        let text = "[store]\nmin-free = '1k'\nmax-size = '1g'\n[defaults]\nroot = '/r'";
        file.extend(ConfigFile::parse(text, Path::new("/")).unwrap());
        assert_eq!(file.root.as_deref(), Some(Path::new("/r")));
        let limits = Limits {
            max_bytes: Some(1 << 30),
            min_free_bytes: Some(1024),
            ..limits
        };
        assert_eq!(file.limits, limits);
        assert_eq!(file.registries.len(), 2);
    }

    #[test]
    fn mistakes_are_told() {
        for text in [
            "insecure = 1",
            "[registries.x]\nmirror = []",
            "[registries.x]\nmirrors = ['ftp://x']",
            "[registries.x]\nmirrors = ['']",
            "[defaults]\nrot = 'x'",
            "[store]\nmax-size = '1 furlong'",
            "[store]\nkeep-duration = 'yesterday'",
            "x",
        ] {
            assert!(ConfigFile::parse(text, Path::new("/")).is_err(), "{text}");
        }
    }
}
