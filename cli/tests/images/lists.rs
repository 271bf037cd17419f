//! `images`, `history`, `inspect`, `rmi`, `import`: what they print, with which filters and formats.

use crate::kit::Kit;
use crate::kit::server::Server;
use crate::require_machine;

/// Three images, the last made last, and their IDs.
fn kit() -> (Kit, [String; 3]) {
    let kit = Kit::new();
    kit.context(&[("a", "content of a")]);
    let build = |number: u64, name: &str| {
        let text = format!("FROM scratch\nCOPY a /a{number}\nLABEL number={number} all=\n");
        let epoch = (1_600_000_000 + number).to_string();
        let arguments = kit.build_arguments(&text, &["-q", "-t", name]);
        let child = kit
            .command(arguments)
            .env("SOURCE_DATE_EPOCH", epoch)
            .spawn()
            .unwrap();
        kit.finish(child).success().stdout.trim().to_owned()
    };
    let ids = [
        build(1, "team/one:1"),
        build(2, "two"),
        build(3, "localhost:5000/three:v3"),
    ];
    (kit, ids)
}

fn short(id: &str) -> &str {
    &id["sha256:".len()..][..12]
}

#[test]
fn filters_choose_images() {
    require_machine!();
    let (kit, _) = kit();
    let listed = |filters: &[&str]| {
        let mut arguments = vec!["images", "--format", "{{.Repository}}"];
        arguments.extend(filters);
        let found = kit.must(&arguments).stdout;
        found.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let all = ["localhost:5000/three", "two", "team/one"];
    // The newest is first.
    assert_eq!(listed(&[]), all);
    assert_eq!(listed(&["-f", "label=all"]), all);
    assert_eq!(listed(&["-f", "label=number=2"]), ["two"]);
    assert_eq!(
        listed(&["-f", "label=all", "-f", "label=number=3"]),
        [all[0]]
    );
    assert_eq!(listed(&["-f", "before=two"]), ["team/one"]);
    assert_eq!(listed(&["-f", "since=team/one:1"]), [all[0], "two"]);
    assert_eq!(listed(&["-f", "reference=team/*"]), ["team/one"]);
    assert_eq!(listed(&["-f", "reference=*"]), ["two"]);
    assert_eq!(listed(&["-f", "reference=*/*:v3"]), [all[0]]);
    assert_eq!(
        listed(&["-f", "reference=two", "-f", "reference=team/*:1"]),
        ["two", "team/one"]
    );
    assert_eq!(listed(&["team/one"]), ["team/one"]);
    assert_eq!(listed(&["team/one:2"]), [""; 0]);
    assert_eq!(listed(&["docker.io/library/two"]), ["two"]);
    assert_eq!(listed(&["-f", "until=1600000002"]), ["team/one"]);
    assert_eq!(listed(&["-f", "dangling=true"]), [""; 0]);
    kit.must_build("FROM scratch\nCOPY a /b\n", &["-t", "two"]);
    assert_eq!(listed(&["-f", "dangling=true"]), ["<none>"]);
    for wrong in [
        "label",
        "color=red",
        "dangling=maybe",
        "before=missing",
        "reference=[",
    ] {
        let refused = kit.rbuild(&["images", "-f", wrong]);
        assert!(refused.code != 0, "{wrong}: {refused}");
    }
}

#[test]
fn tables_and_templates() {
    require_machine!();
    let (kit, ids) = kit();
    let table = kit.must(&["images", "--digests", "two"]).stdout;
    assert!(
        table.starts_with("REPOSITORY   TAG       DIGEST "),
        "{table}"
    );
    assert!(table.contains(short(&ids[1])), "{table}");
    let own = kit.must(&[
        "images",
        "--format",
        "table {{.ID}}\\t{{.CreatedAt}}\\t{{upper .Tag}}",
        "team/one",
    ]);
    assert_eq!(
        own.stdout,
        format!(
            "IMAGE ID       CREATED AT                      TAG\n{}   2020-09-13 12:26:41 +0000 UTC   1\n",
            short(&ids[0])
        )
    );
    let json = kit
        .must(&["images", "--format", "json", "--no-trunc", "two"])
        .stdout;
    let row: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(row["ID"], ids[1].as_str());
    assert_eq!(
        (&row["Repository"], &row["Tag"]),
        (&"two".into(), &"latest".into())
    );
    let keys: Vec<&String> = row.as_object().unwrap().keys().collect();
    assert_eq!(keys.len(), 11, "{keys:?}");
    let each = kit
        .must(&["images", "--format", "{{json .Tag}}", "two"])
        .stdout;
    assert_eq!(each, "\"latest\"\n");
    assert_eq!(
        kit.must(&["images", "-q", "--no-trunc", "two"]).stdout,
        format!("{}\n", ids[1])
    );
    assert_eq!(kit.rbuild(&["images", "--format", "{{.Nope}}"]).code, 1);
    assert_eq!(kit.rbuild(&["images", "--format", "{{.ID"]).code, 2);
}

#[test]
fn history_for_people_and_programs() {
    require_machine!();
    let (kit, ids) = kit();
    let table = kit.must(&["history", "two"]).stdout;
    let lines: Vec<&str> = table.lines().collect();
    assert!(
        lines[0].starts_with("IMAGE          CREATED       CREATED BY "),
        "{table}"
    );
    assert!(
        lines[1].starts_with(short(&ids[1])) && lines[1].contains("LABEL number=2"),
        "{table}"
    );
    assert!(
        lines[2].starts_with("<missing>") && lines[2].contains("12B"),
        "{table}"
    );
    let plain = kit.must(&["history", "-H=false", "two"]).stdout;
    assert!(plain.contains("CREATED AT"), "{plain}");
    assert!(plain.contains("2020-09-13T12:26:42Z"), "{plain}");
    assert_eq!(
        kit.must(&["history", "-q", "two"]).stdout.lines().count(),
        2
    );
    // Scripts keep their lines for programs, and are as they were written but for the tab before the last word.
    kit.must_build(
        "FROM busybox\nRUN cat <<-X\n\t\thi\n\tX\n",
        &["-q", "-t", "script"],
    );
    let shown = |flags: &[&str]| {
        kit.must(&[&["history", "--no-trunc"], flags, &["script"]].concat())
            .stdout
    };
    let command = "RUN /bin/sh -c cat <<-X\n  hi\nX # buildkit\n";
    assert!(shown(&["--format={{.CreatedBy}}"]).starts_with(command));
    let line = command.trim_end().replace('\n', " ");
    assert!(shown(&[]).lines().nth(1).unwrap().contains(&line));
}

#[test]
fn inspect_shows_all_that_can_be_found() {
    require_machine!();
    let (kit, ids) = kit();
    let found = kit.rbuild(&["image", "inspect", "two", "missing", &ids[0][..20]]);
    assert_eq!(found.code, 1, "{found}");
    assert!(found.stderr.contains("missing"), "{found}");
    let shown: serde_json::Value = serde_json::from_str(&found.stdout).unwrap();
    assert_eq!(shown.as_array().unwrap().len(), 2);
    let keys: Vec<&String> = shown[0].as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        [
            "Id",
            "RepoTags",
            "RepoDigests",
            "Parent",
            "Comment",
            "Created",
            "DockerVersion",
            "Author",
            "Config",
            "Architecture",
            "Os",
            "Size",
            "VirtualSize",
            "GraphDriver",
            "RootFS",
            "Metadata",
            "Descriptor"
        ]
    );
    assert_eq!(shown[0]["Size"], 12);
    assert_eq!(shown[0]["Created"], "2020-09-13T12:26:42Z");
    assert_eq!(shown[1]["RepoTags"], serde_json::json!(["team/one:1"]));
    let ambiguous = kit.rbuild(&["inspect", "sha256:"]);
    assert_eq!(ambiguous.code, 1, "{ambiguous}");
}

