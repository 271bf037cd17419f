//! `rbuild sign`, `rbuild verify` and `rbuild generate-key-pair`.

use std::collections::BTreeMap;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rbuild_engine::image::Reference;
use rbuild_engine::image::signature::Place;
use rbuild_engine::image::signature::key::{PrivateKey, PublicKey};
use rbuild_engine::image::source::written;
use serde_json::json;

use crate::error::{Error, Result};
use crate::exit::Exit;
use crate::global::GlobalArgs;
use crate::{files, machine, prompt, stdio};

/// Sign images with a key, as cosign does
///
/// Signatures lie beside what is signed: in a registry under the tag `sha256-HEX.sig`, in an OCI layout under that name.
/// The password of an encrypted key is taken from COSIGN_PASSWORD, or asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct SignArgs {
    /// A private key of ECDSA on P-256, in PEM: one of `generate-key-pair` or cosign, or PKCS 8
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// What the signature says besides; may be repeated
    #[arg(short, long, value_name = "K=V")]
    annotations: Vec<String>,
    /// A name in a registry, or `oci:DIR[:TAG][@DIGEST]`
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

/// Verify that images are signed by a key
///
/// Prints what the signatures say, as JSON. Exits with 1 unless each image has a signature that holds.
#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArgs {
    /// The public key, in PEM
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// What the signature must say; may be repeated
    #[arg(short, long, value_name = "K=V")]
    annotations: Vec<String>,
    /// A name in a registry, or `oci:DIR[:TAG][@DIGEST]`
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
}

/// Make a key to sign images with, and its public half
///
/// The private key is encrypted, in cosign's form: with the password in COSIGN_PASSWORD, or one that is asked for.
#[derive(Debug, clap::Args)]
pub(crate) struct GenerateKeyPairArgs {
    /// The files are PREFIX.key and PREFIX.pub
    #[arg(long, value_name = "PREFIX", default_value = "cosign")]
    output_key_prefix: String,
}

/// Of a key file.
const KEY_BYTES_MAX: u64 = 1 << 20;

const PASSWORD: &str = "COSIGN_PASSWORD";
const HELP: &str = "set COSIGN_PASSWORD";

pub(crate) fn sign(args: &SignArgs, global: &GlobalArgs) -> Result<Exit> {
    let places = places(&args.images)?;
    let annotations = pairs(&args.annotations)?;
    let key = private_key(&args.key)?;
    machine::with_engine(global.options()?, async |engine, cancel| {
        for (place, name) in places.iter().zip(&args.images) {
            let signing = engine.sign(place, &key, &annotations);
            let digest = machine::unless_cancelled(&cancel, signing).await?;
            stdio::out(format!("{name}: signed {digest}\n"));
        }
        Ok(Exit::Success)
    })
}

pub(crate) fn verify(args: &VerifyArgs, global: &GlobalArgs) -> Result<Exit> {
    let places = places(&args.images)?;
    let annotations = pairs(&args.annotations)?;
    let key = PublicKey::from_pem(&read(&args.key)?).map_err(|error| bad_key(&args.key, error))?;
    machine::with_engine(global.options()?, async |engine, cancel| {
        let mut payloads = Vec::new();
        for (place, name) in places.iter().zip(&args.images) {
            let verifying = engine.verify(place, &key, &annotations);
            let found = machine::unless_cancelled(&cancel, verifying).await?;
            if found.verified.is_empty() {
                let digest = found.digest;
                let mut error = match found.refused.as_slice() {
                    [] => Error::failed(format!("`{name}` has no signature ({digest})")),
                    _ => Error::failed(format!("no signature of `{name}` holds ({digest})")),
                };
                for reason in &found.refused {
                    error = error.help(format!("a signature: {reason}"));
                }
                return Err(error);
            }
            payloads.extend(found.verified.iter().map(|one| json!(one.payload)));
            let count = found.verified.len();
            stdio::err(format!(
                "{name}: {} is signed, {count} times, by the key\n",
                found.digest
            ));
        }
        stdio::out(format!("{}\n", json!(payloads)));
        Ok(Exit::Success)
    })
}

