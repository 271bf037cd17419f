//! What one store made, another finds.

use crate::kit::Kit;
use crate::kit::programs::{has, registry};
use crate::places::{Counter, digest, fresh, ran, redis, s3};
use crate::require_machine;

const DOCKERFILE: &str = "\
FROM busybox AS make
RUN mkdir -p /out && head -c 300000 /dev/urandom > /out/noise && echo made > /out/made
RUN chmod 711 / && ln /out/made /out/link && chown 12:34 /out/made && mkfifo /out/pipe
FROM busybox
COPY --from=make /out/made /made
COPY a.txt /
RUN cat /made /a.txt > /both && rm /a.txt
ENV X=1
";

/// Two empty stores that are joined by a cache, with the flags that name it.
fn joined(to: &str, from: &str) {
    let (one, other) = (Kit::new(), Kit::new());
    for kit in [&one, &other] {
        kit.context(&[("a.txt", "a")]);
    }
    let first = fresh(&one, DOCKERFILE, &["--cache-to", to, "-t", "x"]);
    assert_eq!(ran(&first).len(), 5, "{first}");

    let second = fresh(&other, DOCKERFILE, &["--cache-from", from, "-t", "x"]);
    assert_eq!(ran(&second), [""; 0], "{second}");
    assert_eq!(digest(&one), digest(&other));
    assert!(!second.stderr.contains("warning: the cache"), "{second}");
    other.store_is_whole();
    // What was brought is here from now on.
    let again = other.must_build(DOCKERFILE, &["--metadata-file=metadata", "-t", "x"]);
    assert_eq!(ran(&again), [""; 0], "{again}");

    // A change runs what follows it, on what the cache has of the steps before.
    let changed = DOCKERFILE.replace("cat /made", "cat /made /made");
    let third = fresh(&other, &changed, &["--cache-from", from, "-t", "x"]);
    assert_eq!(ran(&third).len(), 1, "{third}");
    // Equal files are found by their content, whatever made them.
    let changed = DOCKERFILE.replace("echo made >", "echo made  >");
    let fourth = fresh(&other, &changed, &["--cache-from", from, "-t", "x"]);
    assert_eq!(ran(&fourth).len(), 2, "{fourth}");
    other.store_is_whole();
}

#[test]
fn by_a_registry() {
    require_machine!();
    if !has("docker-registry") {
        return;
    }
    let kit = Kit::new();
    let server = registry(&kit.path("served"));
    let name = format!("127.0.0.1:{}/app/cache:main", server.port);
    joined(
        &format!("type=registry,ref={name},mode=max,image-manifest=true,oci-mediatypes=true"),
        &format!("type=registry,ref={name}"),
    );
    // A bare name is one in a registry.
    joined(
        &format!("type=registry,ref={name}-2,mode=max,compression=zstd"),
        &format!("{name}-2"),
    );
}

#[test]
fn by_a_directory() {
    require_machine!();
    let kit = Kit::new();
    let directory = kit.path("cache");
    let directory = directory.display();
    joined(
        &format!("type=local,dest={directory},mode=max"),
        &format!("type=local,src={directory}"),
    );
    joined(
        &format!("type=local,dest={directory},mode=max,tag=other,compression=uncompressed"),
        &format!("type=local,src={directory},tag=other"),
    );
}

#[test]
fn by_redis() {
    require_machine!();
    if !has("redis-server") {
        return;
    }
    let kit = Kit::new();
    kit.context(&[("a.txt", "a")]);
    let server = redis(&kit.path("served"));
    let url = format!("redis://127.0.0.1:{}/2", server.port);
    joined(
        &format!("type=redis,url={url},password=secret,mode=max"),
        &format!("type=redis,url={url},password=secret"),
    );
    let output = kit.build(
        DOCKERFILE,
        &[
            "--cache-from",
            &format!("type=redis,url={url},password=wrong"),
        ],
    );
    assert!(output.stderr.contains("is not used: "), "{output}");
    assert!(!output.stderr.contains("wrong"), "{output}");
}

