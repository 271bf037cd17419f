//! The store: one directory, shared by any number of processes at once, no daemon.
//!
//! ```text
//! ROOT/
//!   content/            a valid OCI image layout: oci-layout, index.json, blobs/sha256/HEX
//!   snapshots/ID/fs     what one vertex added: an overlay upper directory, immutable once here; not there while only
//!                       its layer was needed (`packed`)
//!   snapshots/ID/tree   its sorted flat listing with content digests (`tree`)
//!   mounts/HASH/        cache mounts, by the hash of their id
//!   contexts/HASH       stat cache of one build context (`stat_cache`)
//!   containers/ID/      state of containers (`containers`)
//!   volumes/NAME/       what outlives them (`volumes`)
//!   networks/NAME/      what they are in together (`networks`)
//!   explain/            notes that explain builds
//!   index.db            SQLite, WAL: snapshots, records, images, descriptors, last use
//!   synced              how much of that is known to be on the disk (`synced`)
//!   points/             an empty root with the directories and files that every sandbox mounts something on
//!   reserve             room that collection gives itself on a full disk
//!   quarantine/         what `check` put away, for a while (`collect::quarantine`)
//!   leases/ locks/      files that living processes hold locked
//!   tmp/                what is being made; anything in here without a living lease is garbage
//! ```
//!
//! Knows nothing of Dockerfiles, operations and registries. Also home of [`root_dir`], because everybody who
//! touches a path that an input can influence stands on this crate. Start at [`Store::open`].

pub mod arrival;
pub mod cache_mounts;
pub mod check;
pub mod claims;
pub mod collect;
pub mod containers;
pub mod content;
pub mod digest;
pub mod error;
pub mod ids;
pub mod images;
mod index;
pub mod key;
pub mod lease;
mod named;
pub mod networks;
pub mod notes;
mod nursery;
pub mod owners;
pub mod packed;
pub mod record;
mod remover;
pub mod root_dir;
pub mod snapshot;
mod stack;
pub mod stat_cache;
pub mod store;
pub mod synced;
pub mod tree;
mod unchanged;
pub mod volumes;
pub mod whole;

pub use containers::Containers;
pub use digest::{ChainId, DiffId, Digest};
pub use key::{Ingredient, Key, KeyWriter};
pub use networks::Networks;
pub use root_dir::RootDir;
pub use snapshot::{ActiveSnapshot, Snapshot, SnapshotId};
pub use store::{Error, Result, Store, TemporaryDirectory};
pub use volumes::Volumes;
