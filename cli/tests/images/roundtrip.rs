//! Images go out and come back the same, by every way there is, and with every tool that is there: their digests by
//! ways that keep manifests, config and diff IDs by Docker's archive.

use std::path::Path;

use serde_json::Value;

use crate::docker::Docker;
use crate::kit::Kit;
use crate::kit::programs::{has, registry, run};
use crate::layout::Layout;
use crate::require_machine;

const DOCKERFILE: &str = r#"FROM scratch
COPY tree /tree
COPY more /more
HEALTHCHECK --interval=7s CMD ["/x"]
SHELL ["/bin/x", "-c"]
ONBUILD LABEL by=onbuild
LABEL l=1
"#;

fn kit() -> Kit {
    let kit = Kit::new();
    kit.context(&[("tree/a", "1"), ("tree/deep/b", "2"), ("more/c", "3")]);
    kit
}

/// Digest of the manifest or index, and ID, that a name has in a store.
fn identity(kit: &Kit, name: &str) -> (String, String) {
    let format = "{{.Descriptor.digest}} {{.Id}}";
    let found = kit.must(&["inspect", "-f", format, name]).stdout;
    let (digest, id) = found.trim().split_once(' ').unwrap();
    (digest.to_owned(), id.to_owned())
}

fn diff_ids(kit: &Kit, name: &str) -> String {
    kit.must(&[
        "inspect",
        "-f",
        "{{json .RootFS.Layers}} {{json .Config}}",
        name,
    ])
    .stdout
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A store of its own that loaded something, and what it is called there.
fn loaded(archive: &Path) -> (Kit, String) {
    let kit = Kit::new();
    let said = kit.must(&["load", "-q", "-i", text(archive)]).stdout;
    let name = said.lines().next().unwrap();
    let (_, name) = name.split_once(": ").unwrap();
    let name = name.to_owned();
    if !name.starts_with("sha256:") {
        return (kit, name);
    }
    // Where nothing in it says what it is called.
    kit.must(&["tag", &name, "loaded:1"]);
    (kit, "loaded:1".to_owned())
}

#[test]
fn by_archive_directory_and_registry() {
    require_machine!();
    if !has("docker-registry") {
        return;
    }
    for platforms in ["linux/amd64", "linux/amd64,linux/arm64"] {
        let kit = kit();
        let registry = registry(&kit.path(""));
        let name = format!("{}/app:1", registry.host);
        let mut arguments = vec!["--platform", platforms, "-t", &name, "--push"];
        arguments.extend([
            "-o",
            "type=oci,dest=a.tar",
            "-o",
            "type=oci,dest=d,tar=false",
        ]);
        arguments.extend(["--metadata-file", "m.json"]);
        if !platforms.contains(',') {
            arguments.extend(["-o", "type=docker,dest=docker.tar"]);
        }
        kit.must_build(DOCKERFILE, &arguments);
        let metadata: Value =
            serde_json::from_slice(&std::fs::read(kit.path("m.json")).unwrap()).unwrap();
        let digest = metadata["containerimage.digest"].as_str().unwrap();
        let id = metadata["containerimage.config.digest"].as_str().unwrap();
        let expected = (digest.to_owned(), id.to_owned());

        let puller = Kit::new();
        puller.must(&["pull", "--all-platforms", &name]);
        assert_eq!(identity(&puller, &name), expected);
        let (archive, archived) = loaded(&kit.path("a.tar"));
        assert_eq!(identity(&archive, &archived), expected);
        let (directory, there) = loaded(&kit.path("d"));
        assert_eq!(identity(&directory, &there), expected);
        // And on from there, by Docker's archive and through another repository.
        archive.must(&["save", "-o", "again.tar", &archived]);
        let (again, same) = loaded(&archive.path("again.tar"));
        assert_eq!(identity(&again, &same), expected);
        let copy = format!("{}/copy:2", registry.host);
        again.must(&["tag", &same, &copy]);
        let pushed = again.must(&["push", &copy]).stdout;
        assert!(pushed.contains(digest), "{pushed}");
        if !platforms.contains(',') {
            let (docker, name) = loaded(&kit.path("docker.tar"));
            assert_eq!(identity(&docker, &name).1, expected.1);
            assert_eq!(diff_ids(&docker, &name), diff_ids(&again, &same));
        }
        again.store_is_whole();
    }
}

#[test]
fn attestations_travel_with_their_images() {
    require_machine!();
    if !has("docker-registry") {
        return;
    }
    let kit = kit();
    let registry = registry(&kit.path(""));
    let name = format!("{}/app:1", registry.host);
    kit.must_build(
        DOCKERFILE,
        &[
            "-t",
            &name,
            "--push",
            "--provenance=true",
            "--metadata-file",
            "m.json",
        ],
    );
    let metadata: Value =
        serde_json::from_slice(&std::fs::read(kit.path("m.json")).unwrap()).unwrap();
    let digest = metadata["containerimage.digest"].as_str().unwrap();
    let other = Kit::new();
    other.must(&["pull", &name]);
    let copy = format!("{}/copy:1", registry.host);
    other.must(&["tag", &name, &copy]);
    let pushed = other.must(&["push", &copy]).stdout;
    assert!(pushed.contains(digest), "{pushed}");
    other.must(&["save", "-o", "x.tar", &name]);
    let (third, same) = loaded(&other.path("x.tar"));
    assert_eq!(identity(&third, &same).0, digest);
}

#[test]
fn with_skopeo() {
    require_machine!();
    if !has("skopeo") || !has("docker-registry") {
        return;
    }
    let kit = kit();
    let registry = registry(&kit.path(""));
    let name = format!("{}/app:1", registry.host);
    kit.must_build(DOCKERFILE, &["-t", &name, "-o", "type=oci,dest=ours.tar"]);
    let expected = identity(&kit, &name);
    kit.must(&["push", &name]);
    kit.must(&["save", "-o", "saved.tar", &name]);
    let copy = |from: &str, to: &str| {
        let tls = ["--src-tls-verify=false", "--dest-tls-verify=false"];
        let mut arguments = vec!["copy", "-q", "--insecure-policy"];
        arguments.extend(tls);
        arguments.extend([from, to]);
        run("skopeo", &arguments);
    };
    let path = |name: &str| kit.path(name).to_str().unwrap().to_owned();
    let sources = [
        format!("docker://{name}"),
        format!("oci-archive:{}", path("ours.tar")),
        format!("docker-archive:{}", path("saved.tar")),
    ];
    for (number, from) in sources.iter().enumerate() {
        for (kind, to) in [
            ("oci", path(&format!("oci{number}"))),
            ("oci-archive", path(&format!("oci{number}.tar"))),
            ("dir", path(&format!("dir{number}"))),
            ("docker-archive", path(&format!("docker{number}.tar"))),
        ] {
            let tagged = match kind {
                "dir" => format!("{kind}:{to}"),
                "docker-archive" => format!("{kind}:{to}:example.org/x:1"),
                _ => format!("{kind}:{to}:1"),
            };
            copy(from, &tagged);
            let (other, loaded) = loaded(Path::new(&to));
            let found = identity(&other, &loaded);
            // skopeo writes configs anew where it turns Docker's into OCI's, and leaves out what OCI does not know.
            if number < 2 || !kind.starts_with("oci") {
                assert_eq!(found.1, expected.1, "{from} {kind}");
            }
            // What keeps manifests keeps their digests.
            if kind != "docker-archive" && number < 2 {
                assert_eq!(found.0, expected.0, "{from} {kind}");
            }
            other.must_build(
                &format!("FROM {loaded}\nLABEL m=2\n"),
                &["-o", "type=local,dest=out"],
            );
            assert_eq!(
                std::fs::read_to_string(other.path("out/tree/deep/b")).unwrap(),
                "2"
            );
        }
    }
    // Into a registry by skopeo, and from there.
    let theirs = format!("{}/theirs:1", registry.host);
    copy(&sources[1], &format!("docker://{theirs}"));
    let puller = Kit::new();
    puller.must(&["pull", &theirs]);
    assert_eq!(identity(&puller, &theirs), expected);
}

/// podman or buildah with a store of its own.
fn containers(program: &str, kit: &Kit) -> impl Fn(&[&str]) -> String {
    let root = kit.path("containers-root").to_str().unwrap().to_owned();
    let state = kit.path("containers-run").to_str().unwrap().to_owned();
    let program = program.to_owned();
    move |arguments: &[&str]| {
        let mut all = vec![
            "--root",
            &root,
            "--runroot",
            &state,
            "--storage-driver",
            "vfs",
        ];
        if program == "podman" {
            all.extend(["--events-backend", "none", "--cgroup-manager", "cgroupfs"]);
        }
        all.extend(arguments);
        run(&program, &all)
    }
}

#[test]
fn with_podman() {
    require_machine!();
    if !has("podman") || !has("docker-registry") {
        return;
    }
    let kit = kit();
    let registry = registry(&kit.path(""));
    let name = format!("{}/app:1", registry.host);
    let archives = ["type=oci,dest=ours.tar", "type=docker,dest=docker.tar"];
    kit.must_build(
        DOCKERFILE,
        &["-t", &name, "-o", archives[0], "-o", archives[1]],
    );
    let (_, id) = identity(&kit, &name);
    kit.must(&["save", "-o", "saved.tar", &name]);
    kit.must(&["push", &name]);
    let podman = containers("podman", &kit);
    for archive in ["ours.tar", "docker.tar", "saved.tar"] {
        podman(&["load", "-q", "-i", text(&kit.path(archive))]);
        let found = podman(&["image", "inspect", "--format", "{{.Id}}", &name]);
        assert_eq!(format!("sha256:{}", found.trim()), id, "{archive}");
        podman(&["rmi", "-f", &name]);
    }
    podman(&["pull", "-q", "--tls-verify=false", &name]);
    for format in ["docker-archive", "oci-archive", "oci-dir", "docker-dir"] {
        let to = kit.path(&format!("by-podman-{format}"));
        podman(&["save", "-q", "--format", format, "-o", text(&to), &name]);
        let (other, loaded) = loaded(&to);
        // podman writes configs of its own for Docker's formats, with the same layers.
        let layers = |kit: &Kit, name: &str| {
            kit.must(&["inspect", "-f", "{{json .RootFS.Layers}}", name])
                .stdout
        };
        assert_eq!(layers(&other, &loaded), layers(&kit, &name), "{format}");
        other.must_build(&format!("FROM {loaded}\n"), &["-o", "type=local,dest=out"]);
        assert_eq!(
            std::fs::read_to_string(other.path("out/more/c")).unwrap(),
            "3"
        );
    }
    let theirs = format!("{}/theirs:1", registry.host);
    podman(&["push", "-q", "--tls-verify=false", &name, &theirs]);
    Kit::new().must(&["pull", &theirs]);
}

#[test]
fn with_buildah() {
    require_machine!();
    if !has("buildah") || !has("docker-registry") {
        return;
    }
    let kit = kit();
    let registry = registry(&kit.path(""));
    let name = format!("{}/app:1", registry.host);
    kit.must_build(DOCKERFILE, &["-t", &name, "--push"]);
    let buildah = containers("buildah", &kit);
    let container = buildah(&["from", "--tls-verify=false", &name]);
    let container = container.trim();
    buildah(&["config", "--label", "by=buildah", container]);
    for (format, to) in [
        ("oci", format!("oci-archive:{}", text(&kit.path("b.tar")))),
        (
            "docker",
            format!(
                "docker-archive:{}:example.org/b:1",
                text(&kit.path("c.tar"))
            ),
        ),
        ("oci", format!("oci:{}:1", text(&kit.path("b")))),
    ] {
        buildah(&["commit", "-q", "--format", format, container, &to]);
    }
    for file in ["b.tar", "c.tar", "b"] {
        let (other, loaded) = loaded(&kit.path(file));
        let label = other
            .must(&["inspect", "-f", "{{.Config.Labels.by}}", &loaded])
            .stdout;
        assert_eq!(label, "buildah\n", "{file}");
        other.must_build(&format!("FROM {loaded}\n"), &["-o", "type=local,dest=out"]);
        assert_eq!(
            std::fs::read_to_string(other.path("out/tree/a")).unwrap(),
            "1"
        );
    }
}

#[test]
fn with_umoci() {
    require_machine!();
    if !has("umoci") {
        return;
    }
    let kit = kit();
    kit.must_build(
        DOCKERFILE,
        &["-t", "ours:1", "-o", "type=oci,dest=layout,tar=false"],
    );
    let layout = kit.path("layout");
    let image = format!("{}:1", text(&layout));
    let bundle = kit.path("bundle");
    run(
        "umoci",
        &["unpack", "--rootless", "--image", &image, text(&bundle)],
    );
    assert_eq!(
        std::fs::read_to_string(bundle.join("rootfs/tree/a")).unwrap(),
        "1"
    );
    run(
        "umoci",
        &[
            "config",
            "--image",
            &image,
            "--tag",
            "2",
            "--config.label",
            "by=umoci",
        ],
    );
    let index = Layout(layout.clone()).index();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
    let from = format!("--build-context=theirs=oci-layout://{}:2", text(&layout));
    kit.must_build("FROM theirs\n", &["-t", "theirs", &from]);
    assert_eq!(
        kit.must(&["inspect", "-f", "{{.Config.Labels.by}}", "theirs"])
            .stdout,
        "umoci\n"
    );
}

#[test]
fn a_platform_that_an_archive_does_not_have_is_not_loaded() {
    let kit = Kit::new();
    kit.context(&[("a", "hi")]);
    let other = ["--platform=linux/s390x", "-t", "other:1"];
    kit.must_build("FROM scratch\nCOPY a /\n", &other);
    kit.must(&["save", "-o", "x.tar", "other:1"]);
    // As old archives were.
    let script =
        "mkdir d && tar -C d -xf x.tar && rm d/oci-layout d/index.json && tar -C d -cf old.tar .";
    run(
        "sh",
        &["-c", &format!("cd {} && {script}", text(&kit.path("")))],
    );
    for archive in ["x.tar", "old.tar"] {
        let loader = Kit::new();
        let archive = kit.path(archive);
        let load = |platforms| {
            let platforms = format!("--platform={platforms}");
            loader.rbuild(&["load", &platforms, "-i", text(&archive)])
        };
        for platforms in ["linux/arm64", "linux/s390x,linux/arm64"] {
            let output = load(platforms);
            assert_eq!(output.code, 1, "{output}");
            let expected = "has no image for linux/arm64; it has linux/s390x";
            assert!(output.stderr.contains(expected), "{output}");
            assert_eq!(loader.must(&["images", "-q"]).stdout, "");
        }
        assert_eq!(
            load("linux/s390x").success().stdout,
            "Loaded image: other:1\n"
        );
    }
}

#[test]
fn layers_that_remove_the_longest_names() {
    require_machine!();
    let kit = kit();
    let name = "n".repeat(255);
    kit.must_build(
        &format!("FROM busybox\nRUN echo 1 > /{name} && echo 2 > /kept\n"),
        &["-t", "before:1"],
    );
    let dockerfile = format!("FROM before:1\nRUN rm /{name}\n");
    kit.must_build(&dockerfile, &["-t", "after:1"]);
    kit.must(&["save", "-o", "x.tar", "after:1"]);
    let (other, name) = loaded(&kit.path("x.tar"));
    let dockerfile = format!("FROM {name}\nRUN test ! -e /n* && test -e /kept\n");
    other.must_build(&dockerfile, &[]);
}

#[test]
fn what_holds_no_image_is_told_as_it_was_given() {
    let kit = Kit::new();
    let tar = |files: &[(&str, &str)]| {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, name, content.as_bytes())
                .unwrap();
        }
        tar.into_inner().unwrap()
    };
    let manifest = r#"[{"Config":"x","RepoTags":[],"Layers":[]}]"#;
    for (archive, expected) in [
        (Vec::new(), "NAME: it is empty"),
        (
            b"junk".to_vec(),
            "NAME: it is no tar archive: it ends within a header",
        ),
        (
            vec![b'x'; 4096],
            "NAME: it is no tar archive: a header's checksum is wrong",
        ),
        (
            tar(&[("a", "hi")]),
            "NAME: it holds no image: neither `oci-layout` nor `manifest.json` is in it",
        ),
        (
            tar(&[("manifest.json", manifest)]),
            "image `NAME/x` was not found",
        ),
        (
            b"\x1f\x8b\x08junk".to_vec(),
            "cannot decompress the archive `NAME`",
        ),
    ] {
        let streamed = kit.rbuild_with_input(&["load"], &archive);
        std::fs::write(kit.path("a.tar"), &archive).unwrap();
        let named = kit.rbuild(&["load", "-i", "a.tar"]);
        for (output, name) in [(streamed, "standard input"), (named, "a.tar")] {
            assert_eq!(output.code, 1, "{output}");
            let expected = format!("error: {}\n", expected.replace("NAME", name));
            assert!(output.stderr.starts_with(&expected), "{expected}{output}");
            assert!(!output.stderr.contains("tmp/"), "{output}");
        }
    }
}

