//! Reads the rows of one table of an SQLite file, and nothing else of it: no engine looks at what an image brings.
//! Format: sqlite.org/fileformat2.html. Text in UTF-8 and blobs are what databases of packages hold.

use super::bytes::{be_u16, be_u32, part};

const MAGIC: &[u8] = b"SQLite format 3\0";
const HEADER_BYTES: usize = 100;
/// The schema is a table at this page.
const SCHEMA_PAGE: u32 = 1;
const LEAF: u8 = 0x0d;
const INTERIOR: u8 = 0x05;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    Null,
    Integer(i64),
    Bytes(&'a [u8]),
}

pub(super) struct Database<'a> {
    file: &'a [u8],
    page_bytes: usize,
    /// What of a page is for content.
    usable_bytes: usize,
}

type Fallible<T> = Result<T, &'static str>;

const DAMAGED: &str = "it is damaged";

impl<'a> Database<'a> {
    pub(super) fn open(file: &'a [u8]) -> Fallible<Self> {
        if !file.starts_with(MAGIC) || file.len() < HEADER_BYTES {
            return Err("it is no SQLite database");
        }
        let page_bytes = match be_u16(file, 16) {
            Some(1) => 65536,
            Some(size) if size.is_power_of_two() && size >= 512 => usize::from(size),
            _ => return Err(DAMAGED),
        };
        let reserved = usize::from(*file.get(20).ok_or(DAMAGED)?);
        Ok(Self {
            file,
            page_bytes,
            usable_bytes: page_bytes
                .checked_sub(reserved)
                .filter(|it| *it >= 480)
                .ok_or(DAMAGED)?,
        })
    }

    /// Calls `each` with the record of every row of a table.
    pub(super) fn rows(&self, table: &[u8], each: &mut dyn FnMut(&[Value<'_>])) -> Fallible<()> {
        let mut root = None;
        // type, name, table, root page, SQL
        self.walk(SCHEMA_PAGE, &mut |record| {
            if record.first() == Some(&Value::Bytes(b"table"))
                && record.get(1) == Some(&Value::Bytes(table))
                && let Some(Value::Integer(page)) = record.get(3)
            {
                root = u32::try_from(*page).ok();
            }
        })?;
        self.walk(root.ok_or("it has no such table")?, each)
    }

    fn page(&self, number: u32) -> Fallible<&'a [u8]> {
        let index = (number as usize).checked_sub(1).ok_or(DAMAGED)?;
        let start = index.checked_mul(self.page_bytes).ok_or(DAMAGED)?;
        part(self.file, start, self.page_bytes).ok_or(DAMAGED)
    }

    fn walk(&self, root: u32, each: &mut dyn FnMut(&[Value<'_>])) -> Fallible<()> {
        let pages = self.file.len() / self.page_bytes;
        let mut waiting = vec![root];
        let mut visited = 0;
        while let Some(number) = waiting.pop() {
            // A page that is met twice is a cycle.
            visited += 1;
            if visited > pages {
                return Err(DAMAGED);
            }
            let page = self.page(number)?;
            let start = if number == SCHEMA_PAGE {
                HEADER_BYTES
            } else {
                0
            };
            let kind = *page.get(start).ok_or(DAMAGED)?;
            let cells = usize::from(be_u16(page, start + 3).ok_or(DAMAGED)?);
            let pointers = match kind {
                LEAF => start + 8,
                INTERIOR => start + 12,
                _ => return Err(DAMAGED),
            };
            if kind == INTERIOR {
                waiting.push(be_u32(page, start + 8).ok_or(DAMAGED)?);
            }
            // Pushed from the right, so that the leftmost is taken first.
            for cell in (0..cells).rev() {
                let at = usize::from(be_u16(page, pointers + 2 * cell).ok_or(DAMAGED)?);
                if kind == INTERIOR {
                    waiting.push(be_u32(page, at).ok_or(DAMAGED)?);
                }
            }
            for cell in (0..cells).filter(|_| kind == LEAF) {
                let at = usize::from(be_u16(page, pointers + 2 * cell).ok_or(DAMAGED)?);
                let payload = self.payload(page, at)?;
                each(&record(&payload)?);
            }
        }
        Ok(())
    }

    /// The record of a leaf's cell, continued on overflow pages.
    fn payload(&self, page: &'a [u8], at: usize) -> Fallible<Vec<u8>> {
        let cell = page.get(at..).ok_or(DAMAGED)?;
        let (length, used) = varint(cell)?;
        let (_row, used_by_row) = varint(cell.get(used..).ok_or(DAMAGED)?)?;
        let cell = cell.get(used + used_by_row..).ok_or(DAMAGED)?;
        let length = usize::try_from(length)
            .ok()
            .filter(|it| *it <= self.file.len());
        let length = length.ok_or(DAMAGED)?;
        let most = self.usable_bytes - 35;
        if length <= most {
            return Ok(part(cell, 0, length).ok_or(DAMAGED)?.to_vec());
        }
        let least = (self.usable_bytes - 12) * 32 / 255 - 23;
        let local = least + (length - least) % (self.usable_bytes - 4);
        let local = if local <= most { local } else { least };
        let mut payload = part(cell, 0, local).ok_or(DAMAGED)?.to_vec();
        let mut next = be_u32(cell, local).ok_or(DAMAGED)?;
        while payload.len() < length {
            let overflow = self.page(next)?;
            next = be_u32(overflow, 0).ok_or(DAMAGED)?;
            let wanted = (length - payload.len()).min(self.usable_bytes - 4);
            payload.extend_from_slice(part(overflow, 4, wanted).ok_or(DAMAGED)?);
        }
        Ok(payload)
    }
}

fn varint(bytes: &[u8]) -> Fallible<(u64, usize)> {
    let mut value: u64 = 0;
    for (place, byte) in bytes.iter().take(9).enumerate() {
        if place == 8 {
            return Ok(((value << 8) | u64::from(*byte), 9));
        }
        value = (value << 7) | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Ok((value, place + 1));
        }
    }
    Err(DAMAGED)
}

fn record(payload: &[u8]) -> Fallible<Vec<Value<'_>>> {
    let (header_bytes, mut at) = varint(payload)?;
    let header_bytes = usize::try_from(header_bytes).map_err(|_| DAMAGED)?;
    let header = payload.get(..header_bytes).ok_or(DAMAGED)?;
    let mut body = header_bytes;
    let mut values = Vec::new();
    while at < header.len() {
        let (kind, used) = varint(header.get(at..).unwrap_or_default())?;
        at += used;
        let size = match kind {
            0 | 8 | 9 => 0,
            1..=4 => kind,
            5 => 6,
            6 | 7 => 8,
            10 | 11 => return Err(DAMAGED),
            _ => (kind - 12) / 2,
        };
        let size = usize::try_from(size).map_err(|_| DAMAGED)?;
        let bytes = part(payload, body, size).ok_or(DAMAGED)?;
        body += size;
        values.push(match kind {
            // Nobody asks for a float.
            0 | 7 => Value::Null,
            8 => Value::Integer(0),
            9 => Value::Integer(1),
            1..=6 => Value::Integer(signed(bytes)),
            _ => Value::Bytes(bytes),
        });
    }
    Ok(values)
}

fn signed(bytes: &[u8]) -> i64 {
    let negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
    let start = if negative { -1 } else { 0 };
    bytes
        .iter()
        .fold(start, |sum: i64, byte| (sum << 8) | i64::from(*byte))
}
