//! `run` and the commands on containers: the script in `testdata/containers/commands.txt`, line by line, its groups
//! side by side on one store. And what is left when processes are killed.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use crate::docker::{Docker, Inside};
use crate::kit::programs::has;
use crate::kit::{Kit, is_root, skipped};
use crate::require_machine;

/// A line for the shell, and what is expected of it.
#[derive(Debug, Default)]
struct Line {
    number: usize,
    command: String,
    stdout: String,
    stderr: Vec<String>,
    code: i32,
    /// Why it is not the same under another runtime.
    embedded_only: Option<String>,
    /// Why it is not the same where there are no namespaces.
    not_bare: Option<String>,
}

#[derive(Debug)]
struct Group {
    name: String,
    lines: Vec<Line>,
    /// As of a line.
    not_bare: Option<String>,
}

/// Where the script runs.
#[derive(Clone, Copy)]
enum Where<'p> {
    Here {
        /// That says which runtime, if one is to be said.
        programs: &'p Path,
    },
    /// In a container without namespaces, which has this name.
    Bare(&'p Inside<'p>, &'p str),
}

fn parse(text: &str) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if let Some(name) = line.strip_prefix("== ") {
            groups.push(Group {
                name: name.to_owned(),
                lines: Vec::new(),
                not_bare: None,
            });
            continue;
        }
        let Some(group) = groups.last_mut() else {
            continue;
        };
        if let Some(command) = line.strip_prefix("$ ") {
            group.lines.push(Line {
                number: number + 1,
                command: command.to_owned(),
                ..Line::default()
            });
        } else if let Some(last) = group.lines.last_mut() {
            if let Some(code) = line.strip_prefix("=> ") {
                last.code = code.parse().unwrap();
            } else if let Some(reason) = line.strip_prefix("~ ") {
                last.embedded_only = Some(reason.to_owned());
            } else if let Some(reason) = line.strip_prefix("% ") {
                last.not_bare = Some(reason.to_owned());
            } else if let Some(text) = line.strip_prefix("! ") {
                last.stderr.push(text.to_owned());
            } else if !line.is_empty() {
                writeln!(last.stdout, "{line}").unwrap();
            }
        } else if let Some(reason) = line.strip_prefix("% ") {
            group.not_bare = Some(reason.to_owned());
        }
    }
    groups
}

/// `*` is any text within a line.
fn matches(pattern: &str, text: &str) -> bool {
    let (patterns, texts): (Vec<&str>, Vec<&str>) =
        (pattern.lines().collect(), text.lines().collect());
    patterns.len() == texts.len()
        && patterns.iter().zip(&texts).all(|(pattern, text)| {
            let mut parts = pattern.split('*');
            let text = text.trim_end_matches('\r');
            let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else {
                return false;
            };
            let mut last = None;
            for part in parts {
                match rest.find(part) {
                    Some(at) => rest = &rest[at + part.len()..],
                    None => return false,
                }
                last = Some(part);
            }
            match last {
                None => rest.is_empty(),
                Some("") => true,
                Some(part) => rest.is_empty() || text.ends_with(part),
            }
        })
}

/// The images that the script speaks of.
fn images(kit: &Kit) {
    kit.must_build("FROM busybox\n", &["-t", "bb"]);
    for (entry, entrypoint) in [
        ("none", ""),
        ("exec", "ENTRYPOINT [\"echo\", \"entry\"]\n"),
        ("shell", "ENTRYPOINT echo entry shell\n"),
    ] {
        for (cmd, command) in [
            ("none", "CMD []\n"),
            ("exec", "CMD [\"echo\", \"cmd exec\"]\n"),
            ("shell", "CMD echo cmd shell\n"),
        ] {
            let dockerfile = format!("FROM busybox\n{command}{entrypoint}{}", {
                // An ENTRYPOINT takes away the CMD of the base image, not one that stands below it.
                if entrypoint.is_empty() { "" } else { command }
            });
            kit.must_build(&dockerfile, &["-t", &format!("{entry}-{cmd}")]);
        }
    }
}

/// A directory with `rbuild`; under another runtime, one that says so with each container.
fn programs(kit: &Kit, runtime: Option<&str>) -> PathBuf {
    let rbuild = Path::new(env!("CARGO_BIN_EXE_rbuild"));
    let Some(runtime) = runtime else {
        return rbuild.parent().unwrap().to_owned();
    };
    let directory = kit.path("programs");
    std::fs::create_dir(&directory).unwrap();
    let script = format!(
        "#!/bin/sh\ncase \"$1\" in\nrun|create) what=$1; shift; exec {rbuild} \"$what\" --runtime {runtime} \"$@\";;\n\
         *) exec {rbuild} \"$@\";;\nesac\n",
        rbuild = rbuild.display()
    );
    let path = directory.join("rbuild");
    std::fs::write(&path, script).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&path, executable).unwrap();
    directory
}

