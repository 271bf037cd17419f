//! Builds inside of a container as Docker starts it: no options, so neither namespaces nor mounts.

use crate::docker::{Docker, Inside};
use crate::kit::programs::{has, run_in};
use crate::kit::{Kit, skipped};
use crate::require_machine;

/// What changes a root in many ways; the layers are to be those of every other machine.
const CHANGES: &str = r#"FROM busybox AS base
RUN mkdir -p /a/b /c && truncate -s 33554432 /c/holes && echo 1 > /a/one && echo 2 > /a/two && echo 3 > /a/b/three && ln -s one /a/link && mkfifo /a/pipe
FROM base
COPY a /a/copied
RUN echo more >> /a/one && rm /a/two && mv /a/b /a/moved && ln /a/copied /c/linked && chown -h 5:6 /a/link
RUN mkdir /x && cd /x && for i in $(seq 1 230); do mkdir a-name-of-20-letters && cd a-name-of-20-letters || break; done
RUN chown -Rh 0:0 /c /bin && test "$(du -k /c/holes | cut -f 1)" -lt 1024
RUN chmod 4750 /a/one && mkdir /a/b && echo new > /a/b/new && rm -r /a/moved && mknod -m 640 /c/device c 1 3
RUN test ! -e /a/b/three && chown 7:8 /c/device && mv /c/device /c/renamed && touch -d @1000000000 /c
RUN --mount=type=cache,target=/cache --mount=type=tmpfs,target=/memory --mount=type=bind,target=/context \
    echo x > /cache/kept && echo y > /memory/gone && cat /context/a > /from-context && ! touch /context/b
RUN --mount=type=cache,target=/cache cat /cache/kept > /from-cache && test ! -e /memory && mkdir /context
RUN --mount=type=secret,id=s,target=/etc/deep/secret cp /etc/deep/secret /etc/deep/copy && rm /etc/deep/copy
RUN echo 'joe:x:33:44::/home:/bin/sh' >> /etc/passwd && mkdir -m 777 /work
USER joe
WORKDIR /work
RUN id -u > id; cat /proc/self/status > /dev/null && cat < /dev/fd/0 && echo "$HOME" | cat > home; \
    readlink /proc/self/exe > exe; ls /proc/self/fd | grep -c '^[012]$' > descriptors
"#;

/// What a command tries in vain, and prints where it does not fail.
const TRIES: &str = r#"FROM busybox
RUN <<END
mkdir /jail
for tried in "kill -9 $PPID" "kill -9 1" "chroot /jail true" "mount -t proc proc /proc" "unshare -m true" "mknod /null c 0 0" \
    "ls /proc/1/root/jail/../../usr" "cat /proc/$PPID/environ" "nice -n -5 true" "hostname x" "sysctl -w vm.swappiness=1"; do
    ( $tried ) > /dev/null 2>&1 && echo "done: $tried"
done
mknod /disk b 8 0 && ( : < /disk ) 2> /dev/null && echo "opened: /disk"
grep '^Cap\|^NoNewPrivs\|^Seccomp:' /proc/self/status
setsid sh -c 'trap "" TERM HUP; while :; do sleep 1; done' > /dev/null 2>&1 < /dev/null &
( setsid sleep 1000 & ) > /dev/null 2>&1 < /dev/null
echo tried
END
"#;

