//! What is left when processes of containers and builds are killed: nothing, on the machine or in the store.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::kit::{Kit, until};
use crate::require_machine;

/// Whether any process's command line begins with this.
fn runs(mark: &str) -> bool {
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .any(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let zombie = line.is_empty();
            !zombie && String::from_utf8_lossy(&line).starts_with(mark)
        })
}

fn left_in(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name != "names" && name != "addresses")
        .collect()
}

#[test]
fn killing_the_foreground_leaves_nothing() {
    require_machine!();
    let kit = Kit::new();
    kit.must_build("FROM busybox\n", &["-t", "bb"]);
    kit.must(&["network", "create", "together"]);
    let mark = "3600.125";
    let mut child = kit
        .command(["run", "--rm", "--network", "together", "-v", "/data"])
        .args(["bb", "sleep", mark])
        .spawn()
        .unwrap();
    until("the container never ran", || {
        runs(&format!("sleep\0{mark}"))
            && kit.must(&["ps", "--format", "{{.State}}"]).stdout == "running\n"
    });
    child.kill().unwrap();
    child.wait().unwrap();
    until("a process is left", || !runs(&format!("sleep\0{mark}")));
    // Its volume is nobody's, though it lies there still.
    let pruned = kit.must(&["volume", "prune", "-f"]).stdout;
    assert!(pruned.starts_with("Deleted Volumes:\n"), "{pruned}");
    // Whoever looks next takes away what was in the store.
    assert_eq!(kit.must(&["ps", "-aq"]).stdout, "");
    let addresses = "store/networks/together/addresses";
    for place in ["store/containers", "store/containers/addresses", addresses] {
        assert_eq!(left_in(&kit.path(place)), Vec::<String>::new(), "{place}");
    }
    kit.must(&["network", "rm", "together"]);
    assert_eq!(left_in(&kit.path("store/networks")), Vec::<String>::new());
    kit.store_is_whole();
}

/// What of the machine's a command may leave behind: mounts and network devices as this process sees them, rules of
/// packet filters where there is a program to ask, cgroups, and what is in the directory for temporary files.
fn traces(kit: &Kit) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    // Others of this machine mount too.
    let ours = mounts.lines().filter(|line| line.contains("rbuild"));
    found.extend(ours.map(|line| format!("mount {line}")));
    let devices = std::fs::read_dir("/sys/class/net").into_iter().flatten();
    found.extend(devices.map(|device| format!("device {:?}", device.unwrap().file_name())));
    for (program, arguments) in [
        ("nft", &["list", "ruleset"][..]),
        ("iptables-save", &[]),
        ("ip6tables-save", &[]),
    ] {
        if let Ok(output) = Command::new(program).args(arguments).output() {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            // Comments hold the time.
            let rules = text.lines().filter(|line| !line.starts_with('#'));
            found.extend(rules.map(|line| format!("rule {line}")));
        }
    }
    let temporary = std::fs::read_dir(kit.path("temporary")).unwrap();
    found.extend(temporary.map(|entry| format!("temporary {:?}", entry.unwrap().path())));
    found
}

/// Processes that have the store of this kit in their environment or command line, and cgroups of processes that are
/// no more.
fn remains(kit: &Kit, makers: &[u32]) -> Vec<String> {
    let store = kit.path("store").display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap() {
        let Ok(pid) = entry.unwrap().file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let of = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let both = [of("environ"), of("cmdline")].concat();
        let line = String::from_utf8_lossy(&of("cmdline")).replace('\0', " ");
        if String::from_utf8_lossy(&both).contains(&store) || line.contains("3600.0625") {
            found.push(format!("process {pid}: {line}"));
        }
    }
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten();
    let mut places: Vec<PathBuf> = hierarchies.map(|entry| entry.unwrap().path()).collect();
    places.push("/sys/fs/cgroup".into());
    for place in places {
        for name in left_in(&place) {
            let own = |pid: &u32| name.starts_with(&format!("rbuild-{pid}-"));
            if makers.iter().any(own) {
                found.push(format!("cgroup {}", place.join(&name).display()));
            }
        }
    }
    found
}

