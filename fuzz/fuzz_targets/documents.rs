//! Reads names, documents of images and what the store keeps of files. What is read must be written so that it reads the
//! same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rbuild_cache::tree::Tree;
use rbuild_cache::{Digest, owners::acl};
use rbuild_image::manifest::Index;
use rbuild_image::{ImageConfig, Manifest, Platform, Reference};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(tree) = Tree::decode(bytes) {
        assert_eq!(Tree::decode(&tree.encode()).unwrap(), tree);
    }
    if let Ok(config) = serde_json::from_slice::<ImageConfig>(bytes) {
        let written = serde_json::to_vec(&config).unwrap();
        let again: ImageConfig = serde_json::from_slice(&written).unwrap();
        assert_eq!(serde_json::to_vec(&again).unwrap(), written);
        config.platform();
    }
    if let Ok(manifest) = serde_json::from_slice::<Manifest>(bytes) {
        let written = serde_json::to_vec(&manifest).unwrap();
        assert_eq!(serde_json::from_slice::<Manifest>(&written).unwrap(), manifest);
    }
    if let Ok(index) = serde_json::from_slice::<Index>(bytes) {
        let written = serde_json::to_vec(&index).unwrap();
        assert_eq!(serde_json::from_slice::<Index>(&written).unwrap(), index);
    }
    for name in [&b"system.posix_acl_access"[..], b"system.posix_acl_default"] {
        // What names nobody that the kernel does not know stays as it is, and nothing grows without an end.
        assert!(acl::spelled(name, bytes).len() <= bytes.len().saturating_mul(13));
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(reference) = text.parse::<Reference>() {
        let canonical = reference.canonical();
        assert_eq!(canonical.parse::<Reference>().unwrap().canonical(), canonical);
        assert_eq!(reference.familiar().parse::<Reference>().unwrap().canonical(), canonical);
    }
    if let Ok(platform) = Platform::parse(text) {
        assert_eq!(Platform::parse(&platform.to_string()).unwrap(), platform);
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
});
