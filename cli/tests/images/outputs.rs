//! The forms of a build's result: several at once, squashed, within a number of layers, with annotations; files that
//! replace what was there; names and digests that are told.

use std::process::Stdio;

use serde_json::Value;

use crate::kit::Kit;
use crate::kit_and_registry;
use crate::layout::Layout;
use crate::require_machine;

/// With all that configs can hold beside what runs.
const RICH: &str = r#"FROM scratch
COPY a /a
HEALTHCHECK --interval=5s --retries=2 CMD ["/a"]
SHELL ["/bin/other", "-x"]
ONBUILD COPY b /b
STOPSIGNAL SIGINT
"#;

#[test]
fn files_have_the_time_that_the_build_is_of() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[("d/a", "1")]);
    kit.must_build(
        "FROM scratch\nCOPY d /d\nCOPY <<E /e\nE\n",
        &[
            "--build-arg=SOURCE_DATE_EPOCH=1234567890",
            "--output=type=tar,dest=files.tar",
            "--output=type=local,dest=files",
        ],
    );
    let file = std::fs::File::open(kit.path("files.tar")).unwrap();
    let mut archive = tar::Archive::new(file);
    let times = archive.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        (path, entry.header().mtime().unwrap())
    });
    let expected = ["d/", "d/a", "e"].map(|path| (path.to_owned(), 1_234_567_890));
    assert_eq!(times.collect::<Vec<_>>(), expected);
    for path in ["files/d", "files/d/a", "files/e"] {
        let metadata = std::fs::metadata(kit.path(path)).unwrap();
        let time = std::os::unix::fs::MetadataExt::mtime(&metadata);
        assert_eq!(time, 1_234_567_890, "{path}");
    }
}

#[test]
fn files_of_several_platforms_are_kept_apart_in_a_tar_too() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[("a", "1"), ("b", "2")]);
    let names = |arguments: &[&str]| {
        let text = "FROM scratch\nARG TARGETARCH\nCOPY a b /$TARGETARCH/\n";
        kit.must_build(
            text,
            &[arguments, &["-o", "type=tar,dest=files.tar"]].concat(),
        );
        let file = std::fs::File::open(kit.path("files.tar")).unwrap();
        let mut archive = tar::Archive::new(file);
        let names = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            entry.path().unwrap().display().to_string()
        });
        names.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        names(&["--platform=linux/amd64,linux/arm64"]),
        "linux_amd64/ linux_amd64/amd64/ linux_amd64/amd64/a linux_amd64/amd64/b \
         linux_arm64/ linux_arm64/arm64/ linux_arm64/arm64/a linux_arm64/arm64/b"
    );
    let one = "--platform=linux/arm64";
    assert_eq!(names(&[one]), "arm64/ arm64/a arm64/b");
    let apart = "linux_arm64/ linux_arm64/arm64/ linux_arm64/arm64/a linux_arm64/arm64/b";
    assert_eq!(
        names(&[one, "--build-arg=BUILDKIT_MULTI_PLATFORM=1"]),
        apart
    );
    for kind in ["tar", "local"] {
        let output = format!("type={kind},dest=split,platform-split=true");
        let text = "FROM scratch\nCOPY a /\n";
        kit.must_build(text, &[one, "-o", &output]);
        if kind == "local" {
            assert!(kit.path("split/linux_arm64/a").exists());
        } else {
            std::fs::remove_file(kit.path("split")).unwrap();
        }
    }
    let both = ["--platform=linux/amd64,linux/arm64", "-o"];
    let merged = "type=tar,dest=t,platform-split=false";
    let refused = kit.build("FROM scratch\n", &[both[0], both[1], merged]);
    assert_eq!(refused.code, 2, "{refused}");
}

