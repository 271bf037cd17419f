//! What is said of an image beside it: provenance, lists of packages, signatures; and whether a build gives the same
//! again.

#[path = "../kit/mod.rs"]
#[expect(dead_code, unused_imports, reason = "other tests use more of it")]
mod kit;
mod layout;

mod differences;
mod provenance;
mod repro;
mod sbom;
mod signing;
