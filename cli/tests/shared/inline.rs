//! An image that carries its own cache records.

use serde_json::Value;

use crate::kit::programs::{has, registry};
use crate::kit::{Kit, Output};
use crate::places::{digest, fresh, ran};
use crate::require_machine;

const DOCKERFILE: &str = "\
FROM busybox AS make
RUN mkdir -p /out && echo made > /out/made
FROM busybox
COPY --from=make /out/made /made
COPY a.txt /
RUN cat /made /a.txt > /both && rm /a.txt && head -c 1000 /dev/urandom > /noise
ENV X=1
RUN echo last > /last
";
const INLINE: &str = "type=inline";

/// The config of an image as a registry has it.
fn config(name: &str) -> Value {
    let output = std::process::Command::new("skopeo")
        .args(["inspect", "--config", "--raw", "--tls-verify=false"])
        .arg(format!("docker://{name}"))
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn an_image_joins_two_stores() {
    require_machine!();
    if !has("docker-registry") || !has("skopeo") {
        return;
    }
    let (one, other) = (Kit::new(), Kit::new());
    let server = registry(&one.path("served"));
    let name = format!("127.0.0.1:{}/app:latest", server.port);
    for kit in [&one, &other] {
        kit.context(&[("a.txt", "a")]);
    }
    let push = ["--cache-to", INLINE, "--push", "-t", &name];
    let first = fresh(&one, DOCKERFILE, &push);
    assert_eq!(ran(&first).len(), 5, "{first}");
    let made = digest(&one);
    let carried = &config(&name)["rbuild.cache.v1"];
    assert_eq!(carried["steps"].as_array().unwrap().len(), 4, "{carried}");

    // Nothing runs, not even in the stage that the image has nothing of; and the image is the same.
    let from = [&["--cache-from", &name], push.as_slice()].concat();
    let second = fresh(&other, DOCKERFILE, &from);
    assert_eq!(ran(&second), [""; 0], "{second}");
    assert!(!second.stderr.contains("warning: the cache"), "{second}");
    assert_eq!(digest(&other), made);
    other.store_is_whole();
    // Without the cache as well: all of it is here now.
    let flags = [push.as_slice(), &["--metadata-file=metadata"]].concat();
    let third = other.must_build(DOCKERFILE, &flags);
    assert_eq!(ran(&third), [""; 0], "{third}");
    assert_eq!(digest(&other), made);

    // Named at length, and with another last step: what comes before it is found.
    let last = Kit::new();
    last.context(&[("a.txt", "a")]);
    let changed = DOCKERFILE.replace("echo last", "echo other");
    let reference = format!("type=registry,ref={name}");
    let fourth = fresh(&last, &changed, &["--cache-from", &reference, "-t", "x"]);
    assert_eq!(ran(&fourth).len(), 1, "{fourth}");

    // An image that is made from one that carries records has none of them unless it is asked to.
    let above = format!("127.0.0.1:{}/above:latest", server.port);
    let dockerfile = format!("FROM {name}\nRUN echo above > /above\n");
    fresh(&last, &dockerfile, &["--push", "-t", &above]);
    assert_eq!(config(&above).get("rbuild.cache.v1"), None);
    let miss = fresh(&last, DOCKERFILE, &["--cache-from", &above, "-t", "x"]);
    assert!(
        miss.stderr
            .contains("it is an image that carries no records"),
        "{miss}"
    );
}

#[test]
fn images_of_one_time_carry_the_same() {
    require_machine!();
    let dockerfile = "FROM busybox\nCOPY a.txt /\nCOPY a.txt /b.txt\n";
    let mut digests = Vec::new();
    for at_a_later_time in [false, true] {
        let kit = Kit::new();
        kit.context(&[("a.txt", "a")]);
        let touched = std::process::Command::new("touch")
            .args(["-d", "@500"])
            .arg(kit.path("context/a.txt"))
            .status();
        assert!(touched.unwrap().success());
        if at_a_later_time {
            std::thread::sleep(std::time::Duration::from_millis(1100));
        }
        let epoch = "--build-arg=SOURCE_DATE_EPOCH=1000";
        fresh(&kit, dockerfile, &[epoch, "--cache-to", INLINE, "-t", "x"]);
        digests.push(digest(&kit));
    }
    assert_eq!(digests[0], digests[1]);
}

/// An image in a layout directory whose config carries what `lie` makes of the records; builds with it.
fn lied(lie: impl Fn(&mut Value)) -> Output {
    let kit = Kit::new();
    kit.context(&[("a.txt", "a")]);
    let dockerfile = "FROM busybox\nRUN echo one > /one\nRUN cat /one /one > /two\n";
    let flags = ["--cache-to", INLINE, "-o", "type=oci,tar=false,dest=cache"];
    fresh(&kit, dockerfile, &flags);
    let blobs = kit.path("cache/blobs/sha256");
    let read = |digest: &str| -> Value {
        let path = blobs.join(digest.strip_prefix("sha256:").unwrap());
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    };
    let write = |descriptor: &mut Value, value: &Value| {
        let bytes = serde_json::to_vec(value).unwrap();
        let digest = rbuild_engine::cache::Digest::of(&bytes).to_string();
        std::fs::write(blobs.join(digest.strip_prefix("sha256:").unwrap()), &bytes).unwrap();
        descriptor["digest"] = digest.into();
        descriptor["size"] = bytes.len().into();
    };
    let path = kit.path("cache/index.json");
    let mut index: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let mut manifest = read(index["manifests"][0]["digest"].as_str().unwrap());
    let mut config = read(manifest["config"]["digest"].as_str().unwrap());
    lie(&mut config["rbuild.cache.v1"]);
    write(&mut manifest["config"], &config);
    write(&mut index["manifests"][0], &manifest);
    index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"] = "latest".into();
    std::fs::write(&path, serde_json::to_vec(&index).unwrap()).unwrap();

    let flags = ["--cache-from", "type=local,src=cache", "-t", "x"];
    let output = fresh(&kit, dockerfile, &flags);
    kit.store_is_whole();
    output
}

#[test]
fn what_an_image_carries_is_not_believed() {
    require_machine!();
    let fine = lied(|_| ());
    assert_eq!(ran(&fine), [""; 0], "{fine}");

    let broken = "the records in the image's config are broken: ";
    for (lie, reason) in [
        (Value::from("eval"), broken.to_owned()),
        (serde_json::json!([1, {}]), broken.to_owned()),
        (
            serde_json::json!({"layers": [], "steps": []}),
            format!("{broken}they speak of 0 layers"),
        ),
    ] {
        let output = lied(|records| records.clone_from(&lie));
        assert_eq!(ran(&output).len(), 2, "{output}");
        assert!(output.stderr.contains(&reason), "{output}");
    }
    let output = lied(|records| records["steps"][0]["layers"] = 900.into());
    assert_eq!(ran(&output).len(), 2, "{output}");
    assert!(output.stderr.contains("a step has 900 layers"), "{output}");

    // Another tree than the layer has.
    let output = lied(|records| {
        let layers = records["layers"].as_array_mut().unwrap();
        let last = layers.last_mut().unwrap();
        last["tree"] = "00".repeat(32).into();
    });
    assert_eq!(ran(&output).len(), 1, "{output}");
    assert!(
        output.stderr.contains("is not used, and its step runs"),
        "{output}"
    );
}

#[test]
fn what_an_image_cannot_carry_is_told() {
    let kit = Kit::new();
    kit.context(&[("a.txt", "a")]);
    for (flags, expected) in [
        (
            &["--cache-to", "type=inline,mode=max"] as &[&str],
            "`type=inline` has no `mode=max`",
        ),
        (
            &["--cache-to", INLINE, "-o", "type=local,dest=x"],
            "no output is an image",
        ),
        (
            &["--cache-to", INLINE, "--squash"],
            "layers that are squashed are no step's result",
        ),
    ] {
        let output = kit.build("FROM scratch\nCOPY a.txt /\n", flags);
        assert_ne!(output.code, 0, "{output}");
        assert!(output.stderr.contains(expected), "{output}");
    }
}