#[test]
fn an_image_of_one_platform_is_in_an_index_where_that_is_asked() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[("a", "1")]);
    let text = "FROM scratch\nCOPY a /\n";
    let several = "--build-arg=BUILDKIT_MULTI_PLATFORM=true";
    kit.must_build(text, &[several, "-o", "type=oci,dest=it,tar=false"]);
    let read = |path: &str| -> Value {
        serde_json::from_slice(&std::fs::read(kit.path(path)).unwrap()).unwrap()
    };
    let index = read("it/index.json");
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    let inner = read(&format!("it/blobs/{}", digest.replace(':', "/")));
    assert_eq!(
        inner["manifests"].as_array().map(Vec::len),
        Some(1),
        "{inner}"
    );
    let refused = kit.build(text, &[several, "-o", "type=docker,dest=it.tar"]);
    assert_eq!(refused.code, 2, "{refused}");
}

#[test]
fn several_outputs_of_one_build() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[("a", "1")]);
    let arguments = kit.build_arguments(
        RICH,
        &[
            "-t",
            "rich:1",
            "-o",
            "type=oci,dest=oci.tar",
            "-o",
            "type=oci,dest=oci,tar=false,compression=zstd,compression-level=5",
            "-o",
            "type=docker,dest=docker.tar,compression=uncompressed",
            "-o",
            "type=local,dest=files",
            "-o",
            "type=tar,dest=-",
            "--iidfile",
            "iid",
            "--metadata-file",
            "metadata.json",
        ],
    );
    let output = kit
        .command(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut tar = tar::Archive::new(output.stdout.as_slice());
    let paths: Vec<_> = tar
        .entries()
        .unwrap()
        .map(|it| it.unwrap().path().unwrap().into_owned())
        .collect();
    assert_eq!(paths, [std::path::PathBuf::from("a")]);
    assert_eq!(std::fs::read_to_string(kit.path("files/a")).unwrap(), "1");
    let (gzip, config) = Layout::of_archive(&kit.path("oci.tar")).image();
    let (zstd, same) = Layout(kit.path("oci")).image();
    let (plain, also) = Layout::of_archive(&kit.path("docker.tar")).image();
    assert_eq!((&config, &config), (&same, &also));
    let media_type = |manifest: &Value| {
        manifest["layers"][0]["mediaType"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert!(media_type(&gzip).ends_with(".tar+gzip"));
    assert!(media_type(&zstd).ends_with(".tar+zstd"));
    assert_eq!(
        media_type(&plain),
        "application/vnd.docker.image.rootfs.diff.tar"
    );
    let inner = &config["config"];
    assert_eq!(
        inner["Healthcheck"]["Test"],
        serde_json::json!(["CMD", "/a"])
    );
    assert_eq!(inner["Healthcheck"]["Interval"], 5_000_000_000_u64);
    assert_eq!(inner["Shell"], serde_json::json!(["/bin/other", "-x"]));
    assert_eq!(inner["OnBuild"], serde_json::json!(["COPY b /b"]));
    assert_eq!(inner["StopSignal"], "SIGINT");
    let id = std::fs::read_to_string(kit.path("iid")).unwrap();
    let metadata: Value =
        serde_json::from_slice(&std::fs::read(kit.path("metadata.json")).unwrap()).unwrap();
    assert_eq!(metadata["containerimage.config.digest"], id.as_str());
    assert_eq!(metadata["image.name"], "docker.io/library/rich:1");
    assert_eq!(
        metadata["containerimage.descriptor"]["digest"],
        metadata["containerimage.digest"]
    );
    assert!(metadata["rbuild.build"]["steps"].is_u64());
}

#[test]
fn squashed_layers_mean_the_same() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[("a", "1")]);
    let text = "FROM busybox AS first
RUN mkdir -p /d/old && echo 1 > /d/x && ln /d/x /d/y && echo 2 > /d/old/z
RUN rm -r /d/old /etc/passwd && mkdir /d/old && echo 3 > /d/old/new
FROM first
COPY a /a
RUN rm /d/x && echo 4 > /e
";
    kit.must_build(text, &["-o", "type=tar,dest=whole.tar"]);
    let listed = |archive: &str| {
        let file = std::fs::File::open(kit.path(archive)).unwrap();
        let mut tar = tar::Archive::new(file);
        let entries = tar.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            (
                entry
                    .path()
                    .unwrap()
                    .to_string_lossy()
                    .trim_end_matches('/')
                    .to_owned(),
                entry.header().size().unwrap(),
            )
        });
        entries.collect::<Vec<_>>()
    };
    let whole = listed("whole.tar");
    assert!(whole.iter().any(|(path, _)| path == "d/old/new"));
    for (how, layers) in [
        ("own", 2),
        ("all", 1),
        ("stage", 4),
        ("from:3", 3),
        ("false", 5),
    ] {
        let squash = format!("--squash={how}");
        kit.must_build(
            text,
            &[&squash, "-t", "squashed", "-o", "type=oci,dest=s.tar"],
        );
        let (manifest, config) = Layout::of_archive(&kit.path("s.tar")).image();
        let count = |value: &Value| value.as_array().unwrap().len();
        assert_eq!(count(&manifest["layers"]), layers, "{how}");
        assert_eq!(count(&config["rootfs"]["diff_ids"]), layers, "{how}");
        let history = config["history"].as_array().unwrap();
        let made = history.iter().filter(|entry| entry["empty_layer"] != true);
        assert_eq!(made.count(), layers, "{how}");
        assert_eq!(
            kit.must(&["run", "--rm", "squashed", "cat", "/d/y", "/e"])
                .stdout,
            "1\n4\n"
        );
        // As whoever unpacks it sees it.
        let other = Kit::new();
        let archive = kit.path("s.tar");
        other.must(&["load", "-i", archive.to_str().unwrap()]);
        other.must_build("FROM squashed\n", &["-o", "type=tar,dest=again.tar"]);
        let again = std::fs::copy(other.path("again.tar"), kit.path("again.tar"));
        again.unwrap();
        assert_eq!(listed("again.tar"), whole, "{how}");
    }
    assert_eq!(kit.build(text, &["--squash=some"]).code, 2);
    let nothing = kit.build(text, &["--squash=from:99"]);
    assert_eq!(nothing.code, 2, "{nothing}");
    assert!(
        nothing
            .stderr
            .contains("no instruction of the result from there on makes a layer; the last")
    );
    assert_eq!(kit.build(text, &["--max-layers=0"]).code, 2);
}

