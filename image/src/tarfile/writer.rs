//! Writing a tar canonically: ustar headers, a PAX header before an entry only where ustar has no room for
//! something, no names of users, whole seconds. The bytes are a function of what is given, in the order given.

use std::io::{self, Read, Write};

use super::BLOCK;
use super::reader::Kind;

/// What a header says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header<'a> {
    /// Relative, without trailing slash.
    pub(crate) path: &'a [u8],
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: i64,
    /// Of links.
    pub(crate) link: &'a [u8],
    /// Of devices.
    pub(crate) device: (u32, u32),
    /// Of files.
    pub(crate) size: u64,
    pub(crate) xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

impl<'a> Header<'a> {
    /// An empty file of root at the epoch; everything else is set on top.
    pub(crate) fn file(path: &'a [u8], mode: u32, size: u64) -> Self {
        Self {
            path,
            kind: Kind::File,
            mode,
            uid: 0,
            gid: 0,
            mtime: 0,
            link: b"",
            device: (0, 0),
            size,
            xattrs: &[],
        }
    }

    pub(crate) fn directory(path: &'a [u8], mode: u32, mtime: i64) -> Self {
        Self {
            kind: Kind::Directory,
            mtime,
            ..Self::file(path, mode, 0)
        }
    }
}

#[derive(Debug)]
pub(crate) struct Writer<W: Write> {
    output: W,
}

const NAME_BYTES: usize = 100;
const PREFIX_BYTES: usize = 155;
/// What the octal fields of ustar hold.
const ID_MAX: u32 = 0o7_777_777;
const NUMBER_MAX: u64 = 0o77_777_777_777;

impl<W: Write> Writer<W> {
    pub(crate) fn new(output: W) -> Self {
        Self { output }
    }

    /// Writes an entry's headers. Of a file, exactly its size has to follow through [`Writer::data`].
    pub(crate) fn header(&mut self, header: &Header<'_>) -> io::Result<()> {
        let mut pax = Vec::new();
        let mut path = header.path.to_vec();
        if header.kind == Kind::Directory {
            path.push(b'/');
        }
        let mut ustar = tar::Header::new_ustar();
        let place = split(&path);
        if let Some((prefix, name)) = place {
            put_text(&mut ustar.as_old_mut().name, name);
            if let Some(fields) = ustar.as_ustar_mut() {
                put_text(&mut fields.prefix, prefix);
            }
        } else {
            record(&mut pax, b"path", &path);
            put_text(
                &mut ustar.as_old_mut().name,
                path.get(..NAME_BYTES).unwrap_or(&path),
            );
        }
        if header.link.len() > NAME_BYTES {
            record(&mut pax, b"linkpath", header.link);
        }
        put_text(&mut ustar.as_old_mut().linkname, header.link);
        if header.size > NUMBER_MAX {
            record(&mut pax, b"size", header.size.to_string().as_bytes());
        }
        for (name, id) in [("uid", header.uid), ("gid", header.gid)] {
            if id > ID_MAX {
                record(&mut pax, name.as_bytes(), id.to_string().as_bytes());
            }
        }
        let mtime = u64::try_from(header.mtime)
            .ok()
            .filter(|time| *time <= NUMBER_MAX);
        if mtime.is_none() {
            record(&mut pax, b"mtime", header.mtime.to_string().as_bytes());
        }
        for (name, value) in header.xattrs {
            record(
                &mut pax,
                &[b"SCHILY.xattr.", name.as_slice()].concat(),
                value,
            );
        }
        let fits = |id: u32| if id > ID_MAX { 0 } else { u64::from(id) };
        ustar.set_entry_type(entry_type(header.kind));
        ustar.set_mode(header.mode);
        ustar.set_uid(fits(header.uid));
        ustar.set_gid(fits(header.gid));
        ustar.set_mtime(mtime.unwrap_or(0));
        ustar.set_size(if header.size > NUMBER_MAX {
            0
        } else {
            header.size
        });
        if matches!(header.kind, Kind::CharDevice | Kind::BlockDevice) {
            ustar.set_device_major(header.device.0)?;
            ustar.set_device_minor(header.device.1)?;
        }
        ustar.set_cksum();
        if !pax.is_empty() {
            self.pax(&pax)?;
        }
        self.output.write_all(ustar.as_bytes())
    }

    fn pax(&mut self, records: &[u8]) -> io::Result<()> {
        let mut header = tar::Header::new_ustar();
        put_text(&mut header.as_old_mut().name, b"PaxHeaders.0/entry");
        header.set_entry_type(tar::EntryType::XHeader);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(records.len() as u64);
        header.set_cksum();
        self.output.write_all(header.as_bytes())?;
        self.output.write_all(records)?;
        self.pad(records.len() as u64)
    }

