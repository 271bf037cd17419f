//! Many processes at once on one store: equal steps run once in total, others do not wait for one another, and
//! cache mounts are shared as asked.

use std::collections::BTreeMap;
use std::process::Child;

use crate::kit::{Archive, Kit, Output};
use crate::require_machine;

/// Starts a build of a Dockerfile of its own name, so that several can run at once.
fn spawn(kit: &Kit, name: &str, dockerfile: &str, more: &[&str]) -> Child {
    let file = kit.path(name);
    let mut arguments = kit.build_arguments(dockerfile, more);
    std::fs::write(&file, dockerfile).unwrap();
    arguments.insert(1, format!("--file={}", file.display()));
    kit.command(arguments).spawn().unwrap()
}

/// The files that a cache mount holds.
fn mount(kit: &Kit, id: &str) -> BTreeMap<String, String> {
    kit.must(&["cache", "mounts", "export", id, "-o", "mount.tar"]);
    let mut files = BTreeMap::new();
    let tar = std::fs::read(kit.path("mount.tar")).unwrap();
    for entry in tar::Archive::new(tar.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut entry, &mut text).unwrap();
        if entry.header().entry_type().is_file() {
            files.insert(path.trim_start_matches("./").to_owned(), text);
        }
    }
    files
}

fn count(kit: &Kit, what: &str) -> String {
    let text = kit.must(&["du", "--format", "{{.Type}} {{.Total}}"]).stdout;
    let line = text.lines().find(|line| line.starts_with(what));
    line.unwrap_or_else(|| panic!("{text}")).to_owned()
}

#[test]
fn sixteen_builds_of_one_dockerfile_run_each_step_once() {
    require_machine!();
    const BUILDS: usize = 16;
    // Each run of a step leaves a file of its own where no cache hides it.
    let mut dockerfile = "FROM busybox AS one\nCOPY a /a\n".to_owned();
    let run = |name: &str| {
        format!(
            "RUN --mount=type=cache,id=runs,sharing=shared,target=/runs \
             mktemp /runs/{name}.XXXXXX && echo {name} > /{name}\n"
        )
    };
    for number in 0..4 {
        dockerfile += &run(&format!("one{number}"));
    }
    dockerfile += "FROM busybox AS two\nCOPY b /b\n";
    for number in 0..4 {
        dockerfile += &run(&format!("two{number}"));
    }
    dockerfile += "FROM one\nCOPY --from=two /two3 /b /\n";
    dockerfile += &run("last");

    let kit = Kit::new();
    kit.context(&[("a", "1"), ("b", "2")]);
    let names: Vec<String> = (0..BUILDS).map(|it| format!("{it}.tar")).collect();
    let builds: Vec<Child> = names
        .iter()
        .map(|name| {
            let output = format!("--output=type=oci,dest={name}");
            let file = format!("{name}.dockerfile");
            spawn(&kit, &file, &dockerfile, &[&output])
        })
        .collect();
    let ended: Vec<Output> = builds.into_iter().map(|it| kit.finish(it)).collect();
    for output in ended {
        output.success();
    }
    let files = |name: &String| Archive::read(&kit.path(name)).files;
    let first = files(&names[0]);
    assert!(first.contains_key("last"), "{first:?}");
    for name in &names {
        assert_eq!(files(name), first);
    }
    let runs: Vec<String> = mount(&kit, "runs")
        .into_keys()
        .map(|name| name.split('.').next().unwrap().to_owned())
        .collect();
    let expected = [
        "last", "one0", "one1", "one2", "one3", "two0", "two1", "two2", "two3",
    ];
    assert_eq!(runs, expected);
    kit.store_is_whole();

    // Base images, copies and layers were made once, too.
    let alone = Kit::new();
    alone.context(&[("a", "1"), ("b", "2")]);
    alone.must_build(&dockerfile, &["--output=type=oci,dest=0.tar"]);
    for what in ["Snapshots", "Blobs"] {
        kit.must(&["prune", "-f"]);
        alone.must(&["prune", "-f"]);
        assert_eq!(count(&kit, what), count(&alone, what));
    }
}

/// Eight steps of eight builds wait until all eight are running: no build waits for another one's step.
#[test]
fn builds_that_have_nothing_in_common_do_not_wait_for_one_another() {
    require_machine!();
    const BUILDS: usize = 8;
    let kit = Kit::new();
    kit.context(&[("a", "1")]);
    let builds: Vec<Child> = (0..BUILDS)
        .map(|number| {
            let dockerfile = format!(
                "FROM busybox\nCOPY a /{number}\n\
                 RUN --mount=type=cache,id=meeting,sharing=shared,target=/meeting \
                 touch /meeting/{number}; for i in $(seq 1200); do \
                 [ $(ls /meeting | wc -l) = {BUILDS} ] && exit 0; sleep 0.05; done; exit 1\n"
            );
            let file = format!("{number}.dockerfile");
            spawn(&kit, &file, &dockerfile, &["--output=type=cacheonly"])
        })
        .collect();
    for build in builds {
        kit.finish(build).success();
    }
    kit.store_is_whole();
}