#[test]
fn an_image_has_no_more_layers_than_it_may() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[("a", "1")]);
    let mut text = "FROM busybox\n".to_owned();
    for number in 0..135 {
        text.push_str(&format!("COPY a /f{number}\n"));
    }
    let layers = |more: &[&str]| {
        let mut arguments = vec!["-t", "many", "-o", "type=oci,dest=many.tar"];
        arguments.extend(more);
        kit.must_build(&text, &arguments);
        let (manifest, _) = Layout::of_archive(&kit.path("many.tar")).image();
        manifest["layers"].as_array().unwrap().len()
    };
    assert_eq!(layers(&["--max-layers=3"]), 3);
    assert_eq!(layers(&[]), 125);
    let listed = kit
        .must(&["run", "--rm", "many", "sh", "-c", "ls / | grep -c ^f"])
        .stdout;
    assert_eq!(listed, "135\n");
    kit.must_build("FROM many\nCOPY a /more\n", &["-t", "more"]);
}

#[test]
fn annotations_of_every_type() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[("a", "1")]);
    kit.must_build(
        "FROM scratch\nCOPY a /a\n",
        &[
            "--platform=linux/amd64,linux/arm64",
            "--annotation=plain=1",
            "--annotation=index,manifest:both=2",
            "--annotation=manifest[linux/arm64]:arm=3",
            "--annotation=manifest-descriptor:child=4",
            "--annotation=index-descriptor:top=5",
            "-o",
            "type=oci,dest=layout,tar=false,annotation-index.key=6",
        ],
    );
    let layout = Layout(kit.path("layout"));
    let top = layout.top();
    assert_eq!(top["annotations"]["top"], "5");
    let index = layout.document(&top);
    assert_eq!(
        index["annotations"],
        serde_json::json!({"both": "2", "key": "6"})
    );
    let [amd, arm] = &index["manifests"].as_array().unwrap()[..] else {
        panic!("{index}")
    };
    assert_eq!(amd["annotations"]["child"], "4");
    let of = |descriptor: &Value| layout.document(descriptor)["annotations"].clone();
    assert_eq!(of(amd), serde_json::json!({"both": "2", "plain": "1"}));
    assert_eq!(
        of(arm),
        serde_json::json!({"arm": "3", "both": "2", "plain": "1"})
    );
}

