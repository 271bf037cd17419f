//! A table of changes. Each is made to the same project; what ran, why, and the result are compared.

use std::os::unix::fs::{chown, symlink};
use std::process::Command;

use crate::kit::{Kit, is_root};
use crate::project::{case, check};
use crate::require_machine;
use crate::twin::{Twin, assert_same};

const DOCKERFILE: &str = r#"FROM busybox AS build
ARG USED=1
ENV E=1
WORKDIR /src
COPY app.txt tool.sh ./
COPY dir dir/
RUN cat app.txt dir/x > out
RUN --mount=type=cache,target=/c,sharing=shared echo cache > cache
RUN --mount=type=secret,id=token echo secret > secret
RUN --mount=type=bind,source=bound,target=/bound cat /bound/f > bound

FROM busybox AS side
RUN echo side > /side

FROM scratch
LABEL a=1
COPY --from=build /src/out /out
COPY --from=side /side /side
COPY --chmod=640 --chown=1:2 owned.txt /owned.txt
COPY --from=build /src /src
CMD ["/out"]
"#;

// The steps, by what their names hold.
const APP: &str = "COPY app.txt";
const DIR: &str = "COPY dir";
const CAT: &str = "RUN cat";
const CACHE: &str = "type=cache";
const SECRET: &str = "type=secret";
const BIND: &str = "type=bind";
const SIDE: &str = "RUN echo side";
const OUT: &str = "/src/out";
const FROM_SIDE: &str = "--from=side";
const OWNED: &str = "owned.txt";
const ALL: &str = "/src /src";
const RUNS: [&str; 4] = [CAT, CACHE, SECRET, BIND];

#[test]
fn changes_of_files() {
    require_machine!();
    let after_app: &[&[&str]] = &[&[APP, DIR], &RUNS];
    let mut cases = vec![
        case("nothing", |_| {}, &[], &[]),
        case(
            "touched",
            |it| {
                let file = std::fs::File::open(it.path("app.txt")).unwrap();
                // Later than SOURCE_DATE_EPOCH, as everything here: such times do not reach the image.
                let time = std::time::SystemTime::now() + std::time::Duration::from_hours(1);
                file.set_modified(time).unwrap();
            },
            &[],
            &[],
        ),
        case(
            "content",
            |it| it.write("app.txt", "app 2\n"),
            &[&[APP, DIR], &RUNS, &[OUT, FROM_SIDE, OWNED, ALL]],
            &["changed app.txt content"],
        ),
        case(
            "mode",
            |it| it.mode("tool.sh", 0o700),
            &[after_app.concat().as_slice(), &[ALL]],
            &["changed tool.sh mode"],
        ),
        case(
            "content of one in a directory",
            |it| it.write("dir/y", "y 2\n"),
            &[&[DIR], &RUNS, &[ALL]],
            &["changed dir/y content"],
        ),
        case(
            "content and mode",
            |it| {
                it.write("dir/y", "y 3\n");
                it.mode("dir/y", 0o600);
            },
            &[&[DIR], &RUNS, &[ALL]],
            &["changed dir/y content+mode"],
        ),
        case(
            "renamed",
            |it| std::fs::rename(it.path("dir/y"), it.path("dir/z")).unwrap(),
            &[&[DIR], &RUNS, &[ALL]],
            &["removed dir/y", "added dir/z"],
        ),
        case(
            "added",
            |it| it.write("dir/new", "new"),
            &[&[DIR], &RUNS, &[ALL]],
            &["added dir/new"],
        ),
        case(
            "removed",
            |it| it.remove("dir/y"),
            &[&[DIR], &RUNS, &[ALL]],
            &["removed dir/y"],
        ),
        case(
            "symlink's target",
            |it| {
                it.remove("dir/link");
                symlink("y", it.path("dir/link")).unwrap();
            },
            &[&[DIR], &RUNS, &[ALL]],
            &["changed dir/link target"],
        ),
        case(
            "symlink is a file now",
            |it| {
                it.remove("dir/link");
                it.write("dir/link", "x\n");
            },
            &[&[DIR], &RUNS, &[ALL]],
            &["changed dir/link type"],
        ),
        case(
            "added directory",
            |it| std::fs::create_dir(it.path("dir/more")).unwrap(),
            &[&[DIR], &RUNS, &[ALL]],
            &["added dir/more"],
        ),
        case(
            "mode of a directory",
            |it| it.mode("dir/empty", 0o700),
            &[&[DIR], &RUNS, &[ALL]],
            &["changed dir/empty mode"],
        ),
        case(
            "mode of the directory that is copied",
            |it| it.mode("dir", 0o700),
            &[],
            &[],
        ),
        case(
            "file that nothing copies",
            |it| it.write("outside.txt", "2"),
            &[],
            &[],
        ),
        case("ignored file", |it| it.write("ignored.log", "2"), &[], &[]),
        case("new ignored file", |it| it.write("new.log", "2"), &[], &[]),
        case(
            "ignore file with one more",
            |it| it.write(".dockerignore", "*.log\ndir/link\n"),
            &[&[DIR], &RUNS, &[ALL]],
            &["removed dir/link"],
        ),
        case(
            "ignore file with a comment",
            |it| it.write(".dockerignore", "# c\n*.log\n"),
            &[],
            &[],
        ),
        case(
            "file in a bind mount",
            |it| it.write("bound/f", "f 2\n"),
            &[&[BIND, ALL]],
            &["changed bound/f content"],
        ),
        case(
            "file in a bind mount that nobody reads",
            |it| it.write("bound/g", "g 2\n"),
            &[&[BIND]],
            &["changed bound/g content"],
        ),
        case(
            "two files of two steps",
            |it| {
                it.write("dir/y", "4");
                it.write("owned.txt", "2");
            },
            &[&[DIR], &RUNS, &[OWNED, ALL]],
            &["changed dir/y content", "changed owned.txt content"],
        ),
        case(
            "secret's value",
            |it| {
                std::fs::write(it.twin.kit.path("token"), "two").unwrap();
            },
            &[],
            &[],
        ),
    ];
    if is_root() {
        cases.push(case(
            "owner in the context",
            |it| {
                chown(it.path("app.txt"), Some(5), Some(5)).unwrap();
            },
            &[],
            &[],
        ));
    }
    check(DOCKERFILE, &cases);
}

