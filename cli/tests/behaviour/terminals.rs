//! Containers with a terminal, at a real one: sizes, keys that leave, control characters, job control, and the
//! terminal as it was when all is over.

use crate::kit::{Kit, machine_can};
use crate::pty::Pty;

fn kit() -> Option<Kit> {
    if !machine_can(std::thread::current().name().unwrap_or("test")) {
        return None;
    }
    let kit = Kit::new();
    kit.must_build("FROM busybox\n", &["-t", "bb"]);
    Some(kit)
}

fn terminal(kit: &Kit, arguments: &[&str]) -> Pty {
    Pty::spawn(&kit.command(arguments), (30, 90))
}

const RUN: [&str; 5] = ["run", "--rm", "-it", "bb", "sh"];

/// A container whose program is a script.
fn script(kit: &Kit, text: &str) -> Pty {
    terminal(kit, &[&RUN[..], &["-c", text]].concat())
}

/// Busybox's shell asks the terminal where it is when it awaits a line.
const AWAITS: &str = "\u{1b}[6n";

#[track_caller]
fn ask(pty: &mut Pty, line: &str, shown: &str) {
    pty.wait_for(AWAITS);
    pty.ask(line, shown);
}

#[test]
fn a_terminal_has_the_size_of_ours_and_follows_it() {
    let Some(kit) = kit() else { return };
    let mut pty = terminal(&kit, &RUN);
    ask(
        &mut pty,
        "stty size; tty; echo $TERM",
        "30 90\n/dev/pts/0\nxterm\n",
    );
    ask(
        &mut pty,
        "trap 'echo resized to $(stty size)' WINCH; echo s''et",
        "set\n",
    );
    pty.wait_for(AWAITS);
    pty.resize(41, 101);
    // The shell is told at once; it runs its trap with the next line.
    pty.ask("true; stty size", "41 101\n");
    ask(&mut pty, "exit 5", "");
    assert_eq!(pty.finish().0, 5);
    let mut pty = script(
        &kit,
        "trap 'echo resized to $(stty size)' WINCH; echo up; while true; do sleep 0.1; done",
    );
    pty.wait_for("up\n");
    pty.resize(42, 102);
    pty.wait_for("resized to 42 102\n");
    pty.type_in("\x03");
    assert_eq!(pty.finish().0, 130);
}

#[test]
fn control_characters_are_for_the_program_inside() {
    let Some(kit) = kit() else { return };
    let mut pty = terminal(&kit, &RUN);
    // ctrl-c ends the command, not the shell; ctrl-z stops it, and it can go on.
    let sleeper = "sh -c 'echo beg''un; exec sleep 100'";
    ask(&mut pty, sleeper, "begun\n");
    pty.type_in("\x03");
    ask(&mut pty, "echo ended with $?", "ended with 130\n");
    ask(&mut pty, sleeper, "begun\n");
    pty.type_in("\x1a");
    pty.wait_for("Stopped");
    ask(&mut pty, "jobs", "sleep 100");
    ask(&mut pty, "kill %1; fg; echo o''ver", "over\n");
    pty.wait_for(AWAITS);
    // ctrl-d ends the input.
    pty.type_in("\x04");
    assert_eq!(pty.finish().0, 0);
}

#[test]
fn keys_leave_a_container_that_goes_on_and_attach_comes_back() {
    let Some(kit) = kit() else { return };
    let mut pty = terminal(&kit, &["run", "--name", "left", "-it", "bb", "sh"]);
    ask(&mut pty, "here=still; echo u''p", "up\n");
    pty.wait_for(AWAITS);
    pty.type_in("\x10\x11");
    assert_eq!(pty.finish().0, 0);
    let running = || {
        kit.must(&["ps", "--filter", "name=left", "--format", "{{.State}}"])
            .stdout
    };
    assert_eq!(running(), "running\n");
    // With keys of one's own, and another size.
    let mut pty = Pty::spawn(
        &kit.command(["attach", "--detach-keys", "ctrl-a,x", "left"]),
        (20, 70),
    );
    pty.ask("echo $here; stty size", "still\n20 70\n");
    pty.wait_for(AWAITS);
    pty.type_in("\x01x");
    assert_eq!(pty.finish().0, 0);
    assert_eq!(running(), "running\n");
    let mut pty = terminal(&kit, &["attach", "left"]);
    pty.ask("exit 9", "");
    assert_eq!(pty.finish().0, 9);
    assert_eq!(running(), "");
    assert_eq!(kit.must(&["wait", "left"]).stdout, "9\n");
}

#[test]
fn exec_has_a_terminal_of_its_own() {
    let Some(kit) = kit() else { return };
    kit.must(&["run", "-d", "--name", "there", "bb", "sleep", "600"]);
    let mut pty = terminal(&kit, &["exec", "-it", "there", "sh"]);
    ask(
        &mut pty,
        "stty size; test -t 0 && echo t''erminal",
        "30 90\nterminal\n",
    );
    pty.wait_for(AWAITS);
    pty.resize(44, 104);
    pty.ask("stty size", "44 104\n");
    ask(&mut pty, "exit 6", "");
    assert_eq!(pty.finish().0, 6);
    // Somebody else in an image's directories, with a terminal that is theirs.
    let mut pty = terminal(&kit, &["exec", "-it", "-u", "1234", "there", "sh"]);
    ask(&mut pty, "id -u; echo seen > /dev/tty", "1234\nseen\n");
    pty.wait_for(AWAITS);
    pty.type_in("\x04");
    assert_eq!(pty.finish().0, 0);
    kit.must(&["rm", "-f", "there"]);
}

#[test]
fn the_terminal_is_as_it_was_whatever_ends_it() {
    let Some(kit) = kit() else { return };
    // The container is killed from elsewhere.
    let mut pty = terminal(&kit, &["run", "--name", "doomed", "-it", "bb", "sh"]);
    ask(&mut pty, "echo u''p", "up\n");
    assert!(!pty.is_as_before());
    kit.must(&["kill", "doomed"]);
    assert_eq!(pty.finish().0, 137);
    // The one who sits there is told to end: the container is told.
    let mut pty = script(
        &kit,
        "trap 'exit 8' TERM; echo up; while true; do sleep 0.1; done",
    );
    pty.wait_for("up\n");
    let pid = rustix::process::Pid::from_raw(pty.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(pty.finish().0, 8);
    // The program wanted every key for itself, and did not tidy up.
    let mut pty = script(&kit, "stty raw -echo; echo up; exit 3");
    pty.wait_for("up\n");
    assert_eq!(pty.finish().0, 3);
}