/// As `tar -r` leaves it: the last of a name is there in the end, and what a link meant it means.
#[test]
fn of_a_name_that_an_archive_has_twice_the_last_counts() {
    let kit = Kit::new();
    kit.context(&[("a", "hi")]);
    kit.must_build("FROM scratch\nCOPY a /\n", &["-t", "ours:1"]);
    kit.must(&["save", "-o", "x.tar", "ours:1"]);
    let script = "mkdir d && tar -C d -xf x.tar && cd d && rm -r oci-layout index.json && \
        ln manifest.json same && tar -cf ../x.tar manifest.json same blobs && \
        sed 's/ours:1/mine:2/' manifest.json > new && rm manifest.json same && \
        mv new manifest.json && tar -rf ../x.tar manifest.json && ln manifest.json same && \
        tar -rf ../x.tar manifest.json same && tar -tf ../x.tar | grep -cx manifest.json";
    let script = format!("cd {} && {script}", text(&kit.path("")));
    assert_eq!(run("sh", &["-c", &script]).trim(), "3");
    let (_other, name) = loaded(&kit.path("x.tar"));
    assert_eq!(name, "mine:2");
}

#[test]
fn archives_compressed_in_every_way() {
    require_machine!();
    let kit = kit();
    kit.must_build(DOCKERFILE, &["-t", "ours:1"]);
    kit.must(&["save", "-o", "x.tar", "ours:1"]);
    let expected = identity(&kit, "ours:1");
    for (program, ending) in [
        ("gzip", "gz"),
        ("zstd", "zst"),
        ("xz", "xz"),
        ("bzip2", "bz2"),
    ] {
        if !has(program) {
            continue;
        }
        let packed = kit.path(&format!("x.tar.{ending}"));
        run(
            "sh",
            &[
                "-c",
                &format!(
                    "{program} -c {} > {}",
                    text(&kit.path("x.tar")),
                    text(&packed)
                ),
            ],
        );
        let (other, name) = loaded(&packed);
        assert_eq!(identity(&other, &name), expected, "{program}");
        let streamed = Kit::new();
        let said = streamed.rbuild_with_input(&["load"], &std::fs::read(&packed).unwrap());
        assert_eq!(said.stdout, "Loaded image: ours:1\n", "{said}");
    }
}

