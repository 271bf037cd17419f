//! RPM's database in its three forms: SQLite, ndb (SUSE) and Berkeley DB's hash (before 2021). Each holds a header a
//! package; what a header is: rpm.org, "RPM V4 package format".

use super::bytes::{be_u32, le_u32, number, part};
use super::sqlite::{Database, Value};
use super::{Distribution, Package};
use crate::evidence::purl::purl;

/// Names of the files, wherever they lie (`var/lib/rpm`, `usr/lib/sysimage/rpm`, `usr/share/rpm`).
pub(super) fn is_database(path: &str) -> bool {
    ["rpm/rpmdb.sqlite", "rpm/Packages.db", "rpm/Packages"]
        .iter()
        .any(|name| path.ends_with(name))
}

const NAME: u32 = 1000;
const VERSION: u32 = 1001;
const RELEASE: u32 = 1002;
const EPOCH: u32 = 1003;
const VENDOR: u32 = 1011;
const LICENSE: u32 = 1014;
const URL: u32 = 1020;
const ARCHITECTURE: u32 = 1022;
const SOURCE: u32 = 1044;

const DAMAGED: &str = "it is damaged";

type Fallible<T> = Result<T, &'static str>;

pub(super) fn packages(
    path: &str,
    file: &[u8],
    distribution: &Distribution,
) -> Fallible<Vec<Package>> {
    let mut found = Vec::new();
    let mut damaged = 0;
    let mut add = |header: &[u8]| match package(header, distribution) {
        Some(package) => found.push(package),
        None => damaged += 1,
    };
    if path.ends_with(".sqlite") {
        Database::open(file)?.rows(b"Packages", &mut |record| {
            if let Some(Value::Bytes(header)) = record.get(1) {
                add(header);
            }
        })?;
    } else if path.ends_with(".db") {
        ndb(file, &mut add)?;
    } else {
        berkeley(file, &mut add)?;
    }
    // Keys that were imported look like packages; they are no software.
    found.retain(|package| package.name != "gpg-pubkey");
    match damaged {
        0 => Ok(found),
        _ if found.is_empty() => Err(DAMAGED),
        _ => Err("some of its packages are damaged"),
    }
}

fn package(header: &[u8], distribution: &Distribution) -> Option<Package> {
    let header = Header::read(header)?;
    let (name, version) = (header.text(NAME)?, header.text(VERSION)?);
    let version = match header.text(RELEASE) {
        Some(release) => format!("{version}-{release}"),
        None => version,
    };
    let epoch = header.integer(EPOCH).map(|epoch| epoch.to_string());
    let text = |tag: u32| header.text(tag).unwrap_or_default();
    let source = text(SOURCE);
    Some(Package {
        purl: purl(
            "rpm",
            distribution.id_or("rpm"),
            &name,
            &version,
            &[
                ("arch", &text(ARCHITECTURE)),
                ("distro", &distribution.name()),
                ("epoch", epoch.as_deref().unwrap_or_default()),
                ("upstream", &source),
            ],
        ),
        version: match epoch {
            Some(epoch) => format!("{epoch}:{version}"),
            None => version,
        },
        name,
        license: text(LICENSE),
        supplier: text(VENDOR),
        homepage: text(URL),
        ..Package::default()
    })
}

/// Counts of entries and of bytes of data, the entries (tag, type, offset, count), the data.
struct Header<'a> {
    entries: &'a [u8],
    data: &'a [u8],
}

const ENTRY_BYTES: usize = 16;
const TYPE_INTEGER: u32 = 4;
const TYPE_TEXT: u32 = 6;
const TYPE_TEXT_IN_LANGUAGES: u32 = 9;

impl<'a> Header<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let entries = (be_u32(bytes, 0)? as usize).checked_mul(ENTRY_BYTES)?;
        let data = be_u32(bytes, 4)? as usize;
        Some(Self {
            entries: part(bytes, 8, entries)?,
            data: part(bytes, entries.checked_add(8)?, data)?,
        })
    }

    fn find(&self, tag: u32) -> Option<(u32, &'a [u8])> {
        let mut entries = self.entries.chunks_exact(ENTRY_BYTES);
        let entry = entries.find(|entry| be_u32(entry, 0) == Some(tag))?;
        Some((
            be_u32(entry, 4)?,
            self.data.get(be_u32(entry, 8)? as usize..)?,
        ))
    }

    fn text(&self, tag: u32) -> Option<String> {
        let (kind, data) = self.find(tag)?;
        if !matches!(kind, TYPE_TEXT | TYPE_TEXT_IN_LANGUAGES) {
            return None;
        }
        let text = data.split(|byte| *byte == 0).next()?;
        Some(String::from_utf8_lossy(text).into_owned()).filter(|text| !text.is_empty())
    }

    fn integer(&self, tag: u32) -> Option<u32> {
        let (kind, data) = self.find(tag)?;
        (kind == TYPE_INTEGER).then(|| be_u32(data, 0))?
    }
}

