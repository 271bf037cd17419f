//! A list of records as it lies in a shared cache: JSON, compressed with zstd, written once and never changed.
//!
//! Each record stands for itself: its keys, what they were made of, and its result as a chain of layers with the
//! digests of their files, so that everything about it is known without a layer. What is read here was written by
//! somebody: it is held against its limits, and what does not make sense is left out with a reason. Nothing in a
//! list can name a path.

use std::collections::HashMap;

use rbuild_cache::{Digest, Ingredient, Key};
use serde::{Deserialize, Serialize};

use super::Problem;

/// Raised when an older program would misread.
const VERSION: u32 = 1;
/// Of a list, compressed and not.
pub(super) const LIST_LIMIT_BYTES: u64 = 32 << 20;
const TEXT_LIMIT_BYTES: u64 = 256 << 20;
/// Keys of a record. A result has two, and one more for each way that was found to lead to it.
pub(super) const KEYS_MAX: usize = 64;
/// More layers than any image has.
const CHAIN_MAX: usize = 1000;
const ZSTD_LEVEL: i32 = 3;

#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(super) struct List {
    version: u32,
    pub(super) layers: Vec<Layer>,
    pub(super) records: Vec<Record>,
    #[serde(default)]
    pub(super) mounts: Vec<Mount>,
    /// An image carries it, and it is of that image alone.
    #[serde(skip)]
    pub(super) is_carried: bool,
}

/// A layer in one of the forms that it has.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Layer {
    pub(super) diff_id: Digest,
    /// Digest of its files.
    pub(super) tree: HexKey,
    /// Of its files, in bytes.
    pub(super) files_size: u64,
    /// How its bytes were made.
    pub(super) variant: String,
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// A blob with the listing of its files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) listing: Option<Blob>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    pub(super) keys: Vec<HexKey>,
    /// Bottom first: which layer, and when its step was done (Unix seconds).
    pub(super) chain: Vec<(usize, i64)>,
    pub(super) step: String,
    pub(super) ingredients: Vec<Ingredient>,
    pub(super) created: i64,
    #[serde(default)]
    pub(super) duration_ms: u64,
}

/// What a cache mount held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Mount {
    pub(super) id: String,
    /// Of its files, with their times.
    pub(super) content: HexKey,
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) created: i64,
    /// Of the directory itself, which no tar speaks of.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// A key as 64 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct HexKey(pub(super) Key);

impl Serialize for HexKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for HexKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(text.as_bytes(), &mut bytes).map_err(serde::de::Error::custom)?;
        Ok(Self(Key(bytes)))
    }
}

impl Mount {
    pub(super) fn descriptor(&self) -> rbuild_image::Descriptor {
        rbuild_image::Descriptor::new(rbuild_image::shared::MOUNT_TYPE, self.digest, self.size)
    }
}

impl List {
    pub(super) fn encode(&self) -> std::io::Result<Vec<u8>> {
        let versioned = Self {
            version: VERSION,
            ..self.clone()
        };
        let text = serde_json::to_vec(&versioned)?;
        zstd::encode_all(text.as_slice(), ZSTD_LEVEL)
    }