#[test]
fn files_that_are_not_in_the_result_go_where_that_is_asked() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[("a", "1"), ("d/b", "2")]);
    let text = "FROM scratch\nCOPY a /a\nCOPY d /d\n";
    std::fs::create_dir_all(kit.path("out/d")).unwrap();
    std::fs::create_dir_all(kit.path("outside")).unwrap();
    for stale in ["out/stale", "out/d/stale", "outside/kept"] {
        std::fs::write(kit.path(stale), "x").unwrap();
    }
    std::os::unix::fs::symlink(kit.path("outside"), kit.path("out/link")).unwrap();
    kit.must_build(text, &["-o", "type=local,dest=out"]);
    assert!(kit.path("out/stale").exists() && kit.path("out/d/stale").exists());
    kit.must_build(text, &["-o", "type=local,dest=out,mode=delete"]);
    assert!(!kit.path("out/stale").exists() && !kit.path("out/d/stale").exists());
    assert!(!kit.path("out/link").exists() && kit.path("outside/kept").exists());
    assert_eq!(std::fs::read_to_string(kit.path("out/d/b")).unwrap(), "2");
    // Never by mistake.
    let far = kit.path("context/../outside");
    let output = format!("type=local,dest={},mode=delete", far.display());
    let refused = kit.build(text, &["-o", "type=local,dest=.,mode=delete"]);
    assert_eq!(refused.code, 2, "{refused}");
    kit.must_build(text, &["-o", &output, "--allow=buildx.local.delete"]);
    assert!(!kit.path("outside/kept").exists());
    let platforms = "--platform=linux/amd64,linux/arm64";
    kit.must_build(text, &[platforms, "-o", "type=local,dest=split"]);
    assert!(kit.path("split/linux_arm64/d/b").exists());
    let merged = kit.build(
        text,
        &[platforms, "-o", "type=local,dest=one,platform-split=false"],
    );
    assert_eq!(merged.code, 1, "{merged}");
    let apart = "FROM scratch\nARG TARGETARCH\nCOPY a /$TARGETARCH\n";
    kit.must_build(
        apart,
        &[platforms, "-o", "type=local,dest=both,platform-split=false"],
    );
    assert!(kit.path("both/amd64").exists() && kit.path("both/arm64").exists());
}

