//! Builds: what comes out, what is cached, what is said when one fails.

use crate::kit::programs::{has, run, run_in};
use crate::kit::{Archive, Kit, skipped};
use crate::require_machine;

#[test]
fn a_multi_stage_build_makes_an_image() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[("greeting", "hello")]);
    let dockerfile = "\
FROM busybox AS build
WORKDIR /src
COPY greeting .
RUN tr a-z A-Z < greeting > out
FROM scratch
COPY --from=build /src/out /greeting
ENV A=1
CMD [\"/greeting\"]
";
    kit.must_build(dockerfile, &["-o", "type=oci,dest=image.tar"]);
    let image = Archive::read(&kit.path("image.tar"));
    assert_eq!(
        image.files.get("greeting").map(String::as_str),
        Some("-644 HELLO")
    );
    assert_eq!(
        image.config["config"]["Cmd"],
        serde_json::json!(["/greeting"])
    );
    assert_eq!(image.manifest["layers"].as_array().unwrap().len(), 1);
    kit.store_is_whole();
}

#[test]
fn a_second_build_is_taken_from_the_cache() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[("a", "1"), ("unrelated", "1")]);
    let dockerfile = "FROM busybox\nCOPY a /a\nRUN cat /a > /b\nRUN wc -c < /b > /c\n";
    let first = kit.must_build(dockerfile, &["-q"]).stdout;
    kit.context(&[("unrelated", "2")]);
    let second = kit.must_build(dockerfile, &[]);
    assert!(second.cached() >= 3, "{second}");
    assert_eq!(kit.must_build(dockerfile, &["-q"]).stdout, first);
    // What COPY takes has changed; `b` changes with it, `c` is as long as before.
    kit.context(&[("a", "2")]);
    let third = kit.must_build(dockerfile, &[]);
    assert!(third.cached() < second.cached(), "{third}");
    kit.store_is_whole();
}

#[test]
fn a_mount_without_a_target_is_at_workdir() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[("given", "here")]);
    let dockerfile = "\
FROM busybox AS other
RUN echo there > /found
FROM busybox
WORKDIR /w
RUN --mount=from=other cat found > /a
RUN --mount=type=bind cat given > /b
RUN --mount=type=tmpfs test -z \"$(ls)\" && echo lost > kept
RUN --mount=type=cache,id=k echo cached > kept
RUN test ! -e kept && cat /a /b
";
    let output = kit.must_build(
        dockerfile,
        &["--progress=plain", "-o", "type=oci,dest=image.tar"],
    );
    assert!(output.stderr.contains("there"), "{output}");
    assert!(output.stderr.contains("here"), "{output}");
    let output = kit.build("FROM busybox\nRUN --mount=type=cache true\n", &[]);
    let told = "a mount without a target is at WORKDIR, which is the root here";
    assert!(output.stderr.contains(told), "{output}");
    kit.store_is_whole();
}

#[test]
fn misread_words_of_copy_and_undeclared_args_are_explained() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[("a", "1")]);
    let output = kit.build("FROM busybox\nCOPY a ./ && ls\n", &[]);
    let told = "no shell reads this line: `&&` is taken for a path";
    assert!(output.stderr.contains(told), "{output}");
    let text = "ARG VERSION=1\nFROM localhost:9/none:${VERISON}-x\n";
    let output = kit.build(text, &[]);
    let told = "declares `VERISON`; there is `VERSION`";
    assert!(output.stderr.contains(told), "{output}");
}

#[test]
fn a_failing_run_shows_its_lines_its_exit_code_and_its_output() {
    require_machine!();
    let kit = Kit::new();
    let output = kit.build(
        "FROM busybox\nRUN echo before && \\\n    sh -c 'echo oops >&2; exit 3'\n",
        &[],
    );
    assert_eq!(output.code, 1);
    for part in [
        "exited with code 3",
        "Dockerfile:2:1",
        "echo oops",
        "ERROR",
        "before",
    ] {
        assert!(output.stderr.contains(part), "{part} is missing:\n{output}");
    }
    kit.store_is_whole();
}

