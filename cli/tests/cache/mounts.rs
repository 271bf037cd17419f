//! `rbuild cache mounts`.

use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::kit::Kit;
use crate::require_machine;

const SEEDS: usize = 3000;

/// Begins a build that fills a cache with many files, and waits until some of them are there.
fn begin_to_fill(kit: &Kit) -> (Child, String) {
    let dockerfile = format!(
        "FROM busybox AS seed
RUN mkdir /s && cd /s && i=0; while [ $i -lt {SEEDS} ]; do echo $i > $i; i=$((i+1)); done
FROM busybox
ARG USER
RUN --mount=type=cache,id=one,target=/c,from=seed,source=/s,mode=0751 \
    test \"$(ls /c | wc -l) $(stat -c %a /c)\" = '{SEEDS} 751'
"
    );
    kit.must_build(&dockerfile, &["--target=seed"]);
    let arguments = kit.build_arguments(&dockerfile, &["--build-arg=USER=first"]);
    let mut child = kit.command(arguments).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        assert!(child.try_wait().unwrap().is_none());
        assert!(Instant::now() < deadline, "nothing is filled");
        for mount in std::fs::read_dir(kit.path("store/mounts")).unwrap() {
            let mount = mount.unwrap().path();
            if std::fs::read_dir(mount.join("0")).is_ok_and(|mut files| files.next().is_some()) {
                kill_process(Pid::from_child(&child), Signal::STOP).unwrap();
                assert!(mount.join("0.filling").exists());
                assert!(std::fs::read_dir(mount.join("0")).unwrap().count() < SEEDS);
                return (child, dockerfile);
            }
        }
    }
}

#[test]
fn a_cache_whose_filler_was_killed_is_filled_anew() {
    require_machine!();
    let kit = Kit::new();
    let (mut filler, dockerfile) = begin_to_fill(&kit);
    filler.kill().unwrap();
    filler.wait().unwrap();
    assert_eq!(kit.must(&["cache", "mounts", "ls", "-q"]).stdout, "");
    kit.store_is_whole();
    kit.must_build(&dockerfile, &["--build-arg=USER=second"]);
    assert_eq!(kit.must(&["cache", "mounts", "ls", "-q"]).stdout, "one\n");
    kit.must(&["prune", "-f", "--filter=type=exec.cachemount"]);
    assert_eq!(
        std::fs::read_dir(kit.path("store/mounts")).unwrap().count(),
        0
    );
    kit.store_is_whole();
}

#[test]
fn a_cache_that_another_build_fills_is_waited_for() {
    require_machine!();
    let kit = Kit::new();
    let (filler, dockerfile) = begin_to_fill(&kit);
    let arguments = kit.build_arguments(&dockerfile, &["--build-arg=USER=second"]);
    let mut second = kit.command(arguments).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(700));
    assert!(second.try_wait().unwrap().is_none());
    kill_process(Pid::from_child(&filler), Signal::CONT).unwrap();
    kit.finish(filler).success();
    kit.finish(second).success();
    assert_eq!(kit.must(&["cache", "mounts", "ls", "-q"]).stdout, "one\n");
    kit.store_is_whole();
}

#[test]
fn cache_mounts_travel_with_owners_and_modes() {
    require_machine!();
    let kit = Kit::new();
    let fill = "\
FROM busybox
RUN --mount=type=cache,target=/c,id=one \
    mkdir /c/d && echo hi > /c/d/f && chmod 640 /c/d/f && chown 7:8 /c/d/f && ln -s d/f /c/l
";
    kit.must_build(fill, &[]);
    assert_eq!(kit.must(&["cache", "mounts", "ls", "-q"]).stdout, "one\n");
    kit.must(&["cache", "mounts", "export", "one", "-o", "one.tar"]);
    kit.must(&["cache", "mounts", "rm", "one"]);
    let gone = "\
FROM busybox
RUN --mount=type=cache,target=/c,id=one test ! -e /c/d
";
    kit.must_build(gone, &[]);
    kit.must(&["cache", "mounts", "import", "one", "-i", "one.tar"]);
    kit.must(&["cache", "mounts", "import", "two", "-i", "one.tar"]);
    let there = "\
FROM busybox
RUN --mount=type=cache,target=/c,id=two \
    test \"$(cat /c/l)\" = hi && test \"$(stat -c %u:%g:%a /c/d/f)\" = 7:8:640
RUN --mount=type=cache,target=/c,id=one test \"$(cat /c/l)\" = hi
";
    kit.must_build(there, &[]);
    let wrong = kit.rbuild(&["cache", "mounts", "rm", "one", "nope"]);
    assert_eq!(wrong.code, 1);
    assert!(wrong.stderr.contains("`nope`"), "{wrong}");
    std::fs::write(kit.path("bad.tar"), "no tar").unwrap();
    let bad = kit.rbuild(&["cache", "mounts", "import", "one", "-i", "bad.tar"]);
    assert_eq!(bad.code, 1, "{bad}");
    kit.store_is_whole();
}

#[test]
fn one_cache_in_two_places_of_a_command_is_one_directory() {
    require_machine!();
    let kit = Kit::new();
    let ways = ["shared", "private", "locked"];
    let mut dockerfile =
        "FROM busybox AS seed\nRUN mkdir /s && echo seed > /s/seed\nFROM busybox\n".to_owned();
    for (one, other) in ways
        .iter()
        .flat_map(|one| ways.iter().map(move |other| (one, other)))
    {
        let id = format!("{one}-{other}");
        dockerfile.push_str(&format!(
            "RUN --mount=type=cache,id={id},sharing={one},target=/b,from=seed,source=/s \
             --mount=type=cache,id={id},sharing={other},target=/a,from=seed,source=/s \
             test \"$(cat /a/seed)\" = seed && echo hi > /a/x && test \"$(cat /b/x)\" = hi\n"
        ));
    }
    kit.must_build(&dockerfile, &[]);
    // Nobody holds one after the build.
    let listed = kit.must(&["cache", "mounts", "ls", "-q"]).stdout;
    assert_eq!(listed.lines().count(), 9, "{listed}");
    kit.store_is_whole();
}

#[test]
fn a_cache_without_all_of_its_first_content_is_nobodys() {
    require_machine!();
    let kit = Kit::new();
    let dockerfile = |source: &str| {
        format!(
            "FROM busybox AS seed\nRUN mkdir /s && echo seed > /s/seed\nFROM busybox\n\
             RUN --mount=type=cache,id=one,target=/c,from=seed,source={source} cat /c/seed\n"
        )
    };
    let missing = kit.build(&dockerfile("/missing"), &[]);
    assert_eq!(missing.code, 1, "{missing}");
    kit.must_build(&dockerfile("/s"), &[]);
    assert_eq!(kit.must(&["cache", "mounts", "ls", "-q"]).stdout, "one\n");
    kit.store_is_whole();
}

#[test]
fn a_list_says_what_the_directories_take() {
    require_machine!();
    let kit = Kit::new();
    let fill =
        "head -c 3000000 /dev/urandom > /c/a; mkdir -m 700 /c/d; echo x > /c/d/b; chown -R 7 /c/d";
    kit.must_build(
        &format!("FROM busybox\nRUN --mount=type=cache,id=big,target=/c {fill}\n"),
        &["-q"],
    );
    let listed = kit.must(&["cache", "mounts", "ls", "--format", "{{.ID}} {{.Size}}"]);
    let size = listed
        .stdout
        .trim()
        .strip_prefix("big 3.0")
        .unwrap_or_default();
    assert!(size.ends_with("MB"), "{listed}");
}
