//! Reading a tar as a stream: [`Reader::next`] gives an entry, [`Read`] its stored bytes.
//!
//! Limits: an extended header or a long name 1 MiB, a sparse map 131072 parts. Refused, because readers disagree on
//! them or nobody means them: two extended headers of one kind for one entry, a name given twice, data behind a
//! directory, link or device, ids of 2^32-1 and above, sizes that are negative or not numbers, a lone zero block
//! with something after it.

use std::io::{BufRead, Read};

use super::pax::{self, Pax};
use super::sparse::{self, Segment};
use super::{BLOCK, EXTENDED_HEADER_LIMIT_BYTES, Error, number};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// One entry, whichever headers it was put together from.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// As written, without trailing slashes on directories.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    /// Of links.
    pub(crate) link: Vec<u8>,
    /// Major and minor number of devices.
    pub(crate) device: (u32, u32),
    /// Of files, holes counted.
    pub(crate) size: u64,
    /// In the archive's order.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where what is stored belongs; `None` for a file without holes.
    pub(crate) segments: Option<Vec<Segment>>,
}

#[derive(Debug)]
pub(crate) struct Reader<R> {
    input: R,
    /// Bytes taken from the input.
    offset: u64,
    /// Stored bytes of the current entry that were not read yet, and what fills its last block.
    left: u64,
    padding: u64,
    globals: Pax,
    ended: bool,
    marked: bool,
}

/// What came before an entry's own header.
#[derive(Default)]
struct Extended {
    pax: Option<Pax>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl Extended {
    fn any(&self) -> bool {
        self.pax.is_some() || self.long_name.is_some() || self.long_link.is_some()
    }
}

impl<R: Read> Reader<R> {
    pub(crate) fn new(input: R) -> Self {
        Self {
            input,
            offset: 0,
            left: 0,
            padding: 0,
            globals: Pax::default(),
            ended: false,
            marked: false,
        }
    }

    /// The input, for what follows the archive's end.
    pub(crate) fn into_inner(self) -> R {
        self.input
    }

    /// Where the current entry's unread data begins.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Skips what is left of the current entry and reads the next one; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, Error> {
        if self.ended {
            return Ok(None);
        }
        self.skip_data()?;
        let mut extended = Extended::default();
        loop {
            let Some(block) = self.header_block()? else {
                self.ended = true;
                if extended.any() {
                    return Err(malformed("it ends after an extended header"));
                }
                return Ok(None);
            };
            let header = tar::Header::from_byte_slice(&block);
            verify_checksum(&block, header)?;
            let size = unsigned(&header.as_old().size, "size")?;
            match header.as_old().linkflag[0] {
                b'x' | b'X' => {
                    let pax = pax::local(&self.small(size)?)?;
                    once(&mut extended.pax, pax)?;
                }
                b'g' => self.globals = pax::global(&self.small(size)?, &self.globals)?,
                b'L' => {
                    let name = self.small(size)?;
                    once(&mut extended.long_name, until_zero(&name).to_vec())?;
                }
                b'K' => {
                    let name = self.small(size)?;
                    once(&mut extended.long_link, until_zero(&name).to_vec())?;
                }
                // A volume's label is the name of the whole archive.
                b'V' => self.small(size).map(drop)?,
                flag => return self.entry(&block, header, flag, size, extended).map(Some),
            }
        }
    }

