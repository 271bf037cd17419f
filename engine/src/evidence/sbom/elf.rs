//! Finds sections of ELF programs by name. Reads the headers and nothing else until a section is asked for.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use super::bytes::number;

const MAGIC: &[u8] = b"\x7fELF";
const HEADER_BYTES: usize = 64;
/// No program that anybody ships has more.
const SECTIONS_MAX: u64 = 4096;
const NAMES_BYTES_MAX: u64 = 1 << 20;

pub(super) struct Elf {
    sections: Vec<Section>,
}

#[derive(Debug)]
struct Section {
    name: Vec<u8>,
    offset: u64,
    size: u64,
}

impl Elf {
    /// `None` for what is no ELF file, or one without sections.
    pub(super) fn open(file: &File) -> Option<Self> {
        let header = read(file, 0, HEADER_BYTES as u64)?;
        if !header.starts_with(MAGIC) {
            return None;
        }
        let wide = match header.get(4)? {
            1 => false,
            2 => true,
            _ => return None,
        };
        let big = header.get(5) == Some(&2);
        let (word, at, entry_at) = if wide { (8, 40, 58) } else { (4, 32, 46) };
        let table = number(&header, at, word, big)?;
        let entry_bytes = number(&header, entry_at, 2, big)?;
        let count = number(&header, entry_at + 2, 2, big)?;
        let names = number(&header, entry_at + 4, 2, big)?;
        let needed = if wide { 64 } else { 40 };
        if count > SECTIONS_MAX || entry_bytes < needed || names >= count {
            return None;
        }
        let table = read(file, table, count.checked_mul(entry_bytes)?)?;
        let field = |section: u64, at: usize, size: usize| {
            let start = usize::try_from(section.checked_mul(entry_bytes)?).ok()?;
            number(&table, start + at, size, big)
        };
        let place = |section: u64| {
            let at = if wide { (24, 32) } else { (16, 20) };
            Some((field(section, at.0, word)?, field(section, at.1, word)?))
        };
        let (offset, size) = place(names)?;
        let texts = read(file, offset, size.min(NAMES_BYTES_MAX))?;
        let section = |number: u64| {
            let name = usize::try_from(field(number, 0, 4)?).ok()?;
            let name = texts.get(name..)?.split(|byte| *byte == 0).next()?;
            let (offset, size) = place(number)?;
            Some(Section {
                name: name.to_vec(),
                offset,
                size,
            })
        };
        Some(Self {
            sections: (0..count).filter_map(section).collect(),
        })
    }

    /// A section's bytes. `None` where there is none, or a larger one than `limit`.
    pub(super) fn section(&self, file: &File, name: &[u8], limit: u64) -> Option<Vec<u8>> {
        let section = self.sections.iter().find(|section| section.name == name)?;
        if section.size > limit {
            return None;
        }
        read(file, section.offset, section.size)
    }
}

/// `None` where the file is shorter.
fn read(file: &File, offset: u64, size: u64) -> Option<Vec<u8>> {
    let length = file.metadata().ok()?.len();
    if offset.checked_add(size)? > length {
        return None;
    }
    let mut bytes = vec![0; usize::try_from(size).ok()?];
    file.read_exact_at(&mut bytes, offset).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_of_this_very_program() {
        let file = File::open("/proc/self/exe").unwrap();
        let elf = Elf::open(&file).unwrap();
        let text = elf.section(&file, b".comment", 1 << 20).unwrap();
        assert!(!text.is_empty());
        assert!(elf.section(&file, b".text", 16).is_none());
        assert!(elf.section(&file, b".none", 16).is_none());
    }

    #[test]
    fn what_is_none_is_refused() {
        use std::io::Write;
        let mut file = tempfile::tempfile().unwrap();
        assert!(Elf::open(&file).is_none());
        // Headers that point anywhere.
        let mut bytes = b"\x7fELF\x02\x01".to_vec();
        bytes.resize(64, 0xff);
        file.write_all(&bytes).unwrap();
        assert!(Elf::open(&file).is_none());
    }
}
