//! What travels: images to registries, archives, other tools and back; names, lists and indexes; and the forms that a
//! build's result can have.

#[path = "../kit/docker.rs"]
#[expect(dead_code, reason = "other tests use more of it")]
mod docker;
#[path = "../kit/mod.rs"]
#[expect(dead_code, unused_imports, reason = "other tests use more of it")]
mod kit;
mod layout;

mod ahead;
mod bases;
mod lists;
mod manifests;
mod outputs;
mod packed;
mod roundtrip;
mod unprivileged;

use kit::Kit;
use kit::programs::{Service, has, registry};

/// A kit whose context has a file `a`, and a registry in its directory; `None` where there can be none.
fn kit_and_registry() -> Option<(Kit, Service)> {
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    if !kit::machine_can(&test) || !has("docker-registry") {
        return None;
    }
    let kit = Kit::new();
    kit.context(&[("a", "1")]);
    let registry = registry(&kit.path(""));
    Some((kit, registry))
}