fn run(kit: &Kit, at: Where<'_>, directory: &Path, line: &Line) -> Result<(), String> {
    let path = |programs: &Path| {
        format!(
            "{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            programs.display()
        )
    };
    let mut command = match at {
        Where::Here { programs } => {
            let mut command = Command::new("timeout");
            command
                .env_clear()
                .env("PATH", path(programs))
                .env("HOME", kit.path(""))
                .env("RBUILD_ROOT", kit.path("store"))
                .current_dir(directory);
            command
        }
        Where::Bare(inside, name) => {
            let programs = Path::new(env!("CARGO_BIN_EXE_rbuild")).parent().unwrap();
            let mut command = inside.within(name, directory, &path(programs));
            command.arg("timeout");
            command
        }
    };
    let output = command
        .args(["300", "sh", "-c", &line.command])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let code = output.status.code().unwrap_or(-1);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let told = line
        .stderr
        .iter()
        .all(|text| stderr.contains(text.as_str()));
    if code == line.code && told && matches(&line.stdout, &stdout) && !stderr.contains("panicked") {
        return Ok(());
    }
    Err(format!(
        "commands.txt:{}: $ {}\nexpected code {}, got {code}\n--- expected stdout\n{}--- stdout\n{stdout}--- stderr (expected to hold {:?})\n{stderr}",
        line.number, line.command, line.code, line.stdout, line.stderr
    ))
}

#[test]
fn the_script_of_commands_does_what_it_says() {
    require_machine!();
    let kit = Kit::new();
    let programs = programs(&kit, None);
    let groups = groups("the_script_of_commands_does_what_it_says");
    let at = Where::Here {
        programs: &programs,
    };
    script(&kit, at, &groups);
}

/// Runs it again under a runtime of the machine's.
fn script_under(test: &str, runtime: &str) {
    let version = Command::new(runtime).arg("--version").output();
    if !version.is_ok_and(|output| output.status.success()) {
        return skipped(test, &format!("there is no {runtime} on this machine"));
    }
    if Kit::new().must(&["info"]).stdout.contains("with one id") {
        return skipped(test, "with one id, only rbuild's own sandbox knows users");
    }
    let mut groups = groups(test);
    for group in &mut groups {
        for line in group
            .lines
            .extract_if(.., |line| line.embedded_only.is_some())
        {
            let reason = line.embedded_only.unwrap_or_default();
            skipped(test, &format!("`{}`: {reason}", line.command));
        }
    }
    let kit = Kit::new();
    let programs = programs(&kit, Some(runtime));
    let at = Where::Here {
        programs: &programs,
    };
    script(&kit, at, &groups);
}

#[test]
fn the_script_of_commands_does_the_same_under_crun() {
    require_machine!();
    script_under("the_script_of_commands_does_the_same_under_crun", "crun");
}

#[test]
fn the_script_of_commands_does_the_same_under_runc() {
    require_machine!();
    script_under("the_script_of_commands_does_the_same_under_runc", "runc");
}

#[test]
fn the_script_of_commands_does_what_it_can_without_namespaces() {
    const TEST: &str = "the_script_of_commands_does_what_it_can_without_namespaces";
    require_machine!();
    if !has("dockerd") || !has("docker") || !is_root() {
        return skipped(TEST, "this needs root and Docker");
    }
    let kit = Kit::new();
    let Some(docker) = Docker::start(&kit) else {
        return;
    };
    let inside = Inside::new(&kit, &docker);
    if !inside.has_commands(TEST) {
        return;
    }
    let mut groups = groups(TEST);
    for group in &mut groups {
        let of_group = group.not_bare.clone();
        let lines = group
            .lines
            .extract_if(.., |line| of_group.is_some() || line.not_bare.is_some());
        for line in lines {
            let reason = line.not_bare.as_ref().or(of_group.as_ref());
            let reason = reason.map_or("", String::as_str);
            skipped(TEST, &format!("`{}`: {reason}", line.command));
        }
    }
    script(&kit, Where::Bare(&inside, inside.stay()), &groups);
}

/// Those of the script that this user can run.
fn groups(test: &str) -> Vec<Group> {
    let mut groups = parse(include_str!("../../../testdata/containers/commands.txt"));
    if !is_root() {
        for group in groups.extract_if(.., |group| group.name.ends_with("(root)")) {
            skipped(test, &format!("only root has it: {}", group.name));
        }
    }
    groups
}

