//! Signatures by a key, the way cosign makes and finds them (sigstore/cosign, SIGNATURE_SPEC.md): a payload that holds
//! the digest of what is signed, in a manifest of its own under the tag `sha256-HEX.sig` beside it, one layer a
//! signature. In an OCI layout that tag is the name of an entry of the index.
//!
//! [`key`]: ECDSA on P-256, in PEM; [`payload`]: what is signed; [`place`]: where it lies. Certificates, keyless
//! signatures and transparency logs are not here.

pub mod key;
mod payload;
mod place;

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rbuild_cache::{Digest, Store};

use crate::manifest::{Descriptor, Manifest, OCI_CONFIG, OCI_MANIFEST};
use crate::registry::Client;
use crate::store_image::put;
use crate::{Error, Result};
use key::{PrivateKey, PublicKey};
pub use payload::Payload;
pub use place::Place;

const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";

/// Of a payload, in bytes.
const PAYLOAD_BYTES_MAX: u64 = 1 << 20;
/// Nobody signs an image more often.
const SIGNATURES_MAX: usize = 1000;

/// A signature that holds.
#[derive(Debug, Clone)]
pub struct Verified {
    pub payload: Payload,
}

/// What a look at all signatures of something came to.
#[derive(Debug, Clone)]
pub struct Verification {
    /// Of what was asked for.
    pub digest: Digest,
    pub verified: Vec<Verified>,
    /// Why the others do not hold.
    pub refused: Vec<String>,
}

/// Signs what `place` names, and keeps the signatures that are there. Returns the digest that is signed and that of
/// the manifest with its signatures.
pub async fn sign(
    store: &Arc<Store>,
    client: &Client,
    place: &Place,
    key: &PrivateKey,
    annotations: &BTreeMap<String, String>,
) -> Result<(Digest, Digest)> {
    let signed = place.resolve(client).await?;
    let payload = Payload::new(&place.identity(), signed, annotations).encode()?;
    let signature = STANDARD.encode(key.sign(&payload));
    let digest = store.put_blob(&payload)?;
    let mut layer = Descriptor::new(PAYLOAD, digest, payload.len() as u64);
    layer.annotations = Some(BTreeMap::from([(SIGNATURE.to_owned(), signature)]));
    let mut layers = match place.signatures(client, &signed).await? {
        Some(manifest) => {
            // What was there goes along: its payloads must be here to be written again.
            for known in manifest.layers.iter().take(SIGNATURES_MAX) {
                let bytes = place.blob(client, known, PAYLOAD_BYTES_MAX).await?;
                store.put_blob(&bytes)?;
            }
            manifest.layers
        }
        None => Vec::new(),
    };
    if !layers.contains(&layer) {
        layers.push(layer);
    }
    if layers.len() > SIGNATURES_MAX {
        return Err(Error::BadDocument {
            document: signed.to_string(),
            reason: format!("it has more than {SIGNATURES_MAX} signatures"),
        });
    }
    let config = put(store, &config(&layers), OCI_CONFIG)?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(OCI_MANIFEST.to_owned()),
        config,
        layers,
        annotations: None,
    };
    let root = put(store, &manifest, OCI_MANIFEST)?;
    let written = root.digest;
    place.write(store, client, &signed, root).await?;
    Ok((signed, written))
}

/// Looks at all signatures of what `place` names. One that holds for `key` and has all `annotations` is enough.
pub async fn verify(
    client: &Client,
    place: &Place,
    key: &PublicKey,
    annotations: &BTreeMap<String, String>,
) -> Result<Verification> {
    let digest = place.resolve(client).await?;
    let mut found = Verification {
        digest,
        verified: Vec::new(),
        refused: Vec::new(),
    };
    let Some(manifest) = place.signatures(client, &digest).await? else {
        return Ok(found);
    };
    let layers = manifest.layers.iter().filter(|it| it.media_type == PAYLOAD);
    for layer in layers.take(SIGNATURES_MAX) {
        match one(client, place, layer, key).await? {
            Ok(payload) => match payload.refuses(&digest, annotations) {
                None => found.verified.push(Verified { payload }),
                Some(reason) => found.refused.push(reason),
            },
            Err(reason) => found.refused.push(reason.to_owned()),
        }
    }
    Ok(found)
}

/// The payload of a signature, if the signature is by the key. Nothing is read out of a payload before that.
async fn one(
    client: &Client,
    place: &Place,
    layer: &Descriptor,
    key: &PublicKey,
) -> Result<Result<Payload, &'static str>> {
    let signature = layer
        .annotation(SIGNATURE)
        .and_then(|text| STANDARD.decode(text).ok());
    let Some(signature) = signature else {
        return Ok(Err("it has no signature that could be read"));
    };
    let bytes = place.blob(client, layer, PAYLOAD_BYTES_MAX).await?;
    if !key.verifies(&bytes, &signature) {
        return Ok(Err("it is not by this key, or what it signs was changed"));
    }
    Ok(Payload::parse(&bytes).ok_or("its payload is none of cosign's"))
}

/// A config as cosign writes it: nothing but the layers.
fn config(layers: &[Descriptor]) -> serde_json::Value {
    let digests: Vec<Digest> = layers.iter().map(|layer| layer.digest).collect();
    serde_json::json!({
        "architecture": "",
        "created": "0001-01-01T00:00:00Z",
        "history": digests.iter().map(|_| serde_json::json!({"created": "0001-01-01T00:00:00Z"})).collect::<Vec<_>>(),
        "os": "",
        "rootfs": {"type": "layers", "diff_ids": digests},
        "config": {},
    })
}