#[test]
fn with_docker() {
    require_machine!();
    if !has("dockerd") || !has("docker") || !crate::kit::is_root() {
        return;
    }
    let kit = kit();
    let Some(docker) = Docker::start(&kit) else {
        return;
    };
    let archives = [
        "type=docker,dest=docker.tar",
        "type=docker,dest=plain.tar,compression=uncompressed",
    ];
    kit.must_build(
        DOCKERFILE,
        &["-t", "ours:1", "-o", archives[0], "-o", archives[1]],
    );
    kit.must_build("FROM ours:1\nCOPY tree /again\n", &["-t", "ours:2"]);
    kit.must(&["save", "-o", "saved.tar", "ours:1"]);
    kit.must(&["save", "-o", "both.tar", "ours"]);
    let (_, id) = identity(&kit, "ours:1");
    for archive in ["docker.tar", "plain.tar", "saved.tar", "both.tar"] {
        docker.run(&["load", "-q", "-i", text(&kit.path(archive))]);
        let found = docker.run(&["image", "inspect", "-f", "{{.Id}}", "ours:1"]);
        assert_eq!(found.trim(), id, "{archive}");
        // The table is Docker's to the letter, but for what each knows of sizes.
        if archive == "both.tar" {
            let format = "table {{.Repository}}\t{{.Tag}}\t{{.ID}}";
            let sorted = |text: String| {
                let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
                lines[1..].sort_unstable();
                lines
            };
            let ours = sorted(kit.must(&["images", "--format", format]).stdout);
            let theirs = sorted(docker.run(&["images", "--format", format]));
            assert_eq!(ours, theirs);
            // Layers that two images share are links in it.
            docker.run(&[
                "save",
                "-o",
                text(&kit.path("theirs.tar")),
                "ours:1",
                "ours:2",
            ]);
            docker.run(&["rmi", "ours:2"]);
        }
        docker.run(&["rmi", "ours:1"]);
    }
    let other = Kit::new();
    let loaded = other
        .must(&["load", "-i", text(&kit.path("theirs.tar"))])
        .stdout;
    // Docker writes them in no order.
    let mut loaded: Vec<&str> = loaded.lines().collect();
    loaded.sort_unstable();
    assert_eq!(loaded, ["Loaded image: ours:1", "Loaded image: ours:2"]);
    assert_eq!(identity(&other, "ours:1").1, id);
    assert_eq!(diff_ids(&other, "ours:1"), diff_ids(&kit, "ours:1"));
    other.must_build("FROM ours:2\n", &["-o", "type=local,dest=out"]);
    assert_eq!(
        std::fs::read_to_string(other.path("out/again/deep/b")).unwrap(),
        "2"
    );
}