#[test]
fn by_s3() {
    require_machine!();
    if !has("s3rver") {
        return;
    }
    let kit = Kit::new();
    kit.context(&[("a.txt", "a")]);
    let server = s3(&kit.path("served"));
    let port = server.port;
    let place = format!(
        "type=s3,bucket=caches,region=eu-west-1,endpoint_url=http://127.0.0.1:{port},use_path_style=true,prefix=a/b/,access_key_id=S3RVER,secret_access_key=S3RVER"
    );
    joined(
        &format!("{place},name=main,mode=max"),
        &format!("{place},name=main"),
    );
    let wrong = place.replace("access_key_id=S3RVER", "access_key_id=nobody");
    let output = kit.build(DOCKERFILE, &["--cache-to", &wrong]);
    assert_eq!(output.code, 1, "{output}");
    assert!(
        output.stderr.contains("it answers 403 Forbidden"),
        "{output}"
    );
}

#[test]
fn a_cache_mount_arrives_with_owners_and_modes() {
    require_machine!();
    let (one, other) = (Kit::new(), Kit::new());
    let dockerfile = "\
FROM busybox
RUN --mount=type=cache,target=/c,mode=0750,uid=7,gid=8 \\
    if [ -e /c/file ]; then echo warm; else echo cold; \\
    mkdir -p /c/d && echo x > /c/file && chown 12:34 /c/file && chmod 4711 /c/file && ln /c/file /c/d/link \\
    && ln -s file /c/s && touch -d '2001-02-03 04:05:06' /c/file && touch /c/.wh.name; fi > /state; \\
    stat -c '%n %u:%g %a %h %Y' /c /c/file /c/.wh.name | sed 's, [0-9]*$,,;s,^/c ,/c ,' >> /state; readlink /c/s >> /state; stat -c %Y /c/file >> /state
";
    let place = one.path("cache").display().to_string();
    let state = |kit: &Kit, flags: &[&str]| {
        let mut all = vec!["-o", "type=oci,dest=image.tar"];
        all.extend(flags);
        let output = fresh(kit, dockerfile, &all);
        let image = crate::kit::Archive::read(&kit.path("image.tar"));
        (image.files["state"].clone(), output)
    };
    let to = format!("type=local,dest={place},mounts=/c,nothere");
    let (cold, output) = state(&one, &["--cache-to", &to]);
    assert!(
        output.stderr.contains("there is no cache mount `nothere`"),
        "{output}"
    );
    let from = format!("type=local,src={place}");
    // The step itself is not taken from the cache, so it runs and looks at its mount.
    let changed = |text: &str| text.replace("cold", "warm");
    let other_file = dockerfile.replace("> /state;", ">  /state;");
    let output = fresh(
        &other,
        &other_file,
        &["--cache-from", &from, "-o", "type=oci,dest=image.tar"],
    );
    let image = crate::kit::Archive::read(&other.path("image.tar"));
    assert_eq!(image.files["state"], changed(&cold), "{output}");
    other.store_is_whole();

    // What did not change is not sent again.
    let blobs = |path: &str| {
        std::fs::read_dir(format!("{path}/blobs/sha256"))
            .unwrap()
            .count()
    };
    let before = blobs(&place);
    let output = one.must_build(dockerfile, &["--cache-to", &to]);
    assert_eq!(blobs(&place), before, "{output}");
    // Nobody who did not ask for it gets it.
    let other_file = other_file.replace(">  /state;", ">   /state;");
    let only = format!("{from},mounts=else");
    fresh(
        &other,
        &other_file,
        &["--cache-from", &only, "-o", "type=oci,dest=image.tar"],
    );
    let image = crate::kit::Archive::read(&other.path("image.tar"));
    assert!(image.files["state"].contains("cold"));
}

