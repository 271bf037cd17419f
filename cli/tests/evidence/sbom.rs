//! What is in an image: an SPDX document in its index, held against what package managers say themselves.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::kit::programs::{has, run_in};
use crate::kit::{Kit, skipped};
use crate::layout::{Attested, LAYOUT};
use crate::require_machine;

const SPDX: &str = "https://spdx.dev/Document";

/// Builds a context and returns the document about it.
#[track_caller]
fn document(kit: &Kit, more: &[&str]) -> Value {
    let dockerfile = "FROM scratch\nCOPY root /\n";
    kit.must_build(dockerfile, &[&LAYOUT, &["--sbom"][..], more].concat());
    let attested = Attested::read(kit);
    let document = attested.predicate(SPDX).clone();
    assert_eq!(document["spdxVersion"], "SPDX-2.3");
    validate(kit, &document);
    document
}

/// With the reference tools, where they are installed.
fn validate(kit: &Kit, document: &Value) {
    let python = std::env::var("RBUILD_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let file = kit.path("document.spdx.json");
    std::fs::write(&file, document.to_string()).unwrap();
    let script = "import sys\n\
        try:\n from spdx_tools.spdx.parser.parse_anything import parse_file\n \
        from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document as v\n\
        except ImportError: sys.exit(77)\n\
        m = v(parse_file(sys.argv[1]))\n\
        [print(x.validation_message) for x in m]\nsys.exit(bool(m))\n";
    let output = Command::new(python).args(["-c", script]).arg(file).output();
    match output {
        Ok(output) if output.status.code() != Some(77) => {
            let text = String::from_utf8_lossy(&output.stdout);
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{text}\n{errors}");
        }
        _ => skipped(
            "validation of SPDX documents",
            "there is no spdx-tools (PyPI)",
        ),
    }
}

/// (name, version) of the packages of a kind.
fn packages(document: &Value, kind: &str) -> BTreeSet<(String, String)> {
    let all = document["packages"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let prefix = format!("pkg:{kind}/");
    all.filter(|one| {
        let purl = &one["externalRefs"][0]["referenceLocator"];
        purl.as_str().is_some_and(|purl| purl.starts_with(&prefix))
    })
    .map(|one| (text(&one["name"]), text(&one["versionInfo"])))
    .collect()
}

fn lines(text: &str) -> BTreeSet<(String, String)> {
    let pair = |line: &str| {
        let (name, version) = line.split_once('\t').unwrap();
        (name.to_owned(), version.to_owned())
    };
    text.lines().map(pair).collect()
}

#[test]
fn a_debian_image_has_what_dpkg_lists() {
    require_machine!();
    let status = Path::new("/var/lib/dpkg/status");
    if !has("dpkg-query") || !status.exists() {
        return;
    }
    let kit = Kit::new();
    let text = std::fs::read_to_string(status).unwrap();
    let gone = "\nPackage: gone\nStatus: purge ok not-installed\nPriority: optional\nSection: x\n";
    let removed = "\nPackage: removed\nStatus: deinstall ok config-files\nPriority: optional\n\
        Section: x\nMaintainer: M <m@x>\nArchitecture: all\nVersion: 1:2~3\nDescription: x\n";
    kit.context(&[
        (
            "root/var/lib/dpkg/status",
            &format!("{text}{gone}{removed}"),
        ),
        ("root/var/lib/dpkg/info/format", "1\n"),
        ("root/etc/os-release", "ID=debian\nVERSION_ID=\"12\"\n"),
    ]);
    let document = document(&kit, &[]);
    let admindir = kit.path("context/root/var/lib/dpkg").display().to_string();
    let listed = run_in(
        &kit.path(""),
        "dpkg-query",
        &[
            "--admindir",
            &admindir,
            "-W",
            "-f",
            "${Package}\\t${Version}\\n",
        ],
    );
    let listed = lines(&listed);
    assert!(listed.len() > 50, "{listed:?}");
    assert_eq!(packages(&document, "deb"), listed);
    // Each is in the image, once.
    let count = document["packages"].as_array().unwrap().len();
    assert_eq!(document["relationships"].as_array().unwrap().len(), count);
}

#[test]
fn a_distroless_image_has_a_file_a_package() {
    require_machine!();
    let kit = Kit::new();
    let package = "Package: base-files\nVersion: 12.4\nArchitecture: amd64\nMaintainer: S <s@d>\n";
    kit.context(&[
        ("root/var/lib/dpkg/status.d/base", package),
        ("root/var/lib/dpkg/status.d/base.md5sums", "0 x\n"),
        ("root/usr/lib/os-release", "ID=debian\n"),
        (
            "root/usr/share/doc/base-files/copyright",
            "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nLicense: GPL-2+\n",
        ),
    ]);
    let document = document(&kit, &[]);
    let one = &document["packages"][1];
    assert_eq!(one["licenseDeclared"], "GPL-2.0-or-later");
    assert_eq!(one["supplier"], "Organization: S (s@d)");
    assert_eq!(one["sourceInfo"], "found in /var/lib/dpkg/status.d/base");
}

#[test]
fn rpm_databases_are_read_as_rpm_reads_them() {
    require_machine!();
    if !has("rpm") || !has("rpmbuild") {
        return;
    }
    let kit = Kit::new();
    let directory = kit.path("context/root/var/lib/rpm");
    std::fs::create_dir_all(&directory).unwrap();
    let database = directory.display().to_string();
    let top = format!("_topdir {}", kit.path("rpmbuild").display());
    // One small package, and one whose header does not fit on a page.
    for (name, summary) in [("small", "x".to_owned()), ("large", "long ".repeat(5000))] {
        let spec = format!(
            "Name: {name}\nEpoch: 2\nVersion: 1.5\nRelease: 3\nSummary: {summary}\n\
             License: MIT and Odd\nBuildArch: noarch\n%description\nx\n%files\n"
        );
        let path = format!("{name}.spec");
        std::fs::write(kit.path(&path), spec).unwrap();
        run_in(
            &kit.path(""),
            "rpmbuild",
            &["-bb", "--quiet", "--define", &top, &path],
        );
        let package = format!("rpmbuild/RPMS/noarch/{name}-1.5-3.noarch.rpm");
        let how = ["-i", "--justdb", "--nodeps", "--nosignature", &package];
        run_in(
            &kit.path(""),
            "rpm",
            &[&["--dbpath", &database], &how[..]].concat(),
        );
    }
    let format = "%{NAME}\\t%{EPOCH}:%{VERSION}-%{RELEASE}\\n";
    let listed = run_in(
        &kit.path(""),
        "rpm",
        &["--dbpath", &database, "-qa", "--qf", format],
    );
    let listed = lines(&listed);
    assert_eq!(listed.len(), 2);
    assert!(directory.join("rpmdb.sqlite").exists());
    let read = document(&kit, &[]);
    assert_eq!(packages(&read, "rpm"), listed);
    assert_eq!(
        read["packages"][1]["licenseDeclared"],
        "MIT AND LicenseRef-Odd"
    );
    assert_eq!(read["comment"], Value::Null);
    // The same headers as they were kept before 2021.
    if has("db_load") || Path::new("/usr/bin/db_load").exists() {
        let script = "import sqlite3, sys\n\
            e = lambda b: ' ' + ''.join('\\\\%02x' % x for x in b)\n\
            c = sqlite3.connect(sys.argv[1])\n\
            print(e(bytes(4)) + '\\n' + e(bytes(4)))\n\
            [print(e(k.to_bytes(4, 'little')) + '\\n' + e(v)) for k, v in c.execute('select * from Packages')]\n";
        std::fs::write(kit.path("dump.py"), script).unwrap();
        let shell = format!(
            "cd {database} && python3 ../../../../../dump.py rpmdb.sqlite > /dev/null && \
             (printf 'VERSION=3\\nformat=bytevalue\\ntype=hash\\ndb_pagesize=4096\\nHEADER=END\\n'; \
              python3 ../../../../../dump.py rpmdb.sqlite | sed 's/\\\\//g'; echo DATA=END) | db_load Packages && \
             rm rpmdb.sqlite*"
        );
        run_in(&kit.path(""), "sh", &["-euc", &shell]);
        assert_eq!(packages(&document(&kit, &[]), "rpm"), listed);
    }
}

#[test]
fn packages_of_languages_are_found_where_their_files_show_them() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[
        (
            "root/lib/apk/db/installed",
            "P:musl\nV:1.2.5-r0\nA:x86_64\nL:MIT\no:musl\n\n",
        ),
        (
            "root/app/lib/flask-3.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: Flask\nVersion: 3.0\nLicense: BSD-3-Clause\n\nText\n",
        ),
        (
            "root/app/node_modules/@s/left/package.json",
            r#"{"name":"@s/left","version":"1.0.0","license":"ISC"}"#,
        ),
        (
            "root/app/package-lock.json",
            r#"{"packages":{"node_modules/right":{"version":"2.0.0"}}}"#,
        ),
        (
            "root/src/Cargo.lock",
            "[[package]]\nname = \"serde\"\nversion = \"1.0.1\"\n",
        ),
        // What is broken is said, and nothing else is lost.
        ("root/src/deep/Cargo.lock", "[[package"),
        // A link leads nowhere.
        ("root/x", ""),
    ]);
    std::os::unix::fs::symlink("/etc/passwd", kit.path("context/root/app/Cargo.lock")).unwrap();
    if has("objcopy") {
        let mut go = b"\xff Go buildinf:\x08\x02".to_vec();
        go.resize(32, 0);
        let modules = "0123456789abcdefmod\texample.com/x\tv1.0.0\t\ndep\texample.com/y\tv0.2.0\th1:x\n0123456789abcdef";
        for text in ["go1.22.1", modules] {
            go.push(u8::try_from(text.len()).unwrap());
            go.extend(text.bytes());
        }
        std::fs::write(kit.path("go"), go).unwrap();
        run_in(
            &kit.path(""),
            "objcopy",
            &[
                "--add-section",
                ".go.buildinfo=go",
                "/bin/busybox",
                "context/root/app/program",
            ],
        );
    }
    let document = document(&kit, &[]);
    let purls: BTreeSet<&str> = document["packages"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|one| one["externalRefs"][0]["referenceLocator"].as_str())
        .collect();
    for purl in [
        "pkg:apk/alpine/musl@1.2.5-r0?arch=x86_64",
        "pkg:pypi/flask@3.0",
        "pkg:npm/%40s/left@1.0.0",
        "pkg:npm/right@2.0.0",
        "pkg:cargo/serde@1.0.1",
    ] {
        assert!(purls.contains(purl), "{purl} in {purls:?}");
    }
    if kit.path("context/root/app/program").exists() {
        assert!(
            purls.contains("pkg:golang/example.com/y@v0.2.0"),
            "{purls:?}"
        );
        assert!(purls.contains("pkg:golang/stdlib@1.22.1"), "{purls:?}");
    }
    let comment = document["comment"].as_str().unwrap();
    assert!(
        comment.starts_with("src/deep/Cargo.lock was not read: "),
        "{comment}"
    );
}

