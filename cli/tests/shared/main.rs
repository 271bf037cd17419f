//! Caches that machines share: two stores that know of each other only through a cache. Servers are real ones, on
//! loopback; a test whose server is not installed says `SKIPPED`.

#[expect(dead_code, reason = "shared with the other tests of the binary")]
#[path = "../kit/mod.rs"]
mod kit;

mod broken;
mod inline;
mod places;
mod sharing;
mod writers;