#[test]
fn all_mistakes_of_a_dockerfile_are_told_at_once() {
    require_machine!();
    let output = Kit::new().build("FROM scratch\nCOPY x\nEXPOST 80\n", &[]);
    assert_eq!(output.code, 1);
    for part in ["Dockerfile:2:", "Dockerfile:3:1", "EXPOSE"] {
        assert!(output.stderr.contains(part), "{part} is missing:\n{output}");
    }
}

#[test]
fn dockerfiles_come_from_standard_input() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[("a", "1")]);
    let with_context = kit.rbuild_with_input(
        &[
            "build",
            "-f",
            "-",
            "-o",
            "type=oci,dest=image.tar",
            "context",
        ],
        b"FROM scratch\nCOPY a /b\n",
    );
    assert_eq!(with_context.code, 0, "{with_context}");
    assert!(
        Archive::read(&kit.path("image.tar"))
            .files
            .contains_key("b")
    );
    let without = kit.rbuild_with_input(&["-q", "-"], b"FROM scratch\nLABEL a=1\n");
    assert_eq!(without.code, 0, "{without}");
    let wrong = kit.rbuild_with_input(&["-"], b"FROM scratch\nNOPE\n");
    assert_eq!(wrong.code, 1);
    assert!(wrong.stderr.contains("<stdin>:2:1"), "{wrong}");
}

#[test]
fn quiet_prints_only_the_id_and_files_hold_what_was_built() {
    require_machine!();
    let kit = Kit::new();
    let arguments = [
        "-q",
        "-t",
        "name:1",
        "--iidfile",
        "id",
        "--metadata-file",
        "metadata",
    ];
    let output = kit.must_build("FROM scratch\nLABEL a=1\n", &arguments);
    assert_eq!(output.stderr, "");
    assert_eq!(
        std::fs::read_to_string(kit.path("id")).unwrap(),
        output.stdout.trim()
    );
    let metadata: serde_json::Value =
        serde_json::from_slice(&std::fs::read(kit.path("metadata")).unwrap()).unwrap();
    assert_eq!(
        metadata["containerimage.config.digest"],
        output.stdout.trim()
    );
    assert_eq!(metadata["image.name"], "docker.io/library/name:1");
    assert!(
        metadata["containerimage.descriptor"]["size"].is_u64(),
        "{metadata}"
    );
    assert!(metadata["rbuild.build"]["steps"].is_u64(), "{metadata}");
}

#[test]
fn raw_json_is_one_object_a_line() {
    require_machine!();
    let kit = Kit::new();
    let output = kit.must_build("FROM busybox\nRUN echo hi\n", &["--progress=rawjson"]);
    let events: Vec<serde_json::Value> = output
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |name: &str| events.iter().filter(|event| event["event"] == name).count();
    assert_eq!((of("plan"), of("end")), (1, 1), "{output}");
    let logged: String = events
        .iter()
        .filter_map(|event| event["data"].as_str())
        .collect();
    assert_eq!(logged, "hi\n");
}

