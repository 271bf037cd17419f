//! Reads a layout directory whose images carry attestations.

use std::path::Path;

use rbuild_engine::cache::Digest;
use serde_json::Value;

use crate::kit::Kit;

/// The image that a build with `-o type=oci,tar=false,dest=layout` made.
pub(crate) const LAYOUT: [&str; 2] = ["-o", "type=oci,tar=false,dest=layout"];

/// An index with images and what is said of them.
pub(crate) struct Attested {
    pub(crate) digest: String,
    /// Descriptors of images.
    pub(crate) images: Vec<Value>,
    /// Of each image: its statements.
    pub(crate) statements: Vec<Vec<Value>>,
    /// All of it as text.
    pub(crate) text: String,
}

pub(crate) fn blob(layout: &Path, descriptor: &Value) -> Vec<u8> {
    let digest: Digest = descriptor["digest"].as_str().unwrap().parse().unwrap();
    let bytes = std::fs::read(layout.join("blobs/sha256").join(digest.hex())).unwrap();
    assert_eq!(Digest::of(&bytes), digest);
    assert_eq!(descriptor["size"], bytes.len());
    bytes
}

pub(crate) fn document(layout: &Path, descriptor: &Value) -> Value {
    serde_json::from_slice(&blob(layout, descriptor)).unwrap()
}

impl Attested {
    /// Reads `layout` of a kit and checks that everything is where BuildKit puts it.
    pub(crate) fn read(kit: &Kit) -> Self {
        let layout = kit.path("layout");
        let top: Value =
            serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
        let top = top["manifests"].as_array().unwrap().last().unwrap().clone();
        let index = document(&layout, &top);
        assert_eq!(
            index["mediaType"],
            "application/vnd.oci.image.index.v1+json"
        );
        let all = index["manifests"].as_array().unwrap();
        let kind = |it: &Value| it["annotations"]["vnd.docker.reference.type"].clone();
        let (attestations, images): (Vec<Value>, Vec<Value>) = all
            .iter()
            .cloned()
            .partition(|it| kind(it) == "attestation-manifest");
        // Whoever takes the first entry gets an image.
        assert_eq!(kind(&all[0]), Value::Null);
        let mut text = String::new();
        let of_image = |image: &Value| {
            let descriptor = attestations
                .iter()
                .find(|it| it["annotations"]["vnd.docker.reference.digest"] == image["digest"])
                .expect("an attestation manifest");
            assert_eq!(
                descriptor["platform"],
                serde_json::json!({"architecture": "unknown", "os": "unknown"})
            );
            let manifest = document(&layout, descriptor);
            assert_eq!(
                manifest["config"]["mediaType"],
                "application/vnd.oci.image.config.v1+json"
            );
            let config = document(&layout, &manifest["config"]);
            let layers = manifest["layers"].as_array().unwrap();
            let digests: Vec<&Value> = layers.iter().map(|it| &it["digest"]).collect();
            assert_eq!(config["rootfs"]["diff_ids"], serde_json::json!(digests));
            let statements = layers.iter().map(|layer| {
                assert_eq!(layer["mediaType"], "application/vnd.in-toto+json");
                let statement = document(&layout, layer);
                text.push_str(&statement.to_string());
                assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
                assert_eq!(
                    statement["predicateType"],
                    layer["annotations"]["in-toto.io/predicate-type"]
                );
                let digest = image["digest"].as_str().unwrap();
                for subject in statement["subject"].as_array().unwrap() {
                    assert_eq!(
                        format!("sha256:{}", subject["digest"]["sha256"].as_str().unwrap()),
                        digest
                    );
                }
                statement
            });
            statements.collect()
        };
        let statements = images.iter().map(of_image).collect();
        Self {
            digest: top["digest"].as_str().unwrap().to_owned(),
            images,
            statements,
            text,
        }
    }

    /// The predicate of a type about the first image.
    pub(crate) fn predicate(&self, kind: &str) -> &Value {
        let found = self.statements[0]
            .iter()
            .find(|statement| statement["predicateType"] == kind);
        &found.expect(kind)["predicate"]
    }
}
