//! `manifest`: indexes over images of several platforms, put together from separate builds.

use serde_json::Value;

use crate::kit::Kit;
use crate::kit_and_registry;

const DOCKERFILE: &str = "FROM scratch\nCOPY a /a\nARG TARGETPLATFORM\nLABEL p=$TARGETPLATFORM\n";

/// Pushes an image for a platform by its digest alone, and returns that.
fn push_one(kit: &Kit, name: &str, platform: &str) -> String {
    let output = format!("type=image,name={name},push=true,push-by-digest=true");
    let metadata = format!("{}.json", platform.replace('/', "-"));
    kit.must_build(
        DOCKERFILE,
        &[
            "--platform",
            platform,
            "-o",
            &output,
            "--metadata-file",
            &metadata,
        ],
    );
    let document = std::fs::read(kit.path(&metadata)).unwrap();
    let document: Value = serde_json::from_slice(&document).unwrap();
    let digest = document["containerimage.digest"].as_str().unwrap();
    format!("{name}@{digest}")
}

fn platforms(index: &str) -> Vec<String> {
    let index: Value = serde_json::from_str(index).unwrap();
    let manifests = index["manifests"].as_array().unwrap();
    let of = |it: &Value| {
        format!(
            "{}/{}",
            it["platform"]["os"].as_str().unwrap(),
            it["platform"]["architecture"].as_str().unwrap()
        )
    };
    manifests.iter().map(of).collect()
}

#[test]
fn separate_builds_become_one_index() {
    let Some((kit, registry)) = kit_and_registry() else {
        return;
    };
    let name = format!("{}/app", registry.host);
    let amd = push_one(&kit, &name, "linux/amd64");
    let arm = push_one(&kit, &name, "linux/arm64");
    let list = format!("{name}:1");
    let created = kit.must(&["manifest", "create", &list, &amd]).stdout;
    assert_eq!(created, format!("Created manifest list {list}\n"));
    // It is there already.
    assert_eq!(kit.rbuild(&["manifest", "create", &list, &arm]).code, 1);
    kit.must(&["manifest", "create", "--amend", &list, &arm]);
    kit.must(&[
        "manifest",
        "annotate",
        &list,
        &arm,
        "--variant",
        "v8",
        "--os-version",
        "1",
    ]);
    assert_eq!(
        kit.rbuild(&["manifest", "annotate", &list, "other", "--arch", "x"])
            .code,
        1
    );
    let draft: Value =
        serde_json::from_str(&kit.must(&["manifest", "inspect", &list]).stdout).unwrap();
    assert_eq!(draft[1]["Descriptor"]["platform"]["variant"], "v8");
    let digest = kit.must(&["manifest", "push", "--purge", &list]).stdout;
    assert!(digest.starts_with("sha256:"), "{digest}");
    assert_eq!(kit.rbuild(&["manifest", "push", &list]).code, 1);
    let index = kit.must(&["manifest", "inspect", &list]).stdout;
    assert_eq!(platforms(&index), ["linux/amd64", "linux/arm64"]);
    let verbose: Value =
        serde_json::from_str(&kit.must(&["manifest", "inspect", "-v", &list]).stdout).unwrap();
    assert!(verbose[0]["OCIManifest"]["layers"].is_array(), "{verbose}");

    // Into another repository, in one step, with an annotation; and for another platform alone.
    let other = format!("{}/copy/app:1", registry.host);
    kit.must(&[
        "manifest",
        "create",
        "--push",
        "--annotation",
        "a=b",
        &other,
        &list,
    ]);
    let index: Value =
        serde_json::from_str(&kit.must(&["manifest", "inspect", &other]).stdout).unwrap();
    assert_eq!(index["annotations"]["a"], "b");
    let second = Kit::new();
    second.must(&["pull", "--platform", "linux/arm64", &other]);
    assert_eq!(
        second
            .must(&["inspect", "-f", "{{.Config.Labels.p}}", &other])
            .stdout,
        "linux/arm64\n"
    );

    // Nothing is sent, and a draft can be removed.
    let dry = kit
        .must(&["manifest", "create", "--dry-run", &list, &amd])
        .stdout;
    assert_eq!(platforms(&dry), ["linux/amd64"]);
    kit.must(&["manifest", "create", &list, &amd]);
    kit.must(&["manifest", "rm", &list]);
    assert_eq!(kit.rbuild(&["manifest", "rm", &list]).code, 1);
    let missing = kit.rbuild(&["manifest", "create", &list, &format!("{name}:missing")]);
    assert_eq!(missing.code, 1, "{missing}");
}

#[test]
fn those_who_join_at_the_same_time_lose_nothing() {
    let Some((kit, registry)) = kit_and_registry() else {
        return;
    };
    let name = format!("{}/app", registry.host);
    let all = ["linux/386", "linux/amd64", "linux/arm64", "linux/s390x"];
    let images: Vec<String> = all.iter().map(|it| push_one(&kit, &name, it)).collect();
    let list = format!("{name}:joined");
    // Each as if on a machine of its own.
    let kits: Vec<Kit> = images.iter().map(|_| Kit::new()).collect();
    let running: Vec<_> = kits
        .iter()
        .zip(&images)
        .map(|(own, image)| {
            let arguments = ["manifest", "create", "--push", "--append", &list, image];
            (own, own.command(arguments).spawn().unwrap())
        })
        .collect();
    for (own, child) in running {
        own.finish(child).success();
    }
    let index = kit.must(&["manifest", "inspect", &list]).stdout;
    assert_eq!(platforms(&index), all);
    // A new build takes the place of the one before it, and the others stay.
    kit.context(&[("a", "2")]);
    let again = push_one(&kit, &name, "linux/arm64");
    kit.must(&["manifest", "create", "--push", "--append", &list, &again]);
    let index = kit.must(&["manifest", "inspect", &list]).stdout;
    assert_eq!(platforms(&index), all);
    assert!(
        index.contains(again.split('@').next_back().unwrap()),
        "{index}"
    );
}
