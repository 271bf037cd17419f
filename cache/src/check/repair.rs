//! Putting damaged things away: into `quarantine/`, where nobody looks for them and nothing is lost.

use std::path::Path;

use super::Foreign;
use crate::digest::Digest;
use crate::error::{IndexContext as _, IoContext as _};
use crate::index;
use crate::lease;
use crate::snapshot::Snapshot;
use crate::store::{Result, Store};

impl Store {
    /// Puts away what is damaged and forgets what needs it.
    pub(super) fn repair(
        &self,
        blobs: &[(Digest, String)],
        snapshots: &[(Snapshot, String)],
        dangling: bool,
    ) -> Result<()> {
        if blobs.is_empty() && snapshots.is_empty() && !dangling {
            return Ok(());
        }
        let action = "forget what is damaged";
        let doomed = self.shared.temporary_path();
        crate::store::make_directory(&doomed)?;
        {
            let _publishing = self.shared.publish_lock(true)?;
            index::durably(&mut self.index(), action, |transaction| {
                for (digest, _) in blobs {
                    for sql in [
                        "DELETE FROM blobs WHERE digest = ?1",
                        "DELETE FROM layers WHERE digest = ?1",
                        "DELETE FROM images WHERE manifest = ?1 OR config = ?1",
                    ] {
                        transaction
                            .execute(sql, [digest.as_bytes()])
                            .doing(action)?;
                    }
                }
                for (snapshot, _) in snapshots {
                    transaction
                        .execute(
                            "DELETE FROM snapshots WHERE id = ?1",
                            [snapshot.id.as_str()],
                        )
                        .doing(action)?;
                }
                index::drop_dangling(transaction)
            })?;
            let blobs = blobs
                .iter()
                .map(|(digest, _)| (self.blob_path(digest), digest.hex()));
            let snapshots = snapshots.iter().map(|(snapshot, _)| {
                let holder = self.shared.snapshot_holder(&snapshot.id);
                (holder, snapshot.id.as_str().to_owned())
            });
            for (from, name) in blobs.chain(snapshots) {
                self.put_away(&from, &name)?;
            }
            // What stood on them.
            self.move_away(&doomed)?;
        }
        lease::remove(&doomed)
    }

    /// Moves something into `quarantine/`, under its name and a random word.
    fn put_away(&self, from: &Path, name: &str) -> Result<()> {
        let quarantine = self.root().join("quarantine");
        std::fs::create_dir_all(&quarantine).at("create", &quarantine)?;
        let to = quarantine.join(format!("{name}-{}", lease::random_word()?));
        match rustix::fs::rename(from, &to) {
            Err(rustix::io::Errno::NOENT) => Ok(()),
            result => result.at("put away", from),
        }
    }

    /// Puts away what is not the store's, or not as the store made it. True where it could be moved: a mount point
    /// stays.
    pub(super) fn put_foreign_away(&self, foreign: &Foreign) -> bool {
        let from = self.root().join(&foreign.path);
        let name = from.file_name().unwrap_or_default().to_string_lossy();
        let moved = self.put_away(&from, &name);
        if let Err(error) = &moved {
            tracing::debug!(%error, "it stays where it is");
        }
        moved.is_ok()
    }
}