    fn entry(
        &mut self,
        block: &[u8; BLOCK],
        header: &tar::Header,
        flag: u8,
        size: u64,
        extended: Extended,
    ) -> Result<Entry, Error> {
        let old = header.as_old();
        let pax = extended.pax.unwrap_or_default();
        let path = chosen(pax.path, extended.long_name, || header_path(block, header))?;
        let link = chosen(pax.link, extended.long_link, || {
            until_zero(&old.linkname).to_vec()
        })?;
        let mut stored = pax.size.unwrap_or(size);
        let kind = match flag {
            b'0' | 0 if path.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => {
                let other = crate::error::shown(&[other]);
                return Err(malformed(&format!(
                    "an entry is of the unknown type `{other}`"
                )));
            }
        };
        match kind {
            Kind::File => {}
            // The size of the file that is linked to; no data follows.
            Kind::HardLink => stored = 0,
            _ if stored == 0 => {}
            _ => return Err(malformed("data follows an entry that is not a file")),
        }
        if i64::try_from(stored).is_err() {
            return Err(malformed("a size is too large"));
        }
        self.left = stored;
        self.padding = padding(stored);
        let mut entry = Entry {
            path,
            kind,
            mode: u32::try_from(signed(&old.mode, "mode")? & 0o7777).unwrap_or_default(),
            uid: id(pax.uid.or(self.globals.uid), &old.uid, "user")?,
            gid: id(pax.gid.or(self.globals.gid), &old.gid, "group")?,
            mtime: match pax.mtime.or(self.globals.mtime) {
                Some(time) => time,
                None => (signed(&old.mtime, "time")?, 0),
            },
            link,
            device: (0, 0),
            size: stored,
            xattrs: pax.xattrs,
            segments: None,
        };
        match kind {
            Kind::CharDevice | Kind::BlockDevice => entry.device = device(header)?,
            Kind::File if flag == b'S' => {
                if header.as_gnu().is_none() {
                    return Err(malformed("a sparse file has no GNU header"));
                }
                let (size, segments) = sparse::old(block, stored, || self.raw_block())?;
                (entry.size, entry.segments) = (size, Some(segments));
            }
            Kind::File if pax.sparse.any() => {
                let mut left = self.left;
                let (size, segments) = sparse::pax(&pax.sparse, &mut left, self)?;
                (entry.size, entry.segments) = (size, Some(segments));
                if let Some(name) = pax.sparse.name {
                    entry.path = name;
                }
            }
            _ => {}
        }
        if entry.path.is_empty() {
            return Err(malformed("an entry has no name"));
        }
        Ok(entry)
    }

    /// Whether the end was marked by a block of zeros, as POSIX asks for; otherwise the input just ended, perhaps too
    /// early.
    pub(crate) fn end_is_marked(&self) -> bool {
        self.marked
    }

    /// A header block; `None` at the end of the archive.
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK]>, Error> {
        let Some(block) = self.block_or_end()? else {
            return Ok(None);
        };
        if block != [0; BLOCK] {
            return Ok(Some(block));
        }
        self.marked = true;
        match self.block_or_end()? {
            Some(block) if block != [0; BLOCK] => {
                Err(malformed("something follows a lone block of zeros"))
            }
            _ => Ok(None),
        }
    }

    /// A whole block, or `None` where the input ends before it.
    fn block_or_end(&mut self) -> Result<Option<[u8; BLOCK]>, Error> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let rest = block.get_mut(filled..).unwrap_or_default();
            match self.input.read(rest) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(malformed("it ends within a header")),
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.offset += BLOCK as u64;
        Ok(Some(block))
    }

    fn raw_block(&mut self) -> Result<[u8; BLOCK], Error> {
        self.block_or_end()?
            .ok_or_else(|| malformed("it ends within a header"))
    }

    /// The data of an extended header or a long name.
    fn small(&mut self, size: u64) -> Result<Vec<u8>, Error> {
        if size > EXTENDED_HEADER_LIMIT_BYTES {
            return Err(malformed(&format!(
                "an extended header has {size} bytes, more than {EXTENDED_HEADER_LIMIT_BYTES}"
            )));
        }
        self.left = size;
        self.padding = padding(size);
        let mut bytes = Vec::new();
        Read::take(&mut *self, size).read_to_end(&mut bytes)?;
        self.skip_data()?;
        Ok(bytes)
    }

    /// Leaves the current entry's data out: the caller has moved, or will move, its input past it.
    pub(crate) fn skip_stored(&mut self, bytes: u64, skip: impl FnOnce(&mut R)) {
        self.left = self.left.saturating_sub(bytes);
        self.offset = self.offset.saturating_add(bytes);
        skip(&mut self.input);
    }

    fn skip_data(&mut self) -> Result<(), Error> {
        std::io::copy(self, &mut std::io::sink())?;
        let padding = std::mem::take(&mut self.padding);
        let skipped = std::io::copy(&mut (&mut self.input).take(padding), &mut std::io::sink())?;
        self.offset += skipped;
        if skipped < padding {
            return Err(malformed("it ends within an entry"));
        }
        Ok(())
    }
}

/// The stored bytes of the current entry. Ends with an error where the archive does.
impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let limit = usize::try_from(self.left).unwrap_or(usize::MAX);
        let length = buffer.len().min(limit);
        let Some(buffer) = buffer.get_mut(..length).filter(|part| !part.is_empty()) else {
            return Ok(0);
        };
        let count = self.input.read(buffer)?;
        if count == 0 {
            return Err(std::io::Error::new(
                std::io::ErrorKind::UnexpectedEof,
                "it ends within an entry",
            ));
        }
        self.left -= count as u64;
        self.offset += count as u64;
        Ok(count)
    }
}

