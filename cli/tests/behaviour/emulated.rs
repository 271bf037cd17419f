//! With one id: what else is written down and answered so that it is as where the kernel knows all users.

use crate::kit::programs::{has, run_in};
use crate::require_machine;
use crate::rootless::{Ordinary, as_by_root};

/// `set PATH ENTRY...`, `default PATH ENTRY...`, `get PATH...`: lists as numbers, for no image has `setfacl`.
pub(crate) const ACL: &str = r#"my ($set, $get, $remove) = `uname -m` =~ /x86/ ? (188, 191, 197) : (5, 8, 14);
my %tags = ("u:" => 1, u => 2, "g:" => 4, g => 8, "m:" => 16, "o:" => 32); my %names = reverse %tags;
my ($what, @paths) = @ARGV; my ($access, $default) = map "system.posix_acl_$_", "access", "default";
if ($what eq "get") {
    for my $path (@paths) {
        printf "%s %o", $path, 07777 & (stat $path)[2];
        for my $name ($access, $default) {
            my $value = "x" x 1000; my $length = syscall $get, $path, $name, $value, length $value;
            print $name eq $access ? " access" : " default";
            if ($length < 0) { print " $!"; next } else { syscall($get, $path, $name, undef, 0) == $length or die }
            my (undef, @all) = unpack "V(vvV)*", substr $value, 0, $length;
            while (my ($tag, $may, $id) = splice @all, 0, 3) { print " $names{$tag}", $id == 0xffffffff ? "" : ":$id", ":$may" }
        }
        print "
";
    }
} elsif ($what eq "remove") {
    my $path = $paths[0]; syscall($remove, $path, $access) and print "$path: $!
";
} else {
    my ($path, @entries) = @paths; my $value = pack "V", 2;
    for (@entries) { /^(.:):(.)$/ ? ($value .= pack "vvV", $tags{$1}, $2, 0xffffffff) : /^(.):(\d+):(.)$/ && ($value .= pack "vvV", $tags{$1}, $3, $2) }
    my $name = $what eq "set" ? $access : $default; syscall($set, $path, $name, $value, length $value, 0) and print "$path: $!
";
}
"#;

/// Lists that name users: set, shown, inherited, kept and heeded.
const LISTS: &str = r#"FROM busybox
COPY programs /
COPY --chmod=755 <<'END' /bin/acl
#!/bin/sh
exec perl /acl "$@"
END
COPY acl /acl
COPY --chmod=755 <<'END' /try
#!/bin/sh
cd /t; acl get named; cat named; echo x >> named; test -r named && echo readable; test -w named; echo $?; cat masked; cat refused
cat grouped; echo x >> grouped; cat closed/f; ls closed; echo x > open/mine; rm open/f; ls open; cat open/mine
acl set named u::6 g::4 o::0; acl remove named; chmod 777 named; cd /tmp; echo x > own; acl set own u::6 u:7:6 g::4 m::6 o::0
chmod 400 own; acl set own u::4 u:1000:6 u:7:1 g::0 m::7 o::0; acl get own; cat own; acl remove own; acl get own
END
RUN mkdir /t; cd /t; (umask 077; for it in named masked refused grouped gone; do echo $it > $it; done; mkdir closed open; echo f > closed/f; echo f > open/f);     acl set named u::6 u:1000:4 u:2000000000:7 g::0 g:4:5 m::4 o::0; acl set masked u::6 u:1000:6 g::0 m::2 o::0;     acl set refused u::6 u:1000:0 g::4 m::4 o::4; acl set grouped u::6 g::0 g:1000:6 g:7:0 m::6 o::0;     acl set closed u::7 u:1000:1 g::0 m::1 o::0; acl set open u::7 u:0:5 u:1000:7 g::0 m::7 o::0;     acl set gone u::6 u:5:7 g::4 g:5:7 m::7 o::0; (su user -c /try; cd /t; acl get *) > /root.txt 2>&1
RUN cd /t; acl default open u::7 u:1234:7 g::5 g:4:5 m::7 o::5; (umask 077; echo 1 > open/root; mkdir open/d; mkfifo open/p; echo 2 > open/d/f);     su user -c 'cd /t/open; umask 077; echo 1 > user; mkdir e; mkfifo q; echo 3 > e/f'; chmod 700 open/d; chmod 640 named; chown 8:9 named; ln -s named link;     mv gone here; ln here there; for wrong in "u::6 u:4294967295:6 g::4 m::4 o::4" "u::6 u:5:6 g::4 o::4" "u:5:6 u::6 g::4 m::4 o::4" "u::6 u:5:8 g::4 m::4 o::4"; do     acl set masked $wrong; done >> /root.txt; acl set link u::7 u:77:7 g::4 m::7 o::0 >> /root.txt; acl default masked u::6 u:7:7 g::4 m::7 o::0 >> /root.txt;     find /t | sort | xargs acl get >> /root.txt; find /t -user 8 >> /root.txt; rm /t/open/p /t/open/q
FROM busybox
COPY --from=0 / /
COPY --from=0 --chown=6:7 /t /u
ADD lists.tar /v
RUN chmod 600 /u/named; cd /; find /t /u /v | sort | xargs acl get >> /root.txt
"#;