#[test]
fn what_lower_layers_had_and_upper_ones_removed_is_not_listed() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[
        ("a/lib/apk/db/installed", "P:old\nV:1\nA:x\n\n"),
        ("b/lib/apk/db/installed", "P:new\nV:2\nA:x\n\n"),
        (
            "a/app/Cargo.lock",
            "[[package]]\nname = \"gone\"\nversion = \"1.0.0\"\n",
        ),
    ]);
    let dockerfile = "FROM busybox\nCOPY a /\nCOPY b /\nRUN rm -r /app\n";
    kit.must_build(
        dockerfile,
        &[&LAYOUT[..], &["--sbom", "--provenance"]].concat(),
    );
    let attested = Attested::read(&kit);
    // Provenance and list lie in one manifest.
    assert_eq!(attested.statements[0].len(), 2);
    let document = attested.predicate(SPDX);
    let names: Vec<&Value> = document["packages"]
        .as_array()
        .unwrap()
        .iter()
        .skip(1)
        .map(|one| &one["name"])
        .collect();
    assert_eq!(names, ["new"]);
}

#[test]
fn files_that_are_no_image_have_it_beside_them() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[("lib/apk/db/installed", "P:musl\nV:1\nA:x\n\n")]);
    let dockerfile = "FROM scratch\nCOPY lib /lib\n";
    kit.must_build(
        dockerfile,
        &["-o", "out", "--sbom", "--provenance=mode=max"],
    );
    for (name, kind) in [
        ("provenance.json", "https://slsa.dev/provenance/v1"),
        ("sbom.spdx.json", SPDX),
    ] {
        let text = std::fs::read_to_string(kit.path("out").join(name)).unwrap();
        let statement: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(statement["predicateType"], kind);
        let subjects = statement["subject"].as_array().unwrap();
        assert_eq!(subjects.len(), 1);
        assert_eq!(subjects[0]["name"], "lib/apk/db/installed");
        let digest = rbuild_engine::cache::Digest::of(b"P:musl\nV:1\nA:x\n\n").hex();
        assert_eq!(subjects[0]["digest"]["sha256"], digest);
        if kind == SPDX {
            validate(&kit, &statement["predicate"]);
        }
    }
    // A tar holds it as well.
    let of_tar = ["-o", "type=tar,dest=x.tar", "--sbom", "--provenance"];
    kit.must_build(dockerfile, &of_tar);
    let mut archive = tar::Archive::new(std::fs::File::open(kit.path("x.tar")).unwrap());
    let mut said = Vec::new();
    for entry in archive.entries().unwrap() {
        let entry = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        if name.ends_with(".json") {
            let statement: Value = serde_json::from_reader(entry).unwrap();
            assert_eq!(statement["subject"][0]["name"], "lib/apk/db/installed");
            said.push(name);
        }
    }
    assert_eq!(said, ["provenance.json", "sbom.spdx.json"]);
    // Only for images.
    let inline = ["-o", "other", "--provenance=inline-only=true"];
    kit.must_build(dockerfile, &inline);
    assert!(!kit.path("other/provenance.json").exists());
}