/// As [`Read`], without a copy.
impl<R: BufRead> BufRead for Reader<R> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let bytes = self.input.fill_buf()?;
        if bytes.is_empty() {
            return Err(std::io::Error::new(
                std::io::ErrorKind::UnexpectedEof,
                "it ends within an entry",
            ));
        }
        let limit = usize::try_from(self.left).unwrap_or(usize::MAX);
        Ok(bytes.get(..bytes.len().min(limit)).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.input.consume(count);
        self.left = self.left.saturating_sub(count as u64);
        self.offset = self.offset.saturating_add(count as u64);
    }
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

fn malformed(reason: &str) -> Error {
    Error::Malformed(reason.to_owned())
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), Error> {
    if slot.replace(value).is_some() {
        return Err(malformed("an entry has two extended headers of one kind"));
    }
    Ok(())
}

/// The one name that the headers give; an extended name beats the header's own, which is cut off.
fn chosen(
    pax: Option<Vec<u8>>,
    gnu: Option<Vec<u8>>,
    header: impl FnOnce() -> Vec<u8>,
) -> Result<Vec<u8>, Error> {
    match (pax, gnu) {
        (Some(pax), Some(gnu)) if pax != gnu => {
            Err(malformed("an entry has two different long names"))
        }
        (Some(name), _) | (None, Some(name)) => Ok(name),
        (None, None) => Ok(header()),
    }
}

fn until_zero(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// The name in the header itself, with ustar's prefix. GNU's headers have other fields in its place.
fn header_path(block: &[u8; BLOCK], header: &tar::Header) -> Vec<u8> {
    let name = until_zero(&header.as_old().name);
    let Some(ustar) = header.as_ustar() else {
        return name.to_vec();
    };
    // Schily's star marks its headers at the end and has times where the prefix' last bytes are.
    let prefix = match block.get(508..) {
        Some(b"tar\0") => ustar.prefix.get(..131).unwrap_or_default(),
        _ => ustar.prefix.as_slice(),
    };
    let prefix = until_zero(prefix);
    if prefix.is_empty() {
        return name.to_vec();
    }
    [prefix, b"/", name].concat()
}

/// Whether a stream that begins so begins with an entry's header.
pub(crate) fn is_header(first_bytes: &[u8]) -> bool {
    let block = first_bytes.first_chunk::<BLOCK>();
    block.is_some_and(|block| verify_checksum(block, tar::Header::from_byte_slice(block)).is_ok())
}

fn verify_checksum(block: &[u8; BLOCK], header: &tar::Header) -> Result<(), Error> {
    let expected = number::parse(&header.as_old().cksum);
    let (mut unsigned, mut signed) = (0_i64, 0_i64);
    for (i, byte) in block.iter().enumerate() {
        // The checksum's own field counts as blanks.
        let byte = if (148..156).contains(&i) { b' ' } else { *byte };
        unsigned += i64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    // Very old writers added up signed characters.
    if expected == Some(unsigned) || expected == Some(signed) {
        return Ok(());
    }
    Err(malformed("a header's checksum is wrong"))
}

fn signed(field: &[u8], what: &str) -> Result<i64, Error> {
    number::parse(field).ok_or_else(|| malformed(&format!("a {what} is not a number")))
}

fn unsigned(field: &[u8], what: &str) -> Result<u64, Error> {
    u64::try_from(signed(field, what)?).map_err(|_| malformed(&format!("a {what} is negative")))
}

/// An owner. 2^32-1 means "no change" to the kernel, and what is beyond would wrap around to somebody else.
fn id(pax: Option<u64>, field: &[u8], what: &str) -> Result<u32, Error> {
    let id = match pax {
        Some(id) => id,
        None => unsigned(field, what)?,
    };
    u32::try_from(id)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| malformed(&format!("the {what} {id} does not fit in 32 bits")))
}

fn device(header: &tar::Header) -> Result<(u32, u32), Error> {
    let (major, minor) = if let Some(ustar) = header.as_ustar() {
        (&ustar.dev_major, &ustar.dev_minor)
    } else if let Some(gnu) = header.as_gnu() {
        (&gnu.dev_major, &gnu.dev_minor)
    } else {
        return Err(malformed("a device has no numbers"));
    };
    let number = |field: &[u8]| {
        let number = unsigned(field, "device number")?;
        // What the kernel can hold: 12 bits and 20 bits.
        u32::try_from(number).map_err(|_| malformed("a device number is too large"))
    };
    let (major, minor) = (number(major)?, number(minor)?);
    if major >= 1 << 12 || minor >= 1 << 20 {
        return Err(malformed("a device number is too large"));
    }
    Ok((major, minor))
}
