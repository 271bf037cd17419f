//! Registries: through a proxy, for another platform, and without authorities to trust.

use std::process::Command;

use super::{IMAGE, files, pairs};
use crate::kit::server::Server;
use crate::kit::{Kit, Output};

/// What is asked of a proxy is a whole address.
#[test]
fn a_registry_that_is_named_insecure_is_reached_through_the_proxy() {
    let kit = Kit::new();
    let proxy = Server::new();
    let manifest = r#"{"schemaVersion":2,"manifests":[]}"#;
    proxy.text(
        "http://registry.example:5000/v2/x/manifests/1",
        manifest,
        &["Content-Type: application/vnd.oci.image.index.v1+json"],
    );
    let inspect = |no_proxy: &str| {
        let flags = ["--registry", "registry.example:5000,insecure"];
        let mut command = kit.command(["manifest", "inspect"]);
        command.args(flags).arg("registry.example:5000/x:1");
        command
            .env("http_proxy", proxy.url(""))
            .env("NO_PROXY", no_proxy);
        kit.finish(command.spawn().unwrap())
    };
    let output = inspect("10.0.0.0/8,other.example");
    assert_eq!(output.code, 0, "{output}");
    assert!(output.stdout.contains("manifests"), "{output}");
    assert_eq!(proxy.requests().len(), 1);
    let output = inspect("registry.example");
    assert_eq!(output.code, 1, "{output}");
    assert_eq!(proxy.requests(), [""; 0]);
}

/// As Docker's, which brings what there is.
#[test]
fn a_pull_for_another_platform_than_there_is_says_so() {
    let kit = Kit::new();
    let server = Server::new();
    let digest = |text: &str| rbuild_engine::cache::Digest::of(text.as_bytes());
    let config =
        r#"{"architecture":"s390x","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},"layers":[]}}"#,
        digest(config),
        config.len()
    );
    let of_manifest = "Content-Type: application/vnd.oci.image.manifest.v1+json";
    server.text("/v2/", "{}", &[]);
    server.text("/v2/x/manifests/1", &manifest, &[of_manifest]);
    server.text(&format!("/v2/x/blobs/{}", digest(config)), config, &[]);
    let name = format!("{}/x:1", server.url("").trim_start_matches("http://"));
    for (platforms, warned) in [
        ("linux/s390x", None),
        ("linux/s390x,linux/arm64", Some("linux/arm64")),
    ] {
        let output = kit.must(&["pull", "--platform", platforms, &name]);
        let expected = warned.map_or(String::new(), |wanted| {
            format!(
                "warning: `{name}` is an image for linux/s390x, and --platform asks for {wanted}\n"
            )
        });
        assert_eq!(output.stderr, expected);
    }
}

/// Plain HTTP and registries that need no certificate need no authorities.
#[test]
fn without_ca_certificates() {
    let kit = Kit::new();
    let proxy = Server::new();
    let url = "http://registry.example:5000/v2/x/manifests/1";
    let manifest = r#"{"schemaVersion":2,"manifests":[]}"#;
    let index = "Content-Type: application/vnd.oci.image.index.v1+json";
    proxy.text(url, manifest, &[index]);
    proxy.text("http://files.example/f", "plain", &[]);
    std::fs::write(kit.path("none.pem"), "").unwrap();
    let ended = |mut command: Command| {
        command
            .env("SSL_CERT_FILE", kit.path("none.pem"))
            .env("SSL_CERT_DIR", kit.path("context"))
            .env("http_proxy", proxy.url(""));
        kit.finish(command.spawn().unwrap())
    };
    let insecure = "--registry=registry.example:5000,insecure";
    let inspect = kit.command(["manifest", "inspect", insecure, "registry.example:5000/x:1"]);
    ended(inspect).success();
    let mut copied = kit.build_arguments("FROM scratch\nADD http://files.example/f /\n", &IMAGE);
    if crate::kit::machine_can("without_ca_certificates") {
        let found = files(&kit, ended(kit.command(&copied)));
        assert_eq!(found, pairs(&[("f", "-600 plain")]));
        copied = kit.build_arguments("FROM scratch\nADD https://files.example/f /\n", &IMAGE);
        assert_has_way_out(&ended(kit.command(&copied)));
    }
    let pull = kit.command(["pull", "registry.example:5000/x:1"]);
    assert_has_way_out(&ended(pull));
}

#[track_caller]
fn assert_has_way_out(output: &Output) {
    assert_eq!(output.code, 1, "{output}");
    for word in [
        "https://",
        "CA certificates",
        "`ca-certificates`",
        "--registry-ca",
        "SSL_CERT_FILE",
    ] {
        assert!(output.stderr.contains(word), "{word}: {output}");
    }
}
