//! The content digest of a selection.
//!
//! Encoding `selection.v1`: for each source its sort (`directory` or `file`), the name where it is a file (it may
//! become a name in the destination), which entries are implied, and the digest of the entries under their paths
//! relative to the source. Left out: a directory's own mode and owner (the destination has its own), the path that
//! the source has in its tree, and all times.

use rbuild_cache::tree::{Kind, digest_entries};
use rbuild_cache::{Key, KeyWriter};
use rbuild_executor::file::Source;

pub(super) fn of(sources: &[Source]) -> Key {
    let mut key = KeyWriter::new("selection.v1");
    key.add("sources", (sources.len() as u64).to_le_bytes());
    for source in sources {
        let prefix = source.path.len() + usize::from(!source.path.is_empty());
        let entries = source
            .entries
            .iter()
            .map(|entry| (entry.path.get(prefix..).unwrap_or_default(), entry));
        let is_directory = source
            .entries
            .first()
            .is_some_and(|entry| entry.kind == Kind::Directory);
        if is_directory {
            let implied: Vec<u8> = source
                .implied
                .iter()
                .flat_map(|index| (*index as u64).to_le_bytes())
                .collect();
            key.add("directory", implied);
            key.add_key("entries", digest_entries(entries.skip(1)));
        } else {
            key.add("file", &source.name);
            key.add_key("entries", digest_entries(entries));
        }
    }
    key.finish()
}