#[test]
fn with_one_id_lists_of_access_are_as_elsewhere() {
    const TEST: &str = "with_one_id_lists_of_access_are_as_elsewhere";
    require_machine!();
    if !has("perl") || !has("tar") {
        return;
    }
    let Some(user) = Ordinary::new(TEST) else {
        return;
    };
    user.take("perl");
    user.kit.context(&[("acl", ACL)]);
    let script = "mkdir lists lists/d && echo f > lists/d/f && perl context/acl set lists/d/f u::6 u:1234:6 g::4 m::6 o::0 && \
                  perl context/acl default lists/d u::7 g::5 g:1234:7 m::7 o::0 && tar --xattrs --xattrs-include='*' -C lists -cf context/lists.tar .";
    run_in(&user.kit.path(""), "sh", &["-c", script]);
    let output = as_by_root(&user, LISTS);
    for line in [
        "named 640 access u::6 u:1000:4 u:2000000000:7 g::0 g:4:5 m::4 o::0 default No data available",
        "/v/d/f 660 access u::6 u:1234:6 g::4 m::6 o::0 default No data available",
    ] {
        assert!(output.lines().any(|it| it == line), "{line}: {output}");
    }
    user.must(&["store", "check"]);
}

/// A link's owner is in the list of its directory, which takes room.
#[test]
fn with_one_id_a_full_disk_loses_no_owners() {
    const TEST: &str = "with_one_id_a_full_disk_loses_no_owners";
    require_machine!();
    let Some(user) = Ordinary::new(TEST) else {
        return;
    };
    user.build("FROM busybox\n", &["-t", "app"]);
    let script = "cd /m; ln -s x l; while touch f$i; do i=$((i+1)); done 2> /dev/null; name=l; long=$(printf %0200d 0)
        for i in 1 2 3 4 5 6 7 8 9; do mv $name $long$i 2> /tmp/error || break; name=$long$i; done
        stat -c %u $name; grep -o 'No space.*' /tmp/error";
    let tmpfs = "/m:mode=1777,nr_inodes=20";
    let arguments = [
        "run", "--rm", "-u", "1000", "--tmpfs", tmpfs, "app", "sh", "-c", script,
    ];
    let output = user.must(&arguments);
    assert_eq!(output.stdout, "1000\nNo space left on device\n", "{output}");
}

/// Setuid programs that cannot be executed, and one that can.
const VAIN: &str = r#"FROM busybox
COPY programs /
RUN printf 'id -u\n' > /script; perl -pe s/ld-linux/no-linux/ /bin/perl > /broken; cp /bin/perl /good; chown 5 /broken; chmod 4755 /script /broken /good
COPY --chmod=755 <<'END' /try
/script
/broken
id -u
perl -e 'exec { "/broken" } "x"; print "$> $!\n"; system "id -u"; exec { "/good" } "x", "-e", "print qq($< \$>\n)"'
perl -e 'exec { "/broken" } "x"; print "$>\n"; unless (fork) { print "$>\n"; exit } wait; print "$<\n"'
perl -e 'for (1 .. 99) { unless (fork) { exec { "/broken" } "x"; exit 1 + $> } } my %seen; $seen{$? >> 8}++ while wait > 0; print %seen, "\n"'
END
RUN su user -c 'sh /try' > /root.txt 2>&1
"#;

#[test]
fn with_one_id_who_executes_in_vain_stays_who_it_is() {
    const TEST: &str = "with_one_id_who_executes_in_vain_stays_who_it_is";
    require_machine!();
    if !has("perl") {
        return;
    }
    let Some(user) = Ordinary::new(TEST) else {
        return;
    };
    user.take("perl");
    let output = as_by_root(&user, VAIN);
    assert!(
        output.contains("\n1000 No such file or directory\n1000\n1000 0\n"),
        "{output}"
    );
}