#[test]
fn several_names_are_pushed() {
    let Some((kit, registry)) = kit_and_registry() else {
        return;
    };
    let host = &registry.host;
    let text = "FROM scratch\nCOPY a /a\n";
    let names = format!("type=registry,\"name={host}/one:1,{host}/two:2\"");
    let tag = format!("{host}/tagged");
    kit.must_build(text, &["-t", &tag, "-o", &names, "--metadata-file=m.json"]);
    let metadata: Value =
        serde_json::from_slice(&std::fs::read(kit.path("m.json")).unwrap()).unwrap();
    let digest = metadata["containerimage.digest"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        metadata["image.name"],
        format!("{host}/tagged:latest,{host}/one:1,{host}/two:2")
    );
    let other = Kit::new();
    for name in ["one:1", "two:2", "tagged"] {
        let pulled = other.must(&["pull", &format!("{host}/{name}")]).stdout;
        assert!(pulled.contains(&format!("Digest: {digest}\n")), "{pulled}");
    }
    // What is pushed and kept is the same image.
    let kept = format!("type=image,name={host}/kept:1,push=true");
    kit.must_build(text, &["-o", &kept]);
    let row = kit
        .must(&["images", "--format", "{{.Digest}}", &format!("{host}/kept")])
        .stdout;
    let pulled = other.must(&["pull", &format!("{host}/kept:1")]).stdout;
    assert!(pulled.contains(&format!("Digest: {row}")), "{pulled}{row}");
    // All tags of a repository, there and back.
    kit.must(&["tag", &format!("{host}/kept:1"), &format!("{host}/kept:2")]);
    kit.must(&["push", "--all-tags", &format!("{host}/kept")]);
    let third = Kit::new();
    third.must(&["pull", "--all-tags", "-q", &format!("{host}/kept")]);
    assert_eq!(third.must(&["images", "-q"]).stdout.lines().count(), 2);
    assert_eq!(kit.build(text, &["--push"]).code, 2);
}

#[test]
fn what_no_layer_can_hold_is_told_where_it_is_made() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[("d/.wh.it", "1"), ("d/other", "2")]);
    let copied = "FROM busybox AS it\nCOPY d/other /\nCOPY d /d\n";
    let run = "FROM busybox\nRUN mkdir /e\nRUN touch /e/.wh..wh..opq\n";
    for (text, name) in [(copied, "d/.wh.it"), (run, "e/.wh..wh..opq")] {
        let refused = kit.build(text, &["-t", "x"]);
        assert_eq!(refused.code, 1, "{refused}");
        assert!(refused.stderr.contains("Dockerfile:3:1"), "{refused}");
        let words = format!("a layer cannot hold `{name}`");
        assert!(refused.stderr.contains(&words), "{refused}");
    }
    // Where it goes into no layer, it is a name as any.
    kit.must_build(copied, &["-o", "type=local,dest=out"]);
    assert!(kit.path("out/d/.wh.it").exists());
    let further = format!("{copied}FROM busybox\nCOPY --from=it /d/other /\n");
    let cached = "--cache-to=type=local,mode=max,dest=cache";
    let built = kit.must_build(&further, &["-t", "further", cached]);
    assert!(built.stderr.contains("not in"), "{built}");
    // Its step is found now; a layer of several steps is one too.
    for more in [&[][..], &["--squash=all"]] {
        let refused = kit.build(copied, &[&["-t", "x"], more].concat());
        assert_eq!(refused.code, 1, "{refused}");
        assert!(refused.stderr.contains("cannot hold"), "{refused}");
        assert!(refused.stderr.contains("3 of the Dockerfile"), "{refused}");
    }
    let removed = format!("{copied}RUN rm /d/.wh.it\n");
    kit.must_build(&removed, &["-t", "removed", "--squash"]);
    kit.store_is_whole();
}

#[test]
fn those_who_export_to_one_directory_lose_no_name() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[("a", "1")]);
    let text = "FROM scratch\nARG N\nCOPY a /a\nLABEL n=$N\n";
    // Found from here on: the ends of the builds meet.
    kit.must_build(text, &[]);
    let names: Vec<String> = (0..8).map(|number| format!("image{number}:1")).collect();
    for _ in 0..3 {
        let _ = std::fs::remove_dir_all(kit.path("layout"));
        let running: Vec<_> = names
            .iter()
            .map(|name| {
                let argument = format!("--build-arg=N={name}");
                let out = "type=oci,tar=false,dest=layout";
                let arguments = ["build", "-t", name, &argument, "-o", out, "context"];
                kit.command(arguments).spawn().unwrap()
            })
            .collect();
        for child in running {
            kit.finish(child).success();
        }
        let index = std::fs::read_to_string(kit.path("layout/index.json")).unwrap();
        for name in &names {
            assert!(index.contains(name.as_str()), "{name}: {index}");
        }
    }
}
