//! PAX extended headers: `LENGTH KEY=VALUE\n`, any number of times.

use super::{Error, number};

/// Linux lists the names of one file's attributes in no more than this.
const XATTR_NAMES_LIMIT_BYTES: usize = 64 << 10;

/// What one extended header says about the entry after it; unknown keys are not kept.
#[derive(Debug, Default, Clone)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<(i64, u32)>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Bytes of their names, with the zero behind each.
    xattr_names: usize,
    pub(super) sparse: SparseKeys,
}

/// The `GNU.sparse.*` keys, as found.
#[derive(Debug, Default, Clone)]
pub(super) struct SparseKeys {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    pub(super) size: Option<u64>,
    pub(super) count: Option<u64>,
    /// Offsets and lengths in turn, from `map` (0.1) or from pairs of records (0.0).
    pub(super) map: Vec<u64>,
}

impl SparseKeys {
    pub(super) fn any(&self) -> bool {
        self.major.is_some()
            || self.real_size.is_some()
            || self.size.is_some()
            || self.count.is_some()
            || !self.map.is_empty()
    }
}

/// Parses an extended header that belongs to one entry.
pub(super) fn local(bytes: &[u8]) -> Result<Pax, Error> {
    let mut pax = Pax::default();
    for record in (Records { rest: bytes }) {
        let (key, value) = record?;
        pax.set(key, value)?;
    }
    Ok(pax)
}

/// Parses an extended header that belongs to all entries after it, on top of earlier ones. Go's reader ignores
/// them and GNU tar does not, so what would change which entries there are is refused.
pub(super) fn global(bytes: &[u8], before: &Pax) -> Result<Pax, Error> {
    let mut pax = before.clone();
    for record in (Records { rest: bytes }) {
        let (key, value) = record?;
        match key {
            b"uid" | b"gid" | b"mtime" => pax.set(key, value)?,
            b"path" | b"linkpath" | b"size" => {
                return Err(malformed(key, "is in a header that speaks of all entries"));
            }
            _ if key.starts_with(b"GNU.sparse.") => {
                return Err(malformed(key, "is in a header that speaks of all entries"));
            }
            _ => {}
        }
    }
    Ok(pax)
}

impl Pax {
    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        match key {
            b"path" => self.path = text(key, value)?,
            b"linkpath" => self.link = text(key, value)?,
            b"size" => self.size = size(key, value)?,
            b"uid" => self.uid = size(key, value)?,
            b"gid" => self.gid = size(key, value)?,
            b"mtime" => {
                self.mtime = match value {
                    b"" => None,
                    _ => Some(number::time(value).ok_or_else(|| malformed(key, "is not a time"))?),
                }
            }
            b"GNU.sparse.major" => self.sparse.major = size(key, value)?,
            b"GNU.sparse.minor" => self.sparse.minor = size(key, value)?,
            b"GNU.sparse.name" => self.sparse.name = text(key, value)?,
            b"GNU.sparse.realsize" => self.sparse.real_size = size(key, value)?,
            b"GNU.sparse.size" => self.sparse.size = size(key, value)?,
            b"GNU.sparse.numblocks" => self.sparse.count = size(key, value)?,
            b"GNU.sparse.offset" => self.sparse_number(key, value, 0)?,
            b"GNU.sparse.numbytes" => self.sparse_number(key, value, 1)?,
            b"GNU.sparse.map" => {
                self.sparse.map = value
                    .split(|byte| *byte == b',')
                    .map(number::decimal)
                    .collect::<Option<_>>()
                    .ok_or_else(|| malformed(key, "is not a list of numbers"))?;
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.set_xattr(name, value)?;
                }
            }
        }
        Ok(())
    }

    /// Format 0.0 repeats its two keys in turn.
    fn sparse_number(&mut self, key: &[u8], value: &[u8], turn: usize) -> Result<(), Error> {
        let number = number::decimal(value).ok_or_else(|| malformed(key, "is not a number"))?;
        if self.sparse.map.len() % 2 != turn {
            return Err(malformed(key, "is out of turn"));
        }
        self.sparse.map.push(number);
        Ok(())
    }

    fn set_xattr(&mut self, name: &[u8], value: &[u8]) -> Result<(), Error> {
        if name.is_empty() || name.contains(&0) {
            return Err(malformed(
                name,
                "cannot be the name of an extended attribute",
            ));
        }
        self.xattr_names += name.len() + 1;
        if self.xattr_names > XATTR_NAMES_LIMIT_BYTES {
            return Err(Error::Malformed(format!(
                "the names of an entry's extended attributes come to more than {XATTR_NAMES_LIMIT_BYTES} bytes, which \
                 no file can have"
            )));
        }
        match self.xattrs.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value.to_vec(),
            None => self.xattrs.push((name.to_vec(), value.to_vec())),
        }
        Ok(())
    }
}

/// A name; an empty one takes back what a header before it said.
fn text(key: &[u8], value: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    if value.contains(&0) {
        return Err(malformed(key, "holds a zero byte"));
    }
    Ok((!value.is_empty()).then(|| value.to_vec()))
}

fn size(key: &[u8], value: &[u8]) -> Result<Option<u64>, Error> {
    if value.is_empty() {
        return Ok(None);
    }
    let number = number::decimal(value).ok_or_else(|| malformed(key, "is not a number"))?;
    Ok(Some(number))
}

fn malformed(key: &[u8], reason: &str) -> Error {
    let key = crate::error::shown(key);
    Error::Malformed(format!("`{key}` in an extended header {reason}"))
}

struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let parsed = record(self.rest);
        self.rest = parsed.as_ref().map_or(&[], |(_, rest)| rest);
        let broken = || Error::Malformed("an extended header cannot be read".to_owned());
        Some(parsed.map(|(record, _)| record).ok_or_else(broken))
    }
}

type Record<'a> = (&'a [u8], &'a [u8]);

fn record(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let digits = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(number::decimal(bytes.get(..digits)?)?).ok()?;
    let record = bytes.get(digits + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    let (key, value) = (record.get(..equals)?, record.get(equals + 1..)?);
    if key.is_empty() {
        return None;
    }
    Some(((key, value), bytes.get(length..)?))
}