/// Slots of 16 bytes (magic, package, offset and length in blocks of 16 bytes) in pages of 4096, the first two of
/// which are the file's header; each leads to a blob of 16 bytes (magic, package, generation, length) and a header.
fn ndb(file: &[u8], each: &mut dyn FnMut(&[u8])) -> Fallible<()> {
    const HEADER_MAGIC: &[u8] = b"RpmP";
    const SLOT_MAGIC: &[u8] = b"Slot";
    const BLOB_MAGIC: &[u8] = b"BlbS";
    const SLOT_BYTES: usize = 16;
    if !file.starts_with(HEADER_MAGIC) {
        return Err("it is of an unknown kind");
    }
    let pages = le_u32(file, 12).ok_or(DAMAGED)? as usize;
    let slots = pages.checked_mul(4096).and_then(|end| file.get(32..end));
    for slot in slots.ok_or(DAMAGED)?.chunks_exact(SLOT_BYTES) {
        let package = le_u32(slot, 4).ok_or(DAMAGED)?;
        if !slot.starts_with(SLOT_MAGIC) {
            return Err(DAMAGED);
        }
        if package == 0 {
            continue;
        }
        let start = le_u32(slot, 8).ok_or(DAMAGED)? as usize * 16;
        let blob = file.get(start..).ok_or(DAMAGED)?;
        if !blob.starts_with(BLOB_MAGIC) || le_u32(blob, 4) != Some(package) {
            return Err(DAMAGED);
        }
        let length = le_u32(blob, 12).ok_or(DAMAGED)? as usize;
        each(part(blob, 16, length).ok_or(DAMAGED)?);
    }
    Ok(())
}

