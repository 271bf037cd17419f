//! What travels: images to registries, archives, other tools and back; names, lists and indexes; and the forms that a
//! build's result can have.

#[path = "../kit/mod.rs"]
#[expect(dead_code, unused_imports, reason = "other tests use more of it")]
mod kit;
mod layout;
mod registry;

mod bases;
mod lists;
mod manifests;
mod outputs;
mod packed;
mod roundtrip;
