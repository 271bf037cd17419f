//! `image diff` and `image layers`.

use serde_json::Value;

use crate::kit::Kit;
use crate::require_machine;

#[test]
fn a_difference_is_told_file_by_file_and_field_by_field() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[("a", "1"), ("b", "2")]);
    let first = "FROM busybox\nCOPY a b /d/\nENV X=1\nLABEL l=1\n";
    kit.must_build(first, &["-t", "one"]);
    kit.context(&[("a", "three"), ("c", "4")]);
    let second = "FROM busybox\nCOPY a c /d/\nCOPY --chmod=0600 a /etc/passwd\nENV X=2\n";
    kit.must_build(second, &["-t", "two"]);
    let output = kit.must(&["image", "diff", "one", "two"]);
    let rows: Vec<Vec<&str>> = output
        .stdout
        .lines()
        .skip(1)
        .map(|line| {
            line.split("   ")
                .map(str::trim)
                .filter(|it| !it.is_empty())
                .collect()
        })
        .collect();
    let begins: Vec<String> = rows.iter().map(|row| row[..2].join(" ")).collect();
    assert_eq!(
        begins,
        [
            "C /d/a",
            "D /d/b",
            "A /d/c",
            "C /etc/passwd",
            "C config Env X",
            "D config Labels l",
        ],
        "{output}"
    );
    assert!(
        rows[0][2].starts_with("content: 1 bytes, blake3 "),
        "{output}"
    );
    assert!(rows[3][2].contains("mode: 0644 → 0600"), "{output}");
    assert_eq!(rows[2][2], "file, 1 bytes");
    assert_eq!(rows[4][2], "\"1\" → \"2\"");
    assert_eq!(
        kit.must(&["image", "diff", "-q", "one", "two"]).stdout,
        "/d/a\n/d/b\n/d/c\n/etc/passwd\n"
    );
    let json = kit.must(&["image", "diff", "--format=json", "one", "two"]);
    let row: Value = serde_json::from_str(json.stdout.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&row["Path"], &row["SizeAfter"]),
        (&"/d/a".into(), &5.into())
    );
    // Nothing, and how that is told to scripts.
    assert_eq!(
        kit.must(&["image", "diff", "--exit-code", "one", "one"])
            .stdout,
        ""
    );
    assert_eq!(
        kit.rbuild(&["image", "diff", "--exit-code", "one", "two"])
            .code,
        1
    );
    assert_eq!(kit.rbuild(&["image", "diff", "one", "oci:nowhere"]).code, 1);
}

#[test]
fn archives_are_compared_as_well() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[("a", "1")]);
    kit.must_build(
        "FROM scratch\nCOPY a /\n",
        &[
            "-t",
            "one",
            "-o",
            "type=docker,dest=docker.tar",
            "-o",
            "type=oci,dest=oci.tar",
        ],
    );
    for other in ["docker-archive:docker.tar", "oci-archive:oci.tar"] {
        let output = kit.must(&["image", "diff", "one", other]);
        assert_eq!(output.stdout, "", "{output}");
    }
}

#[test]
fn layers_tell_what_they_add_and_waste() {
    require_machine!();
    let kit = Kit::new();
    let dockerfile = "FROM busybox\nRUN head -c 3000 /dev/zero > /big && echo k > /kept\nRUN rm /big\nRUN echo longer > /kept\n";
    kit.must_build(dockerfile, &["-t", "app"]);
    let format = "{{.Layer}} {{.SizeBytes}} {{.WastedBytes}} {{.Added}} {{.Changed}} {{.Removed}}";
    let output = kit.must(&["image", "layers", "--format", format, "app"]);
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(
        &lines[1..],
        ["2 3002 3002 2 0 0", "3 0 0 0 0 1", "4 7 0 0 1 0"],
        "{output}"
    );
    let table = kit.must(&["image", "layers", "--files", "app"]).stdout;
    assert!(table.contains("RUN /bin/sh -c rm /big"), "{table}");
    assert!(table.contains("!A /big"), "{table}");
    assert!(table.contains(" C /kept"), "{table}");
    let ids = kit.must(&["image", "layers", "-q", "app"]).stdout;
    assert_eq!(ids.lines().count(), 4);
    assert!(ids.lines().all(|id| id.starts_with("sha256:")), "{ids}");
}
