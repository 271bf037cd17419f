//! Sparse files: which parts of a file an archive holds. GNU's old format, and its PAX formats 0.0, 0.1 and 1.0.

use std::io::Read;

use super::pax::SparseKeys;
use super::{BLOCK, Error, number};

/// A part of a file that the archive holds; between them are holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// How many parts a file may have.
const SEGMENT_LIMIT: usize = 1 << 17;

/// Where the old format has its fields in the header block, and in the blocks that continue it.
const HEADER_MAP: std::ops::Range<usize> = 386..482;
const HEADER_IS_EXTENDED: usize = 482;
const HEADER_REAL_SIZE: std::ops::Range<usize> = 483..495;
const EXTENSION_MAP: std::ops::Range<usize> = 0..504;
const EXTENSION_IS_EXTENDED: usize = 504;

/// Reads the map of the old format; its continuations follow the header block in `input`.
pub(super) fn old(
    header: &[u8; BLOCK],
    stored: u64,
    mut next_block: impl FnMut() -> Result<[u8; BLOCK], Error>,
) -> Result<(u64, Vec<Segment>), Error> {
    let real_size = header
        .get(HEADER_REAL_SIZE)
        .and_then(number::parse)
        .and_then(|size| u64::try_from(size).ok())
        .ok_or_else(|| bad("its real size is not a number"))?;
    let mut segments = Vec::new();
    old_numbers(header.get(HEADER_MAP).unwrap_or_default(), &mut segments)?;
    let mut extended = header.get(HEADER_IS_EXTENDED) != Some(&0);
    while extended {
        let block = next_block()?;
        old_numbers(block.get(EXTENSION_MAP).unwrap_or_default(), &mut segments)?;
        extended = block.get(EXTENSION_IS_EXTENDED) != Some(&0);
        limit(segments.len())?;
    }
    check(real_size, stored, segments)
}

fn old_numbers(map: &[u8], segments: &mut Vec<Segment>) -> Result<(), Error> {
    for pair in map.chunks_exact(24) {
        let (offset, length) = pair.split_at(12);
        if length.first() == Some(&0) {
            break;
        }
        let read = |field| number::parse(field).and_then(|value| u64::try_from(value).ok());
        match (read(offset), read(length)) {
            (Some(offset), Some(length)) => segments.push(Segment { offset, length }),
            _ => return Err(bad("its map is not made of numbers")),
        }
    }
    Ok(())
}

/// Reads the map of a PAX format. Format 1.0 has it before the data: `data` gives it, and `stored` is what is left
/// of the data after it.
pub(super) fn pax(
    keys: &SparseKeys,
    stored: &mut u64,
    data: &mut dyn Read,
) -> Result<(u64, Vec<Segment>), Error> {
    match (keys.major, keys.minor) {
        (Some(1), Some(0)) => {
            let real_size = keys
                .real_size
                .ok_or_else(|| bad("its real size is missing"))?;
            let segments = leading_map(stored, data)?;
            check(real_size, *stored, segments)
        }
        (None, None) | (Some(0), Some(0 | 1)) => {
            let real_size = keys.size.or(keys.real_size);
            let real_size = real_size.ok_or_else(|| bad("its real size is missing"))?;
            if !keys.map.len().is_multiple_of(2) {
                return Err(bad("its map ends within a pair"));
            }
            limit(keys.map.len() / 2)?;
            if keys
                .count
                .is_some_and(|count| count != (keys.map.len() / 2) as u64)
            {
                return Err(bad("its map has another length than it says"));
            }
            let segments = keys.map.chunks_exact(2).map(|pair| Segment {
                offset: pair.first().copied().unwrap_or_default(),
                length: pair.last().copied().unwrap_or_default(),
            });
            check(real_size, *stored, segments.collect())
        }
        _ => Err(bad("its format is of an unknown version")),
    }
}

/// The map of format 1.0: lines of decimal digits, the first says how many pairs, filled up to a whole block.
fn leading_map(stored: &mut u64, data: &mut dyn Read) -> Result<Vec<Segment>, Error> {
    let mut digits = Vec::new();
    let mut numbers: Vec<u64> = Vec::new();
    let mut wanted = None;
    while wanted != Some(numbers.len()) {
        let mut block = [0; BLOCK];
        *stored = stored
            .checked_sub(BLOCK as u64)
            .ok_or_else(|| bad("its map is longer than its data"))?;
        data.read_exact(&mut block)?;
        for byte in block {
            if wanted == Some(numbers.len()) {
                break;
            }
            if byte != b'\n' {
                digits.push(byte);
                if digits.len() > 20 {
                    return Err(bad("its map is not made of numbers"));
                }
                continue;
            }
            let number = number::decimal(&digits);
            let number = number.ok_or_else(|| bad("its map is not made of numbers"))?;
            digits.clear();
            if wanted.is_some() {
                numbers.push(number);
                continue;
            }
            let count = usize::try_from(number).unwrap_or(usize::MAX);
            limit(count)?;
            wanted = Some(2 * count);
        }
    }
    let segments = numbers.chunks_exact(2).map(|pair| Segment {
        offset: pair.first().copied().unwrap_or_default(),
        length: pair.last().copied().unwrap_or_default(),
    });
    Ok(segments.collect())
}

/// Parts are in order, do not overlap, lie within the file and are what is stored.
fn check(
    real_size: u64,
    stored: u64,
    segments: Vec<Segment>,
) -> Result<(u64, Vec<Segment>), Error> {
    if i64::try_from(real_size).is_err() {
        return Err(bad("it is too large"));
    }
    let (mut end, mut total) = (0_u64, 0_u64);
    for segment in &segments {
        if segment.offset < end {
            return Err(bad("its parts overlap or are out of order"));
        }
        end = segment
            .offset
            .checked_add(segment.length)
            .filter(|end| *end <= real_size)
            .ok_or_else(|| bad("a part lies beyond its end"))?;
        total = total.saturating_add(segment.length);
    }
    if total != stored {
        return Err(bad("its parts are not what is stored"));
    }
    Ok((real_size, segments))
}

fn limit(count: usize) -> Result<(), Error> {
    if count > SEGMENT_LIMIT {
        return Err(bad("it has too many parts"));
    }
    Ok(())
}

fn bad(reason: &str) -> Error {
    Error::Malformed(format!("a sparse file cannot be read: {reason}"))
}
