//! Kills, interruptions, many at once.

use std::io::{BufRead, BufReader, Read as _};
use std::process::{Child, Command};

use crate::kit::{Archive, Kit, skipped};
use crate::require_machine;

/// Sends a signal by name.
pub(crate) fn signal(child: &Child, name: &str) {
    use rustix::process::{Pid, Signal, kill_process};
    let signal = match name {
        "INT" => Signal::INT,
        "TERM" => Signal::TERM,
        "HUP" => Signal::HUP,
        "KILL" => Signal::KILL,
        other => panic!("no test sends {other}"),
    };
    let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
    kill_process(pid, signal).unwrap();
}

const SLOW: &str = "FROM busybox\nRUN echo one > /one\nRUN echo started; sleep 60\n";
const QUICK: &str = "FROM busybox\nRUN echo one > /one\nRUN echo two > /two\n";

/// Starts the slow build and waits until its last step runs.
fn started(kit: &Kit) -> Child {
    let mut child = kit.command(kit.build_arguments(SLOW, &[])).spawn().unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let runs = stderr
        .lines()
        .map_while(Result::ok)
        .any(|line| line.ends_with(" started"));
    assert!(runs, "the build ended before its last step");
    child
}

/// Whoever reads the archive stands still.
#[test]
fn a_save_that_nobody_reads_is_interrupted() {
    let kit = Kit::new();
    let file = std::fs::File::create(kit.path("context/large")).unwrap();
    file.set_len(4 << 20).unwrap();
    kit.must_build(
        "FROM scratch\nCOPY large /\n",
        &["-t", "large:1", "--no-cache"],
    );
    let mut child = kit.command(["save", "large:1"]).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    // Something came, so it writes.
    stdout.read_exact(&mut [0; 512]).unwrap();
    signal(&child, "INT");
    let output = kit.finish(child);
    assert_eq!(output.code, 130, "{output}");
    drop(stdout);
}

/// Processes that hold the kit's directory in their command line or environment, by their name for `ps`.
fn processes(kit: &Kit) -> Vec<String> {
    let marker = kit.path("store").display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(environment) = std::fs::read(entry.path().join("environ")) else {
            continue;
        };
        if String::from_utf8_lossy(&environment).contains(&marker) {
            found.push(std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default());
        }
    }
    found
}

fn wait_for_no_processes(kit: &Kit) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let left = processes(kit);
        if left.is_empty() {
            return;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "left behind: {left:?}"
        );
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn signals_interrupt_a_build_and_leave_nothing() {
    require_machine!();
    for name in ["INT", "TERM", "HUP"] {
        let kit = Kit::new();
        let child = started(&kit);
        signal(&child, name);
        let output = kit.finish(child);
        assert_eq!(output.code, 130, "{name}: {output}");
        wait_for_no_processes(&kit);
        kit.store_is_whole();
    }
}

/// How much a process has read so far.
fn bytes_read(child: &Child) -> u64 {
    let told = std::fs::read_to_string(format!("/proc/{}/io", child.id())).unwrap();
    let line = told.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.unwrap().parse().unwrap()
}

