//! The list of a directory: what in it cannot have attributes stands for. Most of it has one owner.
//!
//! ```text
//! UID GID of all that is not named (32 bits each, little endian), then for each name
//! UID GID KIND(0 none, 1 character device, 2 block device) [DEVICE, 64 bits, if KIND is not 0] LENGTH NAME
//! ```

use std::collections::BTreeMap;

use super::Record;
use crate::tree::Kind;

/// What names stand for; most have the common owner.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Links {
    common: (u32, u32),
    others: BTreeMap<Vec<u8>, Record>,
}

impl Links {
    fn common(&self) -> Record {
        Record::owner(self.common.0, self.common.1)
    }

    pub(super) fn get(&self, name: &[u8]) -> Record {
        self.others
            .get(name)
            .copied()
            .unwrap_or_else(|| self.common())
    }

    pub(super) fn set(&mut self, name: &[u8], record: Record) {
        if record == self.common() {
            self.others.remove(name);
        } else {
            self.others.insert(name.to_vec(), record);
        }
    }

    /// Makes the most frequent owner the common one, and forgets names that are gone.
    pub(super) fn shorten(&mut self, names: &[Vec<u8>]) {
        let records: Vec<(&Vec<u8>, Record)> =
            names.iter().map(|name| (name, self.get(name))).collect();
        let mut counts: BTreeMap<(u32, u32), usize> = BTreeMap::new();
        for (_, record) in &records {
            *counts.entry((record.uid, record.gid)).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count);
        let mut short = Self {
            common: most.map_or((0, 0), |(owner, _)| owner),
            others: BTreeMap::new(),
        };
        for (name, record) in records {
            short.set(name, record);
        }
        *self = short;
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut put = |number: &[u8]| bytes.extend_from_slice(number);
        put(&self.common.0.to_le_bytes());
        put(&self.common.1.to_le_bytes());
        for (name, record) in &self.others {
            put(&record.uid.to_le_bytes());
            put(&record.gid.to_le_bytes());
            let (kind, device) = match record.device {
                None => (0, 0),
                Some((Kind::BlockDevice, device)) => (2, device),
                Some((_, device)) => (1, device),
            };
            put(&[kind]);
            if kind != 0 {
                put(&device.to_le_bytes());
            }
            // Names have at most 255 bytes.
            put(&[name.len() as u8]);
            put(name);
        }
        bytes
    }

    /// What cannot be read is left out.
    pub(super) fn parse(mut value: &[u8]) -> Self {
        let mut links = Self::default();
        let Some(common) = take_owner(&mut value) else {
            return links;
        };
        links.common = common;
        while let Some((name, record)) = take_link(&mut value) {
            links.others.insert(name, record);
        }
        links
    }
}

fn take_owner(bytes: &mut &[u8]) -> Option<(u32, u32)> {
    let mut take = || {
        let (number, rest) = bytes.split_first_chunk::<4>()?;
        *bytes = rest;
        Some(u32::from_le_bytes(*number))
    };
    Some((take()?, take()?))
}

fn take_link(bytes: &mut &[u8]) -> Option<(Vec<u8>, Record)> {
    let (uid, gid) = take_owner(bytes)?;
    let (kind, mut rest) = bytes.split_first()?;
    let device = match kind {
        0 => None,
        kind => {
            let (number, after) = rest.split_first_chunk::<8>()?;
            rest = after;
            let kind = if *kind == 2 {
                Kind::BlockDevice
            } else {
                Kind::CharDevice
            };
            Some((kind, u64::from_le_bytes(*number)))
        }
    };
    let (length, rest) = rest.split_first()?;
    let (name, rest) = rest.split_at_checked(usize::from(*length))?;
    *bytes = rest;
    Some((name.to_vec(), Record { uid, gid, device }))
}

#[cfg(test)]
mod tests {
    use super::super::LONG_BYTES;
    use super::*;

    #[test]
    fn long_lists_of_links_get_a_common_owner() {
        let mut links = Links::default();
        let names: Vec<Vec<u8>> = (0..500)
            .map(|number| format!("link-{number}").into_bytes())
            .collect();
        for name in names.iter().skip(2) {
            links.set(name, Record::owner(1000, 1000));
        }
        let device = Record {
            uid: 1000,
            gid: 1000,
            device: Some((Kind::BlockDevice, 2048)),
        };
        links.set(b"link-7", device);
        links.set(b"gone", Record::owner(7, 7));
        assert!(links.encode().len() > LONG_BYTES);
        links.shorten(&names);
        assert!(links.encode().len() < 100);
        let read = Links::parse(&links.encode());
        assert_eq!(read, links);
        assert_eq!(read.get(b"link-0"), Record::default());
        assert_eq!(read.get(b"link-499"), Record::owner(1000, 1000));
        assert_eq!(read.get(b"link-7"), device);
        assert_eq!(Links::parse(b"short"), Links::default());
    }
}
