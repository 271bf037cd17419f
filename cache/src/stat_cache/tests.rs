use super::*;

const LONG_AGO: i128 = 1_000_000_000_000_000_001;

fn stamp(inode: u64, ctime_ns: i128) -> Stamp {
    Stamp {
        device: 1,
        inode,
        size: 5,
        mtime_ns: -7,
        ctime_ns,
    }
}

fn known(content: [u8; 32]) -> Known {
    Known {
        content,
        has_xattrs: false,
    }
}

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    (directory, store)
}

#[test]
fn remembers_what_looks_the_same_and_nothing_else() {
    let (_directory, store) = store();
    let context = Path::new("/context");
    let mut cache = store.stat_cache(context);
    for (index, path) in [&b"a"[..], b"b/c", b"b-d"].into_iter().enumerate() {
        cache.put(
            path,
            stamp(index as u64, LONG_AGO),
            known([index as u8; 32]),
        );
    }
    store.save_stat_cache(cache).unwrap();

    let mut cache = store.stat_cache(context);
    assert_eq!(cache.get(b"a", &stamp(0, LONG_AGO)), Some(known([0; 32])));
    assert_eq!(cache.get(b"b-d", &stamp(2, LONG_AGO)), Some(known([2; 32])));
    assert_eq!(cache.get(b"b/c", &stamp(1, LONG_AGO + 1)), None);
    assert_eq!(cache.get(b"b/c", &stamp(9, LONG_AGO)), None);
    assert_eq!(cache.get(b"b", &stamp(1, LONG_AGO)), None);
    cache.put(b"b/c", stamp(9, LONG_AGO), known([9; 32]));
    store.save_stat_cache(cache).unwrap();
    let cache = store.stat_cache(context);
    assert_eq!(cache.get(b"b/c", &stamp(9, LONG_AGO)), Some(known([9; 32])));
    assert_eq!(cache.entries.len(), 3);
    assert_eq!(store.stat_cache(Path::new("/other")).entries.len(), 0);

    let mut cache = store.stat_cache(context);
    let with_xattrs = Known {
        has_xattrs: true,
        ..known([4; 32])
    };
    cache.put(b"c", stamp(4, LONG_AGO), with_xattrs);
    store.save_stat_cache(cache).unwrap();
    let cache = store.stat_cache(context);
    assert_eq!(cache.get(b"c", &stamp(4, LONG_AGO)), Some(with_xattrs));
    assert_eq!(cache.entry(cache.find(b"c").unwrap()).unwrap().age, 0);
}

#[test]
fn a_file_that_could_change_unseen_is_not_trusted() {
    let (_directory, store) = store();
    let mut cache = store.stat_cache(Path::new("/context"));
    let now = cache.started_ns;
    cache.put(
        b"within the tick",
        stamp(1, now - 1_000_000),
        known([1; 32]),
    );
    cache.put(b"later", stamp(1, now + 5), known([1; 32]));
    let second = now / 1_000_000_000 * 1_000_000_000;
    cache.put(
        b"whole seconds",
        stamp(1, second - 1_000_000_000),
        known([1; 32]),
    );
    assert!(cache.added.is_empty() && !cache.changed);
    cache.put(b"before", stamp(1, now - 50_000_001), known([1; 32]));
    assert_eq!(cache.added.len(), 1);
}

#[test]
fn what_nobody_asks_for_is_dropped_in_the_end() {
    let (_directory, store) = store();
    let context = Path::new("/context");
    let mut cache = store.stat_cache(context);
    cache.put(b"gone", stamp(1, LONG_AGO), known([1; 32]));
    cache.put(b"kept", stamp(1, LONG_AGO), known([1; 32]));
    store.save_stat_cache(cache).unwrap();
    for round in 0..u64::from(AGE_MAX) {
        let mut cache = store.stat_cache(context);
        assert!(cache.find(b"gone").is_some());
        assert!(cache.get(b"kept", &stamp(1, LONG_AGO)).is_some());
        cache.put(b"other", stamp(round, LONG_AGO), known([1; 32]));
        store.save_stat_cache(cache).unwrap();
    }
    let cache = store.stat_cache(context);
    assert!(cache.find(b"gone").is_none() && cache.find(b"kept").is_some());
}

#[test]
fn any_damage_makes_an_empty_cache() {
    let mut cache = StatCache::load(PathBuf::new(), Vec::new());
    for number in 0..20_u8 {
        cache.put(
            &[number; 3],
            stamp(number.into(), LONG_AGO),
            known([number; 32]),
        );
    }
    let bytes = cache.encode();
    assert_eq!(
        StatCache::load(PathBuf::new(), bytes.clone()).entries.len(),
        20
    );
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x40;
        assert!(index(&damaged).is_none());
        // With a checksum that fits, nothing panics.
        let end = damaged.len() - CHECKSUM_BYTES;
        let checksum = blake3::hash(&damaged[..end]);
        damaged[end..].copy_from_slice(checksum.as_bytes());
        let loaded = StatCache::load(PathBuf::new(), damaged);
        loaded.get(b"\x03\x03\x03", &stamp(3, LONG_AGO));
        assert!(index(&bytes[..at]).is_none());
    }
}
