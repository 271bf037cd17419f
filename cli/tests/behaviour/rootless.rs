//! As an ordinary user. Run by root, the tests take the user `nobody`'s place, which has no subordinate ids.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use crate::kit::programs::{has, run_in};
use crate::kit::{Kit, Output, is_root, skipped, until};
use crate::require_machine;

const ORDINARY: u32 = 65534;

/// Runs rbuild as an ordinary user.
pub(crate) struct Ordinary {
    pub(crate) kit: Kit,
    binary: PathBuf,
    ids: (u32, u32),
}

impl Ordinary {
    /// With one id.
    pub(crate) fn new(test: &str) -> Option<Self> {
        Self::with(test, (ORDINARY, ORDINARY))
    }

    /// With subordinate ids.
    pub(crate) fn with_more_ids(test: &str) -> Option<Self> {
        let lines = |path| std::fs::read_to_string(path).unwrap_or_default();
        let first = |line: &str| line.split(':').next().map(str::to_owned);
        let named: Vec<String> = lines("/etc/subuid").lines().filter_map(first).collect();
        let users = lines("/etc/passwd");
        let ids = users.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let is_named = named
                .iter()
                .any(|name| fields.first() == Some(&name.as_str()));
            let id = |place: usize| fields.get(place)?.parse::<u32>().ok();
            is_named
                .then_some((id(2)?, id(3)?))
                .filter(|ids| ids.0 != 0)
        });
        if ids.is_none() || !has("newuidmap") {
            skipped(test, "no user has subordinate ids here");
            return None;
        }
        Self::with(test, ids?)
    }

    fn with(test: &str, ids: (u32, u32)) -> Option<Self> {
        if !is_root() {
            skipped(test, "the other tests are run by an ordinary user already");
            return None;
        }
        let probe = std::process::Command::new("unshare")
            .args(["--user", "true"])
            .uid(ids.0)
            .gid(ids.1)
            .output();
        if !probe.is_ok_and(|output| output.status.success()) {
            skipped(test, "ordinary users may make no user namespaces here");
            return None;
        }
        let kit = Kit::new();
        // A copy of the binary, because the user may not enter the directory that it was built in.
        let binary = kit.path("rbuild");
        std::fs::copy(env!("CARGO_BIN_EXE_rbuild"), &binary).unwrap();
        std::fs::set_permissions(&binary, PermissionsExt::from_mode(0o755)).unwrap();
        let directory = binary.parent().unwrap();
        std::os::unix::fs::chown(directory, Some(ids.0), Some(ids.1)).unwrap();
        Some(Self { kit, binary, ids })
    }

    /// Puts a program of the machine's, and the libraries that it needs, into the context's directory `programs`.
    pub(crate) fn take(&self, program: &str) {
        let script = "it=$(readlink -f $(command -v $0)) && cd context && mkdir -p programs/bin && \
                      cp -L --parents $it $(ldd $it | grep -o '/[^ ]*') programs && cp $it programs/bin/$0";
        run_in(&self.kit.path(""), "sh", &["-c", script, program]);
    }

    pub(crate) fn build(&self, dockerfile: &str, more: &[&str]) -> Output {
        let arguments = self.kit.build_arguments(dockerfile, more);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.must(&arguments)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> std::process::Command {
        self.command_by(&[], arguments)
    }

    /// By other programs that start it.
    pub(crate) fn command_by(
        &self,
        starters: &[&str],
        arguments: &[&str],
    ) -> std::process::Command {
        let plain = self.kit.command(["unused"]);
        let binary = self.binary.to_str().unwrap();
        let all = [starters, &[binary], arguments].concat();
        let mut command = std::process::Command::new(all[0]);
        command.args(&all[1..]).env_clear();
        for (name, value) in plain.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        command
            .current_dir(self.binary.parent().unwrap())
            .uid(self.ids.0)
            .gid(self.ids.1)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        command
    }

    #[track_caller]
    pub(crate) fn must(&self, arguments: &[&str]) -> Output {
        let command = self.command(arguments).spawn();
        self.kit.finish(command.unwrap()).success()
    }
}

#[test]
fn an_ordinary_user_builds_and_runs() {
    require_machine!();
    let Some(user) = Ordinary::new("an_ordinary_user_builds_and_runs") else {
        return;
    };
    let dockerfile = "FROM busybox\nRUN id -u > /id && touch /x && chown 7:8 /x && stat -c %u:%g /x >> /id\nCMD [\"cat\", \"/id\"]\n";
    user.build(dockerfile, &["-t", "app"]);
    let output = user.must(&["run", "--rm", "app"]);
    assert_eq!(output.stdout, "0\n7:8\n", "{output}");
    let output = user.must(&["store", "check"]);
    assert_eq!(output.stdout, "The store is whole.\n", "{output}");
}