/// Pages with keys and values in turn; values that are longer than a page are chains of pages of their own.
fn berkeley(file: &[u8], each: &mut dyn FnMut(&[u8])) -> Fallible<()> {
    const MAGIC: u64 = 0x0006_1561;
    const PAGE_HEADER_BYTES: usize = 26;
    const HASH_UNSORTED: u8 = 2;
    const HASH: u8 = 13;
    const IN_PAGE: u8 = 1;
    const OFF_PAGE: u8 = 3;
    let big = match (number(file, 12, 4, false), number(file, 12, 4, true)) {
        (Some(MAGIC), _) => false,
        (_, Some(MAGIC)) => true,
        _ => return Err("it is of an unknown kind"),
    };
    let field = |bytes: &[u8], at: usize, size: usize| {
        let value = number(bytes, at, size, big)?;
        usize::try_from(value).ok()
    };
    let page_bytes = field(file, 20, 4).filter(|size| (512..=65536).contains(size));
    let page_bytes = page_bytes.ok_or(DAMAGED)?;
    let page = |number: usize| {
        let start = number.checked_mul(page_bytes)?;
        part(file, start, page_bytes)
    };
    for own in file.chunks_exact(page_bytes).skip(1) {
        if !matches!(own.get(25), Some(&HASH_UNSORTED | &HASH)) {
            continue;
        }
        let entries = field(own, 20, 2).ok_or(DAMAGED)?;
        for value in (1..entries).step_by(2) {
            let offset = |entry: usize| field(own, PAGE_HEADER_BYTES + 2 * entry, 2);
            let (at, end) = (
                offset(value).ok_or(DAMAGED)?,
                offset(value - 1).ok_or(DAMAGED)?,
            );
            match own.get(at) {
                Some(&IN_PAGE) => {
                    let value = own.get(at + 1..end).ok_or(DAMAGED)?;
                    // A short record holds the next free number, and no package.
                    if value.len() > ENTRY_BYTES {
                        each(value);
                    }
                }
                Some(&OFF_PAGE) => {
                    let mut next = field(own, at + 4, 4).ok_or(DAMAGED)?;
                    let length = field(own, at + 8, 4).filter(|it| *it <= file.len());
                    let length = length.ok_or(DAMAGED)?;
                    let mut whole = Vec::with_capacity(length);
                    while whole.len() < length {
                        let overflow = page(next).ok_or(DAMAGED)?;
                        let here = field(overflow, 22, 2).filter(|here| *here > 0);
                        let content = part(overflow, PAGE_HEADER_BYTES, here.ok_or(DAMAGED)?);
                        whole.extend_from_slice(content.ok_or(DAMAGED)?);
                        next = field(overflow, 16, 4).ok_or(DAMAGED)?;
                    }
                    whole.truncate(length);
                    each(&whole);
                }
                // Duplicates and other kinds: RPM writes none.
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header as rpm writes it.
    fn header(name: &str, epoch: Option<u32>, filler: usize) -> Vec<u8> {
        let license = "x".repeat(filler);
        let texts = [
            (NAME, name),
            (VERSION, "1.2"),
            (RELEASE, "3.fc40"),
            (ARCHITECTURE, "noarch"),
            (LICENSE, &license),
        ];
        let (mut entries, mut data) = (Vec::new(), Vec::new());
        let mut entry = |tag: u32, kind: u32, offset: usize| {
            for number in [tag, kind, u32::try_from(offset).unwrap(), 1] {
                entries.extend(number.to_be_bytes());
            }
        };
        if let Some(epoch) = epoch {
            entry(EPOCH, TYPE_INTEGER, 0);
            data.extend(epoch.to_be_bytes());
        }
        for (tag, text) in texts {
            entry(tag, TYPE_TEXT, data.len());
            data.extend(text.bytes().chain([0]));
        }
        let count = u32::try_from(entries.len() / ENTRY_BYTES).unwrap();
        let mut whole = count.to_be_bytes().to_vec();
        whole.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
        whole.extend(entries);
        whole.extend(data);
        whole
    }

    fn in_ndb(headers: &[Vec<u8>]) -> Vec<u8> {
        let mut file = b"RpmP".to_vec();
        for number in [0_u32, 1, 1, 0, 0, 0, 0] {
            file.extend(number.to_le_bytes());
        }
        let mut blobs = Vec::new();
        for place in 0..(4096 / 16 - 2) {
            let package = headers
                .get(place)
                .map_or(0, |_| u32::try_from(place).unwrap() + 1);
            let offset = u32::try_from((4096 + blobs.len()) / 16).unwrap();
            file.extend(b"Slot");
            for number in [package, offset, 1] {
                file.extend(number.to_le_bytes());
            }
            if let Some(header) = headers.get(place) {
                blobs.extend(b"BlbS");
                for number in [package, 1, u32::try_from(header.len()).unwrap()] {
                    blobs.extend(number.to_le_bytes());
                }
                blobs.extend(header);
                blobs.resize(blobs.len().next_multiple_of(16), 0);
            }
        }
        file.extend(blobs);
        file
    }

    #[test]
    fn headers_of_ndb() {
        let headers = [header("bash", Some(1), 3), header("gpg-pubkey", None, 0)];
        let distribution = Distribution::read("ID=fedora\nVERSION_ID=40");
        let file = in_ndb(&headers);
        let found = packages("var/lib/rpm/Packages.db", &file, &distribution).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].version, "1:1.2-3.fc40");
        assert_eq!(
            found[0].purl,
            "pkg:rpm/fedora/bash@1.2-3.fc40?arch=noarch&distro=fedora-40&epoch=1"
        );
        for length in (0..file.len()).step_by(37) {
            let _ = packages("rpm/Packages.db", &file[..length], &distribution);
        }
    }

    #[test]
    fn anything_may_stand_in_a_file() {
        for path in ["rpm/rpmdb.sqlite", "rpm/Packages.db", "rpm/Packages"] {
            let mut seed = 1_u32;
            for start in [
                &b"SQLite format 3\0\x10\0"[..],
                b"RpmP",
                b"\0\0\0\0\0\0\0\0\0\0\0\0\x61\x15\x06\0\x09\0\0\0\0\x02\0\0",
                b"",
            ] {
                let mut file = start.to_vec();
                file.extend(
                    std::iter::repeat_with(|| {
                        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        seed.to_le_bytes()[3]
                    })
                    .take(20_000),
                );
                let _ = packages(path, &file, &Distribution::default());
            }
        }
    }
}
