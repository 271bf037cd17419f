//! The same inputs give the same image: under another umask, user, time, number of jobs and store; and where a
//! Dockerfile does not, `repro` names the file, the line and the step.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::kit::{Kit, is_root};
use crate::require_machine;

#[test]
fn a_planted_difference_is_named_with_file_and_line() {
    require_machine!();
    let kit = Kit::new();
    kit.context(&[("a", "1")]);
    let dockerfile = "FROM busybox AS build\nRUN mkdir /out && echo same > /out/same\n\
        RUN date +%s > /out/stamp\nFROM scratch\nCOPY a /\nCOPY --from=build /out /app\n";
    let mut arguments = kit.build_arguments(dockerfile, &[]);
    "repro".clone_into(&mut arguments[0]);
    let output = kit.finish(kit.command(&arguments).spawn().unwrap());
    assert_eq!(output.code, 1, "{output}");
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines[0], "not reproducible: the builds made");
    let place =
        "context/Dockerfile:3: [build 3/3] RUN date +%s > /out/stamp (in no layer of the image)";
    assert!(lines.contains(&place), "{output}");
    let place = lines
        .iter()
        .position(|line| line.starts_with("context/Dockerfile:6: "))
        .unwrap();
    assert!(lines[place].ends_with("(layer 2)"), "{output}");
    assert_eq!(lines[place + 1], "  follows from context/Dockerfile:3");
    assert!(
        lines[place + 2].starts_with("  C /app/stamp  content: "),
        "{output}"
    );
    assert!(!output.stdout.contains("same"), "{output}");
    // Nothing of it is left.
    assert_eq!(kit.must(&["images", "-q"]).stdout, "");
    kit.store_is_whole();
}

#[test]
fn every_kind_of_difference_is_told() {
    require_machine!();
    let kit = Kit::new();
    let dockerfile = "FROM busybox\n\
        RUN echo x > /m && chmod $(( $(date +%s) % 2 ))44 /m\n\
        RUN ln -s $(date +%s) /l\n\
        RUN touch /n-$(date +%s)\n\
        RUN echo t > /t && touch -d @$(( $(date +%s) - 1000000 )) /t\n";
    let mut arguments = kit.build_arguments(dockerfile, &["--progress=quiet", "--format=json"]);
    "repro".clone_into(&mut arguments[0]);
    arguments.remove(1);
    let output = kit.finish(kit.command(&arguments).spawn().unwrap());
    assert_eq!(output.code, 1, "{output}");
    let report: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(report["reproducible"], false);
    let told: Vec<String> = report["steps"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|step| {
            let line = step["line"].clone();
            let all = step["differences"].as_array().unwrap().iter();
            all.filter(|one| one["kind"] != "directory")
                .map(move |one| {
                    let path = one["path"].as_str().unwrap();
                    let path = path.split('-').next().unwrap();
                    let change = one["change"].as_str().unwrap();
                    format!("{line} {path} {change} {}", one["aspects"][0]["what"])
                })
                .collect::<Vec<_>>()
        })
        .collect();
    // Whether the seconds of the two builds are of different parity is up to them.
    let expected = [
        "3 /l changed \"target\"",
        "4 /n removed null",
        "4 /n added null",
        "5 /t changed \"time\"",
    ];
    let told: Vec<&str> = told
        .iter()
        .map(String::as_str)
        .filter(|it| !it.starts_with('2'))
        .collect();
    assert_eq!(told, expected, "{report:#}");
}

#[test]
fn what_would_be_written_is_refused() {
    let kit = Kit::new();
    kit.context(&[("Dockerfile", "FROM scratch\n")]);
    let output = kit.rbuild(&["repro", "-o", "out", "context"]);
    assert_eq!(output.code, 2, "{output}");
    assert!(
        output.stderr.contains("--output has no place here"),
        "{output}"
    );
}

/// A Dockerfile in the way of a real project, and what it is built from.
struct Project {
    dockerfile: &'static str,
    files: &'static [(&'static str, &'static str)],
    arguments: &'static [&'static str],
    /// Ownership in it needs more than one user.
    owners: bool,
}