/// Files of a container's users belong to others for who is outside of its user namespace.
#[test]
fn what_users_of_containers_left_can_be_removed() {
    require_machine!();
    let Some(user) = Ordinary::with_more_ids("what_users_of_containers_left_can_be_removed") else {
        return;
    };
    user.build("FROM busybox\n", &["-t", "bb"]);
    let write = "mkdir -p /v/c /own/c; touch /v/c/f /own/c/f; chown -R 5:6 /v /own; chmod 700 /v /own; echo done";
    let run = ["run", "--rm", "-v", "named:/v", "bb", "sh", "-c", write];
    user.must(&run);
    user.must(&["volume", "rm", "named"]);
    user.must(&run);
    user.must(&["volume", "prune", "-af"]);
    let entries = |of: &str| {
        let entries = std::fs::read_dir(user.kit.path("store").join(of)).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.len() >= 64 || name.contains("named"))
            .collect::<Vec<String>>()
    };
    assert!(entries("volumes").is_empty(), "{:?}", entries("volumes"));
    // What a killed one leaves does not hide the others from who only looks, and goes by who may remove it.
    let then = format!("{write}; sleep 60");
    let killed = ["run", "--rm", "-v", "/v", "bb", "sh", "-c", &then];
    let mut child = user.command(&killed).spawn().unwrap();
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut [0; 5])
        .unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    until("it is still there", || {
        user.must(&["ps", "-aq"]).stdout.is_empty()
    });
    user.must(&["container", "prune", "-f"]);
    for of in ["containers", "volumes"] {
        assert!(entries(of).is_empty(), "{:?}", entries(of));
    }
}

/// Tells each who connects who it is, and whether there is such a process.
const SERVER: &str = r#"socket S, 1, 1, 0 or die; bind S, pack("S a*", 1, "/tmp/socket") or die $!; chmod 0770, "/tmp/socket" or die $!; listen S, 9 or die;
while (accept C, S) {
    my ($process, $user, $group) = unpack "L3", getsockopt C, 1, 17;
    my $name = do { open my $f, "<", "/proc/$process/comm" or die "$process: $!"; <$f> };
    syswrite C, "you are $user:$group, $name"; close C;
}
"#;
const CLIENT: &str = r#"socket S, 1, 1, 0 or die;
for (1 .. 200) { last if connect S, pack("S a*", 1, "/tmp/socket"); select undef, undef, undef, 0.05; }
my (undef, $user, $group) = unpack "L3", getsockopt S, 1, 17; print "it is $user:$group\n", <S>;
"#;
/// A file in memory is the one's who made it, though it is written down nowhere.
const MEMORY: &str = r#"my $name = "x"; my $fd = syscall `uname -m` =~ /x86/ ? 319 : 279, $name, 0;
open F, "+<&=", $fd or die $!; chmod 0700, *F or die $!; my $path = "/proc/self/fd/$fd";
open G, "+<", $path or die "not to be opened: $!"; -x $path or die "not to be executed";
"#;

