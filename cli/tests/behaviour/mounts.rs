//! `RUN --mount`, where several mounts have to do with each other.

use crate::kit::Kit;
use crate::require_machine;

#[test]
fn mounts_are_made_from_the_top_down_however_they_are_written() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[("d/a", "given")]);
    kit.must_build(
        "\
FROM busybox
RUN --mount=type=bind,target=/m/n,source=d --mount=type=tmpfs,target=/m cat /m/n/a && test ! -e /m/a
RUN --mount=type=tmpfs,target=/m,size=0 touch /m/x && test $(df -k /m | tail -n1 | awk '{print $2}') -gt 0
",
        &[],
    );
}

#[test]
fn a_tmpfs_has_the_mode_of_the_directory_that_it_hides() {
    require_machine!();
    let kit = Kit::new();
    kit.must_build(
        "\
FROM busybox
RUN mkdir -m 700 /secret && chown 5:6 /secret && mkdir -m 755 /plain && ln -s plain /link
RUN --mount=type=tmpfs,target=/secret --mount=type=tmpfs,target=/link --mount=type=tmpfs,target=/new \\
    test \"$(stat -c '%a %u:%g' /secret /plain /new | xargs)\" = '700 0:0 755 0:0 1777 0:0'
",
        &["-t", "made"],
    );
    let script = "stat -c %a /secret /plain /new /plain/in";
    let tmpfs = ["--tmpfs", "/secret", "--tmpfs", "/plain:mode=1755"];
    let mut arguments = vec!["run", "--rm"];
    arguments.extend(tmpfs);
    arguments.extend(["--tmpfs", "/new", "--tmpfs", "/plain/in"]);
    arguments.extend(["made", "sh", "-c", script]);
    assert_eq!(kit.must(&arguments).stdout, "700\n1755\n1777\n1777\n");
}

#[test]
fn who_asks_for_a_cache_of_their_own_gets_one() {
    require_machine!();
    let kit = Kit::new();
    let output = kit.must_build(
        "\
FROM busybox
RUN --mount=type=cache,id=k,target=/c echo root > /c/root
RUN --mount=type=cache,id=k,target=/c,uid=5 test ! -e /c/root && stat -c '%a %u:%g' /c && echo five > /c/five
RUN --mount=type=cache,id=k,target=/c,uid=5,mode=0755 cat /c/five
RUN --mount=type=cache,id=k,target=/c ls /c
",
        &["--progress=plain"],
    );
    assert!(output.stderr.contains("755 5:0\n"), "{output}");
    let listed = kit.must(&["cache", "mounts", "ls", "-q"]);
    assert_eq!(listed.stdout, "k\nk (755 5:0)\n");
    kit.store_is_whole();
}

#[test]
fn a_cache_that_begins_as_a_directory_has_its_mode_and_owner() {
    require_machine!();
    let kit = Kit::new();
    let output = kit.must_build(
        "\
FROM busybox AS seed
RUN mkdir /d && echo x > /d/x && chown 3:4 /d && chmod 711 /d
FROM busybox
RUN --mount=type=cache,id=a,target=/c,from=seed,source=/d stat -c 'a %a %u:%g' /c && cat /c/x
RUN --mount=type=cache,id=b,target=/c,from=seed,source=/d,mode=0770,gid=6 stat -c 'b %a %u:%g' /c
",
        &["--progress=plain"],
    );
    assert!(output.stderr.contains("a 711 3:4\n"), "{output}");
    assert!(output.stderr.contains("b 770 3:6\n"), "{output}");
}

#[test]
fn a_document_whose_name_is_a_path_is_refused_in_words() {
    require_machine!();
    let kit = Kit::new();
    let output = kit.build("FROM busybox\nCOPY <<../a /q/\nx\n../a\n", &[]);
    assert_eq!(output.code, 1, "{output}");
    let told = "`../a` is a path, and no name for a file in `/q`";
    assert!(output.stderr.contains(told), "{output}");
}
