//! The images of the store, and the store itself.

use crate::kit::Kit;
use crate::require_machine;

/// A kit with the image `app:1`, and its ID.
fn image() -> (Kit, String) {
    let kit = Kit::new();
    kit.context(&[("a", "content of a")]);
    let id = kit
        .must_build(
            "FROM scratch\nCOPY a /a\nLABEL l=1\nENV E=f\n",
            &["-q", "-t", "app:1"],
        )
        .stdout;
    (kit, id.trim().to_owned())
}

#[test]
fn images_have_names_and_lose_them() {
    require_machine!();
    let (kit, id) = image();
    let short = &id["sha256:".len()..][..12];
    assert_eq!(kit.must(&["images", "-q"]).stdout, format!("{short}\n"));
    kit.must(&["tag", "app:1", "localhost:5000/other"]);
    kit.must(&["tag", short, "third"]);
    let names = kit
        .must(&["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"])
        .stdout;
    let mut names: Vec<&str> = names.lines().collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["app:1", "localhost:5000/other:latest", "third:latest"]
    );
    let table = kit.must(&["images", "app"]).stdout;
    assert!(
        table.starts_with("REPOSITORY   TAG       IMAGE ID       CREATED"),
        "{table}"
    );
    assert_eq!(table.lines().count(), 2, "{table}");
    assert_eq!(
        kit.must(&["rmi", "third"]).stdout,
        "Untagged: third:latest\n"
    );
    // An ID with several names goes only by force.
    assert_eq!(kit.rbuild(&["rmi", short]).code, 1);
    let removed = kit.must(&["rmi", "-f", short]).stdout;
    assert!(
        removed.contains("Untagged: app:1\n") && removed.contains(&format!("Deleted: {id}\n")),
        "{removed}"
    );
    assert_eq!(kit.must(&["images", "-q"]).stdout, "");
    let missing = kit.rbuild(&["rmi", "app:1"]);
    assert_eq!(missing.code, 1);
    assert!(missing.stderr.contains("app:1"), "{missing}");
}

/// The keys of a line of JSON, in its order.
fn keys(line: &str) -> Vec<String> {
    let parts = line.split("\":").map(|part| part.rsplit('"').next());
    let mut keys: Vec<String> = parts.flatten().map(str::to_owned).collect();
    keys.pop();
    keys
}

#[test]
fn lists_have_their_keys_in_order() {
    require_machine!();
    let (kit, _) = image();
    kit.must(&["volume", "create", "data"]);
    for list in [
        &["images"][..],
        &["network", "ls"],
        &["volume", "ls"],
        &["system", "df"],
        &["history", "app:1"],
        &["du"],
    ] {
        let list = |format| kit.must(&[list, &["--format", format]].concat()).stdout;
        let lines = list("json");
        assert!(!lines.is_empty());
        for line in lines.lines() {
            assert!(keys(line).is_sorted(), "{line}");
        }
        assert_eq!(list("{{json .}}"), lines);
    }
}

#[test]
fn a_template_of_all_that_takes_room() {
    require_machine!();
    let (kit, _) = image();
    kit.must(&["volume", "create", "--label=l=of a volume", "data"]);
    let df = |format| kit.must(&["system", "df", "-v", "--format", format]).stdout;
    assert_eq!(
        df(
            "{{range .Images}}{{.Repository}}:{{.Tag}} {{end}}{{range .Volumes}}{{.Name}}={{.Links}}{{end}}"
        ),
        "app:1 data=0"
    );
    assert_eq!(
        df("table {{len .Containers}}{{range .Volumes}} {{.Label \"l\"}}{{end}}"),
        "0 of a volume"
    );
    // A context's row would depend on how new its files were.
    kit.must_build(
        "FROM busybox\nRUN --mount=type=cache,target=/c touch /c/x\n",
        &[],
    );
    let cache = df("{{range .BuildCache}}[{{.CacheType}} {{.InUse}} {{.UsageCount}}]{{end}}");
    assert!(cache.contains("[exec.cachemount false N/A]"), "{cache}");
    let whole = df("json");
    assert!(
        whole.starts_with("{\"Images\":[{\"Containers\":"),
        "{whole}"
    );
    // A second may go by between two of them.
    let is_same = |_| df("{{json .}}") == df("json").trim_end();
    assert!((0..5).any(is_same), "{}", df("{{json .}}"));
    let wrong = kit.rbuild(&[
        "system",
        "df",
        "-v",
        "--format",
        "{{range .Images}}{{.Nope}}{{end}}",
    ]);
    assert_eq!(wrong.code, 1);
    assert!(wrong.stderr.contains("`Nope`"), "{wrong}");
}