#[test]
fn with_one_id_a_socket_tells_who_is_at_its_other_end() {
    const TEST: &str = "with_one_id_a_socket_tells_who_is_at_its_other_end";
    require_machine!();
    if !has("perl") {
        return;
    }
    let Some(user) = Ordinary::new(TEST) else {
        return;
    };
    user.take("perl");
    std::fs::write(user.kit.path("context/server"), SERVER).unwrap();
    std::fs::write(user.kit.path("context/client"), CLIENT).unwrap();
    std::fs::write(user.kit.path("context/memory"), MEMORY).unwrap();
    let dockerfile = "FROM busybox\nCOPY programs /\nCOPY server client memory /\nRUN mkdir -p -m 1777 /tmp\n\
                      RUN perl -e 'socketpair A, B, 1, 1, 0; print join(\":\", unpack \"L3\", getsockopt A, 1, 17) eq \"$$:0:0\" ? \"root\\n\" : \"?\\n\"' > /root.txt\n\
                      USER 7:8\n\
                      RUN perl -e 'socketpair A, B, 1, 1, 0; print join(\":\", unpack \"L3\", getsockopt A, 1, 17) eq \"$$:7:8\" ? \"user\\n\" : \"?\\n\"' > /tmp/user.txt\n\
                      RUN perl /memory\n\
                      CMD [\"perl\", \"/server\"]\n";
    user.build(dockerfile, &["-t", "app"]);
    let output = user.must(&["run", "--rm", "app", "cat", "/root.txt", "/tmp/user.txt"]);
    assert_eq!(output.stdout, "root\nuser\n", "{output}");
    user.must(&["run", "-d", "--name", "server", "app"]);
    let script = "until stat -c '%u:%g %a' /tmp/socket 2> /dev/null | grep 770; do sleep 0.1; done";
    let output = user.must(&["exec", "server", "sh", "-c", script]);
    assert_eq!(output.stdout, "7:8 770\n", "{output}");
    for (asks, is) in [("7:8", "7:8"), ("65533:1", "65533:1"), ("0", "0:0")] {
        let output = user.must(&["exec", "-u", asks, "server", "perl", "/client"]);
        let expected = format!("it is 7:8\nyou are {is}, perl\n");
        assert_eq!(output.stdout, expected, "{asks}: {output}");
    }
    let shows = |who: &str, script: &str| {
        user.must(&["exec", "-u", who, "server", "sh", "-c", script])
            .stdout
    };
    let script =
        "stat -c %u:%g /proc/1 /proc/1/task/1; grep -E '^(Uid|Gid|Groups):' /proc/1/status";
    let expected = "7:8\n7:8\nUid:\t7\t7\t7\t7\nGid:\t8\t8\t8\t8\nGroups:\t8 \n";
    assert_eq!(shows("0", script), expected);
    assert_eq!(
        shows("9:5", "grep Gid /proc/self/status"),
        "Gid:\t5\t5\t5\t5\n"
    );
    let listed = shows("9", "ps -o user,comm");
    for line in ["7        perl\n", "9        ps\n"] {
        assert!(listed.contains(line), "{line}: {listed}");
    }
    let script = "busybox su -s /bin/sh -c 'perl /client' user";
    let output = user.must(&["exec", "-u", "0", "server", "sh", "-c", script]);
    assert!(output.stdout.contains("\nyou are 1000:1000"), "{output}");
    user.must(&["rm", "-f", "server"]);
}

#[test]
fn with_one_id_a_user_stays_who_it_is() {
    const TEST: &str = "with_one_id_a_user_stays_who_it_is";
    require_machine!();
    if !has("setpriv") || !has("prlimit") {
        return;
    }
    let Some(user) = Ordinary::new(TEST) else {
        return;
    };
    user.take("setpriv");
    user.take("prlimit");
    // One takes the user first, then the group; the other sets a limit, as PAM and sudo set all.
    let dockerfile = "FROM busybox\nCOPY programs /\nRUN echo secret > /secret && chmod 600 /secret\n\
                      RUN cp /bin/setpriv /taking && chown 3:4 /taking && chmod 6755 /taking\n\
                      RUN /bin/setpriv --reuid 7 --regid 8 --clear-groups sh -c 'id -u; id -g; /bin/setpriv --regid 9 id -g || echo refused' > /ids\n\
                      RUN /bin/setpriv --reuid 7 --clear-groups prlimit --locks=5:5 sh -c 'id -u; prlimit --locks -o SOFT --noheadings' >> /ids\n\
                      CMD [\"cat\", \"/ids\"]\n";
    user.build(dockerfile, &["-t", "app"]);
    let output = user.must(&["run", "--rm", "app"]);
    assert_eq!(output.stdout, "7\n8\nrefused\n7\nunlimited\n", "{output}");
    // Where the limit that it is usually noted in may not be raised, it can become another all the same, and with none of
    // them it is who it is.
    let limited = |limits: &[&str], arguments: &[&str]| {
        let starters = [&["/usr/bin/prlimit"], limits].concat();
        let arguments = [&["run", "--rm", "-i"], arguments].concat();
        let mut command = user.command_by(&starters, &arguments);
        user.kit.finish(command.spawn().unwrap()).success().stdout
    };
    let script = "su -s /bin/sh user -c 'id -u; ps -o user,comm | grep -c ^user; /bin/prlimit --locks=5:5 --rss=5:5 id -u; \
                  /bin/prlimit --rss -o SOFT --noheadings'";
    let arguments = ["--ulimit=rss=7:7", "app", "sh", "-c", script];
    let become_ = limited(&["--locks=99:99"], &arguments);
    assert_eq!(become_, "1000\n3\n1000\nunlimited\n");
    let both = ["--locks=99:99", "--rss=99:99"];
    assert_eq!(limited(&both, &["-u", "7:8", "app", "id", "-u"]), "7\n");
    let script = "stat -c '%u:%g %a' $(tty); test -w $(tty) && chmod 600 $(tty) && echo own";
    let output = user.must(&["run", "--rm", "-t", "-u", "7:8", "app", "sh", "-c", script]);
    assert_eq!(output.stdout, "7:5 620\r\nown\r\n", "{output}");
    user.must(&["run", "-d", "--name", "sleeper", "app", "sleep", "100"]);
    for more in [&["-u", "9"][..], &["--privileged", "-u", "9"]] {
        let script = "id -u; cat /secret || echo refused";
        let arguments = [&["exec"], more, &["sleeper", "sh", "-c", script]].concat();
        let output = user.must(&arguments);
        assert_eq!(output.stdout, "9\nrefused\n", "{more:?}: {output}");
    }
    // The first program of all takes its file's owner, too, unless it may not.
    let takes = |arguments: &[&str]| {
        let output = user.must(arguments);
        let is_of_ids = |line: &&str| line.split(": ").next().is_some_and(|it| it.ends_with("id"));
        let ids: Vec<&str> = output.stdout.lines().filter(is_of_ids).collect();
        ids.join(" ")
    };
    let taken = "uid: 9 euid: 3 gid: 0 egid: 4";
    assert_eq!(
        takes(&["exec", "-u", "9", "sleeper", "/taking", "-d"]),
        taken
    );
    user.must(&["rm", "-f", "sleeper"]);
    assert_eq!(
        takes(&["run", "--rm", "-u", "9", "app", "/taking", "-d"]),
        taken
    );
    let refused = [
        "run",
        "--rm",
        "-u",
        "9",
        "--security-opt=no-new-privileges",
        "app",
    ];
    for program in [&["/taking", "-d"][..], &["sh", "-c", "/taking -d"]] {
        let ids = takes(&[&refused, program].concat());
        assert_eq!(ids, "uid: 9 euid: 9 gid: 0 egid: 0");
    }
}