    /// Copies exactly `size` bytes; an error if there are fewer.
    pub(crate) fn data(&mut self, input: &mut dyn Read, size: u64) -> io::Result<()> {
        let mut buffer = vec![
            0;
            usize::try_from(size)
                .unwrap_or(usize::MAX)
                .clamp(1, 256 << 10)
        ];
        let mut left = size;
        while left > 0 {
            let length = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let count = match input.read(buffer.get_mut(..length).unwrap_or_default()) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if count == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the file became shorter while it was read",
                ));
            }
            self.output
                .write_all(buffer.get(..count).unwrap_or_default())?;
            left -= count as u64;
        }
        self.pad(size)
    }

    /// Writes some of an entry's bytes. [`Writer::pad`] has to follow the last of them.
    pub(crate) fn piece(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.output.write_all(bytes)
    }

    /// Hands on what is buffered, so that an entry's bytes can go to the output by another way. [`Writer::pad`] has to
    /// follow them.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }

    /// Ends an entry of `size` bytes.
    pub(crate) fn pad(&mut self, size: u64) -> io::Result<()> {
        let length = usize::try_from(size.wrapping_neg() % BLOCK as u64).unwrap_or_default();
        self.output
            .write_all([0; BLOCK].get(..length).unwrap_or_default())
    }

    /// Ends the archive with its two blocks of zeros.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.output.write_all(&[0; 2 * BLOCK])?;
        Ok(self.output)
    }
}

fn entry_type(kind: Kind) -> tar::EntryType {
    match kind {
        Kind::File => tar::EntryType::Regular,
        Kind::HardLink => tar::EntryType::Link,
        Kind::Symlink => tar::EntryType::Symlink,
        Kind::CharDevice => tar::EntryType::Char,
        Kind::BlockDevice => tar::EntryType::Block,
        Kind::Directory => tar::EntryType::Directory,
        Kind::Fifo => tar::EntryType::Fifo,
    }
}

/// Splits a path into ustar's prefix and name; `None` where it does not fit.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= NAME_BYTES {
        return Some((b"", path));
    }
    // The last slash that leaves a prefix short enough, so that the name is as short as can be; a trailing slash
    // belongs to the name.
    let inner = path.len() - 1;
    let slash = path
        .get(..inner.min(PREFIX_BYTES + 1))?
        .iter()
        .rposition(|byte| *byte == b'/')?;
    let (prefix, name) = (path.get(..slash)?, path.get(slash + 1..)?);
    (!prefix.is_empty() && name.len() <= NAME_BYTES).then_some((prefix, name))
}

fn put_text(field: &mut [u8], text: &[u8]) {
    for (to, from) in field.iter_mut().zip(text) {
        *to = *from;
    }
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::super::Reader;
    use super::*;

    #[test]
    fn the_length_of_a_record_counts_itself() {
        for value in [
            0, 1, 80, 85, 86, 87, 88, 89, 90, 91, 983, 984, 985, 986, 987, 990,
        ] {
            let mut records = Vec::new();
            record(&mut records, b"path", &vec![b'x'; value]);
            let text = String::from_utf8(records.clone()).unwrap();
            let length: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(length, records.len());
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let long = [vec![b'd'; 200], b"/".to_vec(), vec![b'f'; 200]].concat();
        let deep = b"abcdefghi/".repeat(14);
        let paths: [&[u8]; 5] = [
            b"a",
            &[b'x'; 100],
            &deep[..deep.len() - 1],
            &long,
            b"\xff\n",
        ];
        for path in paths {
            for kind in [Kind::File, Kind::Directory, Kind::Symlink, Kind::CharDevice] {
                let mut header = Header::file(path, 0o4755, 0);
                header.kind = kind;
                header.uid = 3_000_000_000;
                header.mtime = -5;
                if kind == Kind::Symlink {
                    header.link = &long;
                }
                if kind == Kind::CharDevice {
                    header.device = (5, 1);
                }
                let xattrs = [(b"security.capability".to_vec(), vec![0, 10, 255])];
                header.xattrs = &xattrs;
                let mut writer = Writer::new(Vec::new());
                writer.header(&header).unwrap();
                let bytes = writer.finish().unwrap();
                let mut reader = Reader::new(bytes.as_slice());
                let entry = reader.next().unwrap().unwrap();
                let mut read_path = entry.path.clone();
                if kind == Kind::Directory {
                    assert_eq!(read_path.pop(), Some(b'/'));
                }
                assert_eq!(read_path, path);
                assert_eq!(
                    (entry.kind, entry.mode, entry.uid),
                    (kind, 0o4755, 3_000_000_000)
                );
                assert_eq!((entry.mtime, entry.device), ((-5, 0), header.device));
                assert_eq!(
                    (entry.link.as_slice(), &entry.xattrs[..]),
                    (header.link, &xattrs[..])
                );
                assert!(reader.next().unwrap().is_none());
            }
        }
    }
}
