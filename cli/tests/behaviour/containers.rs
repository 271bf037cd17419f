//! `run` and the commands on containers: the script in `testdata/containers/commands.txt`, line by line, its groups
//! side by side on one store.

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