/// What root's kernel refuses others, or lets them do.
const RIGHTS: &str = r#"FROM busybox
RUN mkdir -p -m 1777 /tmp /work/shared; mkdir -m 700 /closed; mkdir -m 755 /closed/in /open; echo s > /closed/in/f; \
    mkdir -m 777 /work/free; mkdir -m 2775 /work/group; chown 0:1000 /work/group; \
    for it in /open /work/free /work/shared; do echo r > $it/root; echo u > $it/own; chown 1000:1000 $it/own; done; \
    echo r > /open/secret; chmod 600 /open/secret; cp /bin/busybox /open/program; chmod 700 /open/program; \
    cp /bin/busybox /open/taking; chmod 4755 /open/taking; chmod 666 /work/free/own
COPY --chmod=755 <<'END' /try
#!/bin/sh
try() { if "$@" > /dev/null 2>&1; then echo "yes: $*"; else echo "no: $*"; fi; }
cd /open
for it in /open/root /open/own /open/secret /closed/in/f /work/free/root; do
    try cat $it; try sh -c ": >> $it"; try truncate -s 1 $it; try chmod 644 $it; try touch -d @9 $it; try touch $it
    try stat $it; try test -r $it; try test -w $it; try test -x $it; try chown 1000 $it; try chgrp 1000 $it