#[test]
fn a_trace_says_when_each_step_ran_and_how_it_ended() {
    require_machine!();
    let kit = Kit::new();
    let spans = || -> Vec<serde_json::Value> {
        let trace = std::fs::read(kit.path("trace.json")).unwrap();
        let trace: serde_json::Value = serde_json::from_slice(&trace).unwrap();
        let events = trace["traceEvents"].as_array().unwrap().clone();
        events.into_iter().filter(|it| it["ph"] == "X").collect()
    };
    let one = |spans: &[serde_json::Value], name: &str| -> serde_json::Value {
        let mut found = spans
            .iter()
            .filter(|it| it["name"].as_str().unwrap().contains(name));
        let only = found.next().cloned();
        assert!(found.next().is_none(), "{spans:?}");
        only.unwrap_or_else(|| panic!("no {name} in {spans:?}"))
    };
    let dockerfile = "FROM busybox AS a\nRUN --mount=type=cache,target=/m touch /m/a; \
        until [ -e /m/b ]; do sleep 0.01; done; sleep 0.3; echo a > /a\n\
        FROM busybox AS b\nRUN --mount=type=cache,target=/m touch /m/b; \
        until [ -e /m/a ]; do sleep 0.01; done; sleep 0.3; echo b > /b\n\
        FROM busybox\nCOPY --from=a /a /\nCOPY --from=b /b /\nRUN false\n";
    let failed = kit.build(dockerfile, &["--jobs=2", "--trace=trace.json"]);
    assert_eq!(failed.code, 1, "{failed}");
    let found = spans();
    let (a, b) = (one(&found, "echo a"), one(&found, "echo b"));
    for span in [&a, &b] {
        assert_eq!(span["args"]["ended"], "done");
        assert!(span["dur"].as_u64().unwrap() >= 300_000, "{span}");
    }
    assert_eq!(
        (&a["args"]["line"], &b["args"]["line"]),
        (&2.into(), &4.into())
    );
    assert_ne!(a["tid"], b["tid"]);
    let last = one(&found, "RUN false");
    assert_eq!(last["args"]["ended"], "failed");
    let ended =
        |span: &serde_json::Value| span["ts"].as_u64().unwrap() + span["dur"].as_u64().unwrap();
    assert!(last["ts"].as_u64().unwrap() >= ended(&a).max(ended(&b)));

    kit.must_build(
        &dockerfile.replace("RUN false", "RUN true"),
        &["--trace=trace.json"],
    );
    let found = spans();
    assert_eq!(one(&found, "echo a")["args"]["ended"], "cached");
    assert_eq!(one(&found, "RUN true")["args"]["ended"], "done");
    assert_eq!(one(&found, "exporting")["args"]["ended"], "done");
}

#[test]
fn arguments_secrets_and_targets_reach_the_build() {
    require_machine!();
    let kit = Kit::new();
    std::fs::write(kit.path("token"), "s3cret").unwrap();
    let dockerfile = "\
FROM busybox AS one
ARG FROM_ENVIRONMENT
ARG GIVEN=default
RUN --mount=type=secret,id=token test \"$(cat /run/secrets/token)\" = s3cret
RUN echo \"$FROM_ENVIRONMENT $GIVEN\" > /out
FROM busybox AS two
RUN false
";
    let mut arguments = kit.build_arguments(
        dockerfile,
        &[
            "--build-arg=FROM_ENVIRONMENT",
            "--build-arg=GIVEN=given",
            "--target=one",
        ],
    );
    arguments.extend([
        "--secret=id=token,src=token".into(),
        "--output=type=local,dest=out".into(),
    ]);
    let child = kit
        .command(arguments)
        .env("FROM_ENVIRONMENT", "outside")
        .spawn()
        .unwrap();
    kit.finish(child).success();
    assert_eq!(
        std::fs::read_to_string(kit.path("out/out")).unwrap(),
        "outside given\n"
    );
}

#[test]
fn keys_of_files_are_served_as_by_an_agent() {
    require_machine!();
    if !has("ssh-keygen") {
        return;
    }
    let kit = Kit::new();
    let generate = |name: &str, more: &[&str]| {
        let arguments = [&["-q", "-C", name, "-f", name, "-t"], more].concat();
        run_in(&kit.path(""), "ssh-keygen", &arguments);
    };
    generate("one", &["ed25519", "-N", ""]);
    generate("two", &["ecdsa", "-N", ""]);
    generate("closed", &["ed25519", "-N", "hello"]);
    // OpenSSH asks, with the libraries that it needs.
    let program = run("sh", &["-c", "command -v ssh-add"]);
    let mut files = vec![program.trim().to_owned()];
    let libraries = run("ldd", &[program.trim()]);
    let words = libraries.split_whitespace();
    files.extend(
        words
            .filter(|word| word.starts_with('/'))
            .map(str::to_owned),
    );
    for file in files {
        let to = kit.path("context").join(file.trim_start_matches('/'));
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(file, to).unwrap();
    }
    let text = "FROM busybox\nCOPY . /\nRUN --mount=type=ssh,id=ours,uid=7 stat -c %u $SSH_AUTH_SOCK; /usr/bin/ssh-add -L\n";
    let built = kit.must_build(text, &["--ssh=ours=one,two"]);
    let shown = |name: &str| std::fs::read_to_string(kit.path(name)).unwrap();
    // With one id a socket is root's: owners are written down beside files, and a socket can carry nothing.
    let one_id = kit.must(&["info"]).stdout.contains("with one id");
    let owner = if one_id { " 0\n" } else { " 7\n" };
    for shown in [owner, &shown("one.pub"), &shown("two.pub")] {
        assert!(built.stderr.contains(shown), "{shown}: {built}");
    }
    for (ssh, code, words) in [
        ("ours=closed", 1, "passphrase"),
        ("ours=one.pub", 1, "no private key"),
        ("ours=none", 1, "cannot find `none`"),
        ("=one", 2, "the ID is empty"),
    ] {
        let refused = kit.build(text, &["--ssh", ssh]);
        assert_eq!(refused.code, code, "{refused}");
        assert!(refused.stderr.contains(words), "{refused}");
    }
}

