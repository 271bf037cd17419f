//! The file of `--config`:
//!
//! ```toml
//! insecure-registries = ["10.0.0.2:5000"]
//!
//! [defaults]
//! root = "/srv/rbuild"
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

use rbuild_engine::image::registry::RegistryOptions;
use serde::Deserialize;

use crate::error::{Error, Result};

/// What the file says, each thing where it is used.
#[derive(Debug, Default)]
pub(crate) struct ConfigFile {
    pub(crate) root: Option<PathBuf>,
    pub(crate) insecure: Vec<String>,
    pub(crate) registries: HashMap<String, RegistryOptions>,
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
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Defaults {
    root: Option<PathBuf>,
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
        let text = std::fs::read_to_string(path).map_err(|error| Error::io("read", path, error))?;
        let directory = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text, directory).map_err(|reason| {
            Error::usage(format!("--config `{}` is not valid", path.display())).because(reason)
        })
    }

    fn parse(text: &str, directory: &Path) -> Result<Self, String> {
        let document: Document = toml::from_str(text).map_err(|error| error.to_string())?;
        let mut file = Self {
            root: document.defaults.root.map(|root| directory.join(root)),
            insecure: document.insecure_registries,
            registries: HashMap::new(),
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
    }

    #[test]
    fn mistakes_are_told() {
        for text in [
            "insecure = 1",
            "[registries.x]\nmirror = []",
            "[registries.x]\nmirrors = ['ftp://x']",
            "[registries.x]\nmirrors = ['']",
            "[defaults]\nrot = 'x'",
            "x",
        ] {
            assert!(ConfigFile::parse(text, Path::new("/")).is_err(), "{text}");
        }
    }
}