#[test]
fn history_and_inspect_tell_what_was_built() {
    require_machine!();
    let (kit, id) = image();
    let history = kit
        .must(&[
            "history",
            "--no-trunc",
            "--format",
            "{{.CreatedBy}}",
            "app:1",
        ])
        .stdout;
    let lines: Vec<&str> = history.lines().collect();
    assert_eq!(lines.len(), 3, "{history}");
    assert!(
        lines[0].contains("ENV E=f") && lines[2].contains("COPY a /a"),
        "{history}"
    );
    assert_eq!(
        kit.must(&["inspect", "-f", "{{.Id}}", "app:1"]).stdout,
        format!("{id}\n")
    );
    assert_eq!(
        kit.must(&["inspect", "-f", "{{json .Config.Labels}}", "app:1"])
            .stdout,
        "{\"l\":\"1\"}\n"
    );
    let environment = "{{range .Config.Env}}{{println .}}{{end}}";
    assert!(
        kit.must(&["inspect", "-f", environment, "app:1"])
            .stdout
            .contains("E=f\n")
    );
    let all: serde_json::Value =
        serde_json::from_str(&kit.must(&["inspect", "app:1"]).stdout).unwrap();
    assert_eq!(all[0]["RepoTags"], serde_json::json!(["app:1"]));
    assert_eq!(kit.rbuild(&["inspect", "missing"]).code, 1);
}

#[test]
fn images_move_through_archives() {
    require_machine!();
    let (kit, id) = image();
    kit.must(&["save", "-o", "image.tar", "app:1"]);
    let archive = kit
        .command(["save", "app:1"])
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap()
        .stdout;
    assert_eq!(archive, std::fs::read(kit.path("image.tar")).unwrap());
    let other = Kit::new();
    let loaded = other.rbuild_with_input(&["load"], &archive);
    assert_eq!(
        (loaded.code, loaded.stdout.as_str()),
        (0, "Loaded image: app:1\n"),
        "{loaded}"
    );
    assert_eq!(
        other
            .must(&["inspect", "-f", "{{.Id}}", "app:1"])
            .stdout
            .trim(),
        id
    );
    other.store_is_whole();
    let broken = other.rbuild_with_input(&["load"], &archive[..archive.len() / 2]);
    assert_eq!(broken.code, 1, "{broken}");
    other.store_is_whole();
}

#[test]
fn a_root_file_system_becomes_an_image() {
    require_machine!();
    let kit = Kit::new();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(2);
    header.set_mode(0o644);
    tar.append_data(&mut header, "etc/f", &b"hi"[..]).unwrap();
    let arguments = [
        "import",
        "-c",
        "CMD [\"/etc/f\"]",
        "-m",
        "by hand",
        "-",
        "base:1",
    ];
    let output = kit.rbuild_with_input(&arguments, &tar.into_inner().unwrap());
    assert_eq!(output.code, 0, "{output}");
    assert!(output.stdout.starts_with("sha256:"), "{output}");
    assert_eq!(
        kit.must(&["inspect", "-f", "{{.Config.Cmd}}", "base:1"])
            .stdout,
        "[/etc/f]\n"
    );
    kit.must_build(
        "FROM base:1\nCOPY --from=base:1 /etc/f /g\n",
        &["-o", "type=local,dest=out"],
    );
    assert_eq!(std::fs::read_to_string(kit.path("out/g")).unwrap(), "hi");
}

#[test]
fn pruning_takes_what_nothing_needs() {
    require_machine!();
    let (kit, _) = image();
    let refused = kit.rbuild(&["prune"]);
    assert_eq!(refused.code, 1, "{refused}");
    kit.must(&["prune", "-f", "--all"]);
    // A named image stays whole.
    kit.must(&["save", "-o", "image.tar", "app:1"]);
    kit.store_is_whole();
    kit.must(&["rmi", "app:1"]);
    let pruned = kit.must(&["prune", "-f", "--all"]).stdout;
    assert!(pruned.contains("Total reclaimed space: "), "{pruned}");
    let usage: Vec<serde_json::Value> = kit
        .must(&["du", "--format", "json"])
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let snapshots = usage.iter().find(|row| row["Type"] == "Snapshots").unwrap();
    assert_eq!(snapshots["Bytes"], 0, "{snapshots}");
    kit.store_is_whole();
}

#[test]
fn damage_is_found_and_repaired() {
    require_machine!();
    let (kit, _) = image();
    kit.must(&["save", "-o", "image.tar", "app:1"]);
    let blobs = kit.path("store/content/blobs/sha256");
    let blob = std::fs::read_dir(blobs).unwrap().next().unwrap().unwrap();
    let path = blob.path();
    let writable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&path, writable).unwrap();
    std::fs::write(&path, "damaged").unwrap();
    let found = kit.rbuild(&["store", "check"]);
    assert_eq!(found.code, 1, "{found}");
    assert!(
        found.stdout.contains(blob.file_name().to_str().unwrap()),
        "{found}"
    );
    kit.must(&["store", "check", "--repair"]);
    kit.store_is_whole();
}