/// A file that is copied does not have to be copied to its end first.
#[test]
fn a_large_file_is_left_in_the_middle() {
    let kit = Kit::new();
    kit.context(&[("large", "")]);
    let large = std::fs::File::create(kit.path("context/large")).unwrap();
    large.set_len(2 << 30).unwrap();
    let more = ["--progress=plain", "-o", "type=oci,dest=image.tar"];
    let arguments = kit.build_arguments("FROM scratch\nCOPY large /\n", &more);
    let mut child = kit.command(arguments).spawn().unwrap();
    let mut told = BufReader::new(child.stderr.take().unwrap()).lines();
    let begun = |line: std::io::Result<String>| line.unwrap().contains("COPY large");
    assert!(told.any(begun));
    let before = bytes_read(&child);
    while bytes_read(&child) < before + (64 << 20) {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    signal(&child, "INT");
    let rest: Vec<String> = told.map_while(Result::ok).collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    assert!(!rest.iter().any(|line| line.contains("DONE")), "{rest:?}");
    assert!(!kit.path("image.tar").exists());
    kit.store_is_whole();
}

#[test]
fn a_killed_build_leaves_a_good_cache() {
    require_machine!();
    let kit = Kit::new();
    let mut child = started(&kit);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for_no_processes(&kit);
    let output = kit.must_build(QUICK, &["-o", "type=oci,dest=image.tar"]);
    let image = Archive::read(&kit.path("image.tar"));
    assert_eq!(
        image.files.get("two").map(String::as_str),
        Some("-644 two"),
        "{output}"
    );
    kit.store_is_whole();
}

/// Cgroups of a process of rbuild's, wherever they are.
fn cgroups(id: u32) -> Vec<String> {
    let name = format!("rbuild-{id}-*");
    let found = Command::new("find")
        .args(["/sys/fs/cgroup", "-name", &name])
        .output()
        .unwrap();
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    found.lines().map(str::to_owned).collect()
}

fn names(directory: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect()
}

/// The process that starts commands is in a session of its own, and survives what kills the others.
#[test]
fn what_is_killed_is_buried_at_once() {
    use std::os::unix::process::CommandExt as _;
    require_machine!();
    let kit = Kit::new();
    let written = SLOW.replace(
        "echo started",
        "dd if=/dev/zero of=/big bs=1M count=8; echo started",
    );
    for whole_group in [false, true] {
        let mut command = kit.command(kit.build_arguments(&written, &[]));
        let mut child = command.process_group(0).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let mut lines = stderr.lines().map_while(Result::ok);
        assert!(lines.any(|line| line.ends_with(" started")));
        // Somebody else works in the store meanwhile.
        let mut other = started(&kit);
        let (temporary, leases) = (kit.path("store/tmp"), kit.path("store/leases"));
        assert!(!names(&temporary).is_empty());
        let id = child.id();
        let target = if whole_group {
            format!("-{id}")
        } else {
            id.to_string()
        };
        let killed = Command::new("kill")
            .args(["-9", "--", &target])
            .status()
            .unwrap();
        assert!(killed.success());
        child.wait().unwrap();
        signal(&other, "INT");
        assert_eq!(other.wait().unwrap().code(), Some(130));
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            let left = [
                names(&temporary),
                names(&leases),
                processes(&kit),
                cgroups(id),
            ]
            .concat();
            if left.is_empty() {
                break;
            }
            assert!(
                std::time::Instant::now() < deadline,
                "whole group: {whole_group}; left behind: {left:?}"
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
    kit.store_is_whole();
}

#[test]
fn sixteen_builds_of_one_dockerfile_share_a_store() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[("a", "1")]);
    let dockerfile =
        "FROM busybox\nCOPY a /a\nRUN cat /a > /b; echo made > /c\nRUN wc -c /b > /d\n";
    let arguments = kit.build_arguments(dockerfile, &["-q"]);
    let children: Vec<Child> = (0..16)
        .map(|number| {
            let output = format!("--output=type=oci,dest=image{number}.tar,rewrite-timestamp=true");
            let mut command = kit.command(&arguments);
            command.arg(output).env("SOURCE_DATE_EPOCH", "1700000000");
            command.spawn().unwrap()
        })
        .collect();
    let ids: Vec<String> = children
        .into_iter()
        .map(|child| kit.finish(child).success().stdout)
        .collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    for number in 0..16 {
        let image = Archive::read(&kit.path(&format!("image{number}.tar")));
        assert_eq!(image.files.get("c").map(String::as_str), Some("-644 made"));
    }
    kit.store_is_whole();
}

#[test]
fn a_closed_standard_error_does_not_stop_a_build() {
    require_machine!();
    let kit = Kit::new();
    let script = "for i in $(seq 5000); do echo line $i; done";
    let arguments = kit.build_arguments(&format!("FROM busybox\nRUN {script}\n"), &["-t", "app"]);
    let mut child = kit.command(arguments).spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(kit.finish(child).code, 0);
    assert_eq!(kit.must(&["images", "-q"]).stdout.lines().count(), 1);
}

/// Whether a process has a file of this directory open.
fn is_written_to(directory: &std::path::Path) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|process| std::fs::read_dir(process.path().join("fd")).ok())
        .flat_map(Iterator::flatten)
        .filter_map(|descriptor| std::fs::read_link(descriptor.path()).ok())
        .any(|file| file.starts_with(directory))
}