/// BuildKit's settings in ARG: earlier stages and the context are listed where they are asked for.
#[test]
fn stages_and_the_context_are_listed_where_an_arg_asks() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[
        ("built/lib/apk/db/installed", "P:tool\nV:1\nA:x\n\n"),
        (
            "Cargo.lock",
            "[[package]]\nname = \"dependency\"\nversion = \"1.0.0\"\n",
        ),
    ]);
    let dockerfile = "ARG BUILDKIT_SBOM_SCAN_CONTEXT=true\n\
        FROM scratch AS build\nARG BUILDKIT_SBOM_SCAN_STAGE=true\nCOPY built /\n\
        FROM scratch AS other\nCOPY Cargo.lock /x\n\
        FROM scratch\nCOPY --from=build /lib/apk /apk\nCOPY --from=other /x /x\n";
    // (name of the list, names of packages)
    let lists = |more: &[&str]| -> Vec<(String, Vec<String>)> {
        kit.must_build(dockerfile, &[&LAYOUT, &["--sbom"][..], more].concat());
        let attested = Attested::read(&kit);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let lists = attested.statements[0].iter().map(|statement| {
            assert_eq!(statement["predicateType"], SPDX);
            let document = &statement["predicate"];
            validate(&kit, document);
            let packages = document["packages"].as_array().unwrap().iter().skip(1);
            let packages = packages.map(|one| text(&one["name"])).collect();
            (text(&document["name"]), packages)
        });
        lists.collect()
    };
    let list = |name: &str, packages: &[&str]| {
        let packages = packages.iter().map(|name| (*name).to_owned()).collect();
        (name.to_owned(), packages)
    };
    let found = lists(&[]);
    assert_eq!(
        found[1..],
        [list("build", &["tool"]), list("context", &["dependency"])]
    );
    assert_eq!(found[0].1, Vec::<String>::new());
    let off = [
        "--build-arg=BUILDKIT_SBOM_SCAN_CONTEXT=false",
        "--build-arg=BUILDKIT_SBOM_SCAN_STAGE=false",
    ];
    assert_eq!(lists(&off).len(), 1);

    kit.must_build(dockerfile, &["-o", "out", "--sbom"]);
    for name in ["sbom", "sbom-build", "sbom-context"] {
        assert!(
            kit.path(&format!("out/{name}.spdx.json")).exists(),
            "{name}"
        );
    }
}
