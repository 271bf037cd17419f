//! Signatures by a key, in cosign's format: in layouts and registries, and what becomes of them when something is
//! changed.

use std::path::PathBuf;

use rbuild_engine::cache::Digest;
use serde_json::Value;

use crate::kit::programs::{has, registry, run_in};
use crate::kit::{Kit, Output};
use crate::layout::{LAYOUT, blob, document};
use crate::require_machine;

/// A kit with the image `layout:1` and the keys `cosign.key` and `cosign.pub`.
fn signed() -> Kit {
    let kit = Kit::new();
    kit.context(&[("a", "1")]);
    kit.must_build(
        "FROM scratch\nCOPY a /\n",
        &[&LAYOUT[..], &["-t", "image:1"]].concat(),
    );
    with_password(&kit, &["generate-key-pair"]).success();
    with_password(
        &kit,
        &["sign", "--key=cosign.key", "-a", "by=me", "oci:layout:1"],
    )
    .success();
    kit
}

fn with_password(kit: &Kit, arguments: &[&str]) -> Output {
    let mut command = kit.command(arguments);
    kit.finish(command.env("COSIGN_PASSWORD", "secret").spawn().unwrap())
}

/// The manifest with the signatures, and where it lies.
fn signatures(kit: &Kit) -> (Value, PathBuf) {
    let layout = kit.path("layout");
    let index: Value =
        serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
    let all = index["manifests"].as_array().unwrap();
    let name = |it: &Value| it["annotations"]["org.opencontainers.image.ref.name"].clone();
    let image = all.iter().find(|it| name(it) == "1").unwrap();
    let tag = format!(
        "{}.sig",
        image["digest"].as_str().unwrap().replace(':', "-")
    );
    let descriptor = all.iter().find(|it| name(it) == tag.as_str()).unwrap();
    let digest: Digest = descriptor["digest"].as_str().unwrap().parse().unwrap();
    (
        document(&layout, descriptor),
        layout.join("blobs/sha256").join(digest.hex()),
    )
}

#[test]
fn a_signature_is_cosigns_and_openssl_verifies_it() {
    require_machine!();
    let kit = signed();
    let (manifest, _) = signatures(&kit);
    let layer = &manifest["layers"][0];
    assert_eq!(
        layer["mediaType"],
        "application/vnd.dev.cosign.simplesigning.v1+json"
    );
    let payload = blob(&kit.path("layout"), layer);
    let payload_text: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(
        payload_text["critical"]["type"],
        "cosign container image signature"
    );
    assert_eq!(payload_text["optional"]["by"], "me");
    let key = std::fs::read_to_string(kit.path("cosign.key")).unwrap();
    assert!(key.starts_with("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n"));
    if has("openssl") {
        std::fs::write(kit.path("payload"), &payload).unwrap();
        let signature = layer["annotations"]["dev.cosignproject.cosign/signature"].as_str();
        std::fs::write(kit.path("signature.txt"), signature.unwrap()).unwrap();
        let script = "base64 -d signature.txt > signature && \
            openssl dgst -sha256 -verify cosign.pub -signature signature payload";
        assert_eq!(
            run_in(&kit.path(""), "sh", &["-c", script]),
            "Verified OK\n"
        );
    }
    let verified = kit.must(&["verify", "--key=cosign.pub", "-a", "by=me", "oci:layout:1"]);
    let printed: Value = serde_json::from_str(&verified.stdout).unwrap();
    assert_eq!(printed, serde_json::json!([payload_text]));
    // Keys are not overwritten.
    assert_eq!(with_password(&kit, &["generate-key-pair"]).code, 1);
    // The image is what it was, for us and for others.
    kit.must_build(
        "FROM other\n",
        &["--build-context=other=oci-layout://layout:1"],
    );
    if has("skopeo") {
        run_in(&kit.path(""), "skopeo", &["inspect", "oci:layout:1"]);
    }
}

#[test]
fn what_was_changed_is_refused() {
    require_machine!();
    let kit = signed();
    let verify = |more: &[&str]| kit.rbuild(&[&["verify"], more, &["oci:layout:1"]].concat());
    let refused = |output: &Output, why: &str| {
        assert_eq!(output.code, 1, "{output}");
        assert!(output.stderr.contains(why), "{output}");
    };
    // Another key.
    with_password(&kit, &["generate-key-pair", "--output-key-prefix=other"]).success();
    refused(&verify(&["--key=other.pub"]), "it is not by this key");
    refused(
        &verify(&["--key=cosign.pub", "-a", "by=you"]),
        "it does not say `by=you`",
    );
    // What the signature lies beside is of another image.
    let (manifest, place) = signatures(&kit);
    kit.context(&[("a", "2")]);
    kit.must_build(
        "FROM scratch\nCOPY a /\n",
        &[&LAYOUT[..], &["-t", "image:1"]].concat(),
    );
    refused(&verify(&["--key=cosign.pub"]), "has no signature");
    let index = kit.path("layout/index.json");
    let text = std::fs::read_to_string(&index).unwrap();
    let listed: Value = serde_json::from_str(&text).unwrap();
    let new = listed["manifests"].as_array().unwrap();
    let new = new
        .iter()
        .find(|it| it["annotations"]["org.opencontainers.image.ref.name"] == "1")
        .unwrap()["digest"]
        .as_str()
        .unwrap();
    let old = text
        .split(".sig")
        .next()
        .unwrap()
        .rsplit("sha256-")
        .next()
        .unwrap();
    std::fs::write(
        &index,
        text.replace(&format!("{old}.sig"), &format!("{}.sig", &new[7..])),
    )
    .unwrap();
    refused(&verify(&["--key=cosign.pub"]), "it is of another image");
    // A payload and a manifest that are not what their digests say.
    let payload = manifest["layers"][0]["digest"]
        .as_str()
        .unwrap()
        .replace("sha256:", "");
    let payload = kit.path("layout/blobs/sha256").join(payload);
    let whole = std::fs::read_to_string(&payload).unwrap();
    std::fs::write(&payload, whole.replace(old, &new[7..])).unwrap();
    refused(&verify(&["--key=cosign.pub"]), "sha256:");
    std::fs::write(&payload, whole).unwrap();
    let text = std::fs::read_to_string(&place).unwrap();
    std::fs::write(
        &place,
        text.replace("\"os\"", "\"oS\"").replace("2,", "2 ,"),
    )
    .unwrap();
    refused(&verify(&["--key=cosign.pub"]), "sha256:");
}

