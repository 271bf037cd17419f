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
    /// Of a layer that is written.
    #[error(
        "a layer cannot hold `{path}`: in layers, names that begin with `.wh.` mean removals; rename or remove it"
    )]
    RemovalName { path: String },
    #[error("{what} has no image for {platform}; it has {available}")]
    NoPlatform {
        what: String,
        platform: String,
        available: String,
    },
    #[error("image `{0}` was not found")]
    NotFound(String),
    #[error("image `{name}` was not found; the layout has {known}")]
    NotInLayout { name: String, known: String },
    #[error("{url}: {reason}")]
    Registry {
        url: String,
        reason: String,
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// A file of logins, or a program that keeps them.
    #[error("{what}: {reason}")]
    Credentials { what: String, reason: String },
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

/// With this crate's error, unless another one is named.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Bytes of an input as they may be shown: control characters escaped, what is no UTF-8 as `\xNN`, cut at a
/// length that nobody reads on from.
pub(crate) fn shown(bytes: &[u8]) -> String {
    const LIMIT: usize = 300;
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() {
                text.extend(character.escape_default());
            } else {
                text.push(character);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
        if text.len() > LIMIT {
            break;
        }
    }
    if let Some((cut, _)) = text.char_indices().nth(LIMIT) {
        text.truncate(cut);
        text.push('…');
    }
    text
}

/// An [`Error::Io`] over a path of an input, put into words only where it is needed.
pub(crate) fn io<E: Into<std::io::Error>>(
    action: &'static str,
    path: &[u8],
) -> impl FnOnce(E) -> Error {
    move |source| Error::Io {
        action,
        path: shown(path),
        source: source.into(),
    }
}
