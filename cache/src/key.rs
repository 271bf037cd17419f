//! Cache keys: written out field by field, versioned, and able to say what they were made of.

use std::fmt;

/// blake3 over named fields. Definition keys, content keys and content identities are all of this type; what a
/// key means is in the version tag that its writer began with.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub [u8; 32]);

/// One named field of a key, kept so that a miss can be explained. Long values are kept as their digest.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ingredient {
    pub name: String,
    pub value: String,
}

/// Writes a key: `KeyWriter::new("exec.v1").field("cwd", b"/").finish()`.
#[derive(Debug)]
pub struct KeyWriter {
    hasher: blake3::Hasher,
    ingredients: Vec<Ingredient>,
}

/// Values longer than this are kept in ingredients as a digest only.
const INGREDIENT_LIMIT_BYTES: usize = 4096;

impl KeyWriter {
    /// `version` names what is keyed and the version of its encoding.
    pub fn new(version: &str) -> Self {
        let mut writer = Self {
            hasher: blake3::Hasher::new(),
            ingredients: Vec::new(),
        };
        writer.frame(version.as_bytes());
        writer
    }

    /// Adds a field. Name and value are framed with their lengths, so no two field lists collide.
    #[must_use]
    pub fn field(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.add(name, value);
        self
    }

    /// As [`KeyWriter::field`], by reference.
    pub fn add(&mut self, name: &str, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        self.frame(name.as_bytes());
        self.frame(value);
        let value = if value.len() > INGREDIENT_LIMIT_BYTES {
            format!("blake3:{}", blake3::hash(value).to_hex())
        } else {
            String::from_utf8_lossy(value).into_owned()
        };
        self.ingredients.push(Ingredient {
            name: name.to_owned(),
            value,
        });
    }

    /// Adds a key of something else, for instance of an input.
    pub fn add_key(&mut self, name: &str, key: Key) {
        self.frame(name.as_bytes());
        self.frame(&key.0);
        self.ingredients.push(Ingredient {
            name: name.to_owned(),
            value: key.to_string(),
        });
    }

    /// The key of what was added so far.
    pub fn finish(self) -> Key {
        self.finish_with_ingredients().0
    }

    /// As [`Self::finish`], with what the key was made of, for explanations.
    pub fn finish_with_ingredients(self) -> (Key, Vec<Ingredient>) {
        (Key(*self.hasher.finalize().as_bytes()), self.ingredients)
    }

    fn frame(&mut self, bytes: &[u8]) {
        self.hasher.update(&(bytes.len() as u64).to_le_bytes());
        self.hasher.update(bytes);
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::digest::Hex(&self.0).fmt(f)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
