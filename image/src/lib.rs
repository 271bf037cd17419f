//! OCI images: references, platforms, configs, layers, layouts, archives, registries.
//!
//! Knows nothing of Dockerfiles, graphs and sandboxes. An image comes in through [`source`] (a layout directory, an
//! archive, a registry), its documents verified ([`manifest`]), its layers unpacked to snapshots ([`unpack`]); it
//! goes out as layers ([`layer`]) and documents ([`store_image`]) into the content store, and from there to
//! archives, directories and tars ([`export`]). [`shared`]: where caches lie that machines share.

mod archive;
pub mod attestation;
pub mod compression;
pub mod config;
pub mod error;
pub mod export;
pub mod layer;
pub mod manifest;
mod names;
pub mod platform;
pub mod reference;
pub mod registry;
pub mod shared;
pub mod signature;
pub mod source;
pub mod store_image;
mod tarfile;
pub mod unpack;

pub use config::ImageConfig;
pub use error::{Error, Result};
pub use manifest::{Descriptor, Manifest};
pub use platform::Platform;
pub use reference::Reference;
