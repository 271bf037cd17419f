//! How an image was made: SLSA provenance in its index.

use serde_json::{Value, json};

use crate::kit::Kit;
use crate::kit::programs::{has, run_in};
use crate::kit::server::Server;
use crate::layout::{Attested, LAYOUT, document};
use crate::require_machine;

const SLSA: &str = "https://slsa.dev/provenance/v1";

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&LAYOUT, more].concat()
}

#[test]
fn nothing_is_said_unless_asked_for() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[("a", "1")]);
    kit.must_build("FROM scratch\nCOPY a /", &with(&["--provenance=false"]));
    let text = std::fs::read_to_string(kit.path("layout/index.json")).unwrap();
    let index: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        index["manifests"][0]["mediaType"],
        "application/vnd.oci.image.manifest.v1+json"
    );
}

#[test]
fn an_image_says_what_it_was_made_from() {
    require_machine!();
    let kit = Kit::new();
    let server = Server::new();
    server.text("/f", "content of f", &[]);
    let dockerfile = format!(
        "FROM busybox AS unused\nRUN echo never\nFROM busybox\nARG V=1\nADD {} /f\nRUN echo $V > /v\n",
        server.url("/f").replace("//", "//user:pass@")
    );
    kit.must_build(
        &dockerfile,
        &with(&["--provenance", "--build-arg=V=2", "-t", "name:1"]),
    );
    let attested = Attested::read(&kit);
    let predicate = attested.predicate(SLSA);
    let definition = &predicate["buildDefinition"];
    let parameters = &definition["externalParameters"];
    assert_eq!(parameters["configSource"], json!({"path": "Dockerfile"}));
    assert_eq!(parameters["request"]["frontend"], "dockerfile.v0");
    // `mode=min` tells no arguments and no steps, and says so.
    assert_eq!(parameters["request"]["args"]["build-arg:V"], Value::Null);
    assert_eq!(
        definition["internalParameters"].as_object().unwrap().len(),
        1
    );
    let metadata = &predicate["runDetails"]["metadata"];
    assert_eq!(metadata["buildkit_completeness"]["request"], false);
    let materials = definition["resolvedDependencies"].as_array().unwrap();
    assert_eq!(materials.len(), 2, "{materials:#?}");
    let of_f = rbuild_engine::cache::Digest::of(b"content of f").hex();
    let file = json!({"uri": server.url("/f"), "digest": {"sha256": of_f}});
    assert_eq!(materials[0], file);
    let base = materials[1]["uri"].as_str().unwrap();
    assert!(base.starts_with("pkg:oci/busybox@sha256:"), "{base}");
    assert!(metadata["startedOn"].is_string() && metadata["invocationId"].is_string());
    assert!(!attested.text.contains("pass@") && !attested.text.contains("user:"));
    let subject = &attested.statements[0][0]["subject"][0]["name"];
    let name = subject.as_str().unwrap();
    assert!(
        name.starts_with("pkg:docker/name@1?platform=linux%2F"),
        "{name}"
    );
    kit.store_is_whole();
}

#[test]
fn everything_is_told_but_what_is_secret() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[("a", "1")]);
    std::fs::write(kit.path("secret"), "hunter2hunter2\n").unwrap();
    let dockerfile = "FROM busybox\nARG V=1\nARG NPM_TOKEN\nARG HTTP_PROXY\nCOPY a /\n\
        RUN --mount=type=secret,id=s,required=true --network=none cat /run/secrets/s > /dev/null; echo hunter2hunter2 | cut -c1 > /x\n\
        RUN echo https://me:mypassword@example.com > /dev/null\n";
    kit.must_build(
        dockerfile,
        &with(&[
            "--attest=type=provenance,mode=max,builder-id=https://ci.example.com/1",
            "--build-arg=V=2",
            "--build-arg=NPM_TOKEN=npm_abcdefgh",
            "--build-arg=HTTP_PROXY=http://me:proxypassword@127.0.0.1:1",
            "--secret=id=s,src=secret",
            "--label=l=1",
        ]),
    );
    let attested = Attested::read(&kit);
    let predicate = attested.predicate(SLSA);
    let definition = &predicate["buildDefinition"];
    let request = &definition["externalParameters"]["request"];
    assert_eq!(request["args"]["build-arg:V"], "2");
    assert_eq!(request["args"]["label:l"], "1");
    assert_eq!(request["secrets"], json!([{"id": "s"}]));
    assert_eq!(
        predicate["runDetails"]["builder"]["id"],
        "https://ci.example.com/1"
    );
    let steps = definition["internalParameters"]["buildConfig"]["llbDefinition"]
        .as_array()
        .unwrap();
    assert_eq!(steps.len(), 5, "{steps:#?}");
    assert_eq!(steps[3]["op"]["Op"]["exec"]["network"], "NONE");
    let metadata = &predicate["runDetails"]["metadata"];
    let source = &metadata["buildkit_metadata"]["source"];
    let line = &source["locations"]["step3"]["locations"][0]["ranges"][0]["start"]["line"];
    assert_eq!(line, 6);
    let layers = &metadata["buildkit_metadata"]["layers"];
    assert_eq!(layers["step4:0"][0].as_array().unwrap().len(), 4);
    use std::io::Write;
    let mut told = attested.text.clone().into_bytes();
    let data = source["infos"][0]["data"].as_str().unwrap();
    let decoder = std::process::Command::new("base64")
        .arg("-d")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn();
    let mut decoder = decoder.unwrap();
    let mut stdin = decoder.stdin.take().unwrap();
    stdin.write_all(data.as_bytes()).unwrap();
    drop(stdin);
    told.extend(decoder.wait_with_output().unwrap().stdout);
    let told = String::from_utf8(told).unwrap();
    assert!(told.contains("ARG NPM_TOKEN"), "the Dockerfile is told");
    for secret in ["hunter2", "npm_abcdefgh", "proxypassword", "mypassword"] {
        assert!(!told.contains(secret), "{secret} in {told}");
    }
    // An argument was kept back, and that is said.
    assert_eq!(metadata["buildkit_completeness"]["request"], false);
}