fn script(kit: &Kit, at: Where<'_>, groups: &[Group]) {
    let commands: usize = groups.iter().map(|group| group.lines.len()).sum();
    assert!(commands >= 150, "{commands} commands");
    images(kit);
    let failures = Mutex::new(Vec::new());
    let waiting = Mutex::new(groups.iter());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let Some(group) = waiting.lock().unwrap().next() else {
                        return;
                    };
                    let directory = kit.path(&group.name.replace([' ', ':', ',', '(', ')'], "-"));
                    std::fs::create_dir(&directory).unwrap();
                    for line in &group.lines {
                        if let Err(failure) = run(kit, at, &directory, line) {
                            let mut failures = failures.lock().unwrap();
                            failures.push(format!("[{}] {failure}", group.name));
                        }
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(
        failures.is_empty(),
        "{} of {commands} failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
    let left = kit.must(&["ps", "-aq"]);
    for id in left.stdout.lines() {
        kit.must(&["rm", "-fv", id]);
    }
    kit.store_is_whole();
}

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

pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2400 {
        if holds() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("{what}");
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

#[test]
fn networks_that_are_made_at_once_share_no_address() {
    let kit = Kit::new();
    let made: Vec<_> = (0..8)
        .map(|number| {
            // Two of them are after every name.
            let name = format!("n{}", number / 2);
            let mut command = kit.command(["network", "create", &name]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    let made = made
        .into_iter()
        .map(|child| child.wait_with_output().unwrap());
    assert_eq!(made.filter(|output| output.status.success()).count(), 4);
    let format = "{{(index .IPAM.Config 0).Subnet}}";
    let names = ["n0", "n1", "n2", "n3"];
    let arguments = ["network", "inspect", "-f", format].into_iter();
    let arguments: Vec<&str> = arguments.chain(names).collect();
    let shown = kit.must(&arguments).stdout;
    let subnets: std::collections::BTreeSet<&str> = shown.lines().collect();
    assert_eq!(subnets.len(), 4, "{shown}");
}

#[test]
fn networks_that_are_connected_at_once_all_stay_and_all_go() {
    require_machine!();
    let kit = Kit::new();
    images(&kit);
    let names: Vec<String> = (0..6).map(|number| format!("n{number}")).collect();
    for name in &names {
        kit.must(&["network", "create", name]);
    }
    kit.must(&["run", "-d", "--name", "co", "bb", "sleep", "60"]);
    let change = |what: &str| {
        let start = |name: &String| kit.command(["network", what, name, "co"]).spawn().unwrap();
        let changing: Vec<_> = names.iter().map(start).collect();
        for mut child in changing {
            assert!(child.wait().unwrap().success(), "{what}");
        }
    };
    let format = "{{range $name, $network := .NetworkSettings.Networks}}{{$name}} {{end}}";
    let connected = || kit.must(&["inspect", "-f", format, "co"]).stdout;
    let all = "bridge n0 n1 n2 n3 n4 n5 \n";
    change("connect");
    assert_eq!(connected(), all);
    kit.must(&["stop", "-t", "0", "co"]);
    kit.must(&["start", "co"]);
    assert_eq!(connected(), all);
    kit.must(&["stop", "-t", "0", "co"]);
    change("disconnect");
    kit.must(&["start", "co"]);
    assert_eq!(connected(), "bridge \n");
    kit.must(&["rm", "-f", "co"]);
}

/// What of the machine's a command may leave behind: mounts and network devices as this process sees them, rules of
/// packet filters where there is a program to ask, cgroups, and what is in the directory for temporary files.
fn traces(kit: &Kit) -> std::collections::BTreeSet<String> {
    let mut found = std::collections::BTreeSet::new();
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

#[test]
fn patterns_match_within_lines() {
    assert!(matches("a*c\n", "abc\n") && matches("*\n", "x\n") && matches("a\nb\n", "a\nb\n"));
    assert!(!matches("a\n", "ab\n") && !matches("a*c\n", "ab\n") && !matches("a\n", ""));
    assert!(matches("*PID*\n", "UID PID PPID\n") && matches("x*\n", "x\r\n"));
}

#[test]
fn cp_follows_links_to_their_end() {
    require_machine!();
    let kit = Kit::new();
    let text = "FROM busybox\nRUN echo it > /c && ln -s c /b && ln -s b /a && mkdir -p /d && ln -s ../a /d/l && ln -s r /r\n";
    kit.must_build(text, &["-t", "linked"]);
    kit.must(&["create", "--name", "linked", "linked", "sh"]);
    let read = |name: &str| std::fs::read_to_string(kit.path(name)).unwrap();
    for (from, to) in [("/c", "o0"), ("/b", "o1"), ("/a", "o2"), ("/d/l", "o3")] {
        kit.must(&["cp", "-L", &format!("linked:{from}"), to]);
        let is_file = std::fs::symlink_metadata(kit.path(to)).unwrap().is_file();
        assert!(is_file && read(to) == "it\n", "{from}");
    }
    let endless = kit.rbuild(&["cp", "-L", "linked:/r", "o4"]);
    assert_eq!(endless.code, 1, "{endless}");
    for (link, target) in [("l1", "o0"), ("l2", "l1")] {
        std::os::unix::fs::symlink(target, kit.path(link)).unwrap();
    }
    kit.must(&["cp", "-L", "l2", "linked:/in"]);
    kit.must(&["cp", "linked:/in", "back"]);
    assert_eq!(read("back"), "it\n");
}
