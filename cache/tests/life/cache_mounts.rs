//! Cache mounts: who shares them, who waits for them, and what is left of those that nobody filled.

use std::time::{Duration, Instant};

use rbuild_cache::cache_mounts::Sharing;

use crate::store;

#[test]
fn cache_mounts_are_shared_private_or_locked() {
    let (_directory, store) = store();
    let id = "../../etc";
    let one = store.cache_mount(id, Sharing::Shared).unwrap();
    assert!(one.is_new());
    one.filled().unwrap();
    let two = store.cache_mount(id, Sharing::Shared).unwrap();
    assert_eq!((one.path(), two.is_new()), (two.path(), false));
    assert!(one.path().starts_with(store.root().join("mounts")));
    let own = store.cache_mount(id, Sharing::Private).unwrap();
    assert_ne!(own.path(), one.path());
    assert!(
        store
            .try_cache_mount(id, Sharing::Locked)
            .unwrap()
            .is_none()
    );
    let first = one.path().to_owned();
    drop((one, two));
    let locked = store.cache_mount(id, Sharing::Locked).unwrap();
    assert_eq!(locked.path(), first);
    store.reset_cache_mount(id).unwrap();
    assert!(locked.path().exists());
    let fresh = store.cache_mount(id, Sharing::Locked).unwrap();
    assert!(fresh.is_new());
    assert!(store.cache_mounts().unwrap().is_empty());
    fresh.filled().unwrap();
    assert_eq!(store.cache_mounts().unwrap().len(), 1);
}

#[test]
fn a_cache_mount_that_is_being_filled_is_waited_for() {
    let (_directory, store) = store();
    for (filler, user) in [
        (Sharing::Shared, Sharing::Shared),
        (Sharing::Locked, Sharing::Shared),
        (Sharing::Private, Sharing::Shared),
        (Sharing::Shared, Sharing::Locked),
    ] {
        let id = format!("{filler:?} {user:?}");
        let made = store.cache_mount(&id, filler).unwrap();
        assert!(store.try_cache_mount(&id, user).unwrap().is_none(), "{id}");
        assert!(store.has_cache_mount(&id).unwrap());
        let own = store.cache_mount(&id, Sharing::Private).unwrap();
        assert!(own.is_new() && own.path() != made.path());
        drop(own);
        let waiter = {
            let (store, id) = (store.clone(), id.clone());
            std::thread::spawn(move || {
                let mount = store.cache_mount(&id, user).unwrap();
                (
                    mount.is_new(),
                    std::fs::read(mount.path().join("f")).unwrap(),
                )
            })
        };
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(!waiter.is_finished());
        std::fs::write(made.path().join("f"), "whole").unwrap();
        made.filled().unwrap();
        if (filler, user) != (Sharing::Shared, Sharing::Shared) {
            drop(made);
        }
        assert_eq!(waiter.join().unwrap(), (false, b"whole".to_vec()), "{id}");
    }
}

#[test]
fn a_cache_mount_that_nobody_filled_is_made_anew() {
    let (_directory, store) = store();
    for sharing in [Sharing::Shared, Sharing::Private, Sharing::Locked] {
        let id = format!("{sharing:?}");
        let made = store.cache_mount(&id, sharing).unwrap();
        let place = made.path().to_owned();
        std::fs::write(place.join("half"), "").unwrap();
        drop(made);
        assert!(!store.has_cache_mount(&id).unwrap());
        assert!(store.cache_mounts().unwrap().is_empty());
        let next = store.cache_mount(&id, sharing).unwrap();
        assert!(next.is_new() && !next.path().join("half").exists());
        // Reset while it is filled: whoever has it keeps it, and nobody else gets it.
        store.reset_cache_mount(&id).unwrap();
        next.filled().unwrap();
        let last = store.cache_mount(&id, sharing).unwrap();
        assert!(last.is_new());
        drop((next, last));
        store
            .prune(&rbuild_cache::collect::PruneOptions::default())
            .unwrap();
        assert!(!place.exists());
        assert_eq!(store.check(false).unwrap(), []);
    }
}

#[test]
fn who_measures_a_cache_mount_does_not_keep_it_from_a_build() {
    let (_directory, store) = store();
    let first = store.cache_mount("x", Sharing::Shared).unwrap();
    first.filled().unwrap();
    let path = first.path().to_owned();
    drop(first);
    let end = Instant::now() + Duration::from_secs(1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while Instant::now() < end {
                store.usage().unwrap();
            }
        });
        while Instant::now() < end {
            let mount = store.cache_mount("x", Sharing::Shared).unwrap();
            assert_eq!(mount.path(), path);
        }
    });
}

/// Whoever began it was killed, or had no room for its id.
#[test]
fn a_cache_mount_that_was_only_begun_is_no_damage() {
    let (_directory, store) = store();
    let made = store.cache_mount("id", Sharing::Shared).unwrap();
    let directory = made.path().parent().unwrap().to_owned();
    let place = made.path().to_owned();
    made.filled().unwrap();
    drop(made);
    std::fs::remove_file(directory.join("id")).unwrap();
    // Something may be lost here: directories come after the id.
    assert_eq!(store.check(false).unwrap().len(), 1);
    std::fs::remove_dir(place).unwrap();
    assert_eq!(store.check(false).unwrap(), []);
    assert!(store.cache_mounts().unwrap().is_empty());
    let made = store.cache_mount("id", Sharing::Shared).unwrap();
    assert!(made.is_new());
    made.filled().unwrap();
    assert_eq!(store.cache_mounts().unwrap().len(), 1);
}