    /// Reads a list. Records that do not make sense are left out.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Problem> {
        use std::io::Read as _;
        let broken =
            |reason: String| Problem::new(format!("a list of records is broken: {reason}"));
        let mut text = Vec::new();
        zstd::Decoder::with_buffer(bytes)
            .and_then(|decoder| decoder.take(TEXT_LIMIT_BYTES + 1).read_to_end(&mut text))
            .map_err(|error| broken(error.to_string()))?;
        if text.len() as u64 > TEXT_LIMIT_BYTES {
            return Err(broken(format!("it has more than {TEXT_LIMIT_BYTES} bytes")));
        }
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let versioned: Versioned =
            serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
        if versioned.version != VERSION {
            let version = versioned.version;
            return Err(Problem::new(format!(
                "a list of records has version {version}, this rbuild reads version {VERSION}"
            )));
        }
        let mut list: Self =
            serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
        let count = list.layers.len();
        list.records.retain(|record| {
            let known = |(layer, _): &(usize, i64)| *layer < count;
            !record.keys.is_empty()
                && record.keys.len() <= KEYS_MAX
                && record.chain.len() <= CHAIN_MAX
                && record.chain.iter().all(known)
        });
        Ok(list)
    }

    /// Adds another list's records, mounts and the layers that those need.
    pub(super) fn absorb(&mut self, other: &Self) {
        let mut places: HashMap<Layer, usize> = self.layers.iter().cloned().zip(0..).collect();
        let mut known: std::collections::HashSet<(HexKey, Vec<(Digest, i64)>)> =
            std::collections::HashSet::new();
        let chain = |layers: &[Layer], record: &Record| -> Vec<(Digest, i64)> {
            record
                .chain
                .iter()
                .filter_map(|(layer, created)| Some((layers.get(*layer)?.diff_id, *created)))
                .collect()
        };
        for record in &self.records {
            let chain = chain(&self.layers, record);
            known.extend(record.keys.iter().map(|key| (*key, chain.clone())));
        }
        for record in &other.records {
            let result = chain(&other.layers, record);
            let new = |key: &HexKey| !known.contains(&(*key, result.clone()));
            let keys: Vec<HexKey> = record.keys.iter().copied().filter(new).collect();
            if keys.is_empty() {
                continue;
            }
            known.extend(keys.iter().map(|key| (*key, result.clone())));
            let mut moved = record.clone();
            moved.keys = keys;
            moved.chain = record
                .chain
                .iter()
                .filter_map(|(layer, created)| {
                    let layer = other.layers.get(*layer)?;
                    let place = *places.entry(layer.clone()).or_insert_with(|| {
                        self.layers.push(layer.clone());
                        self.layers.len() - 1
                    });
                    Some((place, *created))
                })
                .collect();
            self.records.push(moved);
        }
        for mount in &other.mounts {
            match self.mounts.iter_mut().find(|known| known.id == mount.id) {
                Some(known) if known.created < mount.created => *known = mount.clone(),
                Some(_) => {}
                None => self.mounts.push(mount.clone()),
            }
        }
    }

    /// What another list does not have.
    pub(super) fn without(&self, known: &Self) -> Self {
        let mut all = known.clone();
        let (records, mounts) = (all.records.len(), known.mounts.clone());
        all.absorb(self);
        let added = Self {
            records: all.records.split_off(records),
            layers: all.layers,
            ..Self::default()
        };
        // Only the layers that are spoken of.
        let mut new = Self::default();
        new.absorb(&added);
        new.mounts.extend(self.mounts.iter().cloned());
        new.mounts.retain(|mount| {
            let same = |known: &Mount| known.id == mount.id && known.content == mount.content;
            !mounts.iter().any(same)
        });
        new
    }

    /// Leaves the newest records out of so many that their layers number more than `layers_max`.
    pub(super) fn keep_newest(&mut self, layers_max: usize) {
        if self.layers.len() <= layers_max {
            return;
        }
        let mut all = std::mem::take(self);
        all.records
            .sort_by_key(|record| std::cmp::Reverse(record.created));
        let mut needed = std::collections::HashSet::new();
        let fits = |record: &Record| {
            needed.extend(record.chain.iter().map(|(layer, _)| *layer));
            needed.len() <= layers_max
        };
        let count = all
            .records
            .iter()
            .map(fits)
            .take_while(|fits| *fits)
            .count();
        all.records.truncate(count);
        self.absorb(&all);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.mounts.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(text: &str) -> Layer {
        let digest = Digest::of(text.as_bytes());
        Layer {
            diff_id: digest,
            tree: HexKey(Key([1; 32])),
            files_size: 1,
            variant: "tar1".to_owned(),
            media_type: "application/vnd.oci.image.layer.v1.tar".to_owned(),
            digest,
            size: 1,
            listing: None,
        }
    }

    fn list(layers: &[&str], records: &[(u8, &[usize])]) -> List {
        let record = |(key, chain): &(u8, &[usize])| Record {
            keys: vec![HexKey(Key([*key; 32]))],
            chain: chain.iter().map(|layer| (*layer, 7)).collect(),
            step: "step".to_owned(),
            ingredients: Vec::new(),
            created: (*key).into(),
            duration_ms: 0,
        };
        List {
            layers: layers.iter().map(|text| layer(text)).collect(),
            records: records.iter().map(record).collect(),
            ..List::default()
        }
    }

    #[test]
    fn what_makes_no_sense_is_left_out() {
        let mut hostile = list(&["a"], &[(1, &[0]), (2, &[1]), (3, &[usize::MAX])]);
        let many = vec![HexKey(Key([9; 32])); KEYS_MAX + 1];
        hostile.records.push(Record {
            keys: many,
            ..hostile.records[0].clone()
        });
        hostile.records.push(Record {
            keys: Vec::new(),
            ..hostile.records[0].clone()
        });
        let read = List::decode(&hostile.encode().unwrap()).unwrap();
        assert_eq!(read.records.len(), 1);
        assert_eq!(read.records[0].keys, [HexKey(Key([1; 32]))]);
    }

    #[test]
    fn what_is_no_list_is_told() {
        let whole = list(&["a"], &[(1, &[0])]).encode().unwrap();
        let texts: [&[u8]; 4] = [
            b"{}",
            b"[]",
            b"{\"version\":2}",
            b"{\"version\":1,\"layers\":[],\"records\":[{\"keys\":[\"zz\"]}]}",
        ];
        for text in texts {
            let bytes = zstd::encode_all(text, 1).unwrap();
            assert!(List::decode(&bytes).is_err());
        }
        assert!(List::decode(b"").is_err());
        assert!(List::decode(&whole[..whole.len() - 1]).is_err());
    }

    #[test]
    fn lists_are_joined_without_doubles() {
        let mut all = list(&["a", "b"], &[(1, &[0]), (2, &[0, 1])]);
        let more = list(&["b", "a", "c"], &[(2, &[1, 0]), (3, &[1, 2])]);
        assert_eq!(more.without(&all).records.len(), 1);
        all.absorb(&more);
        assert_eq!((all.layers.len(), all.records.len()), (3, 3));
        let chain = &all.records[2].chain;
        let digests: Vec<Digest> = chain.iter().map(|(at, _)| all.layers[*at].digest).collect();
        assert_eq!(digests, [Digest::of(b"a"), Digest::of(b"c")]);
        assert!(all.without(&all).is_empty());
        // The newest that need no more than two layers.
        all.keep_newest(2);
        assert_eq!(all.records.len(), 1);
        assert_eq!(all.records[0].keys, [HexKey(Key([3; 32]))]);
    }
}