const PROJECTS: [Project; 10] = [
    // A static site.
    Project {
        dockerfile: "FROM busybox\nCOPY site /www\nRUN find /www -name '*.html' -exec gzip -n {} \\;\nEXPOSE 80\nCMD [\"httpd\", \"-f\", \"-h\", \"/www\"]\n",
        files: &[
            ("site/index.html", "<p>hello</p>"),
            ("site/a/b.html", "<p>b</p>"),
            ("site/x.css", "p {}"),
        ],
        arguments: &[],
        owners: false,
    },
    // Scripts, with dependencies fetched first and copied after.
    Project {
        dockerfile: "FROM busybox AS deps\nWORKDIR /deps\nCOPY requirements.txt .\nRUN while read -r name; do mkdir -p \"$name\" && echo \"$name\" > \"$name/__init__.py\"; done < requirements.txt\n\
            FROM busybox\nWORKDIR /app\nCOPY --from=deps /deps lib\nCOPY . .\nENV PYTHONPATH=/app/lib\nENTRYPOINT [\"sh\", \"main.sh\"]\n",
        files: &[
            ("requirements.txt", "flask\nrequests\n"),
            ("main.sh", "echo hi\n"),
            (".dockerignore", "*.log\n"),
            ("x.log", "no"),
        ],
        arguments: &[],
        owners: false,
    },
    // Many small files made in parallel, in no order.
    Project {
        dockerfile: "FROM busybox\nRUN mkdir /o; for i in $(seq 200); do (echo $i > /o/$i) & done; wait\n",
        files: &[],
        arguments: &[],
        owners: false,
    },
    // Stages side by side that are put together.
    Project {
        dockerfile: "FROM busybox AS a\nRUN sleep 0.2; echo a > /a\nFROM busybox AS b\nRUN echo b > /b\nFROM busybox AS c\nRUN sleep 0.1; echo c > /c\n\
            FROM scratch\nCOPY --from=c /c /\nCOPY --from=b /b /\nCOPY --from=a /a /\n",
        files: &[],
        arguments: &[],
        owners: false,
    },
    // Links of both kinds, modes, sparse and empty files, names of all sorts.
    Project {
        dockerfile: "FROM busybox\nRUN mkdir -p /x/y && cd /x && echo 1 > f && ln f g && ln -s ../x/f y/l && : > empty && dd if=/dev/zero of=sparse bs=1 count=1 seek=100000 2>/dev/null \
            && chmod 4755 f && chmod 1777 y && mkfifo p && echo z > 'ü mit \"Zeichen\"'\nRUN rm -r /x/y && mkdir /x/y && echo again > /x/y/k\n",
        files: &[],
        arguments: &[],
        owners: false,
    },
    // Heredocs, arguments, labels, a mode on a copy, and a layer on its own.
    Project {
        dockerfile: "# syntax=docker/dockerfile:1\nARG V=1\nFROM busybox\nARG V\nCOPY --chmod=0750 <<EOF /etc/motd\nversion $V\nEOF\nRUN <<EOF\nset -e\necho $V > /version\nmkdir -p /etc/conf.d\nEOF\nCOPY --link a /linked/\nLABEL version=$V\nHEALTHCHECK CMD true\n",
        files: &[("a", "a")],
        arguments: &["--build-arg=V=2", "--label=l=1"],
        owners: false,
    },
    // A cache mount, whose content must not matter, and a secret.
    Project {
        dockerfile: "FROM busybox\nRUN --mount=type=cache,target=/cache date >> /cache/log; echo built > /out\nRUN --mount=type=secret,id=s cat /run/secrets/s 2>/dev/null | wc -c > /dev/null\n",
        files: &[],
        arguments: &[],
        owners: false,
    },
    // Sources bound and not copied.
    Project {
        dockerfile: "FROM busybox\nRUN --mount=type=bind,target=/src cat /src/*.c | sort | uniq > /all && cp -r /src/sub /sub\n",
        files: &[
            ("a.c", "int a;\nint b;\n"),
            ("b.c", "int a;\n"),
            ("sub/c", "c"),
        ],
        arguments: &[],
        owners: false,
    },
    // Provenance and a list of packages belong to the image.
    Project {
        dockerfile: "FROM busybox\nCOPY lib /lib\nRUN echo 1 > /1\n",
        files: &[(
            "lib/apk/db/installed",
            "P:musl\nV:1.2.5-r0\nA:x86_64\nL:MIT\n\n",
        )],
        arguments: &["--provenance=mode=max", "--sbom"],
        owners: false,
    },
    // Users and owners.
    Project {
        dockerfile: "FROM busybox\nCOPY --chown=user:user a /home/user/a\nRUN mkdir -p /home/user/w && chown -R user:user /home/user\nUSER user\nWORKDIR /home/user/w\nRUN echo $(id -u) > id\n",
        files: &[("a", "a")],
        arguments: &[],
        owners: true,
    },
];

#[test]
fn ten_projects_give_the_same_images_elsewhere() {
    require_machine!();
    let ordinary = is_root() && ordinary_users_may_build();
    // A copy of the binary, because the user may not enter the directory that it was built in.
    let directory = tempfile::tempdir().unwrap();
    let all = PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.path(), all).unwrap();
    let binary = directory.path().join("rbuild");
    std::fs::copy(env!("CARGO_BIN_EXE_rbuild"), &binary).unwrap();
    for (number, project) in PROJECTS.iter().enumerate() {
        let one = image(&binary, project, 1, "022", None);
        let user = (ordinary && !project.owners).then_some(65534);
        let other = image(&binary, project, 4, "077", user);
        assert_eq!(one, other, "project {number}: {}", project.dockerfile);
    }
}

fn ordinary_users_may_build() -> bool {
    let probe = Command::new("unshare")
        .args(["--user", "--mount", "true"])
        .uid(65534)
        .gid(65534)
        .output();
    probe.is_ok_and(|output| output.status.success())
}

/// Builds in a place of its own and returns the digest.
fn image(binary: &Path, project: &Project, jobs: usize, umask: &str, user: Option<u32>) -> String {
    let kit = Kit::new();
    kit.context(project.files);
    let mut more = vec![
        "-o",
        "type=oci,tar=false,dest=layout,rewrite-timestamp=true",
    ];
    let jobs = format!("--jobs={jobs}");
    more.push(&jobs);
    more.extend(project.arguments);
    let arguments = kit.build_arguments(project.dockerfile, &more);
    let template = kit.command(&arguments);
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"])
        .arg(binary)
        .args(&arguments)
        .env_clear()
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .current_dir(kit.path(""))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for (name, value) in template.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    if let Some(user) = user {
        std::os::unix::fs::chown(kit.path(""), Some(user), Some(user)).unwrap();
        command.uid(user).gid(user);
    }
    kit.finish(command.spawn().unwrap()).success();
    digest(&kit.path("layout/index.json"))
}

fn digest(index: &Path) -> String {
    let index: Value = serde_json::from_slice(&std::fs::read(index).unwrap()).unwrap();
    index["manifests"][0]["digest"].as_str().unwrap().to_owned()
}