#[test]
fn a_cache_mount_is_shared_as_asked() {
    require_machine!();
    const BUILDS: usize = 8;
    let kit = Kit::new();
    let fill = "FROM busybox\nRUN --mount=type=cache,id=c,target=/c echo full > /c/full\n";
    kit.must_build(fill, &["--output=type=cacheonly"]);
    // A locked mount: whoever is in it is alone. A shared one: everybody sees what is there, at once.
    for (sharing, work) in [
        (
            "locked",
            "mkdir /c/inside && sleep 0.05 && rmdir /c/inside && mktemp /c/locked.XXXXXX",
        ),
        ("shared", "mktemp /c/shared.XXXXXX"),
    ] {
        let builds: Vec<Child> = (0..BUILDS)
            .map(|number| {
                let dockerfile = format!(
                    "FROM busybox\n\
                     RUN --mount=type=cache,id=c,target=/c,sharing={sharing} \
                     : {number}; [ \"$(cat /c/full)\" = full ] && {work}\n"
                );
                let file = format!("{sharing}{number}.dockerfile");
                spawn(&kit, &file, &dockerfile, &["--output=type=cacheonly"])
            })
            .collect();
        for build in builds {
            kit.finish(build).success();
        }
        let files = mount(&kit, "c");
        let made = files.keys().filter(|name| name.starts_with(sharing));
        assert_eq!(made.count(), BUILDS, "{files:?}");
    }
    // Private ones: who comes while it is used gets another; the meeting would fail if two had the same.
    let builds: Vec<Child> = (0..3)
        .map(|number| {
            let dockerfile = format!(
                "FROM busybox\n\
                 RUN --mount=type=cache,id=p,target=/p,sharing=private \
                 --mount=type=cache,id=met,target=/met,sharing=shared \
                 mkdir /p/mine && touch /met/{number} && for i in $(seq 1200); do \
                 [ $(ls /met | wc -l) = 3 ] && exit 0; sleep 0.05; done; exit 1\n"
            );
            let file = format!("private{number}.dockerfile");
            spawn(&kit, &file, &dockerfile, &["--output=type=cacheonly"])
        })
        .collect();
    for build in builds {
        kit.finish(build).success();
    }
    let listed = kit.must(&["cache", "mounts", "ls", "-q"]).stdout;
    assert_eq!(
        listed.lines().filter(|id| *id == "p").count(),
        3,
        "{listed}"
    );
    kit.store_is_whole();
}

/// Prunes go on beside builds: each build succeeds and is right.
#[test]
fn prunes_beside_builds_take_nothing_that_is_needed() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[("a", "1")]);
    let rounds = crate::dice::number("RBUILD_PRUNES", 6);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let order = std::sync::atomic::Ordering::Relaxed;
    std::thread::scope(|scope| {
        let pruning = scope.spawn(|| {
            let mut prunes = 0;
            while !stop.load(order) {
                let how = match prunes % 3 {
                    0 => ["prune", "-f", "--all"],
                    1 => ["prune", "-f", "--keep-storage=1k"],
                    _ => ["prune", "-f", "--filter=until=0s"],
                };
                kit.must(&how);
                prunes += 1;
            }
            prunes
        });
        let building: Vec<_> = (0..2)
            .map(|builder| {
                let kit = &kit;
                scope.spawn(move || {
                    for round in 0..rounds {
                        let text = format!("{builder}-{}", round % 3);
                        let dockerfile = format!(
                            "FROM busybox AS one\nRUN echo {text} > /one\n\
                             FROM busybox\nCOPY a /a\nCOPY --from=one /one /one\nRUN cat /one > /two\n"
                        );
                        let tar = format!("{builder}.tar");
                        let output = format!("--output=type=oci,dest={tar}");
                        let build = spawn(kit, &format!("{builder}.dockerfile"), &dockerfile, &[&output]);
                        kit.finish(build).success();
                        let files = Archive::read(&kit.path(&tar)).files;
                        assert_eq!(files["two"], format!("-644 {text}"));
                    }
                })
            })
            .collect();
        let results: Vec<_> = building
            .into_iter()
            .map(std::thread::ScopedJoinHandle::join)
            .collect();
        stop.store(true, order);
        let prunes = pruning.join().unwrap();
        println!("{prunes} prunes beside {} builds", rounds * 2);
        for result in results {
            result.unwrap();
        }
    });
    kit.store_is_whole();
}