#[test]
fn changes_of_the_dockerfile() {
    require_machine!();
    check(
        DOCKERFILE,
        &[
            case(
                "used ARG's default",
                |it| it.edit("USED=1", "USED=2"),
                &[&RUNS],
                &["env.USED: 1 -> 2"],
            ),
            case(
                "ARG is gone",
                |it| it.edit("ARG USED=1\n", ""),
                &[&RUNS],
                &["env.USED: 1 -> -"],
            ),
            case(
                "ARG without a value",
                |it| it.edit("ARG USED", "ARG NONE\nARG USED"),
                &[],
                &[],
            ),
            case(
                "ENV",
                |it| it.edit("E=1", "E=3"),
                &[&RUNS],
                &["env.E: 1 -> 3"],
            ),
            case(
                "another ENV",
                |it| it.edit("ENV E=1", "ENV E=1\nENV F=1"),
                &[&RUNS],
                &["env.F: - -> 1"],
            ),
            case(
                "ENV after the last RUN",
                |it| it.edit("LABEL a=1", "LABEL a=1\nENV X=1"),
                &[],
                &[],
            ),
            case(
                "ENV of one stage",
                |it| it.edit("AS side", "AS side\nENV G=1"),
                &[&[SIDE]],
                &["env.G: - -> 1"],
            ),
            case("label", |it| it.edit("a=1", "a=2"), &[], &[]),
            case(
                "label of an inner stage",
                |it| it.edit("ARG USED", "LABEL b=1\nARG USED"),
                &[],
                &[],
            ),
            case("CMD", |it| it.edit(r#"["/out"]"#, r#"["/in"]"#), &[], &[]),
            case(
                "comments and empty lines",
                |it| it.edit("\nENV", "\n# comment\n\nENV"),
                &[],
                &[],
            ),
            case(
                "case of a keyword",
                |it| it.edit("RUN cat", "run cat"),
                &[],
                &[],
            ),
            case(
                "name of a stage",
                |it| {
                    it.edit("AS side", "AS other");
                    it.edit("--from=side", "--from=other");
                },
                &[],
                &[],
            ),
            case(
                "a stage that is not needed",
                |it| {
                    it.edit(
                        "FROM scratch",
                        "FROM busybox AS extra\nRUN false\n\nFROM scratch",
                    );
                },
                &[],
                &[],
            ),
            case(
                "command with the same result",
                |it| it.edit("cat app.txt dir/x", "cat  app.txt dir/x"),
                &[&[CAT]],
                &["argv[2]: cat app.txt dir/x > out -> cat  app.txt dir/x > out"],
            ),
            case(
                "command with another result",
                |it| it.edit("echo side >", "echo side; echo 2 >"),
                &[&[SIDE, FROM_SIDE, OWNED, ALL]],
                &["argv[2]: echo side > /side -> echo side; echo 2 > /side"],
            ),
            case(
                "shell",
                |it| it.edit("RUN cat", "SHELL [\"/bin/ash\", \"-c\"]\nRUN cat"),
                &[&RUNS],
                &["argv[0]: /bin/sh -> /bin/ash"],
            ),
            case(
                "user",
                |it| it.edit("RUN cat", "USER 0\nRUN cat"),
                &[&RUNS],
                &["user:  -> 0"],
            ),
            case(
                "network",
                |it| it.edit("RUN cat", "RUN --network=none cat"),
                &[&["RUN --network=none cat"]],
                &["network: default -> none"],
            ),
            case(
                "sharing of a cache mount",
                |it| it.edit("sharing=shared", "sharing=locked"),
                &[&[CACHE]],
                &["mount[/c].sharing: shared -> locked"],
            ),
            case(
                "id of a cache mount",
                |it| it.edit("type=cache", "type=cache,id=other"),
                &[&[CACHE]],
                &["mount[/c].id: /c -> other"],
            ),
            case(
                "mode of a cache mount",
                |it| it.edit("type=cache", "type=cache,mode=700"),
                &[&[CACHE]],
                &["mount[/c].mode: 755 -> 700"],
            ),
            case(
                "writable bind mount",
                |it| it.edit("type=bind", "type=bind,rw"),
                &[&[BIND]],
                &["mount[/bound].readonly: yes -> no"],
            ),
            case(
                "required secret",
                |it| it.edit("type=secret", "type=secret,required"),
                &[&[SECRET]],
                &["mount[/run/secrets/token].required: no -> yes"],
            ),
            case(
                "chmod",
                |it| it.edit("--chmod=640", "--chmod=600"),
                &[&[OWNED, ALL]],
                &["chmod: 640 -> 600"],
            ),
            case(
                "chown",
                |it| it.edit("--chown=1:2", "--chown=3:4"),
                &[&[OWNED, ALL]],
                &["chown: 1:2 -> 3:4"],
            ),
            case(
                "destination",
                |it| it.edit("/owned.txt", "/other.txt"),
                &[&[OWNED, ALL]],
                &["destination: /owned.txt -> /other.txt"],
            ),
            case(
                "exclude",
                |it| it.edit("COPY dir", "COPY --exclude=y dir"),
                &[&["--exclude=y"], &RUNS, &[ALL]],
                &["exclude[0]: - -> y", "removed dir/y"],
            ),
            case(
                "inserted, without effect",
                |it| it.edit("RUN --mount=type=c", "RUN true\nRUN --mount=type=c"),
                // It makes a layer, if an empty one, so those above it are not the same image.
                &[&["RUN true", CACHE, SECRET, BIND]],
                &["new-instruction"],
            ),
            case(
                "inserted, with effect",
                |it| it.edit("RUN --mount=type=c", "RUN touch t\nRUN --mount=type=c"),
                &[&["RUN touch t", CACHE, SECRET, BIND, ALL]],
                &["new-instruction"],
            ),
            case(
                "taken away",
                |it| {
                    it.edit(
                        "RUN --mount=type=cache,target=/c,sharing=shared echo cache > cache\n",
                        "",
                    );
                },
                &[&[SECRET, BIND, ALL]],
                &[
                    "order: RUN --mount=type=cache,target=/c,sharing=shared echo cache > cache \
             -> RUN cat app.txt dir/x > out",
                ],
            ),
            case(
                "order",
                |it| {
                    let secret = "RUN --mount=type=secret,id=token echo secret > secret\n";
                    it.edit(secret, "");
                    it.edit(
                        "cat /bound/f > bound\n",
                        &format!("cat /bound/f > bound\n{secret}"),
                    );
                },
                &[&[BIND, SECRET]],
                &[
                    "order: RUN --mount=type=secret,id=token echo secret > secret \
             -> RUN --mount=type=cache,target=/c,sharing=shared echo cache > cache",
                ],
            ),
        ],
    );
}

#[test]
fn changes_of_the_command_line() {
    require_machine!();
    let everything: &[&[&str]] = &[
        &["WORKDIR", APP, DIR],
        &RUNS,
        &[SIDE, OUT, FROM_SIDE, OWNED, ALL],
    ];
    check(
        DOCKERFILE,
        &[
            case(
                "used build arg",
                |it| it.flag("--build-arg=USED=5"),
                &[&RUNS],
                &["env.USED: 1 -> 5"],
            ),
            case(
                "build arg that nothing declares",
                |it| it.flag("--build-arg=X=5"),
                &[],
                &[],
            ),
            case(
                "proxy",
                |it| it.flag("--build-arg=HTTP_PROXY=http://p"),
                &[],
                &[],
            ),
            case("label", |it| it.flag("--label=b=1"), &[], &[]),
            case("name server", |it| it.flag("--dns=192.0.2.1"), &[], &[]),
            case("name", |it| it.flag("--tag=name"), &[], &[]),
            case("target", |it| it.flag("--target=side"), &[], &[]),
            case(
                "host",
                |it| it.flag("--add-host=h:1.2.3.4"),
                &[&RUNS, &[SIDE]],
                &["host[h]: - -> 1.2.3.4"],
            ),
            case(
                "no cache",
                |it| it.flag("--no-cache"),
                everything,
                &["no-cache"],
            ),
            case(
                "no cache for a stage",
                |it| it.flag("--no-cache-filter=side"),
                &[&[SIDE]],
                &["no-cache"],
            ),
        ],
    );
}

#[test]
fn changes_of_links_documents_and_archives() {
    require_machine!();
    const OTHERS: &str = "\
FROM busybox
COPY <<EOF /document
text
EOF
COPY --link app.txt /linked
ADD dir /dir
RUN <<EOF
cat /document
EOF
";
    const DOCUMENT: &str = "COPY <<EOF";
    const LINKED: &str = "COPY --link app.txt";
    const LINK: &str = "LINK COPY";
    const ADD: &str = "ADD dir";
    const SCRIPT: &str = "RUN <<EOF";
    check(
        OTHERS,
        &[
            case(
                "document",
                |it| it.edit("text", "words"),
                &[&[DOCUMENT, LINK, ADD, SCRIPT]],
                &["data: text\n -> words\n"],
            ),
            case(
                "linked file",
                |it| it.write("app.txt", "2"),
                &[&[LINKED, LINK, ADD, SCRIPT]],
                &["changed app.txt content"],
            ),
            case(
                "added directory",
                |it| it.write("dir/y", "2"),
                &[&[ADD, SCRIPT]],
                &["changed dir/y content"],
            ),
            case(
                "script",
                |it| it.edit("cat /document", "cat  /document"),
                &[&[SCRIPT]],
                &["argv[2]: cat /document\n -> cat  /document\n"],
            ),
            case(
                "environment of a link",
                |it| it.edit("FROM busybox", "FROM busybox\nENV A=1"),
                &[&[SCRIPT]],
                &["env.A: - -> 1"],
            ),
        ],
    );
}

#[test]
fn another_base_image() {
    require_machine!();
    let twin = Twin::new();
    let base = |twin: &Twin, text: &str| {
        let dockerfile = format!("FROM busybox\nRUN echo {text} > /version\n");
        let layout = twin.kit.path("base");
        if layout.exists() {
            std::fs::remove_dir_all(&layout).unwrap();
        }
        let spec = "type=oci,tar=false,dest=base,name=base:latest";
        twin.kit.must_build(&dockerfile, &["-o", spec]);
    };
    base(&twin, "1");
    let context = format!(
        "--build-context=base=oci-layout://{}",
        twin.kit.path("base").display()
    );
    let twin = Twin {
        arguments: vec![context],
        ..twin
    };
    let dockerfile = "FROM base\nRUN cp /version /copy\nRUN true\n";
    twin.warm(dockerfile);
    base(&twin, "2");
    let warm = twin.warm(dockerfile);
    assert_same(&warm, &twin.cold(dockerfile), "base");
    assert_eq!(warm.ran().len(), 2);
    assert_eq!(warm.roots(), ["base-image"]);
}

#[test]
fn attributes_of_files_in_a_context() {
    require_machine!();
    let twin = Twin::new();
    twin.write("a", "1");
    let dockerfile = "FROM scratch\nCOPY a /a\n";
    twin.warm(dockerfile);
    let set = Command::new("setfattr")
        .args(["-n", "user.rbuild", "-v", "1"])
        .arg(twin.kit.path("context/a"))
        .status();
    if !set.is_ok_and(|status| status.success()) {
        crate::kit::skipped("attributes_of_files_in_a_context", "no setfattr here");
        return;
    }
    let warm = twin.warm(dockerfile);
    assert_same(&warm, &twin.cold(dockerfile), "xattr");
}

#[test]
fn no_cache_empties_a_cache_mount_once() {
    require_machine!();
    let kit = Kit::new();
    let dockerfile = "FROM busybox
RUN --mount=type=cache,target=/c,id=shared echo one >> /c/log
RUN --mount=type=cache,target=/c,id=shared echo two >> /c/log && cat /c/log > /log
";
    for _ in 0..2 {
        kit.must_build(dockerfile, &["--no-cache", "-o", "type=local,dest=out"]);
        let log = std::fs::read_to_string(kit.path("out/log")).unwrap();
        assert_eq!(log, "one\ntwo\n");
    }
}
