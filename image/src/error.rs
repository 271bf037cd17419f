//! What can be wrong with an image, and where.

/// Context, kind and source; Display is a lower-case fragment without its cause.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{0}` is not a valid image name: {1}")]
    BadReference(String, String),
    #[error("`{0}` is not a platform: {1}")]
    BadPlatform(String, String),
    /// A document (manifest, index, config, layout) breaks its specification.
    #[error("{document} is not valid: {reason}")]
    BadDocument { document: String, reason: String },
    /// An archive or layer that must not be unpacked.
    #[error("{what}: {reason}")]
    BadArchive { what: String, reason: String },
    #[error("{what} has no image for {platform}; it has {available}")]
    NoPlatform {
        what: String,
        platform: String,
        available: String,
    },
    #[error("image `{0}` was not found")]
    NotFound(String),
    #[error("{url}: {reason}")]
    Registry {
        url: String,
        reason: String,
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    #[error("cannot {action} `{path}`")]
    Io {
        action: &'static str,
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Store(#[from] rbuild_cache::store::Error),
}

pub type Result<T, E = Error> = std::result::Result<T, E>;