#[test]
fn keys_of_others_are_read() {
    require_machine!();
    let kit = signed();
    // Nobody signs with an encrypted key and the wrong password, or with what is no key.
    let mut wrong = kit.command(["sign", "--key=cosign.key", "oci:layout:1"]);
    let wrong = kit.finish(wrong.env("COSIGN_PASSWORD", "wrong").spawn().unwrap());
    assert_eq!(wrong.code, 1, "{wrong}");
    assert!(wrong.stderr.contains("the password is wrong"), "{wrong}");
    let none = kit.rbuild(&["sign", "--key=cosign.key", "oci:layout:1"]);
    assert!(none.stderr.contains("COSIGN_PASSWORD"), "{none}");
    assert_eq!(
        kit.rbuild(&["sign", "--key=cosign.pub", "oci:layout:1"])
            .code,
        1
    );
    if !has("openssl") {
        return;
    }
    for (name, script) in [
        (
            "pkcs8",
            "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out k.pem",
        ),
        (
            "sec1",
            "openssl ecparam -name prime256v1 -genkey -noout -out k.pem",
        ),
    ] {
        run_in(
            &kit.path(""),
            "sh",
            &[
                "-c",
                &format!("{script} && openssl pkey -in k.pem -pubout -out k.pub"),
            ],
        );
        kit.must(&["sign", "--key=k.pem", "oci:layout:1"]);
        kit.must(&["verify", "--key=k.pub", "oci:layout:1"]);
        // The others' signatures are still there.
        let output = kit.must(&["verify", "--key=cosign.pub", "oci:layout:1"]);
        assert!(output.stderr.contains("1 times"), "{name}: {output}");
    }
    // The same again is no more.
    kit.must(&["sign", "--key=k.pem", "oci:layout:1"]);
    assert_eq!(signatures(&kit).0["layers"].as_array().unwrap().len(), 3);
}

#[test]
fn images_in_registries_are_signed_beside_their_name() {
    require_machine!();
    if !has("docker-registry") {
        return;
    }
    let kit = Kit::new();
    let registry = registry(&kit.path(""));
    let name = format!("127.0.0.1:{}/a/b:1", registry.port);
    kit.context(&[("a", "1")]);
    kit.must_build("FROM scratch\nCOPY a /\n", &["-t", &name, "--provenance"]);
    with_password(&kit, &["generate-key-pair"]).success();
    let unsigned = kit.rbuild(&["verify", "--key=cosign.pub", &name]);
    assert_eq!(unsigned.code, 1, "{unsigned}");
    with_password(&kit, &["push", "-q", "--sign-by=cosign.key", &name]).success();
    let verified = kit.must(&["verify", "--key=cosign.pub", &name]);
    let payloads: Value = serde_json::from_str(&verified.stdout).unwrap();
    let critical = &payloads[0]["critical"];
    assert_eq!(
        critical["identity"]["docker-reference"],
        format!("127.0.0.1:{}/a/b", registry.port)
    );
    // The index is what is signed: with the image, what is said of it.
    let digest = critical["image"]["docker-manifest-digest"]
        .as_str()
        .unwrap();
    if has("skopeo") {
        let image = format!("docker://{name}");
        let raw = run_in(
            &kit.path(""),
            "skopeo",
            &["inspect", "--tls-verify=false", "--raw", &image],
        );
        assert_eq!(Digest::of(raw.as_bytes()).to_string(), digest);
        let beside = format!(
            "docker://127.0.0.1:{}/a/b:{}.sig",
            registry.port,
            digest.replace(':', "-")
        );
        let raw = run_in(
            &kit.path(""),
            "skopeo",
            &["inspect", "--tls-verify=false", "--raw", &beside],
        );
        let manifest: Value = serde_json::from_str(&raw).unwrap();
        assert_eq!(manifest["layers"].as_array().unwrap().len(), 1);
    }
    // By digest, and a second signature beside the first.
    let by_digest = format!("{}@{digest}", name.strip_suffix(":1").unwrap());
    let again = ["sign", "--key=cosign.key", "-a", "stage=test", &by_digest];
    with_password(&kit, &again).success();
    let verified = kit.must(&["verify", "--key=cosign.pub", &name]);
    assert!(verified.stderr.contains("2 times"), "{verified}");
}