/// Each signal at several moments of each command. What a killed process had is the kernel's to take away, at once; a
/// cgroup that nobody else had heard of yet, and files in the store, go with the next command.
#[test]
fn whenever_and_however_it_is_killed_nothing_is_left() {
    require_machine!();
    let kit = Kit::new();
    kit.must_build("FROM busybox\n", &["-t", "bb"]);
    std::fs::create_dir(kit.path("temporary")).unwrap();
    let dockerfile = "FROM busybox\nRUN echo begun; sleep 3600.0625\n";
    let build = kit.build_arguments(dockerfile, &["--no-cache"]);
    kit.must(&["run", "-d", "--name", "entered", "bb", "sleep", "3600.75"]);
    let before = traces(&kit);
    let sleep = &["bb", "sleep", "3600.0625"][..];
    let build = build.iter().map(String::as_str).collect();
    let with = |first: &[&'static str]| -> Vec<&str> { [first, sleep].concat() };
    let mut commands = vec![
        build,
        with(&["run", "--rm"]),
        with(&["run", "--rm", "-p", "127.0.0.1:0:80"]),
        with(&["run", "--rm", "--memory", "64m", "--init"]),
        ["exec", "entered", "sleep", "3600.0625"].to_vec(),
    ];
    if Command::new("crun").arg("--version").output().is_ok() {
        commands.push(with(&["run", "--rm", "--runtime", "crun"]));
    }
    let mut makers = Vec::new();
    for arguments in &commands {
        for signal in ["KILL", "TERM", "INT", "HUP"] {
            for moment in [3, 12, 25, 50, 120, 400] {
                let mut child = kit
                    .command(arguments)
                    .env("TMPDIR", kit.path("temporary"))
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap();
                makers.push(child.id());
                std::thread::sleep(std::time::Duration::from_millis(moment));
                let pid = child.id().to_string();
                let _ = Command::new("kill").args(["-s", signal, &pid]).status();
                // A container's first process that does not care for a signal goes on: that is as it should be.
                if signal != "KILL" {
                    std::thread::sleep(std::time::Duration::from_millis(100));
                    let _ = child.kill();
                }
                child.wait().unwrap();
            }
        }
    }
    // The one that was killed is not the one behind it: that ends with its container.
    for moment in [3, 30, 300] {
        let mut child = kit
            .command(with(&["run", "-d", "--rm"]))
            .env("TMPDIR", kit.path("temporary"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(moment));
        let _ = child.kill();
        child.wait().unwrap();
    }
    let ids = kit.must(&["ps", "-aq"]).stdout;
    for id in ids.lines() {
        kit.must(&["rm", "-f", id]);
    }
    kit.must(&["run", "--rm", "bb", "true"]);
    let mut left = Vec::new();
    for _ in 0..1200 {
        left = remains(&kit, &makers);
        left.extend(traces(&kit).difference(&before).cloned());
        if left.is_empty() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(left, Vec::<String>::new());
    assert_eq!(kit.must(&["ps", "-aq"]).stdout, "");
    kit.store_is_whole();
}

#[test]
fn killing_the_process_behind_a_container_ends_it() {
    require_machine!();
    let kit = Kit::new();
    kit.must_build("FROM busybox\n", &["-t", "bb"]);
    let mark = "3600.25";
    kit.must(&["run", "-d", "--name", "kept", "bb", "sleep", mark]);
    let exec = kit
        .command(["exec", "kept", "sleep", "3600.5"])
        .spawn()
        .unwrap();
    until("the second process never ran", || runs("sleep\x003600.5"));
    let logs = kit.command(["logs", "-f", "kept"]).spawn().unwrap();
    let pid: u32 = kit
        .must(&["inspect", "kept", "--format", "{{.State.Pid}}"])
        .stdout
        .trim()
        .parse()
        .unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))
        .unwrap()
        .trim();
    let killed = Command::new("kill").args(["-9", parent]).status().unwrap();
    assert!(killed.success());
    until("a process is left", || {
        !runs(&format!("sleep\0{mark}")) && !runs("sleep\x003600.5")
    });
    assert_eq!(kit.finish(exec).code, 137);
    assert_eq!(kit.finish(logs).code, 0);
    let state = kit.must(&[
        "inspect",
        "kept",
        "--format",
        "{{.State.Status}} {{.State.ExitCode}} {{.State.Running}}",
    ]);
    assert_eq!(state.stdout, "exited 137 false\n");
    assert_eq!(kit.must(&["wait", "kept"]).stdout, "137\n");
    let own = format!("rbuild-{parent}-");
    until("a cgroup is left", || {
        !left_in(Path::new("/sys/fs/cgroup/memory"))
            .iter()
            .any(|name| name.starts_with(&own))
    });
    kit.must(&["start", "kept"]);
    kit.must(&["rm", "-f", "kept"]);
    kit.store_is_whole();
}

#[test]
fn killing_who_looks_on_changes_nothing() {
    require_machine!();
    let kit = Kit::new();
    kit.must_build("FROM busybox\n", &["-t", "bb"]);
    kit.must(&["run", "-d", "--name", "on", "bb", "sleep", "3600"]);
    for arguments in [
        &["logs", "-f", "on"][..],
        &["attach", "on"],
        &["wait", "on"],
    ] {
        let mut child = kit.command(arguments).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(100));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let state = kit.must(&["ps", "--format", "{{.State}}"]);
    assert_eq!(state.stdout, "running\n");
    // A command that somebody runs in it ends with who asked for it.
    let mut exec = kit
        .command(["exec", "on", "sleep", "3600.75"])
        .spawn()
        .unwrap();
    until("the command never ran", || runs("sleep\x003600.75"));
    exec.kill().unwrap();
    exec.wait().unwrap();
    until("the command is left", || !runs("sleep\x003600.75"));
    kit.must(&["rm", "-f", "on"]);
}
