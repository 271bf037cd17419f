//! Whose certificates are trusted for a host, and which one is shown to it, besides what the system says
//! (`SSL_CERT_FILE` and `SSL_CERT_DIR` among it). By the layout of Docker and containers:
//!
//! ```text
//! certs.d/HOST[:PORT]/*.crt                       authorities
//! certs.d/HOST[:PORT]/NAME.cert, NAME.key         who we are
//! ```

use std::io::Read;
use std::path::{Path, PathBuf};

use reqwest::{Certificate, ClientBuilder, Identity};
use url::Url;

use super::Options;
use super::clients::host_and_port;
use crate::error::{Error, Result};

const FILE_LIMIT_BYTES: u64 = 4 << 20;

pub(super) struct Certificates {
    authorities: Vec<Certificate>,
    identity: Option<Identity>,
}

impl Certificates {
    /// Whether something is configured for this very host.
    pub(super) fn are_set(options: &Options, url: &Url) -> bool {
        if url.scheme() != "https" {
            return false;
        }
        let Some(host) = host_and_port(url) else {
            return false;
        };
        authority(options, &host).is_some()
            || directories(options, &host).any(|directory| directory.is_dir())
    }

    pub(super) fn find(options: &Options, url: &Url) -> Result<Option<Self>> {
        let Some(host) = host_and_port(url) else {
            return Ok(None);
        };
        let mut found = Self {
            authorities: Vec::new(),
            identity: None,
        };
        for path in options.authorities.iter().chain(authority(options, &host)) {
            found.trust(path)?;
        }
        for directory in directories(options, &host) {
            found.read(&directory)?;
        }
        let empty = found.authorities.is_empty() && found.identity.is_none();
        Ok((!empty).then_some(found))
    }

    pub(super) fn apply(self, builder: ClientBuilder) -> ClientBuilder {
        let builder = builder.tls_certs_merge(self.authorities);
        match self.identity {
            Some(identity) => builder.identity(identity),
            None => builder,
        }
    }

    fn trust(&mut self, path: &Path) -> Result<()> {
        let certificates =
            Certificate::from_pem_bundle(&read(path)?).map_err(|error| unusable(path, error))?;
        if certificates.is_empty() {
            return Err(unusable(path, "it holds no certificate in PEM"));
        }
        self.authorities.extend(certificates);
        Ok(())
    }

    fn read(&mut self, directory: &Path) -> Result<()> {
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(unusable(directory, error)),
        };
        let mut paths: Vec<PathBuf> = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()
            .map_err(|error| unusable(directory, error))?;
        paths.sort();
        for path in paths {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => self.trust(&path)?,
                Some("cert") if self.identity.is_none() => {
                    let mut pem = read(&path)?;
                    pem.push(b'\n');
                    pem.extend(read(&path.with_extension("key"))?);
                    let identity = Identity::from_pem(&pem);
                    self.identity = Some(identity.map_err(|error| unusable(&path, error))?);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn authority<'a>(options: &'a Options, host: &str) -> Option<&'a PathBuf> {
    let name = match host {
        "registry-1.docker.io" => "docker.io",
        other => other,
    };
    options.registries.get(name)?.authority.as_ref()
}

/// The directories that may hold something for a host; `HOST:443` is the same as `HOST`.
fn directories(options: &Options, host: &str) -> impl Iterator<Item = PathBuf> {
    let mut names = vec![host.to_owned()];
    if host == "registry-1.docker.io" {
        names.push("docker.io".to_owned());
    }
    if !host
        .trim_end_matches(|c: char| c.is_ascii_digit())
        .ends_with(':')
    {
        names.push(format!("{host}:443"));
    }
    let all = options.certificate_directories.iter();
    all.flat_map(move |directory| names.clone().into_iter().map(|name| directory.join(name)))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_LIMIT_BYTES).read_to_end(&mut bytes))
        .map_err(|error| unusable(path, error))?;
    Ok(bytes)
}

fn unusable(path: &Path, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Io {
        action: "use the certificates of",
        path: path.display().to_string(),
        source: std::io::Error::other(error),
    }
}