#[test]
fn a_build_that_is_killed_while_it_writes_its_output_leaves_nothing_of_it() {
    const TRIES: usize = 20;
    let kit = Kit::new();
    let out = kit.path("out");
    std::fs::create_dir(&out).unwrap();
    let big = std::fs::File::create(kit.path("context/big")).unwrap();
    big.set_len(256 << 20).unwrap();
    let arguments = ["-o", "type=tar,dest=out/root.tar"];
    let dockerfile = "FROM scratch\nCOPY big /\n";
    let left = || -> Vec<_> {
        let entries = std::fs::read_dir(&out).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    };
    for _ in 0..TRIES {
        let build = kit.build_arguments(dockerfile, &arguments);
        let mut child = kit.command(build).spawn().unwrap();
        let met = loop {
            if child.try_wait().unwrap().is_some() {
                break false;
            }
            if is_written_to(&out) {
                break true;
            }
        };
        if !met {
            // It was too quick to be seen.
            assert_eq!(left(), ["root.tar"]);
            std::fs::remove_file(out.join("root.tar")).unwrap();
            continue;
        }
        signal(&child, "KILL");
        child.wait().unwrap();
        wait_for_no_processes(&kit);
        let whole = left();
        assert!(whole.is_empty() || whole == ["root.tar"], "{whole:?}");
        let output = kit.must_build(dockerfile, &arguments);
        assert_eq!(left(), ["root.tar"], "{output}");
        return;
    }
    skipped(
        "a_build_that_is_killed_while_it_writes_its_output_leaves_nothing_of_it",
        "no build was met while it wrote",
    );
}

/// As after a power cut: what is not synced may be there and empty.
#[test]
fn a_container_that_is_damaged_does_not_hide_the_others() {
    require_machine!();
    let kit = Kit::new();
    kit.must_build("FROM busybox\n", &["-t", "bb"]);
    let made = |arguments: &[&str]| kit.must(arguments).stdout.trim().to_owned();
    let runs = made(&["run", "-d", "--name", "runs", "bb", "sleep", "60"]);
    let bad = made(&["create", "--name", "bad", "--rm", "bb", "true"]);
    let state = made(&["run", "-d", "--name", "state", "bb", "sleep", "60"]);
    for (id, file) in [(&bad, "config.json"), (&state, "state.json")] {
        std::fs::write(kit.path(&format!("store/containers/{id}/{file}")), "").unwrap();
    }
    for list in [["ps", "-aq", "--no-trunc"], ["stats", "-a", "--no-stream"]] {
        let listed = kit.rbuild(&list);
        assert!(listed.stdout.contains(&runs[..12]), "{listed}");
        assert!(!listed.stdout.contains(&bad[..12]), "{listed}");
    }
    let listed = kit.rbuild(&["ps"]);
    assert_eq!(listed.code, 1, "{listed}");
    for id in [&bad, &state] {
        let way_out = format!("`rbuild rm -f {id}` removes the container");
        assert!(listed.stderr.contains(&way_out), "{listed}");
    }
    // The images and networks that it needs are not known: nothing of those goes.
    let pruned = kit.rbuild(&["image", "prune", "-af"]);
    assert_eq!(pruned.code, 1, "{pruned}");
    kit.must(&["container", "prune", "-f"]);
    let refused = kit.rbuild(&["rm", &bad]);
    assert_eq!(refused.code, 1, "{refused}");
    // By its ID, by its beginning or by its name; also one that runs.
    kit.must(&["rm", "-f", &bad[..12]]);
    kit.must(&["rm", "-f", "state"]);
    let left = kit.must(&["ps", "-aq", "--no-trunc"]);
    assert_eq!(left.stdout.trim(), runs, "{left}");
    kit.must(&["create", "--name", "bad", "bb"]);
    kit.must(&["rm", "-f", "bad", "runs"]);
    kit.store_is_whole();
}
