//! Signatures of images in registries and layouts: `sign`, `verify`.

use std::collections::BTreeMap;

use rbuild_cache::Digest;
use rbuild_image::signature::key::{PrivateKey, PublicKey};
use rbuild_image::signature::{self, Place, Verification};

use crate::{Engine, Result};

impl Engine {
    /// Returns the digest that is signed.
    pub async fn sign(
        &self,
        place: &Place,
        key: &PrivateKey,
        annotations: &BTreeMap<String, String>,
    ) -> Result<Digest> {
        let signing = signature::sign(self.store(), &self.client, place, key, annotations);
        Ok(signing.await?.0)
    }

    /// Looks for a signature that holds for the key and has all annotations.
    pub async fn verify(
        &self,
        place: &Place,
        key: &PublicKey,
        annotations: &BTreeMap<String, String>,
    ) -> Result<Verification> {
        Ok(signature::verify(&self.client, place, key, annotations).await?)
    }
}
