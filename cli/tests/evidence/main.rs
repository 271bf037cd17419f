//! What is said of an image beside it: provenance, lists of packages, signatures; and whether a build gives the same
//! again.

#[path = "../kit/mod.rs"]
mod kit;
mod layout;

mod provenance;
