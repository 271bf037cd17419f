//! What volumes begin with.

use std::process::Child;
use std::time::{Duration, Instant};

use crate::kit::Kit;
use crate::require_machine;

const FILES: usize = 3000;

/// Begins a run that fills a volume with many files, and waits until some of them are there.
fn begin_to_fill(kit: &Kit) -> Child {
    let mut child = kit
        .command(["run", "--rm", "-v", "vol:/s", "app", "true"])
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        assert!(child.try_wait().unwrap().is_none(), "it was too fast");
        assert!(Instant::now() < deadline, "nothing is filled");
        for place in [".vol/_data", "vol/first"] {
            let place = kit.path("store/volumes").join(place);
            let there = std::fs::read_dir(place).map_or(0, Iterator::count);
            assert!(there < FILES);
            if there > 0 {
                return child;
            }
        }
    }
}

#[test]
fn a_volume_whose_filler_was_killed_is_filled_anew() {
    require_machine!();
    let kit = Kit::new();
    let dockerfile = format!(
        "FROM busybox
RUN mkdir /s && cd /s && i=0; while [ $i -lt {FILES} ]; do echo $i > $i; i=$((i+1)); done; \
    chown 7:8 /s; chmod 751 /s
"
    );
    kit.must_build(&dockerfile, &["-t=app"]);
    for is_there in [false, true] {
        if is_there {
            kit.must(&["volume", "create", "vol"]);
        }
        let mut filler = begin_to_fill(&kit);
        filler.kill().unwrap();
        filler.wait().unwrap();
        let look = "ls /s | wc -l; stat -c %u:%g:%a /s";
        let run = ["run", "--rm", "-v", "vol:/s", "app", "sh", "-c", look];
        let found = kit.must(&run).stdout;
        assert_eq!(found, format!("{FILES}\n7:8:751\n"), "{is_there}");
        // What was left by the killed one is gone with it.
        let left = std::fs::read_dir(kit.path("store/volumes/vol")).unwrap();
        assert_eq!(left.count(), 2);
        kit.must(&["volume", "rm", "vol"]);
    }
}

/// Whoever made or removed one was killed.
#[test]
fn prune_removes_what_was_left_of_volumes() {
    let kit = Kit::new();
    kit.must(&["volume", "create", "named"]);
    let left = kit.path("store/volumes/.left/_data/below");
    std::fs::create_dir_all(&left).unwrap();
    std::fs::write(left.join("file"), "x").unwrap();
    kit.must(&["volume", "prune", "-f"]);
    let names = std::fs::read_dir(kit.path("store/volumes")).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["named"]);
}

#[test]
fn what_is_damaged_hides_no_others_and_can_be_removed() {
    let kit = Kit::new();
    for (kind, document) in [("volume", "volume.json"), ("network", "network.json")] {
        kit.must(&[kind, "create", "good"]);
        kit.must(&[kind, "create", "bad"]);
        let place = kit.path(&format!("store/{kind}s/bad/{document}"));
        std::fs::write(place, "").unwrap();
        let listed = kit.rbuild(&[kind, "ls"]);
        assert_eq!(listed.code, 1, "{listed}");
        let way_out = format!("`rbuild {kind} rm bad`");
        assert!(listed.stderr.contains(&way_out), "{listed}");
        assert!(listed.stdout.contains("good"), "{listed}");
        let quiet = kit.rbuild(&[kind, "ls", "-q"]);
        let lines = if kind == "network" { 4 } else { 1 };
        assert_eq!(quiet.stdout.lines().count(), lines, "{quiet}");
        let again = kit.rbuild(&[kind, "inspect", "bad"]);
        assert!(
            again.code == 1 && again.stderr.contains(&way_out),
            "{again}"
        );
        kit.must(&[kind, "create", "later"]);
        kit.must(&[kind, "inspect", "good"]);
        let sizes = kit.rbuild(&["system", "df"]);
        assert_eq!(sizes.code, i32::from(kind == "volume"), "{sizes}");
        assert!(sizes.stdout.contains("Local Volumes"), "{sizes}");
        kit.must(&[kind, "prune", "-f", "--filter", "label!=x"]);
        kit.must(&[kind, "rm", "bad"]);
        if kind == "network" {
            // They were unused.
            kit.must(&[kind, "create", "good"]);
        }
        let listed = kit.must(&[kind, "ls", "--format={{.Name}}"]).stdout;
        assert!(
            listed.contains("good") && !listed.contains("bad"),
            "{listed}"
        );
    }
}