#[test]
fn commands_run_in_a_container_without_options() {
    const TEST: &str = "commands_run_in_a_container_without_options";
    require_machine!();
    if !has("dockerd") || !has("docker") || !crate::kit::is_root() {
        skipped(TEST, "this needs root and Docker");
        return;
    }
    let kit = Kit::new();
    let Some(docker) = Docker::start(&kit) else {
        return;
    };
    let inside = Inside::new(&kit, &docker);
    let info = inside.rbuild(&["info"]).success();
    assert!(
        info.stdout.contains("\nPrivilege: without namespaces\n"),
        "{info}"
    );
    if !inside.has_commands(TEST) {
        return;
    }
    kit.context(&[("a", "a")]);
    std::fs::write(kit.path("secret"), "not-to-be-found").unwrap();
    let more = [
        "-q",
        "-t=app",
        "--secret=id=s,src=secret",
        "--build-arg=SOURCE_DATE_EPOCH=1700000000",
        "--output=type=image,rewrite-timestamp=true",
    ];
    let arguments = kit.build_arguments(CHANGES, &more);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let usual = kit.must(&arguments).stdout;
    let built = inside.rbuild(&arguments).success();
    assert_eq!(built.stdout, usual, "{built}");
    assert!(built.stderr.is_empty(), "{built}");
    let found = std::process::Command::new("grep")
        .args(["-r", "not-to-be-found", "inside"])
        .current_dir(kit.path(""))
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    let check = inside.rbuild(&["store", "check"]).success();
    assert_eq!(check.stdout, "The store is whole.\n");

    // Whoever begins while another puts back what it had of the volume has that, or is told that it is in use.
    let writers = r#"for i in 1 2 3 4 5 6 7 8 9 10 11 12; do
            "$RBUILD" run --rm -u 0 --network host -v shared:/d app sh -c 'echo x >> /d/lines' 2>> "$1" && echo w &
            "$RBUILD" run --rm -u 0 --network host -v shared:/d:ro app cat /d/lines > /dev/null || echo failed &
            /bin/busybox sleep 0.1
        done; wait; "$RBUILD" run --rm -u 0 --network host -v shared:/d:ro app cat /d/lines"#;
    let written = inside.sh(writers, &["refused"]).success().stdout;
    let refused = std::fs::read_to_string(kit.path("refused")).unwrap();
    let refusals = refused.matches("another container has it").count();
    let count = |line| written.lines().filter(|it| *it == line).count();
    assert_eq!(count("w") + refusals, 12, "{written}{refused}");
    assert_eq!(count("x"), count("w"), "{written}{refused}");

    // A command can remove what is a mount elsewhere.
    let removing = "FROM busybox\nRUN --mount=type=cache,target=/c touch /c/a && rm -r /c\n\
        RUN --mount=type=cache,target=/c test ! -e /c/a && touch /c/b\nRUN --mount=type=cache,target=/c rm /c/b\n";
    let arguments = kit.build_arguments(removing, &["-q"]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    inside.rbuild(&arguments).success();

    let arguments = kit.build_arguments(TRIES, &["--no-cache"]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let script = "\"$RBUILD\" \"$@\" && /bin/busybox ps -o args";
    let tried = inside.sh(script, &arguments).success();
    assert!(!tried.stderr.contains("done: "), "{tried}");
    assert!(!tried.stderr.contains("opened: "), "{tried}");
    for line in [
        "CapEff:\t00000000a00005fb",
        "CapBnd:\t00000000a00005fb",
        "CapInh:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "tried",
    ] {
        assert!(tried.stderr.contains(line), "{line}: {tried}");
    }
    assert!(!tried.stdout.contains("sleep"), "{tried}");

    // Nobody else's processes are left when the builder is killed.
    let killed = r#""$RBUILD" "$@" > /dev/null 2>&1 & builder=$!
        sleepers() { /bin/busybox ps -o args | /bin/busybox grep -c '^sleep'; }
        until [ $(sleepers) = 2 ]; do kill -0 $builder || exit 9; /bin/busybox sleep 0.1; done
        kill -9 $builder
        for i in $(/bin/busybox seq 300); do [ $(sleepers) = 0 ] && break; /bin/busybox sleep 0.1; done
        /bin/busybox ps -o args"#;
    let dockerfile = "FROM busybox\nRUN setsid sleep 1000 & sleep 999\n";
    let arguments = kit.build_arguments(dockerfile, &[]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let left = inside.sh(killed, &arguments).success();
    for sleeping in ["sleep 999", "sleep 1000"] {
        assert!(!left.stdout.contains(sleeping), "{left}");
    }

    // A network is refused where there is to be none.
    let dockerfile =
        "FROM busybox\nRUN --network=none ! nc -w 1 127.0.0.1 9 2> /said; grep unreachable /said\n";
    let arguments = kit.build_arguments(dockerfile, &[]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let none = inside.rbuild(&arguments).success();
    assert!(!none.stderr.contains("warning"), "{none}");

    let dockerfile = "FROM busybox\nRUN echo 'joe:x:33:44::/home:/bin/sh' >> /etc/passwd\n";
    let arguments = kit.build_arguments(dockerfile, &["-q", "-t=app"]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    inside.rbuild(&arguments).success();
    let ran = inside.sh(RUN, &[]).success();
    assert_eq!(ran.stdout, RUNS, "{ran}");
    let warned = ran
        .stderr
        .matches("uses the network of the container")
        .count();
    assert_eq!(warned, 1, "{ran}");
    for refused in [
        "the host name `x` cannot be had",
        "80/tcp cannot be published elsewhere",
        "`/usr` at `/x` cannot be had",
        "another container has it",
        "give a command the capability `SYS_ADMIN`",
        "use a directory as a stream",
    ] {
        assert!(ran.stderr.contains(refused), "{refused}: {ran}");
    }
    let check = inside.rbuild(&["store", "check"]).success();
    assert_eq!(check.stdout, "The store is whole.\n");
}

/// Containers, their ends, their files and what cannot be had.
const RUN: &str = r#"/bin/busybox mkdir -p /tmp/tools && /bin/busybox --install -s /tmp/tools && export PATH=/tmp/tools
rbuild() { "$RBUILD" "$@"; }
run() { rbuild run -q --network host "$@"; }
rbuild run --rm app sh -c 'kill -9 $$'; echo "ended: $?"
run --rm app nosuch; echo "ended: $?"
run --rm app sh -c 'exit 3'; echo "ended: $?"
echo read | run -i --rm app cat
run --rm -u joe -w /made -e A=b app sh -c 'id -u; pwd; echo $A; ! kill -9 1 2> /dev/null && echo kept'
run --name one app sh -c 'echo x > /new; rm /etc/passwd; sleep 1000 & setsid sleep 1000 & echo kept >> /etc/hosts'
ps -o args | grep '^sleep'
rbuild diff one
rbuild start -a one; rbuild logs one
rbuild cp one:/new - | tar -xO; echo put | rbuild cp - one:/ 2> /dev/null; echo put > "$RBUILD_ROOT/../put"; rbuild cp "$RBUILD_ROOT/../put" one:/etc/put
rbuild diff one; rbuild commit one made > /dev/null; run --rm made cat /new /etc/put; rbuild rm one
run -d --name two -v vol:/v app sh -c 'trap "echo term; exit 4" TERM; echo live > /live; echo 1 >> /v/a; echo ready; while :; do sleep 0.1; done' > /dev/null
until rbuild logs two | grep -q ready; do sleep 0.1; done
rbuild ps --format '{{.Names}} {{.State}}'; rbuild diff two; rbuild cp two:/live - | tar -xO
rbuild commit two alive > /dev/null; run --rm alive cat /live
run --rm -v vol:/v app true; run --rm -v vol:/v:ro app ls /v
rbuild exec two sh -c 'echo entered > /entered; cat /live; exit 6'; echo "ended: $?"; rbuild exec -u joe -w /v two sh -c 'id -u; pwd'
rbuild exec -d two sleep 2000; until ps -o args | grep -q '^sleep 2000'; do sleep 0.1; done; rbuild exec two sh -c '! kill -9 1'
rbuild pause two; rbuild ps --format '{{.State}}'; rbuild unpause two
rbuild stop two; ps -o args | grep '^sleep 2000'; rbuild wait two; rbuild logs two; rbuild diff two; rbuild rm two
run --rm -v vol:/v app cat /v/a
rbuild run -q -d --name three --network-alias 3rd -p 81:81 app sleep 1000 > /dev/null; rbuild port three
rbuild ps --format '{{.Ports}}'; rbuild run -q --rm app grep -c 'three$\|3rd$' /etc/hosts; rbuild rm -f three
run --rm -h x app true; rbuild run -q --rm -p 8080:80 app true; run --rm -v /usr:/x app true; run --rm --cap-add SYS_ADMIN app true
run -t --rm app sh -c 'test -t 0 && stty size && echo to the terminal > /dev/tty'
run -i --rm app ls / < /; echo "ended: $?"
rbuild ps -aq; ls "$RBUILD_ROOT/tmp"
"#;

const RUNS: &str = "\
ended: 137
ended: 127
ended: 3
read
33
/made
b
kept
C /etc
D /etc/passwd
A /new
x
C /etc
D /etc/passwd
A /etc/put
A /new
x
put
one
two running
A /live
live
live
live
ended: 6
33
/v
two
paused
two
two
4
ready
term
A /entered
A /live
two
1
81/tcp -> 0.0.0.0:81
0.0.0.0:81->81/tcp
2
three
24 80\r
to the terminal\r
ended: 125
";

/// Changes what it was given, puts other things in its place, and asks for what nobody answers.
const GIVEN: &str = r#"FROM busybox
COPY perl /
RUN <<END
perl -e 'for (qw(/proc/meminfo /proc/net/tcp /dev/null)) { open my $f, "<", $_ or die "$_: $!"; chmod 0600, $f or die "$_: $!"; }
    chmod 0600, *STDIN or die "stdin: $!"; print "changed\n"'
grep -q MemTotal /proc/meminfo && grep -q local_address /proc/net/tcp && echo > /dev/null && echo given
rm /dev/random /dev/zero /proc/cpuinfo
for i in $(seq 30); do echo $i > /made-$i; done
for i in $(seq 30); do [ "$(cat /made-$i)" = $i ] || echo "lost: $i"; done
mkfifo /pipe
exec 4<>/pipe 3</pipe 4>&-
cat /dev/fd/3 && echo read
END
"#;

#[test]
fn what_a_command_does_with_what_it_is_given_happens_to_nobody_else() {
    const TEST: &str = "what_a_command_does_with_what_it_is_given_happens_to_nobody_else";
    require_machine!();
    if !has("dockerd") || !has("docker") || !has("perl") || !crate::kit::is_root() {
        skipped(TEST, "this needs root, Docker and Perl");
        return;
    }
    let kit = Kit::new();
    let Some(docker) = Docker::start(&kit) else {
        return;
    };
    let inside = Inside::new(&kit, &docker);
    if !inside.has_commands(TEST) {
        return;
    }
    let perl = "mkdir -p context/perl && perl=$(readlink -f $(command -v perl)) && \
                cp -L --parents $perl $(ldd $perl | grep -o '/[^ ]*') context/perl && \
                mkdir -p context/perl/bin && cp $perl context/perl/bin/perl";
    run_in(&kit.path(""), "sh", &["-c", perl]);
    let script = "timeout -s KILL 100 \"$RBUILD\" \"$@\" && \
                  /bin/busybox stat -c '%a %n' /dev/null /proc/meminfo /proc/net/tcp";
    let arguments = kit.build_arguments(GIVEN, &["--network=host"]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let built = inside.sh(script, &arguments).success();
    for line in [" changed\n", " given\n", " read\n"] {
        assert!(built.stderr.contains(line), "{line}: {built}");
    }
    assert!(!built.stderr.contains("lost: "), "{built}");
    assert_eq!(
        built.stdout, "666 /dev/null\n444 /proc/meminfo\n444 /proc/net/tcp\n",
        "{built}"
    );
}