#[test]
fn the_steps_of_other_stages_are_given_where_all_are_asked_for() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[("a.txt", "a")]);
    let changed = DOCKERFILE.replace("/out/made /made", "/out/link /made");
    for (mode, expected) in [("min", 4), ("max", 2)] {
        let to = format!("type=local,dest=cache-{mode},mode={mode}");
        fresh(&kit, DOCKERFILE, &["--cache-to", &to]);
        let from = format!("type=local,src=cache-{mode}");
        // The image itself is found either way.
        let same = fresh(&kit, DOCKERFILE, &["--cache-from", &from]);
        assert_eq!(ran(&same), [""; 0], "{same}");
        let other = fresh(&kit, &changed, &["--cache-from", &from]);
        // RUN after COPY hits by content: the files are the same.
        assert_eq!(ran(&other).len(), expected - 1, "{mode}: {other}");
    }
}

#[test]
fn a_build_that_finds_everything_moves_what_its_output_needs() {
    require_machine!();
    if !has("docker-registry") {
        return;
    }
    let kit = Kit::new();
    kit.context(&[("a.txt", "a")]);
    let server = registry(&kit.path("served"));
    let counter = Counter::start(server.port);
    let dockerfile = format!(
        "{DOCKERFILE}RUN head -c 2000000 /dev/urandom > /large\nRUN head -c 1000000 /large > /half\n"
    );
    let name = format!("127.0.0.1:{}/cache", counter.port);
    let to = format!("type=registry,ref={name},mode=max");
    fresh(&kit, &dockerfile, &["--cache-to", &to]);
    counter.bytes();

    // Nothing but manifests.
    let flags = ["--cache-from", &name, "-o", "type=cacheonly"];
    let found = fresh(&kit, &dockerfile, &flags);
    assert_eq!(ran(&found), [""; 0], "{found}");
    let bytes = counter.bytes();
    assert!(bytes < 20_000, "{bytes}");
    // The layers of the image, and none of the other stage.
    let found = fresh(&kit, &dockerfile, &["--cache-from", &name]);
    assert_eq!(ran(&found), [""; 0], "{found}");
    let bytes = counter.bytes();
    assert!((3_000_000..3_100_000).contains(&bytes), "{bytes}");
    // Giving back what is there moves nothing.
    let flags = [
        "--cache-from",
        &name,
        "--cache-to",
        &to,
        "-o",
        "type=cacheonly",
    ];
    let found = fresh(&kit, &dockerfile, &flags);
    assert_eq!(ran(&found), [""; 0], "{found}");
    let bytes = counter.bytes();
    assert!(bytes < 20_000, "{bytes}");
}

#[test]
fn a_build_that_finds_everything_pushes_what_the_registry_has_not() {
    require_machine!();
    if !has("docker-registry") {
        return;
    }
    let kit = Kit::new();
    kit.context(&[("a.txt", "a")]);
    let (one, two) = (registry(&kit.path("one")), registry(&kit.path("two")));
    let (counted, other) = (Counter::start(one.port), Counter::start(two.port));
    let dockerfile = format!(
        "{DOCKERFILE}ENV x=1\nRUN head -c 2000000 /dev/urandom > /large\nRUN head -c 1000000 /large > /half\n"
    );
    let cache = format!("127.0.0.1:{}/cache", counted.port);
    let first = format!("127.0.0.1:{}/first", one.port);
    let to = format!("type=registry,ref={cache},mode=max");
    let here = ["-t", &first, "--push", "--cache-to", &to];
    fresh(&kit, &dockerfile, &here);
    let made = digest(&kit);
    let pushed = |name: &str, flags: &[&str]| {
        let flags = [&["--cache-from", &cache, "-t", name], flags].concat();
        let found = fresh(&kit, &dockerfile, &flags);
        assert_eq!(ran(&found), [""; 0], "{found}");
    };
    counted.bytes();

    // Another repository of the registry takes the layers from where they are.
    let second = format!("127.0.0.1:{}/second", counted.port);
    pushed(&second, &["--push"]);
    let bytes = counted.bytes();
    assert!(bytes < 40_000, "{bytes}");
    assert_eq!(digest(&kit), made);
    // What is there already is not moved.
    pushed(&second, &["--push"]);
    let bytes = counted.bytes();
    assert!(bytes < 40_000, "{bytes}");
    // Another registry gets what it has not, once, and by way of this machine.
    let third = format!("127.0.0.1:{}/third", other.port);
    pushed(&third, &["--push"]);
    let bytes = counted.bytes();
    assert!((3_000_000..3_100_000).contains(&bytes), "{bytes}");
    assert_eq!(digest(&kit), made);
    pushed(&third, &["--push"]);
    let bytes = counted.bytes();
    assert!(bytes < 40_000, "{bytes}");
    // All is there that the name leads to, and runs.
    let puller = Kit::new();
    puller.must(&["pull", &third]);
    let said = puller.must(&["run", "--rm", &third, "wc", "-c", "/half"]);
    assert_eq!(said.stdout, "1000000 /half\n");
    // Layers in another form have to be made of the files.
    pushed(
        &second,
        &[
            "-o",
            "type=registry,compression=zstd,force-compression=true",
        ],
    );
    let bytes = counted.bytes();
    assert!(bytes > 3_000_000, "{bytes}");
    assert_ne!(digest(&kit), made);
}

