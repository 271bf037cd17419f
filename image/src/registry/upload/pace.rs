//! How large the chunks are that a blob is sent in. A broken connection may cost a chunk: they grow while all goes well
//! and shrink when it does not.

const FIRST_CHUNK_BYTES: u64 = 1 << 20;
const LARGEST_CHUNK_BYTES: u64 = 8 << 20;
const SMALLEST_CHUNK_BYTES: u64 = 64 << 10;
/// The largest, once a connection broke: what broke one will break others.
const LARGEST_ROUGH_CHUNK_BYTES: u64 = 1 << 20;

/// So many chunks that came through make the next ones larger.
const SMOOTH_CHUNKS: u32 = 4;

/// How large the next chunk is. A session that begins anew goes on with what those before it learned.
pub(super) struct Pace {
    pub(super) chunk: u64,
    largest: u64,
    /// Chunks in a row that came through.
    smooth: u32,
    /// The furthest that any session came, in bytes.
    pub(super) best: u64,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            chunk: FIRST_CHUNK_BYTES,
            largest: LARGEST_CHUNK_BYTES,
            smooth: 0,
            best: 0,
        }
    }

    pub(super) fn came_through(&mut self) {
        self.smooth += 1;
        if self.smooth >= SMOOTH_CHUNKS {
            (self.smooth, self.chunk) = (0, (self.chunk * 2).min(self.largest));
        }
    }

    pub(super) fn broke(&mut self) {
        (self.smooth, self.largest) = (0, LARGEST_ROUGH_CHUNK_BYTES);
        self.chunk = (self.chunk / 2).clamp(SMALLEST_CHUNK_BYTES, self.largest);
    }
}