/// `chown` and `chmod` that set what was there copy a file up in an overlay; its bytes must not be in the layer again,
/// wherever the file came from.
#[test]
fn a_change_that_changes_nothing_is_in_no_layer() {
    require_machine!();
    let kit = Kit::new();
    let all = "chown -Rh 0:0 /d && chmod 644 /d/[abck]* && touch -r /d/a /d/a";
    // What is moved back into a directory that is new is not what was below.
    let moved = "mv /d/keep /keep && rm -r /d && mkdir /d && mv /keep /d/keep";
    let dockerfile = format!(
        "FROM scratch\nCOPY --from=busybox /bin /bin\nRUN mkdir /d && cd /d && echo a > a && echo b > b && echo k > keep && ln -s a link\n\
         RUN {all}\nRUN chmod 600 /d/b && ln /d/a /d/c\nRUN {all}; chmod 600 /d/b\nRUN {moved}\nRUN cat /d/keep && ! ls /d/a\n"
    );
    kit.must_build(&dockerfile, &["-o", "type=oci,dest=image.tar"]);
    let image = Archive::read(&kit.path("image.tar"));
    let files: Vec<Vec<&str>> = image.layers[2..]
        .iter()
        .map(|layer| {
            let below = layer.iter().filter_map(|(path, text)| {
                let name = path.strip_prefix("d/")?;
                (!text.starts_with('d')).then_some(name)
            });
            below.collect()
        })
        .collect();
    // A file that got a second name is in the layer with both.
    assert_eq!(files[0], [""; 0]);
    assert_eq!(files[1], ["a", "b", "c"]);
    assert_eq!(files[2], [""; 0]);
    assert!(files[3].contains(&"keep"), "{files:?}");

    // Most of what is copied the second time is shared with the first.
    let names: Vec<String> = (0..40).map(|number| format!("many/{number}")).collect();
    let mut context: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "x")).collect();
    let dockerfile = "FROM scratch\nCOPY --from=busybox /bin /bin\nCOPY many /d\nRUN chown -R 0:0 /d && touch /d/new\n";
    for edited in ["x", "edited"] {
        context[0].1 = edited;
        kit.context(&context);
        kit.must_build(dockerfile, &["-o", "type=oci,dest=image.tar"]);
        let image = Archive::read(&kit.path("image.tar"));
        let of_run: Vec<&String> = image.layers[2].keys().collect();
        assert_eq!(of_run, ["d", "d/new"]);
    }
    kit.store_is_whole();
}

#[test]
fn an_insecure_run_has_the_machines_devices() {
    const TEST: &str = "an_insecure_run_has_the_machines_devices";
    require_machine!();
    if !crate::kit::is_root() || !std::path::Path::new("/dev/loop-control").exists() {
        skipped(
            TEST,
            "only root has devices to give, and this machine has none",
        );
        return;
    }
    let kit = Kit::new();
    let tries =
        "test -c /dev/loop-control && mknod /tried c 10 237 && head -c 0 /tried && rm /tried";
    let dockerfile = format!(
        "FROM busybox\nRUN --security=insecure {tries}\nRUN test ! -e /dev/loop-control && ! ( {tries} )\n"
    );
    kit.must_build(&dockerfile, &["--allow=security.insecure"]);
}

