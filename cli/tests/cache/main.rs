//! The build cache from outside: for many small changes exactly the right steps run, the result is that of a build
//! from nothing, and the explanation names the change.
//!
//! `RBUILD_CACHE_ROUNDS` sets the rounds of the property test.

#[expect(dead_code, reason = "shared with the other tests of the binary")]
#[path = "../kit/mod.rs"]
mod kit;

mod explain;
mod life;
mod mounts;
mod mutations;
mod random;
mod twin;