done
try ls /closed; try cd /closed; try cd /closed/in; try /open/program true; try ln /open/secret /tmp/l; try ln /open/own /tmp/m
try ln /open/taking /tmp/n; try ln /work/free/own /tmp/o; try ln /open/own /open/l; try ln -s x /open/s; try ln -s x /tmp/s
try mkdir /open/d; try mkdir /tmp/d; try mkfifo /open/p; try mkfifo /tmp/p; try mv /open/own /tmp; try mv /tmp/s /open
try mv /work/free/root /tmp/root; try mv /work/shared/root /tmp; try mv /work/shared/own /tmp; try mv /tmp/d /tmp/own
try rm /open/own; try rm /work/free/own; try rm /tmp/own; try rmdir /tmp/d; try rmdir /open; try rm -f /nowhere
echo x > /work/group/f; mkdir /work/group/e; stat -c '%n %u %g %a' /work/group/* /tmp/*
END
RUN su user -c /try > /root.txt
RUN cd /closed/in && su user -c 'cat f; cat ../in/f; cat /closed/in/f' >> /root.txt 2>&1; \
    chmod 777 /closed/in; su user -c 'touch g; rm f; ls' >> /root.txt 2>&1; true
"#;

/// Whose things are by further names, behind links that lead nowhere yet, and in directories that come and go.
const NAMES: &str = r#"FROM busybox
RUN mkdir -p -m 1777 /tmp && mkdir /bare /bare/bin /bare/proc /bare/proc/self && cp /bin/busybox /bare/bin/sh && \
    cp /bin/busybox /bin/busybox-äääää && printf '#!/bin/sh\nid -u\n' > /bin/script && chmod 4755 /bin/script
COPY --chmod=755 <<'END' /try
#!/bin/sh
whose() { stat -c '%n %u %g %a' "$@"; }
cd /tmp
ln -s x l1; mkfifo p1; ln l1 l2; ln p1 p2; ln -s l9 l3; ln l1 l3; ln l1 /bin/script; ln l1 /bin/l; whose l1 l2 l3 p1 p2
mkdir d; ln -s d/new n1; ln -s /tmp/d/../n3 n2; ln -s n5 n4; ln -s n6 n5; ln -s loop loop; ln -s d/ n7; ln -s no/x n8; ln -s /bin/n n9
for it in n1 n2 n4 loop n7 n8 n9; do echo $it > $it && chmod 600 $it; cat $it; done; whose n* d/new
whose /proc/self/ /proc/self/fd /proc/$$ /proc/1; cat /proc/1/environ; cat /proc/self/environ > /dev/null || echo unread
grep Uid /proc/self/status; (cd /proc/self && grep -E 'Uid|Groups' status; echo o > ../1/comm)
echo c > /proc/self/cwd/c; whose /proc/self/cwd/c c
echo e > /dev/fd/5/e 5< .; echo e > /proc/thread-self/cwd/e2; chmod 600 e e2; whose e e2; cat e e2
exec busybox-äääää sh -c 'cd /tmp; echo a > f; mkdir g; stat -c "%n %u" f g; grep Uid /proc/$$/status; script
    cd g; rmdir ../g; touch h; ls; cat < /dev/null > ../i; cd ..; mkdir "j (deleted)"; cd j*; touch k; ls; whoami'
END
RUN (su user -c /try) > /root.txt 2>&1; cd /tmp && rm p1 l1 && mkfifo p1 && ln -s y l1 && stat -c '%n %u' p1 l1 >> /root.txt; \
    chown 5 /proc/self/cwd/f && stat -c %u f >> /root.txt; cp /bin/busybox /bare/bin/busybox; \
    chroot /bare /bin/busybox sh -c 'echo > /proc/self/a; busybox chown 5 /proc/self/a'; stat -c %u /bare/proc/self/a >> /root.txt
"#;

#[test]
fn with_one_id_users_may_what_they_may_elsewhere() {
    const TEST: &str = "with_one_id_users_may_what_they_may_elsewhere";
    require_machine!();
    let Some(user) = Ordinary::new(TEST) else {
        return;
    };
    let output = as_by_root(&user, RIGHTS);
    assert!(output.contains("no: cat /closed/in/f\n"), "{output}");
}

#[test]
fn with_one_id_names_lead_to_what_they_lead_to_elsewhere() {
    const TEST: &str = "with_one_id_names_lead_to_what_they_lead_to_elsewhere";
    require_machine!();
    let Some(user) = Ordinary::new(TEST) else {
        return;
    };
    let output = as_by_root(&user, NAMES);
    for line in ["l2 1000 1000 777", "d/new 1000 1000 600", "f 1000", "p1 0"] {
        assert!(output.lines().any(|it| it == line), "{line}: {output}");
    }
}

/// What a build's `/root.txt` says, which has to be the same where the kernel knows all users, as the image has.
#[track_caller]
pub(crate) fn as_by_root(user: &Ordinary, dockerfile: &str) -> String {
    let show = ["run", "--rm", "app", "cat", "/root.txt"];
    let more = [
        "-t=app",
        "--build-arg=SOURCE_DATE_EPOCH=1700000000",
        "--output=type=image,rewrite-timestamp=true",
    ];
    let image = ["images", "-q", "--no-trunc"];
    user.build(dockerfile, &more);
    let emulated = (user.must(&show).stdout, user.must(&image).stdout);
    let kit = &user.kit;
    let by_root = |arguments: &[&str]| kit.must(&[&["--root=root"], arguments].concat());
    let arguments = kit.build_arguments(dockerfile, &more);
    by_root(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let kernels = (by_root(&show).stdout, by_root(&image).stdout);
    let lines = emulated.0.lines().zip(kernels.0.lines());
    let differing: Vec<_> = lines
        .filter(|(emulated, kernels)| emulated != kernels)
        .collect();
    assert!(
        differing.is_empty() && emulated.0.len() == kernels.0.len(),
        "{differing:?}\n{}\n{}",
        emulated.0,
        kernels.0
    );
    assert_eq!(emulated.1, kernels.1, "the image");
    emulated.0
}