#[test]
fn paths_may_be_longer_than_the_kernel_takes_at_once() {
    require_machine!();
    let kit = Kit::new();
    let dockerfile = "FROM busybox AS deep\n\
        RUN mkdir /x && cd /x && for i in $(seq 1 230); do mkdir a-name-of-20-letters && cd a-name-of-20-letters || break; done\n\
        FROM busybox\nCOPY --from=deep /x /y\nRUN test $(find /y 2> /dev/null | wc -l) -gt 190\n";
    kit.must_build(dockerfile, &["-t=deep", "-o", "type=docker,dest=image.tar"]);
    kit.must(&["rmi", "deep"]);
    kit.must(&["prune", "--all", "--force"]);
    kit.must(&["load", "-i", "image.tar"]);
    kit.must(&[
        "run",
        "--rm",
        "deep",
        "test",
        "-d",
        "/y/a-name-of-20-letters",
    ]);
    kit.store_is_whole();
}

#[test]
fn settings_among_the_build_args_do_what_they_say() {
    require_machine!();
    let kit = Kit::new();
    let text = "FROM busybox\nRUN hostname > /h\n";
    let name = |arguments: &[&str]| {
        kit.must_build(text, &[arguments, &["-o", "out"]].concat());
        std::fs::read_to_string(kit.path("out/h")).unwrap()
    };
    assert_eq!(name(&[]), "rbuild\n");
    assert_eq!(
        name(&["--build-arg=BUILDKIT_SANDBOX_HOSTNAME=mine"]),
        "mine\n"
    );
    assert_eq!(name(&[]), "rbuild\n");
    let inline = "--build-arg=BUILDKIT_INLINE_CACHE=1";
    let output = kit.must_build(text, &[inline, "-o", "type=oci,dest=it,tar=false"]);
    assert!(!output.stderr.contains("UnusedBuildArg"), "{output}");
    let config = std::fs::read_dir(kit.path("it/blobs/sha256")).unwrap();
    let mut documents = config.map(|blob| std::fs::read(blob.unwrap().path()).unwrap());
    let carries = |text: Vec<u8>| String::from_utf8_lossy(&text).contains("\"rbuild.cache.v1\"");
    assert!(documents.any(carries), "{output}");
    // An output that is no image has nothing to carry them.
    kit.must_build(text, &[inline, "-o", "out"]);
    let output = kit.must_build(text, &["--build-arg=BUILDKIT_WHATEVER=1"]);
    assert!(
        output
            .stderr
            .contains("no ARG declares `BUILDKIT_WHATEVER`"),
        "{output}"
    );
}

#[test]
fn what_could_not_be_written_is_told_before_anything_is_built() {
    let kit = Kit::new();
    kit.context(&[("file", "x"), ("id", "of an earlier build")]);
    for (flags, told) in [
        (
            &["-o", "type=oci,dest=no/a.tar"][..],
            "there is no directory `no`: make it first",
        ),
        (&["-o", "type=tar,dest=context"], "cannot write `context`"),
        (&["-o", "context/file/x"], "`context/file` is a file"),
        (&["--iidfile", "no/id"], "cannot write `no/id`"),
        (&["--metadata-file", "context"], "cannot write `context`"),
        (&["--trace", "no/trace"], "cannot write `no/trace`"),
    ] {
        let output = kit.build("FROM scratch\nCOPY file /\n", flags);
        assert_eq!(output.code, 1, "{output}");
        assert!(output.stderr.contains(told), "{output}");
        assert!(!output.stderr.contains("#1"), "{output}");
    }
    // Whose build fails has no ID.
    let id = kit.path("context/id");
    let output = kit.build(
        "FROM scratch\nCOPY nothing /\n",
        &["--iidfile", "context/id"],
    );
    assert_eq!(output.code, 1, "{output}");
    assert!(!id.exists());
}
