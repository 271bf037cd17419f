//! The layer of a snapshot whose files are in a layer already, in another form: the same archive, compressed anew.

use std::io::Write;

use rbuild_cache::snapshot::LayerBlob;
use rbuild_cache::{SnapshotId, Store};

use super::{LayerOptions, write_blob};
use crate::compression;
use crate::error::{Error, Result};

/// `None` where the files are needed: they are there, or times are to be others.
pub(super) fn repack(
    store: &Store,
    id: &SnapshotId,
    options: &LayerOptions,
) -> Result<Option<LayerBlob>> {
    if options.clamp_mtime.is_some() {
        return Ok(None);
    }
    let snapshot = store.snapshot(id)?;
    let Some((_, known)) = store.packed_layer(&snapshot)? else {
        return Ok(None);
    };
    let what = format!("layer {}", known.digest);
    let failed = |source| Error::Io {
        action: "read",
        path: what.clone(),
        source,
    };
    let file = store.open_blob(&known.digest)?;
    let mut archive = compression::reader(Box::new(file)).map_err(failed)?;
    let write = |output: &mut dyn Write| {
        let mut buffer = vec![0; 256 << 10];
        loop {
            let count = match archive.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(error)),
            };
            let bytes = buffer.get(..count).unwrap_or_default();
            output.write_all(bytes).map_err(failed)?;
        }
    };
    let blob = write_blob(store, id.as_str(), options, snapshot.size_bytes, write)?;
    if blob.diff_id != known.diff_id {
        return Err(Error::BadArchive {
            what,
            reason: format!(
                "its digest without compression is {}, {} when it was made; run `rbuild store check --repair`",
                blob.diff_id.0, known.diff_id.0
            ),
        });
    }
    Ok(Some(blob))
}
