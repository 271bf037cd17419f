//! The build cache from outside: for many small changes exactly the right steps run, the result is that of a build
//! from nothing, and the explanation names the change.
//!
//! `RBUILD_PROPERTY_ROUNDS` sets the rounds of the property test, `RBUILD_KILLS` how often processes are killed,
//! `RBUILD_FULL_DISKS` how often a disk gets full, `RBUILD_FLIPS` how many bits of the index flip.

#[expect(dead_code, reason = "shared with the other tests of the binary")]
#[path = "../kit/mod.rs"]
mod kit;

mod crowd;
mod damage;
mod dice;
mod explain;
mod kills;
mod life;
mod mounts;
mod mutations;
mod project;
mod random;
mod touched;
mod twin;