#[test]
fn a_name_without_a_tag_saves_all_tags() {
    require_machine!();
    let (kit, _) = kit();
    kit.must(&["tag", "two", "team/one:2"]);
    kit.must(&[
        "save",
        "-o",
        "all.tar",
        "team/one",
        "localhost:5000/three:v3",
    ]);
    let other = Kit::new();
    let archive = kit.path("all.tar");
    let loaded = other
        .must(&["load", "-i", archive.to_str().unwrap()])
        .stdout;
    let mut lines: Vec<&str> = loaded.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "Loaded image: localhost:5000/three:v3",
            "Loaded image: team/one:1",
            "Loaded image: team/one:2"
        ]
    );
}

#[test]
fn a_root_comes_from_an_address() {
    require_machine!();
    let kit = Kit::new();
    let server = Server::new();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(2);
    header.set_mode(0o644);
    tar.append_data(&mut header, "f", &b"hi"[..]).unwrap();
    server.text("/root.tar", tar.into_inner().unwrap(), &[]);
    let url = server.url("/root.tar?secret=1");
    // The server's pages have no query.
    let url_plain = server.url("/root.tar");
    assert_ne!(url, url_plain);
    kit.must(&["import", "-c", "ENV A=b", &url_plain, "web:1"]);
    let history = kit
        .must(&["history", "--format", "{{.Comment}}", "web:1"])
        .stdout;
    assert_eq!(history, format!("Imported from {url_plain}\n"));
    kit.must_build("FROM web:1\n", &["-o", "type=local,dest=out"]);
    assert_eq!(std::fs::read_to_string(kit.path("out/f")).unwrap(), "hi");
    let missing = kit.rbuild(&["import", &server.url("/missing.tar")]);
    assert_eq!(missing.code, 1, "{missing}");
    let wrong = kit.rbuild(&["import", "-c", "RUN true", &url_plain]);
    assert_eq!(wrong.code, 2, "{wrong}");
}