#[test]
fn a_repository_is_named_by_its_commit() {
    require_machine!();
    if !has("git") {
        return;
    }
    let kit = Kit::new();
    std::fs::create_dir(kit.path("repository")).unwrap();
    let script = "git init -q -b main . && echo 1 > a && printf 'FROM scratch\\nCOPY a /\\n' > Dockerfile \
        && git add . && git -c user.name=a -c user.email=b commit -q -m c && git update-server-info && git rev-parse HEAD";
    let commit = run_in(
        &kit.path(""),
        "sh",
        &["-c", &format!("cd repository && {script}")],
    );
    let server = Server::new();
    server.directory(kit.path("repository"));
    let url = format!("{}#main", server.url("/.git"));
    let output = kit
        .command([&["build"], &with(&["--provenance=mode=max"])[..], &[&url]].concat())
        .spawn()
        .unwrap();
    kit.finish(output).success();
    let attested = Attested::read(&kit);
    let predicate = attested.predicate(SLSA);
    let expected = json!({"sha1": commit.trim()});
    let definition = &predicate["buildDefinition"];
    let source = &definition["externalParameters"]["configSource"];
    assert_eq!(source["digest"], expected);
    assert_eq!(source["uri"], url);
    assert_eq!(definition["resolvedDependencies"][0]["digest"], expected);
    // Nothing came from this machine, and nothing could reach a network.
    let metadata = &predicate["runDetails"]["metadata"];
    assert_eq!(metadata["buildkit_hermetic"], true);
    assert_eq!(
        metadata["buildkit_completeness"],
        json!({"request": true, "resolvedDependencies": true})
    );
}

#[test]
fn statements_are_a_function_of_the_inputs() {
    require_machine!();
    let digest = |kit: &Kit| {
        kit.context(&[("a", "1")]);
        let arguments = kit.build_arguments(
            "FROM busybox\nRUN date > /dev/null\nCOPY a /\n",
            &[
                "--provenance=mode=max",
                "-o",
                "type=oci,tar=false,dest=layout,rewrite-timestamp=true",
            ],
        );
        let child = kit
            .command(arguments)
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .spawn()
            .unwrap();
        kit.finish(child).success();
        let attested = Attested::read(kit);
        let metadata = &attested.predicate(SLSA)["runDetails"]["metadata"];
        assert_eq!(metadata["startedOn"], "2023-11-14T22:13:20Z");
        assert_eq!(metadata["finishedOn"], "2023-11-14T22:13:20Z");
        let without = metadata.as_object().unwrap();
        assert!(!without.contains_key("invocationId"));
        attested.digest
    };
    let (one, other) = (Kit::new(), Kit::new());
    assert_eq!(digest(&one), digest(&other));
}

#[test]
fn other_tools_find_the_image_and_keep_what_is_said() {
    require_machine!();
    let kit = Kit::new();
    kit.must_build(
        "FROM busybox\nRUN echo 1 > /v\n",
        &with(&["--provenance", "-t", "name:1"]),
    );
    let attested = Attested::read(&kit);
    if has("skopeo") {
        run_in(
            &kit.path(""),
            "skopeo",
            &["copy", "-q", "--all", "oci:layout:1", "oci:copy:1"],
        );
        let raw = run_in(&kit.path(""), "skopeo", &["inspect", "--raw", "oci:copy:1"]);
        let raw: Value = serde_json::from_str(&raw).unwrap();
        assert_eq!(raw["manifests"].as_array().unwrap().len(), 2);
        let one = run_in(&kit.path(""), "skopeo", &["inspect", "oci:layout:1"]);
        let one: Value = serde_json::from_str(&one).unwrap();
        assert_eq!(one["Layers"].as_array().unwrap().len(), 2);
        run_in(
            &kit.path(""),
            "skopeo",
            &["copy", "-q", "oci:layout:1", "oci:single:1"],
        );
        let raw = run_in(
            &kit.path(""),
            "skopeo",
            &["inspect", "--raw", "oci:single:1"],
        );
        // It compresses what was not; the config tells that it is the same image.
        let raw: Value = serde_json::from_str(&raw).unwrap();
        let manifest = document(&kit.path("layout"), &attested.images[0]);
        assert_eq!(raw["config"], manifest["config"]);
    }
    // Also we read what we wrote.
    let from = "FROM other\nRUN cat /v\n";
    let again = kit.must_build(
        from,
        &["--build-context=other=oci-layout://layout:1", "--no-cache"],
    );
    assert!(again.stderr.contains('1'), "{again}");
    assert!(attested.digest.starts_with("sha256:"));
}
