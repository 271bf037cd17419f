//! ADD of an http or https URL.

use std::sync::atomic::{AtomicU64, Ordering};

use rbuild_solver::VertexId;

use super::failure::Result;
use super::{Output, Worker};
use crate::event::Event;
use crate::evidence::Pin;
use crate::fetch;
use crate::lower::remote::without_userinfo;
use crate::op::HttpSource;

/// Progress is told in steps of this many bytes.
const PROGRESS_STEP_BYTES: u64 = 256 << 10;

impl Worker {
    pub(super) async fn http(&self, vertex: VertexId, source: &HttpSource) -> Result<Output> {
        let step = self.step(vertex);
        let what = without_userinfo(&source.url);
        let told = AtomicU64::new(u64::MAX);
        let progress = |done: u64, total: u64| {
            let place = done / PROGRESS_STEP_BYTES;
            if let Some(step) = step
                && (told.swap(place, Ordering::Relaxed) != place || done == total)
            {
                self.events.event(Event::Progress {
                    step,
                    what: what.clone(),
                    done,
                    total,
                });
            }
        };
        let access = self.settings.access();
        let (snapshot, digest) =
            fetch::http::file(self.store(), &self.client, source, &access, &progress).await?;
        self.pins.vertex(vertex, Pin::File(digest));
        Ok(Output::Snapshot(Some(snapshot)))
    }
}
