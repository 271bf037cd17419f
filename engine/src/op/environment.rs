//! A command's variables, which each command of a stage has nearly in common with the one before: they share what they
//! have in common, and comparing them looks at what they do not. So files of many variables and many commands take time
//! by the number of their lines, not by its square.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, OnceLock};

/// Variables that are shared as one; a changed one takes the pointers of so many along.
const CHUNK: usize = 64;

/// `NAME=value`, in order.
#[derive(Clone, Default)]
pub struct Environment {
    /// All but the last one are full.
    chunks: Vec<Arc<Chunk>>,
}

#[derive(Debug, Default)]
struct Chunk {
    variables: Vec<Arc<str>>,
    digest: OnceLock<[u8; 32]>,
}

impl Clone for Chunk {
    /// To be changed.
    fn clone(&self) -> Self {
        Self {
            variables: self.variables.clone(),
            digest: OnceLock::new(),
        }
    }
}

impl Chunk {
    fn digest(&self) -> &[u8; 32] {
        self.digest.get_or_init(|| {
            let mut hasher = blake3::Hasher::new();
            for variable in &self.variables {
                hasher.update(&(variable.len() as u64).to_le_bytes());
                hasher.update(variable.as_bytes());
            }
            *hasher.finalize().as_bytes()
        })
    }
}

impl Environment {
    /// `NAME=value`, in the order set.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.chunks
            .iter()
            .flat_map(|chunk| chunk.variables.iter().map(AsRef::as_ref))
    }

    /// How many variables there are.
    pub fn len(&self) -> usize {
        let last = self.chunks.last().map_or(0, |chunk| chunk.variables.len());
        self.chunks.len().saturating_sub(1) * CHUNK + last
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// The variable at a place, counted from 0.
    pub fn get(&self, place: usize) -> Option<&str> {
        let chunk = self.chunks.get(place / CHUNK)?;
        chunk.variables.get(place % CHUNK).map(AsRef::as_ref)
    }

    /// Adds a variable at the end, `NAME=value`.
    pub fn push(&mut self, variable: &str) {
        if let Some(last) = self.chunks.last_mut()
            && last.variables.len() < CHUNK
        {
            changed(last).push(variable.into());
        } else {
            self.chunks.push(Arc::new(Chunk {
                variables: vec![variable.into()],
                digest: OnceLock::new(),
            }));
        }
    }

    /// Replaces what is there; what is not stays so.
    pub fn replace(&mut self, place: usize, variable: &str) {
        if let Some(chunk) = self.chunks.get_mut(place / CHUNK)
            && let Some(known) = changed(chunk).get_mut(place % CHUNK)
        {
            *known = variable.into();
        }
    }
}

/// The variables of a chunk that nobody else has any more.
fn changed(chunk: &mut Arc<Chunk>) -> &mut Vec<Arc<str>> {
    let chunk = Arc::make_mut(chunk);
    chunk.digest = OnceLock::new();
    &mut chunk.variables
}

impl<S: AsRef<str>> FromIterator<S> for Environment {
    fn from_iter<I: IntoIterator<Item = S>>(variables: I) -> Self {
        let mut environment = Self::default();
        for variable in variables {
            environment.push(variable.as_ref());
        }
        environment
    }
}

impl PartialEq for Environment {
    fn eq(&self, other: &Self) -> bool {
        self.chunks.len() == other.chunks.len()
            && self
                .chunks
                .iter()
                .zip(&other.chunks)
                .all(|(one, other)| Arc::ptr_eq(one, other) || one.digest() == other.digest())
    }
}

impl Eq for Environment {}

impl Hash for Environment {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for chunk in &self.chunks {
            chunk.digest().hash(state);
        }
    }
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(count: usize) -> Environment {
        (0..count).map(|it| format!("V{it}={it}")).collect()
    }

    fn hash(environment: &Environment) -> u64 {
        let mut hasher = std::hash::DefaultHasher::new();
        environment.hash(&mut hasher);
        hasher.finish()
    }

    #[test]
    fn it_is_a_list() {
        for count in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK] {
            let environment = numbered(count);
            assert_eq!(environment.len(), count);
            assert_eq!(environment.iter().count(), count);
            assert_eq!(environment.is_empty(), count == 0);
            assert_eq!(environment.get(count), None);
            if let Some(last) = count.checked_sub(1) {
                assert_eq!(environment.get(last), Some(&*format!("V{last}={last}")));
            }
        }
    }

    #[test]
    fn it_is_equal_by_what_it_holds_however_it_came_to_be() {
        let environment = numbered(2 * CHUNK);
        let mut changed = environment.clone();
        changed.replace(3, "V3=x");
        assert_ne!(environment, changed);
        assert_ne!(hash(&environment), hash(&changed));
        assert_eq!(environment.get(3), Some("V3=3"));
        changed.replace(3, "V3=3");
        assert_eq!(environment, changed);
        assert_eq!(hash(&environment), hash(&changed));
        changed.push("more=1");
        assert_ne!(environment, changed);
        changed.replace(1000, "nothing=1");
        assert_eq!(changed.len(), 2 * CHUNK + 1);
    }
}