pub(crate) fn generate_key_pair(args: &GenerateKeyPairArgs) -> Result<Exit> {
    let private = PathBuf::from(format!("{}.key", args.output_key_prefix));
    let public = PathBuf::from(format!("{}.pub", args.output_key_prefix));
    for path in [&private, &public] {
        if std::fs::symlink_metadata(path).is_ok() {
            return Err(
                Error::failed(format!("`{}` exists already", path.display()))
                    .help("a key that is overwritten is lost: take another --output-key-prefix"),
            );
        }
    }
    let password = match std::env::var(PASSWORD) {
        Ok(password) => password,
        Err(_) => {
            let password = prompt::line("Password of the key: ", false, HELP)?;
            if prompt::line("The same again: ", false, HELP)? != password {
                return Err(Error::failed("the passwords differ: no key was made"));
            }
            password
        }
    };
    let failed = |error| Error::failed("cannot make a key").because(error);
    let key = PrivateKey::generate().map_err(failed)?;
    let pem = key.to_encrypted_pem(password.as_bytes()).map_err(failed)?;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options
        .open(&private)
        .map_err(|error| Error::io("create", &private, error))?;
    std::io::Write::write_all(&mut file, pem.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(|error| Error::io("write", &private, error))?;
    let pem = key.public().to_pem().map_err(failed)?;
    files::write_whole(&public, pem.as_bytes())?;
    stdio::out(format!(
        "The private key is in {}, its public half in {}\n",
        private.display(),
        public.display()
    ));
    Ok(Exit::Success)
}

/// Reads a key to sign with; asks for its password where it has one.
pub(super) fn private_key(path: &Path) -> Result<PrivateKey> {
    let pem = read(path)?;
    let password = match PrivateKey::is_encrypted(&pem) {
        false => None,
        true => Some(match std::env::var(PASSWORD) {
            Ok(password) => password,
            Err(_) => prompt::line("Password of the key: ", false, HELP)?,
        }),
    };
    let password = password.as_deref().map(str::as_bytes);
    PrivateKey::from_pem(&pem, password).map_err(|error| bad_key(path, error))
}

fn read(path: &Path) -> Result<String> {
    use std::io::Read;
    let failed = |error| Error::io("read", path, error);
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut text = String::new();
    file.take(KEY_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(failed)?;
    Ok(text)
}

fn bad_key(path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::failed(format!("the key `{}` cannot be used", path.display())).because(error)
}

fn places(texts: &[String]) -> Result<Vec<Place>> {
    texts.iter().map(|text| place(text)).collect()
}

/// `oci:DIR[:TAG][@DIGEST]`, or a name in a registry.
fn place(text: &str) -> Result<Place> {
    let Some(rest) = text.strip_prefix("oci:") else {
        if ["oci-archive:", "docker-archive:"]
            .iter()
            .any(|kind| text.starts_with(kind))
        {
            return Err(
                Error::usage(format!("`{text}`: an archive has no place for signatures"))
                    .help("sign an OCI layout (`oci:DIR`), or the image in its registry"),
            );
        }
        let reference: Reference = text
            .parse()
            .map_err(|error| Error::usage(format!("{error}")))?;
        return Ok(Place::Registry(reference));
    };
    let split = written::layout(rest);
    let (path, tag, digest) = split.map_err(|error| Error::usage(format!("{error}")))?;
    Ok(Place::Layout { path, tag, digest })
}

fn pairs(texts: &[String]) -> Result<BTreeMap<String, String>> {
    let pair = |text: &String| match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Error::usage(format!(
            "--annotations `{text}`: expected `KEY=VALUE`"
        ))),
    };
    texts.iter().map(pair).collect()
}