#[test]
fn what_cannot_be_done_is_told() {
    let kit = Kit::new();
    for (flag, text, expected) in [
        (
            "--cache-to",
            "type=registry",
            "--cache-to: `type=registry` needs `ref=`",
        ),
        (
            "--cache-to",
            "type=local,src=x",
            "--cache-to: `type=local` needs `dest=`",
        ),
        (
            "--cache-from",
            "type=local,dest=x",
            "--cache-from: `type=local` needs `src=`",
        ),
        ("--cache-from", "ref=x", "--cache-from: `type=` is missing"),
        (
            "--cache-from",
            "type=lokal,src=x",
            "--cache-from: `type=lokal`: there is no such cache",
        ),
        (
            "--cache-from",
            "type=inline",
            "--cache-from: an image's own records are read from its registry",
        ),
        (
            "--cache-to",
            "type=registry,ref=a/b,mode=mid",
            "--cache-to: `mode=mid`: expected `min` or `max`",
        ),
        (
            "--cache-to",
            "type=registry,ref=a/b,mdoe=max",
            "--cache-to: unknown key `mdoe`",
        ),
        (
            "--cache-to",
            "type=registry,ref=a/B",
            "--cache-to: `a/B` is not a valid image name",
        ),
        (
            "--cache-to",
            "type=registry,ref=a/b,image-manifest=false",
            "--cache-to with `image-manifest=false` is not supported",
        ),
    ] {
        let output = kit.build("FROM scratch\nCOPY a.txt /\n", &[flag, text]);
        assert_ne!(output.code, 0, "{output}");
        assert!(output.stderr.contains(expected), "{text}: {output}");
    }
}

#[test]
fn a_cache_that_cannot_be_written_fails_the_build_unless_told_otherwise() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[("a.txt", "a")]);
    std::fs::write(kit.path("file"), "").unwrap();
    let dockerfile = "FROM scratch\nCOPY a.txt /\n";
    let output = kit.build(dockerfile, &["--cache-to", "type=local,dest=file/x"]);
    assert_eq!(output.code, 1, "{output}");
    assert!(
        output.stderr.contains("cannot export the cache to"),
        "{output}"
    );
    assert!(output.stderr.contains("`ignore-error=true`"), "{output}");
    let output = kit.must_build(
        dockerfile,
        &["--cache-to", "type=local,dest=file/x,ignore-error=true"],
    );
    assert!(
        output
            .stderr
            .contains("warning: cannot export the cache to"),
        "{output}"
    );
    // One that is not there yet fails nothing. Another step than before: a build that finds all in the store does not
    // wait for what caches say.
    let output = kit.must_build(
        "FROM scratch\nCOPY a.txt /b\n",
        &["--cache-from", "type=local,src=nowhere"],
    );
    assert!(
        output
            .stderr
            .contains("is not used: there is nothing under this name yet"),
        "{output}"
    );
}
